"""Comparisons in words: the sentence for a person, and the methodology that goes with every result."""

from __future__ import annotations

from collections.abc import Sequence

from llmguard.statistics.paired import Comparison

__all__ = ["methodology", "sentence"]

_TESTS = {
    "McNemar exact": "the two-sided exact McNemar test on the items where the two differ",
    "paired t": "the two-sided paired t test (Wilcoxon's signed-rank test and the sign test are shown beside it and decide nothing)",
    "sign test": "the two-sided sign test, since all differences are the same",
    "randomisation over groups": "a two-sided randomisation test that exchanges the models within whole groups (9,999 rounds, seeded)",
    "none": "no test: no item has a finite score in both sets",
}
_VERDICTS = {
    "different": "the difference is significant and large enough for this many items to show reliably",
    "too small to call": "significant, but below what this many items show reliably: no difference is called",
    "equivalent": "the whole interval lies within the smallest difference of interest: the models are equivalent for this purpose",
    "undecided": "neither a difference nor equivalence is shown: this says nothing in favour of either",
    "nothing to compare": "no item has a finite score in both sets",
}


def sentence(c: Comparison) -> str:
    """One comparison with its numbers: means, difference, interval, p, what could have been shown, and the verdict."""
    first, second = c.names
    if not c.n:
        return f"{second} against {first}: {_VERDICTS[c.verdict]}"
    p = "" if c.adjusted is None else f", {c.test} p = {c.adjusted:.3g}"
    corrected = f" after Holm over {c.family} comparisons" if c.family > 1 and c.adjusted is not None else ""
    interval = (
        f" ({c.interval.level:.0%} interval {c.interval.low:+.4f} to {c.interval.high:+.4f})"
        if c.interval
        else ""
    )
    return (
        f"{second} {c.means[1]:.4f} against {first} {c.means[0]:.4f} on {c.n:,} items: {c.difference:+.4f}{interval},"
        f" better on {c.only_second:,}, worse on {c.only_first:,}{p}{corrected}{_reach(c)}; {_VERDICTS[c.verdict]}"
    )


def _reach(c: Comparison) -> str:
    smallest = "no difference at all" if c.detectable is None else f"{c.detectable:.4f}"
    text = f"; these items show {smallest} with {c.power:.0%} power"
    return text if c.needed is None else f"{text}, {c.effect:.4g} needs {c.needed:,} items"


def methodology(comparisons: Sequence[Comparison]) -> str:
    """How the comparisons were made, for a report: pairing, tests, intervals, correction, power, what was left out."""
    if not comparisons:
        return "Nothing was compared: a comparison needs the results of two models."
    one = comparisons[0]
    tests = "; ".join(_TESTS[name] for name in dict.fromkeys(c.test for c in comparisons))
    parts = [
        "Items were paired by id; only items with a finite score of both models were used"
        f" ({', '.join(f'{c.n:,}' for c in comparisons)} pairs; {sum(c.left_out for c in comparisons):,} left out).",
        f"Decided by {tests}, at level {one.alpha:g}.",
    ]
    if any(c.groups is not None for c in comparisons):
        parts.append(
            "Items share groups: whole groups were resampled, and count as the independent items that they are worth."
        )
    methods = dict.fromkeys(c.interval.method for c in comparisons if c.interval)
    if methods:
        parts.append(
            f"Intervals of the difference: {', '.join(methods)}, two-sided, {1 - one.alpha:.0%}, not corrected for several."
        )
    if one.family > 1:
        parts.append(
            f"Holm's correction over all {one.family} comparisons; power is planned at level {one.alpha:g} / {one.family}."
        )
    parts.append(
        f"A difference is called only where it is significant and at least as large as what these items show with {one.power:.0%}"
        f" power; the smallest difference of interest is {one.effect:g}. Where none is called, that is no proof that the models are equal."
    )
    return " ".join(parts)
