"""Masking by turns: every response is trained, to its end and no further."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from llmguard.alignment import Status
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
from llmguard.findings import Finding, error, note, warning
from llmguard.formats import Kind
from llmguard.tally import Tally

__all__ = [
    "every_wanted_turn_is_trained",
    "nothing_is_trained_after_the_terminator",
    "terminator_is_trained",
]


@row_check
def every_wanted_turn_is_trained(
    encoded: Any, rows: Any, tokenizer: Any, template: Any = None, train_on: str = "responses"
) -> Tally:
    """Each response of a row is trained (all but the last may be masked with `train_on = "last"`).

    Rows without any supervised token are told by `every_row_has_a_supervised_token`.
    """
    found, source, alignment = aligned(encoded, rows, tokenizer, template)
    if not found.has_labels or train_on == "last":
        return Tally()
    wanted = alignment.matched & (alignment.responses > 0) & (found.input_ids.count(found.trained) > 0)
    missing = alignment.of(Kind.RESPONSE) & ~found.trained & per_token(found, wanted)
    missing &= ~of_trained_turns(missing, found, alignment)
    last = missing & last_turn(found, alignment)
    rows_last = found.input_ids.count(last) > 0
    earlier_trained = (
        found.input_ids.count(
            found.trained & alignment.of(Kind.RESPONSE, Kind.STRADDLE) & ~last_turn(found, alignment)
        )
        > 0
    )
    only_last = (
        wanted
        & (alignment.responses > 1)
        & ~rows_last
        & ~earlier_trained
        & (found.input_ids.count(missing) > 0)
    )
    some = missing & ~per_token(found, only_last)
    return masks_tally(
        found,
        int(wanted.sum()),
        only_last=row_hits(found, source, only_last, alignment),
        some=hits(found, source, some, alignment),
    )


@every_wanted_turn_is_trained.explain
def _untrained_turns(tally: Tally) -> Iterator[Finding]:
    if tally["some"].rows:
        yield error(
            first_where(tally["some"]),
            what=f"{tally.rate('some')} leave a whole response untrained ({names_of(tally['some'])})",
            why="the model learns some turns and not others, in an order that nobody chose",
            cause=(
                "a search for turn markers that misses some (and writes its -1 as an index), "
                "or a mask that stops at the first turn"
            ),
            remedy='make the mask from every assistant turn\'s own span; say `[pipeline] train_on = "last"` if only the last one is meant',
            evidence=evidence_of(tally["some"]),
        )
    if tally["only_last"].rows:
        yield warning(
            first_where(tally["only_last"]),
            what=f"{tally.rate('only_last')} train the last of their responses only",
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
    found, source, alignment = aligned(encoded, rows, tokenizer, template)
    if not found.has_labels:
        return Tally()
    whole = alignment.matched & (alignment.status != Status.CUT_RIGHT)
    lost = alignment.of(Kind.TERMINATOR) & ~found.trained & per_token(found, whole)
    lost = of_trained_turns(lost, found, alignment)
    if not lost.any():
        return masks_tally(found, int(whole.sum()), lost=hits(found, source, lost, alignment))
    lost &= ~alignment.vocabulary.blank[np.clip(found.input_ids.values, 0, len(alignment.vocabulary) - 1)]
    return masks_tally(found, int(whole.sum()), lost=hits(found, source, lost, alignment))


@terminator_is_trained.explain
def _masked_terminators(tally: Tally) -> Iterator[Finding]:
    if tally["lost"].rows:
        token: dict[str, Any] = next(
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
            remedy=(
                "mask padding by attention_mask (or give the tokenizer a pad token of its own), "
                "and let the label span include the terminator"
            ),
            expected="a label on the terminator",
            actual="-100",
            evidence=evidence_of(tally["lost"]),
        )


@row_check
def nothing_is_trained_after_the_terminator(
    encoded: Any, rows: Any, tokenizer: Any, template: Any = None
) -> Tally:
    """What follows the terminator (a line break of the template, a second EOS) is not trained; a note where it is."""
    found, source, alignment = aligned(encoded, rows, tokenizer, template)
    if not found.has_labels:
        return Tally()
    after = alignment.of(Kind.TAIL) & found.trained & per_token(found, alignment.status == Status.EXACT)
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
