"""Truncation: what `max_length` takes away, and from whom."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from llmguard.alignment import Status, align
from llmguard.checks.tokens_of_rows import evidence_of, first_where, masks_tally, names_of, row_hits
from llmguard.contract import Yields, check, row_check
from llmguard.encoded import as_encoded
from llmguard.evidence.prompts import Prompts, as_prompts
from llmguard.findings import Finding, Where, error, warning
from llmguard.formats import Kind
from llmguard.rows import as_rows
from llmguard.tally import Hits, Tally

__all__ = ["prompts_leave_room_for_an_answer", "responses_are_not_cut", "rows_fit_max_length"]

MANY = 0.1
"""Share of rows whose response may be cut before it is an error: a few long rows are everybody's practice."""


@row_check
def responses_are_not_cut(encoded: Any, rows: Any, tokenizer: Any, template: Any = None) -> Tally:
    """Encoded rows hold their whole response and its end.

    Some cut rows are a warning, more than one in ten an error, and so is any row whose response is gone altogether. Cutting
    the prompt from the left is nobody's loss and is not counted.
    """
    found, source = as_encoded(encoded), as_rows(rows)
    alignment = align(found, source, tokenizer, template)
    answer = found.input_ids.count(alignment.of(Kind.RESPONSE, Kind.STRADDLE, Kind.BLANK_WITHIN))
    cut = alignment.status == Status.CUT_RIGHT
    gone = cut & (answer == 0)
    lengths = found.input_ids.lengths
    judged = int(alignment.matched.sum())
    longest = int(lengths[cut].max(initial=0))
    ragged = cut & (lengths < longest)  # max_length leaves rows of one length
    return masks_tally(
        found,
        judged,
        ragged=row_hits(found, source, ragged, alignment),
        gone=row_hits(found, source, gone, alignment, length=lengths),
        cut=row_hits(found, source, cut & ~gone, alignment, length=lengths),
    )


@responses_are_not_cut.explain
def _cut_responses(tally: Tally) -> Iterator[Finding]:
    gone, cut = tally["gone"], tally["cut"]
    ragged = tally["ragged"].rows * 2 > gone.rows + cut.rows
    if gone.rows:
        yield error(
            first_where(gone),
            what=(
                f"{tally.rate('gone')} have lost their whole response ({_lengths(gone, ragged)}; {names_of(gone)})"
            ),
            why="nothing of them is trained; a batch of such rows has the loss NaN, logged as 0.0",
            cause=UNEVEN if ragged else "prompts alone reach max_length, and truncation takes from the right",
            remedy="raise max_length, truncate the prompt from the left, or drop these rows and count them",
            evidence=evidence_of(gone),
        )
    if cut.rows:
        many = cut.rows > MANY * max(tally.looked_at, 1)
        yield (error if many else warning)(
            first_where(cut),
            what=(
                f"{tally.rate('cut')} have their response cut off, and with it the terminator "
                f"({_lengths(cut, ragged)}; {names_of(cut)})"
            ),
            why="the model learns answers that end in mid-sentence, and not how to stop",
            cause=(
                UNEVEN
                if ragged
                else "max_length is below the length of the rows (a default of 256, 512 or 1024 that nobody chose)"
            ),
            remedy=(
                "encode every turn of the row, and leave cutting to max_length"
                if ragged
                else "raise max_length, or drop the longest rows and count them"
            ),
            evidence=evidence_of(cut),
        )


UNEVEN = "the rows end at different lengths, so it is not max_length: the last turn is left out, or text is cut by characters"


def _lengths(found: Hits, ragged: bool) -> str:
    length = found.examples[0].get("length")
    return f"the first to {length} tokens, others to other lengths" if ragged else f"cut to {length} tokens"


@check
def rows_fit_max_length(rows: Any, tokenizer: Any, template: Any, max_length: int) -> Yields:
    """Rows rendered in the project's format fit `max_length`: told before anything is encoded, with the distribution of lengths.

    No row fits: an error. A prompt alone reaches the limit, or more than one row in ten is longer: an error too; else a warning.
    """
    source = as_rows(rows)
    if template is None or not template.declared:
        return 0
    texts = [
        (r, "".join(p.text for p in template.pieces(t)), template.prompt(t))
        for r, t in enumerate(source.turns[:2000])
        if t
    ]
    if not texts:
        return 0
    special = template.add_special_tokens
    whole = np.array(
        [len(i) for i in tokenizer([t for _, t, _ in texts], add_special_tokens=special)["input_ids"]]
    )
    asked = np.array(
        [len(i) for i in tokenizer([p for _, _, p in texts], add_special_tokens=special)["input_ids"]]
    )
    long, gone = whole > max_length, asked >= max_length
    if long.any():
        severe = bool(gone.any()) or long.mean() > MANY
        worst = int(np.argmax(whole))
        unended = _unended(tokenizer, texts, long, special, max_length)
        quantiles = ", ".join(f"{q:.0%} of rows up to {int(np.quantile(whole, q))}" for q in (0.5, 0.9, 0.99))
        yield (error if severe else warning)(
            source.where(texts[worst][0]),
            what=(
                f"{int(long.sum()):,} of {len(texts):,} rows are longer than max_length = {max_length} "
                f"({int(gone.sum()):,} of them lose their whole response, {unended:,} their terminator); "
                f"the shortest has {int(whole.min())} tokens, {quantiles}, the longest {int(whole.max())} tokens"
            ),
            why="what is beyond max_length is cut: answers end in mid-sentence and without terminator",
            cause="a max_length that was not chosen from the data",
            remedy=(
                f"set max_length to {int(np.quantile(whole, 0.99))} or more, or drop the longest rows and "
                "count them"
            ),
            expected=f"at most {max_length} tokens",
            actual=f"up to {int(whole.max())}",
            evidence={
                "rows": [
                    source.example(texts[i][0], tokens=int(whole[i]))
                    for i in np.argsort(-whole, kind="stable")[: min(5, int(long.sum()))]
                ],
                "longer": int(long.sum()),
                "lost": int(gone.sum()),
                "shortest": int(whole.min()),
            },
        )
    return len(texts)


def _unended(tokenizer: Any, texts: Any, long: Any, special: bool, max_length: int) -> int:
    """How many of the long rows lose more than the line break that some templates write behind the last terminator."""
    bare = [texts[i][1].rstrip() for i in np.flatnonzero(long)]
    return sum(len(ids) > max_length for ids in tokenizer(bare, add_special_tokens=special)["input_ids"])


@check
def prompts_leave_room_for_an_answer(prompts: Prompts | Any, tokenizer: Any, context: int) -> Yields:
    """Generation prompts are not empty, and fit the model's context with room for an answer."""
    found = as_prompts(prompts, tokenizer)
    lengths = found.input_ids.lengths
    for bad, what in (
        (lengths == 0, "are empty"),
        (lengths >= context, f"fill the model's context of {context} tokens"),
    ):
        if bad.any():
            row = int(np.argmax(bad))
            yield error(
                Where(what=f"prompts of {found.made_by}", row=int(found.source[row])),
                what=f"{int(bad.sum()):,} of {len(found):,} prompts {what} ({int(lengths[row])} tokens)",
                why="the model answers nothing, or something else than it was asked",
                cause=(
                    "a builder that reads another column, or truncation from the right that leaves the "
                    "instruction out"
                ),
                remedy="look at the prompts with their ids; shorten the few-shot part",
                evidence={"rows": found.source[np.flatnonzero(bad)[:5]].tolist()},
            )
    return len(found)
