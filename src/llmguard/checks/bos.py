"""BOS: one at the start of a text where the tokenizer wants one, and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from llmguard.alignment import Status, align
from llmguard.checks.tokens_of_rows import evidence_of, first_where, hits, masks_tally, row_hits
from llmguard.contract import Yields, check, row_check
from llmguard.encoded import Encoded, as_encoded
from llmguard.evidence.prompts import Prompts, as_prompts
from llmguard.findings import Finding, Where, error
from llmguard.formats import ChatTemplate, Kind
from llmguard.formats.chat import TemplateError
from llmguard.ragged import Ragged
from llmguard.rows import Rows, as_rows
from llmguard.tally import Tally

__all__ = [
    "every_row_has_one_bos",
    "prepended",
    "prompts_have_one_bos",
]


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
    found = as_encoded(encoded).unpadded()  # encode may pad, and the pad token may be BOS
    bos = _bos_of(tokenizer)
    if bos is None:
        return Tally(len(found))
    source = as_rows(rows) if rows is not None else None
    leading = _leading(found.input_ids, bos)
    whole = np.ones(len(found), dtype=bool)
    if source is not None:
        whole = align(found, source, tokenizer, template).status != Status.CUT_LEFT
    doubled = leading > 1
    wanted = _wanted(found, source, tokenizer, template, add_special_tokens=add_special_tokens)
    missing = (leading == 0) & whole & wanted & (found.input_ids.lengths > 0)
    return masks_tally(
        found,
        len(found),
        doubled=row_hits(found, source, doubled),
        missing=row_hits(found, source, missing),
        inner=_inner(found, source, tokenizer, template, bos),
    )


def _wanted(
    encoded: Encoded, rows: Rows | None, tokenizer: Any, template: Any, *, add_special_tokens: bool
) -> Any:
    """Rows that are to start with BOS: bool [rows]. For what the tokenizer's own chat template renders, the template decides."""
    if isinstance(template, ChatTemplate):
        return np.full(len(encoded), template.writes_bos)
    wanted = np.full(len(encoded), bool(prepended(tokenizer)) and add_special_tokens)
    if rows is not None and tokenizer.chat_template:
        own = encoded.__dict__.setdefault("_own_template", ChatTemplate(tokenizer, declared=False))
        wanted[align(encoded, rows, tokenizer, own).status == Status.EXACT] = own.writes_bos
    return wanted


def _inner(encoded: Encoded, rows: Rows | None, tokenizer: Any, template: Any, bos: int) -> Any:
    """BOS right before a response: inserted at the seam by tokenising the response with special tokens."""
    if rows is None or bos == tokenizer.eos_token_id:
        return row_hits(encoded, rows, np.zeros(len(encoded), dtype=bool))
    alignment = align(encoded, rows, tokenizer, template)
    ids = encoded.input_ids
    is_bos = (ids.values == bos) & (ids.position > 0)
    before = np.zeros_like(is_bos)
    before[:-1] = np.isin(alignment.kind[1:], (Kind.RESPONSE, Kind.BLANK_WITHIN, Kind.STRADDLE))
    inner = is_bos & (before | _within(encoded, rows, tokenizer, template, is_bos))
    return hits(encoded, rows, inner & np.repeat(alignment.matched, ids.lengths), alignment)


def _within(encoded: Encoded, rows: Rows, tokenizer: Any, template: Any, is_bos: Any) -> Any:
    """BOS before the last response of rows in which the chat template writes fewer: bool [tokens]."""
    found = np.zeros_like(is_bos)
    held = template if isinstance(template, ChatTemplate) else None
    alignment, ids = align(encoded, rows, tokenizer, template), encoded.input_ids
    suspects = (alignment.status == Status.LOCATED) & (ids.count(is_bos) > 0) & (held is not None)
    for row in np.flatnonzero(suspects).tolist():
        part = slice(int(ids.offsets[row]), int(ids.offsets[row + 1]))
        said = np.flatnonzero(alignment.turn[part] == alignment.responses[row] - 1)
        here = np.flatnonzero(is_bos[part][: said[0]] if len(said) else [])
        if held is not None and len(here) > _written(held, rows, int(encoded.source[row])) - 1:
            found[part.start + here] = True
    return found


def _written(template: ChatTemplate, rows: Rows, source: int) -> int:
    """How often the template writes BOS in a row."""
    try:
        text = template.render(rows.turns[source] or ())
    except TemplateError:
        return 0
    return max(text.count(str(template.tokenizer.bos_token)), 1)


@every_row_has_one_bos.explain
def _bos(tally: Tally) -> Iterator[Finding]:
    if tally["doubled"].rows:
        yield error(
            first_where(tally["doubled"]),
            what=f"{tally.rate('doubled')} start with two BOS tokens",
            why=(
                "the model has never seen this start; quality drops a little everywhere, and serving, which adds one, "
                "differs from training"
            ),
            cause="text rendered by a chat template (which writes BOS) was tokenised again with add_special_tokens=True",
            remedy="call apply_chat_template(tokenize=True), or tokenise rendered text with add_special_tokens=False",
            evidence=evidence_of(tally["doubled"]),
        )
    if tally["missing"].rows:
        yield error(
            first_where(tally["missing"]),
            what=f"{tally.rate('missing')} do not start with BOS, which this tokenizer puts before every text",
            why=(
                "models trained with BOS (Gemma, Llama) lose much of their quality without it, and generation, "
                "which adds it, differs from training"
            ),
            cause="text tokenised with add_special_tokens=False",
            remedy="tokenise with special tokens; if generation does without BOS too, say `[prompt] add_special_tokens = false`",
            evidence=evidence_of(tally["missing"]),
        )
    if tally["inner"].rows:
        yield error(
            first_where(tally["inner"]),
            what=f"{tally.rate('inner')} have a BOS in their middle, between prompt and response or before a later turn",
            why="at generation time nothing stands there, so that the response is learnt behind a token that never comes",
            cause="prompt and response, or the turns, were tokenised or rendered apart, each with special tokens",
            remedy="tokenise all but the start of a row with add_special_tokens=False; render conversations as a whole",
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
            what=(
                f"{len(doubled):,} of {len(found):,} prompts reach the model with two BOS tokens (ids "
                f"{found.input_ids[row][:4].tolist()} …)"
            ),
            why="the model has never seen this start; answers get worse without any error",
            cause="the builder returns text that holds BOS already, and the tokenizer adds another",
            remedy="return text without BOS, return ids, or set `[prompt] add_special_tokens = false` if your generation code tokenises so",
            expected="one BOS",
            actual="two",
            evidence={"rows": found.source[doubled[:5]].tolist(), "ids": found.input_ids[row][:8].tolist()},
        )
    return len(found)
