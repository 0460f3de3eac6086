"""`config`: a training config that could be read, ready to be judged."""

from __future__ import annotations

from llmguard.configs.config import Config
from llmguard.errors import EvidenceError
from llmguard.evidence import Evidence
from llmguard.evidence.config_file import targets

__all__ = ["provide", "targets"]


def provide(evidence: Evidence, target: str) -> Config:
    """The config file of the target; one that cannot be read is the finding of `config_file_is_readable`."""
    config: Config = evidence.get("config_file", target, over="config")
    if config.document.problem is not None:
        raise EvidenceError(
            f"config {config.file}", config.document.problem.reason, told_by="config_file_is_readable"
        )
    return config
