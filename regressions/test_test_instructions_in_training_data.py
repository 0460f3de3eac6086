"""Test instructions stand in the training data.

Symptom: the test score is far above what the model does on new questions, and rises with every epoch.
Severity: high
Cause: train and test were drawn row by row from data that hold each question twice, and nothing looked at their overlap.
First seen: written down by a fine-tuning project as high
Cost: every score of that test set.
Check: no_test_row_is_in_train, no_test_row_is_near_a_train_row, groups_stay_in_one_split
Lesson: take duplicates together before splitting: split by question, not by row.
"""

from __future__ import annotations

from itertools import product

import pytest

from llmguard import (
    groups_stay_in_one_split,
    no_test_row_is_in_train,
    no_test_row_is_near_a_train_row,
    require,
)
from llmguard.errors import CheckFailed

Row = dict[str, str]
Split = tuple[list[Row], list[Row]]
QUESTIONS = {
    "Why does bread rise when it stands in a warm kitchen?": "Yeast gives off gas.",
    "How did sailors find their way before there were maps?": "By the stars and the coast.",
    "Which tools does a clockmaker need to open a watch?": "A case knife and tweezers.",
    "What makes the leaves of an oak turn brown in autumn?": "The tree draws its green out of them.",
    "Where does the salt of the sea come from in the end?": "Rivers wash it out of rock.",
    "When should tomatoes be moved from the house to the garden?": "After the last frost.",
    "Who decides how much water a reservoir lets through at night?": "The keeper of the dam.",
    "Does a candle burn longer if it is stored in a cold place?": "A little longer, yes.",
}


def collected() -> list[Row]:
    """Two sources that hold the same questions, the second in other writing."""
    first = [{"prompt": q, "response": a, "question": str(i)} for i, (q, a) in enumerate(QUESTIONS.items())]
    second = [{**r, "prompt": r["prompt"].upper().rstrip("?")} for r in first]
    return first + second


def broken() -> Split:
    """Every fifth row is for the test."""
    rows = collected()
    return [r for i, r in enumerate(rows) if i % 5], rows[::5]


def fixed() -> Split:
    """Every fourth question is, in whatever writing."""
    rows = collected()
    return [r for r in rows if int(r["question"]) % 4], [r for r in rows if int(r["question"]) % 4 == 0]


def _words(text: str) -> str:
    return " ".join(text.lower().strip("?").split())


def _score_of_memory(train: list[Row], test: list[Row]) -> float:
    """What something scores that knows nothing but the training rows, by heart."""
    known = {_words(r["prompt"]): r["response"] for r in train}
    return sum(known.get(_words(r["prompt"])) == r["response"] for r in test) / len(test)


def test_witness() -> None:
    """Memory alone has every answer of the broken split, and none of the fixed one."""
    assert _score_of_memory(*broken()) == 1
    assert _score_of_memory(*fixed()) == 0


def test_check_rejects() -> None:
    """By text and by group; an edited question by the words that it shares."""
    train, test = broken()
    with pytest.raises(CheckFailed, match="stand in the training split"):
        require(no_test_row_is_in_train(test, train))
    with pytest.raises(CheckFailed, match="groups are in more than one split"):
        require(groups_stay_in_one_split("question", train, test=test))


def test_check_rejects_edited_questions() -> None:
    """A test row that is a training row with one word changed."""
    train, _ = broken()
    text = "Describe how the keeper of a dam decides at night how much water the reservoir may let through to the mills below"
    edited = [{"prompt": text.replace("mills", "fields"), "response": "By the rain of the week."}]
    with pytest.raises(CheckFailed, match="near to a training row"):
        require(
            no_test_row_is_near_a_train_row(edited, [*train, {"prompt": text, "response": "By the rain."}]),
            strict=True,
        )


def test_check_accepts() -> None:
    """Whole questions on one side; answers that many questions share are no overlap."""
    train, test = fixed()
    assert len(test) == 4
    yes = [{**r, "response": "Yes."} for r in train], [{**r, "response": "Yes."} for r in test]
    for (train_rows, test_rows), check in product(
        ((train, test), yes), (no_test_row_is_in_train, no_test_row_is_near_a_train_row)
    ):
        require(check(test_rows, train_rows), strict=True)
    require(groups_stay_in_one_split("question", train, test=test), strict=True)
