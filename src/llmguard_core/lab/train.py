"""A small training loop: packed rows with a weight for each token, AdamW, one cosine."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

__all__ = ["Plan", "Progress", "Row", "packed", "train"]

Progress = Callable[[int, int, float], None]
"""Called with the step, the number of steps and the loss."""


@dataclass(frozen=True)
class Row:
    """A document: its token ids and the weight of each of them in the loss (0: not trained)."""

    ids: list[int]
    weights: list[float]


@dataclass(frozen=True)
class Plan:
    """How long and how fast: optimizer steps, rows a batch, tokens a row, peak learning rate."""

    steps: int
    rows: int
    tokens: int
    rate: float


def packed(
    kinds: Sequence[tuple[float, Sequence[Row]]], plan: Plan, seed: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Endless batches (ids, weights), each [plan.rows, plan.tokens]: documents of each kind, drawn by its share, end to end."""
    draw = random.Random(seed)
    shares, pools = [share for share, _ in kinds], [pool for _, pool in kinds]
    while True:
        rows = [_row(draw, shares, pools, plan.tokens) for _ in range(plan.rows)]
        yield torch.tensor([r.ids for r in rows]), torch.tensor([r.weights for r in rows])


def _row(draw: random.Random, shares: list[float], pools: list[Sequence[Row]], tokens: int) -> Row:
    ids, weights = list[int](), list[float]()
    while len(ids) < tokens:
        row = draw.choice(draw.choices(pools, shares)[0])
        ids, weights = ids + row.ids, weights + row.weights
    return Row(ids[:tokens], weights[:tokens])


def train(
    model: torch.nn.Module,
    batches: Iterator[tuple[torch.Tensor, torch.Tensor]],
    plan: Plan,
    progress: Progress,
) -> float:
    """Train the parameters that require gradients, in place; gives the mean loss of the last ten steps (nats a token)."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=plan.rate, betas=(0.9, 0.95), weight_decay=0.01)
    losses: list[float] = []
    model.train()
    for step in range(plan.steps):
        for group in optimizer.param_groups:
            group["lr"] = plan.rate * _share_of_rate(step, plan.steps)
        loss = _loss(model, *next(batches))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        losses.append(loss.item())
        progress(step + 1, plan.steps, losses[-1])
    model.eval()
    return sum(losses[-10:]) / len(losses[-10:])


def _share_of_rate(step: int, steps: int) -> float:
    warm = max(steps // 10, 1)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(steps - warm, 1)))


def _loss(model: torch.nn.Module, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Weighted mean cross-entropy of each next token; a row without a trained token adds nothing."""
    logits = model(input_ids=ids).logits[:, :-1].float()
    each = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    wanted = weights[:, 1:].flatten()
    return (each * wanted).sum() / wanted.sum().clamp(min=1e-6)
