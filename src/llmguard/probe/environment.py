"""Evidence of the machine: what a run needs of it, and what it says when it is tried in a probe."""

from __future__ import annotations

import importlib.metadata
import os
import secrets
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from llmguard.probe.launch import run
from llmguard.probe.limits import Limits, MiB
from llmguard.probe.result import ProbeResult

__all__ = ["Environment", "Folder", "Gpu", "Torch", "Writing"]

HARD_TIMEOUT = 900.0
"""Seconds after which an import that is still moving is cut off: a cold cache on a slow network takes minutes."""
WRITE_TIMEOUT, CLEAN_TIMEOUT = 120.0, 5.0
PAYLOAD = 64 * MiB
LIBRARIES = (
    "torch", "transformers", "accelerate", "peft", "trl", "datasets", "tokenizers", "huggingface-hub", "safetensors",
    "numpy", "bitsandbytes", "deepspeed", "unsloth", "axolotl", "llamafactory", "vllm", "sentence-transformers",
    "lm-eval", "flash-attn", "triton", "torchvision", "torchaudio",
)  # fmt: skip

_IMPORT = """
import sys
folder = sys.argv[1]
def beside(trace=None, *files):
    homes = {folder, f"{folder}/torch", *(f"{folder}/{name}" for name in list(sys.modules) if "." not in name)}
    files = [*files, *(getattr(module, "__file__", None) or "" for module in list(sys.modules.values()))]
    while trace:
        files.append(trace.tb_frame.f_code.co_filename)
        trace = trace.tb_next
    return sorted({file for file in files if file.rpartition("/")[0] in homes})
try:
    import torch
except BaseException as why:
    report({"beside": beside(why.__traceback__, getattr(why, "filename", None) or "")})
    raise
built = getattr(torch, "version", None)
report({
    "version": str(getattr(torch, "__version__", "")), "file": getattr(torch, "__file__", None) or "",
    "path": [str(part) for part in getattr(torch, "__path__", [])], "beside": beside(), "tensor": hasattr(torch, "Tensor"),
    "cuda": getattr(built, "cuda", None) or "", "hip": getattr(built, "hip", None) or "",
})
"""

_GPU = """
import torch
found = {"available": torch.cuda.is_available(), "count": 0, "names": [], "why": "", "product": None}
try:
    torch.cuda.init()
    found["count"] = torch.cuda.device_count()
    found["names"] = [torch.cuda.get_device_name(number) for number in range(found["count"])]
    one = torch.ones(64, 64, device="cuda")
    found["product"] = float((one @ one)[0, 0].item())
except BaseException as why:
    found["why"] = f"{type(why).__name__}: {why}"
report(found)
"""


@dataclass(frozen=True)
class Folder:
    """A folder that the run writes to: `key` of the project file, its path (never touched by this process)."""

    key: str
    path: str


@dataclass(frozen=True)
class Torch:
    """What importing torch came to. `beside` are modules that were loaded from the project's own folder meanwhile."""

    result: ProbeResult
    version: str = ""
    file: str = ""
    path: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    tensor: bool = False
    cuda: str = ""
    hip: str = ""

    @property
    def missing(self) -> bool:
        """Whether there is no torch at all."""
        failure = self.result.failure
        return failure is not None and failure.kind == "ModuleNotFoundError" and failure.name == "torch"


@dataclass(frozen=True)
class Gpu:
    """What the first use of a GPU came to; `product` is an element of a product of two 64 x 64 matrices of ones."""

    result: ProbeResult
    available: bool = False
    count: int = 0
    names: tuple[str, ...] = ()
    why: str = ""
    product: float | None = None


@dataclass(frozen=True)
class Writing:
    """What writing to a folder came to; `told` is empty where the probe did not come to its end (see `writing`)."""

    folder: Folder
    result: ProbeResult
    told: Mapping[str, Any]
    left: str = ""


@dataclass(frozen=True)
class Environment:
    """What a run needs of its machine; what the machine says is found out on first use and once.

    `torch_needed_by` is the key of the project file without which torch could be missing, `torch_wanted_by` one that will want
    it later. Sizes are bytes. `installed` may be given in the place of what is installed (names normalised).
    """

    folder: str
    torch_needed_by: str = ""
    torch_wanted_by: str = ""
    gpu: bool = False
    import_timeout: float = 30.0
    hard_timeout: float = HARD_TIMEOUT
    folders: tuple[Folder, ...] = ()
    checkpoint_size: int | None = None
    payload: int = PAYLOAD
    environ: Mapping[str, str | None] = field(default_factory=dict)
    offline: bool = field(default_factory=lambda: _on("HF_HUB_OFFLINE") or _on("TRANSFORMERS_OFFLINE"))
    python: tuple[int, int] = field(default_factory=lambda: (sys.version_info[0], sys.version_info[1]))

    @cached_property
    def torch(self) -> Torch:
        """Import torch in a probe, with the project's folder first on the path, as it is for the user's own code."""
        result = run(
            _IMPORT,
            [self.folder],
            timeout=self.hard_timeout,
            no_progress=self.import_timeout,
            computing_is_progress=False,
            limits=Limits.for_import(),
            sys_path=[self.folder],
            env=self.environ,
            hide_gpus=True,
            what="import of torch",
        )
        told = result.payload or {}
        return Torch(result, **{name: _frozen(value) for name, value in told.items()})

    @cached_property
    def uses_gpu(self) -> Gpu:
        """Start the GPU and multiply two matrices on it, in a probe that is asked to end before it is killed."""
        result = run(
            _GPU,
            timeout=self.hard_timeout,
            no_progress=self.import_timeout,
            computing_is_progress=False,
            kill_grace=5.0,
            env=self.environ,
            what="first use of the GPU",
        )
        told = result.payload or {}
        return Gpu(result, **{name: _frozen(value) for name, value in told.items()})

    @cached_property
    def writings(self) -> tuple[Writing, ...]:
        """Write to each of the folders, one after the other: they may share a disk."""
        return tuple(self._write(folder) for folder in self.folders)

    def _write(self, folder: Folder) -> Writing:
        name = f".llmguard-probe-{secrets.token_hex(4)}"
        size = max(self.checkpoint_size or 0, self.payload) if folder.key == "output_dir" else self.payload
        asked = {"folder": folder.path, "name": name, "payload": self.payload, "size": size}
        result = run(
            "llmguard.probe.writing",
            [_json(asked)],
            timeout=WRITE_TIMEOUT,
            no_progress=self.import_timeout,
            kill_grace=1.0,
            env=self.environ,
            what=f"writing to {folder.path}",
        )
        told = result.payload or {}
        left = str(told.get("left", "")) if told else _clean(folder.path, name, self.import_timeout)
        return Writing(folder, result, told, left)

    @cached_property
    def open_files(self) -> tuple[int, int]:
        """How many files a process may have open: the limit in force, and the one that it may be raised to; -1 is none."""
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        return tuple(-1 if limit == resource.RLIM_INFINITY else limit for limit in (soft, hard))  # type: ignore[return-value]  # two of them

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


def _clean(path: str, name: str, no_progress: float) -> str:
    """Remove what a write probe that was killed has left; returns what stays, "" when nothing does."""
    code = (
        "import os, shutil, sys\n"
        "path, name = sys.argv[1:]\n"
        "while path != os.path.dirname(path) and not os.path.isdir(path): path = os.path.dirname(path)\n"
        "shutil.rmtree(f'{path}/{name}', ignore_errors=True)\n"
        "report(f'{path}/{name}' if os.path.lexists(f'{path}/{name}') else '')"
    )
    result = run(code, [path, name], timeout=CLEAN_TIMEOUT, no_progress=no_progress, kill_grace=0)
    return str(result.payload) if result.ok else f"{path}/{name}"


def _json(value: object) -> str:
    import json

    return json.dumps(value)


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _on(name: str) -> bool:
    return os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE")
