"""Read data files: JSON Lines, JSON arrays, Parquet, saved `datasets` folders. Bad lines are kept as problems, good ones read."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llmguard.rows import stored
from llmguard.rows.columns import Columns, guess_columns
from llmguard.rows.rows import Problem, Rows

__all__ = ["read_files", "read_table"]

Read = tuple[Mapping[str, Any], "int | None"]
"""A row and its line."""


def read_files(
    paths: Sequence[Path], *, split: str = "", columns: Columns | None = None, root: Path | None = None
) -> Rows:
    """All rows of some files, in order; never raises for what is in them or for files that are not there.

    Of large files of JSON Lines the rows stay on disk (`llmguard.rows.stored`): then every access may raise EvidenceError, when
    a file was changed or taken away meanwhile.
    """
    if _lines_in(paths) >= stored.STORED_FROM:
        return _stored(paths, split, columns or Columns(), root)
    records: list[Mapping[str, Any]] = []
    origin: list[tuple[int, int | None]] = []
    names: list[str] = []
    problems: list[Problem] = []
    for path in paths:
        names.append(_shown(path, root))
        with _told(path, names[-1], problems):
            for row in _read(path, names[-1]):
                if isinstance(row, Problem):
                    problems.append(row)
                else:
                    records.append(row[0])
                    origin.append((len(names) - 1, row[1]))
    return Rows(records, guess_columns(records, columns or Columns()), split, names, origin, problems)


def _is_lines(path: Path) -> bool:
    """Whether a file is read as JSON Lines."""
    return path.suffix not in (".parquet", ".arrow", ".json") and not path.is_dir()


def _lines_in(paths: Sequence[Path]) -> int:
    """The bytes of some files, if all of them are JSON Lines; else 0."""
    if not all(map(_is_lines, paths)):
        return 0
    return sum(path.stat().st_size for path in paths if path.is_file())


def _stored(paths: Sequence[Path], split: str, columns: Columns, root: Path | None) -> Rows:
    names = [_shown(path, root) for path in paths]
    problems: list[Problem] = []
    blocks: list[stored.Block] = []

    def is_row(text: bytes, line: int) -> bool:
        found = _line(text, names[number], line)
        problems.extend([found] if isinstance(found, Problem) else [])
        return isinstance(found, tuple)

    for number, path in enumerate(paths):
        with _told(path, names[number], problems):
            blocks.extend(stored.blocks_of(path, number, is_row))
    records = stored.Stored(paths, blocks, _parsed)
    return Rows(records, guess_columns(records, columns), split, names, stored.Origins(records), problems)


@contextmanager
def _told(path: Path, name: str, problems: list[Problem]) -> Iterator[None]:
    """A file that cannot be read becomes a problem."""
    try:
        yield
    except FileNotFoundError:
        problems.append(Problem(name, f"does not exist{_near(path)}"))
    except OSError as bad:
        problems.append(Problem(name, f"cannot be read: {bad.strerror or bad} (errno {bad.errno})"))


def _shown(path: Path, root: Path | None) -> str:
    try:
        return str(path.relative_to(root)) if root else str(path)
    except ValueError:
        return str(path)


def _read(path: Path, name: str) -> Iterator[Read | Problem]:
    if _is_lines(path):
        yield from _from_lines(path, name)
    elif path.suffix == ".json" and not path.is_dir():
        yield from _from_json(path.read_bytes(), name)
    else:
        yield from _from_table(path, name)


def _near(path: Path) -> str:
    try:
        beside = [p.name for p in path.parent.iterdir()]
    except OSError:
        return f"; its folder {path.parent} does not exist either"
    near = difflib.get_close_matches(path.name, beside, n=3, cutoff=0.6)
    return f"; near it lies {', '.join(near)}" if near else ""


def _from_lines(path: Path, name: str) -> Iterator[Read | Problem]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            row = _line(line, name, number)
            if row is not None:
                yield row


def _line(line: bytes, name: str, number: int) -> Read | Problem | None:
    """What a line holds; None for a blank one."""
    text = line.strip().removeprefix(b"\xef\xbb\xbf")
    return _row(text, name, number) if text else None


def _parsed(line: bytes, number: int) -> Mapping[str, Any] | None:
    found = _line(line, "", number)
    return found[0] if isinstance(found, tuple) else None


def _row(text: bytes, name: str, number: int) -> Read | Problem:
    try:
        row = json.loads(text)
    except UnicodeDecodeError as bad:
        return Problem(
            name,
            f"is not UTF-8: byte {bad.start} of the line is {bad.object[bad.start]:#04x}",
            number,
            bad.start + 1,
        )
    except json.JSONDecodeError as bad:
        return Problem(name, f"is not JSON: {bad.msg}", number, bad.colno)
    except RecursionError:
        return Problem(name, "is nested too deeply to be read", number)
    except ValueError as bad:  # a number of more digits than Python converts
        return Problem(name, f"cannot be read: {bad}", number)
    if not isinstance(row, dict):
        return Problem(
            name, f"is a JSON {type(row).__name__}, expected an object with the row's columns", number
        )
    return row, number


def _from_json(raw: bytes, name: str) -> Iterator[Read | Problem]:
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as bad:
        yield Problem(
            name,
            f"is not UTF-8: byte {bad.start} is {raw[bad.start]:#04x}",
            raw.count(b"\n", 0, bad.start) + 1,
        )
        return
    start = _skip(text, 0)
    if text[start : start + 1] != "[":
        yield from _json_lines_or_object(text, name)
        return
    yield from _elements(text, start + 1, name)


def _json_lines_or_object(text: str, name: str) -> Iterator[Read | Problem]:
    lines = [(n, line) for n, line in enumerate(text.splitlines(), 1) if line.strip()]
    rows = [_row(line.encode(), name, n) for n, line in lines]
    if len(rows) > 1 and not all(isinstance(r, Problem) for r in rows):
        yield from rows
        return
    try:
        whole = json.loads(text)
    except json.JSONDecodeError as bad:
        yield Problem(name, f"is not JSON: {bad.msg}", bad.lineno, bad.colno)
        return
    except (ValueError, RecursionError) as bad:  # too many digits, or nested too deeply
        yield Problem(name, f"cannot be read: {bad}")
        return
    inner = (
        next((v for v in whole.values() if isinstance(v, list)), None) if isinstance(whole, dict) else None
    )
    if inner is None or not all(isinstance(r, dict) for r in inner):
        yield Problem(name, "holds no array of rows (objects)")
        return
    yield from ((row, None) for row in inner)


def _elements(text: str, at: int, name: str) -> Iterator[Read | Problem]:
    decoder, line, counted = json.JSONDecoder(), 1, 0
    at = _skip(text, at)
    while text[at : at + 1] not in ("]", ""):
        line, counted = line + text.count("\n", counted, at), at
        try:
            row, at = decoder.raw_decode(text, at)
        except json.JSONDecodeError as bad:
            yield Problem(name, f"is not JSON: {bad.msg}", bad.lineno, bad.colno)
            return
        except (ValueError, RecursionError) as bad:  # too many digits, or nested too deeply
            yield Problem(name, f"cannot be read on from here: {bad}", line)
            return
        yield (
            (row, line)
            if isinstance(row, dict)
            else Problem(name, f"holds a {type(row).__name__} where a row (object) belongs", line)
        )
        at = _skip(text, at)
        if text[at : at + 1] == ",":
            at = _skip(text, at + 1)
        elif text[at : at + 1] not in ("]", ""):
            yield _at(text, at, name, "is not JSON: expected ',' or ']' after a row")
    if _skip(text, at + 1) < len(text) or text[at : at + 1] != "]":
        yield _at(
            text,
            at,
            name,
            "is not JSON: it ends in the middle"
            if at >= len(text)
            else "is not JSON: more follows the array",
        )


def _at(text: str, at: int, name: str, reason: str) -> Problem:
    return Problem(name, reason, text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at))


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


def _from_table(path: Path, name: str) -> Iterator[Read | Problem]:
    table = read_table(path)
    if isinstance(table, str):
        yield Problem(name, table)
        return
    for batch in table.to_batches(max_chunksize=4096):
        yield from ((row, None) for row in batch.to_pylist())


def read_table(path: Path) -> Any:
    """A Parquet or Arrow file, or a folder of them (as `Dataset.save_to_disk` leaves it), as an Arrow table.

    What cannot be read is told by a sentence in its place.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        return "needs pyarrow to be read: pip install 'pytest-llmguard[data]'"
    files = [path] if path.is_file() else _table_files(path)
    if not path.exists():
        raise FileNotFoundError(path)
    if not files:
        return "is a folder without .arrow or .parquet files"
    try:
        return pa.concat_tables([pq.read_table(f) if f.suffix == ".parquet" else _arrow(f) for f in files])
    except (pa.ArrowException, OSError) as bad:
        return f"cannot be read: {str(bad).splitlines()[0]}"


def _table_files(folder: Path) -> list[Path]:
    direct = [*sorted(folder.glob("*.arrow")), *sorted(folder.glob("*.parquet"))]
    train = folder / "train"
    return direct or (
        [*sorted(train.glob("*.arrow")), *sorted(train.glob("*.parquet"))] if train.is_dir() else []
    )


def _arrow(file: Path) -> Any:
    import pyarrow as pa

    with pa.memory_map(str(file)) as source:
        try:
            return pa.ipc.open_stream(source).read_all()
        except pa.ArrowInvalid:
            return pa.ipc.open_file(source).read_all()
