"""The parent's side: every address asked at once, each in a probe of its own, each within its own bound."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from llmguard.probe import ProbeResult, start
from llmguard.probe.early import Later
from llmguard.remote.address import Address

__all__ = ["Answer", "Remote"]

STEPS = 6
"""A knock has at most so many steps, each within `seconds`: the probe's deadline is their sum."""


@dataclass(frozen=True)
class Answer:
    """What an address answered: `kind` in a word, `told` by what; `result` where the probe did not come to its end."""

    address: Address
    kind: str
    told: Mapping[str, Any] = field(default_factory=dict)
    result: ProbeResult | None = None


@dataclass(frozen=True)
class Remote:
    """The addresses of a project, asked on first use. `options` are put before those of the ssh client."""

    hosts: tuple[Address, ...] = ()
    endpoints: tuple[Address, ...] = ()
    seconds: float = 5.0
    options: Sequence[str] = ()

    def begin(self, checks: Iterable[str]) -> None:
        """Ask while other checks run."""
        if self.hosts or self.endpoints:
            self.__dict__.setdefault("_ahead", Later(self._ask))

    @cached_property
    def answers(self) -> dict[Address, Answer]:
        """What each address answers; all are asked at the same time."""
        ahead = self.__dict__.pop("_ahead", None)
        found: dict[Address, Answer] = ahead.result() if ahead else self._ask()
        return found

    def _ask(self) -> dict[Address, Answer]:
        asked = [a for a in (*self.hosts, *self.endpoints) if not a.wrong]
        running = [(address, self._start(address)) for address in asked]
        found = {a: Answer(a, "wrong_address") for a in (*self.hosts, *self.endpoints) if a.wrong}
        return found | {address: _answer(address, probe.wait()) for address, probe in running}

    def _start(self, address: Address) -> Any:
        asked = {
            "scheme": address.scheme, "host": address.host, "port": address.port, "user": address.user, "path": address.path,
            "seconds": self.seconds, "options": list(self.options),
        }  # fmt: skip
        return start(
            "llmguard.remote.knock",
            [json.dumps(asked)],
            timeout=self.seconds * STEPS,
            no_progress=None,
            kill_grace=0,
            env={"LC_ALL": "C"},
            what=f"asking {address.text}",
        )


def _answer(address: Address, result: ProbeResult) -> Answer:
    told = result.payload if result.ok and isinstance(result.payload, dict) else None
    return Answer(address, str(told["kind"]), told) if told else Answer(address, "no_verdict", result=result)
