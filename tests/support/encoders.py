"""Correct encoders, as training code writes them, and faults planted in what they make.

A `Sample` is an encoded row that knows where its responses are: for each its first token, the first token of its terminator,
and the token behind that. What it says comes from its own way of encoding, never from the code under test.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from llmguard.formats import ChatTemplate, Kind, TextFormat, pieces_text
from llmguard.rows import Turn

__all__ = ["IGNORE", "Endless", "Sample", "Span", "joint", "rendered", "split"]

IGNORE = -100
Turns = Sequence[Turn]


class Endless:
    """Rows without end; `read` says how many were taken."""

    def __init__(self) -> None:
        self.read = 0

    def __iter__(self) -> Iterator[dict[str, str]]:
        while True:
            self.read += 1
            yield {"prompt": f"what is {self.read}", "response": "one"}


@dataclass(frozen=True)
class Span:
    """One response: tokens start to end are its words, end to stop its terminator."""

    start: int
    end: int
    stop: int


@dataclass(frozen=True)
class Sample:
    """An encoded row. `labels` is what a fault made of them; without one, responses and their terminators are trained."""

    ids: list[int]
    spans: list[Span]
    labels: list[int] | None = None
    attention: list[int] | None = None

    def trained(self) -> list[int]:
        """The labels."""
        if self.labels is not None:
            return list(self.labels)
        inside = {i for s in self.spans for i in range(s.start, s.stop)}
        return [t if i in inside else IGNORE for i, t in enumerate(self.ids)]

    def columns(self) -> dict[str, list[int]]:
        """As `encode` returns it."""
        attention = self.attention or [1] * len(self.ids)
        return {"input_ids": list(self.ids), "labels": self.trained(), "attention_mask": attention}

    def cut(self, length: int) -> Sample:
        """The first tokens only."""
        spans = [Span(min(s.start, length), min(s.end, length), min(s.stop, length)) for s in self.spans]
        labels = self.labels[:length] if self.labels else None
        return replace(self, ids=self.ids[:length], spans=spans, labels=labels)


def split(tokenizer: Any, template: TextFormat, turns: Turns) -> Sample:
    """Prompt and response tokenised apart and their ids joined, turn by turn."""
    ids: list[int] = []
    spans: list[Span] = []
    answer = ""
    for piece in template.pieces(turns):
        if piece.kind is Kind.PROMPT:
            special = template.add_special_tokens and not ids
            ids += tokenizer(piece.text, add_special_tokens=special)["input_ids"]
        elif piece.kind is Kind.RESPONSE:
            answer = piece.text
        elif piece.kind is Kind.TERMINATOR:
            whole = tokenizer(answer + piece.text, add_special_tokens=False, return_offsets_mapping=True)
            words = sum(start < len(answer) for start, _ in whole["offset_mapping"])
            spans.append(Span(len(ids), len(ids) + words, len(ids) + len(whole["input_ids"])))
            ids += whole["input_ids"]
    return Sample(ids, spans)


def joint(tokenizer: Any, template: TextFormat | ChatTemplate, turns: Turns) -> Sample:
    """The whole text tokenised at once; responses and terminators found by character offsets."""
    text, places = _places(tokenizer, template, turns)
    encoded = tokenizer(text, add_special_tokens=template.add_special_tokens, return_offsets_mapping=True)
    offsets = encoded["offset_mapping"]
    spans = [
        Span(_first(offsets, text, a), _first(offsets, text, b), _first(offsets, text, c))
        for a, b, c in places
    ]
    return Sample(encoded["input_ids"], spans)


def _first(offsets: Sequence[tuple[int, int]], text: str, at: int) -> int:
    """The first token that starts at a character or behind it; white space that it carries before its first character aside."""
    for index, (start, end) in enumerate(offsets):
        inner = start + len(text[start:end]) - len(text[start:end].lstrip())
        if end > start and (start >= at or (inner >= at and end > at)):
            return index
    return len(offsets)


def _places(
    tokenizer: Any, template: TextFormat | ChatTemplate, turns: Turns
) -> tuple[str, list[tuple[int, int, int]]]:
    """The text, and for each response where it starts, where it ends and where its terminator does, in characters."""
    if isinstance(template, ChatTemplate):
        return _places_rendered(tokenizer, template, turns)
    found, at, start = [], 0, 0
    pieces = template.pieces(turns)
    for piece in pieces:
        if piece.kind is Kind.RESPONSE:
            start = at
        elif piece.kind is Kind.TERMINATOR:
            found.append((start, at, at + len(piece.text)))
        at += len(piece.text)
    return pieces_text(pieces), found


def _places_rendered(
    tokenizer: Any, template: ChatTemplate, turns: Turns
) -> tuple[str, list[tuple[int, int, int]]]:
    """Contents searched one behind the other; the control token that follows a response ends it."""
    text = tokenizer.apply_chat_template(_messages(turns), chat_template=template.text, tokenize=False)
    found, at = [], 0
    for turn in turns:
        said = turn.content if turn.content in text[at:] else turn.content.strip()
        start = text.index(said, at)
        at = end = start + len(said)
        rest = text[end:].lstrip()
        special = next((s for s in _specials(tokenizer) if rest.startswith(s)), "")
        stop = len(text) - len(rest) + len(special) if special else end
        if turn.role == "assistant":
            found.append((start, end, stop))
    return text, found


def _messages(turns: Turns) -> list[dict[str, str]]:
    return [{"role": t.role, "content": t.content} for t in turns]


def _specials(tokenizer: Any) -> list[str]:
    special = {t.content for t in tokenizer.added_tokens_decoder.values() if t.special} | set(
        tokenizer.all_special_tokens
    )
    return sorted(special, key=len, reverse=True)


def rendered(tokenizer: Any, template: ChatTemplate, turns: Turns) -> Sample | None:
    """`apply_chat_template` with the generation prompt as prefix; None where the template preserves no prefixes."""
    ids = _ids(tokenizer, template, turns)
    special = {tokenizer.convert_tokens_to_ids(s) for s in _specials(tokenizer)}
    spans = []
    for position, turn in enumerate(turns):
        if turn.role != "assistant":
            continue
        prompt = _ids(tokenizer, template, turns[:position], generation=True)
        upto = _ids(tokenizer, template, turns[: position + 1])
        if ids[: len(prompt)] != prompt or ids[: len(upto)] != upto:
            return None
        end = next((i for i in range(len(prompt), len(upto)) if ids[i] in special), len(upto))
        spans.append(Span(len(prompt), end, min(end + 1, len(upto))))
    return Sample(ids, spans)


def _ids(tokenizer: Any, template: ChatTemplate, turns: Turns, *, generation: bool = False) -> list[int]:
    found = tokenizer.apply_chat_template(
        _messages(turns),
        chat_template=template.text,
        tokenize=True,
        add_generation_prompt=generation,
        return_dict=False,
    )
    return list(found)
