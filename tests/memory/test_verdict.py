"""From numbers to a verdict: leak, cache, drift; at the edges of each limit."""

from __future__ import annotations

import pytest
from support.device_memory import KIB, MIB

from llmguard.memory.verdict import BUDGET, WINDOW, Drift, Kind, drift_of, is_falling, judge_growth, slope_of


@pytest.mark.parametrize(
    ("grown", "owned", "kind"),
    [
        (0, 0, Kind.CLEAN),
        (-5 * MIB, 0, Kind.CLEAN),
        (MIB, MIB, Kind.CLEAN),
        (MIB + 512, MIB, Kind.LEAK),
        (8 * MIB, 0, Kind.ONCE),
        (8 * MIB, 512 * KIB - 1, Kind.ONCE),
        (8 * MIB, 512 * KIB, Kind.LEAK),
    ],
)
def test_one_run_is_judged_by_who_holds_the_memory(grown: int, owned: int, kind: Kind) -> None:
    """Beyond the limit it is a leak if Python objects hold a good part of what is not allowed, else a library's."""
    assert judge_growth(grown, MIB, owned=owned) is kind


def test_nothing_is_allowed_where_the_limit_is_zero() -> None:
    """512 bytes that a tensor holds are a leak then."""
    assert judge_growth(512, 0, owned=512) is Kind.LEAK
    assert judge_growth(512, 0, owned=0) is Kind.ONCE


def test_what_still_falls_is_no_leak_yet() -> None:
    """Unless it is not beyond the limit anyway."""
    assert judge_growth(8 * MIB, MIB, owned=8 * MIB, falling=True) is Kind.FALLING
    assert judge_growth(MIB, MIB, owned=MIB, falling=True) is Kind.CLEAN


@pytest.mark.parametrize(
    ("readings", "falling"),
    [([8], False), ([8, 8, 8], False), ([8, 9, 7], True), ([8, 9, 8], False), ([7, 8], False), ([], False)],
)
def test_falling_is_less_at_the_end_than_at_the_beginning(readings: list[int], falling: bool) -> None:
    """By the resolution at least; noise between does not count."""
    assert is_falling([reading * MIB for reading in readings], MIB) is falling
    assert not is_falling([MIB, MIB - 511], 512)


@pytest.mark.parametrize(
    ("growths", "each", "leak"),
    [
        ((4, 4, 4, 4), 4, True),
        ((4, 3.5, 4), 3.5, True),
        ((9, 2, 2, 2), 2, True),
        ((9, 0, 0, 0), 0, False),
        ((9, 9, 9, 0), 0, False),
        ((0, 4, 4), 4, True),
        ((1, 1, 1), 1, False),
        ((1.1, 0.9, 0.9), 0.9, True),
        ((1.2, 0.9, 0.9), 0.9, False),
        ((9,), 0, False),
        ((4, -4, 4), -4, False),
    ],
)
def test_a_leak_is_a_slope_and_a_cache_a_step(growths: tuple[float, ...], each: float, leak: bool) -> None:
    """Every repeat grows by more than the limit (1 MiB), or by four fifths of a first growth beyond it."""
    slope = slope_of([int(growth * MIB) for growth in growths], MIB, 4 * KIB)
    assert (slope.each, slope.leak) == (int(each * MIB), leak)


def test_noise_is_no_slope() -> None:
    """A limit of zero does not make the resolution smaller."""
    assert not slope_of([4 * KIB, 4 * KIB, 4 * KIB], 0, 4 * KIB).leak
    assert slope_of([8 * KIB, 8 * KIB, 8 * KIB], 0, 4 * KIB).leak


def test_a_slope_outweighs_the_single_growth() -> None:
    """A cache that tensors fill is none; what leaks at each repeat is, whoever holds it."""
    cache, leak = slope_of([9 * MIB, 0, 0], MIB, 512), slope_of([9 * MIB] * 3, MIB, 512)
    assert judge_growth(9 * MIB, MIB, owned=9 * MIB, slope=cache) is Kind.ONCE
    assert judge_growth(27 * MIB, MIB, owned=0, slope=leak) is Kind.LEAK
    assert judge_growth(KIB, MIB, owned=0, slope=cache) is Kind.CLEAN


def first_drift(growths: list[int]) -> int | None:
    """After how many tests a drift is seen."""
    return next((n for n in range(1, len(growths) + 1) if drift_of(growths[:n], 512)), None)


@pytest.mark.parametrize(("each", "tests"), [(64, 20), (52, 20), (51, 25), (40, 31), (16, 72)])
def test_a_drift_is_found_when_it_has_cost_the_budget(each: int, tests: int) -> None:
    """64 KiB a test within 20 tests; less in more, never before 20."""
    assert first_drift([each * KIB] * 100) == tests


def test_a_drift_in_a_part_of_a_session_is_found() -> None:
    """A clean beginning hides nothing; tests between that leave nothing do not either, as long as most leave something."""
    assert first_drift([0] * 500 + [64 * KIB] * 40) == 516
    assert first_drift([64 * KIB, 64 * KIB, 0] * 20) is not None
    assert first_drift([64 * KIB] * 18 + [0] * 12 + [64 * KIB]) == 31


@pytest.mark.parametrize(
    "growths",
    [
        [0] * 1000,
        [400 * KIB] + [0] * 500,
        [400 * KIB if n % 10 == 0 else 0 for n in range(500)],
        [2 * KIB * (-1) ** n for n in range(1000)],
        [4 * KIB, 4 * KIB, 4 * KIB, 400 * KIB, 4 * KIB] * 40,
        [64 * KIB] * (WINDOW - 1),
        [256] * 10_000,
        [64 * KIB] * 15 + [-(15 * 64 * KIB)] + [0] * 500,
    ],
    ids=["clean", "once", "rarely", "noise", "caches-above-noise", "few", "below-resolution", "given-back"],
)
def test_what_is_no_drift(growths: list[int]) -> None:
    """Nothing, one cache, caches now and then, noise around zero, too few tests, and what is given back."""
    assert first_drift(growths) is None


def test_a_drift_tells_how_much() -> None:
    """Bytes over how many tests, and the middle one; only where the last test grew."""
    assert drift_of([64 * KIB] * 30, 512) == Drift(20 * 64 * KIB, 20, 64 * KIB)
    assert drift_of([64 * KIB] * 30 + [0], 512) is None
    assert BUDGET == MIB
