"""Collation: what the collator is given reaches the model."""

from __future__ import annotations

from typing import Any

import numpy as np

from llmguard.contract import Yields, check
from llmguard.encoded import IGNORE_INDEX, Batches, Encoded, as_batches, as_encoded
from llmguard.findings import Where, error
from llmguard.ragged import Ragged

__all__ = [
    "batch_padding_is_masked",
    "batches_carry_labels",
    "batches_keep_every_row",
    "collator_attends_to_content",
    "collator_keeps_labels",
    "collator_takes_rows_of_unequal_length",
]


def _where(batches: Batches, row: int) -> Where:
    return Where(what=f"batches of {batches.padded.name}", row=row)


def _matched(encoded: Encoded, batches: Batches) -> list[tuple[int, Any, Any, int]]:
    """For each row of a batch that went in as it came out: (row, labels before, labels after, tokens).

    Cut rows are compared as far as they go.
    """
    after = batches.padded
    found = []
    for row in range(min(len(encoded), len(after))):
        start = _offset(encoded.input_ids[row], after.input_ids[row])
        length = min(len(encoded.input_ids[row]), len(after.input_ids[row]) - start)
        if (
            start >= 0
            and encoded.labels.same_shape(encoded.input_ids)
            and after.labels.same_shape(after.input_ids)
        ):
            found.append(
                (row, encoded.labels[row][:length], after.labels[row][start : start + length], length)
            )
    return found


def _offset(before: Any, after: Any) -> int:
    """Where a row's ids stand in its padded row: 0 for padding on the right; -1 if they do not."""
    length = min(len(before), len(after))
    for start in (0, len(after) - length):
        if np.array_equal(before[:length], after[start : start + length]):
            return start
    return -1


CHANGES = (
    (
        "train tokens that the data mask",
        "a collator that makes labels from input_ids and overwrites those that are there "
        "(DataCollatorForLanguageModeling(mlm=False))",
    ),
    ("mask tokens that the data train", "a collator that masks by the pad id, which is also the EOS id"),
    ("carry other labels than the data", "a collator that shifts or rebuilds labels"),
)
"""What a collator may do to labels, and what does it."""


@check
def collator_keeps_labels(encoded: Any, batches: Any) -> Yields:
    """The labels that go into the collator come out of it, apart from padding.

    DataCollatorForLanguageModeling makes new ones from input_ids (transformers#26357) and masks every pad id, which takes EOS
    away where pad is EOS (transformers#23530). Rows without labels of their own are not judged.
    """
    before, after = as_encoded(encoded), as_batches(batches)
    if not before.has_labels or "labels" not in after.padded.columns:
        return 0
    pairs = _matched(before, after)
    trained = [(r, int(((b == IGNORE_INDEX) & (a != IGNORE_INDEX)).sum())) for r, b, a, _ in pairs]
    masked = [(r, int(((b != IGNORE_INDEX) & (a == IGNORE_INDEX)).sum())) for r, b, a, _ in pairs]
    other = [(r, int(((b != a) & (b != IGNORE_INDEX) & (a != IGNORE_INDEX)).sum())) for r, b, a, _ in pairs]
    collator = str(after.facts.get("collator") or after.padded.name)
    for counts, (what, cause) in zip((trained, masked, other), CHANGES, strict=True):
        bad = [(r, n) for r, n in counts if n]
        if bad:
            row = bad[0][0]
            yield error(
                _where(after, row),
                what=f"{len(bad)} of {len(pairs)} rows {what} once they have passed the collator ({sum(n for _, n in bad):,} tokens)",
                why="what was masked or trained on purpose is not what the model sees: the loss looks plausible and means something else",
                cause=cause,
                remedy=(
                    "use a collator that pads labels with -100 and leaves the rest (DataCollatorForSeq2Seq, "
                    "TRL's collators), and a pad token that is not EOS"
                ),
                expected=str(pairs[[p[0] for p in pairs].index(row)][1][-12:].tolist()),
                actual=str(pairs[[p[0] for p in pairs].index(row)][2][-12:].tolist()),
                evidence={
                    "rows": [r for r, _ in bad[:5]],
                    "collator": collator,
                    "tokens": _tokens(before, after, row),
                },
            )
    return len(pairs)


def _tokens(before: Encoded, after: Batches, row: int) -> list[dict[str, Any]]:
    start = _offset(before.input_ids[row], after.padded.input_ids[row])
    ids, had = before.input_ids[row], before.labels[row]
    now = after.padded.labels[row][start : start + len(ids)]
    first = int(np.argmax(had[: len(now)] != now))
    window = range(max(0, first - 6), min(len(now), first + 7))
    return [
        {
            "text": "",
            "id": int(ids[i]),
            "position": i,
            "label": int(now[i]),
            "kind": "kept" if had[i] == now[i] else "changed",
            "trained": bool(now[i] != IGNORE_INDEX),
        }
        for i in window
    ]


@check
def collator_takes_rows_of_unequal_length(batches: Any) -> Yields:
    """The collator makes a batch of several rows as they come out of encode, whatever their lengths."""
    after = as_batches(batches)
    told = after.facts.get("failed")
    if told:
        lengths = ", ".join(map(str, told.get("lengths") or ()))
        start, stop = told["rows"]
        yield error(
            Where(
                file=told.get("file"),
                line=told.get("line"),
                what=f"batches of {after.padded.name}",
                row=start,
            ),
            what=(
                f"the collator fails on rows {start} to {stop - 1}{f' (of {lengths} tokens)' if lengths else ''}: "
                f"{told.get('type')}: {told.get('message')}"
            ),
            why="training ends at its first step (rows were given to it one by one here, to judge the rest of it)",
            cause="a collator that pads input_ids and not labels (DataCollatorForLanguageModeling, default_data_collator)",
            remedy="use a collator that pads labels too: DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=-100)",
            evidence={"lengths": list(told.get("lengths") or ()), "type": told.get("type")},
        )
    return len(after)


@check
def batches_carry_labels(batches: Any, encoded: Any = None) -> Yields:
    """Batches that the model is trained on have labels, and some of them are not -100."""
    after = as_batches(batches)
    if not after.padded.has_labels:
        yield error(
            _where(after, 0),
            what=f"the batches have no labels: their columns are {', '.join(after.padded.columns)}",
            why="the model returns no loss, or a Trainer that needs one fails at the first step",
            cause="labels were never made, or were dropped with the columns that the model's forward does not name",
            remedy="make labels in encode (or use a collator that does), and keep them with remove_unused_columns=False",
        )
    elif not after.padded.trained.any():
        yield error(
            _where(after, 0),
            what=f"no token of {len(after)} rows in the batches has a label",
            why="every loss is NaN, logged as 0.0",
            cause="the collator masks everything: a response marker that it does not find",
            remedy="look at a batch with `llmguard show`",
        )
    return len(after)


@check
def batch_padding_is_masked(batches: Any) -> Yields:
    """Padding in batches has attention 0 and the label -100."""
    after = as_batches(batches).padded
    wrong = (
        ~after.attended & after.trained
        if after.has_labels
        else np.zeros(len(after.input_ids.values), dtype=bool)
    )
    rows = np.flatnonzero(after.input_ids.count(wrong))
    if len(rows):
        yield error(
            Where(what=f"batches of {after.name}", row=int(rows[0])),
            what=f"{len(rows)} of {len(after)} rows train their padding ({int(wrong.sum()):,} tokens)",
            why="the loss looks better than it is, and the model learns to write padding",
            cause="labels are padded with the pad token",
            remedy="pad labels with -100",
            evidence={"rows": rows[:5].tolist()},
        )
    return len(after)


@check
def collator_attends_to_content(encoded: Any, batches: Any) -> Yields:
    """Every token that went into the collator is attended to, and padding is not."""
    before, after = as_encoded(encoded), as_batches(batches)
    mask = after.padded.columns.get("attention_mask")
    padded = _padded_rows(before, after)
    if mask is None:
        if padded:
            yield error(
                _where(after, padded[0]),
                what=f"the batches have no attention_mask, and {len(padded)} of their rows are padded",
                why="the model attends to padding; with padding on the left every position is wrong",
                cause="a collator that drops the mask",
                remedy="return attention_mask with every batch",
                evidence={"rows": padded[:5]},
            )
        return len(after)
    hidden, shown = _attention(before, after, mask)
    for rows, what in ((hidden, "leave content unattended"), (shown, "attend to padding")):
        if rows:
            yield error(
                _where(after, rows[0]),
                what=f"{len(rows)} of {len(after)} rows {what}",
                why="the model does not see what it is trained on, or sees what is not there",
                cause="an attention mask made from ids (pad id, which may also be EOS) or padded on the other side than the ids",
                remedy="pad attention_mask together with input_ids, on the same side, with 0",
                evidence={"rows": rows[:5]},
            )
    return len(after)


def _padded_rows(before: Encoded, after: Batches) -> list[int]:
    """Rows with one token over and over beside what went in: several rows joined to one have other text there."""
    return [
        r
        for r in range(min(len(before), len(after)))
        if len(after.padded.input_ids[r]) > len(before.input_ids[r])
        and (len(before) == len(after) or _is_padding(before.input_ids[r], after.padded.input_ids[r]))
    ]


def _is_padding(before: Any, after: Any) -> bool:
    start = _offset(before, after)
    rest = np.delete(after, np.s_[start : start + len(before)])
    return start >= 0 and bool((rest == rest[0]).all())


def _attention(before: Encoded, after: Batches, mask: Ragged) -> tuple[list[int], list[int]]:
    hidden, shown = [], []
    for row in range(min(len(before), len(after))):
        ids, wide = before.input_ids[row], after.padded.input_ids[row]
        start = _offset(ids, wide)
        if start < 0 or len(mask[row]) != len(wide):
            continue
        inside = np.zeros(len(wide), dtype=bool)
        inside[start : start + len(ids)] = True
        wanted = before.attended[before.input_ids.offsets[row] : before.input_ids.offsets[row + 1]][
            : int(inside.sum())
        ]
        hidden += [row] if (mask[row][inside] == 0)[wanted].any() else []
        shown += [row] if (mask[row][~inside] != 0).any() else []
    return hidden, shown


@check
def batches_keep_every_row(batches: Any) -> Yields:
    """As many rows come out of the collator as went in (packing collators, which make one row of several, tell by position_ids)."""
    after = as_batches(batches)
    went_in = after.facts.get("rows_in")
    packed = {"position_ids", "seq_lengths", "cu_seq_lens_q"} & {
        *after.padded.columns,
        *after.facts.get("batch_keys", {}).get("train", []),
    }
    if isinstance(went_in, int) and went_in != len(after) and not packed:
        yield error(
            _where(after, 0),
            what=f"{went_in} rows went into the collator and {len(after)} came out",
            why="rows are lost without a word, or run into each other",
            cause="a collator that filters rows, or concatenates them without position_ids",
            remedy="filter rows before training, and count them",
            expected=str(went_in),
            actual=str(len(after)),
        )
    return len(after)
