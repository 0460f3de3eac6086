"""Two models on the same items: which test, what it says, what it could have said, and whether a difference may be called.

One test decides, chosen by the kind of data before looking at it: McNemar's exact test for right and wrong, the paired t test for
scores, the randomisation test over groups where items share one. The others are shown beside it and decide nothing.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence, Sized
from dataclasses import dataclass, field, replace
from math import ceil, isnan, sqrt
from typing import Any

import numpy as np

from llmguard.errors import UsageError
from llmguard.statistics.clusters import Floats, Groups, bootstrap, clusters_of, sign_flip, standard_error
from llmguard.statistics.exact import ALPHA, Interval, mcnemar_two_sided, quantile
from llmguard.statistics.power import (
    POWER,
    detectable_pairs,
    detectable_scores,
    needed_pairs,
    needed_scores,
    stats_library,
)

__all__ = ["Comparison", "bonett_price", "compare", "decide"]

DIFFERENT, TOO_SMALL, EQUIVALENT = "different", "too small to call", "equivalent"
UNDECIDED, NOTHING = "undecided", "nothing to compare"
FEWEST_GROUPS = 10
"""Resampling fewer groups than these gives intervals that are too narrow: none is given."""


@dataclass(frozen=True)
class Comparison:
    """What is known of `second` against `first`; differences are second - first, in the unit of the scores.

    `n`: pairs used; `left_out`: pairs without two finite scores. `only_first`, `only_second`: items that one alone got right (or
    scored higher on). `p_value`: two-sided, by `test`; `adjusted`: after Holm, the one that decides. `detectable`: the smallest
    difference that these pairs show with probability `power`; `needed`: the pairs that `effect` needs; None where there is no answer.
    `verdict`: different, too small to call, equivalent, undecided, nothing to compare.
    """

    names: tuple[str, str]
    n: int
    left_out: int = 0
    binary: bool = True
    groups: int | None = None
    means: tuple[float, float] = (float("nan"), float("nan"))
    difference: float = float("nan")
    interval: Interval | None = None
    only_first: int = 0
    only_second: int = 0
    test: str = "none"
    p_value: float | None = None
    adjusted: float | None = None
    others: dict[str, float] = field(default_factory=dict)
    resampled: Interval | None = None
    alpha: float = ALPHA
    family: int = 1
    power: float = POWER
    effect: float = 0.05
    detectable: float | None = None
    needed: int | None = None
    verdict: str = NOTHING

    def to_json(self) -> dict[str, Any]:
        """Every number, JSON-safe: what is not known is null."""
        found = {k: _plain(v) for k, v in self.__dict__.items()}
        for name in ("interval", "resampled"):
            value = getattr(self, name)
            found[name] = {k: _plain(v) for k, v in value.__dict__.items()} if value else None
        return found


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, tuple):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def compare(
    first: Sequence[float] | Floats,
    second: Sequence[float] | Floats,
    *,
    names: tuple[str, str] = ("first", "second"),
    groups: Groups = None,
    alpha: float = ALPHA,
    effect: float = 0.05,
    power: float = POWER,
    family: int = 1,
    seed: int = 0,
) -> Comparison:
    """Compare two models item by item; scores in the same order, NaN where there is none, `groups` where items share a document.

    `effect`: the smallest difference of interest; a share of the range where scores leave 0 to 1. `family`: how many comparisons
    are made in all; the plan (`detectable`, `needed`) is made at level alpha / family. Total over the data.

    Raises:
        UsageError: sequences of different lengths, an alpha, effect or power that is no share.
        MissingEvidence: scores beyond right and wrong, and scipy and statsmodels are not installed.
    """
    _arguments(first, second, groups, alpha=alpha, effect=effect, power=power)
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    usable = np.isfinite(a) & np.isfinite(b)
    kept = None if groups is None else [g for g, ok in zip(groups, usable, strict=True) if ok]
    if kept is not None and len(set(kept)) == len(kept):
        kept = None  # every item is a group of its own: nothing is shared
    a, b = a[usable], b[usable]
    base = Comparison(
        names, len(a), int((~usable).sum()), alpha=alpha, effect=effect, power=power, family=family
    )
    if not len(a):
        return base
    both = np.concatenate([a, b])
    binary = bool(np.isin(both, (0.0, 1.0)).all())
    if both.min() < 0 or both.max() > 1:
        base = replace(base, effect=effect * float(np.ptp(both) or 1.0))
    difference = b - a
    base = replace(
        base, binary=binary, groups=None if kept is None else len(set(kept)),
        means=(float(a.mean()), float(b.mean())), difference=float(difference.mean()),
        only_first=int((difference < 0).sum()), only_second=int((difference > 0).sum()),
        resampled=bootstrap(difference, kept, alpha=alpha, seed=seed),
    )  # fmt: skip
    tested = _tested(base, difference, kept, seed)
    return decide(_planned(tested, difference, kept))


def decide(comparison: Comparison, adjusted: float | None = None) -> Comparison:
    """The comparison with its verdict, by the p-value after a correction (its own where none is given)."""
    p = comparison.p_value if adjusted is None else adjusted
    return replace(comparison, adjusted=p, verdict=_verdict(comparison, p))


def _verdict(c: Comparison, p: float | None) -> str:
    if not c.n:
        return NOTHING
    if p is not None and p < c.alpha:
        large = c.detectable is not None and abs(c.difference) >= c.detectable
        return DIFFERENT if large else TOO_SMALL
    inside = c.interval is not None and -c.effect < c.interval.low and c.interval.high < c.effect
    return EQUIVALENT if inside else UNDECIDED


def _tested(c: Comparison, difference: Floats, groups: Groups, seed: int) -> Comparison:
    """The test that decides, its interval, and the others."""
    wins = mcnemar_two_sided(c.only_second, c.only_first)
    if groups is not None:
        p = sign_flip(difference, groups, seed=seed)
        enough = c.groups is not None and c.groups >= FEWEST_GROUPS
        return replace(
            c, test="randomisation over groups", p_value=p, interval=c.resampled if enough else None
        )
    if c.binary:
        return replace(c, test="McNemar exact", p_value=wins, interval=bonett_price(c))
    if float(np.ptp(difference)) <= 1e-12 * float(np.abs(difference).max()):
        return replace(
            c, test="sign test", p_value=wins
        )  # one value: a t test divides by zero, no interval has a width
    stats = stats_library("scipy.stats")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ties and few pairs: scipy warns, and answers all the same
        found = stats.ttest_1samp(difference, 0.0)
        low, high = found.confidence_interval(1 - c.alpha)
        others = {"Wilcoxon signed-rank": float(stats.wilcoxon(difference).pvalue), "sign test": wins}
    interval = Interval(float(low), float(high), 1 - c.alpha, "paired t")
    return replace(c, test="paired t", p_value=float(found.pvalue), others=others, interval=interval)


def bonett_price(c: Comparison) -> Interval:
    """Of a difference of paired rates (Bonett and Price 2012): Wald's, with one more pair of each kind that differs."""
    n = c.n + 2
    won, lost = (c.only_second + 1) / n, (c.only_first + 1) / n
    half = quantile(1 - c.alpha / 2) * sqrt((won + lost - (won - lost) ** 2) / n)
    return Interval(max(-1.0, won - lost - half), min(1.0, won - lost + half), 1 - c.alpha, "Bonett-Price")


def _planned(c: Comparison, difference: Floats, groups: Groups) -> Comparison:
    """What these pairs can show, and what the smallest effect needs; groups count as the independent items that they are worth."""
    inflation = _design_effect(difference, groups)
    alpha, n = c.alpha / c.family, c.n / inflation
    if c.binary:
        differing = (c.only_first + c.only_second) / c.n
        detectable = detectable_pairs(n, differing, alpha, c.power)
        needed = needed_pairs(c.effect, differing, alpha, c.power)
    else:
        deviation = float(np.std(difference, ddof=1)) if c.n > 1 else 0.0
        if deviation <= 1e-12 * float(np.abs(difference).max()):
            return replace(c, detectable=0.0 if c.n > 1 else None)
        detectable = detectable_scores(n, deviation, alpha, c.power)
        needed = needed_scores(c.effect, deviation, alpha, c.power)
    return replace(c, detectable=detectable, needed=ceil(needed * inflation))


def _design_effect(difference: Floats, groups: Groups) -> float:
    """How many items in groups are worth one that stands alone: the ratio of the two variances, at least 1."""
    if groups is None:
        return 1.0
    plain, robust = standard_error(difference), standard_error(difference, groups)
    if isnan(robust):  # a single group: it is one witness
        return float(len(difference))
    return (
        max(1.0, (robust / plain) ** 2)
        if plain > 0
        else len(difference) / len(clusters_of(difference, groups)[0])
    )


def _arguments(first: Sized, second: Sized, groups: Groups, **shares: float) -> None:
    lengths = (len(first), len(second), len(first) if groups is None else len(groups))
    if len(set(lengths)) > 1:
        raise UsageError(
            "first, second, groups", lengths, "one score of each model and one group for every item"
        )
    for name, value in shares.items():
        if not 0 < value < 1:
            raise UsageError(name, value, "a share between 0 and 1")
