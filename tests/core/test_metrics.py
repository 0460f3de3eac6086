"""Metrics: total, and right on what real outputs look like."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmguard.errors import UsageError
from llmguard_core.metrics import METRICS, final_number, judge

ODD = [
    "",
    " ",
    "\n\t",
    ".",
    "a",
    "-",
    "#",
    "$",
    "####",
    "####\n",
    "\\boxed{}",
    "½",
    "\ud800",
    "\x00",
    "٣",
    "1" * 5000,
    "1,2,3",
    "%",
]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("output", ODD)
@pytest.mark.parametrize("reference", ["", " ", "4", ".", "yes"])
def test_every_metric_takes_every_text(metric: str, output: str, reference: str) -> None:
    """Empty, blank, one character, lone surrogates, endless digits: a score from 0 to 1 and a known status, never an exception."""
    found = judge(output, reference, metric)
    assert 0.0 <= found.score <= 1.0
    assert found.status in {"right", "wrong", "empty", "unparseable"}
    assert (found.status == "empty") is (not output.strip())
    assert (found.status == "right") is (found.score == 1.0)


@given(st.text(), st.text(), st.sampled_from(sorted(METRICS)))
def test_any_text_is_judged(output: str, reference: str, metric: str) -> None:
    """No text breaks a metric."""
    assert 0.0 <= judge(output, reference, metric).score <= 1.0


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("So she has 3 + 4 = 7 apples.\n#### 7", "7"),
        ("#### 1,000", "1000"),
        ("#### $1,234.50", "1234.5"),
        ("#### -5", "-5"),
        ("The answer is $42.", "42"),
        ("The answer is: **42**", "42"),
        ("Final answer: 3.0", "3"),
        ("\\[ \\boxed{42} \\]", "42"),
        ("$\\boxed{\\text{18}}$", "18"),
        ("\\boxed{\\$18}", "18"),
        ("First 12 eggs, then 3 more: 15 in all.", "15"),
        ("It costs 20%", "20"),
        ("0.5", "0.5"),
        (".75", "0.75"),
        ("x7 is a variable, 8 is not", "8"),
        ("-0", "0"),
        ("#### 7\nLet me check: 3 + 4 = 7, 10 - 3 = 7, so 100 %", "7"),
        ("The answer is 5. No, wait: the answer is 6.", "6"),
    ],
)
def test_the_final_number_is_found(text: str, number: str) -> None:
    """Where answers really stand: behind the mark, in a box, behind words, at the end; commas, currencies and stops aside."""
    assert final_number(text) == Decimal(number)


@pytest.mark.parametrize("text", ["", "no idea", "####", "\\boxed{x}", "seven", "v1x", "abc1"])
def test_no_number_is_none(text: str) -> None:
    """Text without a number of its own."""
    assert final_number(text) is None


def test_every_reference_of_gsm8k_is_read(real_data: Path) -> None:
    """The answers of the real data set: the number behind #### is what is found, in each of them."""
    files = sorted((real_data / "data" / "gsm8k").glob("*.jsonl"))
    lines = [line for file in files for line in file.read_text("utf-8").split("\n") if line]
    answers = [json.loads(line)["answer"] for line in lines]
    if not answers:
        pytest.skip("no answers in this copy of GSM8K")
    wrong = [
        a for a in answers if final_number(a) != Decimal(a.rsplit("####", 1)[1].strip().replace(",", ""))
    ]
    assert not wrong
    assert len(answers) > 50


def test_gsm8k_compares_numbers_and_not_their_spelling() -> None:
    """1000.00 is 1,000; 41 is not 42; words alone cannot be parsed."""
    assert judge("That makes $1000.00", "#### 1,000", "gsm8k").status == "right"
    assert judge("It is 41.", "#### 42", "gsm8k").status == "wrong"
    assert judge("I do not know.", "#### 42", "gsm8k").status == "unparseable"
    assert judge("It is 41.", "#### 42", "gsm8k").extracted == "41"


def test_exact_match_ignores_case_white_space_and_a_full_stop() -> None:
    """And nothing else."""
    assert judge(" The  Answer.\n", "the answer").status == "right"
    assert judge("the answers", "the answer").status == "wrong"


def test_contains_wants_whole_words() -> None:
    """`cat` is not in `concatenate`; an empty reference is in nothing."""
    assert judge("A cat sat.", "cat", "contains").status == "right"
    assert judge("concatenate", "cat", "contains").status == "wrong"
    assert judge("anything", "", "contains").status == "wrong"


def test_f1_is_the_harmonic_mean_of_precision_and_recall() -> None:
    """Worked by hand: 2 common words of 3 and of 4."""
    assert judge("the red fox", "a red fox runs", "token_f1").score == pytest.approx(2 * 2 / 7)
    assert judge("Red fox!", "red fox", "token_f1").status == "right"


def test_an_unknown_metric_is_named_with_the_known_ones() -> None:
    """A mistake of the caller."""
    with pytest.raises(UsageError, match="exact_match, gsm8k"):
        judge("a", "a", "bleu")
