"""Masking: the trained span of a row is exactly its response and its terminator."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from llmguard.alignment import Alignment
from llmguard.checks.tokens_of_rows import (
    aligned,
    evidence_of,
    first_where,
    hits,
    last_turn,
    masks_tally,
    names_of,
    of_trained_turns,
    per_token,
    row_hits,
)
from llmguard.contract import row_check
from llmguard.encoded import IGNORE_INDEX, Encoded
from llmguard.findings import Finding, error, warning
from llmguard.formats import Kind
from llmguard.tally import Tally

__all__ = [
    "boundary_falls_between_tokens",
    "every_prompt_token_is_masked",
    "every_response_token_is_trained",
]


@row_check
def every_prompt_token_is_masked(
    encoded: Any, rows: Any, tokenizer: Any, template: Any = None, train_on: str = "responses"
) -> Tally:
    """No token of a prompt (system, user, tool turns, role headers) is trained, unless the project says `train_on = "all"`.

    White space alone at the seam is a warning; what a template writes between generation prompt and response (an empty
    thinking block) may be trained or not, and is one if its end is trained without its start.
    """
    found, source, alignment = aligned(encoded, rows, tokenizer, template)
    if train_on == "all" or not found.has_labels:
        return Tally()
    judged = per_token(found, alignment.matched)
    wrong = alignment.of(Kind.PROMPT) & found.trained & judged
    if train_on == "last":
        wrong |= (
            alignment.of(Kind.RESPONSE, Kind.TERMINATOR)
            & found.trained
            & judged
            & ~last_turn(found, alignment)
        )
    blank = alignment.of(Kind.BLANK_BEFORE) & found.trained & judged
    blank |= _half_trained(found, alignment) & judged
    per_row = found.input_ids.count(wrong)
    everything = (per_row > 0) & (found.input_ids.count(found.trained) == found.input_ids.lengths)
    numbers = _foreign(found, wrong) * 2 > per_row
    answers = found.input_ids.count(alignment.of(Kind.RESPONSE) & found.trained)
    inverted = (per_row * 2 > found.input_ids.count(alignment.of(Kind.PROMPT))) & (answers == 0)
    all_rows = row_hits(found, source, everything & ~numbers, alignment)
    return masks_tally(
        found,
        int(alignment.matched.sum()),
        prompt=hits(found, source, wrong, alignment),
        seam=hits(found, source, blank, alignment),
        all=all_rows,
        numbers=row_hits(found, source, numbers, alignment),
        inverted=row_hits(found, source, inverted & ~numbers, alignment),
    )


def _foreign(encoded: Encoded, wrong: Any) -> Any:
    """How many of some trained tokens have another label than their own id: int64 [rows]."""
    if not wrong.any():  # as where labels have another shape than the ids
        return np.zeros(len(encoded), dtype=np.int64)
    return encoded.input_ids.count(wrong & (encoded.labels.values != encoded.input_ids.values))


def _half_trained(encoded: Encoded, alignment: Alignment) -> Any:
    """Trained tokens at the seam behind masked ones that hold text: bool [tokens]."""
    ids = encoded.input_ids
    seam = alignment.of(Kind.SEAM)
    if not seam.any():
        return seam
    seam &= alignment.vocabulary.lengths_of(ids.values) > 0
    masked = seam & ~encoded.trained
    found = np.zeros_like(seam)
    found[1:] = seam[1:] & encoded.trained[1:] & masked[:-1] & (ids.position[1:] > 0)
    return found


CAUSES = {
    "all": "labels are a copy of input_ids",
    "numbers": f"labels there are neither {IGNORE_INDEX} nor the tokens' own ids, see labels_are_not_shifted",
    "inverted": "the mask is upside down: prompts are trained and responses masked, or the roles are taken for each other",
}
"""What trains prompts, where most rows are so."""
OFF = (
    "the boundary is off: a prompt length from another template, another tokenizer, other special tokens, "
    "or len() of a mapping"
)


@every_prompt_token_is_masked.explain
def _trained_prompts(tally: Tally) -> Iterator[Finding]:
    prompt, seam = tally["prompt"], tally["seam"]
    if prompt.rows:
        each = prompt.things / prompt.rows
        cause = next((c for kind, c in CAUSES.items() if tally[kind].rows * 2 > prompt.rows), OFF)
        yield error(
            first_where(prompt),
            what=f"{tally.rate('prompt')} train tokens of their prompt ({prompt.things:,} tokens, {each:.1f} a row; {names_of(prompt)})",
            why="the model learns to write prompts, and long prompts drown the responses in the loss",
            cause=cause,
            remedy=(
                "set labels to -100 up to where the response starts; if the whole sequence is to be trained, "
                'say so with `[pipeline] train_on = "all"`'
            ),
            expected="labels of -100 on every prompt token",
            actual=f"{prompt.things} prompt tokens trained",
            evidence=evidence_of(prompt),
        )
    if seam.rows and not prompt.rows:
        yield warning(
            first_where(seam),
            what=f"{tally.rate('seam')} train a part of what stands between prompt and response",
            why=(
                "at generation time what stands there is part of the prompt, so that training it is wasted, "
                "and a sign that the boundary is one token off"
            ),
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
    found, source, alignment = aligned(encoded, rows, tokenizer, template)
    if not found.has_labels:
        return Tally()
    masked = ~found.trained & per_token(found, alignment.matched)
    lost = of_trained_turns(alignment.of(Kind.RESPONSE) & masked, found, alignment)
    blank = of_trained_turns(alignment.of(Kind.BLANK_WITHIN) & masked, found, alignment)
    looked_at = int((alignment.matched & (found.input_ids.count(found.trained) > 0)).sum())
    return masks_tally(
        found,
        looked_at,
        lost=hits(found, source, lost, alignment),
        blank=hits(found, source, blank, alignment),
    )


@every_response_token_is_trained.explain
def _lost_responses(tally: Tally) -> Iterator[Finding]:
    if tally["lost"].rows:
        lost = tally["lost"]
        yield error(
            first_where(lost),
            what=(
                f"{tally.rate('lost')} mask tokens of their response ({lost.things:,} tokens, "
                f"{lost.things / lost.rows:.1f} a row; {names_of(lost)})"
            ),
            why="what is masked is never learnt: a first token lost makes every answer start wrong",
            cause=(
                "the prompt's length was counted on other ids than the row's (a trailing space, "
                "another special token, padding on the left), so that the mask is off by some tokens"
            ),
            remedy=(
                "count the prompt's tokens in the ids of the row itself (offsets, "
                "or the ids of the prompt as prefix), after truncation and padding"
            ),
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
def boundary_falls_between_tokens(
    encoded: Any, rows: Any, tokenizer: Any, template: Any = None, train_on: str = "responses"
) -> Tally:
    """No token holds the end of the prompt and the start of the response (OpenRLHF#705): either side it is counted to, it is wrong."""
    found, source, alignment = aligned(encoded, rows, tokenizer, template)
    if not found.has_labels or train_on == "all":
        return Tally()
    straddling = alignment.of(Kind.STRADDLE) & per_token(
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
