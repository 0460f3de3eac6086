"""Special tokens that the data use: the embedding knows them, or training is about to teach it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmguard.contract import Yields, check
from llmguard.encoded import Encoded, as_encoded
from llmguard.evidence.model import ModelFolder
from llmguard.findings import Where, error, warning
from llmguard.tensors import Tensor
from llmguard.vocabulary import vocabulary_of

__all__ = ["special_tokens_in_use_are_trained"]

SAMPLE, SMALLEST = 2048, 64
"""Rows of ordinary tokens that new ones are compared with; of fewer there is nothing to be said."""
NOTHING, NEAR = 1e-9, 0.1
"""Largest value of a row that is all but zero; distance from the mean row, as a share of the usual one, of a row that is the mean."""
Rows = NDArray[np.float32]


@check
def special_tokens_in_use_are_trained(
    encoded: Any,
    tokenizer: Any,
    model: ModelFolder,
    adapter: Any = None,
    trainer: Mapping[str, Any] | None = None,
) -> Yields:
    """No special or added token that the rows hold still has the embedding that it was created with.

    That is: zero, the same as that of another such token, or the mean of all rows (as resizing sets them). An error where training
    leaves the embedding alone: an adapter without it, or a Trainer that freezes it; otherwise a warning. Silent where it is trained.
    """
    found, table = as_encoded(encoded), model.embedding
    used = _used(found, tokenizer, table)
    if table is None or not len(used) or _is_taught(adapter, trainer):
        return 0
    why = _untrained(table, used, _added(tokenizer, table.shape[0]))
    if why:
        frozen = adapter is not None or (trainer or {}).get("trains_embeddings") is False
        named = ", ".join(
            f"{tokenizer.convert_ids_to_tokens(i)!r} (id {i}) is {w}" for i, w in list(why.items())[:5]
        )
        count = int(np.isin(found.input_ids.values, list(why)).sum())
        yield (error if frozen else warning)(
            Where(file=table.file.name, key=table.name),
            what=f"{len(why)} of {len(used)} special tokens in {found.name} have an embedding that was never trained, in {count:,} "
            f"places: {named}",
            why="the model cannot tell such tokens from one another or from nothing: it does not learn where a turn starts or ends",
            cause="tokens added to (or reserved in) a base model, and adapters that leave the embedding as it is"
            if frozen
            else "tokens added to, or reserved in, a base model",
            remedy='train them: `modules_to_save=["embed_tokens", "lm_head"]` or `trainable_token_indices` in the adapter\'s config, full '
            "fine-tuning otherwise; or a template of tokens that the model knows",
            evidence={"ids": list(why)[:20], "count": count},
        )
    return len(used)


def _used(found: Encoded, tokenizer: Any, table: Tensor | None) -> list[int]:
    """Special and added tokens of the rows that the embedding has a row for."""
    if table is None or len(table.shape) != 2 or table.dtype not in ("F32", "F16", "BF16"):
        return []
    return sorted(
        {*np.unique(found.input_ids.values[found.attended]).tolist()} & {*_added(tokenizer, table.shape[0])}
    )


def _added(tokenizer: Any, rows: int) -> list[int]:
    vocabulary = vocabulary_of(tokenizer)
    found = np.flatnonzero(vocabulary.special | vocabulary.added).tolist()
    return [int(i) for i in found if i < rows]


def _is_taught(adapter: Any, trainer: Mapping[str, Any] | None) -> bool:
    """Whether what is trained, or was, holds the embedding."""
    if adapter is not None:
        config = adapter.config
        names = [*(config.get("modules_to_save") or ()), *adapter.tensors]
        return bool(config.get("trainable_token_indices")) or any("embed" in n or "wte" in n for n in names)
    return (trainer or {}).get("trains_embeddings") is True


def _untrained(table: Tensor, used: list[int], added: list[int]) -> dict[int, str]:
    """Why each of some tokens is untrained; those that are trained are left out."""
    ordinary = np.setdiff1d(np.arange(table.shape[0]), added)
    if len(ordinary) < SMALLEST:
        return {}
    some = ordinary[np.linspace(0, len(ordinary) - 1, min(SAMPLE, len(ordinary))).astype(np.int64)]
    sample, rows = table.rows(some), table.rows(np.asarray(used, dtype=np.int64))
    mean = sample.mean(axis=0)
    usual = float(np.median(np.linalg.norm(sample - mean, axis=1)))
    twins = _twins(table, used, added, rows)
    found = {}
    for i, row in zip(used, rows, strict=True):
        if float(np.abs(row).max()) <= NOTHING:
            found[i] = "zero"
        elif i in twins:
            found[i] = f"the same as that of id {twins[i]}"
        elif float(np.linalg.norm(row - mean)) < NEAR * usual:
            found[i] = "the mean of all tokens"
    return found


def _twins(table: Tensor, used: list[int], added: list[int], rows: Rows) -> dict[int, int]:
    """For each token in use, another added one with the same values."""
    by_values: dict[bytes, list[int]] = {}
    for i, row in zip(added, table.rows(np.asarray(added, dtype=np.int64)), strict=True):
        by_values.setdefault(row.tobytes(), []).append(i)
    others = {i: [j for j in by_values[row.tobytes()] if j != i] for i, row in zip(used, rows, strict=True)}
    return {i: found[0] for i, found in others.items() if found}
