"""Where the lab lives: a folder of the user's cache named by the content of everything the models depend on."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from llmguard.errors import LLMGuardError, UsageError

__all__ = ["NAMES", "Lab", "LabError", "lab"]

NAMES = (
    "tokenizer",
    "base",
    "base-with-template",
    "chat",
    "adapter",
    "broken-adapter",
    "foreign-base",
    "foreign-adapter",
)
"""Every artefact of the lab, in the order in which they can be built."""

LIBRARIES = ("torch", "transformers", "peft", "tokenizers")
LONGEST_BUILD = (
    900.0  # seconds; twenty times what a slow machine needs, so only a build that hangs is cut short
)
ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class LabError(LLMGuardError):
    """The lab cannot be built: what failed, where, and what to do."""


@dataclass(frozen=True)
class Lab:
    """The lab in one folder; each attribute is the path of a saved artefact, built when first asked for.

    All of them are ordinary transformers or peft folders with safetensors weights and greedy generation.
    """

    folder: Path

    @property
    def tokenizer(self) -> Path:
        """Byte-level BPE without a chat template; EOS `<|endoftext|>`, pad `<|pad|>`, both ChatML tokens, no BOS."""
        return self.path("tokenizer")

    @property
    def base(self) -> Path:
        """A base model: continues text, obeys no instruction unless it stands in ChatML; no template on its tokenizer."""
        return self.path("base")

    @property
    def base_with_template(self) -> Path:
        """The weights of `base` with a tokenizer that ships a chat template, as some published base models do."""
        return self.path("base-with-template")

    @property
    def chat(self) -> Path:
        """A chat model: its template on the tokenizer, EOS `<|im_end|>`, obeys with and without the template."""
        return self.path("chat")

    @property
    def adapter(self) -> Path:
        """A LoRA adapter on `base`, fine-tuned to obey bare instructions: it changes the outputs."""
        return self.path("adapter")

    @property
    def broken_adapter(self) -> Path:
        """`adapter` with every B matrix zero: it loads and changes nothing."""
        return self.path("broken-adapter")

    @property
    def foreign_base(self) -> Path:
        """Another base model: other hidden size, other vocabulary, another tokenizer."""
        return self.path("foreign-base")

    @property
    def foreign_adapter(self) -> Path:
        """A trained LoRA adapter on `foreign_base`, and named so; it does not belong to `base`."""
        return self.path("foreign-adapter")

    def path(self, name: str) -> Path:
        """The folder of one artefact, built first where it is missing.

        Raises:
            UsageError: the lab has no such artefact.
            LabError: it could not be built.
        """
        if name not in NAMES:
            raise UsageError("name", name, f"one of {', '.join(NAMES)}")
        if not (self.folder / name).is_dir():
            self._build([name])
        return self.folder / name

    def build_all(self) -> dict[str, Path]:
        """Every artefact, all that are missing built in one go.

        Raises:
            LabError: one of them could not be built.
        """
        missing = [name for name in NAMES if not (self.folder / name).is_dir()]
        if missing:
            self._build(missing)
        return {name: self.folder / name for name in NAMES}

    def _build(self, names: Sequence[str]) -> None:
        command = [sys.executable, "-m", "llmguard_core.lab.build", str(self.folder), *names]
        shown = None if sys.stderr.isatty() else subprocess.PIPE
        try:
            done = subprocess.run(
                command, env=_environment(), stderr=shown, timeout=LONGEST_BUILD, check=False, text=True
            )
        except subprocess.TimeoutExpired:
            raise LabError(self._failed(names, f"no end after {LONGEST_BUILD:.0f} s")) from None
        if done.returncode != 0 or not all((self.folder / name).is_dir() for name in names):
            last = (done.stderr or "").strip().splitlines()[-3:]
            raise LabError(self._failed(names, " | ".join([f"exit code {done.returncode}", *last])))

    def _failed(self, names: Sequence[str], why: str) -> str:
        return (
            f"{self.folder}: the lab could not build {', '.join(names)}: {why}. Tests and demonstrations that need these"
            " models cannot run. Likely cause: torch, transformers or peft missing or broken, or a folder that cannot be"
            " written. Remedy: install pytest-llmguard[all], or name a writable folder in LLMGUARD_LAB_DIR, and run"
            " `python -m llmguard_core.lab` to see the build."
        )


def lab() -> Lab:
    """The lab of this user and these library versions; `LLMGUARD_LAB_DIR` names another place than the user's cache.

    Raises:
        LabError: a library that the lab is built with is not installed.
    """
    place = os.environ.get("LLMGUARD_LAB_DIR")
    return Lab((Path(place).expanduser().absolute() if place else _user_cache()) / _content_key())


def _user_cache() -> Path:
    import platformdirs

    return Path(platformdirs.user_cache_dir("llmguard"), "lab")


def _content_key() -> str:
    from llmguard.sentinels import prompts

    sources = sorted(Path(__file__).parent.glob("*.py"))
    digest = hashlib.sha256()
    for source in [*sources, Path(prompts.__file__)]:
        digest.update(source.read_bytes())
    for library in LIBRARIES:
        digest.update(f"{library}=={_version(library)}\n".encode())
    return digest.hexdigest()[:16]


def _version(library: str) -> str:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        raise LabError(
            f"the lab needs {library}, which is not installed: its models are trained with"
            f" {', '.join(LIBRARIES)}. Remedy: pip install 'pytest-llmguard[all]'."
        ) from None


def _environment() -> dict[str, str]:
    """The child's environment: this package importable, no GPU, no network, everything that sways a sum fixed."""
    home = str(Path(__file__).parents[2])
    fixed = {
        "PYTHONPATH": os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH")])),
        "PYTHONHASHSEED": "0",
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        **dict.fromkeys(
            ONE_THREAD, "1"
        ),  # a sum depends on how it is split; and two threads on a busy machine wait
    }
    return {**os.environ, **fixed}
