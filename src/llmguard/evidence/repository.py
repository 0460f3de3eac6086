"""`repository`: the git repository that the project lies in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from llmguard.evidence import Evidence
from llmguard.probe import ProbeResult, run
from llmguard.probe.early import Later

__all__ = ["Repository", "provide"]

STEPS = 4
"""A look asks git so many times at most, each time within `seconds`."""


@dataclass(frozen=True)
class Repository:
    """A folder that may lie in a repository; looked at in a probe, on first use."""

    folder: str
    seconds: float = 10.0
    environ: Mapping[str, str | None] = field(default_factory=dict)

    def begin(self, checks: Iterable[str]) -> None:
        """Look while other checks run."""
        self.__dict__.setdefault("_ahead", Later(self._look))

    @cached_property
    def result(self) -> ProbeResult:
        """The probe's own end."""
        ahead = self.__dict__.pop("_ahead", None)
        found: ProbeResult = ahead.result() if ahead else self._look()
        return found

    def _look(self) -> ProbeResult:
        return run(
            "llmguard.repository.look",
            [self.folder, str(self.seconds)],
            timeout=self.seconds * STEPS,
            no_progress=None,
            env=self.environ,
            what="a look at the git repository",
        )

    @property
    def told(self) -> dict[str, Any]:
        """What `llmguard.repository.look` tells; empty where it did not come to its end."""
        return self.result.payload if self.result.ok and isinstance(self.result.payload, dict) else {}


def provide(evidence: Evidence, target: str) -> Repository:
    """The repository of the project's folder, if there is one; not looked at yet."""
    return Repository(str(evidence.project.folder))
