"""What is asked of a device about its memory, and which devices there are. Figures are bytes; None is "cannot be had here"."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

__all__ = ["LEVELS", "DeviceMemory", "Figures", "devices", "read", "use"]

LEVELS = ("allocated", "reserved", "driver", "device", "pinned")
"""From the exact to the coarse: what objects hold, what the allocator keeps, what the driver counts for this process and
its children, what is used on the whole device; and pinned host memory."""


@runtime_checkable
class DeviceMemory(Protocol):
    """One device. A reading never imports torch, never creates a context and never raises: it says None, and `why_not` says why."""

    @property
    def name(self) -> str:
        """The device as torch calls it: "cuda:0", "xpu:1", "mps:0", "cpu"."""
        ...

    @property
    def identity(self) -> str:
        """What stays the same whatever CUDA_VISIBLE_DEVICES says: UUID or PCI address; "" where there is none."""
        ...

    @property
    def resolution(self) -> int:
        """The smallest growth in bytes that means anything: 512 on a GPU, 4096 on the heap."""
        ...

    def allocated(self) -> int:
        """Bytes that objects hold, exactly; 0 before the device was first used."""
        ...

    def reserved(self) -> int | None:
        """Bytes that the allocator has taken from the device, what it keeps for later included."""
        ...

    def driver(self) -> int | None:
        """Bytes that the driver counts for this process and its children."""
        ...

    def processes(self) -> dict[int, int] | None:
        """The same, by process id."""
        ...

    def device_wide(self) -> tuple[int, int] | None:
        """Bytes used by anybody, and bytes that there are."""
        ...

    def pinned(self) -> int | None:
        """Bytes of page-locked host memory of this process; told by the first device of a kind alone."""
        ...

    def shared(self) -> bool | None:
        """Whether a process that is neither this one nor a child of it uses the device; None: not known."""
        ...

    def peak(self) -> int | None:
        """The most bytes that objects held since `reset_peak`."""
        ...

    def reset_peak(self) -> None:
        """Begin a new peak at what is held now."""
        ...

    def settle(self) -> None:
        """Wait for the device, drop the workspaces of its libraries, give back what the allocator keeps unused."""
        ...

    def warm(self) -> None:
        """Let what is taken once be taken: context, random generator, one matrix product for each dtype."""
        ...

    def objects(self, *, new: bool = False) -> list[Any]:
        """The live Python objects that hold bytes of it; `new`: only those made since `gc.freeze()`."""
        ...

    def why_not(self, level: str) -> str:
        """Why a level of `LEVELS` cannot be had here; "" where it can."""
        ...


@dataclass(frozen=True)
class Figures:
    """One reading of one device, in bytes; None for a level that cannot be had or was not asked for."""

    allocated: int = 0
    reserved: int | None = None
    driver: int | None = None
    device: int | None = None
    pinned: int | None = None

    def of(self, level: str) -> int | None:
        """The figure of a level of `LEVELS`."""
        value: int | None = getattr(self, level)
        return value


def read(device: DeviceMemory, levels: Sequence[str] = LEVELS) -> Figures:
    """Ask a device for some levels. `allocated` is always among them."""
    asked: dict[str, Callable[[], int | None]] = {
        "reserved": device.reserved,
        "driver": device.driver,
        "device": lambda: (device.device_wide() or (None,))[0],
        "pinned": device.pinned,
    }
    return Figures(device.allocated(), **{level: asked[level]() for level in levels if level in asked})


class _Chosen:
    devices: tuple[DeviceMemory, ...] | None = None


def use(chosen: Sequence[DeviceMemory] | None) -> None:
    """Measure these devices from now on, whatever the machine has; None: those that are found again."""
    _Chosen.devices = None if chosen is None else tuple(chosen)


def devices(*, heap: bool = True) -> tuple[DeviceMemory, ...]:
    """Every visible accelerator that torch (if it is loaded) can use; where there is none, the heap of this process.

    `heap=False`: accelerators alone.
    """
    if _Chosen.devices is not None:
        return _Chosen.devices
    from llmguard.memory.accelerators import accelerators

    found = accelerators()
    if found or not heap:
        return found
    from llmguard.memory.heap import heap_memory

    return (heap_memory(),)
