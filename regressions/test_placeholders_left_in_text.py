"""Placeholders of a prompt template are left in prompts and answers.

Symptom: the model writes `{instruction}` or [RESPONSE HERE] into its answers; all questions get much the same answer.
Severity: medium
Cause: a template whose slot has another name than the one that is filled, and str.replace, which says nothing.
First seen: written down by a fine-tuning project as medium
Cost: rows that train the template instead of the text.
Check: no_placeholder_is_left
Lesson: fill templates with something that refuses a slot it does not know, and read ten rows of the result.
"""

from __future__ import annotations

from typing import Any

import pytest

from llmguard import no_placeholder_is_left, require
from llmguard.errors import CheckFailed
from llmguard_core.errors import LoadRefused

TEMPLATE = "Task: {instruction}\nAnswer:"


def broken(_tokenizer: Any, row: dict[str, str]) -> str:
    """The slot is called otherwise, so nothing is replaced."""
    return TEMPLATE.replace("{question}", row["prompt"])


def fixed(tokenizer: Any, row: dict[str, str]) -> str:
    """A format of the core, which is filled from its parts."""
    from llmguard_core.encoding import Encoder
    from llmguard_core.formats import format_for

    table = {"prompt": "Task: {prompt}\n", "response": "Answer: {response}", "end": tokenizer.eos_token}
    ids = Encoder(tokenizer, format_for(tokenizer, table)).prompt(row)
    return str(tokenizer.decode(ids))


def _written(tokenizer: Any, rows: list[dict[str, str]], build: Any) -> list[dict[str, str]]:
    return [{"prompt": build(tokenizer, r), "response": r["response"]} for r in rows]


def test_witness(tokenizer: Any, rows: list[dict[str, str]]) -> None:
    """Four questions make one prompt, none of them in it; the fixed ones hold their question."""
    made = {tuple(tokenizer(broken(tokenizer, r))["input_ids"]) for r in rows}
    assert len(made) == 1
    assert tokenizer.decode(list(made.pop())) == TEMPLATE
    assert all(r["prompt"] in fixed(tokenizer, r) for r in rows)


def test_check_rejects(tokenizer: Any, rows: list[dict[str, str]]) -> None:
    """In all prompts, by name; also an answer that is nothing but a slot."""
    with pytest.raises(CheckFailed, match=r"4 of 4 rows .* '\{instruction\}' in prompt"):
        require(no_placeholder_is_left(_written(tokenizer, rows, broken)))
    answers = [{**rows[0], "response": "[RESPONSE HERE]"}, *rows[1:]]
    with pytest.raises(CheckFailed, match=r"1 of 4 rows .* '\[RESPONSE HERE\]' in response"):
        require(no_placeholder_is_left(answers))


def test_check_rejects_a_table_without_its_slot(tokenizer: Any) -> None:
    """The core refuses the template before a row is made."""
    from llmguard_core.formats import format_for

    with pytest.raises(LoadRefused, match=r"needs prompt with \{prompt\}"):
        format_for(tokenizer, {"prompt": TEMPLATE, "response": "{response}"})


def test_check_accepts(tokenizer: Any, rows: list[dict[str, str]]) -> None:
    """Filled prompts, and text that is about placeholders."""
    talk = {
        "prompt": "How do I fill a slot of a template in Python?",
        "response": "Write f\"Hello {name}\" or '{input}'.format().",
    }
    require(no_placeholder_is_left([*_written(tokenizer, rows, fixed), talk]), strict=True)
