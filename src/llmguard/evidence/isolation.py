"""`isolation`: whether packed documents see each other, from the child that has the batches: one changed, the others watched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmguard.errors import EvidenceError, MissingEvidence
from llmguard.evidence import Evidence
from llmguard.evidence.targets import batches as targets

__all__ = ["Isolation", "as_isolation", "provide", "targets"]


@dataclass(frozen=True)
class Isolation:
    """What `llmguard.collect.isolation.isolation_of` found (see there), for the batches of this name."""

    name: str
    found: Mapping[str, Any]


def provide(evidence: Evidence, target: str) -> Isolation:
    """What was measured on the batches of a source; nothing, where no row of them holds several documents.

    Raises:
        MissingEvidence: there is no config of a model of which to make a small one, or it cannot be measured on a CPU.
        EvidenceError: there are no batches, or the process that measures came to no end.
    """
    evidence.get("batches", target, over="batches")
    outcome = evidence.collected.outcome(f"isolation-{target}") or {"ok": False, "error": {}}
    if not outcome["ok"]:
        raise EvidenceError("isolation", str(outcome["error"].get("message") or "it was not measured"))
    if outcome.get("unmeasured"):
        raise MissingEvidence("isolation", str(outcome["unmeasured"]))
    return Isolation(target, outcome)


def as_isolation(value: Any) -> Isolation:
    """Isolation as it is, or what `isolation_of` returned."""
    return value if isinstance(value, Isolation) else Isolation("batches", value)
