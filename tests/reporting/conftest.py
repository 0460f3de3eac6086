"""One report of every outcome, as the plugin and `audit` write it."""

from __future__ import annotations

from typing import Any

import pytest

from llmguard.findings import Where, error, note, warning
from llmguard.report import CheckResult, Outcome, Report

LINE = 'add `[model] adapter = "out/adapter"` to llmguard.toml'
HOSTILE = (
    "<script>alert(1)</script>",
    "\"><img src=x onerror='alert(2)'>",
    "{{ 7 * 7 }}{% raw %}",
    "\x1b[31mred\x1b[0m\x1b]8;;http://evil\x07",
    "abc\u202edcba\u202c\u2066x\u2069",
    "nul\x00byte",
    "lone \ud83d surrogate \udfff",
    "]]></style></script><!--",
    "zero\u200bwidth\ufeff\u00ad\U000e0041",
)


def token(text: str, number: int, label: int, kind: str) -> dict[str, Any]:
    """A token as checks write it into a finding's evidence."""
    return {"text": text, "id": number, "label": label, "kind": kind, "trained": label != -100}


def result(name: str, outcome: Outcome, *findings: Any, **fields: Any) -> CheckResult:
    """A result with what this test does not care about filled in."""
    known = {"family": "masking", "tier": "preflight", "target": "train", "looked_at": 200, **fields}
    return CheckResult(check=name, outcome=outcome, findings=findings, **known)


def failure(text: str = "'<|assistant|>'", **more: Any) -> Any:
    """An error with all five parts, and `text` in each of them."""
    place = Where(file="data/train set.jsonl", line=14, row=13, tokens=(8, 10))
    return error(
        place,
        what=f"2 prompt tokens are trained: {text}",
        why=f"the loss is of text {text}",
        cause=f"the mask ends early {text}",
        remedy=f"mask the whole prompt {text}",
        expected=f"label -100 {text}",
        actual=f"label 5 {text}",
        **more,
    )


@pytest.fixture(scope="session")
def window() -> list[dict[str, Any]]:
    """A prompt of which one token is trained, its response, and a terminator that is not."""
    return [
        token("<|user|>", 7, -100, "prompt"),
        token("\n", 13, 13, "prompt"),
        token("391", 5, 5, "response"),
        token("</s>", 2, -100, "terminator"),
        token("<pad>", 0, -100, "pad"),
    ]


@pytest.fixture(scope="session")
def document(window: list[dict[str, Any]]) -> dict[str, Any]:
    """A report with each outcome, two checks that wait for the same line, and a finding with tokens."""
    bad = failure(evidence={"tokens": window, "rate": 0.07})
    mild = warning(Where(file="train.yaml", line=7, key="lr"), what="lr is 2", why="w", cause="c", remedy="r")
    told = note(Where(what="environment"), what="torch 2.13.0 imported in 2.1 s")
    checks = [
        result("imports_in_time", Outcome.PASSED, told, family="environment", target=""),
        result("prompt_is_masked", Outcome.FAILED, bad, bugs=("mask_ends_early",)),
        result("lr_is_in_range", Outcome.WARNED, mild, family="config", target="train.yaml", unit="keys"),
        result("no_overlap", Outcome.ACCEPTED, failure(), family="splits", reason="known (until 2030-01-01)"),
        result("adapter_is_trained", Outcome.SKIPPED, family="adapter", target="", reason=LINE, looked_at=0),
        result("adapter_fits", Outcome.SKIPPED, family="adapter", target="", reason=LINE, looked_at=0),
        result("rows_are_read", Outcome.SKIPPED, family="data", reason="rows could not be had", looked_at=0),
        result(
            "foreign_check", Outcome.ERROR, family="data", reason="ZeroDivisionError at x.py:1", looked_at=0
        ),
    ]
    return Report("llmguard.toml", checks).to_json()


@pytest.fixture(scope="session")
def hostile() -> dict[str, Any]:
    """A report whose every string was written by someone who wants to get out of it."""
    checks = []
    for number, text in enumerate(HOSTILE):
        tokens = [{"text": text, "id": 1, "label": 1, "kind": text}, {"text": text, "id": "x", "label": None}]
        bad = failure(text, evidence={"tokens": tokens, text: [text, {text: text}]})
        checks.append(result(f"check_{number}", Outcome.FAILED, bad, target=text, reason=text, bugs=(text,)))
        checks.append(
            result(f"waits_{number}", Outcome.SKIPPED, family=text, tier=text, reason=f"add `{text}` to it")
        )
    return Report("".join(HOSTILE), checks, error="".join(HOSTILE)).to_json()
