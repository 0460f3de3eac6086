"""`encoded`: tokenised rows, from the user's `encode`, from the folder of prepared data, from the Trainer's batches."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from llmguard.alignment import Status, align
from llmguard.collect.columns import load_columns
from llmguard.encoded import Batches, Encoded, as_encoded
from llmguard.errors import EvidenceError, LLMGuardError, MissingEvidence, UsageError
from llmguard.evidence import Evidence
from llmguard.evidence.batches import placed
from llmguard.evidence.matching import matched
from llmguard.evidence.targets import encoded as targets
from llmguard.packing import unpacked
from llmguard.ragged import Ints
from llmguard.rows import Rows

__all__ = ["provide", "targets"]

LINE = 'add `[pipeline] encode = "module:function"`, `[pipeline] trainer = …` or `[data] encoded = "folder"` to llmguard.toml'
LOOKED_AT = 64
"""Rows that are aligned to see whether prepared rows are in the order of their split."""
TRAINER = {"trainer": "batches.trainer.npz", "trainer-eval": "batches.trainer-eval.npz"}


def provide(evidence: Evidence, target: str) -> Encoded:
    """The rows of a target, padding and packing taken apart, each with its source row where there is one."""
    if target not in targets(evidence.project):
        raise MissingEvidence("encoded", LINE)
    if target in TRAINER:
        return _from_trainer(evidence, target)
    if target == "collate":
        return _from_collator(evidence)
    if target == evidence.project.schema.data.encoded:
        return _from_folder(evidence, target)
    evidence.collected.step("encode")
    found, _ = load_columns(evidence.collected.folder("encode") / f"encoded.{target}.npz", target)
    return _checked(found, "encoded")


def _checked(found: Encoded, what: str) -> Encoded:
    if "input_ids" not in found.columns or not len(found):
        raise EvidenceError(what, "there are no encoded rows", told_by="pipeline_code_runs")
    return found


def _from_trainer(evidence: Evidence, target: str) -> Encoded:
    facts = evidence.collected.step("trainer")
    file = evidence.collected.folder("trainer") / TRAINER[target]
    if not file.exists():
        raise EvidenceError(
            "encoded", "the Trainer's batches have no input_ids", told_by="pipeline_code_runs"
        )
    found, arrays = load_columns(file, target)
    if facts.get("preference"):
        found = _chosen(found, arrays["batch"])
    return _with_sources(evidence, unpacked(found.unpadded()))


def _chosen(found: Encoded, batch: Ints) -> Encoded:
    """The chosen sides of preference batches: the first half of each, as TRL lays them out."""
    size = np.bincount(batch)[batch]
    place = np.arange(len(batch)) - np.searchsorted(batch, batch)
    kept = np.flatnonzero(place * 2 < size)
    columns = {n: c.take(kept) for n, c in found.columns.items()}
    return replace(found, columns=columns, source=found.source[kept])


def _from_collator(evidence: Evidence) -> Encoded:
    """The rows as the collator leaves them, padding taken off."""
    batches: Batches = evidence.get("batches", "collate", over="batches")
    found = unpacked(batches.padded.unpadded())
    before = batches.before
    if before is None:
        return _with_sources(evidence, found)
    if len(before) == len(found):
        places = placed(before, found)
        known = before.source[places]
        return replace(found, source=known if min(places) >= 0 else before.source)
    if len(found) > len(batches) or len(before) < len(
        batches
    ):  # documents told apart: some may have been cut
        return _with_sources(evidence, found)
    known = np.append(before.source, -1)[placed(before, found)]
    return replace(found, source=known)  # rows joined without a word are nobody's: other checks say so


def _from_folder(evidence: Evidence, target: str) -> Encoded:
    from llmguard.rows.read import read_files, read_table

    path = evidence.project.path(target)
    try:
        table = (
            read_table(path)
            if path.is_dir() or path.suffix in (".arrow", ".parquet")
            else list(read_files([path]).records)
        )
        if isinstance(table, str):
            raise EvidenceError("encoded", table, told_by="encoded_data_are_readable")
        found = replace(as_encoded(table), name=target)
    except OSError as bad:
        raise EvidenceError(
            "encoded", f"{target}: {bad.strerror or bad}", told_by="encoded_data_are_readable"
        ) from None
    except UsageError as bad:
        raise EvidenceError("encoded", f"{target}: {bad}", told_by="encoded_data_are_readable") from None
    return _with_sources(evidence, unpacked(found.unpadded()))


def _with_sources(evidence: Evidence, found: Encoded) -> Encoded:
    """Rows in the order of train keep their number; where counts differ, or the order is another, they are matched by text."""
    try:
        rows = evidence.get("rows", "train", over="rows")
    except LLMGuardError:
        return replace(found, source=np.full(len(found), -1, dtype=np.int64))
    tokenizer = evidence.get("tokenizer")
    known = found.name not in (*TRAINER, "collate") and bool((found.source >= 0).all())
    if known and len(found) == len(rows) and _in_order(found, rows, tokenizer):
        return found
    return matched(found, rows, tokenizer)


def _in_order(found: Encoded, rows: Rows, tokenizer: Any) -> bool:
    """Whether most of the first rows hold the text of the source row of their number (a framework may have shuffled them)."""
    first = found.shard(0, min(len(found), LOOKED_AT))
    status = align(first, rows, tokenizer).status
    return int((status == Status.UNMATCHED).sum()) * 2 <= len(first)
