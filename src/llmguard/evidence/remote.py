"""`remote`: the machines and servers that the project names."""

from __future__ import annotations

from llmguard.evidence import Evidence
from llmguard.remote import Remote, address_of

__all__ = ["provide"]


def provide(evidence: Evidence, target: str) -> Remote:
    """The addresses of the project file; none is asked yet."""
    schema = evidence.project.schema
    endpoints = [schema.pipeline.endpoint] if schema.pipeline.endpoint else []
    return Remote(tuple(map(address_of, schema.environment.remote)), tuple(map(address_of, endpoints)))
