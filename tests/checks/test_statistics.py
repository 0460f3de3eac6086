"""Checks on evaluation results: planted faults are told, and honest evaluations of every size and kind pass."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmguard.auditing import Audit
from llmguard.checks.results import (
    accuracy_is_not_from_empty_outputs,
    models_give_different_results,
    result_files_are_readable,
    result_sets_cover_the_same_items,
    result_sets_use_the_same_measure,
    results_have_no_duplicate_ids,
    scores_are_finite,
)
from llmguard.checks.statistics import (
    claimed_difference_is_significant,
    evaluation_can_detect_the_smallest_effect,
)
from llmguard.errors import MissingEvidence, UsageError
from llmguard.findings import Findings, Severity
from llmguard.project import load_project
from llmguard.report import CheckResult, Outcome
from llmguard.statistics.power import needed_pairs
from llmguard.statistics.sets import as_results, read_results

Row = dict[str, Any]
ERROR, WARNING, NOTE = Severity.ERROR, Severity.WARNING, Severity.NOTE
NAN = float("nan")


def rows(right: Sequence[float] | Sequence[bool], **more: Sequence[Any]) -> list[Row]:
    """One row an item: id, correct, and further columns."""
    return [
        {"id": f"q{i}", "correct": bool(r), **{k: v[i] for k, v in more.items()}} for i, r in enumerate(right)
    ]


def scored(scores: Sequence[float]) -> list[Row]:
    """One row an item with a score."""
    return [{"id": f"q{i}", "score": s} for i, s in enumerate(scores)]


def two(n: int, both: int, only_first: int, only_second: int) -> dict[str, list[Row]]:
    """Two models with given cells of the two-by-two table."""
    neither = n - both - only_first - only_second
    first = [True] * (both + only_first) + [False] * (only_second + neither)
    second = [True] * both + [False] * only_first + [True] * only_second + [False] * neither
    return {"base": rows(first), "sft": rows(second)}


def severities(found: Findings) -> list[Severity]:
    return [f.severity for f in found]


def written(folder: Path, sets: Mapping[str, Any], more: str = "") -> Path:
    """A project with result files; a set given as text is written as it is."""
    names = []
    for name, content in sets.items():
        text = content if isinstance(content, str) else "".join(json.dumps(r) + "\n" for r in content)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
        names.append(f'{name} = "{name}.jsonl"')
    told = f"[evaluation]\nresults = {{ {', '.join(names)} }}\n{more}"
    (folder / "llmguard.toml").write_text(told, encoding="utf-8")
    return folder / "llmguard.toml"


def audited(project: Path) -> dict[tuple[str, str], CheckResult]:
    """What the family says of a project, by check and target."""
    audit = Audit(load_project(project))
    try:
        plan = [(e, t) for e, t in audit.plan() if e.family == "statistics"]
        return {(e.name, t): audit.run(e, t) for e, t in plan}
    finally:
        audit.evidence.close()


# files


def test_unreadable_lines_are_told_with_their_place(tmp_path: Path) -> None:
    """A line cut by a killed evaluation: the line, the reason, how many; the good lines are judged all the same."""
    text = "".join(json.dumps(r) + "\n" for r in rows([True] * 9)) + '{"id": "q9", "cor'
    found = audited(written(tmp_path, {"base": text}))[("result_files_are_readable", "base")]
    assert found.outcome is Outcome.FAILED
    assert "1 of 10 lines cannot be read" in found.findings[0].message
    assert (found.findings[0].where.line, found.findings[0].where.file) == (10, "base.jsonl")
    assert found.looked_at == 10


@pytest.mark.parametrize(
    ("content", "said"),
    [("", "holds no results"), ('{"question_id": 1, "correct": true}\n', 'id = "question_id"'),
     ('{"id": 1, "exact_match": 1.0}\n', "the column correct or score"), ("[1, 2]\n", "is a JSON list")],
)  # fmt: skip
def test_a_file_without_results_or_columns_fails(tmp_path: Path, content: str, said: str) -> None:
    """Empty, without an id, without a score, no objects: an error of `result_files_are_readable` with the line to add."""
    found = audited(written(tmp_path, {"base": content}))[("result_files_are_readable", "base")]
    assert found.outcome is Outcome.FAILED
    assert said in " ".join(f.message for f in found.findings)


def test_a_missing_file_fails_and_says_what_lies_near(tmp_path: Path) -> None:
    """A name of the project file that is not there: no traceback, the nearest name, and the other checks are not red."""
    project = written(tmp_path, {"base": rows([True, False])})
    project.write_text(
        '[evaluation]\nresults = { base = "base.jsonl", sft = "bse.jsonl" }\n', encoding="utf-8"
    )
    found = audited(project)
    assert found[("result_files_are_readable", "sft")].outcome is Outcome.FAILED
    assert "near it lies base.jsonl" in found[("result_files_are_readable", "sft")].findings[0].message
    assert {r.outcome for k, r in found.items() if k != ("result_files_are_readable", "sft")} <= {
        Outcome.PASSED, Outcome.SKIPPED, Outcome.WARNED,
    }  # fmt: skip


def test_other_names_are_taken_from_the_project(tmp_path: Path) -> None:
    """`[evaluation] id` and `score` name the columns of another program (here of lm-evaluation-harness)."""
    sets = {
        name: [
            {"doc_id": i, "exact_match": float(i % 3 == shift), "resps": [[f"{name} {i}"]]} for i in range(60)
        ]
        for name, shift in (("base", 0), ("sft", 1))
    }
    found = audited(written(tmp_path, sets, 'id = "doc_id"\nscore = "exact_match"\n'))
    assert found[("result_files_are_readable", "base")].outcome is Outcome.PASSED
    assert "base 0.3333 on 60 items" in found[("claimed_difference_is_significant", "")].findings[0].message


def test_a_project_without_results_is_told_the_line_to_add(tmp_path: Path) -> None:
    """Skipped with the remedy, never silently green."""
    (tmp_path / "llmguard.toml").write_text('[model]\nkind = "base"\n', encoding="utf-8")
    found = audited(tmp_path / "llmguard.toml")
    assert {r.outcome for r in found.values()} == {Outcome.SKIPPED}
    assert all("[evaluation] results" in r.reason for r in found.values())


def test_sound_files_are_readable() -> None:
    """Right and wrong, scores, and further columns."""
    good = {"base": rows([True, False], output=["a", "b"]), "sft": scored([0.5, 1.0])}
    found = result_files_are_readable(as_results(good))
    assert (list(found), found.looked_at) == ([], 4)


def test_what_is_no_result_set_is_a_usage_error() -> None:
    """The checks take what a user's own test has: rows by model; anything else is a mistake of the caller."""
    for wrong in ([1, 2], {"base": "text"}, {"base": [1]}, None):
        with pytest.raises(UsageError, match="rows by model"):
            scores_are_finite(wrong)  # type: ignore[arg-type]  # that is the mistake


# ids


def test_repeated_ids_are_told_with_both_rows() -> None:
    """A resumed evaluation that appended what was there: the ids, the rows too many, whether their scores agree."""
    twice = [*rows([True, False, True]), {"id": "q1", "correct": True}, {"id": "q1", "correct": False}]
    found = results_have_no_duplicate_ids(as_results({"base": twice}))
    assert severities(found) == [ERROR]
    assert (
        "1 ids stand in more than one row (2 rows too many), 1 of them with different scores"
        in found[0].message
    )
    assert found[0].where.row == 3


def test_equal_copies_are_told_as_equal() -> None:
    """The same row twice."""
    found = results_have_no_duplicate_ids(as_results({"base": rows([True, False]) * 2}))
    assert "2 ids stand in more than one row (2 rows too many), 0 of them" in found[0].message


def test_rows_without_an_id_are_told() -> None:
    """A header written among the results."""
    found = results_have_no_duplicate_ids(
        as_results({"base": [{"model": "x", "correct": None}, *rows([True] * 5)]})
    )
    assert severities(found) == [ERROR]
    assert "1 of 6 rows have no id" in found[0].message
    assert found[0].where.row == 0


def test_ids_of_any_kind_that_differ_pass() -> None:
    """Numbers and text, also where the same number is text in the other file."""
    sets = {
        "a": [{"id": i, "correct": True} for i in range(5)],
        "b": [{"id": str(i), "correct": True} for i in range(5)],
    }
    assert not results_have_no_duplicate_ids(as_results(sets))
    assert not result_sets_cover_the_same_items(as_results(sets))


# scores


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), None, "0.5", "true", [1], 10**400])
def test_a_score_that_is_no_number_is_an_error(bad: Any) -> None:
    """NaN, infinite, null, text, a list, a number beyond floats: counted, the first with its row."""
    found = scores_are_finite(as_results({"base": scored([0.5, 0.25, bad, 1.0])}))
    assert severities(found) == [ERROR]
    assert "1 of 4 scores are no finite numbers" in found[0].message
    assert found[0].where.row == 2


def test_nan_in_a_file_is_read_and_told(tmp_path: Path) -> None:
    """Python writes NaN into JSON; the file is read all the same, and the score is what is wrong."""
    found = audited(written(tmp_path, {"base": '{"id": 1, "score": NaN}\n{"id": 2, "score": 0.5}\n'}))
    assert found[("scores_are_finite", "base")].outcome is Outcome.FAILED
    assert found[("result_files_are_readable", "base")].outcome is Outcome.PASSED


def test_booleans_and_numbers_are_scores() -> None:
    """True, false, 0, 1, negative, large: all finite."""
    assert not scores_are_finite(as_results({"a": rows([True, False]), "b": scored([0, 1, -3.5, 1e9])}))


# the same items


def test_sets_of_other_items_are_an_error_with_counts() -> None:
    """One evaluation ended early and asked something else as well."""
    sets = {"base": rows([True] * 10), "sft": [*rows([True] * 7), {"id": "extra", "correct": False}]}
    found = result_sets_cover_the_same_items(as_results(sets))
    assert severities(found) == [ERROR]
    assert (
        "base has 10 items and sft 8, 7 of them the same (3 only in base, 1 only in sft)" in found[0].message
    )
    assert found[0].evidence["only_second"] == ["extra"]


def test_every_pair_of_sets_is_compared() -> None:
    """Three models, of which the third lacks an item: two findings."""
    sets = {"a": rows([True] * 4), "b": rows([False] * 4), "c": rows([True] * 3)}
    assert len(result_sets_cover_the_same_items(as_results(sets))) == 2


def test_the_same_items_in_another_order_pass() -> None:
    """Order is nobody's business: items are paired by id."""
    good = rows([True, False, True])
    found = result_sets_cover_the_same_items(as_results({"a": good, "b": good[::-1]}))
    assert (list(found), found.looked_at) == ([], 6)


def test_one_set_alone_has_nothing_to_agree_with() -> None:
    """Not looked at, so skipped and not green."""
    for check in (
        result_sets_cover_the_same_items,
        result_sets_use_the_same_measure,
        models_give_different_results,
    ):
        assert check(as_results({"a": rows([True])})).looked_at == 0


# the same measure


def test_per_cent_beside_shares_is_an_error() -> None:
    """42.0 beside 0.5: one is in per cent."""
    found = result_sets_use_the_same_measure(as_results({"a": scored([0.4, 0.5]), "b": scored([42.0, 51.0])}))
    assert severities(found) == [ERROR]
    assert "up to 0.5" in found[0].message
    assert "up to 51" in found[0].message


def test_two_columns_are_a_warning() -> None:
    """Right or wrong beside a partial score."""
    found = result_sets_use_the_same_measure(as_results({"a": rows([True, False]), "b": scored([0.5, 1.0])}))
    assert severities(found) == [WARNING]


def test_one_measure_passes_also_where_one_model_is_hopeless() -> None:
    """All zeros beside ones; scores beyond 1 in both; a small overshoot beside shares."""
    for a, b in (([0.0, 0.0], [1.0, 0.5]), ([3.0, 9.0], [80.0, 2.0]), ([0.5, 1.0], [1.0, 1.9])):
        assert not result_sets_use_the_same_measure(as_results({"a": scored(a), "b": scored(b)}))


# empty outputs


def test_edge_69_accuracy_zero_is_taken_apart() -> None:
    """Zero right of ten: seven empty, two unparseable, one wrong; an error that tells the four counts."""
    outputs = [""] * 5 + [" \n"] * 2 + ["I think so"] * 2 + ["The answer is 4"]
    extracted = [None] * 9 + ["4"]
    found = accuracy_is_not_from_empty_outputs(
        as_results({"sft": rows([False] * 10, output=outputs, extracted=extracted)})
    )
    assert severities(found) == [ERROR]
    assert "of 10 items 0 right, 1 wrong, 7 empty, 2 unparseable" in found[0].message
    assert found[0].evidence == {
        "items": 10, "right": 0, "wrong": 1, "empty": 7, "unparseable": 2, "empty but right": 0,
    }  # fmt: skip


def test_unparseable_outputs_alone_make_zero_an_error() -> None:
    """An extractor for another format: nothing was found in any output."""
    found = accuracy_is_not_from_empty_outputs(
        as_results({"sft": rows([False] * 6, output=["x"] * 6, status=["unparseable"] * 6)})
    )
    assert severities(found) == [ERROR]
    assert "6 unparseable" in found[0].message
    assert "an extractor for another format" in found[0].message


def test_some_outputs_without_an_answer_are_a_warning() -> None:
    """Above a tenth, while others are right: worth knowing before the score is believed."""
    right = [True] * 8 + [False] * 2
    found = accuracy_is_not_from_empty_outputs(as_results({"a": rows(right, output=["7"] * 8 + ["", ""])}))
    assert severities(found) == [WARNING]
    assert "8 right, 0 wrong, 2 empty" in found[0].message


def test_half_of_the_outputs_empty_is_an_error_whatever_the_rest() -> None:
    """Also where the others are right; in a handful of items it is a warning."""
    for n, severity in ((10, ERROR), (4, WARNING)):
        right = [True] * (n // 2) + [False] * (n // 2)
        outputs = ["7"] * (n // 2) + [""] * (n // 2)
        found = accuracy_is_not_from_empty_outputs(as_results({"a": rows(right, output=outputs)}))
        assert severities(found) == [severity]


def test_wrong_answers_are_wrong_answers() -> None:
    """A hard task: all answered and all wrong is a warning at most; a few empty ones among many are nothing."""
    wrong = rows([False] * 30, output=[str(i) for i in range(30)])
    told = accuracy_is_not_from_empty_outputs(as_results({"a": wrong}))
    assert severities(told) == [WARNING]
    assert "a task beyond the model" in told[0].message
    mostly = rows([True] * 20 + [False] * 10, output=[str(i) for i in range(27)] + [""] * 3)
    assert not accuracy_is_not_from_empty_outputs(as_results({"a": mostly}))


def test_without_outputs_zero_cannot_be_taken_apart() -> None:
    """The file holds no outputs: said so; with some right it is but a note."""
    zero = accuracy_is_not_from_empty_outputs(as_results({"a": rows([False] * 5)}))
    assert severities(zero) == [WARNING]
    assert "holds no outputs" in zero[0].message
    assert severities(accuracy_is_not_from_empty_outputs(as_results({"a": rows([True, False])}))) == [NOTE]


def test_empty_outputs_scored_right_are_told() -> None:
    """A scorer that rewards silence."""
    right = [True] * 20
    found = accuracy_is_not_from_empty_outputs(as_results({"a": rows(right, output=["x"] * 19 + [""])}))
    assert severities(found) == [WARNING]
    assert "1 of 1 empty outputs are scored above zero" in found[0].message


def test_sets_without_a_usable_score_are_left_alone() -> None:
    """Others tell that; nothing is divided by zero."""
    for records in ([], [{"id": 1}], scored([float("nan")])):
        assert not accuracy_is_not_from_empty_outputs(as_results({"a": records}))


# the same model twice


def test_the_same_outputs_of_two_models_are_an_error() -> None:
    """The adapter that was never loaded: every output is the base model's."""
    outputs = [f"answer {i}" for i in range(40)]
    right = [i % 3 == 0 for i in range(40)]
    found = models_give_different_results(
        as_results({"base": rows(right, output=outputs), "sft": rows(right, output=outputs)})
    )
    assert severities(found) == [ERROR]
    assert "base and sft have the same outputs for all 40 common items" in found[0].message


def test_a_copied_file_is_an_error_without_outputs(tmp_path: Path) -> None:
    """Byte for byte the same rows, with scores that leave room for a difference."""
    one = rows([i % 4 == 0 for i in range(30)])
    found = audited(written(tmp_path, {"base": one, "sft": one}))[("models_give_different_results", "")]
    assert found.outcome is Outcome.FAILED
    assert "same rows for all 30" in found.findings[0].message


def test_the_same_few_outputs_or_scores_alone_are_a_warning() -> None:
    """Few items may agree by chance; scores may agree where the rest of the rows differs."""
    few = rows([True, False, True], output=["a", "b", "c"])
    assert severities(models_give_different_results(as_results({"a": few, "b": few}))) == [WARNING]
    right = [i % 2 == 0 for i in range(30)]
    alike = {"a": rows(right, seconds=range(30)), "b": rows(right, seconds=range(1, 31))}
    found = models_give_different_results(as_results(alike))
    assert severities(found) == [WARNING]
    assert "same scores" in found[0].message


def test_models_that_may_well_agree_pass() -> None:
    """Two perfect models; the same scores from other outputs; one output that differs; few items without outputs."""
    perfect = rows([True] * 50)
    right = [i % 2 == 0 for i in range(30)]
    a, b = [f"a{i}" for i in range(30)], [f"b{i}" for i in range(30)]
    legitimate = [
        {"a": perfect, "b": perfect},
        {"a": rows(right, output=a), "b": rows(right, output=b)},
        {"a": rows(right, output=a), "b": rows(right, output=[*a[:-1], "other"])},
        {"a": rows([True, False], seconds=[1, 2]), "b": rows([True, False], seconds=[2, 1])},
        {"a": rows([True], output=["yes"]), "b": rows([True], output=["yes"])},
        {"a": rows(right), "b": [{"id": "other", "correct": True}]},
    ]
    for sets in legitimate:
        assert not models_give_different_results(as_results(sets)), sets


# differences


def test_a_difference_that_chance_explains_is_refused() -> None:
    """EV-09: 50 items, 2 points apart: a warning with the interval, the p-value, the items needed and the methodology."""
    found = claimed_difference_is_significant(as_results(two(50, 20, 6, 7)))
    assert severities(found) == [WARNING]
    message = found[0].message
    for part in (
        "sft 0.5400 against base 0.5200",
        "95% interval",
        "McNemar exact p = 1",
        "0.05 needs",
        "paired by id",
        "report the interval",
    ):
        assert part in message
    assert found[0].evidence["comparison"]["verdict"] == "undecided"


def test_a_real_difference_is_a_note_with_its_methodology() -> None:
    """1,000 items, ten points, most in one direction."""
    found = claimed_difference_is_significant(as_results(two(1000, 400, 50, 150)))
    assert severities(found) == [NOTE]
    assert "large enough for this many items" in found[0].message
    assert "exact McNemar test" in found[0].message
    assert found[0].evidence["comparison"]["adjusted"] < 1e-10
    assert found.looked_at == 1000


def test_a_significant_difference_below_what_the_items_show_is_refused() -> None:
    """p < 0.05, and yet smaller than what so many items show with 80 % power: nothing is called."""
    found = claimed_difference_is_significant(as_results(two(200, 90, 14, 28)))
    assert found[0].evidence["comparison"]["p_value"] < 0.05
    assert found[0].evidence["comparison"]["verdict"] == "too small to call"
    assert severities(found) == [WARNING]


def test_equivalent_models_are_a_note() -> None:
    """A difference that lies wholly within the smallest of interest."""
    found = claimed_difference_is_significant(as_results(two(4000, 2000, 50, 60)))
    assert severities(found) == [NOTE]
    assert "equivalent" in found[0].message


def test_equal_means_claim_nothing() -> None:
    """No difference, no claim: a note."""
    assert severities(claimed_difference_is_significant(as_results(two(30, 10, 3, 3)))) == [NOTE]


def test_several_models_are_corrected_after_holm() -> None:
    """p = 0.03 alone, three comparisons: no longer significant."""
    sets = two(400, 180, 12, 26)
    alone = claimed_difference_is_significant(as_results(sets))[0].evidence["comparison"]
    assert alone["adjusted"] == alone["p_value"] < 0.05
    sets["dpo"] = sets["base"]
    found = claimed_difference_is_significant(as_results(sets))
    first = found[0].evidence["comparison"]
    assert first["adjusted"] == pytest.approx(3 * first["p_value"])
    assert (first["verdict"], len(found)) == ("undecided", 3)
    assert "after Holm over 3 comparisons" in found[0].message


def test_alpha_and_effect_of_the_project_are_used(tmp_path: Path) -> None:
    """A stricter level turns the same results from a difference into none."""
    sets = two(1000, 400, 60, 100)
    mild = audited(written(tmp_path, sets))[("claimed_difference_is_significant", "")]
    strict = audited(written(tmp_path, sets, "alpha = 0.0001\nsmallest_effect = 0.2\n"))[
        ("claimed_difference_is_significant", "")
    ]
    assert (mild.outcome, strict.outcome) == (Outcome.PASSED, Outcome.PASSED)
    told = [r.findings[0].evidence["comparison"] for r in (mild, strict)]
    assert [(c["verdict"], c["effect"]) for c in told] == [("different", 0.05), ("equivalent", 0.2)]


def test_rows_that_share_a_document_are_few_witnesses(tmp_path: Path) -> None:
    """200 rows of 10 documents: what looks significant row by row is not, document by document."""
    sets = two(200, 60, 20, 60)
    for one in sets.values():
        for i, row in enumerate(one):
            row["document"] = f"d{i // 20}"
    (tmp_path / "plain").mkdir()
    (tmp_path / "shared").mkdir()
    name = ("claimed_difference_is_significant", "")
    plain = audited(written(tmp_path / "plain", sets))[name].findings[0].evidence["comparison"]
    shared = audited(written(tmp_path / "shared", sets, '[data]\ngroup = "document"\n'))[name]
    told = shared.findings[0].evidence["comparison"]
    assert (plain["verdict"], plain["groups"]) == ("different", None)
    assert (told["verdict"], told["groups"], told["test"]) == ("undecided", 10, "randomisation over groups")
    assert shared.outcome is Outcome.WARNED


def test_scores_are_compared_by_the_paired_t_test() -> None:
    """Partial scores: the paired t test decides, Wilcoxon and the sign test stand beside it."""
    pytest.importorskip("scipy")
    rng = np.random.default_rng(0)
    first = rng.uniform(0, 0.7, 300)
    sets = {"a": scored(first.tolist()), "b": scored((first + rng.normal(0.1, 0.2, 300)).clip(0, 1).tolist())}
    found = claimed_difference_is_significant(as_results(sets))
    told = found[0].evidence["comparison"]
    assert (told["test"], told["verdict"]) == ("paired t", "different")
    assert set(told["others"]) == {"Wilcoxon signed-rank", "sign test"}


def test_without_scipy_scores_are_skipped_with_the_line_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is exact about right and wrong needs no extra; scores say what to install."""
    monkeypatch.setitem(__import__("sys").modules, "scipy.stats", None)
    monkeypatch.setitem(__import__("sys").modules, "statsmodels.stats.power", None)
    assert claimed_difference_is_significant(as_results(two(50, 20, 6, 7)))
    with pytest.raises(MissingEvidence, match=r"pytest-llmguard\[stats\]"):
        claimed_difference_is_significant(
            as_results({"a": scored([0.1, 0.5, 0.2]), "b": scored([0.3, 0.4, 0.9])})
        )


@pytest.mark.parametrize(
    "sets",
    [
        {},
        {"a": []},
        {"a": [], "b": []},
        {"a": rows([True]), "b": []},
        {"a": scored([float("nan")]), "b": scored([1.0])},
    ],
)
def test_nothing_to_compare_is_nothing_looked_at(sets: dict[str, list[Row]]) -> None:
    """No sets, no rows, no common item, no finite score: never an exception, and skipped instead of green."""
    found = claimed_difference_is_significant(as_results(sets))
    assert (list(found), found.looked_at) == ([], 0)


# power


def test_too_few_items_are_a_warning_with_the_number_needed() -> None:
    """98 items cannot show five points: how many can."""
    found = evaluation_can_detect_the_smallest_effect(as_results(two(98, 50, 10, 12)))
    assert severities(found) == [WARNING]
    assert "98 items, where a difference of 0.05 needs" in found[0].message
    needed = found[0].evidence["needed"]
    assert 650 < needed < 800
    assert f"needs {needed:,} to be shown with 80% power" in found[0].message


def test_enough_items_pass_and_so_does_a_large_difference_on_few() -> None:
    """Power is no end in itself: what is shown already needs no more items."""
    assert not evaluation_can_detect_the_smallest_effect(as_results(two(2000, 1000, 100, 110)))
    assert not evaluation_can_detect_the_smallest_effect(as_results(two(60, 10, 2, 40)))


def test_one_set_gives_its_interval_and_the_number_needed() -> None:
    """60 of 100: the exact interval, Wilson's, and the items that five points would need."""
    found = evaluation_can_detect_the_smallest_effect(as_results({"base": rows([True] * 60 + [False] * 40)}))
    assert severities(found) == [NOTE, WARNING]
    assert "60 of 100 right (60.00%), 0.4972 to 0.6967" in found[0].message
    assert found[0].evidence["wilson"] == pytest.approx([0.5020, 0.6906], abs=1e-4)
    assert 1400 < found[1].evidence["needed"] < 1700


def test_one_large_set_is_a_note_alone() -> None:
    """GSM8K's 1,319 test questions show ten points."""
    found = evaluation_can_detect_the_smallest_effect(
        as_results({"base": rows([i % 2 == 0 for i in range(1319)])}), smallest_effect=0.1
    )
    assert severities(found) == [NOTE]
    assert found.looked_at == 1319


def test_one_set_of_scores_gives_its_standard_error() -> None:
    """Partial scores, alone; also where all are the same."""
    pytest.importorskip("statsmodels")
    rng = np.random.default_rng(0)
    found = evaluation_can_detect_the_smallest_effect(
        as_results({"a": scored(rng.uniform(0, 1, 50).tolist())})
    )
    assert severities(found) == [NOTE, WARNING]
    assert found[0].evidence["standard_error"] == pytest.approx(0.04, abs=0.01)
    assert severities(evaluation_can_detect_the_smallest_effect(as_results({"a": scored([0.5] * 9)}))) == [
        NOTE
    ]


@pytest.mark.parametrize("sets", [{}, {"a": []}, {"a": [{"id": 1}]}, {"a": scored([float("nan")])}])
def test_no_items_have_no_power_and_no_exception(sets: dict[str, list[Row]]) -> None:
    """Nothing looked at."""
    found = evaluation_can_detect_the_smallest_effect(as_results(sets))
    assert (list(found), found.looked_at) == ([], 0)


def test_a_whole_project_is_judged(tmp_path: Path) -> None:
    """Every check of the family passes on an honest evaluation with outputs, ids and enough items."""
    sets = two(2000, 800, 100, 300)
    for name, one in sets.items():
        for i, row in enumerate(one):
            row["output"] = f"{name} says {i}"
    found = audited(written(tmp_path, sets))
    assert {r.outcome for r in found.values()} == {Outcome.PASSED}
    assert len(found) == 4 * 2 + 5


def test_files_are_read_by_name(tmp_path: Path) -> None:
    """`read_results` outside of a project: what the core and a user's own script take."""
    written(tmp_path, {"base": rows([True, False])})
    found = read_results({"base": tmp_path / "base.jsonl"})
    assert found.sets[0].scores.tolist() == [1.0, 0.0]


# what a small change of a check would break


def test_every_check_says_how_many_rows_it_looked_at() -> None:
    """All rows of all sets; of pairs, the items compared."""
    sets = as_results(two(40, 10, 5, 6))
    every = (
        result_files_are_readable, results_have_no_duplicate_ids, scores_are_finite, accuracy_is_not_from_empty_outputs,
        result_sets_cover_the_same_items, result_sets_use_the_same_measure, models_give_different_results,
    )  # fmt: skip
    assert [check(sets).looked_at for check in every] == [80] * 7
    assert evaluation_can_detect_the_smallest_effect(sets).looked_at == 40
    assert evaluation_can_detect_the_smallest_effect(as_results({"a": rows([True] * 9)})).looked_at == 9


def test_examples_are_few_and_counts_are_whole(tmp_path: Path) -> None:
    """Thirty bad rows: all counted, five shown."""
    bad = scores_are_finite(as_results({"a": scored([float("nan")] * 30)}))
    assert "30 of 30 scores" in bad[0].message
    assert len(bad[0].evidence["rows"]) == 5
    broken = read_results({"a": written(tmp_path, {"a": "{\n" * 30}).with_name("a.jsonl")})
    assert len(result_files_are_readable(broken)[0].evidence["problems"]) == 5
    twice = results_have_no_duplicate_ids(as_results({"a": scored([1.0] * 30) * 2}))
    assert len(twice[0].evidence["ids"]) == 5


def test_a_file_without_any_id_is_told_once() -> None:
    """By the check on columns, and not again by the one on repeated ids."""
    nameless = as_results({"a": [{"correct": True}] * 3})
    assert not results_have_no_duplicate_ids(nameless)
    assert severities(result_files_are_readable(nameless)) == [ERROR]


def test_the_common_items_of_unlike_sets_are_told_with_their_means() -> None:
    """What can be compared until both are whole; unknown where there is nothing in common or no score in it."""
    unlike = result_sets_cover_the_same_items(
        as_results({"a": scored([1.0, 0.0, 1.0]), "b": scored([0.0, 0.0])})
    )
    assert unlike[0].evidence["means_of_the_common"] == [0.5, 0.0]
    nothing = {"a": scored([float("nan")] * 2), "b": [{"id": "q0", "score": None}]}
    assert result_sets_cover_the_same_items(as_results(nothing))[0].evidence["means_of_the_common"] == [
        None,
        None,
    ]
    apart = {"a": scored([1.0]), "b": [{"id": "z", "score": 1.0}]}
    assert result_sets_cover_the_same_items(as_results(apart))[0].evidence["means_of_the_common"] == [
        None,
        None,
    ]


@pytest.mark.parametrize(
    ("a", "b", "told"),
    [
        (1.0, 100.0, [ERROR]),
        (0.5, 10.5, [ERROR]),
        (1.0, 2.0, []),
        (1.0, 10.0, []),
        (1.5, 80.0, []),
        (0.0, 80.0, []),
        (NAN, 80.0, []),
    ],
)
def test_scales_differ_from_shares_to_per_cent(a: float, b: float, told: list[Severity]) -> None:
    """A share beside per cent; ratings of which one model earned the lowest, a model that earned nothing, no scores: no scale."""
    found = result_sets_use_the_same_measure(as_results({"a": scored([0.0, a]), "b": scored([0.0, b])}))
    assert severities(found) == told


def test_a_set_without_a_score_has_no_scale() -> None:
    """Others tell that it has none."""
    hopeless = {"a": [{"id": 1, "score": None}], "b": scored([80.0])}
    assert not result_sets_use_the_same_measure(as_results(hopeless))


def test_twenty_same_outputs_are_enough() -> None:
    """From twenty items on it is an error; outputs of one side alone are not compared with nothing."""
    right = [i % 2 == 0 for i in range(20)]
    same = rows(right, output=[str(i) for i in range(20)])
    assert severities(models_give_different_results(as_results({"a": same, "b": same}))) == [ERROR]
    found = models_give_different_results(as_results({"a": same, "b": rows(right)}))
    assert [f.evidence["same"] for f in found] == ["scores"]


def test_exactly_the_items_needed_are_enough() -> None:
    """665 items, 133 of them discordant, show five points; and four scores have a standard error."""
    assert not evaluation_can_detect_the_smallest_effect(as_results(two(665, 300, 66, 67)))
    assert severities(evaluation_can_detect_the_smallest_effect(as_results(two(660, 300, 66, 66)))) == [
        WARNING
    ]
    pytest.importorskip("statsmodels")
    found = evaluation_can_detect_the_smallest_effect(as_results({"a": scored([0.1, 0.5, 0.3, 0.8])}))
    assert found[0].evidence["standard_error"] == pytest.approx(0.149, abs=1e-3)
    assert found[1].evidence["needed"] > 100


def test_half_without_an_answer_and_nothing_right_is_an_error() -> None:
    """Exactly half of the outputs unparseable, the others wrong."""
    status = ["unparseable"] * 5 + ["wrong"] * 5
    half = rows([False] * 10, output=["x"] * 10, status=status)
    assert severities(accuracy_is_not_from_empty_outputs(as_results({"a": half}))) == [ERROR]
    assert severities(accuracy_is_not_from_empty_outputs(as_results({"a": half[1:]}))) == [WARNING]


def test_few_of_many_missing_items_are_shown() -> None:
    """Thirty items that one set lacks: five are named."""
    found = result_sets_cover_the_same_items(as_results({"a": rows([True] * 31), "b": rows([True])}))
    assert len(found[0].evidence["only_first"]) == 5


def test_one_set_is_planned_for_the_nearer_half() -> None:
    """90 of 100: the other model is taken to be at 85 %, where more differs than at 95 %."""
    found = evaluation_can_detect_the_smallest_effect(as_results({"a": rows([True] * 90 + [False] * 10)}))
    assert found[1].evidence["needed"] == needed_pairs(0.05, 0.9 * 0.15 + 0.85 * 0.1)


def test_one_score_and_scores_below_zero_are_taken_as_they_are() -> None:
    """A single score has no deviation; scores that leave 0 to 1 take the effect as a share of their range."""
    pytest.importorskip("statsmodels")
    assert severities(evaluation_can_detect_the_smallest_effect(as_results({"a": scored([0.5])}))) == [NOTE]
    found = evaluation_can_detect_the_smallest_effect(as_results({"a": scored([-1.0, 0.5, 0.2, 0.1])}))
    assert "a difference of 0.075 needs" in found[1].message
