"""`hub_cache`: what the local cache of the model hub holds of the project's model."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from llmguard.evidence import Evidence
from llmguard.evidence.model import OFFLINE
from llmguard.probe import ProbeResult, run
from llmguard.probe.early import Later

__all__ = ["HubCache", "provide"]

SECONDS = 60.0


@dataclass(frozen=True)
class HubCache:
    """The cache as far as one model goes; looked at in a probe, on first use. `hub_id` is "" where the model is a folder."""

    hub_id: str
    remote_code: bool = False
    offline: bool = False
    no_progress: float = 30.0
    environ: Mapping[str, str | None] = field(default_factory=dict)

    def begin(self, checks: Iterable[str]) -> None:
        """Look while other checks run."""
        if self.hub_id:
            self.__dict__.setdefault("_ahead", Later(self._look))

    @cached_property
    def result(self) -> ProbeResult:
        """The probe's own end."""
        ahead = self.__dict__.pop("_ahead", None)
        found: ProbeResult = ahead.result() if ahead else self._look()
        return found

    def _look(self) -> ProbeResult:
        return run(
            "llmguard.hub.look",
            [self.hub_id],
            timeout=SECONDS,
            no_progress=self.no_progress,
            env=self.environ,
            what="a look at the model cache",
        )

    @property
    def told(self) -> dict[str, Any]:
        """What `llmguard.hub.look` tells; empty where it did not come to its end."""
        return self.result.payload if self.result.ok and isinstance(self.result.payload, dict) else {}


def provide(evidence: Evidence, target: str) -> HubCache:
    """The hub id that the project names, if it is one; nothing is looked at yet."""
    project = evidence.project
    named = project.model_path or ""
    is_id = named.count("/") == 1 and not named.startswith((".", "/", "~"))
    offline = any(os.environ.get(name, "").lower() in ("1", "true", "yes", "on") for name in OFFLINE)
    return HubCache(named if is_id else "", project.schema.model.trust_remote_code, offline)
