"""Saved results compared: table, JSON and methodology; what cannot be compared honestly is refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from llmguard.errors import CheckFailed, UsageError
from llmguard.statistics.sets import as_results
from llmguard_core.compare import compare
from llmguard_core.errors import DataRefused


def saved(folder: Path, name: str, right: Sequence[float], **more: Sequence[Any]) -> Path:
    """A file of results."""
    file = folder / f"{name}.jsonl"
    rows = [{"id": i, "score": float(r), **{k: v[i] for k, v in more.items()}} for i, r in enumerate(right)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """1,000 items: base 0.45, sft 0.55, dpo 0.56."""
    base = [1] * 400 + [1] * 50 + [0] * 150 + [0] * 400
    sft = [1] * 400 + [0] * 50 + [1] * 150 + [0] * 400
    dpo = [1] * 400 + [0] * 45 + [1] * 155 + [0] * 400
    return {n: saved(tmp_path, n, r) for n, r in (("base", base), ("sft", sft), ("dpo", dpo))}


def test_every_two_models_are_compared_with_verdicts(files: dict[str, Path]) -> None:
    """Two real differences after Holm, and two models that are equivalent."""
    told = compare(files)
    verdicts = {c.names: c.verdict for c in told.comparisons}
    assert verdicts == {
        ("base", "sft"): "different",
        ("base", "dpo"): "different",
        ("sft", "dpo"): "equivalent",
    }
    assert "Holm's correction over all 3 comparisons" in told.methodology
    assert "McNemar" in told.methodology
    assert not told.remarks


def test_the_table_tells_models_intervals_and_sentences(files: dict[str, Path]) -> None:
    """As Markdown: one row a model with its exact interval, one sentence a pair."""
    table = compare(files).table()
    assert "| base | 1,000 | 0.4500 | 0.4189 to 0.4814 | - | - |" in table
    assert "sft 0.5500 against base 0.4500 on 1,000 items: +0.1000 (95% interval" in table
    assert table.count("\n- ") == 3


def test_json_and_markdown_are_written(files: dict[str, Path], tmp_path: Path) -> None:
    """Both files hold the methodology; the JSON is strict (no NaN)."""
    as_json, as_text = compare(files).write(tmp_path / "out")
    found = json.loads(as_json.read_text("utf-8"), parse_constant=pytest.fail)
    assert found["comparisons"][0]["verdict"] == "different"
    assert found["methodology"] in as_text.read_text("utf-8")


def test_one_model_alone_gives_its_interval_and_the_items_needed(files: dict[str, Path]) -> None:
    """Nothing to compare with: the interval, and how many items five points would need."""
    told = compare({"base": files["base"]})
    assert told.comparisons == []
    assert told.models["base"]["interval"] == pytest.approx([0.4189, 0.4814], abs=1e-4)
    assert any("needs" in remark for remark in told.remarks)
    assert "a comparison needs the results of two models" in told.methodology


def test_a_small_difference_is_refused(tmp_path: Path) -> None:
    """Documented bug 9: 40 items, one point apart: neither called a gain nor called none."""
    told = compare({"a": saved(tmp_path, "a", [1, 0] * 20), "b": saved(tmp_path, "b", [1, 0] * 19 + [1, 1])})
    assert told.comparisons[0].verdict == "undecided"
    assert "says nothing in favour of either" in told.table()


@pytest.mark.parametrize(
    ("second", "check"),
    [
        ([{"id": 1, "score": 1.0}], "result_sets_cover_the_same_items"),
        ([{"id": i % 3, "score": 1.0} for i in range(5)], "results_have_no_duplicate_ids"),
        ([{"id": i, "score": None if i else 1.0} for i in range(4)], "scores_are_finite"),
        ([{"id": i, "score": 77.0 + i} for i in range(4)], "result_sets_use_the_same_measure"),
        ([], "result_files_are_readable"),
    ],
)
def test_what_cannot_be_compared_is_refused_by_its_check(second: list[dict[str, Any]], check: str) -> None:
    """Other items, repeated ids, no numbers, another measure, no rows: CheckFailed names the check; no number is given."""
    first = [{"id": i, "score": float(i % 2)} for i in range(4)]
    with pytest.raises(CheckFailed, match=check):
        compare(as_results({"a": first, "b": second}))


def test_a_missing_file_is_refused_with_what_lies_near(files: dict[str, Path]) -> None:
    """The name that was probably meant."""
    with pytest.raises(CheckFailed, match=r"near it lies base\.jsonl"):
        compare({"base": files["base"], "sft": files["sft"].with_name("bose.jsonl")})


def test_no_results_at_all_are_refused() -> None:
    """An error with words."""
    with pytest.raises(DataRefused, match="no results to compare"):
        compare({})


def test_an_alpha_that_is_no_share_is_a_mistake_of_the_caller(files: dict[str, Path]) -> None:
    """5 is not 0.05."""
    with pytest.raises(UsageError, match="alpha=5"):
        compare(files, alpha=5)


def test_empty_outputs_and_twins_are_remarked(tmp_path: Path) -> None:
    """The comparison is made, and what makes its numbers doubtful stands beside them."""
    right, outputs = [0, 1] * 15, [str(i) if i % 3 else "" for i in range(30)]
    files = {n: saved(tmp_path, n, right, output=outputs) for n in ("base", "sft")}
    told = compare(files)
    assert told.models["base"]["empty"] == 10
    assert any("same outputs for all 30" in r for r in told.remarks)
    assert any("10 empty" in r for r in told.remarks)


def test_items_that_share_a_document_are_counted_as_few(tmp_path: Path) -> None:
    """The group column: the same numbers, another verdict, and the methodology says why."""
    documents = [f"d{i // 25}" for i in range(250)]
    base = saved(tmp_path, "base", [1] * 75 + [0] * 175, document=documents)
    sft = saved(tmp_path, "sft", [1] * 125 + [0] * 125, document=documents)
    plain, grouped = (
        compare({"base": base, "sft": sft}),
        compare({"base": base, "sft": sft}, group="document"),
    )
    assert plain.comparisons[0].verdict == "different"
    assert (grouped.comparisons[0].verdict, grouped.comparisons[0].groups) == ("undecided", 10)
    assert "whole groups were resampled" in grouped.methodology
