"""Data files that can be read, and rows that have their columns."""

from __future__ import annotations

import difflib
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from llmguard.contract import Yields, check
from llmguard.findings import Finding, Where, error, note, warning
from llmguard.rows import Columns, Problem, Rows, as_rows
from llmguard.rows.columns import USUAL

__all__ = ["data_files_are_readable", "every_row_has_its_columns"]

TOLD, KEPT = 20, 1000
"""How many bad lines a message names, and how many the evidence of a finding holds."""
TOKENISED = ("input_ids", "tokens")


@check
def data_files_are_readable(files: Rows) -> Yields:
    """Every file of a split exists, holds rows, and every line of it can be read."""
    missing = [p for p in files.problems if p.line is None]
    lines = [p for p in files.problems if p.line is not None]
    for problem in missing:
        yield _unreadable(problem, files)
    if lines:
        yield _bad_lines(lines, files)
    named = {p.file for p in files.problems} | files.filled
    for file in files.files:
        if file not in named:
            yield _no_rows(file, files)
    return len(files) + len(files.problems)


def _unreadable(problem: Problem, files: Rows) -> Finding:
    return error(
        problem.where,
        what=f"{problem.file} {problem.reason}",
        why=f"the split {files.split or 'of this file'} is not what the project says: training fails, or runs on less than it should",
        cause="a path that is relative to another folder, a file that was moved or never copied, or an upload that broke off",
        remedy="correct the path in `[data]` (it counts from llmguard.toml's folder), or bring the file back",
    )


def _bad_lines(lines: Sequence[Problem], files: Rows) -> Finding:
    told = [f"{p.where} {p.reason}" for p in lines]
    more = f"; and {len(told) - TOLD:,} more" if len(told) > TOLD else ""
    return error(
        lines[0].where,
        what=f"{len(lines):,} of {len(lines) + len(files):,} lines cannot be read: {'; '.join(told[:TOLD])}{more}",
        why="a loader stops at the first of them, or drops them without a word",
        cause="a write that was interrupted, two processes writing one file, lines cut by hand, or another encoding",
        remedy="write these lines again from their source; the other lines were checked",
        evidence={"lines": told[:KEPT]},
    )


def _no_rows(file: str, files: Rows) -> Finding:
    said = {
        "what": f"{file} holds no rows",
        "why": "what was to be trained or measured with it is not there",
        "cause": "a filter that dropped everything, or an export that failed before its first row",
        "remedy": "make the file again, or take it out of `[data]`",
    }
    return warning(Where(file=file), **said) if len(files) else error(Where(file=file), **said)


@check
def every_row_has_its_columns(rows: Any) -> Yields:
    """Every row has the columns that the project maps, or, where it maps none, columns with names in use."""
    source = as_rows(rows)
    columns = source.columns
    if not columns.named or (columns.guessed and _is_half(columns)):
        yield from _unmapped(source)
        return len(source)
    wanted = {**columns.named, **({"group": columns.group} if columns.group else {})}
    without: dict[str, array[int]] = {meaning: array("q") for meaning in wanted}
    for i, record in enumerate(source.records):
        for meaning, column in wanted.items():
            if column not in record:
                without[meaning].append(i)
    for meaning, rows_without in without.items():
        if rows_without:
            yield _lacking(source, meaning, wanted[meaning], rows_without)
    return len(source)


def _is_half(columns: Columns) -> bool:
    """Whether guessing found one side only."""
    whole = columns.messages or (columns.prompt and columns.response) or columns.preference
    return not whole


def _unmapped(rows: Rows) -> Iterator[Finding]:
    keys = Counter(key for record in rows.records for key in record)
    told = ", ".join(f"{key} ({n:,})" for key, n in keys.most_common(12)) or "none"
    if "text" in keys or any(name in keys for name in TOKENISED):
        yield note(
            rows.where(0),
            what=f"the rows hold whole texts or tokens (columns: {told}): prompts and responses are not told apart",
        )
        return
    if rows.split == "test" and rows.columns.prompt:
        yield note(
            rows.where(0),
            what=f"the test rows have prompts ({rows.columns.prompt}) and no responses (columns: {told})",
        )
        return
    half = (
        f": {rows.columns.prompt!r} may be the prompt, and no column looks like its response"
        if rows.columns.prompt
        else ""
    )
    yield error(
        rows.where(0),
        what=f"none of the columns that prompts and responses usually have is there{half}; columns (rows): {told}",
        why="nothing can be checked row by row, and a trainer would stop here, or train on the wrong column",
        cause="columns with names of their own, which the project does not map",
        remedy='map them: `[data] prompt = "…"` and `response = "…"`, or `messages = "…"`, or `chosen = "…"` and `rejected = "…"`',
        evidence={"columns": dict(keys.most_common(30))},
    )


def _lacking(rows: Rows, meaning: str, column: str, without: Sequence[int]) -> Finding:
    keys = list(rows.records[without[0]])
    near = _near(meaning, column, keys)
    hint = f", nearest is {near!r}" if near else ""
    everywhere = len(without) == len(rows)
    if everywhere and meaning == "response" and rows.split == "test":
        return note(
            rows.where(0),
            what=f"the test rows have no responses: no column {column!r} (keys: {', '.join(map(str, keys))})",
        )
    some = (
        f"no row has the column {column!r}"
        if everywhere
        else f"{len(without):,} of {len(rows):,} rows lack the column {column!r}"
    )
    return error(
        rows.where(without[0]),
        what=f"{some} ({meaning}); keys of the first of them: {', '.join(map(str, keys)) or 'none'}{hint}",
        why="code that reads these rows ends with a KeyError, or writes 'None' into the prompt",
        cause=f"`[data] {meaning}` is misspelt or the column was renamed"
        if everywhere
        else "files of different origin were joined",
        remedy=(
            f"write `[data] {meaning} = {near!r}`"
            if everywhere and near
            else f"give every row its {column!r}, or drop these rows"
        ),
        expected=column,
        actual=", ".join(map(str, keys)),
        evidence={
            "rows": [rows.example(i, keys=list(map(str, rows.records[i]))[:20]) for i in without[:5]],
            "count": len(without),
        },
    )


def _near(meaning: str, column: str, keys: Sequence[Any]) -> str:
    texts = [k for k in keys if isinstance(k, str)]
    usual = [name for name in USUAL.get(meaning, ()) if name in texts]
    return next(iter([*difflib.get_close_matches(column, texts, n=1, cutoff=0.6), *usual]), "")
