"""How much memory generation needs, and how many rows go into one batch of it: from a model's sizes alone. No torch.

Weights lie there throughout; each row adds its keys and values, and while its prompt is read the widest layer and the logits.
"""

from __future__ import annotations

from collections.abc import Sequence

from llmguard.estimates.architecture import Architecture

__all__ = ["SHARE", "row_bytes", "rows_that_fit", "smallest_set", "weight_bytes"]

SHARE = 0.5
"""Of what is free, this much may be planned with: the rest is for what the estimate does not know (workspaces, fragments)."""
SCORES = 4
"""Bytes of an attention score and of a logit that is looked at: both in 32 bits."""


def weight_bytes(model: Architecture, width: float = 2) -> float:
    """Bytes of the weights with `width` bytes a value, at the upper end of what the config leaves open."""
    return model.parameters * (1 + model.spread) * width


def row_bytes(model: Architecture, prompt: int, new: int, width: float = 2) -> float:
    """Bytes of one row of a batch: `prompt` tokens read, `new` generated, `width` bytes a value.

    Logits are counted for every token of the prompt and scores as if they were kept: some models and kernels do.
    """
    cache = 2 * model.layers * model.kv * (prompt + new) * width
    layer = prompt * (6 * model.hidden + 2 * model.query + 3 * model.inner * model.active) * width
    scores = model.heads * prompt * (prompt + new) * SCORES
    logits = max(1, prompt) * model.vocab * (width + SCORES)
    return cache + layer + scores + logits


def rows_that_fit(
    model: Architecture | None, free: float, prompt: int, new: int, rows: int, width: float = 2
) -> int:
    """How many of `rows` rows go into one batch: at least 1 and at most all; a few where the model's sizes are not known."""
    if model is None:
        return max(1, min(rows, 8))
    return max(1, min(rows, int(SHARE * max(0.0, free) // row_bytes(model, prompt, new, width))))


def smallest_set(needed: float, free: Sequence[float]) -> list[int]:
    """The fewest devices that hold `needed` bytes within their share, the emptiest first; none where not even all do.

    One device may be filled with weights to nine tenths; over several the cut falls between layers, which costs a part of each.
    """
    order = sorted(range(len(free)), key=lambda number: -free[number])
    for count in range(1, len(order) + 1):
        chosen = order[:count]
        if needed <= sum(free[number] for number in chosen) * (0.9 if count == 1 else 0.8):
            return sorted(chosen)
    return []
