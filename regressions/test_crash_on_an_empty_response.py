"""A quality metric takes the first character of a response that has none.

Symptom: IndexError: string index out of range, in the middle of an evaluation.
Severity: medium
Cause: response[0].isupper() in a metric, and one row whose response is the empty string.
First seen: written down by a fine-tuning project as medium
Cost: the evaluation was run again, and the rows before the crash were lost.
Check: every_response_has_text
Lesson: a metric is total: empty, blank and one-character responses have a score, and are counted apart from wrong ones.
"""

from __future__ import annotations

from typing import Any

import pytest

from llmguard import every_response_has_text, require
from llmguard.errors import CheckFailed

REFERENCE = "An apple is red."
RESPONSES = ("An apple is red.", "An apple is blue.", "", " \n", "A")


def broken(responses: tuple[str, ...]) -> dict[str, Any]:
    """The metric as it was: begins with a capital, ends with a full stop, and says what is wanted."""
    right = [r[0].isupper() and r[-1] == "." and r == REFERENCE for r in responses]
    return {"items": len(right), "score": sum(right) / len(right)}


def fixed(responses: tuple[str, ...], metric: str = "exact_match") -> dict[str, Any]:
    """The core's metrics over the same responses."""
    from llmguard_core.metrics import judge, summary

    return summary(vars(judge(r, REFERENCE, metric)) for r in responses)


def test_witness() -> None:
    """The broken metric crashes on the third response, and on no responses at all; the core's counts them."""
    with pytest.raises(IndexError, match="string index out of range"):
        broken(RESPONSES)
    with pytest.raises(ZeroDivisionError):
        broken(())
    told = fixed(RESPONSES)
    assert {k: told[k] for k in ("items", "right", "wrong", "empty", "score")} == {
        "items": 5, "right": 1, "wrong": 2, "empty": 2, "score": 0.2,
    }  # fmt: skip
    assert fixed(())["score"] is None


@pytest.mark.parametrize("metric", ["contains", "exact_match", "gsm8k", "token_f1"])
def test_witness_for_every_metric(metric: str) -> None:
    """No metric of the core falls over any of them, and none calls nothing right."""
    told = fixed(RESPONSES, metric)
    assert (told["items"], told["empty"]) == (5, 2)
    assert fixed(("", " "), metric)["right"] == 0


def _rows(responses: tuple[str, ...]) -> list[dict[str, str]]:
    return [{"prompt": "Which fruit is red?", "response": r} for r in responses]


def test_check_rejects() -> None:
    """The rows that would crash the metric are named before it runs."""
    with pytest.raises(CheckFailed, match="2 of 5 rows"):
        require(every_response_has_text(_rows(RESPONSES)))


def test_check_accepts() -> None:
    """One character is a response."""
    found = every_response_has_text(_rows(("An apple is red.", "A", "7")))
    require(found, strict=True)
    assert found.looked_at == 3
