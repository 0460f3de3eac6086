"""Every check of this library, one line each: the only place that lists them.

Name, module, family, tier, the evidence it cannot do without, what it is repeated over, the bugs it guards.
Nothing here imports a check: `Entry.load` does, when it is first used.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from llmguard.contract import AnyCheck

__all__ = ["CHECKS", "FAMILIES", "TIERS", "Entry"]

FAMILIES = (
    "template", "tokens", "masking", "collation", "packing", "prompts", "data", "splits", "preference", "config", "source",
    "adapter", "checkpoint", "model", "training", "sentinel", "statistics", "memory", "environment", "storage", "queue",
)  # fmt: skip
TIERS = ("preflight", "sentinel", "gpu")
"""preflight: no weights, no GPU, seconds; sentinel: needs a model; gpu: needs a GPU."""


@dataclass(frozen=True)
class Entry:
    """One check of the catalogue.

    `needs` names the evidence without which it is skipped; `over` the evidence whose targets (splits, files, batch sources)
    it is repeated over, empty for once a project; `bugs` the slugs of the documented bugs it guards against.
    """

    name: str
    module: str
    family: str
    tier: str = "preflight"
    needs: tuple[str, ...] = ()
    over: str = ""
    bugs: tuple[str, ...] = ()

    def load(self) -> AnyCheck:
        """The check itself; imports its module on first use."""
        return cast("AnyCheck", getattr(importlib.import_module(self.module), self.name))


def _entry(family: str, name: str, *needs: str, over: str = "", tier: str = "preflight", bugs: str = "", room: str = "") -> Entry:
    module = f"llmguard.checks.{room or family}"
    return Entry(name, module, family, tier, needs, over, tuple(bugs.split()))


# fmt: off
CHECKS: tuple[Entry, ...] = (
    # template
    # tokens
    # masking
    # collation
    # prompts
    # data
    # splits
    # config
    # source
    # adapter
    # environment
    # storage
    # sentinel
)
# fmt: on
