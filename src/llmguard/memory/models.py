"""Models that are alive: trees of torch modules, and how many whole models are resident at once.

torch is never imported here: where it is not loaded there are no models.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from llmguard.memory.links import size_text
from llmguard.memory.tensors import storage_of

__all__ = ["Resident", "Trees", "is_module", "resident_models"]


@dataclass(frozen=True)
class Resident:
    """One model that is resident, with all that share its weights (an adapter's wrapper): its class, bytes, and the objects."""

    name: str
    size: int
    device: str
    models: tuple[Any, ...] = field(repr=False)

    def __str__(self) -> str:
        return f"{self.name} {size_text(self.size)} on {self.device}"


def resident_models(device: str | None = None, *, at_least: int = 0) -> list[Resident]:
    """Every language model whose weights are in memory, the largest first; of one device ("cuda", "cuda:0") or of all.

    A model is a torch module with a config and parameters that is no part of another one. Models that share weights are one.
    `at_least`: bytes from which on one counts. Weights on the meta device take no memory.
    """
    groups: list[tuple[dict[int, int], list[Any]]] = []
    for each in _wholes():
        sizes = _storages(each, device)
        if sum(sizes.values()):
            shared = [group for group in groups if group[0].keys() & sizes.keys()]
            members = [m for _, models in shared for m in models]
            groups = [g for g in groups if g not in shared] if shared else groups
            groups.append(({k: v for s, _ in shared for k, v in s.items()} | sizes, [*members, each]))
    told = [
        Resident(type(models[0]).__name__, sum(sizes.values()), _device(models[0]), tuple(models))
        for sizes, models in groups
    ]
    return sorted((one for one in told if one.size >= at_least), key=lambda one: -one.size)


def is_module(found: Any) -> bool:
    """Whether it is a module of torch; asked by its type alone."""
    torch = sys.modules.get("torch")
    return torch is not None and issubclass(type(found), getattr(getattr(torch, "nn", None), "Module", ()))


class Trees:
    """Which module is part of which: known in one look, where following references upwards takes one look a level."""

    def __init__(self) -> None:
        self.parents: dict[int, Any] = {}
        self._known = False

    def above(self, found: Any) -> list[Any]:
        """What holds a module in its tree, from the dict it lies in up to the module that is part of no other."""
        if not is_module(found):
            return []
        if not self._known:
            self._known = True
            for each in _modules():
                for child in _children(each):
                    self.parents.setdefault(id(child), each)
        told: list[Any] = []
        while (parent := self.parents.get(id(found))) is not None and len(told) < 200:
            told += [parent.__dict__["_modules"], parent]
            found = parent
        return told


def _wholes() -> list[Any]:
    """Modules with a config and parameters, wrappers first, without those that are a part of another such one."""
    found = [each for each in _modules() if hasattr(type(each), "forward") and _has_config(each)]
    parts = {id(part) for each in found for part in each.modules() if part is not each}
    return [each for each in found if id(each) not in parts]


def _has_config(module: Any) -> bool:
    return module.__dict__.get("config") is not None or type(module).__module__.startswith("peft.peft_model")


def _modules() -> list[Any]:
    kind = getattr(getattr(sys.modules.get("torch"), "nn", None), "Module", None)
    if kind is None:
        return []
    return [each for each in gc.get_objects() if issubclass(type(each), kind) and "_modules" in each.__dict__]


def _children(module: Any) -> Iterable[Any]:
    return [child for child in module.__dict__["_modules"].values() if child is not None]


def _storages(module: Any, device: str | None) -> dict[int, int]:
    """Storages of the parameters, by size, of those on a device."""
    found: dict[int, int] = {}
    for each in _weights(module):
        name = str(each.device)
        if (device is None or device in (name, name.partition(":")[0])) and (storage := storage_of(each)):
            found[storage] = int(each.untyped_storage().nbytes())
    return found


def _weights(module: Any) -> Iterator[Any]:
    yield from module.parameters()
    yield from module.buffers()


def _device(module: Any) -> str:
    return str(next(iter(_weights(module))).device)
