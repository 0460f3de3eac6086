"""`batches`: what the collator or the Trainer really emits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from llmguard.collect.columns import load_columns
from llmguard.encoded import Batches, Encoded
from llmguard.errors import EvidenceError, LLMGuardError, MissingEvidence
from llmguard.evidence import Evidence
from llmguard.evidence.targets import batches as targets

__all__ = ["provide", "targets"]

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
    before = _collated(evidence, arrays) if target == "collate" else _dataset(evidence, padded)
    return Batches(padded, arrays["batch"], before, facts)


def _collated(evidence: Evidence, arrays: dict[str, Any]) -> Encoded | None:
    name = "train" if evidence.project.schema.pipeline.encode else evidence.project.schema.data.encoded
    try:
        rows: Encoded = evidence.get("encoded", str(name), over="encoded")
    except LLMGuardError:
        return None
    return rows.shard(0, min(len(arrays["went_in"]), len(rows)))


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
