"""Memory of whatever device there is: read, chosen, released, and the release proved."""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import Iterable, MutableMapping, MutableSequence
from dataclasses import dataclass
from types import FrameType, ModuleType
from typing import Any

import psutil
import torch

from llmguard.errors import UsageError
from llmguard_core.errors import OutOfMemory

__all__ = ["Device", "pick_device", "proved_released", "release", "weak"]

KINDS = ("cuda", "xpu", "mps")
HALF = 0.5
STEPS = 3  # holders named on the way from an object to what keeps it
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


def weak(*objects: Any) -> list[weakref.ref[Any]]:
    """Weak references to models, optimizers, trainers; made before `release`, asked after it by `proved_released`."""
    return [weakref.ref(each) for each in objects]


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


def proved_released(references: Iterable[weakref.ref[Any]]) -> None:
    """Go on only if every object is gone.

    Raises:
        OutOfMemory: names what still holds each of them, up to three holders deep.
    """
    gc.collect()
    alive = [each for each in (reference() for reference in references) if each is not None]
    if not alive:
        return
    gc.unfreeze()  # holders that were frozen would not be found; nothing is lost but some speed of later collections
    told = [f"{_name(each)} is held by {_chain(each, ignored=[alive])}" for each in alive]
    raise OutOfMemory(
        f"{len(alive)} objects that should be released are still there: {'; '.join(told)}. The next model would be loaded beside them.",
        where="memory",
        remedy="Let go of them (a variable, a closure, a list, a traceback that was kept), or run each model in its own process.",
    )


def _chain(target: Any, ignored: list[Any]) -> str:
    names: list[str] = []
    for _ in range(STEPS):
        found = next((r for r in gc.get_referrers(target) if not _ours(r, ignored)), None)
        if found is None:
            break
        names.append(_name(found, target))
        if isinstance(found, (ModuleType, FrameType)) or _is_module_dict(found):
            break
        ignored = [*ignored, target]
        target = found
    return " <- ".join(names) or "a local variable of a function that runs"


def _ours(referrer: Any, ignored: list[Any]) -> bool:
    """Whether a referrer is our own looking: this module's frames and lists."""
    if isinstance(referrer, FrameType):
        return referrer.f_code.co_filename == __file__
    return any(referrer is each for each in ignored) or type(referrer).__name__ == "list_iterator"


def _name(found: Any, held: Any = None) -> str:
    """A holder in words: the module's variable, the attribute, the key, the function whose variable it is."""
    if isinstance(found, FrameType):
        names = [n for n, v in found.f_locals.items() if v is held]
        return f"variable {', '.join(names) or '?'} of {found.f_code.co_name} ({found.f_code.co_filename}:{found.f_lineno})"
    if isinstance(found, dict):
        keys = [str(k) for k, v in found.items() if v is held][:1]
        owner = f" of module {found['__name__']}" if _is_module_dict(found) else ""
        return f"a dict at key {keys[0]!r}{owner}" if keys else "a dict"
    if isinstance(found, (list, tuple, set)):
        return f"a {type(found).__name__} of {len(found)}"
    attributes = [k for k, v in getattr(found, "__dict__", {}).items() if v is held and held is not None]
    return f"{type(found).__name__}{'.' + attributes[0] if attributes else ''}"


def _is_module_dict(found: Any) -> bool:
    return isinstance(found, dict) and "__name__" in found and "__spec__" in found


def _machine() -> tuple[int, int]:
    """Free and total bytes of the machine, or of the control group where that is tighter."""
    from llmguard.estimates.machine import host_memory
    from llmguard.probe.host import Host

    told = host_memory(Host())
    if told is not None:
        return told.free, told.total
    memory = psutil.virtual_memory()  # systems without /proc
    return int(memory.available), int(memory.total)
