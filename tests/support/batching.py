"""Batches as correct and as faulty collators make them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llmguard.encoded import Batches, as_batches, as_encoded

__all__ = ["COLLATORS", "batched", "padded"]

Row = dict[str, list[int]]
IGNORE = -100


def padded(
    rows: Sequence[Row], pad: int, *, left: bool = False, label: int = IGNORE
) -> dict[str, list[list[int]]]:
    """A batch of equal width: ids padded with `pad`, labels with `label`, attention with 0."""
    width = max(len(r["input_ids"]) for r in rows)
    fill = {"input_ids": pad, "labels": label, "attention_mask": 0}
    batch: dict[str, list[list[int]]] = {}
    for name, value in fill.items():
        more = [[value] * (width - len(r[name])) for r in rows]
        batch[name] = [[*m, *r[name]] if left else [*r[name], *m] for m, r in zip(more, rows, strict=True)]
    return batch


def batched(rows: Sequence[Row], collate: Callable[[Sequence[Row]], Any], size: int = 4) -> Batches:
    """The batches of a collator, with the rows that went in."""
    made = [collate(rows[i : i + size]) for i in range(0, len(rows), size)]
    found = as_batches(made, as_encoded(list(rows)))
    return Batches(found.padded, found.batch, found.before, {"rows_in": len(rows)})


def relabels(rows: Sequence[Row], pad: int) -> Any:
    """DataCollatorForLanguageModeling(mlm=False): labels are a copy of the ids, -100 where they are the pad id."""
    batch = padded(rows, pad)
    return {**batch, "labels": [[IGNORE if t == pad else t for t in ids] for ids in batch["input_ids"]]}


def masks_pad_ids(rows: Sequence[Row], pad: int) -> Any:
    """Labels kept, but -100 wherever the id is the pad id, which is EOS too."""
    batch = padded(rows, pad)
    pairs = zip(batch["input_ids"], batch["labels"], strict=True)
    return {
        **batch,
        "labels": [[IGNORE if i == pad else t for i, t in zip(a, b, strict=True)] for a, b in pairs],
    }


def shifts(rows: Sequence[Row], pad: int) -> Any:
    """Labels moved by one."""
    batch = padded(rows, pad)
    return {**batch, "labels": [[*labels[1:], IGNORE] for labels in batch["labels"]]}


def trains_padding(rows: Sequence[Row], pad: int) -> Any:
    """Labels padded with the pad id."""
    return padded(rows, pad, label=pad)


def attends_to_padding(rows: Sequence[Row], pad: int) -> Any:
    """An attention mask of ones."""
    batch = padded(rows, pad)
    return {**batch, "attention_mask": [[1] * len(ids) for ids in batch["input_ids"]]}


def pads_the_mask_on_the_other_side(rows: Sequence[Row], pad: int) -> Any:
    """Ids on the right, their mask on the left."""
    return {**padded(rows, pad), "attention_mask": padded(rows, pad, left=True)["attention_mask"]}


def drops_the_mask(rows: Sequence[Row], pad: int) -> Any:
    """No attention mask."""
    batch = padded(rows, pad)
    return {n: batch[n] for n in ("input_ids", "labels")}


def drops_labels(rows: Sequence[Row], pad: int) -> Any:
    """No labels."""
    batch = padded(rows, pad)
    return {n: batch[n] for n in ("input_ids", "attention_mask")}


def drops_a_row(rows: Sequence[Row], pad: int) -> Any:
    """One row of each batch is filtered away."""
    return padded(rows[:-1] or rows, pad)


COLLATORS: dict[Callable[[Sequence[Row], int], Any], str] = {
    relabels: "collator_keeps_labels",
    masks_pad_ids: "collator_keeps_labels",
    shifts: "collator_keeps_labels",
    trains_padding: "batch_padding_is_masked",
    attends_to_padding: "collator_attends_to_content",
    pads_the_mask_on_the_other_side: "collator_attends_to_content",
    drops_the_mask: "collator_attends_to_content",
    drops_labels: "batches_carry_labels",
    drops_a_row: "batches_keep_every_row",
}
"""Faulty collators and the check that finds each."""
