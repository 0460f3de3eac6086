"""Two texts word by word: the longest shared run, what they have in common in order, and equality that minds operators."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple

from llmguard.overlap.hashing import GRAM, plain, words_of

__all__ = ["Run", "Words", "in_common", "longest_run", "same_but_for_writing"]

OPERATORS = re.compile(r"[^\W_]+|[-+*/^=<>%]")
WORD = re.compile(r"[^\W_]+")


class Words:
    """A text as the words that are compared, with the stretch of text that each stands for where that is known."""

    def __init__(self, text: str) -> None:
        self.text, self.words = text, words_of(text)

    def __len__(self) -> int:
        return len(self.words)

    def written(self, start: int, stop: int) -> str:
        """Words `start` to `stop` as they are written."""
        even = plain(self.text)
        if len(even) != len(self.text):
            return " ".join(self.words[start:stop])
        spans = [m.span() for m in islice(WORD.finditer(even), stop)]
        return self.text[spans[start][0] : spans[stop - 1][1]] if start < stop <= len(spans) else ""


class Run(NamedTuple):
    """A shared run: the word it starts at in both texts, and how many words it has."""

    first: int
    second: int
    words: int


def longest_run(first: Sequence[str], second: Sequence[str]) -> Run:
    """The longest run of at least GRAM words that both have."""
    mine, theirs = _grams(first), _grams(second)
    common = set(mine).intersection(theirs)
    places: dict[tuple[str, ...], list[int]] = {}
    for j, gram in enumerate(theirs):
        if gram in common:
            places.setdefault(gram, []).append(j)
    best, before = Run(0, 0, 0), dict[int, int]()
    for i, gram in enumerate(mine):
        now = {j: before.get(j - 1, GRAM - 1) + 1 for j in places[gram]} if gram in common else {}
        for j, words in now.items():
            if words > best.words:
                best = Run(i - words + GRAM, j - words + GRAM, words)
        before = now
    return best


def _grams(words: Sequence[str]) -> list[tuple[str, ...]]:
    return list(zip(*(words[k:] for k in range(GRAM)), strict=False))


def in_common(first: Sequence[str], second: Sequence[str]) -> int:
    """How many words both have in the same order: the longest common subsequence, by bit-parallel dynamic programming.

    Crochemore, Iliopoulos, Pinzon, Reid: "A fast and practical bit-vector algorithm for the longest common subsequence
    problem", Information Processing Letters 80 (2001).
    """
    masks: dict[str, int] = {}
    for i, word in enumerate(first):
        masks[word] = masks.get(word, 0) | 1 << i
    full = (1 << len(first)) - 1
    state = full
    for word in second:
        held = state & masks.get(word, 0)
        state = ((state + held) | (state - held)) & full
    return len(first) - bin(state).count("1")


def same_but_for_writing(first: str, second: str) -> bool:
    """Whether texts of the same words also have the same operators beside numbers: `12 - 7` is not `12 + 7`."""
    return first == second or _with_operators(first) == _with_operators(second)


def _with_operators(text: str) -> list[str]:
    tokens = OPERATORS.findall(text.casefold())
    beside = [False, *(t[0].isdigit() or (len(t) == 1 and t.isalpha()) for t in tokens), False]
    return [t for i, t in enumerate(tokens) if t[0].isalnum() or beside[i] or beside[i + 2]]
