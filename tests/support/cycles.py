"""Garbage that needs more than one collection."""

from __future__ import annotations

from typing import Any

__all__ = ["Engine"]

MODELS: dict[str, Any] = {}


class Engine:
    """A cycle that, when it is collected, forgets a model, which is a cycle as well: the next collection takes that."""

    def __init__(self, model: Any) -> None:
        MODELS["it"], self.me = model, self

    def __del__(self) -> None:
        MODELS.clear()
