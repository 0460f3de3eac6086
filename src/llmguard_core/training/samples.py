"""Completions drawn while a model trains: of a few rows' prompts, greedy, with the training's random state untouched."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

__all__ = ["prompt_of", "sampler"]

IGNORED = -100


def prompt_of(row: Mapping[str, Any]) -> list[int]:
    """The ids of an encoded row before its first supervised token; a quarter of it where all is supervised."""
    ids, labels = list(row["input_ids"]), row["labels"]
    first = next((i for i, label in enumerate(labels) if label != IGNORED), len(ids))
    return ids[: first or max(len(ids) // 4, 1)]


def sampler(
    tokenizer: Any, rows: Sequence[Mapping[str, Any]], count: int, max_new_tokens: int = 32
) -> Callable[[Any], list[str]]:
    """A function that has a model complete the prompts of the first `count` rows; special tokens stay in the texts, EOS does not."""
    prompts = [prompt_of(rows[i]) for i in range(min(count, len(rows)))]
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id or 0

    def draw(model: Any) -> list[str]:
        ends = _ends(model, tokenizer)
        width = max(map(len, prompts))
        ids = torch.tensor([[pad] * (width - len(p)) + p for p in prompts], device=model.device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=model.device)
        was_training = model.training
        model.eval()
        try:
            with torch.no_grad():
                found = model.generate(
                    input_ids=ids, attention_mask=mask, do_sample=False, num_beams=1, temperature=None, top_p=None, top_k=None,
                    max_new_tokens=max_new_tokens, pad_token_id=pad, eos_token_id=ends or None, use_cache=True,
                )  # fmt: skip
        finally:
            model.train(was_training)
        return [tokenizer.decode(_until(row[width:].tolist(), ends)) for row in found]

    return draw


def _ends(model: Any, tokenizer: Any) -> list[int]:
    told = getattr(model.generation_config, "eos_token_id", None) or tokenizer.eos_token_id
    return [] if told is None else [told] if isinstance(told, int) else list(told)


def _until(ids: list[int], ends: list[int]) -> list[int]:
    return ids[: next((i for i, t in enumerate(ids) if t in ends), len(ids))]
