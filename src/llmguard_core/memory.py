"""Memory of whatever device there is: read, chosen, released, and the release proved."""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import Callable, Iterable, MutableMapping, MutableSequence
from dataclasses import dataclass
from typing import Any

import psutil
import torch
from torch.multiprocessing.reductions import StorageWeakRef

from llmguard.errors import UsageError
from llmguard.memory.holders import explain
from llmguard.memory.tensors import live_tensors, storage_of
from llmguard_core.errors import OutOfMemory

__all__ = ["Device", "pick_device", "proved_released", "release", "weak"]

KINDS = ("cuda", "xpu", "mps")
Reference = Callable[[], Any]
HALF = 0.5
NAMED = 3  # holders that are told
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Device:
    """One device and what it says of its memory, in bytes. CPU: the process' resident memory, and the machine's (or its cgroup's)."""

    device: torch.device

    @property
    def _of(self) -> Any:
        """torch.cuda, torch.xpu, torch.mps: the same questions under nearly the same names."""
        return getattr(torch, self.device.type)

    @property
    def on_cpu(self) -> bool:
        """Whether the memory is the machine's own."""
        return self.device.type == "cpu"

    def allocated(self) -> int:
        """Bytes in tensors (CPU: resident bytes of this process)."""
        if self.on_cpu:
            return int(psutil.Process().memory_info().rss)
        if self.device.type == "mps":
            return int(torch.mps.current_allocated_memory())
        return int(self._of.memory_allocated(self.device))

    def reserved(self) -> int:
        """Bytes taken from the device, what the allocator keeps for later included."""
        if self.on_cpu:
            return self.allocated()
        if self.device.type == "mps":
            return int(torch.mps.driver_allocated_memory())
        return int(self._of.memory_reserved(self.device))

    def free(self) -> int:
        """Bytes that could be allocated now: on a GPU also what the allocator keeps unused."""
        if self.on_cpu:
            return _machine()[0]
        if self.device.type == "mps":
            return self.total() - self.allocated()
        return int(self._of.mem_get_info(self.device)[0]) + self.reserved() - self.allocated()

    def total(self) -> int:
        """Bytes of the device (CPU: the cgroup's limit where it is lower than the machine's memory)."""
        if self.on_cpu:
            return _machine()[1]
        if self.device.type == "mps":
            return int(torch.mps.recommended_max_memory())
        return int(self._of.mem_get_info(self.device)[1])

    def empty_cache(self) -> None:
        """Give what the allocator keeps unused back to the device."""
        if not self.on_cpu:
            self._of.empty_cache()

    def synchronize(self) -> None:
        """Wait until all that was asked of the device is done."""
        if self.device.type == "mps":
            torch.mps.synchronize()
        elif not self.on_cpu:
            self._of.synchronize(self.device)

    def __str__(self) -> str:
        gb = [f"{n / 1e9:.2f}" for n in (self.allocated(), self.reserved(), self.free(), self.total())]
        return f"{self.device}: {gb[0]} GB allocated, {gb[1]} reserved, {gb[2]} of {gb[3]} free"


def pick_device(wanted: str | torch.device | None = None) -> Device:
    """The device asked for, else the accelerator that there is, else the CPU with a notice in the log.

    Raises:
        UsageError: there is no such device here.
    """
    if wanted is not None:
        return Device(_there(wanted))
    for kind in KINDS:
        if _count(kind):
            index = None if kind == "mps" else getattr(torch, kind).current_device()
            return Device(torch.device(kind, index) if index is not None else torch.device(kind))
    log.info("no accelerator: running on the CPU")
    return Device(torch.device("cpu"))


def _count(kind: str) -> int:
    """How many devices of a kind this process may use (CUDA_VISIBLE_DEVICES counts)."""
    module = torch.backends.mps if kind == "mps" else getattr(torch, kind, None)
    if module is None or not module.is_available():
        return 0
    return 1 if kind == "mps" else int(getattr(torch, kind).device_count())


def _there(wanted: str | torch.device) -> torch.device:
    """A device by name; refused where it is one of a kind we know and is not here."""
    counts = {"cpu": 1, **{kind: _count(kind) for kind in KINDS}}
    try:
        device = torch.device(wanted)
    except RuntimeError:
        device = None
    if device is None or (device.index or 0) >= counts.get(device.type, 1 << 30):
        here = [
            kind if count == 1 else f"{kind}:0 to {kind}:{count - 1}"
            for kind, count in counts.items()
            if count
        ]
        raise UsageError("device", str(wanted), f"one of those here: {', '.join(here)}")
    return device


def weak(*objects: Any) -> list[Reference]:
    """Weak references to models, optimizers, trainers; made before `release`, asked after it by `proved_released`.

    Of a model its weights as well: a state dict or one detached tensor keeps them, when the model itself is long gone.
    """
    return [_Model(each) if isinstance(each, torch.nn.Module) else weakref.ref(each) for each in objects]


class _Model:
    """A weak reference to a model and to the memory of its weights."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._model = weakref.ref(model)
        weights = {storage_of(w): w for w in (*model.parameters(), *model.buffers()) if storage_of(w)}
        kind: Any = StorageWeakRef  # torch annotates none of it
        self._weights = {s: kind(w.untyped_storage()) for s, w in weights.items()}

    def __call__(self) -> torch.nn.Module | _Weights | None:
        """The model; else those of its weights that are still there; else nothing."""
        left = _Weights(s for s, reference in self._weights.items() if not reference.expired())
        return self._model() or left or None


class _Weights(frozenset[int]):
    """Storages of weights that outlived their model."""


def release(*holders: Any, device: Device | None = None) -> int:
    """Empty the containers and objects given (lists, dicts, or objects whose attributes are let go), collect, and return the bytes freed.

    Logs allocated memory before and after; warns where more than half of the device is still in use.
    """
    device = device or pick_device()
    before = device.allocated()
    for holder in holders:
        if isinstance(holder, (MutableSequence, MutableMapping, set)):
            holder.clear()
        else:
            vars(holder).clear()
    gc.collect()
    device.synchronize()
    device.empty_cache()
    after, total = device.allocated(), max(device.total(), 1)
    log.info("released %.1f MB; now %s", (before - after) / 1e6, device)
    if after / total > HALF:
        log.warning("after a release more than half is in use (%.0f %%): %s", 100 * after / total, device)
    return before - after


def proved_released(references: Iterable[Reference]) -> None:
    """Go on only if every object is gone.

    Raises:
        OutOfMemory: names what still holds each of them.
    """
    gc.collect()
    alive = [each for each in (reference() for reference in references) if each is not None]
    if not alive:
        return
    weights = {storage for each in alive if isinstance(each, _Weights) for storage in each}
    held = [each for each in alive if not isinstance(each, _Weights)]
    what = f"{len(held)} objects" if held else f"{len(weights)} weights of a model"
    held = held or [each for each in live_tensors(frozen=True) if storage_of(each) in weights]
    del alive
    told = "; ".join(f"{type(held[0]).__name__} is held by {holder}" for holder in explain(held, limit=NAMED))
    raise OutOfMemory(
        f"{what} that should be released are still there: {told or 'native code holds them'}. The next model would be loaded beside them.",
        where="memory",
        remedy="Let go of them (a variable, a closure, a list, a traceback that was kept), or run each model in its own process.",
    )


def _machine() -> tuple[int, int]:
    """Free and total bytes of the machine, or of the control group where that is tighter."""
    from llmguard.estimates.machine import host_memory
    from llmguard.probe.host import Host

    told = host_memory(Host())
    if told is not None:
        return told.free, told.total
    memory = psutil.virtual_memory()  # systems without /proc
    return int(memory.available), int(memory.total)
