"""Exact statements about counts, by the standard library alone: nothing here is an approximation but Wilson's interval.

`mcnemar`: of the items on which two models differ, how many would one win by chance. `lower_bound`, `upper_bound`: Clopper
and Pearson 1934. `wilson`: Wilson 1927. scipy and statsmodels are what the tests hold all of them against.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import exp, inf, lgamma, log, log1p, sqrt
from statistics import NormalDist

from llmguard.errors import UsageError

__all__ = [
    "ALPHA",
    "Interval",
    "binomial_tail",
    "clopper_pearson",
    "lower_bound",
    "mcnemar",
    "mcnemar_two_sided",
    "quantile",
    "upper_bound",
    "wilson",
]

ALPHA = 0.05
_BISECTIONS = 60  # halvings of [0, 1]: the bound is exact to the last bit that prints
_SMALLEST = 1e-18  # terms of a sum below this share of it change no bit


@dataclass(frozen=True)
class Interval:
    """Where a rate, a mean or a difference lies with confidence `level`; `method` says by what."""

    low: float
    high: float
    level: float
    method: str

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high

    def __str__(self) -> str:
        return f"{self.low:.4g} to {self.high:.4g} ({self.level:.4g} confidence, {self.method})"


def mcnemar(wins: int, losses: int) -> float:
    """Exact one-sided p-value: at least so many wins among wins + losses, were both equally likely."""
    n = wins + losses
    term = total = 1  # how many of the 2**n outcomes have n wins, n - 1 wins, … down to `wins`
    for k in range(n, wins, -1):
        term = term * k // (n - k + 1)
        total += term
    return total / (1 << n)


def mcnemar_two_sided(wins: int, losses: int) -> float:
    """Exact two-sided p-value of McNemar's test: the one-sided one doubled, at most 1."""
    return min(1.0, 2.0 * mcnemar(max(wins, losses), min(wins, losses)))


def binomial_tail(k: int, n: int, p: float) -> float:
    """P(X >= k) for X ~ Binomial(n, p), summed term by term from the side where the terms fall."""
    if k <= 0 or p >= 1:
        return 1.0 if k <= n else 0.0
    if p <= 0 or k > n:
        return 0.0
    if k > n * p:
        return min(1.0, _falling(k, n, p, 1))
    return max(0.0, 1.0 - _falling(k - 1, n, p, -1))


def _falling(k: int, n: int, p: float, step: int) -> float:
    """The sum of the terms from k on, upwards or downwards, until they change nothing."""
    total, start = 0.0, k
    while 0 <= k <= n:
        term = _term(k, n, p)
        total += term
        if term < _SMALLEST * total or (term == 0.0 and k != start):
            break
        k += step
    return total


def _term(k: int, n: int, p: float) -> float:
    return exp(lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1) + k * log(p) + (n - k) * log1p(-p))


def lower_bound(k: int, n: int, alpha: float = ALPHA) -> float:
    """Clopper-Pearson: the rate below which k of n or more would be seen with probability under `alpha`."""
    return 0.0 if k == 0 else _crossing(lambda p: binomial_tail(k, n, p) >= alpha)


def upper_bound(k: int, n: int, alpha: float = ALPHA) -> float:
    """Clopper-Pearson: the rate above which k of n or fewer would be seen with probability under `alpha`."""
    return 1.0 if k == n else _crossing(lambda p: 1.0 - binomial_tail(k + 1, n, p) < alpha)


def _crossing(reached: Callable[[float], bool]) -> float:
    """Where a condition that holds for large rates only begins to hold."""
    low, high = 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (low, middle) if reached(middle) else (middle, high)
    return (low + high) / 2


def clopper_pearson(k: int, n: int, alpha: float = ALPHA) -> Interval:
    """The exact two-sided interval of a rate; 0 to 1 where nothing was seen (n = 0).

    Raises:
        UsageError: not 0 <= k <= n, or an alpha outside of (0, 1).
    """
    _counts(k, n, alpha)
    if n == 0:
        return Interval(0.0, 1.0, 1 - alpha, "Clopper-Pearson")
    return Interval(lower_bound(k, n, alpha / 2), upper_bound(k, n, alpha / 2), 1 - alpha, "Clopper-Pearson")


def wilson(k: int, n: int, alpha: float = ALPHA) -> Interval:
    """Wilson's score interval of a rate: narrower than the exact one, right on average; 0 to 1 for n = 0.

    Raises:
        UsageError: not 0 <= k <= n, or an alpha outside of (0, 1).
    """
    _counts(k, n, alpha)
    if n == 0:
        return Interval(0.0, 1.0, 1 - alpha, "Wilson")
    z, rate = quantile(1 - alpha / 2), k / n
    centre = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    return Interval(max(0.0, centre - half), min(1.0, centre + half), 1 - alpha, "Wilson")


def quantile(p: float) -> float:
    """Quantile of the standard normal distribution; infinite at 0 and 1."""
    return NormalDist().inv_cdf(p) if 0 < p < 1 else (inf if p >= 1 else -inf)


def _counts(k: int, n: int, alpha: float) -> None:
    if not 0 <= k <= n:
        raise UsageError("k, n", (k, n), "0 <= k <= n")
    if not 0 < alpha < 1:
        raise UsageError("alpha", alpha, "a share between 0 and 1")
