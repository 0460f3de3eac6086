"""CUDA (and ROCm), XPU and MPS as torch sees them. Nothing is asked of a device that torch has not begun to use by itself."""

from __future__ import annotations

import contextlib
import functools
import platform
import sys
from pathlib import Path
from typing import Any

from llmguard.memory.interface import DeviceMemory

__all__ = ["Accelerator", "accelerators", "driver_is_here"]

FILES = {"cuda": ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd"), "xpu": ("/dev/dri",)}
"""What a kernel driver puts there: without one of them its runtime need not be asked."""
ROUND = {"cuda": 512, "xpu": 512, "mps": 256}
"""Bytes that the allocators round requests to."""
DTYPES = ("float32", "bfloat16", "float16")
UNUSED = "torch has not used the device yet"


def accelerators() -> tuple[DeviceMemory, ...]:
    """Every visible accelerator that the loaded torch can use, in torch's order; empty where torch is not loaded."""
    torch = sys.modules.get("torch")
    kind = _kind(torch) if torch is not None and hasattr(torch, "device") else ""
    if not kind:
        return ()
    count = 1 if kind == "mps" else int(getattr(torch, kind).device_count())
    return tuple(_accelerator(kind, index) for index in range(count))


def driver_is_here() -> bool:
    """Whether the driver of NVIDIA or AMD, or Apple's chip, is here; files alone are looked at (every screen has a /dev/dri)."""
    apple = sys.platform == "darwin" and platform.machine() == "arm64"
    return apple or any(Path(file).exists() for file in FILES["cuda"])


@functools.cache
def _accelerator(kind: str, index: int) -> Accelerator:
    return Accelerator(kind, index)


def _kind(torch: Any) -> str:
    """The kind of accelerator this torch was built for, if the machine may have one."""
    version = torch.version
    built = {
        "cuda": getattr(version, "cuda", None) or getattr(version, "hip", None),
        "xpu": getattr(version, "xpu", None),
    }
    for kind, files in FILES.items():
        if built[kind] and hasattr(torch, kind) and any(Path(file).exists() for file in files):
            return kind
    backends = getattr(torch, "backends", None)
    mps = getattr(backends, "mps", None)
    return "mps" if mps is not None and mps.is_available() else ""


class Accelerator:
    """One accelerator; see `DeviceMemory`."""

    def __init__(self, kind: str, index: int) -> None:
        self.kind, self.index = kind, index
        self.name = f"{kind}:{index}"
        self.resolution = ROUND[kind]
        self._reasons: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"Accelerator({self.name!r})"

    @property
    def _of(self) -> Any:
        """torch.cuda, torch.xpu, torch.mps."""
        return getattr(sys.modules["torch"], self.kind)

    @property
    def _used(self) -> bool:
        """Whether torch has begun to use this kind of device; asking earlier would make a context."""
        return "torch" in sys.modules and (self.kind == "mps" or bool(self._of.is_initialized()))

    @functools.cached_property
    def identity(self) -> str:
        """UUID, else PCI address, else ""."""
        if not self._used or self.kind == "mps":
            return ""
        properties = self._of.get_device_properties(self.index)
        uuid = getattr(properties, "uuid", None)
        if uuid is not None:
            return (
                f"GPU-{uuid}"
                if self.kind == "cuda" and not str(uuid).startswith(("GPU", "MIG"))
                else str(uuid)
            )
        bus = getattr(properties, "pci_bus_id", None)
        return "" if bus is None else f"pci {bus:02x}:{getattr(properties, 'pci_device_id', 0):02x}"

    def allocated(self) -> int:
        """Bytes that tensors hold, as the allocator counts them."""
        if not self._used:
            return 0
        if self.kind == "mps":
            return int(self._of.current_allocated_memory())
        return self._stat("allocated_bytes", "current", "memory_allocated")

    def reserved(self) -> int | None:
        """Bytes that the allocator has taken."""
        if not self._used:
            return 0
        if self.kind == "mps":
            return int(self._of.driver_allocated_memory())
        return self._stat("reserved_bytes", "current", "memory_reserved")

    def driver(self) -> int | None:
        """Bytes of this process and its children, from NVML."""
        told = self._processes()
        return self._told("driver", told if isinstance(told, str) else sum(told[0].values()))

    def processes(self) -> dict[int, int] | None:
        """The same by process id."""
        told = self._processes()
        return None if isinstance(told, str) else told[0]

    def device_wide(self) -> tuple[int, int] | None:
        """Used and total, by whomever."""
        told = self._everybody()
        if self._told("device", told if isinstance(told, str) else told[0]) is None:
            return None
        return None if isinstance(told, str) else told

    def pinned(self) -> int | None:
        """Bytes of page-locked memory that are handed out; one count a process, told by device 0."""
        return self._told("pinned", self._locked())

    def shared(self) -> bool | None:
        """Whether NVML lists a process on it that is not of ours."""
        told = self._processes()
        return None if isinstance(told, str) else told[1] > 0

    def peak(self) -> int | None:
        """Most bytes of tensors since `reset_peak`."""
        if not self._used:
            return 0
        return None if self.kind == "mps" else self._stat("allocated_bytes", "peak", "max_memory_allocated")

    def reset_peak(self) -> None:
        """Begin a new peak."""
        if self._used and self.kind != "mps":
            self._of.reset_peak_memory_stats(self.index)

    def settle(self) -> None:
        """Synchronise, clear cuBLAS workspaces, empty the cache. A context that is poisoned is left as it is."""
        if not self._used or not self._has_context:
            return
        torch = sys.modules["torch"]
        with contextlib.suppress(RuntimeError):
            if self.kind == "mps":
                self._of.synchronize()
            else:
                self._of.synchronize(self.index)
            getattr(torch._C, "_cuda_clearCublasWorkspaces", lambda: None)()
            self._of.empty_cache()

    def warm(self) -> None:
        """Context, generator, and a product for each dtype: what is taken once is taken now."""
        torch: Any = sys.modules["torch"]
        for name in DTYPES:
            with contextlib.suppress(RuntimeError, TypeError):  # a dtype that the device does not know
                one = torch.rand(64, 64, device=self.name).to(getattr(torch, name))
                (one @ one).sum().item()

    def objects(self, *, new: bool = False) -> list[Any]:
        """Live tensors on this device."""
        from llmguard.memory.tensors import live_tensors

        return live_tensors(self.name if self.kind != "mps" else "mps", frozen=not new)

    def why_not(self, level: str) -> str:
        """The reason noted by the last reading."""
        return self._reasons.get(level, "")

    @property
    def _has_context(self) -> bool:
        """Whether this very device was used: asking it for its free memory would make a context on it."""
        known = getattr(sys.modules["torch"]._C, "_cuda_hasPrimaryContext", None)
        return self.kind != "cuda" or known is None or bool(known(self.index))

    def _stat(self, name: str, which: str, function: str) -> int:
        """One number out of torch's raw statistics, which are many times cheaper than its functions."""
        raw = getattr(sys.modules["torch"]._C, f"_{self.kind}_memoryStats", None)
        if raw is None:
            return int(getattr(self._of, function)(self.index))
        return int(raw(self.index).get(name, {}).get("all", {}).get(which, 0))

    def _processes(self) -> tuple[dict[int, int], int] | str:
        """Bytes of each process of ours, and of all others; or why not."""
        if self.kind != "cuda":
            return f"there is no count per process for {self.kind}"
        if not self._used:
            return UNUSED
        from llmguard.memory.nvml import of_processes

        return of_processes(self.identity)

    def _everybody(self) -> tuple[int, int] | str:
        """Used and total, or why not."""
        if not self._used or not self._has_context:
            return UNUSED
        try:
            if self.kind == "mps":
                return int(self._of.driver_allocated_memory()), int(self._of.recommended_max_memory())
            free, total = self._of.mem_get_info(self.index)
        except (RuntimeError, AttributeError) as failed:
            return f"{type(failed).__name__}: {failed}"
        return int(total) - int(free), int(total)

    def _locked(self) -> int | str:
        """Pinned bytes, or why not."""
        if self.kind != "cuda":
            return f"not counted for {self.kind}"
        if self.index:
            return "one count a process: see cuda:0"
        if not hasattr(self._of, "host_memory_stats_as_nested_dict"):
            return "this torch does not count it (torch.cuda.host_memory_stats came later)"
        stats = self._of.host_memory_stats_as_nested_dict() if self._used else {}
        counted = stats.get("active_bytes") or stats.get("allocated_bytes") or {}
        return int(counted.get("current", 0) or counted.get("all", {}).get("current", 0))

    def _told(self, level: str, answer: int | str) -> int | None:
        """The number; or None, with the reason noted."""
        if isinstance(answer, str):
            self._reasons[level] = answer
            return None
        self._reasons.pop(level, None)
        return answer
