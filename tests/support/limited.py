"""Models that run out of memory for more rows than there is room for, in a short run of the core's own training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from llmguard_core.training import train
from support.runs import collate, model, rows, settings
from support.tiny import byte_level

__all__ = ["Limited", "limited", "no_png", "run"]


class Limited(torch.autograd.Function):
    """A layer without effect that runs out of memory for more rows than there is room for, forwards or backwards."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, room: int, backwards: bool) -> torch.Tensor:
        ctx.rows, ctx.room, ctx.backwards = len(hidden), room, backwards
        if len(hidden) > room and not backwards:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return hidden.clone()

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        if ctx.rows > ctx.room and ctx.backwards:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return grads[0], None, None


def limited(room: int, *, backwards: bool = False, **told: Any) -> tuple[Any, list[int]]:
    """A tiny model with room for so many rows; and the numbers of rows that it was called with."""
    net, seen = model(**told), list[int]()

    def called(module: Any, args: Any, output: Any) -> Any:
        if torch.is_grad_enabled():
            seen.append(len(output))
        return Limited.apply(output, room, backwards)

    net.get_input_embeddings().register_forward_hook(called)
    return net, seen


def run(folder: Path, net: Any, **told: Any) -> Any:
    """Three steps of 2 x 4 uneven rows by SGD."""
    told = {
        "max_steps": 3,
        "batch_size": 4,
        "accumulation": 2,
        "optimizer": "sgd",
        "learning_rate": 1e-2,
        "grad_clip": 50.0,
        **told,
    }
    extra = {"validation": told.pop("validation", None)}
    return train(net, byte_level(), rows(24), settings(folder, **told), collator=collate, **extra)


@pytest.fixture(autouse=True)
def no_png(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plots take longer than these runs."""
    monkeypatch.setattr("llmguard_core.training.run.png", lambda records, path: None)
