"""The tuned model answers nothing: in its training rows the prompt is followed by EOS.

Symptom: empty outputs after training, for most prompts or all; the loss was low, and the accuracy is reported over what is left.
Severity: critical
Cause: prompt and response are tokenised apart by a tokenizer that ends every text with EOS, so that EOS is the first trained token of a
    row; a user's turn without an end, or an end in another model's letters, does the same.
First seen: written down by a fine-tuning project as critical
Cost: days, until somebody read the outputs.
Check: training_text_follows_its_format, accuracy_is_not_from_empty_outputs
Lesson: read ten completions after a dozen steps, and count the empty ones in every result.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from support.learning import answer, learnt

from llmguard import accuracy_is_not_from_empty_outputs, require, training_text_follows_its_format
from llmguard.errors import CheckFailed
from llmguard.formats import text_format
from llmguard_core.encoding import Encoder
from llmguard_core.evaluation import evaluate
from llmguard_core.formats import format_for
from llmguard_core.loading import Loaded

Row = dict[str, str]
Encoded = dict[str, list[int]]


def ending(tokenizer: Any, text: str) -> list[int]:
    """What a tokenizer with `add_eos_token = true` makes of a text."""
    return [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]


def broken(tokenizer: Any, rows: list[Row]) -> list[Encoded]:
    """Both parts are tokenised with an end; the mask is as long as the prompt's words, which is right."""
    found = []
    for row in rows:
        count = len(tokenizer(row["prompt"])["input_ids"])
        ids = ending(tokenizer, row["prompt"]) + ending(tokenizer, row["response"])
        found.append({"input_ids": ids, "labels": [-100] * count + ids[count:]})
    return found


def fixed(tokenizer: Any, rows: list[Row]) -> list[Encoded]:
    """The core's rows: one end, behind the response."""
    return list(Encoder(tokenizer, format_for(tokenizer, "completion")).rows(rows))


@pytest.fixture(scope="module")
def tuned(lab_path: Any, tokenizer: Any, rows: list[Row]) -> dict[str, Any]:
    """The lab's base model, trained on both."""
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(lab_path.base)
    return {made.__name__: learnt(base, made(tokenizer, rows)) for made in (broken, fixed)}


def _evaluated(tuned: Any, name: str, tokenizer: Any, rows: list[Row], folder: Path) -> list[dict[str, Any]]:
    """The core's evaluation of one of them, with its accuracy over every item."""
    own = [
        Loaded(copy.deepcopy(tuned[name]), tokenizer, "base", ())
    ]  # the evaluation proves that nothing of it stays
    (done,) = evaluate({name: own.pop}, rows, out=folder, fmt="completion")
    return [json.loads(line) for line in done.file.read_text("utf-8").splitlines()]


def test_witness(tuned: dict[str, Any], tokenizer: Any, rows: list[Row]) -> None:
    """The same model, the same rows, the same number of steps: all answers, and none."""
    said = {
        name: [answer(model, tokenizer, row["prompt"], special=True) for row in rows]
        for name, model in tuned.items()
    }
    assert said["broken"] == [tokenizer.eos_token] * len(rows)
    assert said["fixed"] == [f"{row['response']}{tokenizer.eos_token}" for row in rows]


def test_check_rejects(tokenizer: Any, rows: list[Row]) -> None:
    """Before training: in every row an end stands where the format has none."""
    fmt = text_format("completion", tokenizer.eos_token)
    with pytest.raises(CheckFailed, match="4 of 4 rows"):
        require(
            training_text_follows_its_format(broken(tokenizer, rows), rows, tokenizer, fmt),
            strict=True,
        )


def test_check_rejects_the_results(
    tuned: dict[str, Any], tokenizer: Any, rows: list[Row], tmp_path: Path
) -> None:
    """After training: a score that is made of empty outputs."""
    results = _evaluated(tuned, "broken", tokenizer, rows * 3, tmp_path)
    with pytest.raises(CheckFailed, match="of 12 items 0 right, 0 wrong, 12 empty"):
        require(accuracy_is_not_from_empty_outputs({"tuned": results}))


def test_check_accepts(tuned: dict[str, Any], tokenizer: Any, rows: list[Row], tmp_path: Path) -> None:
    """The core's rows, and what the model that learnt them answers."""
    fmt = text_format("completion", tokenizer.eos_token)
    require(training_text_follows_its_format(fixed(tokenizer, rows), rows, tokenizer, fmt), strict=True)
    results = _evaluated(tuned, "fixed", tokenizer, rows, tmp_path)
    require(accuracy_is_not_from_empty_outputs({"tuned": results}), strict=True)
    assert [one["score"] for one in results] == [1.0] * len(rows)
