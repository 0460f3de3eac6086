"""`results`: what evaluations found, one set a model; all of them, or the one of a target."""

from __future__ import annotations

from llmguard.errors import MissingEvidence
from llmguard.evidence import Evidence
from llmguard.evidence.targets import results as targets
from llmguard.statistics.sets import Results, read_results

__all__ = ["provide", "targets"]


def provide(evidence: Evidence, target: str) -> Results:
    """The result sets that the project names, read; files that cannot be are sets without rows that say why."""
    project = evidence.project
    told = project.schema.evaluation
    if not told.results:
        raise MissingEvidence(
            "results",
            'add `[evaluation] results = { base = "eval/base.jsonl", tuned = "eval/tuned.jsonl" }` to llmguard.toml',
        )
    files = {n: project.path(p) for n, p in told.results.items() if target in ("", n)}
    return read_results(
        files, id=told.id, score=told.score, group=project.schema.data.group, root=project.folder
    )
