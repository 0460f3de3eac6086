"""Tokens: BOS, terminators, control tokens, ids that are those of their text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from llmguard.alignment import Status, align
from llmguard.checks.tokens_of_rows import evidence_of, first_where, hits, masks_tally, names_of, row_hits
from llmguard.contract import Yields, check, row_check
from llmguard.control import SPLIT_CANDIDATES
from llmguard.encoded import Encoded, as_encoded
from llmguard.evidence.prompts import Prompts, as_prompts
from llmguard.findings import Finding, Where, error, note, warning
from llmguard.formats import ChatTemplate, Kind
from llmguard.ragged import Ragged
from llmguard.rows import Rows, as_rows
from llmguard.tally import Tally
from llmguard.vocabulary import squeeze, vocabulary_of

__all__ = [
    "control_tokens_are_single_ids",
    "every_row_has_one_bos",
    "ids_are_in_the_vocabulary",
    "ids_match_their_text",
    "prompts_have_one_bos",
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


def prepended(tokenizer: Any) -> list[int]:
    """The ids that `tokenizer(text)` puts before a text."""
    bare = list(tokenizer("x", add_special_tokens=False)["input_ids"])
    full = list(tokenizer("x")["input_ids"])
    starts = [i for i in range(len(full) - len(bare) + 1) if full[i : i + len(bare)] == bare]
    return full[: starts[0]] if starts else []


def _leading(ids: Ragged, bos: int) -> Any:
    """How many BOS ids each row starts with: int64 [rows]."""
    others = np.where(ids.values != bos, ids.position, np.iinfo(np.int64).max)
    first = ids.lengths.copy()
    np.minimum.at(first, ids.row_of, others)
    return first


def _bos_of(tokenizer: Any) -> int | None:
    ids = prepended(tokenizer)
    return ids[0] if ids else tokenizer.bos_token_id


@row_check
def every_row_has_one_bos(
    encoded: Any, tokenizer: Any, rows: Any = None, template: Any = None, add_special_tokens: bool = True
) -> Tally:
    """Every training row starts with exactly one BOS where this tokenizer wants one; none stands in the middle of a response.

    Rows that a chat template renders are held to what the template itself writes. Tokenizers that add no BOS are asked for none.
    """
    found = as_encoded(encoded)
    bos = _bos_of(tokenizer)
    if bos is None:
        return Tally(len(found))
    source = as_rows(rows) if rows is not None else None
    leading = _leading(found.input_ids, bos)
    whole = np.ones(len(found), dtype=bool)
    if source is not None:
        whole = align(found, source, tokenizer, template).status != Status.CUT_LEFT
    doubled = leading > 1
    wanted = bool(prepended(tokenizer)) and add_special_tokens and not isinstance(template, ChatTemplate)
    missing = (
        (leading == 0) & whole & wanted & (found.input_ids.lengths > 0) & ~_rendered(found, source, tokenizer)
    )
    return masks_tally(
        found,
        len(found),
        doubled=row_hits(found, source, doubled),
        missing=row_hits(found, source, missing),
        inner=_inner(found, source, tokenizer, template, bos),
    )


def _rendered(encoded: Encoded, rows: Rows | None, tokenizer: Any) -> Any:
    """Rows that are exactly what the tokenizer's own chat template renders: it decides about BOS."""
    if rows is None or not tokenizer.chat_template:
        return np.zeros(len(encoded), dtype=bool)
    own = encoded.__dict__.setdefault("_own_template", ChatTemplate(tokenizer, declared=False))
    return align(encoded, rows, tokenizer, own).status == Status.EXACT


def _inner(encoded: Encoded, rows: Rows | None, tokenizer: Any, template: Any, bos: int) -> Any:
    """BOS right before a response: inserted at the seam by tokenising the response with special tokens."""
    if rows is None or bos == tokenizer.eos_token_id:
        return row_hits(encoded, rows, np.zeros(len(encoded), dtype=bool))
    alignment = align(encoded, rows, tokenizer, template)
    ids = encoded.input_ids
    is_bos = (ids.values == bos) & (ids.position > 0)
    before = np.zeros_like(is_bos)
    before[:-1] = np.isin(alignment.kind[1:], (Kind.RESPONSE, Kind.BLANK_WITHIN, Kind.STRADDLE))
    return hits(encoded, rows, is_bos & before & np.repeat(alignment.matched, ids.lengths), alignment)


@every_row_has_one_bos.explain
def _bos(tally: Tally) -> Iterator[Finding]:
    if tally["doubled"].rows:
        yield error(
            first_where(tally["doubled"]),
            what=f"{tally.rate('doubled')} start with two BOS tokens",
            why="the model has never seen this start; quality drops a little everywhere, and serving, which adds one, differs from training",
            cause="text rendered by a chat template (which writes BOS) was tokenised again with add_special_tokens=True",
            remedy="call apply_chat_template(tokenize=True), or tokenise rendered text with add_special_tokens=False",
            evidence=evidence_of(tally["doubled"]),
        )
    if tally["missing"].rows:
        yield error(
            first_where(tally["missing"]),
            what=f"{tally.rate('missing')} do not start with BOS, which this tokenizer puts before every text",
            why="models trained with BOS (Gemma, Llama) lose much of their quality without it, and generation, which adds it, differs from training",
            cause="text tokenised with add_special_tokens=False",
            remedy="tokenise with special tokens; if generation does without BOS too, say `[prompt] add_special_tokens = false`",
            evidence=evidence_of(tally["missing"]),
        )
    if tally["inner"].rows:
        yield error(
            first_where(tally["inner"]),
            what=f"{tally.rate('inner')} have a BOS between prompt and response",
            why="at generation time nothing stands there, so that the response is learnt behind a token that never comes",
            cause="prompt and response were tokenised apart, both with special tokens",
            remedy="tokenise the response with add_special_tokens=False",
            evidence=evidence_of(tally["inner"]),
        )


@check
def prompts_have_one_bos(prompts: Prompts | Any, tokenizer: Any, add_special_tokens: bool = True) -> Yields:
    """Every generation prompt starts with exactly one BOS where this tokenizer wants one, with none doubled."""
    found = as_prompts(prompts, tokenizer, add_special_tokens=add_special_tokens)
    bos = _bos_of(tokenizer)
    if bos is None or not len(found):
        return len(found)
    doubled = np.flatnonzero(_leading(found.input_ids, bos) > 1)
    if len(doubled):
        row = int(doubled[0])
        yield error(
            Where(what=f"prompts of {found.made_by}", row=int(found.source[row])),
            what=f"{len(doubled):,} of {len(found):,} prompts reach the model with two BOS tokens (ids {found.input_ids[row][:4].tolist()} …)",
            why="the model has never seen this start; answers get worse without any error",
            cause="the builder returns text that holds BOS already, and the tokenizer adds another",
            remedy="return text without BOS, return ids, or set `[prompt] add_special_tokens = false` if your generation code tokenises so",
            expected="one BOS",
            actual="two",
            evidence={"rows": found.source[doubled[:5]].tolist(), "ids": found.input_ids[row][:8].tolist()},
        )
    return len(found)


@row_check
def response_ends_with_its_terminator(encoded: Any, rows: Any, tokenizer: Any, template: Any = None) -> Tally:
    """Every response is followed by a token that ends it: EOS, the template's end of turn, or the format's `end`.

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
    return masks_tally(found, int(whole.sum()), **{kind: row_hits(found, source, without, alignment)})


@response_ends_with_its_terminator.explain
def _terminators(tally: Tally) -> Iterator[Finding]:
    if tally["missing"].rows:
        yield error(
            first_where(tally["missing"]),
            what=f"{tally.rate('missing')} do not end with a terminator ({names_of(tally['missing'])})",
            why="the model is never shown where to stop: it writes on until max_new_tokens",
            cause="the text has no EOS and the tokenizer adds none, or an end marker that is not one token of this tokenizer",
            remedy="append tokenizer.eos_token (or the template's end of turn) to every response before it is tokenised, and train it",
            expected="EOS or the end-of-turn token behind the response",
            actual="the row ends with the response",
            evidence=evidence_of(tally["missing"]),
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
    single = {t.content for t in tokenizer.added_tokens_decoder.values()} | {
        t for t in SPLIT_CANDIDATES if t in tokenizer.get_vocab()
    }
    wanted = [t for t in SPLIT_CANDIDATES if t not in single and t not in own]
    flat, ends = vocabulary.spans(found.input_ids.values)
    row_ends = np.concatenate(([0], ends))[found.input_ids.offsets]
    whole = flat.tobytes()
    kinds: dict[str, Any] = {}
    for text in wanted:
        needle = squeeze(text)
        if needle not in whole:
            continue
        bad = np.array(
            [
                _built_in(whole[row_ends[r] : row_ends[r + 1]], needle, source, int(found.source[r]))
                for r in range(len(found))
            ],
            dtype=bool,
        )
        if bad.any():
            kinds[text] = row_hits(found, source, bad)
    return masks_tally(found, len(found), **kinds)


def _built_in(row: bytes, needle: bytes, rows: Rows | None, source: int) -> bool:
    """Whether a row has the text more often than its source row's own contents have."""
    said = 0
    if rows is not None and 0 <= source < len(rows):
        said = sum(squeeze(t.content).count(needle) for t in rows.turns[source] or ())
    return row.count(needle) > said


@control_tokens_are_single_ids.explain
def _split_tokens(tally: Tally) -> Iterator[Finding]:
    for text, found in tally.hits.items():
        yield error(
            first_where(found),
            what=f"{tally.rate(text)} hold {text!r}, which is no token of this tokenizer: it is tokenised as letters in several pieces",
            why="as letters it neither ends nor opens anything: the model learns no end, or writes the marker into its answers",
            cause="a format of another model family, or an end marker written by hand instead of tokenizer.eos_token",
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
    return masks_tally(
        found, len(found), beyond=hits(found, source, (values < 0) | (values >= len(tokenizer)))
    )


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
def ids_match_their_text(encoded: Any, rows: Any, tokenizer: Any, template: Any = None) -> Tally:
    """The ids of every row hold the text of its source row: every prompt and every response (truncation allowed for).

    Also no two rows have the same ids under different responses. Compares bytes, not tokens: how prompt and response were
    tokenised does not matter here. If most rows lack their prompt (a builder that rewrites it), only responses are judged.
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
    return masks_tally(
        found, int(known.sum()), response=row_hits(found, source, stale, alignment), prompt=row_hits(found, source, prompts, alignment),
        same=row_hits(found, source, _same_ids(found, source), alignment),
    )  # fmt: skip


def _same_ids(encoded: Encoded, rows: Rows) -> Any:
    """Rows whose ids another row has too, while their texts differ: bool [rows]."""
    seen: dict[bytes, tuple[int, str]] = {}
    bad = np.zeros(len(encoded), dtype=bool)
    for row, ids in enumerate(encoded.input_ids):
        source = int(encoded.source[row])
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
    ):
        found = tally[kind]
        if found.rows:
            yield error(
                first_where(found),
                what=f"{tally.rate(kind)} have ids that {what} ({names_of(found)})",
                why="the model trains on text that is no longer in the data: edits, corrections and poisonings have no effect",
                cause="text was edited or copied after it was tokenised, or a cache was made by another tokenizer, template or version of the data",
                remedy="tokenise again from the text (delete the prepared folder and the datasets cache); never change a text column without its ids",
                expected="ids that decode to the row's text",
                actual="other text",
                evidence=evidence_of(found),
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
    """Encoding and decoding gives the text of the data back (spaces aside): nothing is dropped, nothing becomes unknown."""
    source = as_rows(rows)
    vocabulary = vocabulary_of(tokenizer)
    chosen = [(r, t.content) for r in range(min(len(source), 500)) for t in source.turns[r] or ()]
    encoded = tokenizer([text for _, text in chosen], add_special_tokens=False)["input_ids"] if chosen else []
    lost = [
        (r, text)
        for (r, text), ids in zip(chosen, encoded, strict=True)
        if vocabulary.bytes_of(ids) != vocabulary.text_as_bytes(text)
    ]
    if lost:
        row, text = lost[0]
        yield (warning if len(lost) * 50 > len(chosen) else note)(
            source.where(row),
            what=f"{len(lost):,} of {len(chosen):,} texts do not come back from their ids ({text[:60]!r} …)",
            why="what the tokenizer loses cannot be learnt, and cannot be written",
            cause="a vocabulary without byte fallback, or a normaliser that drops characters",
            remedy="look at the characters; replace them in the data or use a tokenizer that keeps them",
            evidence={"rows": [r for r, _ in lost[:5]]},
        )
    return len(chosen)
