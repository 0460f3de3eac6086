"""Training configs as data: YAML, JSON and TOML with places, whose dialect they are in, and what their settings must be."""

from llmguard.configs.config import Config, Setting, as_config
from llmguard.configs.runs import Run, runs_of

__all__ = ["Config", "Run", "Setting", "as_config", "runs_of"]
