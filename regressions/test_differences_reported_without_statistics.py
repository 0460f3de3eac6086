"""A difference of two means is reported as a gain, and chance explains it.

Symptom: the tuned model is better by a few points; evaluated again, on other items, it is worse.
Severity: high
Cause: two accuracies on 60 items were subtracted: no paired test, no interval, too few items for a difference of that size.
First seen: written down by a fine-tuning project as high
Cost: models chosen by a coin.
Check: claimed_difference_is_significant, evaluation_can_detect_the_smallest_effect
Lesson: a difference is reported with its test, its interval and the number of items that it needs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from llmguard import (
    claimed_difference_is_significant,
    evaluation_can_detect_the_smallest_effect,
    require,
)
from llmguard.errors import CheckFailed

pytestmark = pytest.mark.needs_torch  # the core's comparison comes with the core

Items = list[dict[str, Any]]
ITEMS, SKILL = 60, 0.6


def evaluated(skill: float, seed: int, items: int = ITEMS) -> Items:
    """What a model that is right with this probability gets on some items."""
    right = np.random.default_rng(seed).random(items) < skill
    return [{"id": str(i), "correct": bool(r)} for i, r in enumerate(right)]


BASE, SFT = evaluated(SKILL, 14), evaluated(SKILL, 15)
"""Two models of exactly the same skill."""


def _difference(base: Items, sft: Items) -> float:
    return float(np.mean([r["correct"] for r in sft]) - np.mean([r["correct"] for r in base]))


def broken(base: Items, sft: Items) -> str:
    """The report as it was."""
    return "sft is better" if _difference(base, sft) > 0 else "sft is worse"


def fixed(base: Items, sft: Items) -> Any:
    """The core's comparison."""
    from llmguard.statistics.sets import as_results
    from llmguard_core.compare import compare

    return compare(as_results({"base": base, "sft": sft}))


def test_witness() -> None:
    """The gain of 12 points turns round on new items; over many evaluations the report is a coin. The core claims nothing."""
    assert _difference(BASE, SFT) == pytest.approx(7 / 60)
    assert broken(BASE, SFT) == "sft is better"
    again = [broken(evaluated(SKILL, 2 * s), evaluated(SKILL, 2 * s + 1)) for s in range(100, 300)]
    assert 60 < again.count("sft is worse") < 140
    (compared,) = fixed(BASE, SFT).comparisons
    assert compared.verdict == "undecided"
    assert compared.interval.low < 0 < compared.interval.high
    assert compared.needed > 10 * ITEMS


def test_witness_on_the_same_items() -> None:
    """Drawn again from these very items, the sign changes too: the bootstrap needs no second evaluation to see it."""
    pairs = np.array([[r["correct"] for r in BASE], [r["correct"] for r in SFT]], dtype=float)
    drawn = np.random.default_rng(0).integers(0, ITEMS, (2_000, ITEMS))
    differences = (pairs[1][drawn] - pairs[0][drawn]).mean(axis=1)
    assert 0.025 < (differences <= 0).mean() < 0.3


def test_check_rejects() -> None:
    """The claim and the size of the evaluation, each with numbers."""
    results = {"base": BASE, "sft": SFT}
    with pytest.raises(CheckFailed, match=r"\+0\.1167 .* nothing in favour of either"):
        require(claimed_difference_is_significant(results), strict=True)
    with pytest.raises(CheckFailed, match=r"60 items, where a difference of 0\.05 needs 1,[0-9]{3}"):
        require(evaluation_can_detect_the_smallest_effect(results), strict=True)


def test_check_accepts() -> None:
    """A real difference on enough items, which the core calls one."""
    results = {"base": evaluated(0.4, 1, 1_000), "sft": evaluated(0.6, 2, 1_000)}
    require(claimed_difference_is_significant(results), strict=True)
    require(evaluation_can_detect_the_smallest_effect(results), strict=True)
    assert [c.verdict for c in fixed(results["base"], results["sft"]).comparisons] == ["different"]
