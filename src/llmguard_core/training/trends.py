"""Whether a series of numbers really falls or rises: the Mann-Kendall test, which asks nothing of their distribution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

__all__ = ["Trend", "trend"]

MOST = 200  # points: longer series are averaged in blocks, which also takes away most of their correlation


class Trend(NamedTuple):
    """Kendall's tau with time (-1: falls always; 1: rises always), one-sided p-values, and the number of points tested."""

    tau: float
    p_falls: float
    p_rises: float
    points: int


def trend(values: Sequence[float]) -> Trend:
    """The Mann-Kendall test by its normal approximation, with continuity correction (Mann 1945, Kendall 1975)."""
    x = _blocks(np.asarray(values, dtype=float))
    n = len(x)
    if n < 4:
        return Trend(0.0, 1.0, 1.0, n)
    score = float(np.sign(x[None, :] - x[:, None])[np.triu_indices(n, 1)].sum())
    _, ties = np.unique(x, return_counts=True)
    spread = n * (n - 1) * (2 * n + 5) - float((ties * (ties - 1) * (2 * ties + 5)).sum())
    deviation = math.sqrt(max(spread, 1e-12) / 18)
    return Trend(score / (n * (n - 1) / 2), _tail(-score - 1, deviation), _tail(score - 1, deviation), n)


def _tail(score: float, deviation: float) -> float:
    return 0.5 * math.erfc(score / deviation / math.sqrt(2))


def _blocks(x: np.ndarray) -> np.ndarray:
    if len(x) <= MOST:
        return x
    return np.array([part.mean() for part in np.array_split(x, MOST)])
