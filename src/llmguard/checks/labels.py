"""Labels as they are, without the text: none missing everywhere, none shifted, none on padding."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from llmguard.checks.tokens_of_rows import (
    evidence_of,
    first_where,
    hits,
    masks_tally,
    names_of,
    per_token,
    row_hits,
)
from llmguard.contract import row_check
from llmguard.encoded import IGNORE_INDEX, Encoded, as_encoded
from llmguard.findings import Finding, error
from llmguard.rows import as_rows
from llmguard.tally import Tally

__all__ = [
    "columns_are_as_long_as_their_ids",
    "every_row_has_a_supervised_token",
    "labels_are_not_shifted",
    "padding_is_never_trained",
]

PER_TOKEN = (
    "labels", "attention_mask", "completion_mask", "assistant_masks", "position_ids", "token_type_ids",
)  # fmt: skip
"""Columns with a value for every id."""

FEW, NEARLY_ALL = 8, 0.95
"""From so many wrong labels on, one number that this share of them is counts as a mask's."""


@row_check
def every_row_has_a_supervised_token(encoded: Any, rows: Any = None) -> Tally:
    """Every row has a token that is trained.

    A batch of rows without one has the loss NaN (0/0), which the Trainer logs as 0.0 (trl#6668); a framework may also drop
    such rows without a word. Looks at labels alone; needs no tokenizer.
    """
    found = as_encoded(encoded)
    if not found.has_labels or not found.labels.same_shape(found.input_ids):
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
            cause=(
                "a response marker that is not found in the ids, a prompt longer than max_length, "
                "an assistant mask without {% generation %} in the template"
            ),
            remedy=(
                "look at one of these rows with `llmguard show`; build labels from the prompt's length or from "
                "offsets, not from a marker; truncate the prompt, not the response"
            ),
            expected="at least one label in every row",
            actual=f"{tally['bare'].rows} rows without",
            evidence=evidence_of(tally["bare"]),
        )


@row_check
def columns_are_as_long_as_their_ids(encoded: Any, rows: Any = None) -> Tally:
    """Labels, attention mask and the like have one value for every id of their row."""
    found = as_encoded(encoded)
    source = as_rows(rows) if rows is not None else None
    kinds = {}
    for name in PER_TOKEN:
        column = found.columns.get(name)
        if column is not None and not column.same_shape(found.input_ids):
            other = column.lengths != found.input_ids.lengths
            kinds[name] = row_hits(found, source, other, length=column.lengths, ids=found.input_ids.lengths)
    return masks_tally(found, len(found), **kinds)


@columns_are_as_long_as_their_ids.explain
def _other_lengths(tally: Tally) -> Iterator[Finding]:
    for name, found in tally.hits.items():
        first = found.examples[0]
        yield error(
            first_where(found),
            what=(
                f"{tally.rate(name)} have {name} of another length than their input_ids "
                f"({first['length']} and {first['ids']} in the first; {names_of(found)})"
            ),
            why="the collator fails, or pads both to one width: every label then stands at another token than its own",
            cause="ids were truncated, padded or given a BOS or EOS, and this column was not",
            remedy="change all columns of a row together, and cut them to the same length",
            expected=f"{first['ids']} values",
            actual=f"{first['length']} values",
            evidence=evidence_of(found),
        )


@row_check
def labels_are_not_shifted(encoded: Any, rows: Any = None) -> Tally:
    """Where a label is set, it is the token at its own position: causal models of transformers shift inside (transformers#44642).

    Also no other number than -100 (-1, the pad id, 0 and 1 of a loss mask) stands for what is masked.
    """
    found = as_encoded(encoded)
    if "labels" not in found.columns or not found.labels.same_shape(found.input_ids):
        return Tally()
    ids, labels, trained = found.input_ids, found.labels, found.trained
    source = as_rows(rows) if rows is not None else None
    wrong = trained & (labels.values != ids.values)
    if not wrong.any():
        return masks_tally(found, len(found))
    ahead = np.zeros_like(wrong)
    ahead[:-1] = wrong[:-1] & (labels.values[:-1] == ids.values[1:])
    behind = np.zeros_like(wrong)
    behind[1:] = wrong[1:] & (labels.values[1:] == ids.values[:-1])
    count = ids.count(wrong)
    moved = (ids.count(ahead | behind) * 2 > count) & (count * 2 > np.maximum(ids.count(trained), 1))
    rest = wrong & ~per_token(found, moved)
    fill = _fill(labels.values[rest])
    kinds = {f"fill:{fill}" if fill is not None else "other": hits(found, source, rest)}
    return masks_tally(
        found, len(found), shifted=hits(found, source, per_token(found, moved) & (ahead | behind)), **kinds
    )


def _fill(wrong: Any) -> int | None:
    """The number that nearly all wrong labels are, if there is one; None where they are no mask."""
    if len(wrong) < FEW:
        return None
    values, counts = np.unique(wrong, return_counts=True)
    most = int(np.argmax(counts))
    if set(values.tolist()) <= {0, 1}:
        return 0
    return int(values[most]) if counts[most] >= NEARLY_ALL * len(wrong) else None


@labels_are_not_shifted.explain
def _shifted_labels(tally: Tally) -> Iterator[Finding]:
    if tally["shifted"].rows:
        yield error(
            first_where(tally["shifted"]),
            what=f"{tally.rate('shifted')} have labels moved by one position against their ids ({tally['shifted'].things:,} labels)",
            why=(
                "a causal model of transformers shifts labels itself: shifted twice, "
                "it learns the token after the next one and generates word salad"
            ),
            cause="labels = input_ids[1:] as in a hand-written training loop",
            remedy="set labels[i] = input_ids[i] (or -100) and leave the shift to the model",
            evidence=evidence_of(tally["shifted"]),
        )
    for kind, found in tally.hits.items():
        value = kind.removeprefix("fill:")
        if found.rows and value != kind:
            yield error(
                first_where(found),
                what=f"{tally.rate(kind)} have the label {value} where their ids have other tokens ({found.things:,} labels)",
                why=f"only {IGNORE_INDEX} is left out of the loss: the model is taught to write token {value} there, or the loss fails",
                cause="a mask with another number than -100 (the pad id, -1), a loss mask of zeros and ones in the place of labels, "
                "or labels that were padded with the pad id",
                remedy=f"set labels to {IGNORE_INDEX} where nothing is trained, and to the ids elsewhere",
                expected=f"{IGNORE_INDEX} or the token's own id",
                actual=value,
                evidence=evidence_of(found),
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
