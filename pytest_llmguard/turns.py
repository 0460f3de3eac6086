"""Tests that compute on a GPU hold the lock of that GPU; none runs where its process has lost its context.

An error such as a device-side assert costs the whole process its GPU: every later call fails with the message of the first one. So the
test that lost it is found and named, and the GPU tests after it fail at once with that name; tests without a GPU go on.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Generator
from contextlib import ExitStack
from typing import Any

import pytest

from llmguard.placement import Held, Place, turn

__all__ = ["Turns", "refused_marker"]

COMPUTES = ("gpu", "gpu_memory", "sentinel")
"""Markers of tests that compute on a GPU where `--gpu` is given."""
REFUSED: pytest.StashKey[tuple[str, str]] = pytest.StashKey()
"""Why a test does not run: "skip" or "fail", and the reason."""
TURN = "LLMGUARD_GPU_TURN"
"""Set while a test has its turn: what it starts does not wait for it."""
LOOK = 0.1
"""Seconds that who has just had a turn leaves to those who wait for theirs."""


class Turns:
    """Tests that compute on a GPU, one at a time, or as many as fit; and none where the context is lost."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.wrong = self.lost = ""
        self.limited = False
        self.ended = 0.0

    @property
    def place(self) -> Place:
        """Where this process computes."""
        raise LookupError("a session or a worker knows")

    @property
    def caller(self) -> int:
        """How many GPUs the caller's list has."""
        return len(self.place.gpus)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Wait for a turn outside of all that measures a test's time; the outermost wrapper of a test."""
        if not _computes(item):
            return (yield)
        if REFUSED in item.stash:  # run once more, by a plugin that does so
            del item.stash[REFUSED]
        if refused := self._refused(item):
            item.stash[REFUSED] = refused
            return (yield)
        with ExitStack() as stack:
            try:
                self._wait(stack)
            except (Held, OSError) as why:
                item.stash[REFUSED] = "fail", f"not run: no turn on the GPU in time: {why}"
            result = yield
            self._leave()
            return result

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Tell why a test does not run, in one line; keep the others' share of the memory free."""
        how, why = item.stash.get(REFUSED, ("", ""))
        if how == "skip":
            pytest.skip(why)
        if how == "fail":
            pytest.fail(why, pytrace=False)
        if _computes(item):
            self._limit()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, None, None]:
        """A kernel fails later than it was started: ask while it is still known whose it was."""
        yield
        if not self.lost and REFUSED not in item.stash and _computes(item):
            found = _broken()
            if found:
                self.lost = f"{item.nodeid}: {found}"
                pytest.fail(f"the GPU context of this process was lost in this test: {found}", pytrace=False)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Remember the test that lost the context, whatever its markers."""
        report = yield
        if call.excinfo is not None and not self.lost and _is_poison(call.excinfo.value):
            self.lost = f"{item.nodeid}: {_first_line(call.excinfo.value)}"
        return report

    def _refused(self, item: pytest.Item) -> tuple[str, str] | None:
        if self.wrong:
            return "fail", self.wrong
        if self.lost:
            return "fail", f"not run: the GPU context of this process was lost in {self.lost}"
        count = _count(item)
        if isinstance(count, str):
            return "fail", count
        if count <= len(self.place.gpus) or not self.place.gpus:
            return None
        if count <= self.caller:
            return "skip", f"needs {count} GPUs at once, and a worker of xdist has one: run it with -n 0"
        return "skip", f"needs {count} GPUs, and {self.caller} can be used here"

    def _wait(self, stack: ExitStack) -> None:
        """Take a turn; whoever had the last one lets the others look first. A pytest that a GPU test starts is in its turn already."""
        if os.environ.get(TURN):
            return
        if self.place.workers > self.place.at_once:
            time.sleep(max(0.0, self.ended + LOOK - time.monotonic()))
        stack.enter_context(turn(self.place))
        os.environ[TURN] = str(os.getpid())
        stack.callback(os.environ.pop, TURN, None)

    def _leave(self) -> None:
        """What the allocator keeps unused is the others' now."""
        torch = sys.modules.get("torch")
        if self.place.shared and not self.lost and torch is not None and _started(torch):
            torch.cuda.empty_cache()
        self.ended = time.monotonic()

    def _limit(self) -> None:
        torch = sys.modules.get("torch")
        if self.limited or self.place.fraction is None or torch is None or not torch.cuda.is_available():
            return
        torch.cuda.set_per_process_memory_fraction(float(self.place.fraction))
        self.limited = True


def _computes(item: pytest.Item) -> bool:
    return any(item.get_closest_marker(name) for name in COMPUTES)


def refused_marker(mark: pytest.Mark) -> str:
    """What is wrong with a marker `gpu(…)`; "" where nothing is."""
    unknown = [*map(repr, mark.args), *(name for name in mark.kwargs if name != "count")]
    count = mark.kwargs.get("count", 1)
    if unknown or isinstance(count, bool) or not isinstance(count, int) or count < 1:
        got = ", ".join(unknown) or f"count={count!r}"
        return f"@pytest.mark.gpu takes count=, a whole number of GPUs, 1 or more; got {got}"
    return ""


def _count(item: pytest.Item) -> int | str:
    """How many GPUs a test needs at once; or what is wrong with its marker."""
    marks = list(item.iter_markers("gpu"))
    wrong = next(filter(None, map(refused_marker, marks)), "")
    return wrong or max((int(mark.kwargs.get("count", 1)) for mark in marks), default=1)


def _started(torch: Any) -> bool:
    """Whether this process has a context; asking makes none."""
    cuda = getattr(torch, "cuda", None)
    return bool(cuda is not None and hasattr(cuda, "is_initialized") and cuda.is_initialized())


def _broken() -> str:
    """What the GPU says of kernels that were started and have failed since; "" where nothing is wrong."""
    torch = sys.modules.get("torch")
    if torch is None or not _started(torch):
        return ""
    try:
        torch.cuda.synchronize()
    except RuntimeError as error:
        return _first_line(error) if _is_poison(error) else ""
    return ""


def _is_poison(error: BaseException) -> bool:
    from llmguard.memory.oom import classify

    return classify(error) == "poisoned"


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
