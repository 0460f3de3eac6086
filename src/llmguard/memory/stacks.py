"""Where memory was allocated: the lines of Python behind what is alive. Only on request, for remembering costs time and memory.

    with record("cuda:0"):
        run()
        for site in allocation_sites("cuda:0"):
            print(site)        # 512.00 MiB in 3 allocations: train.py:41 in forward

On a GPU the allocator remembers the stack of each allocation itself, a few microseconds each, bounded by ENTRIES. On a CPU each
tensor that torch makes is seen by a dispatch mode: a small step takes about twice its time. Allocations before `record` are not known.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from llmguard.memory.links import place, size_text
from llmguard.memory.tensors import is_tensor, storage_of

__all__ = ["ENTRIES", "Site", "allocation_sites", "record"]

ENTRIES = 100_000
"""Allocations that are remembered; of more, the oldest are forgotten."""
_LIBRARIES = (
    "/site-packages/",
    "/dist-packages/",
    "<frozen",
    "/importlib/",
    "/contextlib.py",
    "/functools.py",
)
_OWN = "llmguard.memory"


@dataclass(frozen=True)
class Site:
    """A line that allocated what is still alive: `where` is "file:line in function", `stack` the lines that led there, innermost first."""

    where: str
    size: int
    count: int
    stack: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{size_text(self.size)} in {self.count} allocations: {self.where}"


@contextmanager
def record(device: str = "cpu") -> Iterator[None]:
    """Remember inside where memory of a device is allocated, for `allocation_sites`. Nothing happens where torch is not loaded."""
    torch = sys.modules.get("torch")
    memory: Any = getattr(getattr(torch, device.partition(":")[0], None), "memory", None)
    if torch is None:
        yield
    elif hasattr(memory, "_record_memory_history"):
        memory._record_memory_history(enabled="state", context="state", stacks="python", max_entries=ENTRIES)
        try:
            yield
        finally:
            memory._record_memory_history(enabled=None)
    else:
        with _mode(torch):
            yield


def allocation_sites(device: str = "cpu", *, limit: int = 5, live: Iterable[Any] | None = None) -> list[Site]:
    """Lines that allocated what is alive now, those of most bytes first; to be asked inside of `record`.

    `live`: only of these tensors (what leaked), instead of all that is alive.
    """
    wanted = None if live is None else [each for each in live if is_tensor(each)]
    memory: Any = getattr(getattr(sys.modules.get("torch"), device.partition(":")[0], None), "memory", None)
    if hasattr(memory, "_snapshot"):
        starts = None if wanted is None else {int(t.untyped_storage().data_ptr()) for t in wanted}
        found = _of_snapshot(memory._snapshot(), int(device.partition(":")[2] or 0), starts)
    else:
        found = _remembered(None if wanted is None else {storage_of(t) for t in wanted})
    sites: dict[tuple[str, ...], tuple[int, int]] = {}
    for stack, size in found:
        before, count = sites.get(stack, (0, 0))
        sites[stack] = (before + size, count + 1)
    told = [Site(stack[0] if stack else "not known", size, n, stack) for stack, (size, n) in sites.items()]
    return sorted(told, key=lambda site: -site.size)[:limit]


# ---- on a GPU


def _of_snapshot(
    snapshot: Mapping[str, Any], index: int, starts: set[int] | None
) -> Iterator[tuple[tuple[str, ...], int]]:
    """Stack and bytes of each block in use; addresses are told by newer versions alone, else they follow from the segment's."""
    for segment in snapshot.get("segments", ()):
        if segment.get("device", 0) != index:
            continue
        address = segment.get("address", 0)
        for block in segment["blocks"]:
            at = block.get("address", address)
            address = at + block["size"]
            if block["state"] == "active_allocated" and (starts is None or at in starts):
                yield _stack(block), int(block.get("requested_size", block["size"]))


def _stack(block: Mapping[str, Any]) -> tuple[str, ...]:
    frames = block.get("frames") or next((h.get("frames", ()) for h in block.get("history", ())), ())
    told = [
        (f["filename"], f"{f['filename']}:{f['line']} in {f['name']}") for f in frames if f.get("filename")
    ]
    return _users_first(told)


# ---- on a CPU


class _Memory:
    """Where each storage that is alive came from; the entries of dead ones go with them."""

    stacks: dict[int, tuple[Any, tuple[str, ...], int]] = {}  # noqa: RUF012  # one recording a process


def _remembered(storages: set[int] | None) -> Iterator[tuple[tuple[str, ...], int]]:
    for storage, (reference, stack, size) in list(_Memory.stacks.items()):
        if not reference.expired() and (storages is None or storage in storages):
            yield stack, size


def _mode(torch: Any) -> Any:
    """A dispatch mode that notes the line behind each new storage."""
    from torch.multiprocessing.reductions import StorageWeakRef
    from torch.utils._python_dispatch import TorchDispatchMode

    _Memory.stacks.clear()
    weak: Any = StorageWeakRef  # torch annotates none of it

    mode: Any = TorchDispatchMode

    class Recording(mode):  # type: ignore[misc]  # nor this
        """Sees what every operator gives back."""

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            for each in result if isinstance(result, (tuple, list)) else (result,):
                if isinstance(each, torch.Tensor) and (storage := storage_of(each)):
                    known = _Memory.stacks.get(storage)
                    if known is None or known[0].expired():
                        size = int(each.untyped_storage().nbytes())
                        _note(storage, weak(each.untyped_storage()), size)
            return result

    return Recording()


def _note(storage: int, reference: Any, size: int) -> None:
    if len(_Memory.stacks) >= ENTRIES:
        for key in [k for k, (kept, _, _) in _Memory.stacks.items() if kept.expired()] or [
            next(iter(_Memory.stacks))
        ]:
            del _Memory.stacks[key]
    _Memory.stacks[storage] = (reference, _here(), size)


def _here() -> tuple[str, ...]:
    """The lines that run, innermost first."""
    told: list[tuple[str, str]] = []
    each: Any = sys._getframe(1)
    while each is not None and len(told) < 32:
        if not str(each.f_globals.get("__name__", "")).startswith(_OWN):
            told.append((each.f_code.co_filename, f"{place(each)} in {each.f_code.co_name}"))
        each = each.f_back
    return _users_first(told)


def _users_first(frames: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """The lines of libraries left out, unless there are no others."""
    told = list(frames)
    users = [text for file, text in told if not any(part in file for part in _LIBRARIES)]
    return tuple(users or [text for _, text in told])
