"""Batches: labels as they went in, padding nobody sees, packed documents apart."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch
from support.tiny import byte_level, sentencepiece

from llmguard import (
    batch_padding_is_masked,
    batches_carry_labels,
    batches_keep_every_row,
    collator_attends_to_content,
    collator_keeps_labels,
)
from llmguard.errors import UsageError
from llmguard_core.collating import Collator
from llmguard_core.encoding import Encoder
from llmguard_core.formats import format_for
from llmguard_core.packing import pack

IGNORED = -100


def rows(tok: Any, count: int = 5) -> Any:
    """Rows of unequal length whose responses end in EOS."""
    source = [{"prompt": f"how many {'apples ' * i}", "response": "one " * (count - i)} for i in range(count)]
    return Encoder(tok, format_for(tok)).rows(source)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("make", [byte_level, sentencepiece])
def test_the_checks_find_batches_as_they_should_be(make: Any, side: Any) -> None:
    """Labels kept, padding masked, content attended to, no row lost; also where pad is EOS (sentencepiece here)."""
    tok = make()
    encoded = rows(tok)
    batches = [Collator(tok, side=side)(encoded[0:3]), Collator(tok, side=side)(encoded[3:5])]
    for check in (collator_keeps_labels, collator_attends_to_content):
        found = check(list(encoded), batches)
        assert not found
        assert found.looked_at == 5
    assert not batch_padding_is_masked(batches)
    assert not batches_carry_labels(batches)
    assert not batches_keep_every_row(batches)


def test_the_eos_of_a_tokenizer_whose_pad_is_eos_stays_trained() -> None:
    """The collator that masks by pad id takes it away, and is told from this one by the check."""
    tok = sentencepiece()
    assert tok.pad_token_id == tok.eos_token_id
    encoded = rows(tok)
    batch = Collator(tok)(encoded[0:5])
    ends = [(row == tok.eos_token_id).sum().item() for row in batch["labels"]]
    assert ends == [1] * 5
    masked = {**batch, "labels": batch["labels"].masked_fill(batch["input_ids"] == tok.pad_token_id, IGNORED)}
    assert collator_keeps_labels(list(encoded), [masked])


@pytest.mark.parametrize(
    ("lengths", "multiple", "width"), [((3, 8), 8, 8), ((9, 2), 8, 16), ((7, 5), 1, 7), ((16,), 8, 16)]
)
def test_width_is_the_least_multiple(lengths: tuple[int, ...], multiple: int, width: int) -> None:
    """Of the longest row, also where it is a multiple already."""
    given = [{"input_ids": [5] * n, "labels": [5] * n} for n in lengths]
    batch = Collator(byte_level(), multiple_of=multiple)(given)
    assert {tuple(v.shape) for v in batch.values()} == {(len(lengths), width)}
    assert {v.dtype for v in batch.values()} == {torch.int64}


def test_sides() -> None:
    """Padding on the right; on the left with positions that count from each row's first token."""
    given = [{"input_ids": [5, 6, 7], "labels": [IGNORED, 6, 7]}, {"input_ids": [8], "labels": [8]}]
    pad = byte_level().pad_token_id
    right, left = (Collator(byte_level(), side=s, multiple_of=1)(given) for s in ("right", "left"))
    assert right["input_ids"].tolist() == [[5, 6, 7], [8, pad, pad]]
    assert right["labels"].tolist() == [[IGNORED, 6, 7], [8, IGNORED, IGNORED]]
    assert right["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert "position_ids" not in right
    assert left["input_ids"].tolist() == [[5, 6, 7], [pad, pad, 8]]
    assert left["labels"].tolist() == [[IGNORED, 6, 7], [IGNORED, IGNORED, 8]]
    assert left["position_ids"].tolist() == [[0, 1, 2], [0, 0, 0]]


def test_rows_without_labels_are_prompts() -> None:
    """A batch for generation has none."""
    assert set(Collator(byte_level(), side="left")([{"input_ids": [5]}])) == {
        "input_ids",
        "attention_mask",
        "position_ids",
    }


def test_a_tokenizer_without_a_pad_token_does_too() -> None:
    """Padding is neither attended to nor trained, so any id serves."""
    tok = copy.deepcopy(byte_level())
    tok.pad_token = None
    assert Collator(tok, multiple_of=4)([{"input_ids": [5], "labels": [5]}])["input_ids"].tolist() == [
        [5, *[tok.eos_token_id] * 3]
    ]


@pytest.mark.parametrize("side", ["right", "left"])
def test_packed_documents_see_themselves_alone(side: Any) -> None:
    """The mask, token by token: what stands before in the same document, and nothing else."""
    given = [{"input_ids": [5] * n, "labels": [5] * n} for n in (2, 3, 4)]
    packed = pack(given, 5)
    batch = Collator(byte_level(), side=side, multiple_of=8)(packed)
    mask = batch["attention_mask"]
    assert mask.shape == (2, 1, 8, 8)
    assert mask.dtype == torch.float32
    assert set(mask.unique().tolist()) == {0.0, torch.finfo(torch.float32).min}
    for number, row in enumerate(packed):
        document = [d for d, n in enumerate(row["seq_lengths"]) for _ in range(n)]
        start = 0 if side == "right" else 8 - len(document)
        padded = [None] * start + document + [None] * (8 - start - len(document))
        for i in range(8):
            for j in range(8):
                sees = mask[number, 0, i, j].item() == 0
                wanted = i == j if padded[i] is None else j <= i and padded[i] == padded[j]
                assert sees == wanted, (number, i, j)


def test_documents_as_one_row_for_flash_attention() -> None:
    """No padding, no mask: positions that restart say where documents start."""
    packed = pack([{"input_ids": [n] * n, "labels": [n] * n} for n in (2, 3, 4)], 5)
    batch = Collator(byte_level(), packed="positions")(packed)
    assert batch["input_ids"].tolist() == [[4] * 4 + [3] * 3 + [2] * 2]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 0, 1, 2, 0, 1]]
    assert set(batch) == {"input_ids", "labels", "position_ids"}


def test_bad_rows_are_refused() -> None:
    """None at all, or labels of another length than their ids."""
    with pytest.raises(UsageError, match="at least one row"):
        Collator(byte_level())([])
    with pytest.raises(UsageError, match="as many labels"):
        Collator(byte_level())([{"input_ids": [1, 2], "labels": [1]}])


def test_a_collator_is_frozen_and_can_be_copied_to_other_processes() -> None:
    """As DataLoader workers need it."""
    collator = Collator(byte_level(), side="left")
    again = copy.deepcopy(collator)  # by the same protocol as pickling
    given = [{"input_ids": [5, 6], "labels": [5, 6]}]
    assert all(
        torch.equal(a, b) for a, b in zip(collator(given).values(), again(given).values(), strict=True)
    )
    with pytest.raises(dataclasses.FrozenInstanceError):
        collator.side = "right"  # type: ignore[misc]  # the point of the test
