"""`memory`: what a run will have, by the project file, else what this machine's GPU or its kernel leaves."""

from __future__ import annotations

from llmguard.errors import MissingEvidence
from llmguard.estimates.machine import Memory, machine_memory
from llmguard.evidence import Evidence

__all__ = ["provide"]


def provide(evidence: Evidence, target: str) -> Memory:
    """The memory that the project file names, or that this machine has free."""
    told = evidence.project.schema.environment.gpu_memory
    if isinstance(told, int):
        return Memory(told, told, "gpu", "[environment] gpu_memory", meant=True)
    found = machine_memory()
    if found is None:
        raise MissingEvidence(
            "memory", 'add `[environment] gpu_memory = "24 GB"`: what one GPU of the run has'
        )
    return found
