"""`batches`: what the collator or the Trainer really emits."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import Any

import numpy as np

from llmguard.collect.columns import load_columns
from llmguard.encoded import Batches, Encoded
from llmguard.errors import EvidenceError, LLMGuardError, MissingEvidence
from llmguard.evidence import Evidence
from llmguard.evidence.targets import batches as targets

__all__ = ["in_order", "placed", "provide", "targets"]

LINE = 'add `[pipeline] collate = "module:function"` or `[pipeline] trainer = "module:function"` to llmguard.toml'


def provide(evidence: Evidence, target: str) -> Batches:
    """Padded rows, the batch of each, and the rows that went in where that is known."""
    if target not in targets(evidence.project):
        raise MissingEvidence("batches", LINE)
    facts = evidence.collected.step(target)
    file = evidence.collected.folder(target) / f"batches.{target}.npz"
    if not file.exists():
        raise EvidenceError("batches", "there are no batches with input_ids", told_by="pipeline_code_runs")
    padded, arrays = load_columns(file, target)
    before = _collated(evidence, arrays, padded) if target == "collate" else _dataset(evidence, padded)
    return Batches(padded, arrays["batch"], before, facts)


def _collated(evidence: Evidence, arrays: dict[str, Any], padded: Encoded) -> Encoded | None:
    name = "train" if evidence.project.schema.pipeline.encode else evidence.project.schema.data.encoded
    try:
        rows: Encoded = evidence.get("encoded", str(name), over="encoded")
    except LLMGuardError:
        return None
    return in_order(rows.shard(0, min(len(arrays["went_in"]), len(rows))), padded)


def in_order(before: Encoded, padded: Encoded) -> Encoded:
    """The rows that went into a collator in the order in which they come out of it (it may sort them); as they are if that is unknown."""
    places = placed(before, padded)
    if len(places) != len(before) or sorted(places) != list(range(len(before))):
        return before
    columns = {n: c.take(places) for n, c in before.columns.items()}
    return replace(before, columns=columns, source=before.source[places])


def placed(before: Encoded, after: Encoded) -> list[int]:
    """For each row of `after` the row of `before` with the same ids, padding aside: of equal ones in turn; -1 for none."""
    index: dict[bytes, deque[int]] = {}
    for row, ids in enumerate(before.unpadded().input_ids):
        index.setdefault(ids.tobytes(), deque()).append(row)
    none: deque[int] = deque()
    found = [index.get(ids.tobytes(), none) for ids in after.unpadded().input_ids]
    return [rows.popleft() if rows else -1 for rows in found]


def _dataset(evidence: Evidence, padded: Encoded) -> Encoded | None:
    """The rows of the Trainer's own data set that are in the batches, in their order; found by their ids."""
    file = evidence.collected.folder("trainer") / "dataset.trainer.npz"
    if not file.exists():
        return None
    rows, _ = load_columns(file, "dataset")
    index = {ids.tobytes(): i for i, ids in enumerate(rows.unpadded().input_ids)}
    found = [index.get(ids.tobytes(), -1) for ids in padded.unpadded().input_ids]
    if any(i < 0 for i in found):
        return None
    columns = {n: c.take(found) for n, c in rows.columns.items()}
    return replace(rows, columns=columns, source=np.asarray(found, dtype=np.int64))
