"""Tokens with their labels as people see them: trained, masked, wrong, and why."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from typing import Any

from llmguard.reporting.text import visible

__all__ = [
    "LEGEND",
    "MANY",
    "Mark",
    "Run",
    "Token",
    "folded",
    "runs_of",
    "token_texts",
    "tokens_from_json",
    "tokens_of_row",
    "told_by",
    "untold",
]  # fmt: skip

IGNORE_INDEX = -100
MANY = 4
"""So many of the same token in a row are shown as one, with their number."""
DEEP = 4
"""How deep in a finding's evidence windows of tokens are looked for: evidence of other people's checks may hold itself."""
ANSWER = frozenset({"response", "terminator"})


class Mark(str, enum.Enum):
    """What is done with a token: in the loss, out of the loss, padding, or not what it should be."""

    TRAINED = "trained"
    MASKED = "masked"
    WRONG = "wrong"
    PAD = "pad"


LEGEND: tuple[tuple[str, str], ...] = (
    ("trained", "in the loss"),
    ("masked", "out of the loss"),
    ("wrong", "should not be what it is"),
    ("terminator", "ends a response"),
    ("straddle", "is prompt and response in one"),
    ("pad", "padding"),
)
"""Name of a colour or mark -> what it means."""


@dataclass(frozen=True)
class Token:
    """One token of a row.

    `label` is None where the row has no labels, `position` where it is not known; `kind` is a `Kind` of
    llmguard.formats in small letters. `trained` overrules the label; the purposes are the project's own.
    """

    text: str
    id: int
    label: int | None
    kind: str = "unknown"
    position: int | None = None
    trained: bool | None = None
    masked_on_purpose: bool = False
    trained_on_purpose: bool = False
    attended: bool | None = None

    @property
    def in_loss(self) -> bool:
        """Whether the token is supervised."""
        if self.trained is not None:
            return self.trained
        return self.label is not None and self.label != IGNORE_INDEX

    @cached_property
    def fault(self) -> str:
        """What looks wrong about it; empty where nothing does."""
        if self.in_loss and self.label is not None and self.label not in (self.id, IGNORE_INDEX):
            return f"is labelled {self.label}, which is another token"
        if self.in_loss and self.kind == "pad":
            return "is padding and is trained"
        if self.in_loss and self.kind == "prompt" and not self.trained_on_purpose:
            return "belongs to the prompt and is trained"
        if self.label is not None and not self.in_loss and self.kind in ANSWER and not self.masked_on_purpose:
            return (
                "ends the response and is not trained"
                if self.kind == "terminator"
                else "belongs to the response and is not trained"
            )
        return ""

    @property
    def mark(self) -> Mark:
        """Its colour."""
        if self.fault:
            return Mark.WRONG
        if self.kind == "pad":
            return Mark.PAD
        return Mark.TRAINED if self.in_loss else Mark.MASKED

    @property
    def shown(self) -> str:
        """Its text with white space made visible; newlines are kept after their sign."""
        text = visible(self.text).replace("\t", "⇥").replace("\n", "↵\n")
        if text.isspace() or (text and not text.strip()):
            return text.replace(" ", "␣")
        return text or "∅"


@dataclass(frozen=True)
class Run:
    """Neighbouring tokens of one mark and one kind, and where the first one stands."""

    mark: Mark
    kind: str
    fault: str
    tokens: tuple[Token, ...]
    start: int

    @property
    def stop(self) -> int:
        """One past the last position."""
        return self.start + len(self.tokens)

    @property
    def text(self) -> str:
        """The text of all tokens, tabs and newlines as signs."""
        return visible("".join(t.text for t in self.tokens)).replace("\t", "⇥").replace("\n", "↵")


def runs_of(tokens: Iterable[Token]) -> list[Run]:
    """Tokens in runs of one mark, kind and fault."""
    found, start = [], 0
    for (mark, kind, fault), group in groupby(tokens, key=lambda t: (t.mark, t.kind, t.fault)):
        run = Run(mark, kind, fault, tuple(group), start)
        found.append(run)
        start = run.stop
    return found


def folded(tokens: Iterable[Token]) -> Iterator[tuple[Token, int]]:
    """Tokens with how often each comes in a row; fewer than `MANY` of the same stay apart."""
    for _, group in groupby(tokens, key=lambda t: (t.id, t.mark, t.kind)):
        same = list(group)
        yield from [(same[0], len(same))] if len(same) >= MANY else [(t, 1) for t in same]


def tokens_from_json(window: Any) -> list[Token]:
    """Tokens of a finding's evidence, `[{"text", "id", "label", "kind"}, …]`; [] for anything else.

    Where no token's text is told, as from checks that have no tokenizer, ids stand for it.
    """
    if not isinstance(window, Sequence) or isinstance(window, (str, bytes)):
        return []
    found = [_from_json(t) for t in window if isinstance(t, Mapping) and "text" in t]
    told = any(t.text.strip(" \u2423") for t in found)
    return found if told else [replace(t, text=f"⟨id {t.id}⟩") for t in found]


def _from_json(token: Mapping[str, Any]) -> Token:
    number, trained = _whole(token.get("id")), token.get("trained")
    attention = token.get("attention")
    return Token(
        text=str(token["text"]),
        id=-1 if number is None else number,
        label=_whole(token.get("label")),
        kind=str(token.get("kind") or "unknown").lower(),
        position=_whole(token.get("position")),
        trained=trained if isinstance(trained, bool) else None,
        attended=bool(attention) if isinstance(attention, int) else None,
    )


def told_by(tokenizer: Any, evidence: Any, depth: int = 0) -> Any:
    """Evidence whose windows of tokens carry texts: a check that reads no tokenizer leaves them empty."""
    if depth > DEEP:
        return evidence
    if isinstance(evidence, Mapping):
        return {key: told_by(tokenizer, value, depth + 1) for key, value in evidence.items()}
    if not isinstance(evidence, list):
        return evidence
    if not _without_texts(evidence):
        return [told_by(tokenizer, value, depth + 1) for value in evidence]
    texts = token_texts([t["id"] for t in evidence], tokenizer)
    return [{**token, "text": text} for token, text in zip(evidence, texts, strict=True)]


def untold(evidence: Any, depth: int = 0) -> bool:
    """Whether a window of tokens in some evidence has ids and no text."""
    if depth > DEEP or not isinstance(evidence, (Mapping, list)):
        return False
    inner = evidence.values() if isinstance(evidence, Mapping) else evidence
    window = isinstance(evidence, list) and _without_texts(evidence)
    return window or any(untold(value, depth + 1) for value in inner)


def _without_texts(window: Sequence[Any]) -> bool:
    return bool(window) and all(
        isinstance(t, Mapping) and t.get("text") == "" and _whole(t.get("id")) is not None for t in window
    )


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def tokens_of_row(
    encoded: Any, row: int, tokenizer: Any, alignment: Any = None, *, train_on: str = "responses"
) -> list[Token]:
    """The tokens of a row of `Encoded`; `alignment` (llmguard.alignment.align) tells prompt from response.

    `train_on` is the project's: `"responses"`, `"last"` or `"all"`; what it asks for is not wrong.
    """
    ids = encoded.input_ids[row].tolist()
    start = int(encoded.input_ids.offsets[row])
    whole = encoded.labels.same_shape(encoded.input_ids)
    labels = encoded.labels[row].tolist() if encoded.has_labels and whole else [None] * len(ids)
    attended = encoded.attended[start : start + len(ids)]
    kinds, turns = _kinds(alignment, start, len(ids))
    last = max(turns, default=-1)
    texts = token_texts(ids, tokenizer)
    return [
        Token(
            texts[i],
            ids[i],
            labels[i],
            kinds[i] if attended[i] else "pad",
            i,
            masked_on_purpose=train_on == "last" and turns[i] != last,
            trained_on_purpose=train_on == "all",
            attended=bool(attended[i]),
        )
        for i in range(len(ids))
    ]


def _kinds(alignment: Any, start: int, length: int) -> tuple[list[str], list[int]]:
    if alignment is None:
        return ["unknown"] * length, [-1] * length
    from llmguard.formats import Kind

    kinds = [Kind(int(k)).name.lower() for k in alignment.kind[start : start + length]]
    return kinds, [int(t) for t in alignment.turn[start : start + length]]


def token_texts(ids: Sequence[int], tokenizer: Any) -> list[str]:
    """The text of each id on its own, spaces kept; parts of characters as bytes, unknown ids as such."""
    size = len(tokenizer)
    known = sorted({i for i in ids if 0 <= i < size})
    pieces = dict(zip(known, tokenizer.convert_ids_to_tokens(known), strict=True))
    added = {i: token.content for i, token in tokenizer.added_tokens_decoder.items()}
    read = _reader(tokenizer)
    texts = {i: added[i] if i in added else read(piece or "") for i, piece in pieces.items()}
    return [texts.get(i, f"⟨no token {i}⟩") for i in ids]


def _reader(tokenizer: Any) -> Any:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    decoder = backend.decoder if backend is not None else None
    return _byte_level if decoder is not None and "ByteLevel" in str(decoder.__getstate__()) else _pieces


def _byte_level(piece: str) -> str:
    from llmguard.vocabulary import BYTE_LEVEL

    try:
        raw = bytes(BYTE_LEVEL[c] for c in piece)
    except KeyError:  # a piece that is written as it is
        return piece
    return _as_text(raw)


def _pieces(piece: str) -> str:
    if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):  # SentencePiece byte fallback
        return _as_text(bytes.fromhex(piece[3:5]))
    return piece.replace("▁", " ")


def _as_text(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return "".join(f"⟨{byte:02X}⟩" if byte > 0x7F else chr(byte) for byte in raw)
