"""Tokens: the tokenizer loads, responses end, control tokens are control tokens, ids are the vocabulary's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmguard.alignment import Status, align
from llmguard.checks.tokens_of_rows import evidence_of, first_where, hits, masks_tally, names_of, row_hits
from llmguard.contract import Yields, check, row_check
from llmguard.control import SPLIT_CANDIDATES
from llmguard.encoded import MISSING, Encoded, as_encoded
from llmguard.findings import Finding, Where, error, warning
from llmguard.formats import ChatTemplate, Kind
from llmguard.rows import Rows, as_rows
from llmguard.tally import Tally
from llmguard.vocabulary import Vocabulary, squeeze, vocabulary_of

__all__ = [
    "control_tokens_are_single_ids",
    "every_token_id_is_a_number",
    "ids_are_in_the_vocabulary",
    "response_ends_with_its_terminator",
    "tokenizer_loads",
]


@check
def tokenizer_loads(loading: dict[str, Any]) -> Yields:
    """The project's tokenizer loads as training code loads it (AutoTokenizer, local files only)."""
    if not loading["ok"]:
        told = loading["error"]
        yield error(
            Where(file=told.get("path"), key="model.tokenizer" if told.get("named") else "model.path"),
            what=f"the tokenizer does not load: {told.get('type', '')}: {told.get('message', '')}",
            why="nothing about prompts, templates or labels can be checked, and the training run would end here too",
            cause=told.get("hint")
            or "a wrong path, a hub id that is not in the local cache, or files that were not copied whole",
            remedy="set `[model] tokenizer` (or `path`) to a folder with tokenizer.json and tokenizer_config.json",
            evidence={"error": told},
        )
    return 1


@row_check
def response_ends_with_its_terminator(encoded: Any, rows: Any, tokenizer: Any, template: Any = None) -> Tally:
    """Every response is followed by a token that ends it: EOS, the template's end of turn, or the format's `end`.

    Where a format is declared, another end than its own is a warning: generation in that format may not stop at it.
    Responses that truncation cut off are left to the truncation checks.
    """
    found, source = as_encoded(encoded), as_rows(rows)
    alignment = align(found, source, tokenizer, template)
    whole = np.isin(alignment.status, (Status.EXACT, Status.LOCATED)) & (alignment.responses > 0)
    last = alignment.turn == np.repeat(alignment.responses - 1, found.input_ids.lengths)
    ended = found.input_ids.count(alignment.of(Kind.TERMINATOR) & last) > 0
    without = whole & ~ended
    templates_own = isinstance(template, ChatTemplate) and not template.terminator
    kind = "unended" if templates_own else "missing"
    otherwise = alignment.ended_otherwise & (template is not None and template.declared)
    kinds = {kind: row_hits(found, source, without, alignment)}
    kinds["followed"] = row_hits(found, source, without & alignment.runs_on, alignment)
    return masks_tally(found, int(whole.sum()), **kinds, other=row_hits(found, source, otherwise, alignment))


@response_ends_with_its_terminator.explain
def _terminators(tally: Tally) -> Iterator[Finding]:
    followed = tally["followed"].rows * 2 > tally["missing"].rows
    if tally["missing"].rows:
        yield error(
            first_where(tally["missing"]),
            what=f"{tally.rate('missing')} do not end with a terminator ({names_of(tally['missing'])})",
            why="the model is never shown where to stop: it writes on until max_new_tokens",
            cause=(
                "an end marker that is letters to this tokenizer, or text that is appended behind the response (the answer again)"
                if followed
                else "the text has no EOS and the tokenizer adds none"
            ),
            remedy="append tokenizer.eos_token (or the template's end of turn) to every response before it is tokenised, and train it",
            expected="EOS or the end-of-turn token behind the response",
            actual="other text" if followed else "the row ends with the response",
            evidence=evidence_of(tally["missing"]),
        )
    if tally["other"].rows:
        yield warning(
            first_where(tally["other"]),
            what=f"{tally.rate('other')} end with another token than their format writes ({names_of(tally['other'])})",
            why="generation that stops at the format's end of turn runs on behind the one that was learnt",
            cause="EOS appended by hand to text that a template without it rendered, or the end of another format",
            remedy="end responses as the declared format does, or declare the format that you mean",
            evidence=evidence_of(tally["other"]),
        )
    if tally["unended"].rows:
        yield warning(
            first_where(tally["unended"]),
            what=f"{tally.rate('unended')} end without a terminator, since the chat template writes none behind a response",
            why="nothing teaches the model to stop",
            cause="a template made for generation only",
            remedy="add the EOS token behind the response in the template that you train with",
            evidence=evidence_of(tally["unended"]),
        )


@row_check
def control_tokens_are_single_ids(encoded: Any, tokenizer: Any, rows: Any = None) -> Tally:
    """Control tokens that rows are built with (`</s>`, `<|im_end|>`, …) are single ids of this tokenizer, not letters in pieces.

    Text of the data that merely talks about such tokens does not count, nor what the tokenizer's own template writes in plain text.
    """
    found = as_encoded(encoded)
    vocabulary = vocabulary_of(tokenizer)
    source = as_rows(rows) if rows is not None else None
    own = tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else ""
    judged = {t: squeeze(t) for t in SPLIT_CANDIDATES if t in vocabulary.control or t not in own}
    bad = {text: np.zeros(len(found), dtype=bool) for text in judged}
    for row in np.flatnonzero(_may_hold(found, vocabulary, judged)).tolist():
        ids = found.input_ids[row]
        whole = vocabulary.bytes_of(ids)
        for text, needle in judged.items():
            count = whole.count(needle)
            if count:
                single = vocabulary.control.get(text)  # an id of -1 in a row is no token of that text either
                pieces = count - (0 if single is None else int((ids == single).sum()))
                bad[text][row] = pieces > 0 and pieces > _said(needle, source, int(found.source[row]))
    kinds = {text: row_hits(found, source, rows_of) for text, rows_of in bad.items() if rows_of.any()}
    return masks_tally(found, len(found), **kinds)


def _may_hold(encoded: Encoded, vocabulary: Vocabulary, needles: Mapping[str, bytes]) -> NDArray[np.bool_]:
    """Rows with a token that one of the texts starts in, but for the token that is that text: bool [rows]."""
    starts_one = np.zeros(len(vocabulary) + 1, dtype=bool)
    beginnings = {needle[:n] for needle in needles.values() for n in range(1, len(needle))}
    for token in vocabulary.holding({needle[:1] for needle in needles.values()}).tolist():
        held = vocabulary.bytes_of(np.array([token]))
        begins = any(held[-n:] in beginnings for n in range(1, len(held) + 1))
        others = (needle for text, needle in needles.items() if vocabulary.control.get(text) != token)
        starts_one[token] = begins or any(needle in held for needle in others)
    found = np.zeros(len(encoded), dtype=bool)
    for rows, part in encoded.input_ids.parts():
        ids = encoded.input_ids.values[part]
        safe = np.where((ids >= 0) & (ids < len(vocabulary)), ids, len(vocabulary))
        shard = encoded.input_ids.slice(rows.start, rows.stop)
        found[rows] = shard.count(starts_one.take(safe)) > 0
    return found


def _said(needle: bytes, rows: Rows | None, source: int) -> int:
    """How often the contents of a source row have a text themselves."""
    if rows is None or not 0 <= source < len(rows):
        return 0
    return sum(squeeze(t.content).count(needle) for t in rows.turns[source] or ())


@control_tokens_are_single_ids.explain
def _split_tokens(tally: Tally) -> Iterator[Finding]:
    for text, found in tally.hits.items():
        yield error(
            first_where(found),
            what=f"{tally.rate(text)} hold {text!r} as letters in several pieces: no control token of this tokenizer",
            why="as letters it neither ends nor opens anything: the model learns no end, or writes the marker into its answers",
            cause="a format of another model family, an end marker written by hand instead of tokenizer.eos_token, "
            "or split_special_tokens=True",
            remedy="use this tokenizer's own eos_token and role markers; or add the token and train its embedding",
            expected="one id",
            actual="several pieces",
            evidence=evidence_of(found),
        )


@row_check
def ids_are_in_the_vocabulary(encoded: Any, tokenizer: Any, rows: Any = None) -> Tally:
    """Every id is one of the tokenizer's: none negative, none beyond its size."""
    found = as_encoded(encoded)
    values = found.input_ids.values
    source = as_rows(rows) if rows is not None else None
    beyond = ((values < 0) | (values >= len(tokenizer))) & (values != MISSING)
    return masks_tally(found, len(found), beyond=hits(found, source, beyond))


@ids_are_in_the_vocabulary.explain
def _beyond(tally: Tally) -> Iterator[Finding]:
    if tally["beyond"].rows:
        yield error(
            first_where(tally["beyond"]),
            what=f"{tally.rate('beyond')} hold ids that this tokenizer does not have ({tally['beyond'].things:,} tokens)",
            why="on a GPU an id beyond the embedding ends the run with a device-side assert that names neither row nor token",
            cause="rows encoded by another tokenizer, or tokens added after the model was resized",
            remedy="encode again with the tokenizer that you train with",
            evidence=evidence_of(tally["beyond"]),
        )


@row_check
def every_token_id_is_a_number(encoded: Any, rows: Any = None) -> Tally:
    """No row holds None among its ids, labels or masks."""
    found = as_encoded(encoded)
    source = as_rows(rows) if rows is not None else None
    columns = [c.values == MISSING for c in found.columns.values() if c.same_shape(found.input_ids)]
    return masks_tally(found, len(found), missing=hits(found, source, np.logical_or.reduce(columns)))


@every_token_id_is_a_number.explain
def _no_number(tally: Tally) -> Iterator[Finding]:
    if tally["missing"].rows:
        yield error(
            first_where(tally["missing"]),
            what=f"{tally.rate('missing')} hold None in the place of an id, a label or a mask ({tally['missing'].things:,} places)",
            why="the loader crashes on it, or a work-around puts another token there (bos = eos) that the model then learns",
            cause="tokenizer.bos_token_id (or eos, sep) of a tokenizer that has none, put before or behind the ids",
            remedy="add a special token only where the tokenizer has it: `[bos] if bos is not None else []`",
            evidence=evidence_of(tally["missing"]),
        )
