"""`train`, `validation` and `test`: the rows of one split by its name, for checks that hold splits against each other."""

from __future__ import annotations

from llmguard.errors import MissingEvidence
from llmguard.evidence import Evidence
from llmguard.rows import Rows

__all__ = ["provide"]


def provide(evidence: Evidence, split: str) -> Rows:
    """The rows of a split."""
    if split not in evidence.project.splits:
        raise MissingEvidence(split, f'add `[data] {split} = "data/{split}.jsonl"` to llmguard.toml')
    rows: Rows = evidence.get("rows", split, over="rows")
    return rows
