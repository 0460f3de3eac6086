"""Compare saved results item by item: a table, JSON, and the methodology that belongs to every number.

    told = compare({"base": "eval/base.jsonl", "sft": "eval/sft.jsonl"})
    print(told.table()); print(told.methodology)

What would make a comparison worthless is refused first, by the checks: unreadable lines, repeated ids, scores that are no numbers,
sets of other items, two measures.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llmguard
from llmguard.statistics.exact import clopper_pearson
from llmguard.statistics.paired import Comparison
from llmguard.statistics.sets import Results, ResultSet, read_results
from llmguard.statistics.several import compare_all
from llmguard.statistics.words import methodology, sentence
from llmguard_core.checkpoints.folder import write_file
from llmguard_core.errors import DataRefused

__all__ = ["Compared", "compare"]

REFUSED = (
    "result_files_are_readable",
    "results_have_no_duplicate_ids",
    "scores_are_finite",
    "result_sets_cover_the_same_items",
    "result_sets_use_the_same_measure",
)
TOLD = ("accuracy_is_not_from_empty_outputs", "models_give_different_results")


@dataclass(frozen=True)
class Compared:
    """Each model's summary, each two models' comparison, what the checks remark, and how it was done."""

    models: Mapping[str, Mapping[str, Any]]
    comparisons: Sequence[Comparison]
    remarks: Sequence[str]
    methodology: str

    def table(self) -> str:
        """The comparison as Markdown: models, pairs with their verdicts, remarks."""
        lines = ["| model | items | mean | interval | empty | unparseable |", "|---|--:|--:|--:|--:|--:|"]
        for name, m in self.models.items():
            interval = "{:.4f} to {:.4f}".format(*m["interval"]) if m["interval"] else "-"
            empty, unread = (m[k] if m[k] is not None else "-" for k in ("empty", "unparseable"))
            lines.append(f"| {name} | {m['items']:,} | {m['mean']:.4f} | {interval} | {empty} | {unread} |")
        lines += ["", *(f"- {sentence(c)}." for c in self.comparisons)]
        return "\n".join([*lines, *(f"- {remark}" for remark in self.remarks)])

    def to_json(self) -> dict[str, Any]:
        """Everything, JSON-safe."""
        return {
            "models": dict(self.models),
            "comparisons": [{**c.to_json(), "sentence": sentence(c)} for c in self.comparisons],
            "remarks": list(self.remarks),
            "methodology": self.methodology,
        }

    def write(self, folder: Path | str) -> tuple[Path, Path]:
        """Write comparison.json and comparison.md; gives their paths."""
        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        text = f"# Comparison\n\n{self.table()}\n\n{self.methodology}\n"
        write_file(place / "comparison.json", json.dumps(self.to_json(), indent=2).encode())
        write_file(place / "comparison.md", text.encode("utf-8", "backslashreplace"))
        return place / "comparison.json", place / "comparison.md"


def compare(
    files: Mapping[str, Path | str] | Results,
    *,
    alpha: float = 0.05,
    smallest_effect: float = 0.05,
    id: str = "id",
    score: str | None = None,
    group: str | None = None,
) -> Compared:
    """Compare two or more sets of results, paired by id; one set alone gives its interval.

    Raises:
        DataRefused: there are no results.
        CheckFailed: results that cannot be compared honestly, with everything that is wrong with them.
        UsageError: an alpha or a smallest_effect that is no share.
    """
    results = files if isinstance(files, Results) else read_results(files, id=id, score=score, group=group)
    if not results.sets:
        raise DataRefused(
            "there are no results to compare", where="results", remedy="Name one file for each model."
        )
    llmguard.require(*(getattr(llmguard, name)(results) for name in REFUSED))
    comparisons = compare_all(results, alpha=alpha, effect=smallest_effect)
    found = [f for name in TOLD for f in getattr(llmguard, name)(results) if f.severity != "note"]
    if len(results.sets) == 1:
        found += llmguard.evaluation_can_detect_the_smallest_effect(results, alpha, smallest_effect)
    return Compared(
        models={one.name: _summary(one, alpha) for one in results.sets},
        comparisons=comparisons,
        remarks=[" ".join(f.message.split("\n")) for f in found],
        methodology=methodology(comparisons),
    )


def _summary(one: ResultSet, alpha: float) -> dict[str, Any]:
    scores = one.scores
    binary = set(scores.tolist()) <= {0.0, 1.0}
    interval = clopper_pearson(int(scores.sum()), len(scores), alpha) if binary else None
    statuses = one.statuses
    return {
        "items": len(scores),
        "mean": float(scores.mean()),
        "interval": [interval.low, interval.high] if interval else None,
        **{s: None if statuses is None else statuses.count(s) for s in ("empty", "unparseable")},
    }
