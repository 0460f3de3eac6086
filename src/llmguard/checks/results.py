"""Result files: can they be read, do they speak of the same items in the same measure, and do scores come from answers."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from llmguard.contract import Yields, check
from llmguard.findings import Finding, error, note, warning
from llmguard.statistics.sets import Results, ResultSet, aligned, as_results

__all__ = [
    "accuracy_is_not_from_empty_outputs",
    "models_give_different_results",
    "result_files_are_readable",
    "result_sets_cover_the_same_items",
    "result_sets_use_the_same_measure",
    "results_have_no_duplicate_ids",
    "scores_are_finite",
]

SHOWN = 5
ENOUGH = 20  # items from which models that never differ are no coincidence
FEW = 5  # items below which a share says little
RATING = (
    10  # scores up to it may be ratings of which one model got the lowest only; beyond it they are per cent
)
MUCH, SOME = 0.5, 0.1  # shares of items without an answer: the score is about that; worth knowing
CAUSES = (
    "a task beyond the model, or references that are written unlike any answer",
    "a terminator generated at once, too few new tokens, a stop text at the start, or an extractor for another format",
)  # every item answered; some without an answer
WHY_PAIRS = "models are compared item by item: what only one of them was asked moves its mean and says nothing of the model"


@check
def result_files_are_readable(results: Results) -> Yields:
    """Every line of a result file is a JSON object with an id and a score."""
    found = as_results(results)
    for one in found.sets:
        if one.problems:
            yield _unreadable(one)
        elif not one.records:
            yield error(
                one.where(),
                what="the file holds no results",
                why="a mean over nothing is no result, and a comparison with it compares nothing",
                cause="the evaluation ended before its first item, or wrote to another file",
                remedy="run the evaluation again and look at its exit code",
            )
        yield from _columns(one)
    return len(found) + sum(len(one.problems) for one in found.sets)


def _unreadable(one: ResultSet) -> Finding:
    first = one.problems[0]
    return error(
        first.where,
        what=f"{len(one.problems):,} of {len(one) + len(one.problems):,} lines cannot be read; the first {first.reason}",
        why="items that are lost with their lines leave the mean, and seldom at random",
        cause="the evaluation was killed while it wrote, two of them wrote at once, or the path is another's",
        remedy="evaluate what is missing again, or name the right file in `[evaluation] results`",
        evidence={"problems": [{"line": p.line, "reason": p.reason} for p in one.problems[:SHOWN]]},
    )


def _columns(one: ResultSet) -> Iterator[Finding]:
    wanted = [("id", one.id, any(i is not None for i in one.ids))]
    wanted.append(("score", one.score or "correct or score", one.score_column is not None))
    names = list(dict.fromkeys(name for record in one.records for name in record))
    for key, column, there in wanted:
        if one.records and not there:
            near = [n for n in names if column in n.lower().split("_")] or difflib.get_close_matches(
                column, names, n=1
            )
            yield error(
                one.where(),
                what=f"none of {len(one):,} rows has the column {column}; there are {', '.join(names[:12]) or 'no columns'}",
                why="without it nothing can be judged or paired",
                cause="another program names it otherwise",
                remedy=f'say `[evaluation] {key} = "{near[0] if near else "…"}"` in llmguard.toml',
                expected=column,
                actual=", ".join(names[:12]),
            )


@check
def results_have_no_duplicate_ids(results: Results) -> Yields:
    """Every row of a result file has an id, and no id stands in two rows."""
    found = as_results(results)
    for one in found.sets:
        nameless = [row for row, key in enumerate(one.ids) if key is None]
        if nameless and len(nameless) < len(one):
            yield error(
                one.where(nameless[0], one.id),
                what=f"{len(nameless):,} of {len(one):,} rows have no id",
                why=WHY_PAIRS,
                cause="a header or a summary was written among the results, or items without an id were evaluated",
                remedy="give every item an id in the test data, and write nothing else into the file",
                evidence={"rows": nameless[:SHOWN]},
            )
        if one.repeated:
            yield _repeated(one)
    return len(found)


def _repeated(one: ResultSet) -> Finding:
    extra = sum(len(rows) - 1 for rows in one.repeated.values())
    unlike = sum(len({str(one.scores[r]) for r in rows}) > 1 for rows in one.repeated.values())
    key, rows = next(iter(one.repeated.items()))
    return error(
        one.where(rows[1], one.id),
        what=f"{len(one.repeated):,} ids stand in more than one row ({extra:,} rows too many), {unlike:,} of them with different scores",
        why="an item that counts twice weighs twice, and makes the sample look larger than it is: intervals come out too narrow",
        cause="a resumed evaluation appended what was there already, or several samples were drawn for each item",
        remedy="keep one row an item (the mean of its samples), or give samples their own ids and name what they share in `[data] group`",
        evidence={"ids": list(one.repeated)[:SHOWN], "first": {"id": key, "rows": rows[:SHOWN]}},
    )


@check
def scores_are_finite(results: Results) -> Yields:
    """Every score is true, false or a finite number."""
    found = as_results(results)
    for one in found.sets:
        column = one.score_column
        bad = np.flatnonzero(np.isnan(one.scores)).tolist() if column else []
        if bad and column:
            shown = {row: repr(one.records[row].get(column, "(no such column)"))[:40] for row in bad[:SHOWN]}
            yield error(
                one.where(bad[0], column),
                what=f"{len(bad):,} of {len(one):,} scores are no finite numbers, the first is {shown[bad[0]]}",
                why="one NaN makes the mean NaN, and a mean that leaves it out is about other items than the other model's",
                cause="a division by zero in a metric, an empty completion, a score kept as text, or an item that failed",
                remedy="score such an item 0, or leave it out of *every* model's results, and say which",
                evidence={"rows": shown},
            )
    return len(found)


@check
def result_sets_cover_the_same_items(results: Results) -> Yields:
    """The result sets of all models hold the same items."""
    found = as_results(results)
    sets = [one for one in found.sets if any(key is not None for key in one.ids)]
    for first, second in Results(sets).pairs:
        a, b = {*first.ids} - {None}, {*second.ids} - {None}
        if a != b:
            yield _unlike(first, second, a, b)
    return len(found) if len(sets) > 1 else 0


def _unlike(first: ResultSet, second: ResultSet, a: set[Any], b: set[Any]) -> Finding:
    means = [
        float(np.nanmean(s)) if s.size and not np.isnan(s).all() else None for s in aligned(first, second)[:2]
    ]
    return error(
        second.where(),
        what=f"{first.name} has {len(a):,} items and {second.name} {len(b):,}, {len(a & b):,} of them the same"
        f" ({len(a - b):,} only in {first.name}, {len(b - a):,} only in {second.name})",
        why=WHY_PAIRS,
        cause="one evaluation ended early or used another split, another limit or other ids",
        remedy="evaluate both models on the same file with the same ids; until then only the common items can be compared",
        expected=f"{len(a):,} items",
        actual=f"{len(b):,} items",
        evidence={
            "only_first": sorted(a - b)[:SHOWN], "only_second": sorted(b - a)[:SHOWN], "means_of_the_common": means,
        },
    )  # fmt: skip


@check
def result_sets_use_the_same_measure(results: Results) -> Yields:
    """All result sets are scored in the same column and on the same scale.

    Cannot see: shares beside ratings up to ten, for a model may earn only the lowest rating.
    """
    found = as_results(results)
    sets = [one for one in found.sets if one.score_column and np.isfinite(one.scores).any()]
    for first, second in Results(sets).pairs:
        largest = [float(np.nanmax(np.abs(one.scores))) for one in (first, second)]
        scales = 0 < min(largest) <= 1 and max(largest) > RATING
        if scales or first.score_column != second.score_column:
            yield (error if scales else warning)(
                second.where(column=second.score_column),
                what=f"{first.name} is scored by {first.score_column!r} up to {largest[0]:g},"
                f" {second.name} by {second.score_column!r} up to {largest[1]:g}",
                why="the difference of two measures is not a difference of two models",
                cause="per cent beside shares, or two metrics (right or wrong beside a partial score)",
                remedy="score both models with the same function, or name the common column in `[evaluation] score`",
                expected=f"{first.score_column} up to {largest[0]:g}",
                actual=f"{second.score_column} up to {largest[1]:g}",
            )
    return len(found) if len(sets) > 1 else 0


@check
def accuracy_is_not_from_empty_outputs(results: Results) -> Yields:
    """Scores come from answers: empty and unparseable outputs are few, and told apart from wrong ones.

    Cannot see: outputs that the file does not hold (columns output, completion, response, generation, prediction, resps), nor
    what could not be parsed (columns extracted, parsed, extracted_answer, filtered_resps, or status).
    """
    found = as_results(results)
    for one in found.sets:
        counts = _counts(one)
        total, without = counts["items"], counts["empty"] + counts["unparseable"]
        if not total:
            continue
        if counts["empty but right"]:
            yield _right_for_nothing(one, counts)
        alarming = counts["empty"] >= MUCH * total or (not counts["right"] and without >= MUCH * total)
        if alarming and total >= FEW:
            yield error(one.where(), **_without(one, counts))
        elif without > SOME * total or (not counts["right"] and total >= FEW):
            yield warning(one.where(), **_without(one, counts))
        elif one.statuses is None:
            yield note(
                one.where(), what="the file holds no outputs: empty ones cannot be told from wrong ones"
            )
    return len(found)


def _counts(one: ResultSet) -> dict[str, int]:
    usable = np.isfinite(one.scores)
    right = usable & (one.scores > 0)
    statuses = np.array(one.statuses or ["answered"] * len(one), dtype=object)
    empty, unparsed = statuses == "empty", statuses == "unparseable"
    parts = {
        "items": usable, "right": right & ~empty, "wrong": usable & ~right & ~empty & ~unparsed,
        "empty": usable & empty, "unparseable": usable & unparsed, "empty but right": right & empty,
    }  # fmt: skip
    return {name: int(mask.sum()) for name, mask in parts.items()}


def _without(one: ResultSet, counts: dict[str, int]) -> dict[str, Any]:
    told = "" if one.statuses else "; the file holds no outputs, so empty ones cannot be told from wrong ones"
    parts = ", ".join(f"{counts[k]:,} {k}" for k in ("right", "wrong", "empty", "unparseable"))
    return {
        "what": f"of {counts['items']:,} items {parts}{told}",
        "why": "a score that is low because nothing came out, or because the answer was not found, says nothing of what the model knows",
        "cause": CAUSES[counts["empty"] + counts["unparseable"] > 0],
        "remedy": "read ten outputs; raise max_new_tokens, repair the prompt's end or the extractor, and report the four counts",
        "evidence": counts,
    }


def _right_for_nothing(one: ResultSet, counts: dict[str, int]) -> Finding:
    return warning(
        one.where(),
        what=f"{counts['empty but right']:,} of {counts['empty']:,} empty outputs are scored above zero",
        why="a scorer that rewards silence rewards a broken model",
        cause="an empty reference, a text that contains the empty text, or a default of the scorer",
        remedy="score empty outputs 0 unless silence is the right answer (then accept this finding with that reason)",
        evidence=counts,
    )


@check
def models_give_different_results(results: Results) -> Yields:
    """No two models have the same outputs for all items: that would be one model evaluated twice."""
    found = as_results(results)
    for first, second in found.pairs:
        same, n = _sameness(first, second)
        if same:
            many = n >= ENOUGH and same != "scores"
            yield (error if many else warning)(
                second.where(),
                what=f"{first.name} and {second.name} have the same {same} for all {n:,} common items",
                why="a difference of zero that comes from evaluating one model twice looks like a training that did nothing",
                cause="the adapter was not loaded (or is untrained), the path is the other model's, or one file was copied",
                remedy="compare the logits of both for one prompt; check the paths, and that the adapter changes the model",
                evidence={"items": n, "same": same},
            )
    return len(found) if len(found.sets) > 1 else 0


def _sameness(first: ResultSet, second: ResultSet) -> tuple[str, int]:
    """What is the same for all common items, and how many those are; '' where something differs or nothing could."""
    rows = {key: row for row, key in enumerate(first.ids) if key is not None}
    pairs = [(rows[key], row) for row, key in enumerate(second.ids) if key in rows]
    if len(pairs) < 2:
        return "", len(pairs)
    if first.outputs is not None and second.outputs is not None:
        return _same("outputs", first.outputs, second.outputs, pairs), len(pairs)
    if _same("rows", first.records, second.records, pairs) and _vary(first.scores.tolist()):
        return "rows", len(pairs)
    if len(pairs) < ENOUGH or not _vary(first.scores.tolist()):
        return "", len(pairs)
    return _same("scores", first.scores.tolist(), second.scores.tolist(), pairs), len(pairs)


def _same(name: str, first: Sequence[Any], second: Sequence[Any], pairs: list[tuple[int, int]]) -> str:
    return name if all(first[a] == second[b] for a, b in pairs) else ""


def _vary(scores: list[float]) -> bool:
    """Whether the scores leave room for a difference: two perfect models, or two hopeless ones, have the same."""
    return len(set(scores)) > 1
