"""From numbers to a verdict, and nothing else: what is a leak, what is warm-up, what is a drift. Pure functions on bytes.

A growth is a *candidate*; it is confirmed by what holds it (Python objects), by looking again (memory that still falls is none),
by repeating the test (a cache is a step, a leak is a slope), or by the session (a slope over many tests).
"""

from __future__ import annotations

import enum
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Drift", "Kind", "Slope", "drift_of", "is_falling", "judge_growth", "slope_of"]

STEADY = 0.8
"""A repeat that grows by this part of the first growth, or more, is the same leak again."""
WINDOW = 20
"""Tests that a drift is read from, at least."""
LONGEST = 1000
"""Tests that a drift is read from, at most."""
BUDGET = 2**20
"""Bytes that a session may drift by, for each device."""
PART = 0.5
"""Part of a growth that Python objects must hold to be called its owners."""


class Kind(str, enum.Enum):
    """What a growth is."""

    CLEAN = "clean"
    ONCE = "once"
    FALLING = "falling"
    LEAK = "leak"


@dataclass(frozen=True)
class Slope:
    """What repeating a test said: growth of each repeat in bytes, and of how many bytes a repeat."""

    growths: tuple[int, ...]
    each: int
    leak: bool


@dataclass(frozen=True)
class Drift:
    """What a session lost by and by: bytes, over how many tests, and bytes a test in the middle of them."""

    grown: int
    tests: int
    each: int


def slope_of(growths: Sequence[int], limit: int, resolution: int) -> Slope:
    """Growth of the first run and of its repeats: a leak if every repeat grows by as much as the first, or by more than the limit.

    The smallest repeat counts: a cache that fills up in steps has one that does not grow.
    """
    first, *repeats = growths
    each = min(repeats, default=0)
    real = each > resolution
    return Slope(tuple(growths), each, real and (each > limit or (first > limit and each >= STEADY * first)))


def is_falling(readings: Sequence[int], resolution: int) -> bool:
    """Whether what was read one after the other goes down: the memory of a process that has just died."""
    return len(readings) > 1 and readings[0] - readings[-1] >= resolution


def judge_growth(
    grown: int, limit: int, *, owned: int, slope: Slope | None = None, falling: bool = False
) -> Kind:
    """One test, one device, one level: `grown` bytes after collection, of which new Python objects hold `owned`.

    Without repeats, what nobody in Python holds is a library's (a workspace, a graph pool, a compiled kernel): it is noted,
    and found by the session's drift if it goes on.
    """
    if slope is not None:
        return Kind.LEAK if slope.leak else Kind.ONCE if grown > limit else Kind.CLEAN
    if grown <= limit:
        return Kind.CLEAN
    if falling:
        return Kind.FALLING
    return Kind.LEAK if owned >= PART * min(grown, max(limit, 1)) or owned > limit else Kind.ONCE


def drift_of(growths: Sequence[int], resolution: int, budget: int = BUDGET) -> Drift | None:
    """A drift up to the last of the tests that were no leaks themselves, given what each left, in order; None where there is none.

    Over some stretch that ends here most tests must have grown, and what the middle one left must pass the budget when it is
    taken as often as tests grew: one test that fills a cache is none, nor is noise around zero.
    """
    if not growths or growths[-1] < resolution:
        return None
    length = WINDOW
    while length <= min(len(growths), LONGEST):
        last = growths[-length:]
        typical, grew = int(statistics.median(last)), sum(growth >= resolution for growth in last)
        if typical * grew >= budget:
            return Drift(sum(last), length, typical)
        length += max(length // 4, 1)
    return None
