"""The check on judged completions: four quadrants, its message, and what it leaves alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from llmguard.checks.sentinel import base_model_fails_instruction_prompts
from llmguard.errors import CheckFailed
from llmguard.findings import Severity, require
from llmguard.sentinels import SENTINELS, Completions, Facts, judged

RAMBLE = "\nDescribe the weather in your town in one paragraph."
BARE = tuple(s.prompt for s in SENTINELS)
CHATML = "<|im_start|>{{ role }}\n{{ content }}<|im_end|>\n"
RENDERED = tuple(f"<|im_start|>user\n{p}<|im_end|>\n<|im_start|>assistant\n" for p in BARE)


def texts(followed: int, first: int = 0) -> list[str]:
    """Completions of which `followed` obey, from sentinel number `first` on; the others ramble."""
    return [s.example if first <= i < first + followed else RAMBLE for i, s in enumerate(SENTINELS)]


def evidence(user: Sequence[str], control: Sequence[str] | None, **facts: Any) -> Completions:
    """Completions as they are collected, from texts."""
    clean = None if control is None else judged("control", control, prompts=BARE)
    return Completions(
        "model models/base", SENTINELS, judged("user", user), clean, Facts(**{"prompts": BARE, **facts})
    )


def test_a_base_model_that_rambles_in_both_arms_passes() -> None:
    """No finding, and it says how many prompts were looked at."""
    findings = base_model_fails_instruction_prompts(evidence(texts(0), texts(0)))
    assert not findings
    assert findings.looked_at == len(SENTINELS)


def test_a_leak_fails_with_the_numbers_and_names_the_template() -> None:
    """Rate, bound, control, p-value; tokens and template; five parts in order."""
    leaked = evidence(texts(30), texts(0), prompts=RENDERED, chat_template=CHATML, tokenizer="models/base")
    with pytest.raises(CheckFailed) as caught:
        require(base_model_fails_instruction_prompts(leaked))
    (finding,) = caught.value.findings
    message = finding.message
    for part in (
        "follows 30 of 32 sentinel prompts (94%, at least 82% with 95% confidence)",
        "the same model on bare instructions 0 (0%)",
        "30 only here, 0 only there, exact p = 9.3e-10",
        "<|im_start|> in 32 of 32",
        "chat template of the tokenizer models/base",
        "chat_template = None",
    ):
        assert part in message
    order = ["model models/base: ", "Why it matters: ", "Likely cause: ", "Remedy: "]
    assert [message.index(part) for part in order] == sorted(message.index(part) for part in order)
    assert finding.expected.startswith("no more than the clean control")
    assert finding.actual == "94% followed, control 0%"
    assert finding.severity is Severity.ERROR


def test_the_evidence_is_small_and_json_safe() -> None:
    """Counts, reasons, and the first prompts that were followed."""
    (finding,) = base_model_fails_instruction_prompts(evidence(texts(30), texts(0)))
    shown = json.loads(json.dumps(finding.evidence))
    assert len(json.dumps(shown)) < 5_000
    assert (shown["n"], shown["followed"], shown["control"]) == (32, 30, 0)
    assert shown["followed here"] == [s.id for s in SENTINELS[:30]]
    assert shown["first completions"][0]["prompt"] == SENTINELS[0].prompt
    assert shown["reasons"][0]["code"] == "unknown"


def test_a_leak_under_the_limit_fails_by_the_control() -> None:
    """A quarter followed is far from 70 %, and far from the control's nothing."""
    (finding,) = base_model_fails_instruction_prompts(evidence(texts(8), texts(0)))
    assert finding.severity is Severity.ERROR
    assert "p = 0.0039" in finding.message


def test_some_more_than_the_control_is_left_to_chance() -> None:
    """Four discordant prompts prove nothing; the fifth does."""
    assert not base_model_fails_instruction_prompts(evidence(texts(4), texts(0)))
    assert base_model_fails_instruction_prompts(evidence(texts(5), texts(0))).errors


def test_a_modern_base_model_that_obeys_some_by_nature_gets_a_note() -> None:
    """Legitimate practice: alike in both arms, under the limit."""
    (finding,) = base_model_fails_instruction_prompts(evidence(texts(12), texts(13)))
    assert finding.severity is Severity.NOTE
    assert "alike in both arms" in finding.message
    require([finding], strict=True)


def test_a_few_followed_prompts_are_not_worth_a_note() -> None:
    """Under a fifth, alike in both arms."""
    assert not base_model_fails_instruction_prompts(evidence(texts(5), texts(5)))


def test_a_model_that_obeys_in_both_arms_is_no_base_model() -> None:
    """Above the limit without any leak: the checkpoint is named before the route."""
    chat = evidence(texts(32), texts(32), prompts=RENDERED, chat_template=CHATML, names=("m-instruct",))
    (finding,) = base_model_fails_instruction_prompts(chat)
    assert finding.severity is Severity.ERROR
    assert "exact p = 1" in finding.message
    assert finding.message.index("m-instruct") < finding.message.index("role tokens")


def test_over_the_limit_without_proof_is_a_warning() -> None:
    """75 % of 32 followed in both arms: the bound is at 60 %."""
    (finding,) = base_model_fails_instruction_prompts(evidence(texts(24), texts(24)))
    assert finding.severity is Severity.WARNING
    assert "too few to prove it" in finding.message


def test_without_a_control_the_bound_decides_and_the_message_says_so() -> None:
    """A generate function and no model."""
    (finding,) = base_model_fails_instruction_prompts(evidence(texts(32), None))
    assert finding.severity is Severity.ERROR
    assert "there is no control" in finding.message
    assert not base_model_fails_instruction_prompts(evidence(texts(8), None))


def test_a_chat_model_is_not_judged_as_a_base_model() -> None:
    """Declared as chat, it may obey; nothing was looked at, so nothing is green."""
    findings = base_model_fails_instruction_prompts(evidence(texts(32), texts(0)), kind="chat")
    assert not findings
    assert findings.looked_at == 0
    assert base_model_fails_instruction_prompts(evidence(texts(32), texts(0)), kind="base").errors


@pytest.mark.parametrize(("user", "control"), [(17, 0), (0, 17), (32, 32)])
def test_empty_completions_are_no_green(user: int, control: int) -> None:
    """An arm that is mostly empty would be green for any model: a warning that names the arm."""
    arms = [["  "] * blank + texts(0)[blank:] for blank in (user, control)]
    findings = base_model_fails_instruction_prompts(evidence(*arms))
    assert {f.severity for f in findings} == {Severity.WARNING}
    assert len(findings) == (user > 16) + (control > 16)
    assert "are empty" in findings[0].message


def test_half_empty_completions_are_still_an_answer() -> None:
    """Base models end early now and then."""
    assert not base_model_fails_instruction_prompts(evidence([""] * 16 + texts(0)[16:], texts(0)))


def test_limit_and_alpha_belong_to_the_evidence() -> None:
    """Another limit, another verdict."""
    arm = judged("user", texts(16))
    lax = Completions("m", SENTINELS, arm, judged("control", texts(16)))
    strict = Completions("m", SENTINELS, arm, judged("control", texts(16)), limit=0.3)
    assert not base_model_fails_instruction_prompts(lax).errors
    assert base_model_fails_instruction_prompts(strict).errors
