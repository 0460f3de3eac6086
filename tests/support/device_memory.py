"""A GPU's memory, faithfully, without one: a caching allocator, a driver that lags, other processes, pinned memory.

    from support.device_memory import FakeDevice, installed

    gpu = FakeDevice()                       # "cuda:0", 80 GiB; the interface of llmguard.memory
    tensor = gpu.tensor(3 * MIB)             # a Python object: its bytes are held as long as somebody holds it
    with installed(gpu): ...                 # `llmguard.memory.devices()` gives this one

What it copies: requests are rounded to 512 bytes; blocks come out of segments (2 MiB for requests up to 1 MiB, 20 MiB up to 10 MiB, else
multiples of 2 MiB) that go back to the driver when they are wholly free and the cache is emptied; the first product on a device takes a
workspace, which lasts until it is cleared; a context is there from the first use on; a killed process gives its memory back late; pinned
memory comes in powers of two; a process may be held to a fraction of the device.
"""

from __future__ import annotations

import contextlib
import gc
import os
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from llmguard import memory

__all__ = ["GIB", "KIB", "MIB", "FakeChild", "FakeDevice", "FakeOutOfMemoryError", "FakeTensor", "installed"]

KIB, MIB, GIB = 2**10, 2**20, 2**30
ROUND, SMALL, SMALL_SEGMENT, LARGE, LARGE_SEGMENT, STEP = 512, MIB, 2 * MIB, 10 * MIB, 20 * MIB, 2 * MIB
CONTEXT = 480 * MIB
WORKSPACE = 8 * MIB + 128 * KIB


def _up(size: int, unit: int) -> int:
    return max(-(-size // unit), 1) * unit


class FakeOutOfMemoryError(RuntimeError):
    """Stands for torch.OutOfMemoryError, with its words."""


class FakeTensor:
    """An object that holds bytes of a device; they are given back when nobody holds the object."""

    def __init__(self, device: FakeDevice, nbytes: int, *, pinned: bool = False) -> None:
        self.device, self.nbytes, self.is_pinned = device.name, nbytes, pinned
        take, give = (device.pin, device.unpin) if pinned else (device.allocate, device.free)
        final = weakref.finalize(self, give, take(nbytes))
        final.atexit = False
        device.tensors.add(self)

    def __repr__(self) -> str:
        return f"FakeTensor({self.nbytes} bytes, device='{self.device}')"


@dataclass(eq=False)
class Block:
    """A stretch of a segment."""

    segment: Segment
    size: int
    free: bool = True


@dataclass(eq=False)
class Segment:
    """What was taken from the driver in one piece."""

    size: int
    small: bool
    blocks: list[Block] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.blocks.append(Block(self, self.size))

    def split(self, block: Block, size: int) -> Block:
        """Take the first bytes of a block; what is left stays free, if it is worth it."""
        rest = block.size - size
        if rest >= (ROUND if self.small else SMALL + 1):
            self.blocks.insert(self.blocks.index(block) + 1, Block(self, rest))
            block.size = size
        block.free = False
        return block

    def join(self) -> None:
        """Free neighbours become one."""
        joined: list[Block] = []
        for block in self.blocks:
            if joined and joined[-1].free and block.free:
                joined[-1].size += block.size
            else:
                joined.append(block)
        self.blocks = joined

    @property
    def idle(self) -> bool:
        """Whether all of it is free."""
        return all(block.free for block in self.blocks)


@dataclass(eq=False)
class FakeChild:
    """A process of ours with memory on the device. Killed, it gives it back `late` seconds later, over `over` seconds."""

    device: FakeDevice
    size: int
    late: float = 0.0
    over: float = 0.0
    killed: float | None = None
    pid: int = 0

    def kill(self) -> None:
        """End it; the driver takes its time."""
        self.killed = self.device.clock()

    def held(self) -> int:
        """Bytes that the driver still counts for it."""
        if self.killed is None:
            return self.size
        gone = self.device.clock() - self.killed - self.late
        if gone < 0:
            return self.size
        return int(self.size * max(1 - gone / self.over, 0)) if self.over else 0


@dataclass(eq=False)
class FakeDevice:
    """One device; `memory.DeviceMemory`. `hides` names levels that cannot be had, with the reason (MIG, WSL, a container)."""

    name: str = "cuda:0"
    total: int = 80 * GIB
    identity: str = "GPU-00000000-0000-0000-0000-000000000000"
    clock: Callable[[], float] = time.monotonic
    clears_workspaces: bool = True
    hides: dict[str, str] = field(default_factory=dict)
    others: int | Callable[[], int] = 0
    fraction: float = 1.0
    resolution: int = ROUND
    segments: list[Segment] = field(default_factory=list)
    children: list[FakeChild] = field(default_factory=list)
    workspaces: dict[object, Block] = field(default_factory=dict)
    kept: dict[object, Block] = field(default_factory=dict)
    raw: int = 0
    used: bool = False
    tensors: weakref.WeakSet[FakeTensor] = field(default_factory=weakref.WeakSet)
    calls: dict[str, int] = field(default_factory=dict)
    _held: int = 0
    _peak: int = 0
    _pinned: int = 0

    # what a test does to it

    def tensor(self, nbytes: int) -> FakeTensor:
        """An object that holds so many bytes."""
        return FakeTensor(self, nbytes)

    def pinned_tensor(self, nbytes: int) -> FakeTensor:
        """An object that holds so many bytes of page-locked host memory."""
        return FakeTensor(self, nbytes, pinned=True)

    def allocate(self, nbytes: int) -> Block:
        """Take bytes as torch's allocator does.

        Raises:
            FakeOutOfMemoryError: neither the cache, nor the device, nor the cache given back has room.
        """
        self.used = True
        size = _up(nbytes, ROUND)
        small = size <= SMALL
        block = self._fitting(size, small)
        if block is None:
            block = self._new_segment(size, small, nbytes).blocks[0]
        taken = block.segment.split(block, size)
        self._held += taken.size
        self._peak = max(self._peak, self._held)
        return taken

    def free(self, block: Block) -> None:
        """Give a block back to the cache."""
        block.free = True
        self._held -= block.size
        block.segment.join()

    def pin(self, nbytes: int) -> int:
        """Take page-locked host memory, in powers of two."""
        size: int = 1 << max(nbytes - 1, 0).bit_length()
        self._pinned += size
        return size

    def unpin(self, size: int) -> None:
        """Give it back."""
        self._pinned -= size

    def multiply(self, stream: object = 0) -> None:
        """A matrix product: the first on a stream takes a workspace, which stays until it is cleared."""
        if stream not in self.workspaces:
            self.workspaces[stream] = self.allocate(WORKSPACE)

    def compile(self, what: object, nbytes: int) -> None:
        """A graph pool or a compiled kernel: taken once, kept for ever."""
        if what not in self.kept:
            self.kept[what] = self.allocate(nbytes)

    def child(self, nbytes: int, *, pid: int = 0, late: float = 0.0, over: float = 0.0) -> FakeChild:
        """Let a process of ours hold bytes."""
        self.children.append(FakeChild(self, nbytes, late, over, pid=pid))
        return self.children[-1]

    def set_fraction(self, fraction: float) -> None:
        """Hold this process to a part of the device.

        Raises:
            ValueError: below 0 or above 1, as torch says it.
        """
        if not 0 <= fraction <= 1:
            raise ValueError(f"Invalid fraction value: {fraction}. Allowed range: 0~1")
        self.fraction = fraction

    def empty_cache(self) -> None:
        """Give segments that are wholly free back to the driver."""
        self.segments = [segment for segment in self.segments if not segment.idle]

    # what it is asked: memory.DeviceMemory

    def allocated(self) -> int:
        """Bytes in blocks."""
        self._count("allocated")
        return self._held

    def reserved(self) -> int | None:
        """Bytes in segments."""
        return self._told("reserved", sum(segment.size for segment in self.segments))

    def driver(self) -> int | None:
        """Context, segments, what was taken past the allocator, children."""
        return self._told("driver", self._ours() + sum(child.held() for child in self.children))

    def processes(self) -> dict[int, int] | None:
        """This process, and its children by the ids that they were given."""
        if self.driver() is None:
            return None
        return {os.getpid(): self._ours()} | {c.pid: c.held() for c in self.children if c.held()}

    def device_wide(self) -> tuple[int, int] | None:
        """All of it, and other processes."""
        used = self._told("device", self._everything())
        return None if used is None else (used, self.total)

    def pinned(self) -> int | None:
        """Page-locked host memory."""
        return self._told("pinned", self._pinned)

    def shared(self) -> bool | None:
        """Whether others are there."""
        return None if "device" in self.hides else self._others() > 0

    def peak(self) -> int | None:
        """Highest sum of blocks."""
        return self._peak

    def reset_peak(self) -> None:
        """Start at what is held."""
        self._peak = self._held

    def settle(self) -> None:
        """Clear workspaces where this torch can; empty the cache."""
        self._count("settle")
        if self.clears_workspaces:
            for block in self.workspaces.values():
                self.free(block)
            self.workspaces.clear()
        self.empty_cache()

    def warm(self) -> None:
        """Context and the workspace of the main stream."""
        self.used = True
        self.multiply()

    def objects(self, *, new: bool = False) -> list[Any]:
        """Tensors that are alive; `new`: those that the collector sees, for what was frozen it does not."""
        alive = list(self.tensors)
        visible = {id(each) for each in gc.get_objects()} if new else None
        return [tensor for tensor in alive if visible is None or id(tensor) in visible]

    def why_not(self, level: str) -> str:
        """What `hides` says."""
        return self.hides.get(level, "")

    def _count(self, name: str) -> None:
        self.calls[name] = self.calls.get(name, 0) + 1

    def _told(self, level: str, value: int) -> int | None:
        self._count(level)
        return None if level in self.hides else value

    def _ours(self) -> int:
        return sum(segment.size for segment in self.segments) + self.raw + (CONTEXT if self.used else 0)

    def _others(self) -> int:
        return self.others() if callable(self.others) else self.others

    def _everything(self) -> int:
        return self._ours() + sum(child.held() for child in self.children) + self._others()

    def _fitting(self, size: int, small: bool) -> Block | None:
        """The smallest free block of the pool that is large enough."""
        free = (
            block
            for s in self.segments
            if s.small == small
            for block in s.blocks
            if block.free and block.size >= size
        )
        return min(free, key=lambda block: block.size, default=None)

    def _new_segment(self, size: int, small: bool, asked: int) -> Segment:
        need = SMALL_SEGMENT if small else LARGE_SEGMENT if size < LARGE else _up(size, STEP)
        if not self._has_room(need):
            self.empty_cache()
        if not self._has_room(need):
            raise FakeOutOfMemoryError(self._out_of_memory(asked))
        self.segments.append(Segment(need, small))
        return self.segments[-1]

    def _has_room(self, need: int) -> bool:
        ours = sum(segment.size for segment in self.segments)
        return ours + need <= self.total * self.fraction and self._everything() + need <= self.total

    def _out_of_memory(self, asked: int) -> str:
        reserved = sum(segment.size for segment in self.segments)
        limit = f" {self.fraction * self.total / GIB:.2f} GiB allowed;" if self.fraction < 1 else ""
        return (
            f"CUDA out of memory. Tried to allocate {asked / MIB:.2f} MiB. GPU {self.name.partition(':')[2]} has a total capacity of"
            f" {self.total / GIB:.2f} GiB of which {max(self.total - self._everything(), 0) / MIB:.2f} MiB is free."
            f" Including non-PyTorch memory, this process has {self._ours() / GIB:.2f} GiB memory in use.{limit} Of the allocated"
            f" memory {self._held / GIB:.2f} GiB is allocated by PyTorch, and {(reserved - self._held) / MIB:.2f} MiB is reserved by"
            " PyTorch but unallocated. If reserved but unallocated memory is large try setting"
            " PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True to avoid fragmentation."
        )


@contextlib.contextmanager
def installed(*fakes: Any) -> Iterator[None]:
    """Let everything that measures measure these."""
    memory.use(fakes)
    try:
        yield
    finally:
        memory.use(None)
