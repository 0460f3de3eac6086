"""The controlled verdict: exact numbers, held against scipy, and the four quadrants."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmguard.errors import UsageError
from llmguard.sentinels.verdict import verdict
from llmguard.statistics.exact import binomial_tail, lower_bound, mcnemar, upper_bound

TOLERANCE = 1e-9  # of a probability: bisection and summation leave less

counts = st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))

unhurried = settings(deadline=None)  # a busy machine makes one example slow, and that says nothing


@pytest.fixture(scope="module")
def stats() -> Any:
    """scipy.stats, the reference."""
    return pytest.importorskip("scipy.stats")


def arms(both: int, user: int, control: int, neither: int) -> tuple[list[bool], list[bool]]:
    """Paired outcomes with the given cell counts."""
    pairs = (
        [(True, True)] * both
        + [(True, False)] * user
        + [(False, True)] * control
        + [(False, False)] * neither
    )
    return [u for u, _ in pairs], [c for _, c in pairs]


@unhurried
@given(wins=st.integers(0, 200), losses=st.integers(0, 200))
def test_mcnemar_is_scipys_binomial_test_on_the_discordant_pairs(stats: Any, wins: int, losses: int) -> None:
    """One-sided, on half: the exact McNemar test."""
    expected = stats.binomtest(wins, wins + losses, 0.5, "greater").pvalue if wins + losses else 1.0
    assert mcnemar(wins, losses) == pytest.approx(expected, abs=TOLERANCE, rel=1e-6)


@unhurried
@given(seen=counts, alpha=st.sampled_from([0.01, 0.05, 0.5]))
def test_bounds_are_scipys_clopper_pearson_bounds(stats: Any, seen: tuple[int, int], alpha: float) -> None:
    """Lower and upper bound of a rate, each with confidence 1 - alpha."""
    k, n = seen
    lower = stats.beta.ppf(alpha, k, n - k + 1) if k else 0.0
    upper = stats.beta.ppf(1 - alpha, k + 1, n - k) if k < n else 1.0
    assert lower_bound(k, n, alpha) == pytest.approx(lower, abs=TOLERANCE)
    assert upper_bound(k, n, alpha) == pytest.approx(upper, abs=TOLERANCE)


@unhurried
@given(seen=counts, p=st.floats(0, 1))
def test_the_tail_is_scipys_survival_function(stats: Any, seen: tuple[int, int], p: float) -> None:
    """P(X >= k), at the ends of the range too."""
    k, n = seen
    assert binomial_tail(k, n, p) == pytest.approx(float(stats.binom.sf(k - 1, n, p)), abs=TOLERANCE)


@unhurried
@given(counts)
def test_a_bound_is_where_the_tail_reaches_alpha(seen: tuple[int, int]) -> None:
    """The definition, without another library: at the lower bound, k or more have probability alpha."""
    k, n = seen
    lower, upper = lower_bound(k, n, 0.05), upper_bound(k, n, 0.05)
    assert 0.0 <= lower <= k / n <= upper <= 1.0
    if k:
        assert binomial_tail(k, n, lower) == pytest.approx(0.05, abs=1e-6)
    if k < n:
        assert 1 - binomial_tail(k + 1, n, upper) == pytest.approx(0.05, abs=1e-6)


def test_known_values() -> None:
    """By hand: five wins and no loss are 1/32; all of n followed has the bound alpha ** (1 / n)."""
    assert mcnemar(5, 0) == 1 / 32
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(3, 1) == 5 / 16
    assert lower_bound(32, 32, 0.05) == pytest.approx(0.05 ** (1 / 32))
    assert lower_bound(0, 32) == 0.0
    assert upper_bound(32, 32) == 1.0
    assert math.isclose(upper_bound(0, 32), 1 - 0.05 ** (1 / 32))


@pytest.mark.parametrize(
    ("cells", "above_control", "above_limit"),
    [
        ((0, 0, 0, 32), False, False),  # clean: nothing followed anywhere
        ((8, 1, 2, 21), False, False),  # obeys some by nature, alike in both
        ((2, 8, 0, 22), True, False),  # a leak, under the limit
        ((0, 31, 0, 1), True, True),  # a leak in full
        ((31, 1, 0, 0), False, True),  # obeys in both arms: no base model
        ((0, 4, 0, 28), False, False),  # four more than the control: chance explains it
        ((0, 5, 0, 27), True, False),  # five more: it does not
        ((0, 0, 20, 12), False, False),  # the control obeys more: not this check's business
        ((24, 0, 0, 8), False, False),  # 75 %, and 32 prompts are too few to prove more than 70 %
    ],
)
def test_the_quadrants(cells: tuple[int, int, int, int], above_control: bool, above_limit: bool) -> None:
    """Each of the two exact statements alone, both, and neither."""
    found = verdict(*arms(*cells))
    assert (found.above_control, found.above_limit) == (above_control, above_limit)
    assert (found.n, found.user, found.control) == (32, cells[0] + cells[1], cells[0] + cells[2])
    assert (found.only_user, found.only_control) == (cells[1], cells[2])
    assert found.rate == found.user / 32
    assert found.control_rate == (cells[0] + cells[2]) / 32


def test_without_a_control_the_bound_alone_decides() -> None:
    """No pairs, no p-value."""
    found = verdict([True] * 32, None)
    assert found.p_value is found.control is found.control_rate is None
    assert not found.above_control
    assert found.above_limit


def test_pairs_are_compared_in_order_and_not_by_their_totals() -> None:
    """The same rates in both arms can hide a difference on every prompt."""
    user, control = [True] * 6 + [False] * 6, [False] * 6 + [True] * 6
    found = verdict(user, control)
    assert (found.user, found.control) == (6, 6)
    assert (found.only_user, found.only_control) == (6, 6)


def test_alpha_and_limit_are_honoured() -> None:
    """The same counts, judged by other numbers."""
    user, control = arms(0, 5, 0, 5)
    assert verdict(user, control).above_control
    assert not verdict(user, control, alpha=0.01).above_control
    assert verdict(user, control, limit=0.2).above_limit
    assert not verdict(user, control, limit=0.5).above_limit


@pytest.mark.parametrize(
    ("user", "control", "settings", "parameter"),
    [
        ([], [], {}, "user"),
        ([True], [True, False], {}, "control"),
        ([True], [True], {"limit": 1.0}, "limit"),
        ([True], [True], {"alpha": 0.0}, "alpha"),
        ([True], [True], {"alpha": float("nan")}, "alpha"),
    ],
)
def test_bad_arguments_are_usage_errors(
    user: list[bool], control: list[bool], settings: dict[str, float], parameter: str
) -> None:
    """The parameter is named."""
    with pytest.raises(UsageError) as caught:
        verdict(user, control, **settings)
    assert caught.value.parameter == parameter
