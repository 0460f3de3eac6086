"""What to run in a probe and within which bounds."""

from __future__ import annotations

import json
import keyword
import math
import os
import re
import secrets
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

from llmguard.errors import UsageError
from llmguard.probe.limits import Limits, MiB

__all__ = ["Settings", "Spec"]

HERE = Path(__file__).parent
LIBRARY = HERE.parents[1]
_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


class Settings(TypedDict, total=False):
    """The keyword arguments of `start`, `run` and `python`.

    `cwd` and `progress_file` are used by the child's side alone; `env` is laid over the parent's environment
    (None removes a variable). `no_progress`: seconds without any progress after which it counts as hung, None
    for the deadline alone. `kill_grace`: seconds between SIGTERM and SIGKILL, 0 for SIGKILL at once.
    `max_output`: bytes of output kept. `sys_path`: folders put first on the path of a Python target.
    `progress_file`: a file whose growth is progress and whose last line names the step.
    `computing_is_progress`: whether using the processor counts as progress (not so for an import).
    `hide_gpus`: no CUDA device is visible, so that killing the child cannot harm a driver. `what`: how the
    explanation calls it.
    """

    cwd: str | os.PathLike[str] | None
    env: Mapping[str, str | None] | None
    no_progress: float | None
    kill_grace: float
    limits: Limits | None
    max_output: int
    sys_path: Sequence[str | os.PathLike[str]]
    progress_file: str | os.PathLike[str] | None
    computing_is_progress: bool
    hide_gpus: bool
    what: str | None


@dataclass(frozen=True)
class Spec:
    """One probe to be; see `Settings`. `target` is an argument vector, a module name or Python code.

    Raises:
        UsageError: an empty target, or a time that is no positive number.
    """

    target: str | Sequence[str]
    args: Sequence[str] = ()
    timeout: float = 60.0
    cwd: str | os.PathLike[str] | None = None
    env: Mapping[str, str | None] | None = None
    no_progress: float | None = 30.0
    kill_grace: float = 0.5
    limits: Limits | None = None
    max_output: int = MiB
    sys_path: Sequence[str | os.PathLike[str]] = ()
    progress_file: str | os.PathLike[str] | None = None
    computing_is_progress: bool = True
    hide_gpus: bool = False
    what: str | None = None
    nonce: str = field(default_factory=lambda: secrets.token_hex(16))

    def __post_init__(self) -> None:
        if not self.target:
            raise UsageError("target", self.target, "an argument vector, a module name or Python code")
        for name, value in (("timeout", self.timeout), ("no_progress", self.no_progress)):
            if value is not None and not 0 < value < math.inf:
                raise UsageError(name, value, "a positive number of seconds")
        if not 0 <= self.kill_grace < math.inf:
            raise UsageError("kill_grace", self.kill_grace, "a number of seconds, 0 or more")

    @property
    def python(self) -> bool:
        """Whether the target is Python that runs under our bootstrap and proves its end."""
        return isinstance(self.target, str)

    @property
    def patience(self) -> float:
        """Seconds of silence that are enough to call it hung."""
        return min(self.no_progress or self.timeout, self.timeout)

    @property
    def title(self) -> str:
        """How the explanation calls it."""
        if self.what:
            return self.what
        if not isinstance(self.target, str):
            return Path(self.target[0]).name or "the program"
        return self.target if self._is_module() else "the Python code"

    def _is_module(self) -> bool:
        target = self.target
        return (
            isinstance(target, str)
            and _MODULE.fullmatch(target) is not None
            and not keyword.iskeyword(target)
        )

    def command(self, folder: str) -> list[str]:
        """The argument vector of the child."""
        if not isinstance(self.target, str):
            return [str(part) for part in (*self.target, *self.args)]
        kind = "module" if self._is_module() else "code"
        paths = [os.fspath(path) for path in self.sys_path]
        ours = [sys.executable, "-u", str(HERE / "bootstrap.py"), folder, kind, self.target, str(len(paths))]
        return [*ours, *paths, *map(str, self.args)]

    def steps(self, folder: str) -> str:
        """The file whose growth counts as progress."""
        return os.fspath(self.progress_file) if self.progress_file is not None else f"{folder}/steps"

    def environment(self, folder: str) -> dict[str, str]:
        """The environment of the child; the nonce in it marks every process that comes of it."""
        found: dict[str, str | None] = {**os.environ, **(self.env or {})}
        if self.hide_gpus:
            found |= {"CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": ""}
        ours = {"": self.nonce, "_FOLDER": folder, "_STEPS": self.steps(folder), "_LIBRARY": str(LIBRARY)}
        # listening for the question where it hangs costs a thread, which a worker that forks should not have
        ours["_LISTEN"] = "" if self.computing_is_progress else "1"
        found |= {f"LLMGUARD_PROBE{name}": value for name, value in ours.items()}
        return {name: value for name, value in found.items() if value is not None}

    def to_json(self, folder: str) -> str:
        """What the supervisor reads."""
        return json.dumps(
            {
                "argv": self.command(folder),
                "env": self.environment(folder),
                "cwd": None if self.cwd is None else os.fspath(self.cwd),
                "timeout": self.timeout,
                "no_progress": self.no_progress,
                "kill_grace": self.kill_grace,
                "limits": (self.limits or Limits()).to_json(),
                "max_output": self.max_output,
                "progress_file": self.steps(folder),
                "computing_counts": self.computing_is_progress,
            }
        )
