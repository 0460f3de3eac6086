"""The user's turn has no end: Zephyr's format without its terminator, on both sides.

Symptom: the tuned model goes on with the question, or answers nothing, as soon as it is served with its own chat template.
Severity: critical
Cause: "<|user|>, question, <|assistant|>" written by hand for training rows and validation prompts, without the EOS behind the question; as
    both sides lack it, they agree, and nothing differs between them.
First seen: written down by a fine-tuning project as critical (Zephyr; found days later together with a wrong EOS and another test format)
Cost: every run of those days.
Check: training_text_follows_its_format
Lesson: two sides that agree can both be wrong: hold the text against the model's own template, turn by turn.
"""

from __future__ import annotations

from typing import Any

import pytest
from support import real

from llmguard import require, training_starts_with_the_generation_prompt, training_text_follows_its_format
from llmguard.errors import CheckFailed
from llmguard.evidence.prompts import as_prompts
from llmguard.formats import ChatTemplate
from llmguard_core.encoding import Encoder
from llmguard_core.formats import format_for

Row = dict[str, str]
Encoded = dict[str, list[int]]


def prompt(row: Row) -> str:
    """The prompt as both scripts wrote it."""
    return f"<|user|>\n{row['prompt']}\n<|assistant|>\n"


def broken(tokenizer: Any, rows: list[Row]) -> list[Encoded]:
    """The training rows: the whole text, and the labels behind the prompt."""
    found = []
    for row in rows:
        ids = tokenizer(f"{prompt(row)}{row['response']}{tokenizer.eos_token}")["input_ids"]
        count = len(tokenizer(prompt(row))["input_ids"])
        found.append({"input_ids": ids, "labels": [-100] * count + ids[count:]})
    return found


def fixed(tokenizer: Any, rows: list[Row]) -> list[Encoded]:
    """The core's rows, in the format that the model has."""
    return list(Encoder(tokenizer, _format(tokenizer)).rows(rows))


def _format(tokenizer: Any) -> Any:
    """The model's own template; the lab's tokenizer has none of Zephyr's, so that the format is named."""
    zephyr = "<|user|>" in (tokenizer.chat_template or "")
    return ChatTemplate(tokenizer) if zephyr else format_for(tokenizer, "zephyr")


def _reads(model: Any, row: Encoded, token: int) -> list[float]:
    """How much the loss depends on each place where the model reads a token."""
    import torch

    ids = torch.tensor([row["input_ids"]])
    read = model.get_input_embeddings()(ids).detach().requires_grad_()
    model(inputs_embeds=read, labels=torch.tensor([row["labels"]])).loss.backward()
    at = (ids[0] == token).nonzero().flatten()
    return list(read.grad[0, at].abs().sum(1).tolist())


def test_witness(tokenizer: Any, model: Any, rows: list[Row]) -> None:
    """A broken run never reads an EOS that matters, though every prompt of the template holds one: it learns nothing of it."""
    eos = tokenizer.eos_token_id
    for bad, good, asked in zip(
        broken(tokenizer, rows), fixed(tokenizer, rows), Encoder(tokenizer, _format(tokenizer)).prompts(rows),
        strict=True,
    ):  # fmt: skip
        assert asked.count(eos) == 1
        assert _reads(model, bad, eos) == [0.0]
        behind_the_user, at_the_end = _reads(model, good, eos)
        assert (behind_the_user > 0, at_the_end) == (True, 0.0)


@pytest.mark.parametrize("name", ["zephyr-7b-beta", "tinyllama-1.1b-chat"])
def test_witness_of_real_models(rows: list[Row], name: str) -> None:
    """What serving sends, by the models' own templates, holds an EOS that no broken row has, and begins every row of the core."""
    tok = real.tokenizer(name)
    for row, bad, good in zip(rows, broken(tok, rows), fixed(tok, rows), strict=True):
        served = tok.apply_chat_template(
            [{"role": "user", "content": row["prompt"]}], tokenize=False, add_generation_prompt=True
        )
        ids = tok(served, add_special_tokens=False)["input_ids"]
        assert ids.count(tok.eos_token_id) == 1
        assert tok.eos_token_id not in bad["input_ids"][:-1]
        assert good["input_ids"][: len(ids)] == ids


@pytest.mark.parametrize("name", ["lab", "zephyr-7b-beta", "tinyllama-1.1b-chat"])
def test_check_rejects(request: pytest.FixtureRequest, rows: list[Row], name: str) -> None:
    """Every row, by the text that its format writes there; that training and generation agree is no help."""
    tok = request.getfixturevalue("tokenizer") if name == "lab" else real.tokenizer(name)
    encoded = broken(tok, rows)
    with pytest.raises(CheckFailed, match="4 of 4 rows"):
        require(training_text_follows_its_format(encoded, rows, tok, _format(tok)))
    prompts = as_prompts([prompt(r) for r in rows], tok)
    require(training_starts_with_the_generation_prompt(encoded, prompts, tok, rows))


@pytest.mark.parametrize("name", ["lab", "zephyr-7b-beta", "tinyllama-1.1b-chat"])
def test_check_accepts(request: pytest.FixtureRequest, rows: list[Row], name: str) -> None:
    """The template's own turns."""
    tok = request.getfixturevalue("tokenizer") if name == "lab" else real.tokenizer(name)
    require(training_text_follows_its_format(fixed(tok, rows), rows, tok, _format(tok)), strict=True)
