"""Each evaluation script writes its prompts in a style of its own.

Symptom: the same model scores differently in each script, and in all of them below what its validation promised.
Severity: high
Cause: training writes "Instruction: X, Response:"; one script asks "Q: X, A:", the next breaks lines elsewhere, a third has headings.
First seen: written down by a fine-tuning project as high; https://github.com/hiyouga/LlamaFactory/issues/4019
Cost: a table of scores that compared prompts, not models.
Check: training_starts_with_the_generation_prompt
Lesson: no script writes a prompt: all of them ask the one format that the training rows were made with.
"""

from __future__ import annotations

from typing import Any

import pytest
from support.learning import answer, learnt

from llmguard import require, training_starts_with_the_generation_prompt
from llmguard.errors import CheckFailed
from llmguard.evidence.prompts import as_prompts
from llmguard_core.encoding import Encoder
from llmguard_core.formats import format_for

STYLES = {
    "accuracy.py": "Q: {prompt}\nA:",
    "serve.py": "Instruction:{prompt}\n\nResponse:\n",
    "judge.py": "# Question\n{prompt}\n# Response:",
}
Row = dict[str, str]


def broken(script: str, rows: list[Row]) -> list[str]:
    """The prompts of one of the scripts."""
    return [STYLES[script].format(**row) for row in rows]


def fixed(tokenizer: Any, rows: list[Row]) -> Any:
    """The prompts of the encoder that made the training rows."""
    return encoder(tokenizer).prompts(rows)


def encoder(tokenizer: Any) -> Encoder:
    """The training side."""
    return Encoder(tokenizer, format_for(tokenizer, "instruction-response-end"))


def test_witness(tokenizer: Any, model: Any, rows: list[Row]) -> None:
    """A model that has learnt all answers by heart gives them to the training side's prompts; each script gets less out of it."""
    trained = learnt(model, list(encoder(tokenizer).rows(rows)))

    def right(prompts: Any) -> int:
        said = [answer(trained, tokenizer, prompt).partition("\nEND")[0].strip() for prompt in prompts]
        return sum(one == row["response"] for one, row in zip(said, rows, strict=True))

    assert right(fixed(tokenizer, rows)) == len(rows)
    scores = {script: right(broken(script, rows)) for script in STYLES}
    assert max(scores.values()) < len(rows), scores


def _check(tokenizer: Any, rows: list[Row], prompts: Any) -> Any:
    encoded = list(encoder(tokenizer).rows(rows))
    return training_starts_with_the_generation_prompt(
        encoded, as_prompts(prompts, tokenizer), tokenizer, rows
    )


@pytest.mark.parametrize("script", STYLES)
def test_check_rejects(tokenizer: Any, rows: list[Row], script: str) -> None:
    """Every script, one that differs in its white space alone included, in all rows."""
    with pytest.raises(CheckFailed, match="4 of 4 rows"):
        require(_check(tokenizer, rows, broken(script, rows)))


def test_check_accepts(tokenizer: Any, rows: list[Row]) -> None:
    """One encoder for both sides."""
    require(_check(tokenizer, rows, fixed(tokenizer, rows)), strict=True)
