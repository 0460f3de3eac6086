"""What the fields of rows hold: text and nothing else, no word for nothing, a response, and not the same row again and again."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from llmguard.checks.data_tally import place, tallied
from llmguard.contract import Yields, check, row_check
from llmguard.control import CONTROL, ENDS
from llmguard.findings import Finding, error, note, warning
from llmguard.rows import Columns, Field, Rows, as_rows, fields_of, is_metadata, texts_in
from llmguard.tally import Tally

__all__ = [
    "every_content_is_text",
    "every_response_has_text",
    "no_content_is_a_word_for_nothing",
    "no_row_is_repeated",
]

FOR_NOTHING = frozenset(("None", "nan", "NaN", "NAN", "null", "NULL", "NaT", "<NA>", "undefined"))
"""What str() and printf make of a missing value in Python, pandas, JavaScript and SQL."""
LABEL_WORDS, MOST_LABELS = 3, 0.8
"""Answers of at most LABEL_WORDS words are labels; a column with MOST_LABELS of them is one of labels, where `None` may be a true one."""
FEW = 0.01
"""A share of rows below which a single word for nothing among long answers may be an answer."""
INVISIBLE = dict.fromkeys(map(ord, "\u200b\u200c\u200d\u2060\ufeff\u00ad"))
ANY = "any"
NOTHING = 0
"""The key of a row that says nothing."""
REPEATED, OFTEN = 0.01, 10
"""Repeated rows are told above this share of all rows, or where one row stands more often than this."""


@row_check
def every_content_is_text(rows: Any) -> Tally:
    """Every prompt, response and message content is text (or a list of text parts): no number, list, object or null.

    An assistant message without content is legitimate where it has tool calls, and parts that are images or audio are.
    """
    source = as_rows(rows)

    def look(record: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
        for field in fields_of(record, source.columns):
            kind = _type(field)
            if kind:
                yield kind, {"column": field.name, "value": repr(field.value)[:80]}

    return tallied(source, look)


def _type(field: Field) -> str:
    value = field.value
    if isinstance(value, str) or (value is None and field.message and field.message.get("tool_calls")):
        return ""
    if value is None:
        return (
            "null"
            if field.message is None or {"content", "value"} & field.message.keys()
            else "missing content"
        )
    if isinstance(value, (list, tuple)):
        parts = (
            bool(value)
            and field.message is not None
            and all(isinstance(p, Mapping) and ("text" in p or "type" in p) for p in value)
        )
        wrong = [p for p in value if parts and "text" in p and not isinstance(p["text"], str)]
        return "" if parts and not wrong else "list"
    return {bool: "boolean", int: "number", float: "number"}.get(
        type(value), "object" if isinstance(value, Mapping) else type(value).__name__
    )


@every_content_is_text.explain
def _(tally: Tally) -> Iterator[Finding]:
    for kind, hits in tally.hits.items():
        first = hits.examples[0]
        yield error(
            place(first),
            what=f"{tally.rate(kind)} have a content that is no text but {_article(kind)}: {first['column']} = {first['value']}",
            why="it is written into the prompt as Python shows it ('None', '[...]'), or the row is dropped without a word",
            cause="missing values, numbers that were not made text, or an answer with parts that was not joined",
            remedy="make it the text that the model is to read or write, or drop the row",
            expected="text",
            actual=kind,
            evidence={"rows": list(hits.examples)},
        )


def _article(kind: str) -> str:
    return kind if kind in ("null", "missing content") else f"an {kind}" if kind[0] in "aeio" else f"a {kind}"


@row_check
def no_content_is_a_word_for_nothing(rows: Any) -> Tally:
    """No field is as a whole the word that a missing value becomes when it is made text: `None`, `nan`, `null`, `NaN`, `undefined`.

    Where answers are labels, such a word may be one of them: that is a warning.
    """
    source = as_rows(rows)
    labels = _are_labels(source)

    def look(record: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
        for name, side, text in texts_in(record, source.columns):
            if text.strip() in FOR_NOTHING:
                yield (
                    ("label" if labels and side == "response" else side),
                    {"column": name, "value": text.strip()},
                )

    return tallied(source, look)


def _are_labels(rows: Rows) -> bool:
    short = others = 0
    for record in itertools.islice(rows.records, 2000):
        for _, side, text in texts_in(record, rows.columns):
            if side == "response" and text.strip() not in FOR_NOTHING:
                others += 1
                short += len(text.split()) <= LABEL_WORDS
    return short > MOST_LABELS * others


@no_content_is_a_word_for_nothing.explain
def _(tally: Tally) -> Iterator[Finding]:
    for kind, hits in tally.hits.items():
        first = hits.examples[0]
        seldom = kind == "label" or (kind == "response" and hits.rows < FEW * tally.looked_at)
        side = {"label": "response", "other": "message"}.get(kind, kind)
        doubt = " (the other responses are labels: it may be a true one)" if kind == "label" else ""
        yield (warning if seldom else error)(
            place(first),
            what=f"{tally.rate(kind)} have a {side} that is nothing but {first['value']!r}: {first['column']}{doubt}",
            why="the model learns to read, or to write, the word for a missing value",
            cause="an empty cell of a table that went through str() or an f-string",
            remedy="drop these rows, or leave the field empty where your prompt builder expects that; keep it only if it is the answer",
            evidence={"rows": list(hits.examples)},
        )


@row_check
def every_response_has_text(rows: Any) -> Tally:
    """Every response has text: not empty, not blank, not only control tokens. Turns that call tools may be without."""
    source = as_rows(rows)

    def look(record: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
        for field in fields_of(record, source.columns):
            if field.side == "response":
                if isinstance(field.value, str) and _is_blank(field):
                    kind = "test" if source.split == "test" else "empty"
                    yield kind, {"column": field.name, "value": repr(field.value)[:80]}
                yield ANY, {}

    found = tallied(source, look)
    responses = {kind: hits for kind, hits in found.hits.items() if kind != ANY}
    return Tally(found[ANY].rows, responses)


def _is_blank(field: Field) -> bool:
    if field.message and any(
        v
        for k, v in field.message.items()
        if k not in ("role", "from", "content", "value", "weight", "train")
    ):
        return False
    text = str(field.value).translate(INVISIBLE).strip()
    while text and (end := next((t for t in (*ENDS, *CONTROL) if text.startswith(t)), "")):
        text = text[len(end) :].strip()
    return not text


@every_response_has_text.explain
def _(tally: Tally) -> Iterator[Finding]:
    for kind, hits in tally.hits.items():
        first = hits.examples[0]
        what = f"{tally.rate(kind)} have an empty response: {first['column']} is {first['value']}"
        if kind == "test" and hits.rows == tally.looked_at:
            yield note(place(first), what=f"{what}: a test split of prompts alone")
            continue
        yield error(
            place(first),
            what=what,
            why="the model learns to end at once: it answers nothing; and metrics that index the response crash",
            cause="answers that were missing, filtered or stripped, and rows that were kept all the same",
            remedy="drop these rows, or write the answer",
            evidence={"rows": list(hits.examples)},
        )


@check
def no_row_is_repeated(rows: Any) -> Yields:
    """Rows are not repeated: fewer than 1 % of them say, word by word, what another row says, and none stands more than 10 times.

    The same prompt with another response is no repetition.
    """
    source = as_rows(rows)
    keys = np.fromiter((_key(record, source.columns) for record in source.records), np.int64, len(source))
    ordered = np.sort(
        keys
    )  # one array more than the keys, and no other as long: files may have billions of rows
    again = ordered[1:][(ordered[1:] == ordered[:-1]) & (ordered[1:] != NOTHING)]
    more, (repeated, times) = len(again), np.unique(again, return_counts=True)
    if more > REPEATED * len(source) or times.max(initial=0) >= OFTEN:
        alike = np.flatnonzero(np.isin(keys, repeated[times == times.max()]))
        most = np.flatnonzero(keys == keys[alike[0]]).tolist()
        yield warning(
            source.where(most[1]),
            what=f"{more:,} of {len(source):,} rows ({more / len(source):.1%}) repeat an earlier row; "
            f"one stands {len(most):,} times, first in {source.where(most[0])}",
            why="they count several times: the model learns them by heart, and a split made at random puts copies on both sides",
            cause="files joined twice, an export that was appended to, or a join that multiplied rows",
            remedy="keep one of each; if they are weighted on purpose, accept this finding",
            evidence={
                "repeated": more,
                "most": [source.example(i) for i in most[:5]],
                "distinct": len(source) - more,
            },
        )
    return len(source)


def _key(record: Mapping[str, Any], columns: Columns) -> int:
    """What a row says, to be compared: all its texts, and every other column that is text (an input, a context).

    A hash of 64 bits: of a billion rows, some may share one by chance; a warning needs one row in a hundred, or ten alike.
    """
    said = tuple((side, text) for _, side, text in texts_in(record, columns))
    mapped = {*columns.named.values()}
    rest = tuple(
        sorted(
            (k, v) for k, v in record.items() if isinstance(v, str) and k not in mapped and not is_metadata(k)
        )
    )
    return (hash((said, rest)) or 1) if said else NOTHING
