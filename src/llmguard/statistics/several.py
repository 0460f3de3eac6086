"""Several models: every two are compared on the items that both have, and Holm's correction keeps the false alarms of all at alpha."""

from __future__ import annotations

from collections.abc import Sequence

from llmguard.errors import UsageError
from llmguard.statistics.exact import ALPHA
from llmguard.statistics.paired import Comparison, compare, decide
from llmguard.statistics.power import POWER
from llmguard.statistics.sets import Results, aligned

__all__ = ["compare_all", "holm"]


def compare_all(
    results: Results, *, alpha: float = ALPHA, effect: float = 0.05, power: float = POWER, seed: int = 0
) -> list[Comparison]:
    """Every two sets of results, compared by id, each with its verdict after Holm; empty for fewer than two sets.

    Raises:
        UsageError: an alpha, effect or power that is no share.
        MissingEvidence: scores beyond right and wrong, and scipy and statsmodels are not installed.
    """
    pairs, found = results.pairs, []
    for first, second in pairs:
        a, b, groups = aligned(first, second)
        found.append(
            compare(
                a, b, names=(first.name, second.name), groups=groups,
                alpha=alpha, effect=effect, power=power, family=len(pairs), seed=seed,
            )
        )  # fmt: skip
    tested = [c for c in found if c.p_value is not None]
    corrected = dict(zip(map(id, tested), holm([c.p_value or 0.0 for c in tested]), strict=True))
    return [decide(c, corrected.get(id(c))) for c in found]


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction (1979): adjusted p-values in the order given; the chance of any false alarm is kept.

    Raises:
        UsageError: a value that is no probability.
    """
    if not all(0 <= p <= 1 for p in p_values):
        raise UsageError("p_values", list(p_values), "probabilities")
    adjusted, most = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        most = max(most, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = most
    return adjusted
