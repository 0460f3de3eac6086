"""Align the tokens of encoded rows with the text that they came from, a whole shard at once."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmguard.alignment.place import Cut, Placed, Stretch, Target, place
from llmguard.alignment.skeleton import judged_again
from llmguard.encoded import Encoded
from llmguard.formats import ChatTemplate, Kind, Piece
from llmguard.formats.chat import TemplateError, control_tokens
from llmguard.formats.pieces import split_blank
from llmguard.ragged import Ints
from llmguard.rows import Rows, Turn
from llmguard.vocabulary import Vocabulary, vocabulary_of

__all__ = ["Alignment", "Status", "align"]

Status = Cut
ENOUGH = 0.8
"""Share of rows that must end alike for their common ending to be taken as the project's terminator."""


@dataclass(frozen=True)
class Alignment:
    """What every token is for.

    `kind`: uint8 [tokens], of `Kind`; `turn`: int16 [tokens], the assistant turn or -1; `status`: uint8 [rows], of `Status`;
    `responses`: int16 [rows], assistant turns in the source row; `lost`: for each row the contents that are not in its ids;
    `runs_on`, `ended_otherwise`: bool [rows], see `Placed`.
    """

    kind: NDArray[np.uint8]
    turn: NDArray[np.int16]
    status: NDArray[np.uint8]
    responses: NDArray[np.int16]
    lost: Sequence[tuple[int, ...]]
    runs_on: NDArray[np.bool_]
    ended_otherwise: NDArray[np.bool_]
    vocabulary: Vocabulary
    terminator: bytes

    @property
    def matched(self) -> NDArray[np.bool_]:
        """Rows whose responses were found (wholly or cut): bool [rows]."""
        return self.status < Cut.UNMATCHED

    def of(self, *kinds: Kind) -> NDArray[np.bool_]:
        """Tokens of some kinds: bool [tokens]."""
        wanted = np.zeros(len(Kind), dtype=bool)
        wanted[[int(k) for k in kinds]] = True
        return np.asarray(wanted[self.kind])


def align(encoded: Encoded, rows: Rows, tokenizer: Any, template: Any = None) -> Alignment:
    """Align encoded rows with their source rows (`encoded.source`); remembered for the same objects."""
    memory: dict[Any, Any] = encoded.__dict__.setdefault("_alignments", {})
    key = (id(rows), id(tokenizer), id(template))
    if key not in memory:
        memory[key] = (_align(encoded, rows, tokenizer, template), rows, tokenizer, template)
    found: Alignment = memory[key][0]
    return found


def _align(encoded: Encoded, rows: Rows, tokenizer: Any, template: Any) -> Alignment:
    vocabulary = vocabulary_of(tokenizer)
    ids = np.where(encoded.attended, encoded.input_ids.values, -1)
    flat, ends = vocabulary.spans(ids)
    row_ends = np.concatenate(([0], ends))[encoded.input_ids.offsets]
    text = flat.tobytes()
    bytes_of = [text[start:stop] for start, stop in itertools.pairwise(row_ends.tolist())]
    targets = _targets(bytes_of, encoded, rows, tokenizer, template, vocabulary)
    placed = [_placed(row, target) for row, target in zip(bytes_of, targets, strict=True)]
    terminator = _common_ending(placed)
    if terminator:  # looked for again, since it ends the earlier responses of a conversation too
        targets = [t and replace(t, ends=[terminator, *t.ends]) for t in targets]
        placed = [_placed(row, target) for row, target in zip(bytes_of, targets, strict=True)]
    lengths = encoded.input_ids.lengths
    placed = judged_again(bytes_of, targets, placed, (lengths == lengths.max(initial=0)).tolist())
    kind, turn = _kinds(placed, ends, row_ends, encoded, vocabulary)
    status = np.fromiter((p.cut for p in placed), dtype=np.uint8, count=len(placed))
    responses = np.fromiter((_answers(t) for t in targets), dtype=np.int16, count=len(targets))
    lost = [p.lost for p in placed]
    runs_on, otherwise = (
        np.array([getattr(p, n) for p in placed], bool) for n in ("runs_on", "ended_otherwise")
    )
    return Alignment(kind, turn, status, responses, lost, runs_on, otherwise, vocabulary, terminator)


def _answers(target: Target | None) -> int:
    return sum(answer for answer, _ in target.contents) if target else 0


def _targets(
    bytes_of: Sequence[bytes],
    encoded: Encoded,
    rows: Rows,
    tokenizer: Any,
    template: Any,
    vocabulary: Vocabulary,
) -> list[Target | None]:
    ends = _ends(tokenizer, template, vocabulary)
    bos = vocabulary.squeezed(tokenizer.bos_token) if getattr(tokenizer, "bos_token", None) else b""
    dated = isinstance(template, ChatTemplate) and bool(template.dates)

    def target(source: int, row: bytes) -> Target | None:
        if not 0 <= source < len(rows):
            return None
        found = _target(rows.turns[source], template, vocabulary, ends, bos)
        if dated and found and place(row, found).cut is not Cut.EXACT:
            others = (_target(rows.turns[source], t, vocabulary, ends, bos) for t in template.as_of(row))
            return next((o for o in others if o and place(row, o).cut is Cut.EXACT), found)
        return found

    return [target(s, row) for s, row in zip(encoded.source.tolist(), bytes_of, strict=True)]


def _ends(tokenizer: Any, template: Any, vocabulary: Vocabulary) -> list[bytes]:
    """What may end a response: the format's own terminator, EOS, and any control token that is no opening marker."""
    own = (
        vocabulary.squeezed(template.terminator).lstrip(b"\t\n\r")
        if template is not None and template.terminator
        else b""
    )
    eos = vocabulary.squeezed(tokenizer.eos_token) if tokenizer.eos_token else b""
    others = [
        vocabulary.squeezed(t)
        for t in control_tokens(tokenizer)
        if t not in (tokenizer.bos_token, tokenizer.pad_token)
    ]
    opening = (
        b"start",
        b"user",
        b"assistant",
        b"system",
        b"header",
        b"[INST]",
        b"begin",
        b"fim",
        b"think",
        b"tool",
        b"func",
    )
    return [e for e in (own, eos, *(o for o in others if not any(w in o.lower() for w in opening))) if e]


def _target(
    turns: tuple[Turn, ...] | None, template: Any, vocabulary: Vocabulary, ends: list[bytes], bos: bytes
) -> Target | None:
    if not turns or not any(t.answers for t in turns):
        return None
    pieces: list[Piece] = []
    if template is not None:
        try:
            pieces = split_blank(template.pieces(turns))
        except TemplateError:
            pieces = []
    texts = vocabulary.swallow([p.text for p in pieces])
    as_bytes = [(p.kind, p.turn, vocabulary.text_as_bytes(t)) for p, t in zip(pieces, texts, strict=True)]
    contents = [(t.answers, vocabulary.text_as_bytes(t.content.strip())) for t in turns]
    if any(t.answers and t.said for t in turns):  # only the template knows how it writes them
        return Target(as_bytes, _shown(contents, as_bytes), ends, bos) if as_bytes else None
    return Target(as_bytes, contents, ends, bos, _shown(contents, as_bytes))


def _shown(
    contents: Sequence[tuple[bool, bytes]], pieces: Sequence[tuple[Kind, int, bytes]]
) -> list[tuple[bool, bytes]]:
    """Contents as the template shows them: thinking that it strips left out, tool calls that it writes put in."""
    found, turn = [], -1
    for answer, text in contents:
        turn += answer
        written = [b for k, t, b in pieces if t == turn and k in (Kind.RESPONSE, Kind.BLANK_WITHIN)]
        found.append((answer, b"".join(written).strip() if answer and written else text))
    return found


def _common_ending(placed: Sequence[Placed]) -> bytes:
    """The text that most rows end with, where none of them ends with a control token (`\\nEND` and its like)."""
    whole = [p for p in placed if p.cut in (Cut.EXACT, Cut.LOCATED)]
    if any(
        s.kind is Kind.TERMINATOR and t.start > s.start
        for p in whole
        for s, t in zip(p.stretches, p.stretches[1:], strict=False)
    ):
        return b""
    endings = Counter(p.remainder for p in whole if p.remainder.strip())
    if not endings or len(whole) < 3:
        return b""
    ending, count = endings.most_common(1)[0]
    return ending if count >= ENOUGH * len(whole) else b""


def _placed(row: bytes, target: Target | None) -> Placed:
    return place(row, target) if target else Placed(Cut.NO_TURNS, [Stretch(0, Kind.UNKNOWN)])


def _kinds(
    placed: Sequence[Placed], ends: Ints, row_ends: Ints, encoded: Encoded, vocabulary: Vocabulary
) -> tuple[NDArray[np.uint8], NDArray[np.int16]]:
    """Kind and turn of every token from the stretch that its first and its last byte lie in."""
    bounds = np.concatenate(
        [[s.start for s in p.stretches] + row_ends[i] for i, p in enumerate(placed)]
        or [np.zeros(1, np.int64)]
    )
    kinds = np.array([s.kind for p in placed for s in p.stretches] or [Kind.UNKNOWN], dtype=np.uint8)
    turns = np.array([s.turn for p in placed for s in p.stretches] or [-1], dtype=np.int16)
    lengths = np.diff(np.concatenate(([0], ends)))
    starts = ends - lengths
    first = np.searchsorted(bounds, starts, side="right") - 1
    last = np.searchsorted(bounds, np.maximum(ends - 1, starts), side="right") - 1
    first, last = np.clip(first, 0, len(kinds) - 1), np.clip(last, 0, len(kinds) - 1)
    kind, turn = kinds[first].copy(), turns[first].copy()
    _blanks(kind, turn, lengths, starts, bounds, kinds)
    _straddling(kind, turn, kinds, turns, first, last)
    kind[~encoded.attended] = Kind.PAD
    return kind, turn


def _blanks(kind: Any, turn: Any, lengths: Ints, starts: Ints, bounds: Ints, kinds: Any) -> None:
    """Tokens of spaces alone have no bytes: within a stretch they are its kind; at an edge they are nobody's (SentencePiece
    inserts them), unless the prompt's own text ends with a space there.
    """
    empty = lengths == 0
    edge = np.isin(starts, bounds[np.isin(kinds, [Kind.RESPONSE, Kind.TERMINATOR, Kind.TAIL, Kind.SEAM])])
    kind[empty & edge] = Kind.SEAM
    spaces = (kinds[:-1] == Kind.BLANK_BEFORE) & (bounds[:-1] == bounds[1:])
    kind[empty & np.isin(starts, bounds[:-1][spaces])] = Kind.BLANK_BEFORE


def _straddling(kind: Any, turn: Any, kinds: Any, turns: Any, first: Ints, last: Ints) -> None:
    before, after = kinds[first], kinds[last]
    answer = (Kind.RESPONSE, Kind.TERMINATOR)
    crosses = first != last
    into = crosses & np.isin(after, answer) & (before == Kind.PROMPT)
    kind[into], turn[into] = Kind.STRADDLE, turns[last][into]
    blank_into = (
        crosses & np.isin(after, answer) & np.isin(before, (Kind.BLANK_BEFORE, Kind.BLANK_WITHIN, Kind.SEAM))
    )
    kind[blank_into], turn[blank_into] = Kind.RESPONSE, turns[last][blank_into]
    held = (
        crosses & (before == Kind.PROMPT) & np.isin(after, (Kind.BLANK_BEFORE, Kind.BLANK_WITHIN, Kind.SEAM))
    )
    kind[held] = Kind.PROMPT
    shared = crosses & (before == Kind.BLANK_WITHIN) & np.isin(after, (Kind.TAIL, Kind.PROMPT))
    kind[shared] = Kind.TAIL  # a line break of the response's and one of the template's in one token
