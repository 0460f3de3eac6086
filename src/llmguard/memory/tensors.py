"""Tensors that are alive: those that the collector knows, their gradients, and what autograd graphs keep for the backward pass.

torch is never imported here: where it is not loaded there are no tensors.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

from llmguard.memory.search import thawed

__all__ = ["Graphs", "gradients_of_others", "is_tensor", "live_tensors", "size_of", "storage_of"]

NODES = 20_000
"""Nodes of autograd graphs that are looked at."""


def live_tensors(device: str | None = None, *, frozen: bool = False) -> list[Any]:
    """Every tensor that holds memory, one for each storage (views do not count twice); of one device ("cuda", "cuda:0") or of all.

    Gradients, and what graphs keep for the backward pass, are among them, although the collector has never seen them.
    After a `gc.freeze()` only what was made since, and what hangs on it; with `frozen` everything (see `thawed`).
    """
    with thawed(frozen):
        found = _visible()
    everything = [*found, *(each for each, _ in _hidden(found))]
    seen: set[int] = set()
    told: list[Any] = []
    for each in everything:
        storage = storage_of(each)
        if storage and storage not in seen and _on(each, device):
            seen.add(storage)
            told.append(each)
    return told


def gradients_of_others(found: Iterable[Any]) -> list[Any]:
    """Those tensors that are gradients of tensors which are not among them.

    A model that was there before has one for each parameter, however often it is trained.
    """
    found = list(found)
    own = {storage_of(each) for each in found}
    theirs: set[int] = set()
    for each in _visible():
        with suppress(RuntimeError, AttributeError, ReferenceError):
            if each.is_leaf and each.grad is not None and storage_of(each) not in own:
                theirs.add(storage_of(each.grad))
    return [each for each in found if storage_of(each) in theirs - {0}]


class Graphs:
    """Which tensors keep others by their gradient or their graph, neither of which the collector sees; looked up when first asked."""

    def __init__(self) -> None:
        self.holders: list[Any] = []
        self._storages: list[int] | None = None

    def of(self, target: Any) -> list[Any]:
        """The tensors that keep a tensor so."""
        storage = storage_of(target) if is_tensor(target) else 0
        if not storage:
            return []
        if self._storages is None:
            self._storages = []
            for each, by in _hidden(_visible()):
                self._storages.append(storage_of(each))
                self.holders.append(by)
        found = [self.holders[at] for at, each in enumerate(self._storages) if each == storage]
        return list({id(by): by for by in found if storage_of(by) != storage}.values())


def is_tensor(found: Any) -> bool:
    """Whether it is a tensor of torch; asked by its type alone, so that nothing of the object runs."""
    torch = sys.modules.get("torch")
    return torch is not None and issubclass(type(found), getattr(torch, "Tensor", ()))


def storage_of(tensor: Any) -> int:
    """What tells one piece of memory from another; 0 for a tensor that has none (meta, fake, sparse, empty)."""
    try:
        storage = tensor.untyped_storage()
        return int(storage._cdata) if storage.nbytes() and storage.device.type != "meta" else 0
    except (RuntimeError, AttributeError, ReferenceError):
        return 0


def size_of(found: Any) -> int:
    """Bytes: of a tensor its storage, of a module all its parameters and buffers (each storage once), of an array what it says."""
    torch = sys.modules.get("torch")
    if is_tensor(found):
        return _bytes([found])
    if torch is not None and issubclass(type(found), getattr(torch.nn, "Module", ())):
        return _bytes([*found.parameters(), *found.buffers()])
    told = getattr(type(found), "nbytes", None) is not None or "nbytes" in getattr(found, "__dict__", ())
    return int(found.nbytes) if told else sys.getsizeof(found, 0)


def _bytes(tensors: Iterable[Any]) -> int:
    sizes: dict[int, int] = {}
    for each in tensors:
        if storage := storage_of(each):
            sizes[storage] = int(each.untyped_storage().nbytes())
    return sum(sizes.values())


def _on(tensor: Any, device: str | None) -> bool:
    name = str(tensor.device)
    return device is None or name == device or name.partition(":")[0] == device


def _visible() -> list[Any]:
    torch = sys.modules.get("torch")
    kind = getattr(torch, "Tensor", None)
    if kind is None:
        return []
    return [each for each in gc.get_objects() if issubclass(type(each), kind)]


def _hidden(tensors: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    """Gradients and saved tensors, each with the tensor that it hangs on."""
    nodes: dict[
        int, Any
    ] = {}  # kept while we look: a node's Python object lives as long as somebody holds it
    for each in tensors:
        with suppress(RuntimeError, AttributeError, ReferenceError):
            if each.is_leaf:
                if each.grad is not None:
                    yield each.grad, each
                continue
            for saved in _graph(each.grad_fn, nodes):
                yield saved, each


def _graph(first: Any, nodes: dict[int, Any]) -> Iterator[Any]:
    """What the nodes of a graph saved, and the gradients of its leaves; each node once."""
    waiting = [first]
    while waiting and len(nodes) < NODES:
        node = waiting.pop()
        if node is None or id(node) in nodes:
            continue
        nodes[id(node)] = node
        yield from _saved(node)
        waiting += [following for following, _ in node.next_functions]


def _saved(node: Any) -> Iterator[Any]:
    variable = getattr(node, "variable", None)
    if variable is not None and is_tensor(variable):  # where gradients are accumulated
        yield variable
        if variable.grad is not None:
            yield variable.grad
    for name in dir(type(node)):
        if name.startswith("_saved_") or name == "saved_tensors":
            with suppress(RuntimeError, AttributeError):  # freed by a backward pass
                value = getattr(node, name)
                yield from (
                    v for v in (value if isinstance(value, (tuple, list)) else (value,)) if is_tensor(v)
                )
