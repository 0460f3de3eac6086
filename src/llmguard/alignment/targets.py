"""What the bytes of a row are held against: its source row in the pieces of its format, or its contents alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from llmguard.alignment.place import Cut, Target, place
from llmguard.formats import ChatTemplate, Kind, Piece
from llmguard.formats.chat import TemplateError, control_tokens
from llmguard.formats.pieces import split_blank
from llmguard.rows import Rows, Turn
from llmguard.vocabulary import Vocabulary

__all__ = ["Targets"]

OPENING = (
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
"""What control tokens that open something are called, and that cannot end a response."""


@dataclass(frozen=True)
class Targets:
    """Source rows, one at a time, as what to look for in the bytes of ids. `more`: ends that were learnt from the rows."""

    rows: Rows
    tokenizer: Any
    template: Any
    vocabulary: Vocabulary
    more: tuple[bytes, ...] = ()

    def of(self, source: int, row: bytes) -> Target | None:
        """The target of a source row; of a template that writes dates, as of the day that the row's bytes name."""
        if not 0 <= source < len(self.rows):
            return None
        turns = self.rows.turns[source]
        found = self.made(turns, self.template)
        if self.dated and found and place(row, found).cut is not Cut.EXACT:
            others = (self.made(turns, t) for t in self.template.as_of(row))
            found = next((o for o in others if o and place(row, o).cut is Cut.EXACT), found)
        return replace(found, ends=[*self.more, *found.ends]) if found and self.more else found

    def made(self, turns: tuple[Turn, ...] | None, template: Any) -> Target | None:
        """The target of some turns in a format; None where none of them is a response that is to be trained."""
        if not turns or not any(t.answers for t in turns):
            return None
        pieces: list[Piece] = []
        if template is not None:
            try:
                pieces = split_blank(template.pieces(turns))
            except TemplateError:
                pieces = []
        texts = self.vocabulary.swallow([p.text for p in pieces])
        in_bytes = self.vocabulary.text_as_bytes
        as_bytes = [(p.kind, p.turn, in_bytes(t)) for p, t in zip(pieces, texts, strict=True)]
        contents = [(t.answers, in_bytes(t.content.strip())) for t in turns]
        if any(t.answers and t.said for t in turns):  # only the template knows how it writes them
            return Target(as_bytes, _shown(contents, as_bytes), self.ends, self.bos) if as_bytes else None
        return Target(as_bytes, contents, self.ends, self.bos, _shown(contents, as_bytes))

    @cached_property
    def dated(self) -> bool:
        """Whether the template writes today's date."""
        return isinstance(self.template, ChatTemplate) and bool(self.template.dates)

    @cached_property
    def bos(self) -> bytes:
        """The tokenizer's BOS as compared; empty where it has none."""
        bos = getattr(self.tokenizer, "bos_token", None)
        return self.vocabulary.squeezed(bos) if bos else b""

    @cached_property
    def ends(self) -> list[bytes]:
        """What may end a response: the format's own terminator, EOS, and any control token that is no opening marker."""
        own = self.template.terminator if self.template is not None else ""
        eos = self.tokenizer.eos_token
        used = (self.tokenizer.bos_token, self.tokenizer.pad_token)
        others = [self.vocabulary.squeezed(t) for t in control_tokens(self.tokenizer) if t not in used]
        ends = (
            self.vocabulary.squeezed(own).lstrip(b"\t\n\r") if own else b"",
            self.vocabulary.squeezed(eos) if eos else b"",
            *(o for o in others if not any(w in o.lower() for w in OPENING)),
        )
        return [e for e in ends if e]


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
