"""len() of what apply_chat_template returns is the number of its keys.

Symptom: the prompt is trained from its third token on; only a warning, if any, tells.
Severity: critical
Cause: transformers 5 returns a mapping where 4 returned a list of ids; `len(tokenizer.apply_chat_template(prompt))` is 2.
First seen: https://github.com/huggingface/trl/issues/6105
Cost: every row of every run that computes prompt lengths so.
Check: every_prompt_token_is_masked
Lesson: ask for the ids by name; a length that is the same for all rows is no length.
"""

from __future__ import annotations

from typing import Any

import pytest

from llmguard import every_prompt_token_is_masked, require
from llmguard.errors import CheckFailed
from llmguard.formats import ChatTemplate


def _messages(row: dict[str, str]) -> list[dict[str, str]]:
    return [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["response"]}]


def _ids(tokenizer: Any, messages: list[dict[str, str]], **options: Any) -> list[int]:
    return list(
        tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True, **options)["input_ids"]
    )


def broken(tokenizer: Any, row: dict[str, str]) -> dict[str, list[int]]:
    """The mask as long as the mapping has keys."""
    ids = _ids(tokenizer, _messages(row))
    length = len(
        tokenizer.apply_chat_template(
            _messages(row)[:1], tokenize=True, return_dict=True, add_generation_prompt=True
        )
    )
    return {"input_ids": ids, "labels": [-100] * length + ids[length:]}


def fixed(tokenizer: Any, row: dict[str, str]) -> dict[str, list[int]]:
    """The mask as long as the prompt's ids."""
    ids = _ids(tokenizer, _messages(row))
    length = len(_ids(tokenizer, _messages(row)[:1], add_generation_prompt=True))
    return {"input_ids": ids, "labels": [-100] * length + ids[length:]}


def test_witness(tokenizer: Any, rows: list[dict[str, str]]) -> None:
    """The broken mask has the same length for prompts of different lengths, and the question is among what is trained."""
    lengths = {
        made.__name__: {made(tokenizer, r)["labels"].count(-100) for r in rows} for made in (broken, fixed)
    }
    assert len(lengths["broken"]) == 1
    assert len(lengths["fixed"]) > 1
    trained = [i for i in broken(tokenizer, rows[0])["labels"] if i != -100]
    assert rows[0]["prompt"] in tokenizer.decode(trained)


def test_check_rejects(tokenizer: Any, rows: list[dict[str, str]]) -> None:
    """Prompt tokens are found to be trained in every row."""
    with pytest.raises(CheckFailed, match=r"4 of 4 rows"):
        require(
            every_prompt_token_is_masked(
                [broken(tokenizer, r) for r in rows], rows, tokenizer, ChatTemplate(tokenizer)
            )
        )


def test_check_accepts(tokenizer: Any, rows: list[dict[str, str]]) -> None:
    """The prompt's own length is left alone."""
    require(
        every_prompt_token_is_masked(
            [fixed(tokenizer, r) for r in rows], rows, tokenizer, ChatTemplate(tokenizer)
        )
    )
