"""A tokenizer's own chat template, taken apart by rendering: which text is whose is seen by changing it and looking."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from llmguard.formats.dates import at_moment, formats_in, moments_in, pattern_of
from llmguard.formats.pieces import Kind, Piece, common_start, join
from llmguard.formats.questions import Questions, questions_in
from llmguard.rows.turns import Turn

__all__ = ["ChatTemplate", "TemplateError", "control_tokens"]


class TemplateError(Exception):
    """The template cannot render these turns; the message is the template's own."""


def control_tokens(tokenizer: Any) -> tuple[str, ...]:
    """The special tokens of a tokenizer as text, longest first."""
    special = {t.content for t in tokenizer.added_tokens_decoder.values() if t.special} | {
        str(t) for t in tokenizer.all_special_tokens
    }
    return tuple(sorted((t for t in special if t.strip()), key=lambda t: (-len(t), t)))


@dataclass(frozen=True)
class ChatTemplate:
    """The chat template of `tokenizer` (or `text` in its place), at `moment` where it writes dates (now, by default).

    Text that it renders is encoded without adding special tokens.
    """

    tokenizer: Any
    text: str | None = None
    declared: bool = True
    name: str = "chat-template"
    add_special_tokens: bool = False
    moment: dt.datetime | None = None

    def render(self, turns: Sequence[Turn], *, generation_prompt: bool = False) -> str:
        """The text of some turns.

        Raises:
            TemplateError: the template refuses them (roles that must alternate, no system role, missing variables).
        """
        messages = [t.message() for t in turns]
        given = {"chat_template": self._source, "add_generation_prompt": generation_prompt}
        try:
            return str(self.tokenizer.apply_chat_template(messages, tokenize=False, **given))
        except Exception as bad:  # whatever a template raises is the template's word
            raise TemplateError(str(bad).splitlines()[0] if str(bad) else type(bad).__name__) from None

    @cached_property
    def _source(self) -> str | None:
        """The template to render with: the tokenizer's own (None) unless another text or another day is wanted."""
        if self.moment is None or not self.dates:
            return self.text
        return f"{at_moment(self.dates, self.moment)}{self.text or self.tokenizer.chat_template}"

    @cached_property
    def dates(self) -> tuple[str, ...]:
        """The formats that it writes today's date in."""
        source = self.text or self.tokenizer.chat_template
        return formats_in(source) if isinstance(source, str) else ()

    @cached_property
    def dated(self) -> re.Pattern[bytes] | None:
        """What its dates look like, without spaces; None where it writes none."""
        return pattern_of(self.dates)

    def as_of(self, row: bytes) -> list[ChatTemplate]:
        """The template on each of the days that a row's bytes name."""
        known: dict[dt.datetime, ChatTemplate] = self.__dict__.setdefault("_as_of", {})
        moments = moments_in(row, self.dates)
        known.update({m: replace(self, moment=m) for m in moments if m not in known})
        return [known[m] for m in moments]

    @cached_property
    def control(self) -> tuple[str, ...]:
        """The tokenizer's special tokens as text."""
        return control_tokens(self.tokenizer)

    @cached_property
    def writes_bos(self) -> bool:
        """Whether what it renders starts with the tokenizer's BOS."""
        bos = self.tokenizer.bos_token
        try:
            return bool(bos) and self.render((Turn("user", "x"),)).startswith(bos)
        except TemplateError:
            return False

    @cached_property
    def questions(self) -> Questions | None:
        """What it asks contents about; None where that cannot be told."""
        source = self.text or self.tokenizer.chat_template
        return questions_in(source) if isinstance(source, str) else None

    @cached_property
    def terminator(self) -> str:
        """What ends a response: the first special token after it, with the white space before that; '' where there is none."""
        turns = (Turn("user", "Which number comes after one?"), Turn("assistant", "Two, surely."))
        try:
            text = self.render(turns)
        except TemplateError:
            return ""
        return self._terminator_in(text[text.rfind(turns[1].content) + len(turns[1].content) :])

    def _terminator_in(self, tail: str) -> str:
        blank = len(tail) - len(tail.lstrip())
        found = next((t for t in self.control if tail.startswith(t, blank)), "")
        return tail[: blank + len(found)] if found else ""

    def prompt(self, turns: Sequence[Turn]) -> str:
        """The generation prompt for the last response (after the last turn where it is not one).

        Raises:
            TemplateError: the template refuses the turns.
        """
        asked = turns[:-1] if turns and turns[-1].role == "assistant" else turns
        return self.render(asked, generation_prompt=True)

    def pieces(self, turns: Sequence[Turn]) -> list[Piece]:
        """The training text of a conversation in pieces.

        Raises:
            TemplateError: the template refuses the turns.
        """
        text = self.render(turns)
        found: list[Piece] = []
        at = answered = 0
        for position, turn in enumerate(turns):
            if not turn.answers:
                continue
            start, end = self._content(text, turns, position, at)
            found += self._response(text, (at, start, end), self._prefix(turns[:position]), answered)
            at = sum(len(p.text) for p in found)
            answered += 1
        kind = Kind.TAIL if turns and turns[-1].answers else Kind.PROMPT
        return join([*found, Piece(kind, text[at:], answered - 1 if kind is Kind.TAIL else -1)])

    def _response(self, text: str, span: tuple[int, int, int], prefix: str, turn: int) -> list[Piece]:
        at, start, end = span
        seam = start
        if prefix and at <= len(prefix) <= end and text.startswith(prefix):
            seam, start = min(start, len(prefix)), max(start, len(prefix))
        terminator = (
            self.terminator
            if self.terminator and text.startswith(self.terminator, end)
            else self._terminator_in(text[end:])
        )
        kind = (
            Kind.TERMINATOR if self.terminator else Kind.TAIL
        )  # the next turn's opening may be what ends this one
        return [
            Piece(Kind.PROMPT, text[at:seam]),
            Piece(Kind.SEAM, text[seam:start], turn),
            Piece(Kind.RESPONSE, text[start:end], turn),
            Piece(kind, terminator, turn),
            Piece(Kind.TAIL, _blank(text, end + len(terminator)), turn),
        ]

    def _prefix(self, turns: Sequence[Turn]) -> str:
        try:
            return self.render(turns, generation_prompt=True) if turns else ""
        except TemplateError:
            return ""

    def _content(self, text: str, turns: Sequence[Turn], position: int, at: int) -> tuple[int, int]:
        content = turns[position].content
        if turns[position].said:
            return self._content_by_change(text, turns, position, at)
        for shown in (content, content.strip()):
            if len(shown) > 12 and text.count(shown) == 1 and text.find(shown) >= at:
                start = text.find(shown)
                return start, start + len(shown)
        return self._content_by_change(text, turns, position, at)

    def _content_by_change(self, text: str, turns: Sequence[Turn], position: int, at: int) -> tuple[int, int]:
        """Where a turn stands, tool calls and thinking included: what changes when it is replaced, and nothing else."""
        kept = {k: v for k, v in turns[position].extra.items() if k not in turns[position].said}
        other = Turn(turns[position].role, "\u2603 other words \u2603", extra=kept)
        changed = self.render([*turns[:position], other, *turns[position + 1 :]])
        start = common_start(text, changed)
        end = len(text) - common_start(text[start:][::-1], changed[start:][::-1])
        return max(start, at), max(end, start, at)


def _blank(text: str, at: int) -> str:
    rest = text[at:]
    return rest[: len(rest) - len(rest.lstrip())]
