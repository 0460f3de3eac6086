"""Texts to hashes of their words and of every five words in a row: bytes to numbers in NumPy, no Python loop over words.

A word is a run of letters, digits and bytes above ASCII; case does not count. The hash of a word is a polynomial in the odd base `BASE`
modulo 2^64, taken from one cumulative sum over the bytes of a block (the sum at its end minus the sum before it, divided by the power of
its place: odd numbers have inverses). Runs of words are hashed the same way over the words.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from llmguard.ragged import Ints

__all__ = ["BLOCK", "GRAM", "Hashed", "blocks", "hashed", "plain", "words_of"]

GRAM = 5
"""Words of a gram."""
BLOCK = 1 << 19
"""Characters of a block: its arrays stay in the processor's cache."""
CONTENT = 3
"""Words of a gram that are no numbers, for it to say something."""
BASE, STEP = 0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F
Hashes = NDArray[np.uint64]
Flags = NDArray[np.bool_]

NO_SPACES = re.compile(
    "([\u0e00-\u0e7f\u0e80-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff])"
)
"""Characters of scripts that are written without spaces: each counts as a word."""
TYPOGRAPHY = tuple((sign, " ") for sign in "\u2019\u2018\u201c\u201d\u2013\u2014\u2026\u2022\u00a0\ufeff")
"""Signs that ordinary English text has beside ASCII: looked for first, because that is fast."""
NO_WORD = re.compile(r"[\W_]+")


def plain(text: str) -> str:
    """The text so that case, width, composition and typographic signs do not count; ASCII is left to the byte table."""
    if text.isascii():
        return text
    for sign, ascii_sign in TYPOGRAPHY:
        text = text.replace(sign, ascii_sign)
    if text.isascii():
        return text
    spaced = NO_SPACES.sub(r" \1 ", unicodedata.normalize("NFKC", text).casefold())
    return NO_WORD.sub(" ", spaced)


def words_of(text: str) -> list[str]:
    """The words of a text, as they are hashed."""
    even = plain(text)
    return (even.translate(_TO_WORDS) if even.isascii() else NO_WORD.sub(" ", even)).split()


@dataclass(frozen=True)
class Hashed:
    """Some texts as hashes.

    `words`: uint64 [words]; `text`: int64 [words], the text that each lies in; `first`: int64 [texts + 1], where each text's words start;
    `content`: bool [words], whether it is more than a number; `whole`: uint64 [texts], hash of all words of a text, 0 where it has none.
    """

    words: Hashes
    text: Ints
    first: Ints
    content: Flags
    whole: Hashes

    @property
    def grams(self) -> tuple[Hashes, Ints]:
        """The hash of every GRAM words in a row that lie in one text, and the position of the first of them."""
        count = len(self.words) - GRAM + 1
        if count <= 0:
            return np.zeros(0, np.uint64), np.zeros(0, np.int64)
        found = self.words[:count].copy()
        for k in range(1, GRAM):
            found *= np.uint64(STEP)
            found += self.words[k : k + count]
        at = np.flatnonzero(self.text[:count] == self.text[GRAM - 1 :])
        return _mixed(found[at]), at

    @property
    def telling(self) -> Flags:
        """Whether the gram that starts at each word has at least CONTENT words that are no numbers: bool [words]."""
        summed = np.concatenate(
            ([0], np.cumsum(self.content, dtype=np.int64), np.full(GRAM, self.content.sum()))
        )
        return summed[GRAM : GRAM + len(self.words)] - summed[: len(self.words)] >= CONTENT


def blocks(texts: Sequence[str], size: int = BLOCK) -> Iterator[tuple[int, int]]:
    """Stretches of texts of about `size` characters: (first, last + 1)."""
    start, held = 0, 0
    for i, text in enumerate(texts):
        held += len(text) + 1
        if held >= size:
            yield start, i + 1
            start, held = i + 1, 0
    if start < len(texts):
        yield start, len(texts)


def hashed(texts: Sequence[str]) -> Hashed:
    """Hash some texts (about a block of them)."""
    raw, ends = _joined([plain(t) for t in texts])
    letters = _VALUE.take(raw.astype(np.intp))
    powers, inverses = _powers(len(raw) + 1)
    letters *= powers[: len(raw)]
    sums = np.zeros(len(raw) + 1, np.uint64)
    np.cumsum(letters, out=sums[1:])
    inside = np.frombuffer(b"\0" + raw.tobytes().translate(_IN_WORD), np.bool_)
    edges = np.flatnonzero(inside[1:] != inside[:-1])
    starts, stops = edges[::2], edges[1::2]
    words = _mixed((sums.take(stops) - sums.take(starts)) * inverses.take(starts))
    first = np.concatenate(([0], np.searchsorted(starts, ends)))
    text = np.repeat(np.arange(len(texts), dtype=np.int64), np.diff(first))
    return Hashed(words, text, first, ~_DIGIT.take(raw.take(starts)), _wholes(words, first))


def _joined(texts: Sequence[str]) -> tuple[NDArray[np.uint8], Ints]:
    """The bytes of all texts with a NUL after each, and where those NULs are."""
    joined = "\0".join([*texts, ""])
    if joined.isascii():
        ends = np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)) + 1) - 1
        return np.frombuffer(joined.encode("ascii"), np.uint8), ends
    if joined.count("\0") != len(texts):
        joined = "\0".join([*(t.replace("\0", " ") for t in texts), ""])
    raw = np.frombuffer(joined.encode("utf-8"), np.uint8)
    return raw, np.flatnonzero(raw == 0)


def _wholes(words: Hashes, first: Ints) -> Hashes:
    powers, inverses = _powers(len(words) + 1)
    sums = np.zeros(len(words) + 1, np.uint64)
    np.cumsum(words * powers[: len(words)], out=sums[1:])
    return _mixed((sums[first[1:]] - sums[first[:-1]]) * inverses[first[:-1]])


def _mixed(values: Hashes) -> Hashes:
    """Spread what differs over all bits; 0 stays 0."""
    values ^= values >> np.uint64(32)
    values *= np.uint64(STEP)
    values ^= values >> np.uint64(29)
    return values


@lru_cache(maxsize=4)
def _table_of_powers(size: int) -> tuple[Hashes, Hashes]:
    inverse = pow(BASE, -1, 1 << 64)
    return tuple(
        np.concatenate(([np.uint64(1)], np.full(size - 1, each, np.uint64))).cumprod()
        for each in (BASE, inverse)
    )  # type: ignore[return-value]  # two of them


def _powers(size: int) -> tuple[Hashes, Hashes]:
    return _table_of_powers(1 << max(16, (size - 1).bit_length()))


def _tables() -> tuple[Hashes, bytes, Flags]:
    """For every byte: its value (0 outside of words, the same for both cases), whether it is in words, whether it is a digit."""
    values = np.random.default_rng(5).integers(1, 2**63, 256, dtype=np.uint64) | np.uint64(1)
    values[ord("A") : ord("Z") + 1] = values[ord("a") : ord("z") + 1]
    word = [b >= 128 or chr(b).isalnum() for b in range(256)]
    values[~np.array(word)] = 0
    return values, bytes(word), np.array([chr(b).isdigit() and b < 128 for b in range(256)])


_VALUE, _IN_WORD, _DIGIT = _tables()
_TO_WORDS = {b: chr(b).lower() if chr(b).isalnum() else " " for b in range(128)}
