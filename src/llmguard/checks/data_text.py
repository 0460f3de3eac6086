"""Characters that a wrong encoding, a wrong cut or a wrong escape has broken."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from llmguard.checks.data_tally import place, shortened, tallied
from llmguard.contract import row_check
from llmguard.findings import Finding, error, warning
from llmguard.rows import as_rows, texts_in
from llmguard.tally import Tally

__all__ = ["text_is_well_formed"]

REPLACED, BACKSPACE, FORM_FEED = "\ufffd", "\x08", "\x0c"
LOST_COMMAND = re.compile(r"[\x08\x0c](?=[a-z]{2,})")
SURROGATE = re.compile("[\ud800-\udfff]")
HIGH = re.compile(
    r"[\u0080-\u00ff\u0152\u0153\u0160\u0161\u0178\u017d\u017e\u0192\u02c6\u02dc\u2013-\u203a\u20ac\u2122]{2,}"
)
"""Runs of what the bytes of UTF-8 look like when they are read as Windows-1252."""
LIKELY = re.compile(
    r"[\u00a0-\u017f\u0370-\u052f\u0590-\u06ff\u0900-\u0dff\u0e00-\u0e7f\u2000-\u20cf\u2100-\u27bf\u3000-\u9fff\uac00-\ud7af\uff00-\uffef\U0001f000-\U0001faff\ufe0f\u200d]+"
)
"""What text is likely to have been before: accents, other scripts, typographic signs, emoji."""


class _Told(NamedTuple):
    """What a kind of damage is called, and what is said about it."""

    what: str
    why: str
    cause: str
    remedy: str


TOLD: dict[str, _Told] = {
    "NUL": _Told(
        what="a NUL character",
        why="tokenizers drop it, keep it, or end the text there, each in its own way",
        cause="binary data, UTF-16 read as another encoding, or fields of fixed width",
        remedy="remove it",
    ),
    "surrogate": _Told(
        what="half of a character (a lone surrogate)",
        why="the text cannot be written as UTF-8: tokenizing or saving the row raises UnicodeEncodeError",
        cause="text that was cut in the middle of an emoji, or JSON escapes split in two",
        remedy="cut text by characters, not by UTF-16 units; drop the half",
    ),
    "replacement": _Told(
        what="a replacement character (U+FFFD)",
        why="a character was lost here for good, and the model learns to write the sign",
        cause="bytes decoded with errors='replace'",
        remedy="read the source again with its true encoding, or drop these rows",
    ),
    "mojibake": _Told(
        what="text that was decoded with the wrong encoding",
        why="accents and signs are two or three wrong characters each, and the model learns to write them so",
        cause="UTF-8 read as Windows-1252 or Latin-1",
        remedy="decode the source as UTF-8 (text.encode('cp1252').decode('utf-8') mends it)",
    ),
    "command": _Told(
        what="a command that lost its backslash",
        why=r"\beta and \frac were read as a backspace and a form feed: the formula is broken",
        cause="LaTeX in a string whose backslashes were not doubled",
        remedy="write the source with raw strings, or double the backslashes",
    ),
}


@row_check
def text_is_well_formed(rows: Any) -> Tally:
    """Text holds no NUL, no lone surrogate, no U+FFFD, no mojibake such as `Ã©`, and no command that lost its backslash.

    Offsets count bytes of the field's UTF-8. Emoji, combining marks and every script are fine.
    """
    source = as_rows(rows)

    def look(record: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
        for name, _, text in texts_in(record, source.columns):
            for kind, start, stop, was in _broken(text):
                offset = len(text[:start].encode("utf-8", "surrogatepass"))
                shown = {"column": name, "byte": offset, "text": shortened(text, start, stop)}
                yield kind, {**shown, **({"likely": was} if was else {})}

    return tallied(source, look)


def _broken(text: str) -> Iterator[tuple[str, int, int, str]]:
    """(kind, start, stop, what it likely was) for the first of each kind."""
    if text.isascii():
        if "\0" in text:
            yield "NUL", text.index("\0"), text.index("\0") + 1, ""
    else:
        yield from _broken_characters(text)
    if BACKSPACE in text or FORM_FEED in text:
        lost = LOST_COMMAND.search(text)
        if lost:
            letter = "b" if lost[0] == BACKSPACE else "f"
            yield "command", lost.start(), lost.end(), f"\\{letter}{text[lost.end() : lost.end() + 8]}"


def _broken_characters(text: str) -> Iterator[tuple[str, int, int, str]]:
    for kind, character in (("NUL", "\0"), ("replacement", REPLACED)):
        at = text.find(character)
        if at >= 0:
            yield kind, at, at + 1, ""
    half = SURROGATE.search(text)
    if half:
        yield "surrogate", half.start(), half.end(), ""
    for run in HIGH.finditer(text):
        was = _decoded(run[0])
        if was:
            around = text[max(0, run.start() - 12) : run.start()], text[run.end() : run.end() + 12]
            yield "mojibake", run.start(), run.end(), f"{around[0]}{was}{around[1]}"
            return


def _decoded(run: str) -> str:
    """A run of Windows-1252 characters read as the UTF-8 that they are the bytes of; empty where they are none."""
    try:
        raw = b"".join(c.encode("latin-1") if ord(c) < 0xA0 else c.encode("cp1252") for c in run)
        was = raw.decode("utf-8")
    except UnicodeError:
        return ""
    return was if LIKELY.fullmatch(was) else ""


@text_is_well_formed.explain
def _(tally: Tally) -> Iterator[Finding]:
    for kind, hits in tally.hits.items():
        told = TOLD[kind]
        first = hits.examples[0]
        likely = f", likely {first['likely']!r}" if "likely" in first else ""
        yield (error if kind in ("NUL", "surrogate") else warning)(
            place(first),
            what=f"{tally.rate(kind)} hold {told.what}: {first['column']}, byte {first['byte']:,}: {first['text']!r}{likely}",
            why=told.why,
            cause=told.cause,
            remedy=told.remedy,
            evidence={"rows": list(hits.examples)},
        )
