"""Exact tests and intervals of counts, held against scipy, statsmodels and published examples."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmguard.errors import UsageError
from llmguard.statistics.exact import clopper_pearson, mcnemar, mcnemar_two_sided, quantile, wilson

counts = st.integers(0, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
unhurried = settings(
    deadline=None, max_examples=60
)  # a busy machine makes one example slow, and that says nothing


@pytest.fixture(scope="module")
def proportion() -> Any:
    """statsmodels' intervals of proportions, the reference."""
    return pytest.importorskip("statsmodels.stats.proportion").proportion_confint


@unhurried
@given(seen=counts, alpha=st.sampled_from([0.001, 0.05, 0.32]))
def test_intervals_are_those_of_statsmodels(proportion: Any, seen: tuple[int, int], alpha: float) -> None:
    """Clopper-Pearson (`beta`) and Wilson, at every count and level."""
    k, n = seen
    if not n:
        return
    for ours, method in ((clopper_pearson(k, n, alpha), "beta"), (wilson(k, n, alpha), "wilson")):
        low, high = proportion(k, n, alpha, method)
        assert ours.low == pytest.approx(0.0 if k == 0 else low, abs=1e-9)
        assert ours.high == pytest.approx(1.0 if k == n else high, abs=1e-9)


def test_published_intervals() -> None:
    """Agresti and Coull 1998: nobody of 20 gives 0 to 0.168; Newcombe 1998, table I: 81 of 263 and 15 of 148."""
    assert clopper_pearson(0, 20).high == pytest.approx(0.168, abs=5e-4)
    for k, n, exact, score in (
        (81, 263, (0.2527, 0.3676), (0.2553, 0.3662)),
        (15, 148, (0.0578, 0.1617), (0.0624, 0.1605)),
        (0, 20, (0.0, 0.1684), (0.0, 0.1611)),
        (1, 29, (0.0009, 0.1776), (0.0061, 0.1718)),
    ):
        for ours, (low, high) in ((clopper_pearson(k, n), exact), (wilson(k, n), score)):
            assert (ours.low, ours.high) == (pytest.approx(low, abs=6e-5), pytest.approx(high, abs=6e-5))


@pytest.mark.parametrize("interval", [clopper_pearson, wilson])
def test_intervals_of_nothing_say_nothing(interval: Any) -> None:
    """No item: 0 to 1, and no division by zero."""
    found = interval(0, 0)
    assert (found.low, found.high) == (0.0, 1.0)
    assert 0.5 in found
    assert "0 to 1 (0.95 confidence" in str(found)


@pytest.mark.parametrize("interval", [clopper_pearson, wilson])
@pytest.mark.parametrize("wrong", [(2, 1, 0.05), (-1, 3, 0.05), (1, 2, 0.0), (1, 2, 1.0), (1, 2, math.nan)])
def test_impossible_counts_and_levels_are_mistakes_of_the_caller(interval: Any, wrong: Any) -> None:
    """More than there are, fewer than none, a level that is no share."""
    with pytest.raises(UsageError):
        interval(*wrong)


@unhurried
@given(wins=st.integers(0, 400), losses=st.integers(0, 400))
def test_mcnemar_is_statsmodels_exact_mcnemar(wins: int, losses: int) -> None:
    """Two-sided, exact; 1 where nothing differs."""
    tables = pytest.importorskip("statsmodels.stats.contingency_tables")
    expected = tables.mcnemar([[7, losses], [wins, 9]], exact=True).pvalue if wins + losses else 1.0
    assert mcnemar_two_sided(wins, losses) == pytest.approx(expected, abs=1e-12, rel=1e-9)


def test_mcnemar_of_very_many_is_quick_and_finite() -> None:
    """Ten thousand discordant items: integers throughout, no overflow to a float."""
    stats = pytest.importorskip("scipy.stats")
    assert mcnemar(5100, 4900) == pytest.approx(
        stats.binomtest(5100, 10_000, 0.5, "greater").pvalue, rel=1e-9
    )
    assert mcnemar_two_sided(0, 3000) == 2.0**-2999 if 2.0**-2999 else True


def test_a_published_mcnemar() -> None:
    """Agresti, *Categorical Data Analysis*: approval of the prime minister, 150 against 86 who changed their mind: z = 4.17."""
    stats = pytest.importorskip("scipy.stats")
    exact = mcnemar_two_sided(150, 86)
    assert exact == pytest.approx(2 * stats.norm.sf(4.17), rel=0.25)
    assert exact < 1e-4


def test_quantiles_of_the_normal_distribution() -> None:
    """The textbook ones, and the ends."""
    assert quantile(0.975) == pytest.approx(1.959964, abs=1e-6)
    assert (quantile(0.0), quantile(1.0)) == (-math.inf, math.inf)
