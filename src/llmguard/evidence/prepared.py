"""`prepared`: whether the folder of already tokenised data can be read, and what stood in the way if not."""

from __future__ import annotations

from dataclasses import dataclass

from llmguard.errors import EvidenceError, MissingEvidence
from llmguard.evidence import Evidence

__all__ = ["Prepared", "provide"]


@dataclass(frozen=True)
class Prepared:
    """The folder that `[data] encoded` names. `rows`: how many it holds; `problem`: why they cannot be read, empty where they can."""

    folder: str
    rows: int = 0
    problem: str = ""


def provide(evidence: Evidence, target: str) -> Prepared:
    """How reading the prepared data ended.

    Raises:
        MissingEvidence: the project names none.
    """
    folder = evidence.project.schema.data.encoded
    if not folder:
        raise MissingEvidence("prepared", 'add `[data] encoded = "folder"` to llmguard.toml')
    try:
        return Prepared(folder, len(evidence.get("encoded", folder, over="encoded")))
    except EvidenceError as bad:
        if bad.told_by != "encoded_data_are_readable":
            raise
        return Prepared(folder, problem=bad.reason)
