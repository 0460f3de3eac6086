"""Host memory of this process: what glibc's malloc has handed out; where that cannot be asked, the storages of live tensors."""

from __future__ import annotations

import ctypes
import functools
import os
from typing import Any

__all__ = ["HeapMemory", "heap_memory"]

PROBE = 2**20
PAGE = 4096
"""Resolution: what a process does by the way stays below."""
PRELOADS = ("jemalloc", "tcmalloc", "mimalloc")
NO_LEVEL = {
    "reserved": "the heap has no allocator of torch's between",
    "driver": "host memory has no driver",
    "device": "host memory is the whole machine's",
    "pinned": "no GPU runtime is loaded",
}


class _Mallinfo2(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()
    )


@functools.cache
def heap_memory() -> HeapMemory:
    """The heap of this process; how it is read is tried out once."""
    return HeapMemory()


class HeapMemory:
    """Host memory as a device; see `DeviceMemory`. `by` says how it is read, `because` why not more finely."""

    name = "cpu"
    identity = ""

    def __init__(self) -> None:
        self._ask, self.because = _mallinfo2()
        self.by = "glibc mallinfo2" if self._ask is not None else "storages of live tensors"
        self.resolution = PAGE if self._ask is not None else 1
        self._start = 0

    def allocated(self) -> int:
        """Bytes in blocks of malloc, mapped ones included; else bytes of tensor storages that the collector can see."""
        if self._ask is None:
            from llmguard.memory.tensors import size_of

            return sum(size_of(tensor) for tensor in self.objects())
        told = self._ask()
        return int(told.uordblks + told.hblkhd)

    def reserved(self) -> int | None:
        """Not here."""
        return None

    def driver(self) -> int | None:
        """Not here."""
        return None

    def processes(self) -> dict[int, int] | None:
        """Not here."""
        return None

    def device_wide(self) -> tuple[int, int] | None:
        """Not here: what is used on the machine is used by others."""
        return None

    def pinned(self) -> int | None:
        """Not here."""
        return None

    def shared(self) -> bool | None:
        """A heap is nobody else's."""
        return False

    def peak(self) -> int | None:
        """The heap keeps no peak."""
        return None

    def reset_peak(self) -> None:
        """Nothing to reset."""

    def settle(self) -> None:
        """Nothing is kept back: what was freed is not counted."""

    def warm(self) -> None:
        """Nothing is taken once."""

    def objects(self, *, new: bool = False) -> list[Any]:
        """Live tensors in host memory."""
        from llmguard.memory.tensors import live_tensors

        return live_tensors(self.name, frozen=not new)

    def why_not(self, level: str) -> str:
        """Host memory has one level."""
        return NO_LEVEL.get(level, "")


def _mallinfo2() -> tuple[Any, str]:
    """The function, if it sees a block of known size come and go; else None and the reason."""
    preload = os.environ.get("LD_PRELOAD", "") + os.environ.get("DYLD_INSERT_LIBRARIES", "")
    other = next((name for name in PRELOADS if name in preload), "")
    try:
        library = ctypes.CDLL(None)
        ask = library.mallinfo2
    except (OSError, AttributeError, TypeError):
        return None, "this C library has no mallinfo2 (it came with glibc 2.33; musl and macOS have none)"
    ask.restype = _Mallinfo2
    if not _sees(library, ask):
        return None, f"mallinfo2 does not see what is allocated: malloc is {other or 'another library'}'s"
    return ask, ""


def _sees(library: Any, ask: Any) -> bool:
    """Whether a block of 1 MiB, and a small one, come and go in the numbers."""
    library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    library.free.restype, library.free.argtypes = None, [ctypes.c_void_p]
    for size in (PROBE, PAGE):
        before = ask().uordblks + ask().hblkhd
        block = library.malloc(size)
        grown = ask().uordblks + ask().hblkhd - before
        library.free(block)
        if not size <= grown <= size + PAGE:
            return False
    return True
