"""Text to token ids, segment by segment: prompts and responses apart, each in the context of what stands before it."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from itertools import groupby, islice
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from llmguard.formats import Kind, Piece

__all__ = ["Ids", "Segment", "SegmentTokenizer", "merged", "segment_tokenizer", "segments_of"]

Ids = list[int]
TRAINED = (Kind.SEAM, Kind.RESPONSE, Kind.TERMINATOR)
"""What is trained. SEAM is what a template writes behind the generation prompt (an empty thinking block): the model has to write it."""
CONTEXT = 32
"""Characters that a segment is tokenised behind: more than any control token has, so that its first token is the natural one."""


class Segment(NamedTuple):
    """A stretch of a row's text that is masked or trained as a whole."""

    text: str
    trained: bool


def segments_of(pieces: Iterable[Piece]) -> list[Segment]:
    """The pieces of a rendered row as segments."""
    return merged(Segment(piece.text, piece.kind in TRAINED) for piece in pieces)


def merged(segments: Iterable[Segment]) -> list[Segment]:
    """Neighbours that are alike as one."""
    return [
        Segment("".join(s.text for s in group), trained)
        for trained, group in groupby(segments, lambda s: s.trained)
    ]


def segment_tokenizer(tokenizer: Any) -> SegmentTokenizer:
    """The one of a tokenizer, made once for each (it copies the vocabulary), and again when tokens were added."""
    found = _made.get(tokenizer)
    if found is None or found.size != len(tokenizer):
        found = _made[tokenizer] = SegmentTokenizer(tokenizer)
    return found


class SegmentTokenizer:
    """Tokenises rows of segments in batches, special tokens of the tokenizer's own left out."""

    def __init__(self, tokenizer: Any) -> None:
        from tokenizers.processors import ByteLevel

        self.size = len(tokenizer)
        self.backend = copy.deepcopy(tokenizer.backend_tokenizer)
        self.backend.no_truncation()  # earlier calls of the tokenizer may have left both switched on
        self.backend.no_padding()
        self.backend.post_processor = ByteLevel(trim_offsets=False)  # offsets have to keep their spaces
        self._swallowing = {i for i, t in tokenizer.added_tokens_decoder.items() if t.rstrip}
        # SentencePiece's ways put a space before every text that is encoded alone; behind a line break they do not
        self._anchor = "\n" if self._alone("a") != self._alone("\na")[-1:] else ""

    def _alone(self, text: str) -> Ids:
        return list(self.backend.encode(text, add_special_tokens=False).ids)

    def starts(self, text: str) -> list[int]:
        """The character that each token of a text starts at."""
        return [start for start, _ in self.backend.encode(text, add_special_tokens=False).offsets]

    def ids(self, rows: Iterable[Sequence[Segment]]) -> list[list[Ids]]:
        """The ids of every segment of every row.

        All are encoded in one batch; a segment whose first token would hold the end of the one before it, too, once more without it.
        """
        lengths, units = [], []
        for segments in rows:
            lengths.append(len(segments))
            before = ""
            for segment in segments:
                units.append((before, segment.text))
                before = (before + segment.text)[-CONTEXT:]
        found = self._behind(units)
        for context in (self._anchor, ""):
            torn = [i for i, ids in enumerate(found) if ids is None]
            for i, ids in zip(torn, self._behind([(context, units[i][1]) for i in torn]), strict=True):
                found[i] = ids
        flat = iter(found)
        return [[ids or [] for ids in islice(flat, length)] for length in lengths]

    def _behind(self, units: Sequence[tuple[str, str]]) -> list[Ids | None]:
        """The ids of each text behind its context; None where a token holds the end of the one and the start of the other."""
        texts = [before + text for before, text in units]
        encodings = self.backend.encode_batch(texts, add_special_tokens=False) if texts else []
        return [
            self._cut(encoding, len(before), text) if before else encoding.ids
            for encoding, (before, _), text in zip(encodings, units, texts, strict=True)
        ]

    def _cut(self, encoding: Any, seam: int, text: str) -> Ids | None:
        tokens = (encoding.char_to_token(at) for at in range(seam, len(text)))
        first = next((token for token in tokens if token is not None), None)
        ids: Ids = encoding.ids
        if first is None:  # nothing of it reaches the ids
            return []
        start, end = encoding.token_to_chars(first)
        if start >= seam:
            return ids[first:]
        swallowed = ids[first] in self._swallowing and not text[seam:end].strip()
        return ids[first + 1 :] if swallowed else None


_made: WeakKeyDictionary[Any, SegmentTokenizer] = WeakKeyDictionary()
