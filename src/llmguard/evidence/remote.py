"""`remote`: the machines that the project names."""

from __future__ import annotations

from llmguard.errors import MissingEvidence
from llmguard.evidence import Evidence
from llmguard.remote import Remote, address_of

__all__ = ["provide"]


def provide(evidence: Evidence, target: str) -> Remote:
    """The addresses of the project file; none is asked yet."""
    named = evidence.project.schema.environment.remote
    if not named:
        raise MissingEvidence("remote", 'add `[environment] remote = "ssh://user@host:22"` to llmguard.toml')
    return Remote(hosts=tuple(map(address_of, named)))
