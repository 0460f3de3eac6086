"""How small a difference n items can show, and how many items a difference needs.

Power: the probability that a real difference of that size comes out significant, two-sided, at level `alpha`. Pairs of right
and wrong: Connor 1987, with the continuity correction that the exact McNemar test asks for. Scores: the noncentral t of
statsmodels. Effects are differences of means (of rates: shares, 0.05 is five points).
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, sqrt
from statistics import NormalDist
from typing import Any

from llmguard.errors import MissingEvidence, UsageError
from llmguard.statistics.exact import ALPHA, quantile

__all__ = [
    "POWER",
    "detectable_pairs",
    "detectable_scores",
    "needed_each",
    "needed_pairs",
    "needed_scores",
    "power_of_pairs",
    "stats_library",
]

POWER = 0.8
_BISECTIONS = 50


def power_of_pairs(n: float, effect: float, discordance: float, alpha: float = ALPHA) -> float:
    """The chance that `n` pairs show a difference of rates of `effect`.

    `discordance`: the share of items on which the two models differ; no less than the effect itself.

    Raises:
        UsageError: an effect, a discordance or an alpha that is no share.
    """
    _shares(effect=effect, alpha=alpha)
    differing = max(effect, min(discordance, 1.0))
    missing = n * effect - quantile(1 - alpha / 2) * sqrt(n * differing) - 1
    spread = sqrt(n * (differing - effect * effect))
    return NormalDist().cdf(missing / spread) if spread else float(missing >= 0)


def needed_pairs(effect: float, discordance: float, alpha: float = ALPHA, power: float = POWER) -> int:
    """So many pairs show a difference of rates of `effect` with probability `power`.

    Raises:
        UsageError: an effect, an alpha or a power that is no share.
    """
    _shares(effect=effect, alpha=alpha, power=power)
    differing = max(effect, min(discordance, 1.0))
    spread = quantile(1 - alpha / 2) * sqrt(differing) + quantile(power) * sqrt(differing - effect * effect)
    return ceil(((spread + sqrt(spread * spread + 4 * effect)) / (2 * effect)) ** 2)


def detectable_pairs(
    n: float, discordance: float, alpha: float = ALPHA, power: float = POWER
) -> float | None:
    """The smallest difference of rates that `n` pairs show with probability `power`; None where they show none at all."""
    _shares(alpha=alpha, power=power)
    return _smallest(lambda effect: needed_pairs(effect, discordance, alpha, power) <= n, 1 - 1e-12)


def needed_scores(effect: float, deviation: float, alpha: float = ALPHA, power: float = POWER) -> int:
    """So many pairs show a difference of means of `effect`, where the differences have the standard deviation `deviation`.

    Raises:
        UsageError: an effect or a deviation that is not above zero, an alpha or a power that is no share.
        MissingEvidence: scipy and statsmodels are not installed.
    """
    _shares(alpha=alpha, power=power)
    for name, value in (("effect", effect), ("deviation", deviation)):
        if not 0 < value < float("inf"):
            raise UsageError(name, value, "a finite number above 0")
    reached = stats_library("statsmodels.stats.power").TTestPower().power
    size = effect / deviation
    # the normal answer with Guenther's correction is right but for a pair or two: from there the exact power is asked
    n = max(2, ceil(((quantile(1 - alpha / 2) + quantile(power)) / size) ** 2))
    while float(reached(size, n, alpha)) < power:
        n += 1
    return n


def detectable_scores(n: float, deviation: float, alpha: float = ALPHA, power: float = POWER) -> float | None:
    """The smallest difference of means that `n` pairs show with probability `power`; None for fewer than two pairs.

    Raises:
        MissingEvidence: scipy and statsmodels are not installed.
    """
    _shares(alpha=alpha, power=power)
    if n < 2 or not 0 < deviation < float("inf"):
        return None
    reached = stats_library("statsmodels.stats.power").TTestPower().power
    # far beyond certainty the noncentral t is NaN: that is reached, too
    found = _smallest(lambda size: not float(reached(size, n, alpha)) < power, 1000.0)
    return None if found is None else found * deviation


def needed_each(effect: float, rate: float, alpha: float = ALPHA, power: float = POWER) -> int:
    """So many items *each* of two unpaired sets need for a difference of rates of `effect` from `rate` (two-proportion z).

    Raises:
        UsageError: an effect, an alpha or a power that is no share, a rate outside of 0 to 1.
    """
    _shares(effect=effect, alpha=alpha, power=power)
    if not 0 <= rate <= 1:
        raise UsageError("rate", rate, "a rate from 0 to 1")
    other = rate + effect if rate + effect <= 1 else rate - effect
    other = min(max(other, 0.0), 1.0)
    mean = (rate + other) / 2
    spread = quantile(1 - alpha / 2) * sqrt(2 * mean * (1 - mean))
    spread += quantile(power) * sqrt(rate * (1 - rate) + other * (1 - other))
    return max(2, ceil((spread / effect) ** 2))


def stats_library(name: str) -> Any:
    """A module of scipy or statsmodels.

    Raises:
        MissingEvidence: it is not installed.
    """
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError:
        raise MissingEvidence(
            "statistics of scores",
            "install scipy and statsmodels, which scores beyond right and wrong need: pip install 'pytest-llmguard[stats]'",
        ) from None


def _smallest(reached: Callable[[float], bool], most: float) -> float | None:
    """Where a condition that holds for large effects only begins to hold; None where not even `most` is enough."""
    if not reached(most):
        return None
    low, high = 0.0, most
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (low, middle) if middle > 0 and reached(middle) else (middle, high)
    return high


def _shares(**values: float) -> None:
    for name, value in values.items():
        if not 0 < value < 1:
            raise UsageError(name, value, "a share between 0 and 1")
