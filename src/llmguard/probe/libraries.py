"""The training libraries that are installed, read from their metadata: nothing is imported."""

from __future__ import annotations

import importlib.metadata
import os
from functools import cached_property

__all__ = ["LIBRARIES", "Libraries"]

LIBRARIES = (
    "torch", "transformers", "accelerate", "peft", "trl", "datasets", "tokenizers", "huggingface-hub", "safetensors",
    "numpy", "bitsandbytes", "deepspeed", "unsloth", "axolotl", "llamafactory", "vllm", "sentence-transformers",
    "lm-eval", "flash-attn", "triton", "torchvision", "torchaudio",
)  # fmt: skip


class Libraries:
    """What is installed; any of it may be given in the place of what is really there (names normalised)."""

    @cached_property
    def installed(self) -> dict[str, str]:
        """Versions of the training libraries that are installed, by name; from their metadata, nothing is imported."""
        found: dict[str, str] = {}
        for name in LIBRARIES:
            try:
                found[name] = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                continue
        return found

    @cached_property
    def copies(self) -> dict[str, tuple[tuple[str, str], ...]]:
        """Every installed copy of the training libraries: distribution -> (version, folder), in the order of the import path."""
        found: dict[str, dict[tuple[str, str], None]] = {}
        for one in importlib.metadata.distributions():
            name = str(one.metadata["Name"] or "").lower().replace("_", "-")
            if name in LIBRARIES:
                place = os.path.realpath(str(one.locate_file("")))
                found.setdefault(name, {})[one.version, place] = None
        return {name: tuple(copies) for name, copies in found.items()}

    @cached_property
    def providers(self) -> dict[str, tuple[str, ...]]:
        """Importable package -> the distributions that say they bring it."""
        return {
            name: tuple(dict.fromkeys(d)) for name, d in importlib.metadata.packages_distributions().items()
        }

    @cached_property
    def requirements(self) -> dict[str, tuple[str, ...]]:
        """What each installed training library says that it requires, as its metadata has it."""
        return {name: tuple(importlib.metadata.requires(name) or ()) for name in self.installed}

    def version(self, name: str) -> str | None:
        """The installed version of any distribution; None where there is none."""
        if name in self.installed:
            return self.installed[name]
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return None
