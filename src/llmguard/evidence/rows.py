"""`rows`: the source examples of a split, with file and line."""

from __future__ import annotations

from llmguard.errors import EvidenceError
from llmguard.evidence import Evidence
from llmguard.evidence.files import targets
from llmguard.rows import Rows

__all__ = ["provide", "targets"]


def provide(evidence: Evidence, target: str) -> Rows:
    """The rows of the split of `target`; train for the targets of encoded rows and batches."""
    split = target if target in evidence.project.splits else "train"
    rows: Rows = evidence.get("files", split, over="files")
    if not len(rows):
        reason = rows.problems[0].reason if rows.problems else "no rows"
        raise EvidenceError(
            f"rows of {split}", f"{', '.join(rows.files)}: {reason}", told_by="data_files_are_readable"
        )
    return rows
