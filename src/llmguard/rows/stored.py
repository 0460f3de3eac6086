"""Rows that stay on disk: large files of JSON Lines, of which a block is read at a time, as often as somebody asks."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, overload

from llmguard.errors import EvidenceError

__all__ = ["STORED_FROM", "Block", "Derived", "Origins", "Stored", "blocks_of"]

STORED_FROM = 64 * 2**20
"""Bytes of JSON Lines from which rows stay on disk: as Python objects they take more than that, conversations several times more."""
BLOCK = 2**18
"""Bytes after which a block ends: to get one row, so much is read and one line of it parsed."""
KEPT = 4
"""Blocks that are kept once they are read."""
CHANGED = "was written to while it was being checked"
Row = Mapping[str, Any]
T = TypeVar("T")


class Block(NamedTuple):
    """Where some rows stand: index of the file, byte and line at which the block begins, how many lines it has and how many rows."""

    file: int
    byte: int
    line: int
    lines: int
    rows: int


Parse = Callable[[bytes, int], "Row | None"]
"""A line and its number to its row; None where it is none."""


def blocks_of(path: Path, file: int, is_row: Callable[[bytes, int], bool]) -> Iterator[Block]:
    """The blocks of a file; `is_row` is asked about every line, once, in order."""
    byte, line, lines, rows, size = 0, 1, 0, 0, 0
    with path.open("rb") as opened:
        for text in opened:
            rows += is_row(text, line + lines)
            lines, size = lines + 1, size + len(text)
            if size >= BLOCK:
                yield Block(file, byte, line, lines, rows)
                byte, line, lines, rows, size = byte + size, line + lines, 0, 0, 0
    if lines:
        yield Block(file, byte, line, lines, rows)


class Stored(Sequence[Row]):
    """The rows of some files of JSON Lines, in order, read when they are asked for.

    Raises:
        EvidenceError: from any access, when a file is no longer what it was when its blocks were counted.
    """

    def __init__(self, paths: Sequence[Path], blocks: Sequence[Block], parse: Parse) -> None:
        self.paths, self.blocks, self.parse = list(paths), list(blocks), parse
        self.first = [0, *itertools.accumulate(block.rows for block in blocks)]
        self._kept: dict[int, list[bytes]] = {}

    def __len__(self) -> int:
        return self.first[-1]

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return self.placed(index)[1]

    def __iter__(self) -> Iterator[Row]:
        for block in self.blocks:
            found = 0
            for _, row in self._rows(block, self._read(block)):
                found += 1
                yield row
            if found != block.rows:
                raise self._changed(block, CHANGED)

    def placed(self, index: int) -> tuple[int, Row]:
        """The line of a row, and the row."""
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        number = bisect.bisect_right(self.first, index) - 1
        block, at = self.blocks[number], index - self.first[number]
        lines = self._lines(number)
        if block.lines == block.rows:
            return block.line + at, self._row(lines[at], block, block.line + at)
        rows = self._rows(block, lines)
        return next(itertools.islice(rows, at, None))

    def file_of(self, index: int) -> int:
        """Which file a row is in."""
        return self.blocks[bisect.bisect_right(self.first, index) - 1].file

    def _rows(self, block: Block, lines: Sequence[bytes]) -> Iterator[tuple[int, Row]]:
        for number, line in enumerate(lines, block.line):
            row = self.parse(line, number)
            if row is not None:
                yield number, row

    def _row(self, line: bytes, block: Block, number: int) -> Row:
        row = self.parse(line, number)
        if row is None:
            raise self._changed(block, CHANGED)
        return row

    def _lines(self, number: int) -> list[bytes]:
        kept = self._kept
        if number not in kept:  # a new dict each time: whoever else is reading keeps the one it has
            kept = {n: kept[n] for n in list(kept)[1 - KEPT :]} | {number: self._read(self.blocks[number])}
            self._kept = kept
        return kept[number]

    def _read(self, block: Block) -> list[bytes]:
        try:
            with self.paths[block.file].open("rb") as file:
                file.seek(block.byte)
                lines = list(itertools.islice(file, block.lines))
        except OSError as bad:
            raise self._changed(block, f"cannot be read any more: {bad.strerror or bad}") from None
        if len(lines) != block.lines:
            raise self._changed(block, CHANGED)
        return lines

    def _changed(self, block: Block, reason: str) -> EvidenceError:
        return EvidenceError("rows", f"{self.paths[block.file]} {reason}", told_by="data_files_are_readable")

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": {}}


class Origins(Sequence[tuple[int, "int | None"]]):
    """(index of the file, line) of stored rows."""

    def __init__(self, stored: Stored) -> None:
        self.stored = stored

    def __len__(self) -> int:
        return len(self.stored)

    @overload
    def __getitem__(self, index: int) -> tuple[int, int | None]: ...
    @overload
    def __getitem__(self, index: slice) -> list[tuple[int, int | None]]: ...
    def __getitem__(self, index: int | slice) -> tuple[int, int | None] | list[tuple[int, int | None]]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return self.stored.file_of(index), self.stored.placed(index)[0]


class Derived(Sequence[T]):
    """What follows from each of some rows, made when it is asked for."""

    def __init__(self, rows: Sequence[Row], make: Callable[[Row], T]) -> None:
        self.rows, self.make = rows, make

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        if isinstance(index, slice):
            return [self.make(row) for row in self.rows[index]]
        return self.make(self.rows[index])

    def __iter__(self) -> Iterator[T]:
        return map(self.make, self.rows)
