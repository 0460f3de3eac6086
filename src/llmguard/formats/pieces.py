"""A rendered row in pieces: what each stretch of its text is for."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from typing import AnyStr

__all__ = ["Kind", "Piece", "common_start", "join", "pieces_text", "split_blank"]


class Kind(enum.IntEnum):
    """What a stretch of text, or a token, is for.

    SEAM is what a template writes between generation prompt and response (an empty thinking block): training it or not is
    both legitimate. BLANK_BEFORE and BLANK_WITHIN are white space alone at the seam, on the prompt's and the response's side.
    TAIL follows the terminator. STRADDLE is a token that holds the end of the prompt and the start of the response.
    """

    PROMPT = 0
    SEAM = 1
    RESPONSE = 2
    TERMINATOR = 3
    TAIL = 4
    STRADDLE = 5
    PAD = 6
    UNKNOWN = 7
    BLANK_BEFORE = 8
    BLANK_WITHIN = 9


@dataclass(frozen=True)
class Piece:
    """Some text, what it is for, and the assistant turn it belongs to (-1: none)."""

    kind: Kind
    text: str
    turn: int = -1


def pieces_text(pieces: Iterable[Piece]) -> str:
    """The whole text."""
    return "".join(p.text for p in pieces)


def split_blank(pieces: Iterable[Piece]) -> list[Piece]:
    """White space at the seam on its own, on either side: its treatment is judged more mildly than text's."""
    found: list[Piece] = []
    for piece in pieces:
        if piece.kind in (Kind.RESPONSE, Kind.SEAM) and found and found[-1].kind is Kind.PROMPT:
            found += _prompt_parts(found.pop(), piece.turn)
        found += _response_parts(piece) if piece.kind is Kind.RESPONSE else [piece]
    return [p for p in found if p.text]


def _prompt_parts(piece: Piece, turn: int) -> list[Piece]:
    """A prompt, the line breaks at its end, and the spaces at its very end (which may be a token of their own)."""
    unspaced = piece.text.rstrip(" ")
    body = unspaced.rstrip()
    return [
        Piece(Kind.PROMPT, body, piece.turn),
        Piece(Kind.BLANK_BEFORE, unspaced[len(body) :], turn),
        Piece(Kind.BLANK_BEFORE, piece.text[len(unspaced) :], turn),
    ]


def _response_parts(piece: Piece) -> list[Piece]:
    body = piece.text.strip()
    if not body:
        return [Piece(Kind.BLANK_WITHIN, piece.text, piece.turn)]
    start = piece.text.index(body)
    parts = (
        Piece(Kind.BLANK_WITHIN, piece.text[:start], piece.turn),
        Piece(Kind.RESPONSE, body, piece.turn),
        Piece(Kind.BLANK_WITHIN, piece.text[start + len(body) :], piece.turn),
    )
    return [p for p in parts if p.text]


def common_start(one: AnyStr, other: AnyStr) -> int:
    """How many characters (or bytes) two texts start with in common."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def join(pieces: Iterable[Piece]) -> list[Piece]:
    """Neighbours of one kind and turn made one."""
    found: list[Piece] = []
    for piece in pieces:
        if found and (found[-1].kind, found[-1].turn) == (piece.kind, piece.turn):
            found[-1] = Piece(piece.kind, found[-1].text + piece.text, piece.turn)
        else:
            found.append(piece)
    return [p for p in found if p.text]
