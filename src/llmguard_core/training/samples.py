"""Completions drawn while a model trains: of a few rows' prompts, greedy, with the training's random state untouched."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from llmguard.encoded import IGNORE_INDEX
from llmguard_core.generation import generate

__all__ = ["prompt_of", "sampler"]


def prompt_of(row: Mapping[str, Any]) -> list[int]:
    """The ids of an encoded row before its first supervised token; a quarter of it where all is supervised."""
    ids, labels = list(row["input_ids"]), row["labels"]
    first = next((i for i, label in enumerate(labels) if label != IGNORE_INDEX), len(ids))
    return ids[: first or max(len(ids) // 4, 1)]


def sampler(
    tokenizer: Any, rows: Sequence[Mapping[str, Any]], count: int, max_new_tokens: int = 32
) -> Callable[[Any], list[str]]:
    """A function that has a model complete the prompts of the first `count` rows; special tokens stay in the texts, EOS does not."""
    prompts = [prompt_of(rows[i]) for i in range(min(count, len(rows)))]

    def draw(model: Any) -> list[str]:
        context = getattr(model.config, "max_position_embeddings", None) or 1 << 30
        ends = [prompt[-max(context - max_new_tokens, 1) :] for prompt in prompts]  # a sample ends no run
        loaded = SimpleNamespace(model=model, tokenizer=tokenizer)
        return generate(loaded, ends, max_new_tokens=min(max_new_tokens, context - 1))

    return draw
