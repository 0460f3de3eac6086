"""How many items a difference needs: held against exact enumeration, statsmodels and published tables."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmguard.errors import MissingEvidence, UsageError
from llmguard.statistics.power import (
    detectable_pairs,
    detectable_scores,
    needed_each,
    needed_pairs,
    needed_scores,
    power_of_pairs,
)

shares = st.floats(0.01, 0.9)


def enumerated(n: int, effect: float, discordance: float, alpha: float = 0.05) -> float:
    """The exact power of McNemar's exact test: over every number of discordant pairs, and of wins among them."""
    stats = pytest.importorskip("scipy.stats")
    total, p = 0.0, (discordance + effect) / (2 * discordance)
    for m in range(n + 1):
        weight = float(stats.binom.pmf(m, n, discordance))
        if weight > 1e-9:
            k = np.arange(m + 1)
            values = np.minimum(1, 2 * stats.binom.sf(np.maximum(k, m - k) - 1, m, 0.5))
            total += weight * float(stats.binom.pmf(k, m, p)[values < alpha].sum())
    return total


@pytest.mark.parametrize(
    ("effect", "discordance"), [(0.05, 0.2), (0.1, 0.2), (0.1, 0.3), (0.2, 0.5), (0.3, 0.35), (0.05, 0.05)]
)
def test_the_number_needed_has_the_power_promised(effect: float, discordance: float) -> None:
    """By enumeration of the exact test: at least 80 %, and not far more unless only one model ever wins."""
    n = needed_pairs(effect, discordance)
    power = enumerated(n, effect, discordance)
    assert power >= 0.8
    assert power < 0.83 or discordance < 1.2 * effect
    assert enumerated(int(0.85 * n), effect, discordance) < power


def test_the_number_of_pairs_is_connors_with_the_exact_tests_correction() -> None:
    """Connor 1987 plans the test without a correction; the exact one needs about 1 / effect pairs more."""
    for effect, discordance in ((0.1, 0.2), (0.05, 0.3), (0.02, 0.1)):
        spread = 1.959964 * discordance**0.5 + 0.841621 * (discordance - effect**2) ** 0.5
        assert needed_pairs(effect, discordance) - (spread / effect) ** 2 == pytest.approx(
            2 / effect, abs=1.5 / effect
        )


@settings(deadline=None)
@given(effect=shares, discordance=shares, power=st.sampled_from([0.5, 0.8, 0.95]))
def test_needed_detectable_and_power_agree(effect: float, discordance: float, power: float) -> None:
    """So many as are needed detect the effect with that power; one in ten fewer do not; what they detect is what was asked for."""
    n = needed_pairs(effect, discordance, power=power)
    assert power_of_pairs(n, effect, discordance) >= power - 1e-9
    assert power_of_pairs(0.9 * n - 1, effect, discordance) < power
    found = detectable_pairs(n, discordance, power=power)
    assert found is not None
    assert found <= effect + 1e-9


def test_too_few_pairs_detect_nothing_at_all() -> None:
    """Three pairs cannot reach p < 0.05, whatever the models do."""
    assert detectable_pairs(3, 0.5) is None
    assert detectable_pairs(0, 0.0) is None
    assert detectable_pairs(200, 0.0) == pytest.approx(0.048, abs=0.01)


@pytest.mark.parametrize("effect", [0.02, 0.1, 0.3])
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.65])
def test_unpaired_numbers_are_those_of_statsmodels(effect: float, rate: float) -> None:
    """Two independent sets of the same size; two-sided."""
    reference = pytest.importorskip("statsmodels.stats.proportion").samplesize_proportions_2indep_onetail
    expected = reference(effect, rate, 0.8, ratio=1, alpha=0.05)
    assert needed_each(effect, rate) == pytest.approx(float(np.ravel(expected)[0]), abs=1.5)


def test_the_textbook_unpaired_number() -> None:
    """The textbook case, without a continuity correction: 0.60 against 0.70 at 80 % needs 356 in each group."""
    assert needed_each(0.1, 0.6) == pytest.approx(356, abs=1)


def test_unpaired_numbers_stay_within_rates() -> None:
    """From the edge the other rate lies on the only side there is."""
    assert needed_each(0.1, 0.95) == needed_each(0.1, 0.05)
    assert needed_each(0.5, 1.0) == needed_each(0.5, 0.0)


@pytest.mark.parametrize(
    ("effect", "deviation"), [(0.05, 0.4), (0.5, 1.0), (0.2, 0.2), (3.0, 1.0), (2.0, 50.0)]
)
def test_numbers_of_scores_are_those_of_statsmodels(effect: float, deviation: float) -> None:
    """The noncentral t: the smallest whole number that reaches the power, and the smallest difference that so many show."""
    power = pytest.importorskip("statsmodels.stats.power").TTestPower()
    n = needed_scores(effect, deviation)
    assert power.power(effect / deviation, n, 0.05) >= 0.8
    assert n <= 4 or power.power(effect / deviation, n - 1, 0.05) < 0.8
    found = detectable_scores(n, deviation)
    assert found is not None
    assert found <= effect + 1e-9


def test_a_published_number_of_scores() -> None:
    """Cohen 1988: a paired effect of 0.5 at 80 % needs 34 pairs."""
    pytest.importorskip("statsmodels")
    assert needed_scores(0.5, 1.0) == 34


def test_scores_that_show_nothing() -> None:
    """Fewer than two pairs, differences that never vary, a deviation that is no number: no answer, no exception."""
    assert detectable_scores(1, 1.0) is None
    assert detectable_scores(100, 0.0) is None
    assert detectable_scores(100, float("nan")) is None


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (needed_pairs, (0.0, 0.2)),
        (needed_pairs, (1.0, 0.2)),
        (power_of_pairs, (10, -0.1, 0.2)),
        (needed_pairs, (0.1, 0.2, 0.0)),
        (detectable_pairs, (10, 0.2, 0.05, 1.0)),
        (needed_each, (0.1, 1.5)),
        (needed_scores, (0.0, 1.0)),
        (needed_scores, (0.1, 0.0)),
        (needed_scores, (0.1, float("inf"))),
    ],
)
def test_what_is_no_share_is_a_mistake_of_the_caller(function: Any, arguments: Any) -> None:
    """Told by name."""
    with pytest.raises(UsageError):
        function(*arguments)


def test_without_the_libraries_the_line_to_install_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores need scipy and statsmodels; pairs of right and wrong do not."""
    monkeypatch.setitem(__import__("sys").modules, "statsmodels.stats.power", None)
    with pytest.raises(MissingEvidence, match=r"pip install 'pytest-llmguard\[stats\]'"):
        needed_scores(0.1, 1.0)
    assert needed_pairs(0.1, 0.2) == 175
