"""Paired comparisons: the same p-values as scipy and statsmodels, honest about little data, and false alarms at the level promised."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmguard.errors import UsageError
from llmguard.statistics.clusters import bootstrap, sign_flip, standard_error
from llmguard.statistics.exact import mcnemar_two_sided
from llmguard.statistics.paired import Comparison, bonett_price, compare
from llmguard.statistics.power import needed_pairs
from llmguard.statistics.sets import as_results
from llmguard.statistics.several import compare_all, holm
from llmguard.statistics.words import methodology, sentence

NAN = math.nan
anything = st.one_of(st.floats(), st.sampled_from([0.0, 1.0, NAN, math.inf, 0.5, 1e308, -1e308]))


@pytest.fixture(scope="module")
def stats() -> Any:
    """scipy.stats, the reference."""
    return pytest.importorskip("scipy.stats")


# ---- against the references


def test_scores_are_tested_as_scipy_does(stats: Any) -> None:
    """Paired t with its interval, Wilcoxon, sign test."""
    rng = np.random.default_rng(1)
    a, b = rng.uniform(0, 1, 60), rng.uniform(0, 1, 60)
    found, expected = compare(a, b), stats.ttest_rel(b, a)
    low, high = expected.confidence_interval()
    assert found.p_value == pytest.approx(expected.pvalue)
    assert found.interval is not None
    assert (found.interval.low, found.interval.high) == (pytest.approx(low), pytest.approx(high))
    assert found.others["Wilcoxon signed-rank"] == pytest.approx(stats.wilcoxon(b, a).pvalue)
    assert found.others["sign test"] == pytest.approx(stats.binomtest(int((b > a).sum()), 60).pvalue)


def test_a_published_paired_t_test() -> None:
    """Student 1908, Cushny and Peebles' sleep data: t = 4.06, p = 0.0028, interval 0.70 to 2.46."""
    pytest.importorskip("scipy")
    first = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
    second = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
    found = compare(first, second)
    assert found.p_value == pytest.approx(0.002833, abs=1e-6)
    assert found.interval is not None
    assert (found.interval.low, found.interval.high) == (
        pytest.approx(0.7001, abs=1e-4),
        pytest.approx(2.4599, abs=1e-4),
    )
    assert found.difference == pytest.approx(1.58)


def test_standard_errors_are_those_of_statsmodels() -> None:
    """An intercept alone, covariance by cluster: the same but for statsmodels' (n - 1) / (n - k), which is 1 here."""
    models = pytest.importorskip("statsmodels.regression.linear_model")
    rng = np.random.default_rng(2)
    groups = rng.integers(0, 15, 200)
    difference = rng.normal(0, 1, 200) + rng.normal(0, 1, 15)[groups]
    fitted = models.OLS(difference, np.ones(200)).fit(cov_type="cluster", cov_kwds={"groups": groups})
    assert standard_error(difference, groups.tolist()) == pytest.approx(float(fitted.bse[0]), rel=1e-6)
    assert standard_error(difference) == pytest.approx(float(np.std(difference, ddof=1)) / math.sqrt(200))


@pytest.mark.parametrize("whole", [False, True])
def test_the_bootstrap_is_scipys(stats: Any, whole: bool) -> None:
    """The percentile bootstrap of a mean, up to its own noise; of any values, and of few distinct ones."""
    difference = np.random.default_rng(3).normal(0.2, 1, 150)
    difference = np.sign(difference.round()) if whole else difference
    ours = bootstrap(difference, rounds=8000)
    theirs = stats.bootstrap(
        (difference,), np.mean, method="percentile", n_resamples=8000, rng=0
    ).confidence_interval
    assert (ours.low, ours.high) == (
        pytest.approx(theirs.low, abs=0.02),
        pytest.approx(theirs.high, abs=0.02),
    )


def test_the_randomisation_test_is_scipys(stats: Any) -> None:
    """Pairs without groups: scipy's permutation test of paired samples; exactly, where all exchanges can be listed."""
    difference = np.array([0.3, -0.1, 0.5, 0.2, 0.4, -0.2, 0.6, 0.1])
    exact = stats.permutation_test(
        (difference, np.zeros(8)),
        lambda x, y, axis: np.mean(x - y, axis=axis),
        permutation_type="samples",
        vectorized=True,
    ).pvalue
    assert sign_flip(difference, rounds=40_000) == pytest.approx(exact, abs=0.005)


def test_holm_is_statsmodels_and_a_worked_example() -> None:
    """Adjusted p-values in the order given."""
    multiple = pytest.importorskip("statsmodels.stats.multitest").multipletests
    p = [0.01, 0.04, 0.03, 0.005, 1.0, 0.04]
    assert holm(p) == pytest.approx(list(multiple(p, method="holm")[1]))
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    with pytest.raises(UsageError, match="probabilities"):
        holm([0.5, 1.5])


# ---- total


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(anything, anything), max_size=12), st.booleans())
def test_any_scores_are_compared(pairs: list[tuple[float, float]], grouped: bool) -> None:
    """NaN, infinite, huge, equal, one, none: a comparison with a verdict, words, and JSON without NaN; never an exception or a warning."""
    pytest.importorskip("statsmodels")
    if any(abs(x) > 1e150 and math.isfinite(x) for pair in pairs for x in pair):
        pairs = [(min(max(a, -1e150), 1e150), min(max(b, -1e150), 1e150)) for a, b in pairs]
    a, b = [p[0] for p in pairs], [p[1] for p in pairs]
    found = compare(a, b, groups=[i // 2 for i in range(len(a))] if grouped else None)
    assert found.n + found.left_out == len(pairs)
    assert found.verdict in {
        "different",
        "too small to call",
        "equivalent",
        "undecided",
        "nothing to compare",
    }
    assert sentence(found)
    assert methodology([found])
    json.dumps(found.to_json(), allow_nan=False)


@pytest.mark.parametrize(
    ("a", "b", "verdict"),
    [
        ([], [], "nothing to compare"),
        ([NAN], [1.0], "nothing to compare"),
        ([1.0], [1.0], "undecided"),
        ([0.5], [0.5], "undecided"),
        ([0.5] * 50, [0.5] * 50, "undecided"),
        ([0.5] * 50, [0.7] * 50, "different"),
        ([0.0] * 5, [1.0] * 5, "undecided"),
        ([0.0] * 50, [1.0] * 50, "different"),
        ([1.0, 0.0] * 2000, [1.0, 0.0] * 2000, "equivalent"),
    ],
)
def test_little_or_plain_data_have_their_verdict(a: list[float], b: list[float], verdict: str) -> None:
    """Empty, one item, all equal, all shifted by the same, all lost and won."""
    assert compare(a, b).verdict == verdict


def test_pairs_without_two_scores_are_left_out_and_counted() -> None:
    """NaN on one side takes the item from both; the methodology says how many."""
    found = compare([1.0, NAN, 0.0, 1.0], [1.0, 1.0, math.inf, 0.0])
    assert (found.n, found.left_out, found.means) == (2, 2, (1.0, 0.5))
    assert "2 left out" in methodology([found])


@pytest.mark.parametrize(
    "wrong", [{"alpha": 0.0}, {"effect": 1.0}, {"power": 2.0}, {"groups": ["a"]}, {"second": [1.0]}]
)
def test_bad_arguments_are_named(wrong: dict[str, Any]) -> None:
    """Lengths that differ, levels that are no shares."""
    told: dict[str, Any] = {"first": [1.0, 0.0], "second": [1.0, 1.0], **wrong}
    with pytest.raises(UsageError):
        compare(told.pop("first"), told.pop("second"), **told)


def test_scores_beyond_one_take_the_effect_as_a_share_of_their_range() -> None:
    """0 to 100: five points of per cent are 0.05 of the range."""
    pytest.importorskip("statsmodels")
    rng = np.random.default_rng(4)
    a = rng.uniform(0, 100, 200)
    found = compare(a, np.clip(a + rng.normal(0, 5, 200), 0, 100))
    assert found.effect == pytest.approx(5.0, abs=0.1)


# ---- verdicts


def table(both: int, first: int, second: int, neither: int) -> Comparison:
    a = [1] * both + [1] * first + [0] * second + [0] * neither
    b = [1] * both + [0] * first + [1] * second + [0] * neither
    return compare(a, b)


def test_a_difference_below_the_detectable_one_is_not_called() -> None:
    """14 against 28 of 200: p = 0.044, and 0.07 where 200 items show 0.09 reliably."""
    found = table(90, 14, 28, 68)
    assert found.p_value == pytest.approx(mcnemar_two_sided(28, 14))
    assert found.p_value is not None
    assert found.p_value < 0.05
    assert found.detectable is not None
    assert found.difference < found.detectable
    assert found.verdict == "too small to call"
    assert "no difference is called" in sentence(found)


def test_equivalence_needs_the_whole_interval() -> None:
    """No difference seen in 100 items is no equivalence; in 4,000 it is."""
    assert table(50, 5, 5, 40).verdict == "undecided"
    assert table(2000, 60, 60, 1880).verdict == "equivalent"


def test_groups_that_hold_one_item_each_are_no_groups() -> None:
    """The exact test decides, as without them."""
    a, b = [1, 0, 1, 0], [0, 1, 1, 1]
    assert compare(a, b, groups=[1, 2, 3, 4]) == compare(a, b)


def test_few_groups_give_no_interval_and_one_group_gives_nothing() -> None:
    """Resampling three documents says little; a single one says nothing however many rows it has."""
    a, b = [0.0] * 90, [1.0] * 90
    three = compare(a, b, groups=[i // 30 for i in range(90)])
    assert (three.groups, three.interval, three.verdict) == (3, None, "undecided")
    one = compare(a, b, groups=["d"] * 90)
    assert (one.groups, one.verdict, one.detectable) == (1, "undecided", None)
    assert one.p_value == pytest.approx(1.0)


def test_several_models_share_one_level() -> None:
    """Three models: three pairs, adjusted p-values, power planned for the first step of Holm."""
    rng = np.random.default_rng(5)
    sets = {
        n: [{"id": i, "correct": bool(r)} for i, r in enumerate(rng.random(300) < p)]
        for n, p in (("a", 0.4), ("b", 0.6), ("c", 0.6))
    }
    found = compare_all(as_results(sets))
    assert [c.names for c in found] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert [c.adjusted for c in found] == pytest.approx(holm([c.p_value or 0.0 for c in found]))
    alone = compare_all(as_results({n: sets[n] for n in "ab"}))[0]
    assert found[0].detectable is not None
    assert alone.detectable is not None
    assert found[0].detectable > alone.detectable


def test_nothing_to_compare_is_said() -> None:
    """No pair."""
    assert compare_all(as_results({"a": []})) == []
    assert methodology([]).startswith("Nothing was compared")


# ---- false alarms and coverage, by simulation


def bound(level: float, rounds: int) -> float:
    """The rate of false alarms above which a simulation of so many rounds would exceed `level` by chance once in 10,000 runs."""
    return level + 3.7 * math.sqrt(level * (1 - level) / rounds)


def test_false_alarms_of_mcnemar_stay_below_alpha() -> None:
    """Two equal models, 20,000 simulated evaluations each of 20, 100 and 500 items."""
    rng, rounds = np.random.default_rng(6), 20_000
    for n, differing in ((20, 0.5), (100, 0.3), (500, 0.1)):
        pairs = rng.binomial(n, differing, rounds)
        wins = rng.binomial(pairs, 0.5)
        seen, counts = np.unique(np.stack([wins, pairs - wins]), axis=1, return_counts=True)
        alarms = sum(
            c
            for (w, lost), c in zip(seen.T.tolist(), counts.tolist(), strict=True)
            if mcnemar_two_sided(w, lost) < 0.05
        )
        assert alarms / rounds <= 0.05


def test_false_alarms_of_the_randomisation_test_stay_at_alpha_where_rows_share_documents() -> None:
    """Rows of a document go the same way: 20 documents of 10 rows. The witness: McNemar row by row cries wolf."""
    rng, rounds, alarms, naive = np.random.default_rng(7), 600, 0, 0
    groups = [i // 10 for i in range(200)]
    for _ in range(rounds):
        way = rng.choice([-1, 0, 0, 1], 20).repeat(10)
        difference = np.where(rng.random(200) < 0.7, way, rng.choice([-1, 0, 1], 200)).astype(float)
        alarms += sign_flip(difference, groups, rounds=399, seed=int(rng.integers(1 << 30))) < 0.05
        naive += mcnemar_two_sided(int((difference > 0).sum()), int((difference < 0).sum())) < 0.05
    assert alarms / rounds <= bound(0.05, rounds)
    assert naive / rounds > 0.2


def test_false_alarms_of_the_t_test_stay_at_alpha(stats: Any) -> None:
    """Scores with many ties at 0 and 1, 30 items: 5,000 simulated evaluations; and any verdict `different` is rarer still."""
    rng, rounds = np.random.default_rng(8), 5000
    scores = rng.choice([0.0, 0.25, 0.5, 1.0], (2, rounds, 30), p=[0.4, 0.1, 0.1, 0.4])
    values = stats.ttest_1samp(scores[1] - scores[0], 0.0, axis=1).pvalue
    assert (values < 0.05).mean() <= bound(0.05, rounds)
    pytest.importorskip("statsmodels")
    some = [compare(scores[0, i], scores[1, i]).verdict == "different" for i in range(150)]
    assert np.mean(some) <= bound(0.05, 150)


def test_false_alarms_of_several_models_stay_at_alpha_together() -> None:
    """Four equal models, six comparisons: any alarm at all is at most as frequent as alpha after Holm, and not before."""
    rng, rounds, any_alarm, naive = np.random.default_rng(9), 1500, 0, 0
    for _ in range(rounds):
        right = rng.random((4, 80)) < 0.5
        pairs = [(i, j) for i in range(4) for j in range(i + 1, 4)]
        p = [
            mcnemar_two_sided(int((right[j] & ~right[i]).sum()), int((right[i] & ~right[j]).sum()))
            for i, j in pairs
        ]
        any_alarm += min(holm(p)) < 0.05
        naive += min(p) < 0.05
    assert any_alarm / rounds <= bound(0.05, rounds)
    assert naive / rounds > 0.1


def test_intervals_hold_the_true_difference_as_often_as_they_say() -> None:
    """Bonett-Price and the bootstrap over groups: 95 % of the time, within the noise of the simulation (groups: not below 90 %)."""
    rng, rounds, held = np.random.default_rng(10), 4000, 0
    cells = rng.multinomial(120, [0.4, 0.06, 0.16, 0.38], rounds)
    for _, first, second, _ in cells.tolist():
        c = Comparison(("a", "b"), 120, only_first=first, only_second=second)
        held += 0.10 in bonett_price(c)
    assert held / rounds >= 0.95 - 3.7 * math.sqrt(0.05 * 0.95 / rounds)
    grouped = 0
    for seed in range(300):
        effects = rng.normal(0.1, 0.3, 25).repeat(8)
        found = bootstrap(
            effects + rng.normal(0, 0.5, 200), [i // 8 for i in range(200)], rounds=500, seed=seed
        )
        grouped += 0.1 in found
    assert grouped / 300 >= 0.90 - 3.7 * math.sqrt(0.09 / 300)


def test_power_is_what_was_planned() -> None:
    """Simulated at the number needed: the exact test finds the difference in 80 % of evaluations or more."""
    rng, rounds = np.random.default_rng(11), 2000
    n = needed_pairs(0.1, 0.3)
    cells = rng.multinomial(n, [0.2, 0.1, 0.7], rounds)
    hits = np.mean([mcnemar_two_sided(w, lost) < 0.05 for w, lost, _ in cells.tolist()])
    assert hits >= 0.8 - 3.7 * math.sqrt(0.16 / rounds)
