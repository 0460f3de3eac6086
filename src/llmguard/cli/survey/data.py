"""Data files: what their first rows look like, and which split their names say."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from llmguard.cli.survey.tree import Tree

__all__ = ["Data", "data_in"]

PAIRS = (
    ("instruction", "output"), ("instruction", "response"), ("prompt", "completion"), ("prompt", "response"), ("prompt", "answer"),
    ("question", "answer"), ("question", "response"), ("query", "response"), ("query", "answer"), ("input", "target"),
    ("input", "output"), ("inputs", "targets"), ("source", "target"), ("instruction", "completion"), ("problem", "solution"),
)  # fmt: skip
"""Columns of prompt and response by the names in use, the likelier first."""
MESSAGES = ("messages", "conversations", "conversation")
SPLITS = (
    ("test", re.compile(r"(^|[^a-z])(test|testing|held_?out|holdout)([^a-z]|$)")),
    ("validation", re.compile(r"(^|[^a-z])(val|valid|validation|dev|eval|evaluation)([^a-z]|$)")),
    ("train", re.compile(r"(^|[^a-z])(train|training|sft)([^a-z]|$)")),
)
NO_DATA = re.compile(
    r"(config|tokenizer|vocab|merges|index|state|special_tokens|added_tokens|package|tsconfig|results?)[^/]*\.json$"
)
BACKUP = re.compile(r"(^|[^a-z])(backup|bak|old|orig|original|before|copy|tmp|deprecated)([^a-z]|$)")
ROWS = 20
START = 1 << 20
"""Bytes of a file that are looked at."""


@dataclass(frozen=True)
class Data:
    """A data file or a saved `datasets` folder.

    `kind`: pairs, messages, preference, encoded, results, backup, or other. `columns`: meaning -> column, as `[data]` names them.
    """

    path: str
    kind: str
    split: str
    columns: Mapping[str, str]
    names: tuple[str, ...]

    @property
    def shape(self) -> tuple[str, tuple[tuple[str, str], ...]]:
        """What files of one data set have in common."""
        return self.kind, tuple(sorted(self.columns.items()))


def data_in(tree: Tree) -> list[Data]:
    """All data of a tree; files whose first rows are no objects are left out."""
    folders = _saved(tree)
    inside = tree.without(folders)
    files = [
        f for f in inside.ending(".jsonl", ".json", ".parquet", ".ndjson") if not NO_DATA.search(f.lower())
    ]
    found = [_sniffed(tree.root, path) for path in [*folders, *files]]
    return [d for d in found if d is not None]


def _saved(tree: Tree) -> list[str]:
    """Folders that `Dataset.save_to_disk` left; those of a `DatasetDict` are its splits' folders."""
    states = tree.named("state.json")
    parents = [str(PurePosixPath(f).parent) for f in states]
    return [p for p in parents if "dataset_info.json" in tree.beside(p) and p != "."]


def _sniffed(root: Path, path: str) -> Data | None:
    rows = list(_first_rows(root / path))
    if not rows:
        return None
    names = tuple(n for n in rows[0] if sum(n in r for r in rows) * 2 > len(rows))
    kind, columns = ("backup", {}) if BACKUP.search(PurePosixPath(path).stem.lower()) else _kind(rows, names)
    return Data(path, kind, _split(path), columns, names)


def _split(path: str) -> str:
    """The split that a file's name says, or failing that its folder's; '' where neither does."""
    pure = PurePosixPath(path)
    for text in (pure.stem.lower(), pure.parent.name.lower()):
        for split, pattern in SPLITS:
            if pattern.search(text):
                return split
    return ""


def _kind(rows: list[Mapping[str, Any]], names: tuple[str, ...]) -> tuple[str, dict[str, str]]:
    if "input_ids" in names:
        return "encoded", {}
    if {"chosen", "rejected"} <= set(names):
        asked = {"prompt": "prompt"} if "prompt" in names else {}
        return "preference", {**asked, "chosen": "chosen", "rejected": "rejected"}
    messages = next((n for n in MESSAGES if n in names and _is_conversation(rows[0][n])), None)
    if messages:
        return "messages", {"messages": messages}
    for prompt, response in PAIRS:
        if prompt in names and response in names:
            return "pairs", {"prompt": prompt, "response": response}
    if "id" in names and {"correct", "score"} & set(names):
        return "results", {}
    return "other", {}


def _is_conversation(value: Any) -> bool:
    first = value[0] if isinstance(value, (list, tuple)) and value else None
    return isinstance(first, Mapping) and bool({"role", "from"} & set(first))


def _first_rows(path: Path) -> Iterator[Mapping[str, Any]]:
    """Up to `ROWS` rows; none where the file is not what its name says, or cannot be read."""
    try:
        if path.is_dir() or path.suffix == ".parquet":
            rows: Iterator[Any] = iter(_from_table(path))
        else:
            with path.open("rb") as file:
                rows = _from_text(
                    file.read(START).decode("utf-8-sig", "ignore"), lines=path.suffix != ".json"
                )
        yield from (r for _, r in zip(range(ROWS), rows, strict=False) if isinstance(r, Mapping) and r)
    except (OSError, ValueError, RecursionError):
        return


def _from_text(text: str, *, lines: bool) -> Iterator[Any]:
    """The rows of JSON Lines, or of a JSON array, as far as the text goes."""
    body = text.lstrip()
    if lines or not body.startswith("["):
        rows = list(_from_lines(text)) or list(_from_lines(" ".join(text.splitlines())))
        inner = (
            [v for v in rows[0].values() if isinstance(v, list)]
            if len(rows) == 1 and isinstance(rows[0], dict)
            else []
        )
        yield from inner[0] if inner and not lines else rows
        return
    decoder, at = json.JSONDecoder(), text.index("[") + 1
    while match := re.compile(r"[\s,]*").match(text, at):
        try:
            row, at = decoder.raw_decode(text, match.end())
        except ValueError:
            return
        yield row


def _from_lines(text: str) -> Iterator[Any]:
    for line in text.splitlines():
        if line.strip():
            try:
                yield json.loads(line)
            except ValueError:  # a bad line is a finding of the audit; the last one may only be cut off here
                continue


def _from_table(path: Path) -> list[Any]:
    from llmguard.rows.read import read_table

    try:
        import pyarrow.parquet as pq
    except ImportError:
        return []
    if path.is_file():
        batch = next(pq.ParquetFile(path).iter_batches(batch_size=ROWS), None)
        return list(batch.to_pylist()) if batch is not None else []
    table = read_table(path)
    return [] if isinstance(table, str) else list(table.slice(0, ROWS).to_pylist())
