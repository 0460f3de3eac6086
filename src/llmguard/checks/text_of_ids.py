"""Ids and text: ids hold the text of their row, and the tokenizer gives it back."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator
from typing import Any

import numpy as np

from llmguard.alignment import Alignment, Status, align
from llmguard.checks.spaces import other_spaces
from llmguard.checks.tokens_of_rows import evidence_of, first_where, masks_tally, names_of, row_hits
from llmguard.contract import Yields, check, row_check
from llmguard.encoded import Encoded, as_encoded
from llmguard.findings import Finding, error, note, warning
from llmguard.rows import Rows, as_rows
from llmguard.tally import Tally
from llmguard.vocabulary import METASPACE, squeeze, vocabulary_of

__all__ = [
    "ids_match_their_text",
    "tokenizer_is_lossless",
]


SURROGATE = re.compile("[\ud800-\udfff]")
LONG = 12
"""Bytes from which on a response that stands twice in a row does so by no chance."""
LIVE = ("train", "validation", "collate")
"""Rows that the project's `encode` made in this session: they cannot be out of date."""


@row_check
def ids_match_their_text(encoded: Any, rows: Any, tokenizer: Any, template: Any = None) -> Tally:
    """The ids of every row hold the text of its source row: every prompt and every response (truncation allowed for).

    Also no two rows have the same ids under different responses. Compares bytes, not tokens: how prompt and response were
    tokenised does not matter here. If most rows lack their prompt (a builder that rewrites it), only responses are judged; if
    most rows that `encode` has just made lack their response, it rewrites that too, which is a warning. Spaces are compared in
    a sample of the responses: more than one in twenty that has other ones is a warning.
    """
    found, source = as_encoded(encoded), as_rows(rows)
    alignment = align(found, source, tokenizer, template)
    known = alignment.status != Status.NO_TURNS
    stale = alignment.status == Status.UNMATCHED
    cut = np.isin(alignment.status, (Status.CUT_LEFT, Status.CUT_RIGHT))
    prompts = (
        np.fromiter((bool(lost) for lost in alignment.lost), dtype=bool, count=len(found)) & ~stale & ~cut
    )
    if prompts.sum() * 2 > max(int(known.sum()), 1):
        prompts[:] = False
    longer = alignment.runs_on & (alignment.runs_on.sum() * 2 <= known.sum())
    rewritten = bool(stale.sum() * 2 > known.sum()) and found.name in LIVE
    bad = {"rewritten" if rewritten else "response": stale, "prompt": prompts, "longer": longer}
    return masks_tally(
        found,
        int(known.sum()),
        **{kind: row_hits(found, source, rows_of, alignment) for kind, rows_of in bad.items()},
        same=row_hits(found, source, _same_ids(found, source), alignment),
        twice=row_hits(found, source, _twice(found, source, alignment), alignment),
        spaces=row_hits(found, source, other_spaces(found, source, tokenizer, alignment), alignment),
    )


def _twice(encoded: Encoded, rows: Rows, alignment: Alignment) -> Any:
    """Rows that hold their last response again behind it: bool [rows]."""
    bad = np.zeros(len(encoded), dtype=bool)
    in_bytes = alignment.vocabulary.text_as_bytes
    for row in np.flatnonzero(alignment.runs_on).tolist():
        contents = [in_bytes(t.content.strip()) for t in rows.turns[int(encoded.source[row])] or ()]
        last = contents[-1] if contents else b""
        there = alignment.vocabulary.bytes_of(encoded.input_ids[row]).count(last) if len(last) >= LONG else 0
        bad[row] = there > sum(c.count(last) for c in contents)
    return bad


def _same_ids(encoded: Encoded, rows: Rows) -> Any:
    """Rows whose ids another row has too, while their texts differ: bool [rows]."""
    seen: dict[bytes, tuple[int, str]] = {}
    bad = np.zeros(len(encoded), dtype=bool)
    for row in np.flatnonzero(encoded.input_ids.repeated).tolist():
        ids, source = encoded.input_ids[row], int(encoded.source[row])
        turns = rows.turns[source] if 0 <= source < len(rows) else None
        if not turns or not len(ids):
            continue
        text = "\x00".join(t.content.strip() for t in turns)
        first = seen.setdefault(ids.tobytes(), (row, text))
        bad[row] = first[1] != text
    return bad & _not_nested(encoded)


def _not_nested(encoded: Encoded) -> Any:
    """Short rows repeat legitimately once they are cut; rows of at least 16 tokens do not."""
    return encoded.input_ids.lengths >= 16


@ids_match_their_text.explain
def _stale(tally: Tally) -> Iterator[Finding]:
    for kind, what in (
        ("response", "do not hold the response of their row"),
        ("prompt", "do not hold the prompt of their row"),
        ("longer", "hold more than the response of their row"),
    ):
        found = tally[kind]
        if found.rows:
            yield error(
                first_where(found),
                what=f"{tally.rate(kind)} have ids that {what} ({names_of(found)})",
                why="the model trains on text that is no longer in the data: edits, corrections and poisonings have no effect",
                cause=(
                    "text was edited or copied after it was tokenised, or a cache was made by another tokenizer, "
                    "template or version of the data"
                ),
                remedy=(
                    "tokenise again from the text (delete the prepared folder and the datasets cache); "
                    "never change a text column without its ids"
                ),
                expected="ids that decode to the row's text",
                actual="other text",
                evidence=evidence_of(found),
            )
    if tally["rewritten"].rows:
        yield warning(
            first_where(tally["rewritten"]),
            what=f"{tally.rate('rewritten')} that encode returns do not hold the response of their row",
            why="what is trained is not what the data say, and labels of these rows cannot be told right from wrong",
            cause="encode reads other columns than the project file names, or rewrites the text (strips markup, normalises)",
            remedy="name the columns that encode reads in `[data]`; rewrite the data once, before the split is written",
            evidence=evidence_of(tally["rewritten"]),
        )
    if tally["twice"].rows:
        yield error(
            first_where(tally["twice"]),
            what=f"{tally.rate('twice')} hold their last response twice ({names_of(tally['twice'])})",
            why="the model learns to repeat itself: to copy an answer that it has just given, or to give it again",
            cause="the answer was appended to a text that held it already (a column `text`, a rendered conversation)",
            remedy="encode the prompt without its answer, and the answer once",
            evidence=evidence_of(tally["twice"]),
        )
    if tally["spaces"].rows:
        yield warning(
            first_where(tally["spaces"]),
            what=f"{tally['spaces'].rows:,} of the responses looked at have other spaces than the text ({names_of(tally['spaces'])})",
            why="indentation, tables and the gaps between words are trained otherwise than they stand in the data",
            cause="encode collapses runs of spaces (re.sub, split and join), or the text was decoded and encoded again",
            remedy="tokenise the text as it stands in the data",
            evidence=evidence_of(tally["spaces"]),
        )
    if tally["same"].rows and not tally["response"].rows:
        yield error(
            first_where(tally["same"]),
            what=f"{tally.rate('same')} share their ids with a row of other text",
            why="variants were copied with the ids of the original: all of them train the same words",
            cause="a row was copied and only its text replaced",
            remedy="tokenise every variant from its own text",
            evidence=evidence_of(tally["same"]),
        )


@check
def tokenizer_is_lossless(rows: Any, tokenizer: Any) -> Yields:
    """Encoding and decoding gives the text of the data back: nothing is dropped, rewritten or becomes unknown.

    White space is not judged here. Unicode has several spellings of one character: a normaliser that chooses one (NFC) loses
    nothing; one that makes compatible characters alike (NFKC: `²` to `2`) is a note. Texts that are no Unicode are not judged.
    """
    source, vocabulary = as_rows(rows), vocabulary_of(tokenizer)
    turns = [(r, t.content) for r in range(min(len(source), 500)) for t in source.turns[r] or ()]
    chosen = [(r, text) for r, text in turns if not SURROGATE.search(text)]
    encoded = tokenizer([text for _, text in chosen], add_special_tokens=False)["input_ids"] if chosen else []
    lost: list[tuple[int, str, str]] = []
    alike: list[tuple[int, str, str]] = []
    for (row, text), ids in zip(chosen, encoded, strict=True):
        back = vocabulary.bytes_of(ids)
        if back != squeeze(text) and (told := _difference(text, back, vocabulary.metaspace)):
            (alike if told[0] else lost).append((row, text, told[1]))
    if lost:
        row, text, what = lost[0]
        yield (warning if len(lost) * 50 > len(chosen) else note)(
            source.where(row),
            what=f"{len(lost):,} of {len(chosen):,} texts do not come back from their ids ({what} in {text[:60]!r} …)",
            why="what the tokenizer loses cannot be learnt, and cannot be written",
            cause="a vocabulary without byte fallback, or a normaliser that drops characters, accents or capitals",
            remedy="look at the characters; replace them in the data or use a tokenizer that keeps them",
            evidence={"rows": [r for r, *_ in lost[:5]]},
        )
    if alike:
        row, text, what = alike[0]
        yield note(
            source.where(row),
            what=f"{len(alike):,} of {len(chosen):,} texts come back in compatible characters ({what} in {text[:60]!r} …)",
            why="the model never sees the difference between them, such as that of x² and x2",
            evidence={"rows": [r for r, *_ in alike[:5]]},
        )
    return len(chosen)


def _difference(text: str, back: bytes, metaspace: bool) -> tuple[bool, str] | None:
    """Whether two texts are compatible and where they first differ; None where they are the same to Unicode, white space aside."""
    texts = text.replace(METASPACE, " ") if metaspace else text, back.decode("utf-8", "replace")
    some, other = (_bare(unicodedata.normalize("NFC", t)) for t in texts)
    if some == other:
        return None
    at = len(os.path.commonprefix([some, other]))  # noqa: RUF071  # texts, not paths
    told = f"{some[at : at + 8]!r} becomes {other[at : at + 8]!r}"
    some, other = (_bare(unicodedata.normalize("NFKC", t)) for t in texts)
    return some == other, told


def _bare(text: str) -> str:
    return "".join(text.split())
