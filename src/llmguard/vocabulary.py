"""Token ids to bytes by a table, for whole data sets at once.

Text is compared with its white space (U+0020) left out, on both sides: SentencePiece vocabularies write a space before a word
and insert one after special tokens, byte-level ones glue it to the word, so that spaces say nothing about where a token
belongs. Everything else is compared byte for byte. What a tokenizer loses (spaces included) is a check of its own.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from llmguard.control import CONTROL, SPLIT_CANDIDATES
from llmguard.ragged import Ints

__all__ = ["Bytes", "Vocabulary", "squeeze", "vocabulary_of"]

Bytes = NDArray[np.uint8]
SPACE, METASPACE = b" ", "▁"
WORD = 8
"""Bytes that are compared at once."""


def squeeze(text: str) -> bytes:
    """Text as compared: UTF-8 without U+0020; lone surrogates survive as they are."""
    return text.encode("utf-8", "surrogatepass").replace(SPACE, b"")


def _byte_of_character() -> dict[str, int]:
    """GPT-2's printable stand-ins for bytes, inverted (openai/gpt-2, encoder.py `bytes_to_unicode`)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in plain]
    return {**{chr(b): b for b in plain}, **{chr(256 + i): b for i, b in enumerate(others)}}


BYTE_LEVEL = _byte_of_character()


@dataclass(frozen=True)
class Vocabulary:
    """The bytes of every id.

    `table`: uint8, all tokens' bytes one after the other; `starts`, `lengths`: int64 [ids]. `special`: bool [ids], control
    tokens; `added`: bool [ids], every added token. `normalizer`: what the tokenizer does to text before it looks tokens up.
    `swallows_after`, `swallows_before`: added tokens that take the white space behind or before them (`rstrip`, `lstrip`).
    `control`: the control texts of any model family that are one id here, with that id. `tokens`: every token as written.
    """

    table: Bytes
    starts: Ints
    lengths: Ints
    special: NDArray[np.bool_]
    added: NDArray[np.bool_]
    normalizer: Any = None
    metaspace: bool = False
    swallows_after: tuple[str, ...] = ()
    swallows_before: tuple[str, ...] = ()
    control: Mapping[str, int] = field(default_factory=dict)
    tokens: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.lengths)

    def spans(self, ids: Ints) -> tuple[Bytes, Ints]:
        """The bytes of all tokens in order, and the end of each token in them: uint8 [bytes], int64 [tokens].

        Ids outside of the vocabulary are zero bytes long.
        """
        known = (ids >= 0) & (ids < len(self))
        safe = np.where(known, ids, 0)
        lengths = np.where(known, self.lengths[safe], 0)
        ends = np.cumsum(lengths)
        total = int(ends[-1]) if len(ends) else 0
        if not total:
            return np.zeros(0, dtype=np.uint8), ends
        index = np.arange(total, dtype=np.int64) + np.repeat(self.starts[safe] - (ends - lengths), lengths)
        return self.table[index], ends

    def lengths_of(self, ids: Ints) -> Ints:
        """How many bytes each id holds: int64 [tokens]; ids outside of the vocabulary hold none."""
        known = (ids >= 0) & (ids < len(self))
        return np.where(known, self.lengths[np.where(known, ids, 0)], 0)

    @cached_property
    def sizes(self) -> NDArray[np.int32]:
        """`lengths` with a zero behind it, for what is no id: int32 [ids + 1]."""
        return np.append(self.lengths, 0).astype(np.int32)

    @cached_property
    def _words(self) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint64]]:
        """The table as words from every place; the first word of each id; the part of a word that so many bytes are."""
        windows = words_in(self.table.tobytes())
        first = np.append(windows.take(self.starts, mode="clip"), np.uint64(0))
        masks = np.full(int(self.sizes.max(initial=0)) + WORD + 1, np.iinfo(np.uint64).max, dtype=np.uint64)
        masks[:WORD] = (np.uint64(1) << (np.arange(WORD, dtype=np.uint64) * np.uint64(8))) - np.uint64(1)
        return windows, first, masks

    def differing(self, ids: Ints, starts: Ints, text: bytes) -> Ints:
        """The places of tokens whose bytes are not those of `text` from `starts` on: int64, unsorted.

        ids: int64 [tokens], each 0 to `len(self)`, the last of which is no id and has no bytes. starts: int64 [tokens].
        """
        table, first, masks = self._words
        windows, sizes = words_in(text), self.sizes.take(ids)
        wrong: Ints = np.flatnonzero((windows.take(starts) ^ first.take(ids)) & masks.take(sizes))
        long = np.flatnonzero(sizes > WORD)
        for at in range(WORD, int(sizes.max(initial=0)), WORD):
            long = long[sizes[long] > at]
            there = table[self.starts[ids[long]] + at]
            other = (windows.take(starts[long] + at) ^ there) & masks.take(sizes[long] - at)
            wrong = np.concatenate((wrong, long[other != 0]))
        return wrong

    def bytes_of(self, ids: Ints) -> bytes:
        """The bytes of a few ids."""
        return self.spans(np.asarray(ids, dtype=np.int64))[0].tobytes()

    def holding(self, parts: Iterable[bytes]) -> Ints:
        """The ids whose bytes hold one of some single bytes: int64, ascending."""
        places = np.flatnonzero(np.isin(self.table, np.frombuffer(b"".join(parts), dtype=np.uint8)))
        owners = np.repeat(np.arange(len(self), dtype=np.int64), self.lengths)
        return np.unique(owners[places])

    def squeezed(self, token: str) -> bytes:
        """A control token's text as compared."""
        return squeeze(token.replace(METASPACE, " ") if self.metaspace else token)

    def text_as_bytes(self, text: str) -> bytes:
        """Text as its ids would give it back: normalised as the tokenizer does, without spaces."""
        if self.normalizer is not None:
            try:
                text = self.normalizer.normalize_str(text)
            except (TypeError, ValueError, UnicodeError):
                return squeeze(text)
        return squeeze(text.replace(METASPACE, " ") if self.metaspace else text)

    @cached_property
    def normal(self) -> str | None:
        """What normalising does to text, spaces aside: '' nothing, 'NFC' that; None where it is something else."""
        if self.normalizer is None:
            return ""
        kinds = {*_kinds_of(json.loads(self.normalizer.__getstate__()))} - (
            {"spaces"} if self.metaspace else set()
        )
        return None if kinds - {"NFC"} else "".join(kinds)

    def texts_as_bytes(self, texts: Sequence[str]) -> list[bytes]:
        """`text_as_bytes` of many texts, in one go where that is the same."""
        each = ((self._at_once([t]) or [self.text_as_bytes(t)])[0] for t in texts)
        return self._at_once(texts) or list(each)

    def _at_once(self, texts: Sequence[str]) -> list[bytes] | None:
        """None where a text has to be normalised, is no Unicode, or holds the character that parts them here."""
        joined = "\0".join(texts)
        plain = joined.isascii()
        if self.normal is None or not (
            plain or self.normal == "" or unicodedata.is_normalized("NFC", joined)
        ):
            return None
        if self.metaspace and not plain:
            joined = joined.replace(METASPACE, " ")
        try:
            found = joined.encode().translate(None, SPACE).split(b"\0")
        except UnicodeEncodeError:
            return None
        return found if len(found) == len(texts) else None

    def shown(self, token: int) -> str:
        """A token as a person reads it, its spaces included."""
        if not 0 <= token < len(self.tokens):
            return "\ufffd"
        written = self.tokens[token]
        if self.added[token] or self.metaspace:
            return (
                written.replace(METASPACE, " ")
                if not written.startswith("<0x")
                else self.bytes_of(np.array([token])).decode("utf-8", "replace")
            )
        try:
            return bytes([BYTE_LEVEL[c] for c in written]).decode("utf-8", "replace")
        except KeyError:
            return written

    def swallow(self, texts: list[str]) -> list[str]:
        """The texts of neighbouring pieces without the white space that added tokens swallow."""
        if self.swallows_after:
            before = ""
            for i, text in enumerate(texts):
                texts[i] = text.lstrip() if before.rstrip().endswith(self.swallows_after) else text
                before += texts[i]
        return [self._swallow_within(text) for text in texts]

    def _swallow_within(self, text: str) -> str:
        for token in self.swallows_after:
            text = re.sub(re.escape(token) + r"\s+", token.replace("\\", r"\\"), text)
        for token in self.swallows_before:
            text = re.sub(r"\s+" + re.escape(token), token.replace("\\", r"\\"), text)
        return text

    @cached_property
    def blank(self) -> NDArray[np.bool_]:
        """Whether a token is white space alone: bool [ids]."""
        dark = np.isin(self.table, np.frombuffer(b"\t\n\r\x0b\x0c", dtype=np.uint8), invert=True)
        counted = np.concatenate(([0], np.cumsum(dark)))
        return np.asarray(counted[self.starts + self.lengths] == counted[self.starts])


def words_in(text: bytes) -> NDArray[np.uint64]:
    """The eight bytes from every place of a text on, zeros behind its end: uint64 [bytes + 8]."""
    padded = text + bytes(2 * WORD)
    overlapping: NDArray[np.uint64] = np.ndarray(
        (len(text) + WORD,), dtype="<u8", buffer=padded, strides=(1,)
    )
    return np.array(overlapping)


def _kinds_of(normalizer: Any) -> Iterator[str]:
    """The parts of a normalizer by name; `spaces` for those that only write spaces otherwise."""
    if normalizer["type"] == "Sequence":
        for part in normalizer["normalizers"]:
            yield from _kinds_of(part)
    else:
        written = normalizer.get("content", normalizer.get("prepend"))
        same = (normalizer.get("pattern", {"String": " "}), written) == ({"String": " "}, METASPACE)
        yield "spaces" if same else normalizer["type"]


_known: WeakKeyDictionary[Any, Vocabulary] = WeakKeyDictionary()


def vocabulary_of(tokenizer: Any) -> Vocabulary:
    """The vocabulary of a transformers tokenizer; built once for each tokenizer object (about 0.2 s for 150,000 tokens)."""
    found = _known.get(tokenizer)
    if found is None or len(found) < len(tokenizer):
        found = _known[tokenizer] = _build(tokenizer)
    return found


def _build(tokenizer: Any) -> Vocabulary:
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    size = max(vocabulary.values(), default=-1) + 1
    backend = getattr(tokenizer, "backend_tokenizer", None)
    decoder = (
        str(json.loads(backend.decoder.__getstate__()))
        if backend is not None and backend.decoder is not None
        else ""
    )
    metaspace = "ByteLevel" not in decoder
    to_bytes = _from_wordpiece if "WordPiece" in decoder else _from_pieces if metaspace else _from_byte_level
    pieces: list[bytes] = [b""] * size
    for token, index in vocabulary.items():
        pieces[index] = to_bytes(token)
    added, special = np.zeros(size, dtype=bool), np.zeros(size, dtype=bool)
    for index, token in tokenizer.added_tokens_decoder.items():
        content = token.content.replace(METASPACE, " ") if metaspace else token.content
        pieces[index], added[index] = squeeze(content), True
        special[index] = token.special
    special[[i for i in tokenizer.all_special_ids if 0 <= i < size]] = True
    lengths = np.fromiter(map(len, pieces), dtype=np.int64, count=size)
    starts = np.concatenate(([0], np.cumsum(lengths)[:-1])) if size else lengths
    table = np.frombuffer(b"".join(pieces), dtype=np.uint8)
    normalizer = backend.normalizer if backend is not None else None
    after = tuple(t.content for t in tokenizer.added_tokens_decoder.values() if t.rstrip)
    before = tuple(t.content for t in tokenizer.added_tokens_decoder.values() if t.lstrip)
    control = {t: vocabulary[t] for t in (*CONTROL, *SPLIT_CANDIDATES) if t in vocabulary}
    tokens = [""] * size
    for token, index in vocabulary.items():
        tokens[index] = token
    return Vocabulary(
        table, starts, lengths, special, added, normalizer, metaspace, after, before, control, tokens
    )


def _from_wordpiece(token: str) -> bytes:
    return squeeze(token.removeprefix("##"))


def _from_byte_level(token: str) -> bytes:
    try:
        return bytes([BYTE_LEVEL[c] for c in token]).replace(SPACE, b"")
    except KeyError:  # a token that byte-level vocabularies do not write, such as an added one
        return squeeze(token)


def _from_pieces(token: str) -> bytes:
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        try:
            return bytes([int(token[3:5], 16)]).replace(SPACE, b"")
        except ValueError:
            return squeeze(token)
    return squeeze(token.replace(METASPACE, " "))
