"""Generation stops at another token than the one that training ends with.

Symptom: the tuned model answers well and then writes the next question, and its answer, until the tokens are used up.
Severity: high
Cause: generation_config.json of the base model names its own end (`<|endoftext|>`), training ends turns with the template's (`<|im_end|>`),
    and the fine-tuned model is saved with the base's file.
First seen: https://github.com/huggingface/open-r1/pull/663; https://github.com/QwenLM/Qwen3/issues/927
Cost: answers cut by hand, and scores over texts of which the half is noise.
Check: stop_tokens_agree
Lesson: after training, the last label of a row is among the tokens that generation stops at.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.learning import learnt

from llmguard import require, stop_tokens_agree
from llmguard.errors import CheckFailed
from llmguard.formats import text_format
from llmguard_core.encoding import Encoder
from llmguard_core.formats import format_for
from llmguard_core.generation import generate
from llmguard_core.loading import Loaded

LONGEST = 40
Row = dict[str, str]


def encoder(tokenizer: Any) -> Encoder:
    """Training rows whose turns end with `<|im_end|>`."""
    return Encoder(tokenizer, format_for(tokenizer, "chatml"))


def broken(model: Any, tokenizer: Any, prompt: list[int]) -> list[int]:
    """`generate` with the config that the base model came with."""
    import torch

    ids = torch.tensor([prompt])
    told = {"max_new_tokens": LONGEST, "do_sample": False, "pad_token_id": tokenizer.pad_token_id}
    with torch.inference_mode():
        found = model.generate(ids, attention_mask=torch.ones_like(ids), **told)
    return [int(i) for i in found[0, len(prompt) :]]


def fixed(model: Any, tokenizer: Any, prompt: list[int]) -> str:
    """The core's generation, which stops where the format ends."""
    loaded = Loaded(model, tokenizer, "base", ())
    (text,) = generate(loaded, [prompt], fmt=encoder(tokenizer).fmt, max_new_tokens=LONGEST)
    return text


@pytest.fixture
def tuned(model: Any, tokenizer: Any, rows: list[Row]) -> Any:
    """The lab's base model after training; its generation config is the base's."""
    return learnt(model, list(encoder(tokenizer).rows(rows)))


def test_witness(tuned: Any, tokenizer: Any, rows: list[Row]) -> None:
    """Behind the answer and the end that it has learnt the model goes on to the limit; the core's stops there."""
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    for row, prompt in zip(rows, encoder(tokenizer).prompts(rows), strict=True):
        ids = broken(tuned, tokenizer, prompt)
        assert tokenizer.decode(ids[: ids.index(end)]) == row["response"]
        assert len(ids) == LONGEST
        assert fixed(tuned, tokenizer, prompt) == row["response"]


def _stops(folder: Path, model: Any) -> dict[str, list[int]]:
    """What the saved model's files say."""
    model.save_pretrained(folder)
    told = {
        n: json.loads((folder / f"{n}.json").read_text("utf-8")).get("eos_token_id")
        for n in ("config", "generation_config")
    }
    return {n: ids if isinstance(ids, list) else [ids] for n, ids in told.items() if ids is not None}


def test_check_rejects(model: Any, tokenizer: Any, rows: list[Row], tmp_path: Path) -> None:
    """From the files of the model and the format of the rows, before a token is generated."""
    fmt = text_format("chatml", tokenizer.eos_token)
    with pytest.raises(
        CheckFailed, match=r"responses end with '<\|im_end\|>' \(id \d+\), and generation stops at"
    ):
        require(
            stop_tokens_agree(
                tokenizer, _stops(tmp_path, model), fmt, list(encoder(tokenizer).rows(rows)), rows
            )
        )


def test_check_accepts(model: Any, tokenizer: Any, rows: list[Row], tmp_path: Path) -> None:
    """Both ends in the model's own file: what the remedy says."""
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, end]
    fmt = text_format("chatml", tokenizer.eos_token)
    require(
        stop_tokens_agree(tokenizer, _stops(tmp_path, model), fmt, list(encoder(tokenizer).rows(rows)), rows),
        strict=True,
    )
