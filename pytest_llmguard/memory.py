"""Memory that torch's allocator holds on the GPUs, before and after a test."""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

__all__ = ["GpuMemory", "Judge", "watch"]

WATCHED: pytest.StashKey[Watch] = pytest.StashKey()
MIB = 2**20


@dataclass(frozen=True)
class GpuMemory:
    """Readings of torch's caching allocator, summed over all GPUs, in bytes. `start`: what was held at the beginning."""

    start: int

    @classmethod
    def of_this_process(cls) -> GpuMemory:
        """Start measuring; skips the test where torch is not imported yet or sees no GPU."""
        cuda = _cuda()
        if cuda is None:
            pytest.skip("no GPU memory to measure: torch is not imported, or sees no GPU")
        _settle()
        for device in range(cuda.device_count()):
            cuda.reset_peak_memory_stats(device)
        return cls(_held(cuda))

    @property
    def allocated(self) -> int:
        """Bytes that tensors hold now."""
        return _held(_cuda())

    @property
    def peak(self) -> int:
        """The most bytes that tensors held since the beginning (sum of the peaks of all GPUs)."""
        cuda = _cuda()
        return sum(int(cuda.max_memory_allocated(d)) for d in range(cuda.device_count()))

    @property
    def grown(self) -> int:
        """Bytes held now beyond the beginning, once garbage is collected."""
        _settle()
        return self.allocated - self.start


@dataclass(frozen=True)
class Watch:
    """What a test that is marked `gpu_memory(…)` may leave and use, and what was held before it."""

    leak: int | None
    peak: int | None
    start: int
    failed: int


def watch(item: pytest.Item, marker: pytest.Mark) -> None:
    """Read the allocator before a test's fixtures; a wrong marker is one clean line."""
    try:
        limits = _limits(marker)
    except ValueError as bad:
        pytest.fail(f"@pytest.mark.gpu_memory: {bad}", pytrace=False)
    cuda = _cuda()
    start = GpuMemory.of_this_process().start if cuda is not None else 0
    if not item.config.pluginmanager.hasplugin("llmguard-memory"):
        item.config.pluginmanager.register(Judge(), "llmguard-memory")
    item.stash[WATCHED] = Watch(limits.get("leak"), limits.get("peak"), start, item.session.testsfailed)


class Judge:
    """Registered when the first test with limits is set up: reads the allocator after its fixtures are gone."""

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Iterator[None]:
        """Judge the test; one that failed holds its frames: it is not judged."""
        yield
        watched = item.stash.get(WATCHED, None)
        if watched is not None and item.session.testsfailed == watched.failed:
            _judge(watched)


def _judge(watched: Watch) -> None:
    if _cuda() is None:
        pytest.skip("gpu_memory could not be measured: the test did not import torch, or torch saw no GPU")
    reading = GpuMemory(watched.start)
    used = reading.peak - watched.start
    if watched.peak is not None and used > watched.peak:
        pytest.fail(_told("used", used, "peak", watched.peak), pytrace=False)
    if watched.leak is not None and reading.grown > watched.leak:
        pytest.fail(_told("left behind", reading.grown, "leak", watched.leak), pytrace=False)


def _told(did: str, size: int, name: str, limit: int) -> str:
    why = {
        "peak": "the run may not fit beside what else lives on the GPU",
        "leak": "what one test leaves is missing to all that follow",
    }[name]
    return f"the test {did} {size / MIB:.2f} MiB of GPU memory; gpu_memory({name}=…) allows {limit / MIB:.2f} MiB; {why}"


def _limits(marker: pytest.Mark) -> dict[str, int]:
    unknown = [*map(repr, marker.args), *(k for k in marker.kwargs if k not in ("leak", "peak"))]
    if unknown or not marker.kwargs:
        raise ValueError(
            f"it takes leak= and peak= by keyword, each a size such as '2 GiB'; got {', '.join(unknown) or 'neither'}"
        )
    return {name: _size(name, value) for name, value in marker.kwargs.items()}


def _size(name: str, value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if isinstance(value, str):
        from llmguard.project.schema import parse_size

        with contextlib.suppress(ValueError):
            return parse_size(value)
    raise ValueError(f"{name}={value!r} is not allowed: expected bytes, or a size such as '512 MiB'")


def _cuda() -> Any:
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_available() else None


def _held(cuda: Any) -> int:
    return sum(int(cuda.memory_allocated(d)) for d in range(cuda.device_count()))


def _settle() -> None:
    gc.collect()
    gc.collect()
