"""Find a rendered row, or failing that its contents, in the bytes of its tokens (all without U+0020, see vocabulary)."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from llmguard.formats import Kind

__all__ = [
    "Cut",
    "Placed",
    "Stretch",
    "Target",
    "body_of",
    "cut",
    "end_of_terminator",
    "ended_otherwise",
    "place",
    "runs_on",
]

WHITE = b"\t\n\r\x0b\x0c"


class Cut(enum.IntEnum):
    """How a row's bytes relate to its source text."""

    EXACT = 0
    """The rendered text stands in it (or all of it but the BOS that the template writes)."""
    LOCATED = 1
    """The contents stand in it in order, in another text than the format's."""
    CUT_RIGHT = 2
    """It ends before the last response does."""
    CUT_LEFT = 3
    """It starts after the text does."""
    UNMATCHED = 4
    """A response is not in it."""
    NO_TURNS = 5
    """The source row has no turns to look for."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """A stretch of bytes from `start` to the next stretch."""

    start: int
    kind: Kind
    turn: int = -1


@dataclass(frozen=True, slots=True)
class Target:
    """What to look for.

    `pieces`: (kind, turn, bytes); `contents`: (is a response, bytes); `ends`: the bytes of tokens that may
    end a response; `shown`: contents as the template writes them, tried where the contents themselves are not there.
    """

    pieces: Sequence[tuple[Kind, int, bytes]]
    contents: Sequence[tuple[bool, bytes]]
    ends: Sequence[bytes]
    bos: bytes = b""
    shown: Sequence[tuple[bool, bytes]] = ()


@dataclass(frozen=True, slots=True)
class Placed:
    """Where everything of a row is.

    `remainder`: the bytes behind the last response; `lost`: contents that are not there; `spans`: where each content stands,
    in a row that is located. `runs_on`: other text follows the last
    response; `ended_otherwise`: another token ends it than the one that its template writes.
    """

    cut: Cut
    stretches: list[Stretch] = field(default_factory=list)
    remainder: bytes = b""
    lost: tuple[int, ...] = ()
    runs_on: bool = False
    ended_otherwise: bool = False
    spans: tuple[tuple[int, int], ...] = ()


def place(row: bytes, target: Target) -> Placed:
    """Find a row's text in its bytes: the whole text, a cut of it, or its contents one by one."""
    found = _exact(row, target) or cut(row, target) or _contents(row, target)
    if found.cut is Cut.UNMATCHED and target.shown and list(target.shown) != list(target.contents):
        again = _contents(row, replace(target, contents=target.shown))
        return again if again.cut is not Cut.UNMATCHED else found
    return found


def body_of(target: Target) -> list[tuple[Kind, int, bytes]]:
    """The pieces up to the end of the last response; what follows it is judged by what is there."""
    last = max(
        (i for i, p in enumerate(target.pieces) if p[0] in (Kind.RESPONSE, Kind.BLANK_WITHIN)), default=-1
    )
    return list(target.pieces[: last + 1])


def _exact(row: bytes, target: Target) -> Placed | None:
    body = body_of(target)
    for pieces in (body, body[:-1] if body and body[-1][0] is Kind.BLANK_WITHIN else []):
        text = b"".join(p[2] for p in pieces)
        at = row.find(text) if text else -1
        if at >= 0:
            return _laid_out(row, pieces, at, target)
        if target.bos and text.startswith(target.bos) and row.startswith(text[len(target.bos) :]):
            first, turn, start = pieces[0]
            return _laid_out(row, [(first, turn, start[len(target.bos) :]), *pieces[1:]], 0, target)
    return None


def _laid_out(row: bytes, pieces: Sequence[tuple[Kind, int, bytes]], at: int, target: Target) -> Placed:
    stretches, position = [Stretch(0, Kind.PROMPT)], at
    for kind, turn, text in pieces:
        stretches.append(Stretch(position, kind, turn))
        position += len(text)
    found = _finished(Cut.EXACT, row, stretches, position, pieces[-1][1], target)
    otherwise = ended_otherwise(found.remainder, target.pieces[len(pieces) :], target.ends)
    return replace(found, ended_otherwise=otherwise)


def ended_otherwise(rest: bytes, behind: Sequence[tuple[Kind, int, bytes]], ends: Sequence[bytes]) -> bool:
    """Whether what follows a response is a terminator, and another than the one that stands `behind` it in its format."""
    own = next((text.lstrip(WHITE) for kind, _, text in behind if kind is Kind.TERMINATOR), b"")
    return bool(end_of_terminator(rest, ends)) and not rest.lstrip(WHITE).startswith(own)


def runs_on(rest: bytes, ends: Sequence[bytes]) -> bool:
    """Whether other text than a terminator follows a response."""
    return not end_of_terminator(rest, ends) and bool(rest.strip(WHITE))


def _finished(
    cut: Cut,
    row: bytes,
    stretches: list[Stretch],
    end: int,
    turn: int,
    target: Target,
    lost: tuple[int, ...] = (),
) -> Placed:
    rest = row[end:]
    stop = end_of_terminator(rest, target.ends)
    found = [
        *stretches,
        Stretch(end, Kind.TERMINATOR if stop else Kind.TAIL, turn),
        Stretch(end + stop, Kind.TAIL, turn),
    ]
    return Placed(cut, found, rest, lost, runs_on=runs_on(rest, target.ends))


def end_of_terminator(rest: bytes, ends: Sequence[bytes]) -> int:
    """The length of the terminator at the start of what follows a response, white space before it included; 0 if there is none."""
    blank = len(rest) - len(rest.lstrip(WHITE))
    found = next((e for e in ends if e and (rest.startswith(e) or rest.startswith(e, blank))), None)
    if found is None:
        return 0
    return len(found) if rest.startswith(found) else blank + len(found)


def cut(row: bytes, target: Target) -> Placed | None:
    """The row as a part of its rendered text; None where it is no part of it."""
    whole = b"".join(p[2] for p in target.pieces)
    core = row[len(target.bos) :] if target.bos and row.startswith(target.bos) else row
    if len(core) < 4 or not whole:
        return None
    for text, shift in ((core, len(row) - len(core)), (row, 0)):
        at = whole.find(text)
        if at >= 0:
            return _window(whole, at, len(text), shift, target)
    return None


def _window(whole: bytes, at: int, length: int, shift: int, target: Target) -> Placed:
    stretches, position = [Stretch(0, Kind.PROMPT)], 0
    for kind, turn, text in target.pieces:
        start, end = position, position + len(text)
        position = end
        if end > at and start < at + length:
            stretches.append(Stretch(max(start - at, 0) + shift, kind, turn))
    right = at + length < len(b"".join(p[2] for p in body_of(target)))
    if right:
        return Placed(Cut.CUT_RIGHT, stretches)
    return Placed(Cut.CUT_LEFT if at else Cut.EXACT, stretches, b"")


def _contents(row: bytes, target: Target) -> Placed:
    """The contents in order; a response that is not wholly there is cut off if the row ends in it, else the row is unmatched."""
    stretches: list[Stretch] = [Stretch(0, Kind.PROMPT)]
    cursor, turn, end = 0, -1, 0
    lost: list[int] = []
    spans: list[tuple[int, int]] = []
    responses = [i for i, (answer, _) in enumerate(target.contents) if answer]
    for index, (answer, text) in enumerate(target.contents):
        if not answer:
            at = row.find(text, cursor) if text else cursor
            lost += [] if at >= 0 else [index]
            cursor = at + len(text) if at >= 0 else cursor
            spans.append((cursor - len(text), cursor))
            continue
        turn += 1
        at = _response_at(row, target, index, cursor, last=index == responses[-1])
        if at < 0:
            return _without(row, text, stretches, cursor, turn, (*lost, index))
        stretches += _around(row, at, len(text), turn, target)
        cursor = end = at + len(text)
        spans.append((at, end))
    if not responses:
        return Placed(Cut.NO_TURNS)
    found = _finished(Cut.LOCATED, row, stretches[:-2], end, turn, target, tuple(lost))
    return replace(found, spans=tuple(spans))


def _response_at(row: bytes, target: Target, index: int, cursor: int, *, last: bool) -> int:
    text = target.contents[index][1]
    if last:
        return row.rfind(text, cursor)
    following = next((t for answer, t in target.contents[index + 1 :] if not answer and t), b"")
    first = row.find(text, cursor)
    limit = row.find(following, first + len(text)) if following and first >= 0 else -1
    return row.rfind(text, cursor, limit) if limit >= 0 else first


def _around(row: bytes, at: int, length: int, turn: int, target: Target) -> list[Stretch]:
    blank = len(row[:at]) - len(row[:at].rstrip(WHITE))
    stop = end_of_terminator(row[at + length :], target.ends)
    return [
        *([Stretch(at - blank, Kind.BLANK_BEFORE, turn)] if blank else []),
        Stretch(at, Kind.RESPONSE, turn),
        Stretch(at + length, Kind.TERMINATOR if stop else Kind.PROMPT, turn if stop else -1),
        Stretch(at + length + stop, Kind.PROMPT),
    ]


def _without(
    row: bytes, text: bytes, stretches: list[Stretch], cursor: int, turn: int, lost: tuple[int, ...]
) -> Placed:
    start = _start_of_end(row, text, cursor)
    if start >= 0:
        return Placed(Cut.CUT_RIGHT, [*stretches, Stretch(start, Kind.RESPONSE, turn)], b"", lost[:-1])
    return Placed(Cut.UNMATCHED, [Stretch(0, Kind.UNKNOWN)], b"", lost)


def _start_of_end(row: bytes, text: bytes, cursor: int) -> int:
    """Where a row's end begins to be the start of a text, of four bytes at least; -1 if it is not."""
    start = row.find(text[:4], cursor) if len(text) >= 4 else -1
    while start >= 0 and not text.startswith(row[start:]):
        start = row.find(text[:4], start + 1)
    return start
