"""`endpoint`: the server that the project's completions come from."""

from __future__ import annotations

from llmguard.errors import MissingEvidence
from llmguard.evidence import Evidence
from llmguard.remote import Remote, address_of

__all__ = ["provide"]


def provide(evidence: Evidence, target: str) -> Remote:
    """The address of the project file; it is not asked yet."""
    named = evidence.project.schema.pipeline.endpoint
    if not named:
        raise MissingEvidence(
            "endpoint", 'add `[pipeline] endpoint = "http://127.0.0.1:8000/v1"` to llmguard.toml'
        )
    return Remote(endpoints=(address_of(named),))
