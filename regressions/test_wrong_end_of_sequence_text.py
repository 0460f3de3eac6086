"""The end of a response is written as another model family's token.

Symptom: after training the model answers nothing, or never stops; `</s>` stands in its answers as text.
Severity: critical
Cause: an end marker written by hand, `<|endoftext|>` where EOS is `</s>` (or the reverse): it is split into letters.
First seen: written down by a fine-tuning project as critical
Cost: empty outputs that were found days later.
Check: control_tokens_are_single_ids, response_ends_with_its_terminator
Lesson: write tokenizer.eos_token, and look at the last id of a row.
"""

from __future__ import annotations

from typing import Any

import pytest

from llmguard import control_tokens_are_single_ids, require, response_ends_with_its_terminator
from llmguard.errors import CheckFailed
from llmguard_core.encoding import Encoder
from llmguard_core.errors import LoadRefused
from llmguard_core.formats import format_for

Row = dict[str, str]
Encoded = dict[str, list[int]]


def asked(rows: list[Row]) -> list[Row]:
    """Questions on a line of their own."""
    return [{**r, "prompt": f"{r['prompt']}\n"} for r in rows]


def broken(tokenizer: Any, rows: list[Row]) -> list[Encoded]:
    """`</s>`, as in the model that was used before."""
    found = []
    for row in rows:
        prompt = tokenizer(row["prompt"])["input_ids"]
        answer = tokenizer(f"{row['response']}</s>")["input_ids"]
        found.append({"input_ids": prompt + answer, "labels": [-100] * len(prompt) + answer})
    return found


def fixed(tokenizer: Any, rows: list[Row]) -> list[Encoded]:
    """The core's format, which takes the end from the tokenizer."""
    return list(Encoder(tokenizer, format_for(tokenizer, "completion")).rows(rows))


def _raises_eos(model: Any, row: Encoded, eos: int) -> bool:
    """Whether a step of gradient descent on this row makes EOS likelier anywhere."""
    import torch

    logits = model(input_ids=torch.tensor([row["input_ids"]])).logits
    logits.retain_grad()
    labels = torch.tensor([row["labels"]])
    model.loss_function(logits, labels, model.config.vocab_size).backward()
    return bool((logits.grad[..., eos] < 0).any())


def test_witness(tokenizer: Any, model: Any, rows: list[Row]) -> None:
    """The marker is letters, EOS is in no label, and the gradient makes it less likely everywhere."""
    data, eos = asked(rows), tokenizer.eos_token_id
    for bad, good in zip(broken(tokenizer, data), fixed(tokenizer, data), strict=True):
        assert len(tokenizer("</s>")["input_ids"]) > 1
        assert tokenizer.decode(bad["labels"][-2:]).endswith("s>")
        assert eos not in bad["labels"]
        assert good["labels"][-1] == eos
    assert not _raises_eos(model, broken(tokenizer, data)[0], eos)
    assert _raises_eos(model, fixed(tokenizer, data)[0], eos)


def test_check_rejects(tokenizer: Any, rows: list[Row]) -> None:
    """As letters, and as another end than the format writes."""
    data, fmt = asked(rows), format_for(tokenizer, "completion")
    encoded = broken(tokenizer, data)
    with pytest.raises(CheckFailed, match=r"4 of 4 rows .*hold '</s>' as letters in several pieces"):
        require(control_tokens_are_single_ids(encoded, tokenizer, data))
    with pytest.raises(CheckFailed, match=r"4 of 4 rows .*end with another token than their format writes"):
        require(response_ends_with_its_terminator(encoded, data, tokenizer, fmt), strict=True)


def test_check_rejects_a_format_of_tokens_that_are_not_there(tokenizer: Any) -> None:
    """The core refuses the format itself, before a row is encoded."""
    with pytest.raises(LoadRefused, match=r"<\|eot_id\|>"):
        format_for(tokenizer, "llama3")


def test_check_accepts(tokenizer: Any, rows: list[Row]) -> None:
    """The tokenizer's own end; and an answer that talks about `</s>`."""
    talk = {"prompt": "What ends a text of Llama 2?", "response": "The token </s> does."}
    data, fmt = asked([*rows, talk]), format_for(tokenizer, "completion")
    encoded = fixed(tokenizer, data)
    require(control_tokens_are_single_ids(encoded, tokenizer, data), strict=True)
    require(response_ends_with_its_terminator(encoded, data, tokenizer, fmt), strict=True)
