"""Splits: no test or validation row stands in the training data, as it is, in other writing, inside of a longer text, or edited."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llmguard.contract import Yields, check
from llmguard.errors import MissingEvidence
from llmguard.findings import Finding, error, note, warning
from llmguard.overlap import Match, Overlap, Overlaps
from llmguard.rows import Rows, as_rows

__all__ = [
    "groups_stay_in_one_split",
    "no_test_row_is_in_train",
    "no_test_row_is_near_a_train_row",
    "no_validation_row_is_in_train",
]

IN_TRAIN = ("exact", "normalised", "contained")
TOLD, KEPT = 5, 50
"""How many rows a message names, and how many the evidence of a finding holds."""
RUN_SHOWN = 160
USUAL_RATE, USUAL_ROW = 0.1, 0.01
"""Training rows near to each other: above USUAL_RATE the data are written from templates, and only a higher rate in the test
split says something; below it a row is told when less than USUAL_ROW of the training rows have as near a fellow."""
CHANCE = 0.01
"""Probability under which a higher rate than the training split's own is no chance."""


@check
def no_test_row_is_in_train(test: Any, train: Any, overlaps: Overlaps | None = None) -> Yields:
    """No test row stands in the training split: its prompt and response are neither equal to, nor contained in, a training row's.

    Compared with case, spaces and punctuation left out. Prompts that many rows share, short answers and system prompts do not
    count; a prompt of at least 5 words that is equal, or of 8 that is contained, does.
    """
    source = as_rows(test)
    found = (overlaps or Overlaps()).between(source, as_rows(train))
    yield from _in_train(
        source,
        as_rows(train),
        found,
        "test",
        "scores on them say how well the model remembers, not what it can do",
    )
    return len(source)


@check
def no_validation_row_is_in_train(validation: Any, train: Any, overlaps: Overlaps | None = None) -> Yields:
    """No validation row stands in the training split (as `no_test_row_is_in_train`)."""
    source = as_rows(validation)
    found = (overlaps or Overlaps()).between(source, as_rows(train))
    why = "the validation loss falls while the model overfits: early stopping and the choice of a checkpoint come too late"
    yield from _in_train(source, as_rows(train), found, "validation", why)
    return len(source)


def _in_train(rows: Rows, train: Rows, found: Overlap, split: str, why: str) -> Iterator[Finding]:
    bad = sorted(found.of(*IN_TRAIN), key=lambda m: m.order)
    if not bad:
        return
    kinds = Counter(f"{m.kind}, {m.side}" for m in bad)
    told = "; ".join(f"{n:,} {kind}" for kind, n in kinds.items())
    yield error(
        rows.where(bad[0].row),
        what=f"{len(bad):,} of {len(rows):,} {split} rows ({len(bad) / len(rows):.1%}) stand in the training split ({told}): "
        + "; ".join(_shown(m, rows, train) for m in bad[:TOLD]),
        why=why,
        cause=f"the split was made before duplicates were removed, or data were added to train that hold the {split} set",
        remedy="remove these rows from train (and what was made from them), then split by document or by question, not by row",
        expected=f"no {split} row in train",
        actual=f"{len(bad)} rows",
        evidence={"kinds": dict(kinds), "rows": [_record(m, rows, train) for m in bad[:KEPT]]},
    )


def _shown(match: Match, rows: Rows, train: Rows) -> str:
    more = f" and {match.others:,} more" if match.others else ""
    what = "whole row" if match.side == "row" else match.side
    verb = "is near to" if match.kind == "near" else "is in"
    return f"{rows.where(match.row)} {verb} {train.where(match.train_row)}{more} ({match.kind}, {what}): {_short(match.run)!r}"


def _short(text: str) -> str:
    one_line = " ".join(text.split())
    return one_line if len(one_line) <= RUN_SHOWN else f"{one_line[: RUN_SHOWN - 1]}…"


def _record(match: Match, rows: Rows, train: Rows) -> dict[str, Any]:
    return {
        **rows.example(match.row),
        "train": train.example(match.train_row),
        "kind": match.kind,
        "side": match.side,
        "share": match.share,
        "shared_words": match.run_words,
        "shared": _short(match.run),
    }


@check
def no_test_row_is_near_a_train_row(test: Any, train: Any, overlaps: Overlaps | None = None) -> Yields:
    """No test row is an edited training row, or shares a long passage with one, beyond what training rows share with each other.

    Near is a prompt or response of at least 13 words, boilerplate left out, with half of them in the same order in one training
    row, or with a run of 13. Where training rows are as near to each other the data are written from templates: that is a note.
    """
    source, other = as_rows(test), as_rows(train)
    found = (overlaps or Overlaps()).between(source, other)
    near = sorted(found.of("near"), key=lambda m: m.order)
    bad = near if _is_more_than_usual(found, near) else [m for m in near if _stands_out(found, m)]
    if bad:
        yield warning(
            source.where(bad[0].row),
            what=f"{len(bad):,} of {len(source):,} test rows are near to a training row ({_usual(found)}): "
            + "; ".join(f"{_shown(m, source, other)}, {m.share:.0%} of its words" for m in bad[:TOLD]),
            why="a model that has seen the training row answers them from memory: the score is too good",
            cause="paraphrases or variants of one example on both sides of the split, or documents cut into overlapping pieces",
            remedy="look at these pairs; put all variants of one example into one split: `[data] group` names the column that says which",
            evidence={
                "usual": round(found.usual, 4),
                "rows": [_record(m, source, other) for m in bad[:KEPT]],
            },
        )
    rest = [m for m in near if m not in bad]
    if rest:
        yield note(
            source.where(rest[0].row),
            what=f"{len(rest):,} of {len(source):,} test rows are as near to a training row as those are to each other ({_usual(found)})",
            remedy="if the rows come from templates or from variants of one example, split by template or example",
            evidence={
                "usual": round(found.usual, 4),
                "rows": [_record(m, source, other) for m in rest[:TOLD]],
            },
        )
    return len(source)


def _usual(found: Overlap) -> str:
    return f"of training rows, {found.usual:.1%} are near to another one"


def _is_more_than_usual(found: Overlap, near: Sequence[Match]) -> bool:
    """Whether the rate of near rows is above that of training rows among each other, by more than chance."""
    from llmguard.statistics.exact import binomial_tail

    alike = sum(share > 0 for share in found.control)
    usual = (alike + 1) / (len(found.control) + 2)
    return bool(near) and binomial_tail(len(near), found.rows, usual) < CHANCE


def _stands_out(found: Overlap, match: Match) -> bool:
    """Whether hardly any training row has as near a fellow."""
    as_near = sum(share >= match.share for share in found.control)
    return found.usual <= USUAL_RATE and as_near <= USUAL_ROW * len(found.control)


@check
def groups_stay_in_one_split(group: str, train: Any, validation: Any = None, test: Any = None) -> Yields:
    """All rows of one group (`[data] group`: a document, a patient, a template) are in one split.

    Raises:
        MissingEvidence: there is only one split.
    """
    splits = {
        name: as_rows(rows)
        for name, rows in (("train", train), ("validation", validation), ("test", test))
        if rows is not None
    }
    if len(splits) < 2:
        raise MissingEvidence(
            "test", 'add `[data] test = "data/test.jsonl"` (or `validation`) to llmguard.toml'
        )
    first = {name: _first_rows(rows, group) for name, rows in splits.items()}
    for name, groups in first.items():
        if not groups:
            yield _no_groups(splits[name], group, name)
    places = Counter(value for groups in first.values() for value in groups)
    shared = [value for value, count in places.items() if count > 1]
    if shared:
        yield _shared(splits, first, group, shared)
    return len(places)


def _first_rows(rows: Rows, group: str) -> dict[str, int]:
    """The first row of each group; `1` and `"1"` are the same group, null is none."""
    found: dict[str, int] = {}
    for row, record in enumerate(rows.records):
        value = record.get(group)
        if value is not None:
            found.setdefault(str(value), row)
    return found


def _no_groups(rows: Rows, group: str, split: str) -> Finding:
    keys = ", ".join(rows.records[0]) if len(rows) else "none"
    return error(
        rows.where(0),
        what=f"none of the {len(rows):,} rows of {split} has the column {group!r} (columns: {keys})",
        why="which rows belong together cannot be told, so nothing says that a group stays in one split",
        cause=f"the column was dropped when {split} was written, or `[data] group` is misspelt",
        remedy="write the column into every split, or correct `[data] group`",
    )


def _shared(
    splits: Mapping[str, Rows], first: Mapping[str, Mapping[str, int]], group: str, shared: Sequence[str]
) -> Finding:
    value = shared[0]
    names = [name for name in splits if value in first[name]]
    where = " and ".join(str(splits[name].where(first[name][value])) for name in names)
    total = len({v for groups in first.values() for v in groups})
    return error(
        splits[names[-1]].where(first[names[-1]][value]),
        what=f"{len(shared):,} of {total:,} groups are in more than one split: {group} {value!r} in {where}"
        + (f"; also {', '.join(repr(v) for v in shared[1:TOLD])}" if len(shared) > 1 else ""),
        why="the model is tested on documents that it has been trained on, although no row is the same",
        cause="the split was made row by row",
        remedy=f"split by {group}: draw groups, not rows (scikit-learn: GroupShuffleSplit)",
        evidence={"groups": list(shared[:KEPT])},
    )
