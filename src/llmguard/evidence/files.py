"""`files`: a split as it was read, also when nothing could be; `rows` is the same where there are rows."""

from __future__ import annotations

from llmguard.errors import MissingEvidence
from llmguard.evidence import Evidence
from llmguard.project import Project
from llmguard.rows import Columns, Rows, read_files

__all__ = ["provide", "read_split", "targets"]


def targets(project: Project) -> list[str]:
    """The splits that the project names."""
    return project.splits


def provide(evidence: Evidence, target: str) -> Rows:
    """The rows of a split with everything that could not be read."""
    if target not in evidence.project.splits:
        raise MissingEvidence("rows", 'add `[data] train = ["data/train.jsonl"]` to llmguard.toml')
    return read_split(evidence.project, target)


def read_split(project: Project, split: str) -> Rows:
    """Read a split of a project; files are named relative to the project."""
    data = project.schema.data
    told = Columns(data.prompt, data.response, data.messages, data.chosen, data.rejected, data.group)
    return read_files(project.files(split), split=split, columns=told, root=project.folder)
