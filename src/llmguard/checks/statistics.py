"""What results can show: intervals, paired tests, the items that the smallest effect of interest needs."""

from __future__ import annotations

from math import sqrt
from typing import Any

import numpy as np

from llmguard.contract import Yields, check
from llmguard.findings import Finding, Where, note, warning
from llmguard.statistics.exact import ALPHA, clopper_pearson, wilson
from llmguard.statistics.paired import DIFFERENT, EQUIVALENT, Comparison
from llmguard.statistics.power import POWER, needed_pairs, needed_scores
from llmguard.statistics.sets import Results, ResultSet, as_results
from llmguard.statistics.several import compare_all
from llmguard.statistics.words import methodology, sentence

__all__ = ["claimed_difference_is_significant", "evaluation_can_detect_the_smallest_effect"]

EFFECT = 0.05
WHY = "models chosen by a difference that chance explains are chosen by a coin; the next evaluation will say the opposite"
CAUSE = "too few items for a difference of this size, or models that hardly differ"


@check
def claimed_difference_is_significant(
    results: Results, alpha: float = ALPHA, smallest_effect: float = EFFECT
) -> Yields:
    """Where two models' means differ, a paired test says so, after Holm, and the difference is one that these items show reliably.

    Every two sets are compared on their common items: McNemar's exact test for right and wrong, the paired t test for scores, a
    randomisation test over groups where rows share the `[data] group`. Verdicts: different and equivalent are notes; a difference
    that is not shown, or that is significant and still below what the items show with 80 % power, is a warning: do not report it.
    """
    found = as_results(results)
    comparisons = [c for c in compare_all(found, alpha=alpha, effect=smallest_effect) if c.n]
    files = {one.name: one.file for one in found.sets}
    for one in comparisons:
        yield _judged(one, files[one.names[1]], methodology(comparisons))
    return sum(c.n for c in comparisons)


def _judged(c: Comparison, file: str | None, method: str) -> Finding:
    where = Where(file=file, what=f"{c.names[1]} against {c.names[0]}")
    evidence = {"comparison": c.to_json(), "methodology": method}
    if c.verdict in (DIFFERENT, EQUIVALENT) or not c.difference:
        return note(where, what=f"{sentence(c)}. {method}", evidence=evidence)
    needed = f"at least {c.needed:,} items" if c.needed else "more items"
    return warning(
        where,
        what=sentence(c),
        why=WHY,
        cause=CAUSE,
        remedy=f"report the interval and not a gain; evaluate on {needed}, or set `[evaluation] smallest_effect` to what matters. {method}",
        expected=f"p below {c.alpha:g} after correction, and a difference that {c.n:,} items show",
        actual=f"p = {c.adjusted:.3g}" if c.adjusted is not None else "no test",
        evidence=evidence,
    )


@check
def evaluation_can_detect_the_smallest_effect(
    results: Results, alpha: float = ALPHA, smallest_effect: float = EFFECT
) -> Yields:
    """The evaluation has enough items to show the smallest difference of interest with 80 % power.

    For two models or more the items on which they differ say how many are needed. One set alone gives its interval, and the number
    for another model that is right and wrong independently of it: an upper bound, for models of one family differ on fewer items.
    """
    found = as_results(results)
    sets = [one for one in found.sets if np.isfinite(one.scores).any()]
    comparisons = [c for c in compare_all(Results(sets), alpha=alpha, effect=smallest_effect) if c.n]
    if comparisons:
        short = [c for c in comparisons if c.needed and c.needed > c.n and c.verdict != DIFFERENT]
        for c in short:
            yield _too_few(
                Where(what=f"{c.names[1]} against {c.names[0]}"), c.n, c.needed or 0, c.effect, c.to_json()
            )
        return sum(c.n for c in comparisons)
    for one in sets:
        yield from _alone(one, alpha, smallest_effect)
    return len(Results(sets))


def _alone(one: ResultSet, alpha: float, effect: float) -> list[Finding]:
    """A single set: its interval, and a warning where it could not show the effect against another."""
    scores = one.scores[np.isfinite(one.scores)]
    n, mean = len(scores), float(scores.mean())
    deviation = float(np.std(scores, ddof=1)) if n > 1 else 0.0
    if np.isin(scores, (0.0, 1.0)).all():
        right = round(float(scores.sum()))
        other = min(1.0, mean + effect) if mean < 0.5 else max(0.0, mean - effect)
        needed = needed_pairs(effect, mean * (1 - other) + other * (1 - mean), alpha, POWER)
        exact, usual = clopper_pearson(right, n, alpha), wilson(right, n, alpha)
        told: dict[str, Any] = {"clopper_pearson": [exact.low, exact.high], "wilson": [usual.low, usual.high]}
        text = f"{right:,} of {n:,} right ({mean:.2%}), {exact}; Wilson {usual.low:.4f} to {usual.high:.4f}"
    else:
        scale = effect if scores.min() >= 0 and scores.max() <= 1 else effect * float(np.ptp(scores))
        needed = needed_scores(scale, deviation * sqrt(2), alpha, POWER) if deviation and scale else 0
        told = {"standard_error": deviation / sqrt(n)}
        text, effect = f"mean {mean:.4g} of {n:,} scores, standard error {deviation / sqrt(n):.3g}", scale
    told |= {"n": n, "mean": mean, "needed": needed}
    found = [note(one.where(), what=text, evidence=told)]
    return [*found, _too_few(one.where(), n, needed, effect, told)] if needed > n else found


def _too_few(where: Where, n: int, needed: int, effect: float, told: dict[str, Any]) -> Finding:
    return warning(
        where,
        what=f"{n:,} items, where a difference of {effect:.4g} needs {needed:,} to be shown with {POWER:.0%} power",
        why="an evaluation that cannot see the effect of interest says 'no difference' whatever was done to the model",
        cause="a small test split, or a subset chosen to save time",
        remedy=f"evaluate on {needed:,} items or more, or say with `[evaluation] smallest_effect` that only larger differences matter",
        expected=f"{needed:,} items",
        actual=f"{n:,} items",
        evidence=told,
    )
