"""Differences that share a document (a passage, a conversation, a template) are no independent witnesses: whole groups are.

All functions take differences as floats, one a pair, and groups as any labels, one a pair (None: every pair is its own group).
They are total: with nothing to say they say NaN, never an exception.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
import numpy.typing as npt

from llmguard.statistics.exact import ALPHA, Interval

__all__ = ["bootstrap", "clusters_of", "sign_flip", "standard_error"]

Floats = npt.NDArray[np.float64]
Groups = Sequence[Hashable] | None
ROUNDS = 2000
FLIPS = 9999
FEW_VALUES = 100
CELLS = 4_000_000  # of one matrix of resampled groups: 32 MB


def clusters_of(differences: Floats, groups: Groups) -> tuple[Floats, Floats]:
    """The sum and the size of every group, as floats, in the order of first appearance."""
    if groups is None:
        return differences, np.ones(len(differences))
    numbers: dict[Hashable, int] = {}
    codes = np.array([numbers.setdefault(g, len(numbers)) for g in groups], dtype=np.int64)
    sums: Floats = np.bincount(codes, differences, len(numbers)).astype(np.float64)
    return sums, np.bincount(codes, minlength=len(numbers)).astype(np.float64)


def standard_error(differences: Floats, groups: Groups = None) -> float:
    """The standard error of the mean difference, robust to any dependence within groups; NaN for fewer than two groups.

    The sandwich estimator of an intercept with the factor G / (G - 1) (Miller 2024, *Adding error bars to evals*).
    """
    sums, sizes = clusters_of(differences, groups)
    n, many = float(sizes.sum()), len(sums)
    if many < 2:
        return float("nan")
    residuals = sums - sizes * (float(differences.sum()) / n)
    return float(np.sqrt(many / (many - 1) * float((residuals**2).sum())) / n)


def bootstrap(
    differences: Floats, groups: Groups = None, *, alpha: float = ALPHA, rounds: int = ROUNDS, seed: int = 0
) -> Interval:
    """The paired percentile bootstrap of the mean difference: whole groups are drawn, with replacement."""
    sums, sizes = clusters_of(differences, groups)
    method = "paired bootstrap" if groups is None else "bootstrap over groups"
    if not len(sums):
        return Interval(float("nan"), float("nan"), 1 - alpha, method)
    rng, means = np.random.default_rng(seed), []
    values, counts = np.unique(sums, return_counts=True)
    if (
        groups is None and len(values) <= FEW_VALUES
    ):  # right and wrong: how often each value is drawn, not which item
        drawn = rng.multinomial(len(sums), counts / len(sums), rounds)
        low, high = np.quantile(drawn @ values / len(sums), [alpha / 2, 1 - alpha / 2])
        return Interval(float(low), float(high), 1 - alpha, method)
    for many in _portions(rounds, len(sums)):
        drawn = rng.integers(0, len(sums), (many, len(sums)))
        means.append(sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1))
    low, high = np.quantile(np.concatenate(means), [alpha / 2, 1 - alpha / 2])
    return Interval(float(low), float(high), 1 - alpha, method)


def sign_flip(differences: Floats, groups: Groups = None, *, rounds: int = FLIPS, seed: int = 0) -> float:
    """Two-sided p-value of the randomisation test: within a group, were the two models' names exchanged at random.

    Valid for any number of groups: at most `alpha` of the tests of equal models are significant at level `alpha`.
    """
    sums, _ = clusters_of(differences, groups)
    sums = sums[sums != 0]
    seen = abs(float(sums.sum())) * (1 - 1e-12)  # sums in another order differ in their last bits
    if not len(sums):
        return 1.0
    rng, reached = np.random.default_rng(seed), 0
    for many in _portions(rounds, len(sums)):
        signs = rng.integers(0, 2, (many, len(sums)), dtype=np.int8)
        reached += int((np.abs((2.0 * signs - 1.0) @ sums) >= seen).sum())
    return (reached + 1) / (rounds + 1)


def _portions(rounds: int, width: int) -> list[int]:
    """Rounds in portions whose matrices fit into memory."""
    most = max(1, CELLS // max(width, 1))
    return [min(most, rounds - start) for start in range(0, rounds, most)]
