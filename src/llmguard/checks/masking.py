"""Masking: the trained span of a row is exactly its response and its terminator."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from llmguard.alignment import Alignment, Status, align
from llmguard.checks.tokens_of_rows import evidence_of, first_where, hits, masks_tally, names_of, row_hits
from llmguard.contract import row_check
from llmguard.encoded import IGNORE_INDEX, Encoded, as_encoded
from llmguard.findings import Finding, error, note, warning
from llmguard.formats import Kind
from llmguard.rows import as_rows
from llmguard.tally import Tally

__all__ = [
    "boundary_falls_between_tokens",
    "every_prompt_token_is_masked",
    "every_response_token_is_trained",
    "every_row_has_a_supervised_token",
    "every_wanted_turn_is_trained",
    "labels_are_not_shifted",
    "nothing_is_trained_after_the_terminator",
    "padding_is_never_trained",
    "terminator_is_trained",
]


def _aligned(encoded: Any, rows: Any, tokenizer: Any, template: Any) -> tuple[Encoded, Any, Alignment]:
    found, source = as_encoded(encoded), as_rows(rows)
    return found, source, align(found, source, tokenizer, template)


def _per_token(encoded: Encoded, rows_mask: Any) -> Any:
    return np.repeat(rows_mask, encoded.input_ids.lengths)


@row_check
def every_row_has_a_supervised_token(encoded: Any, rows: Any = None) -> Tally:
    """Every row has a token that is trained.

    A batch of rows without one has the loss NaN (0/0), which the Trainer logs as 0.0 (trl#6668); a framework may also drop
    such rows without a word. Looks at labels alone; needs no tokenizer.
    """
    found = as_encoded(encoded)
    if not found.has_labels:
        return Tally()
    bare = found.input_ids.count(found.trained) == 0
    return masks_tally(
        found,
        len(found),
        bare=row_hits(
            found, as_rows(rows) if rows is not None else None, bare, length=found.input_ids.lengths
        ),
    )


@every_row_has_a_supervised_token.explain
def _bare_rows(tally: Tally) -> Iterator[Finding]:
    if tally["bare"].rows:
        yield error(
            first_where(tally["bare"]),
            what=f"{tally.rate('bare')} have no supervised token: every label is {IGNORE_INDEX} ({names_of(tally['bare'])})",
            why="such rows teach nothing, and a batch of them has the loss NaN, which the Trainer logs as 0.0",
            cause="a response marker that is not found in the ids, a prompt longer than max_length, an assistant mask without {% generation %} in the template",
            remedy="look at one of these rows with `llmguard show`; build labels from the prompt's length or from offsets, not from a marker; truncate the prompt, not the response",
            expected="at least one label in every row",
            actual=f"{tally['bare'].rows} rows without",
            evidence=evidence_of(tally["bare"]),
        )


@row_check
def labels_are_not_shifted(encoded: Any, rows: Any = None) -> Tally:
    """Where a label is set, it is the token at its own position: causal models of transformers shift inside (transformers#44642).

    Rows of fewer than three supervised tokens are not judged.
    """
    found = as_encoded(encoded)
    if "labels" not in found.columns or not found.labels.same_shape(found.input_ids):
        return Tally()
    ids, labels, trained = found.input_ids, found.labels, found.trained
    source = as_rows(rows) if rows is not None else None
    wrong = trained & (labels.values != ids.values)
    ahead = np.zeros_like(wrong)
    ahead[:-1] = wrong[:-1] & (labels.values[:-1] == ids.values[1:])
    behind = np.zeros_like(wrong)
    behind[1:] = wrong[1:] & (labels.values[1:] == ids.values[:-1])
    many = ids.count(wrong) * 2 > np.maximum(ids.count(trained), 1)
    shifted = _per_token(found, many) & (ahead | behind)
    return masks_tally(
        found,
        len(found),
        shifted=hits(found, source, shifted),
        other=hits(found, source, wrong & ~_per_token(found, many)),
    )


@labels_are_not_shifted.explain
def _shifted_labels(tally: Tally) -> Iterator[Finding]:
    if tally["shifted"].rows:
        yield error(
            first_where(tally["shifted"]),
            what=f"{tally.rate('shifted')} have labels moved by one position against their ids ({tally['shifted'].things:,} labels)",
            why="a causal model of transformers shifts labels itself: shifted twice, it learns the token after the next one and generates word salad",
            cause="labels = input_ids[1:] as in a hand-written training loop",
            remedy="set labels[i] = input_ids[i] (or -100) and leave the shift to the model",
            evidence=evidence_of(tally["shifted"]),
        )
    if tally["other"].rows:
        yield error(
            first_where(tally["other"]),
            what=f"{tally.rate('other')} train a token that is not the one in their ids ({tally['other'].things:,} labels differ)",
            why="the model is taught other words than the row holds",
            cause="ids edited after labels were made, or labels of another row",
            remedy="make labels from the ids of the same row, last of all",
            evidence=evidence_of(tally["other"]),
        )


@row_check
def every_prompt_token_is_masked(
    encoded: Any, rows: Any, tokenizer: Any, template: Any = None, train_on: str = "responses"
) -> Tally:
    """No token of a prompt (system, user, tool turns, role headers) is trained, unless the project says `train_on = "all"`.

    White space alone at the seam is a warning; what a template writes between generation prompt and response (an empty
    thinking block) may be trained or not.
    """
    found, source, alignment = _aligned(encoded, rows, tokenizer, template)
    if train_on == "all" or not found.has_labels:
        return Tally()
    judged = _per_token(found, alignment.matched)
    wrong = alignment.of(Kind.PROMPT) & found.trained & judged
    if train_on == "last":
        wrong |= (
            alignment.of(Kind.RESPONSE, Kind.TERMINATOR)
            & found.trained
            & judged
            & ~_last_turn(found, alignment)
        )
    blank = alignment.of(Kind.BLANK_BEFORE) & found.trained & judged
    everything = (found.input_ids.count(wrong) > 0) & (
        found.input_ids.count(found.trained) == found.input_ids.lengths
    )
    all_rows = row_hits(found, source, everything, alignment)
    return masks_tally(
        found,
        int(alignment.matched.sum()),
        prompt=hits(found, source, wrong, alignment),
        seam=hits(found, source, blank, alignment),
        all=all_rows,
    )


def _last_turn(encoded: Encoded, alignment: Alignment) -> Any:
    return alignment.turn == _per_token(encoded, alignment.responses - 1)


@every_prompt_token_is_masked.explain
def _trained_prompts(tally: Tally) -> Iterator[Finding]:
    prompt, seam = tally["prompt"], tally["seam"]
    if prompt.rows:
        whole = tally["all"].rows
        each = prompt.things / prompt.rows
        cause = (
            "labels are a copy of input_ids"
            if whole * 2 > prompt.rows
            else "the boundary is off: a prompt length from another template, another tokenizer, other special tokens, or len() of a mapping"
        )
        yield error(
            first_where(prompt),
            what=f"{tally.rate('prompt')} train tokens of their prompt ({prompt.things:,} tokens, {each:.1f} a row; {names_of(prompt)})",
            why="the model learns to write prompts, and long prompts drown the responses in the loss",
            cause=cause,
            remedy='set labels to -100 up to where the response starts; if the whole sequence is to be trained, say so with `[pipeline] train_on = "all"`',
            expected="labels of -100 on every prompt token",
            actual=f"{prompt.things} prompt tokens trained",
            evidence=evidence_of(prompt),
        )
    if seam.rows and not prompt.rows:
        yield warning(
            first_where(seam),
            what=f"{tally.rate('seam')} train the white space between prompt and response",
            why="at generation time this white space is part of the prompt, so that training it is wasted, and a sign that the boundary is one token off",
            cause="the mask ends with the role marker and not with the line break behind it",
            remedy="mask the whole generation prompt, its last line break included",
            evidence=evidence_of(seam),
        )


@row_check
def every_response_token_is_trained(
    encoded: Any, rows: Any, tokenizer: Any, template: Any = None, train_on: str = "responses"
) -> Tally:
    """Every token of a response that is trained at all is trained: none is lost at its start, at its end or within.

    Whole turns that are not trained are told by `every_wanted_turn_is_trained`, rows without any supervised token by
    `every_row_has_a_supervised_token`.
    """
    found, source, alignment = _aligned(encoded, rows, tokenizer, template)
    if not found.has_labels:
        return Tally()
    turns = _trained_turns(found, alignment)
    judged = _per_token(found, alignment.matched) & turns
    lost = alignment.of(Kind.RESPONSE) & ~found.trained & judged
    blank = alignment.of(Kind.BLANK_WITHIN) & ~found.trained & judged
    looked_at = int((alignment.matched & (found.input_ids.count(found.trained) > 0)).sum())
    return masks_tally(
        found,
        looked_at,
        lost=hits(found, source, lost, alignment),
        blank=hits(found, source, blank, alignment),
    )


def _trained_turns(encoded: Encoded, alignment: Alignment) -> Any:
    """Tokens of turns of which some response token is trained: bool [tokens]."""
    turn = alignment.turn.astype(np.int64)
    width = int(turn.max(initial=0)) + 2
    key = encoded.input_ids.row_of * width + turn + 1
    counted = np.bincount(
        key[encoded.trained & alignment.of(Kind.RESPONSE, Kind.STRADDLE)], minlength=len(encoded) * width
    )
    return (counted[key] > 0) & (turn >= 0)


@every_response_token_is_trained.explain
def _lost_responses(tally: Tally) -> Iterator[Finding]:
    if tally["lost"].rows:
        lost = tally["lost"]
        yield error(
            first_where(lost),
            what=f"{tally.rate('lost')} mask tokens of their response ({lost.things:,} tokens, {lost.things / lost.rows:.1f} a row; {names_of(lost)})",
            why="what is masked is never learnt: a first token lost makes every answer start wrong",
            cause="the prompt's length was counted on other ids than the row's (a trailing space, another special token, padding on the left), so that the mask is off by some tokens",
            remedy="count the prompt's tokens in the ids of the row itself (offsets, or the ids of the prompt as prefix), after truncation and padding",
            expected="a label on every response token",
            actual=f"{lost.things} response tokens masked",
            evidence=evidence_of(lost),
        )
    elif tally["blank"].rows:
        yield warning(
            first_where(tally["blank"]),
            what=f"{tally.rate('blank')} mask white space at the edge of their response",
            why="at generation time the model has to write this white space, and has not learnt to",
            cause="the mask was built for the response without its white space",
            remedy="strip the responses, or train their white space too",
            evidence=evidence_of(tally["blank"]),
        )


@row_check
def every_wanted_turn_is_trained(
    encoded: Any, rows: Any, tokenizer: Any, template: Any = None, train_on: str = "responses"
) -> Tally:
    """In a conversation of several responses, each of them is trained (all but the last may be masked with `train_on = "last"`)."""
    found, source, alignment = _aligned(encoded, rows, tokenizer, template)
    if not found.has_labels or train_on == "last":
        return Tally()
    several = alignment.matched & (alignment.responses > 1) & (found.input_ids.count(found.trained) > 0)
    missing = alignment.of(Kind.RESPONSE) & ~_trained_turns(found, alignment) & _per_token(found, several)
    last = missing & _last_turn(found, alignment)
    rows_last = found.input_ids.count(last) > 0
    earlier_trained = (
        found.input_ids.count(
            found.trained & alignment.of(Kind.RESPONSE, Kind.STRADDLE) & ~_last_turn(found, alignment)
        )
        > 0
    )
    only_last = several & ~rows_last & ~earlier_trained & (found.input_ids.count(missing) > 0)
    some = missing & ~_per_token(found, only_last)
    return masks_tally(
        found,
        int(several.sum()),
        only_last=row_hits(found, source, only_last, alignment),
        some=hits(found, source, some, alignment),
    )


@every_wanted_turn_is_trained.explain
def _untrained_turns(tally: Tally) -> Iterator[Finding]:
    if tally["some"].rows:
        yield error(
            first_where(tally["some"]),
            what=f"{tally.rate('some')} of several responses leave a whole response untrained ({names_of(tally['some'])})",
            why="the model learns some turns and not others, in an order that nobody chose",
            cause="a search for turn markers that misses some (the first one is tokenised otherwise), or a mask that stops at the first turn",
            remedy='make the mask from every assistant turn\'s own span; say `[pipeline] train_on = "last"` if only the last one is meant',
            evidence=evidence_of(tally["some"]),
        )
    if tally["only_last"].rows:
        yield warning(
            first_where(tally["only_last"]),
            what=f"{tally.rate('only_last')} of several responses train the last one only",
            why="the other responses are paid for in every step and teach nothing",
            cause="a mask built for prompt and response, applied to conversations",
            remedy='train all responses, or say `[pipeline] train_on = "last"`',
            evidence=evidence_of(tally["only_last"]),
        )


@row_check
def terminator_is_trained(
    encoded: Any, rows: Any, tokenizer: Any, template: Any = None, train_on: str = "responses"
) -> Tally:
    """The token that ends a response is trained wherever the response is, so that the model learns to stop."""
    found, source, alignment = _aligned(encoded, rows, tokenizer, template)
    if not found.has_labels:
        return Tally()
    whole = alignment.matched & (alignment.status != Status.CUT_RIGHT)
    lost = (
        alignment.of(Kind.TERMINATOR)
        & ~found.trained
        & _per_token(found, whole)
        & _trained_turns(found, alignment)
    )
    lost &= ~alignment.vocabulary.blank[np.clip(found.input_ids.values, 0, len(alignment.vocabulary) - 1)]
    return masks_tally(found, int(whole.sum()), lost=hits(found, source, lost, alignment))


@terminator_is_trained.explain
def _masked_terminators(tally: Tally) -> Iterator[Finding]:
    if tally["lost"].rows:
        token = next(
            (
                t
                for t in tally["lost"].examples[0]["tokens"]
                if t["kind"] == "terminator" and not t["trained"]
            ),
            {},
        )
        yield error(
            first_where(tally["lost"]),
            what=f"{tally.rate('lost')} mask the terminator of their response ({token.get('text', '')!r}, id {token.get('id')})",
            why="the model never learns to stop: it writes on until max_new_tokens",
            cause="pad_token is eos_token and a collator masks by id, or the mask ends with the response's text",
            remedy="mask padding by attention_mask (or give the tokenizer a pad token of its own), and let the label span include the terminator",
            expected="a label on the terminator",
            actual="-100",
            evidence=evidence_of(tally["lost"]),
        )


@row_check
def boundary_falls_between_tokens(
    encoded: Any, rows: Any, tokenizer: Any, template: Any = None, train_on: str = "responses"
) -> Tally:
    """No token holds the end of the prompt and the start of the response (OpenRLHF#705): either side it is counted to, it is wrong."""
    found, source, alignment = _aligned(encoded, rows, tokenizer, template)
    if not found.has_labels or train_on == "all":
        return Tally()
    straddling = alignment.of(Kind.STRADDLE) & _per_token(
        found, alignment.matched & (found.input_ids.count(found.trained) > 0)
    )
    masked, trained = straddling & ~found.trained, straddling & found.trained
    return masks_tally(
        found,
        int(alignment.matched.sum()),
        masked=hits(found, source, masked, alignment),
        trained=hits(found, source, trained, alignment),
    )


@boundary_falls_between_tokens.explain
def _straddling_tokens(tally: Tally) -> Iterator[Finding]:
    for kind, make in (("masked", error), ("trained", warning)):
        found = tally[kind]
        if not found.rows:
            continue
        side = (
            "masked with the prompt: the first piece of the response is never learnt"
            if kind == "masked"
            else "trained: the model learns the end of the prompt too"
        )
        yield make(
            first_where(found),
            what=f"{tally.rate(kind)} have a token that holds both the end of the prompt and the start of the response; it is {side}",
            why="at generation time the prompt ends in another token, so that the model meets a start that it was never trained on",
            cause="prompt and response meet without a separator, or inside a run of line breaks that the tokenizer merges",
            remedy="end the prompt with a separator that stays a token of its own, or tokenise prompt and response apart and join the ids",
            evidence=evidence_of(found),
        )


@row_check
def nothing_is_trained_after_the_terminator(
    encoded: Any, rows: Any, tokenizer: Any, template: Any = None
) -> Tally:
    """What follows the terminator (a line break of the template, a second EOS) is not trained; a note where it is."""
    found, source, alignment = _aligned(encoded, rows, tokenizer, template)
    if not found.has_labels:
        return Tally()
    after = alignment.of(Kind.TAIL) & found.trained & _per_token(found, alignment.status == Status.EXACT)
    return masks_tally(found, int(alignment.matched.sum()), after=hits(found, source, after, alignment))


@nothing_is_trained_after_the_terminator.explain
def _trained_tails(tally: Tally) -> Iterator[Finding]:
    if tally["after"].rows:
        yield note(
            first_where(tally["after"]),
            what=f"{tally.rate('after')} train {tally['after'].things:,} tokens behind the terminator",
            why="harmless where generation stops at the terminator, and wasted",
            remedy="end the label span with the terminator",
            evidence=evidence_of(tally["after"]),
        )


@row_check
def padding_is_never_trained(encoded: Any, rows: Any = None, tokenizer: Any = None) -> Tally:
    """No padding has a label: neither tokens with attention 0, nor a run of pad tokens at the end of a row (axolotl#2227)."""
    found = as_encoded(encoded)
    if not found.has_labels:
        return Tally()
    padding = ~found.attended
    pad = getattr(tokenizer, "pad_token_id", None)
    if pad is not None and "attention_mask" not in found.columns:
        padding = padding | _trailing_run(found, int(pad), keep_first=pad == tokenizer.eos_token_id)
    source = as_rows(rows) if rows is not None else None
    return masks_tally(found, len(found), padding=hits(found, source, padding & found.trained))


def _trailing_run(encoded: Encoded, pad: int, *, keep_first: bool) -> Any:
    """Tokens of the run of `pad` that ends each row; without its first where that may be the terminator: bool [tokens]."""
    ids = encoded.input_ids
    others = np.where(ids.values != pad, ids.position + 1, 0)
    last = np.zeros(len(ids), dtype=np.int64)
    np.maximum.at(last, ids.row_of, others)
    return ids.position >= np.repeat(last + (1 if keep_first else 0), ids.lengths)


@padding_is_never_trained.explain
def _trained_padding(tally: Tally) -> Iterator[Finding]:
    if tally["padding"].rows:
        yield error(
            first_where(tally["padding"]),
            what=f"{tally.rate('padding')} train padding ({tally['padding'].things:,} tokens)",
            why="the loss looks better than it is, and the model learns to write padding",
            cause="labels were padded with the pad token instead of -100",
            remedy="pad labels with -100 (DataCollatorForSeq2Seq and TRL's collators do)",
            evidence=evidence_of(tally["padding"]),
        )
