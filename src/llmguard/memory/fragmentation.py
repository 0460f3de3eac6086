"""Whether a device that is full is full, or only in pieces: what its allocator keeps, and the setting that helps."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Fragmentation", "fragmentation", "requested"]

_TRIED = re.compile(r"Tried to allocate ([\d.]+) ?(bytes|KiB|MiB|GiB|TiB)", re.IGNORECASE)
_UNITS = {"bytes": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}


@dataclass(frozen=True)
class Fragmentation:
    """What a device's caching allocator keeps, in bytes, at one moment.

    `largest`: the largest unused block. `pieces`: unused blocks of segments that are partly in use, so that they cannot be given
    back. `whole`: segments that are unused as a whole, which the allocator gives back before it says that memory is out. `free`: what
    the driver has left. `expandable`: segments that grow in place are in use already.
    """

    device: str
    allocated: int
    reserved: int
    free: int
    total: int
    largest: int
    pieces: int
    whole: int
    expandable: bool = False

    @property
    def usable(self) -> int:
        """The largest request that can be met now."""
        return max(self.largest, self.free + self.whole)

    def lacks(self, request: int) -> int:
        """How many bytes are missing for a request in one piece; 0 where it fits."""
        return max(request - self.usable, 0)

    def is_the_cause(self, request: int | None = None) -> bool:
        """Whether a request fails although so much is unused; without one, whether most of what is unused lies in pieces."""
        unused = self.free + self.whole + self.pieces
        if request is None:
            return self.pieces > self.free + self.whole and self.largest < self.pieces / 2
        return self.lacks(request) > 0 and request <= unused

    def advice(self, request: int | None = None) -> str:
        """The allocator's setting that helps; "" where memory is not in pieces."""
        if not self.is_the_cause(request):
            return ""
        unused = _gb(self.free + self.whole + self.pieces)
        told = f"Memory is fragmented: {unused} GB are unused, {_gb(self.usable)} GB of them in one piece."
        if self.expandable:
            return (
                f"{told} Segments are expandable already: pad or bucket batches to few lengths, or set "
                "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True,garbage_collection_threshold:0.8."
            )
        return f"{told} Set PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True before torch is imported."

    def told(self, request: int | None = None) -> str:
        """The report in one sentence; with a request, what it lacks."""
        told = (
            f"{self.device}: {_gb(self.allocated)} GB allocated, {_gb(self.reserved)} reserved, "
            f"{_gb(self.free)} of {_gb(self.total)} free, largest unused block {_gb(self.largest)} GB, "
            f"{_gb(self.pieces)} GB in pieces beside what is used"
        )
        if request and self.lacks(request):
            told += f"; a request of {_gb(request)} GB lacks {_gb(self.lacks(request))}"
        return told

    def __str__(self) -> str:
        return self.told()


def fragmentation(device: str) -> Fragmentation | None:
    """What the allocator of a device ("cuda:0", "xpu:1") keeps; None where it does not tell (a CPU, MPS), or torch is not loaded."""
    kind, _, number = device.partition(":")
    index = int(number or 0)
    backend = getattr(sys.modules.get("torch"), kind, None)
    snapshot = getattr(backend, "memory_snapshot", None) or getattr(
        getattr(backend, "memory", None), "memory_snapshot", None
    )
    if backend is None or snapshot is None or kind == "cpu":
        return None
    try:
        segments = [s for s in snapshot() if s.get("device") == index]
        free, total = backend.mem_get_info(index)
        allocated, reserved = backend.memory_allocated(index), backend.memory_reserved(index)
    except (RuntimeError, AssertionError):  # a lost device, or a torch that was built without it
        return None
    largest, pieces, whole = _unused(segments)
    expandable = any(s.get("is_expandable") for s in segments)
    return Fragmentation(
        device, int(allocated), int(reserved), int(free), int(total), largest, pieces, whole, expandable
    )


def requested(text: str) -> int | None:
    """The bytes of which an error says that it "tried to allocate" them; None where it does not."""
    found = _TRIED.search(text)
    return int(float(found[1]) * _UNITS[found[2].lower()]) if found else None


def _unused(segments: Iterable[Mapping[str, Any]]) -> tuple[int, int, int]:
    """The largest unused block, unused blocks of segments that are in use, and segments that are not."""
    largest = pieces = whole = 0
    for segment in segments:
        blocks = [b["size"] for b in segment["blocks"] if b["state"] == "inactive"]
        largest = max([largest, *blocks])
        if len(blocks) == len(segment["blocks"]):
            whole += sum(blocks)
        else:
            pieces += sum(blocks)
    return largest, pieces, whole


def _gb(size: int) -> str:
    return f"{size / 1e9:.2f}"
