"""Prompts: training and generation agree, id for id."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from llmguard.alignment import Status, align
from llmguard.checks.tokens_of_rows import masks_tally, names_of
from llmguard.contract import Yields, check, row_check
from llmguard.encoded import Encoded, as_encoded
from llmguard.evidence.prompts import Prompts, as_prompts
from llmguard.findings import Finding, Where, error, warning
from llmguard.formats import ChatTemplate
from llmguard.rows import Rows, as_rows
from llmguard.tally import FIRST, Hits, Tally
from llmguard.vocabulary import vocabulary_of

__all__ = [
    "built_prompt_holds_the_stored_one",
    "no_prompt_holds_its_own_answer",
    "training_starts_with_the_generation_prompt",
]


DIFFERENCES = {
    "differs": (
        error,
        "do not start with the prompt that generation builds for the same row",
        "two formats: one in the training script, another in the evaluation or serving script "
        "(or a template that injects a default system message in one of them)",
    ),
    "bos": (
        error,
        "and the prompt that generation builds differ in BOS",
        "one side is tokenised with special tokens and the other without",
    ),
    "pieces": (
        warning,
        "hold the text of their generation prompt in other tokens",
        "prompt and responses of earlier turns were tokenised apart for training and as one text for generation",
    ),
    "seam": (
        warning,
        "differ from their generation prompt in white space at the seam",
        "a trailing space or line break in the prompt that merges with the start of the response",
    ),
}
"""How a row and its generation prompt may differ: severity, what, likely cause."""


@row_check
def training_starts_with_the_generation_prompt(
    encoded: Any, prompts: Prompts | Any, tokenizer: Any, rows: Any = None, template: Any = None
) -> Tally:
    """The ids of the prompt as built for generation are a prefix of the ids of the training row.

    Rows whose start was cut off are not judged. A difference in white space alone at the seam is a warning, one in the date
    that the template writes is none: rows are prepared on one day and prompts built on another.
    """
    found, built = as_encoded(encoded).unpadded(), as_prompts(prompts, tokenizer)
    source = as_rows(rows) if rows is not None else None
    pairs = _pairs(found, built)
    if source is not None:
        status = align(found, source, tokenizer, template).status
        pairs = [
            (e, p)
            for e, p in pairs
            if status[e] != Status.CUT_LEFT and _answered(source, int(found.source[e]))
        ]
    kinds: dict[str, list[dict[str, Any]]] = {kind: [] for kind in DIFFERENCES}
    dates = _dates(tokenizer, template)
    for e, p in pairs:
        kind = _difference(found.input_ids[e], built.input_ids[p], tokenizer, dates)
        if kind:
            kinds[kind].append(_example(found, built, source, e, p, tokenizer))
    tally = {k: Hits(len(v), len(v), tuple(v[:FIRST])) for k, v in kinds.items() if v}
    return masks_tally(found, len(pairs), **tally)


def _answered(rows: Rows, row: int) -> bool:
    turns = rows.turns[row] if 0 <= row < len(rows) else None
    return turns is not None and turns[-1].role == "assistant"


def _pairs(encoded: Encoded, prompts: Prompts) -> list[tuple[int, int]]:
    by_source = {int(s): p for p, s in enumerate(prompts.source)}
    return [(e, by_source[int(s)]) for e, s in enumerate(encoded.source) if int(s) in by_source]


def _dates(tokenizer: Any, template: Any) -> re.Pattern[bytes] | None:
    """What the dates look like that the template in use writes."""
    if isinstance(template, ChatTemplate):
        return template.dated
    return ChatTemplate(tokenizer).dated if tokenizer.chat_template else None


def _difference(row: Any, prompt: Any, tokenizer: Any, dates: re.Pattern[bytes] | None) -> str:
    length = min(len(row), len(prompt))
    if np.array_equal(row[:length], prompt[:length]):
        return ""
    vocabulary = vocabulary_of(tokenizer)
    text, start = vocabulary.bytes_of(prompt), vocabulary.bytes_of(row)
    bos = (
        vocabulary.bytes_of(np.array([tokenizer.bos_token_id])) if tokenizer.bos_token_id is not None else b""
    )
    if bos and (
        _unled(start, bos).startswith(_unled(text, bos)) and start.startswith(bos) != text.startswith(bos)
    ):
        return "bos"
    if dates and dates.sub(b"", start).startswith(dates.sub(b"", text)):
        return ""
    first = int(np.argmax(row[:length] != prompt[:length]))
    at_the_end = not vocabulary.bytes_of(prompt[first:]).strip() and start.startswith(text.rstrip())
    return "seam" if at_the_end else "pieces" if start.startswith(text) else "differs"


def _unled(text: bytes, bos: bytes) -> bytes:
    while bos and text.startswith(bos):
        text = text[len(bos) :]
    return text


def _example(
    encoded: Encoded, prompts: Prompts, rows: Rows | None, e: int, p: int, tokenizer: Any
) -> dict[str, Any]:
    row, prompt = encoded.input_ids[e], prompts.input_ids[p]
    length = min(len(row), len(prompt))
    first = int(np.argmax(row[:length] != prompt[:length]))
    shown = {
        "position": first,
        "trained": _text(tokenizer, row[max(0, first - 4) : first + 6]),
        "generated": _text(tokenizer, prompt[max(0, first - 4) : first + 6]),
        "trained_ids": row[max(0, first - 2) : first + 4].tolist(),
        "generated_ids": prompt[max(0, first - 2) : first + 4].tolist(),
    }
    source = int(encoded.source[e])
    place = (
        rows.example(source)
        if rows is not None and 0 <= source < len(rows)
        else {"file": encoded.name, "row": source}
    )
    return {**place, **shown, "made_by": prompts.made_by}


def _text(tokenizer: Any, ids: Any) -> str:
    """Ids as text; those that no tokenizer can have are left out."""
    return str(tokenizer.decode([i for i in ids.tolist() if 0 <= i < len(tokenizer)]))


@training_starts_with_the_generation_prompt.explain
def _disagreements(tally: Tally) -> Iterator[Finding]:
    for kind, (make, what, cause) in DIFFERENCES.items():
        found = tally[kind]
        if not found.rows:
            continue
        first = found.examples[0]
        at = int(first["position"])
        yield make(
            Where(file=first.get("file"), line=first.get("line"), row=first.get("row"), tokens=(at, at)),
            what=(
                f"{tally.rate(kind)} {what}: at token {at} training has {first['trained']!r}, "
                f"{first['made_by']} has {first['generated']!r} ({names_of(found)})"
            ),
            why="the model is asked in another form than it was taught in: scores drop, and the adapter looks like a no-op",
            cause=cause,
            remedy="build prompts for training, evaluation and serving with one function; look at the ids, not at the text",
            expected=f"ids {first['trained_ids']}",
            actual=f"ids {first['generated_ids']}",
            evidence={"rows": [dict(e) for e in found.examples], "count": found.rows},
        )


@check
def built_prompt_holds_the_stored_one(
    prompts: Prompts | Any, rows: Any, tokenizer: Any, template: Any = None
) -> Yields:
    """The prompt that generation builds is the one of the declared format; without one, it holds the stored prompt of its row.

    Judged on prompts of the user's own builder only.
    """
    found, source = as_prompts(prompts, tokenizer), as_rows(rows)
    if not found.built:
        return 0
    declared = template is not None and template.declared
    bad = [
        r
        for r in range(len(found))
        if not _holds(found, r, source, template if declared else None, tokenizer)
    ]
    if bad and (declared or len(bad) * 2 > len(found)):
        first = bad[0]
        row = int(found.source[first])
        turns = source.turns[row] or ()
        wanted = template.prompt(turns) if declared else turns[-2 if len(turns) > 1 else 0].content
        yield error(
            source.where(row),
            what=(
                f"{len(bad):,} of {len(found):,} prompts of {found.made_by} are not the stored ones: "
                f"{_both(_shown(found, first, tokenizer), wanted)}"
            ),
            why="the data say that the model is trained on one text, and it is asked another",
            cause="prompts stored with another scaffolding than the one in use now, or a builder of an older format",
            remedy="store the row's parts and build prompts in one place; or declare the format in use as `[prompt] format`",
            expected=wanted[:200],
            actual=_shown(found, first, tokenizer)[:200],
            evidence={"rows": [int(found.source[b]) for b in bad[:5]], "count": len(bad)},
        )
    return len(found)


def _shown(prompts: Prompts, row: int, tokenizer: Any) -> str:
    return prompts.texts[row] or str(tokenizer.decode(prompts.input_ids[row].tolist()))


def _both(built: str, stored: str) -> str:
    """Both texts from a little before the first place where they differ."""
    at = len(os.path.commonprefix([built, stored]))  # noqa: RUF071  # texts, not paths
    start = max(at - 60, 0)
    dots = "… " if start else ""
    ending = " (and ends)" if at == len(built) else ""
    return (
        f"built {dots + built[start : start + 120]!r}{ending}, stored {dots + stored[start : start + 120]!r}"
    )


def _holds(prompts: Prompts, row: int, rows: Rows, template: Any, tokenizer: Any) -> bool:
    turns = rows.turns[int(prompts.source[row])]
    if not turns:
        return True
    vocabulary = vocabulary_of(tokenizer)
    text = vocabulary.bytes_of(prompts.input_ids[row])
    if template is not None:
        return vocabulary.text_as_bytes(template.prompt(turns)).strip() in text
    asked = [t for t in turns if t.role != "assistant"]
    return not asked or vocabulary.text_as_bytes(asked[-1].content.strip()) in text


@check
def no_prompt_holds_its_own_answer(prompts: Prompts | Any, rows: Any, tokenizer: Any) -> Yields:
    """No generation prompt holds the response that it asks for (a few-shot pool that the evaluated item is in; lm-evaluation-harness#4145).

    Responses of fewer than 20 characters, and those that the row's own prompt holds, are not judged.
    """
    found, source = as_prompts(prompts, tokenizer), as_rows(rows)
    vocabulary = vocabulary_of(tokenizer)
    bad = []
    for row in range(len(found)):
        turns = source.turns[int(found.source[row])] or ()
        if len(turns) < 2 or turns[-1].role != "assistant" or len(turns[-1].content.strip()) < 20:
            continue
        answer = vocabulary.text_as_bytes(turns[-1].content.strip())
        asked = b"\x00".join(vocabulary.text_as_bytes(t.content) for t in turns[:-1])
        if answer in vocabulary.bytes_of(found.input_ids[row]) and answer not in asked:
            bad.append(row)
    if bad:
        yield error(
            source.where(int(found.source[bad[0]])),
            what=f"{len(bad):,} of {len(found):,} prompts of {found.made_by} hold the answer that they ask for",
            why="the model copies: scores rise and mean nothing",
            cause=(
                "few-shot examples drawn from the evaluated split without leaving out the item itself, "
                "or a builder that renders the whole row"
            ),
            remedy="draw examples from another split, and leave out the item by its id",
            evidence={"rows": [int(found.source[b]) for b in bad[:5]], "count": len(bad)},
        )
    return len(found)
