"""Evidence of the machine: what a run needs of it, and what it says when it is tried in probes.

Each part (`torch`, `driver`, `writings` …) is found out once, when it is first asked for. `begin` starts those that checks
will ask for, all at once: a preflight then takes as long as its slowest part, and a part that hangs delays no other.
"""

from __future__ import annotations

import os
import secrets
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from llmguard.probe import driver, meeting, places, torch_probes
from llmguard.probe.early import EARLY, GPU_PARTS, Later
from llmguard.probe.host import Host
from llmguard.probe.launch import Probe, run
from llmguard.probe.libraries import Libraries
from llmguard.probe.limits import MiB
from llmguard.probe.machine import Computing, Driver, Folder, Gpu, Meeting, Places, Query, Torch, Writing
from llmguard.probe.result import ProbeResult

__all__ = ["Environment", "Folder", "Gpu", "Torch", "Writing"]

HARD_TIMEOUT = 900.0
"""Seconds after which an import that is still moving is cut off: a cold cache on a slow network takes minutes."""
WRITE_TIMEOUT, CLEAN_TIMEOUT = 120.0, 5.0
PAYLOAD = 64 * MiB


@dataclass(frozen=True)
class Environment(Libraries):
    """What a run needs of its machine; what the machine says is found out on first use and once.

    `torch_needed_by` is the key of the project file without which torch could be missing, `torch_wanted_by` one that will want
    it later. Sizes are bytes, times seconds. `environ` is laid over the environment of this process.
    """

    folder: str
    torch_needed_by: str = ""
    torch_wanted_by: str = ""
    gpu: bool = False
    gpu_name: str = ""
    gpu_count: int | None = None
    gpu_memory: int | None = None
    import_timeout: float = 30.0
    hard_timeout: float = HARD_TIMEOUT
    folders: tuple[Folder, ...] = ()
    checkpoint_size: int | None = None
    payload: int = PAYLOAD
    mounts: str | None = None
    environ: Mapping[str, str | None] = field(default_factory=dict)
    offline: bool = field(default_factory=lambda: _on("HF_HUB_OFFLINE") or _on("TRANSFORMERS_OFFLINE"))
    python: tuple[int, int] = field(default_factory=lambda: (sys.version_info[0], sys.version_info[1]))
    driver_timeout: float = 30.0
    query_timeout: float = 15.0
    quick_timeout: float = 10.0
    host: Host = field(default_factory=Host)
    now: Callable[[], float] = time.time

    # -- early and late

    def begin(self, checks: Iterable[str]) -> None:
        """Start what these checks will ask for, and come back at once; what is started is never started again."""
        names = list(checks)
        if "machine_is_not_swapping" in names:
            _ = self.swapped_in  # the first of two readings: the later the second, the more it tells
        parts = dict.fromkeys(part for check in names for part in EARLY.get(check, ()))
        for part in parts:
            if part in self._early or part in self.__dict__ or (part in GPU_PARTS and not self.asks_gpu):
                continue
            if part == "writings":
                self._early[part] = Later(self._write_all)
            elif part not in ("uses_gpu", "computes") or self.gpu:
                self._early[part] = self._started(part)

    def close(self) -> None:
        """End what was started and never asked for."""
        while self._early:
            _, left = self._early.popitem()
            if isinstance(left, Probe):
                left.cancel()

    @cached_property
    def swapped_in(self) -> tuple[float, int]:
        """When the kernel's counter of pages read back from swap was first read (monotonic seconds), and what it said."""
        return time.monotonic(), self.host.numbers("/proc/vmstat").get("pswpin", 0)

    @cached_property
    def _early(self) -> dict[str, Probe | Later]:
        return {}

    def _started(self, part: str) -> Probe:
        calm = {"no_progress": self.import_timeout, "timeout": self.hard_timeout}
        made: dict[str, Callable[[], Probe]] = {
            "torch": lambda: torch_probes.start_import(self.folder, self.environ, **calm),
            "uses_gpu": lambda: torch_probes.start_cuda(self.environ, **calm),
            "computes": lambda: torch_probes.start_computing(self.environ, **calm),
            "driver": lambda: driver.start_driver(self.environ, timeout=self.driver_timeout),
            "query": lambda: driver.start_query(self.environ, timeout=self.query_timeout),
            "places": lambda: places.start_places(
                self._scratch, dict(self.environ), timeout=self.quick_timeout
            ),
            "meeting": lambda: meeting.start_meeting(self.environ, timeout=self.quick_timeout),
        }
        return made[part]()

    def _told(self, part: str) -> ProbeResult:
        """The result of a part's probe, which is started now where it was not before."""
        early = self._early.pop(part, None)
        running = early if isinstance(early, Probe) else self._started(part)
        try:
            return running.wait()
        except BaseException:  # Ctrl-C, or a test's own timeout: end the tree, then let it through
            running.cancel()
            raise

    # -- torch and GPUs

    @cached_property
    def asks_gpu(self) -> bool:
        """Whether there is a reason to look for an NVIDIA GPU: the project wants one, or there is a trace of one."""
        return self.gpu or self.host.has_nvidia

    @cached_property
    def torch(self) -> Torch:
        """Import torch in a probe, with the project's folder first on the path, as it is for the user's own code."""
        return torch_probes.torch_of(self._told("torch"))

    @cached_property
    def torch_again(self) -> Torch:
        """Import it once more: what the first time has read from the disk is in memory now."""
        return torch_probes.torch_of(self._told("torch"))

    @cached_property
    def driver(self) -> Driver:
        """Start the CUDA driver without torch."""
        return driver.driver_of(self._told("driver"))

    @cached_property
    def query(self) -> Query:
        """Ask nvidia-smi."""
        return driver.query_of(self._told("query"))

    def ask_again(self) -> Query:
        """Ask nvidia-smi once more, for what changes by itself."""
        return driver.query_of(self._told("query"))

    @cached_property
    def uses_gpu(self) -> Gpu:
        """Let torch start CUDA and name its devices."""
        return torch_probes.gpu_of(self._told("uses_gpu"))

    @cached_property
    def computes(self) -> Computing:
        """Multiply two small matrices on each visible GPU."""
        return torch_probes.computing_of(self._told("computes"))

    def finish_gpu(self) -> None:
        """Wait for our own probes of the GPU that were started early: they take memory, too."""
        for part in ("uses_gpu", "computes"):
            if part in self._early:
                getattr(self, part)

    # -- folders, names, ports

    def variable(self, name: str) -> str:
        """A variable of the environment that the run will have, "" where it is not set."""
        return (self.environ[name] if name in self.environ else os.environ.get(name)) or ""

    @cached_property
    def _scratch(self) -> list[tuple[str, str]]:
        """Folders for scratch files and compiled code, by the variable that moves them."""
        home = self.variable("HOME")
        default = {"TMPDIR": "/tmp"}
        if home:
            default |= {"XDG_CACHE_HOME": f"{home}/.cache", "TRITON_CACHE_DIR": f"{home}/.triton/cache"}
        named = {name: self.variable(name) for name in (*default, "TORCHINDUCTOR_CACHE_DIR")}
        return [(name, path) for name, path in {**default, **{k: v for k, v in named.items() if v}}.items()]

    @cached_property
    def places(self) -> Places:
        """Try the folders for scratch files and compiled code, and look for a compiler."""
        return places.places_of(self._told("places"), self._scratch)

    @cached_property
    def meeting(self) -> Meeting:
        """Whether the processes of one run would find each other here."""
        return meeting.meeting_of(self._told("meeting"))

    @cached_property
    def writings(self) -> tuple[Writing, ...]:
        """Write to each of the folders."""
        early = self._early.pop("writings", None)
        found: tuple[Writing, ...] = early.result() if isinstance(early, Later) else self._write_all()
        return found

    def _write_all(self) -> tuple[Writing, ...]:
        """One after the other: they may share a disk."""
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

    # -- limits and versions

    @cached_property
    def open_files(self) -> tuple[int, int]:
        """How many files a process may have open: the limit in force, and the one that it may be raised to; -1 is none."""
        return _limit("NOFILE")

    @cached_property
    def user_processes(self) -> tuple[int, int]:
        """How many threads this user may have on the machine; -1 is none, also for root, whom it does not bind."""
        return (-1, -1) if os.geteuid() == 0 else _limit("NPROC")

    @cached_property
    def locked_memory(self) -> tuple[int, int]:
        """How many bytes a process may lock in memory; -1 is none."""
        return _limit("MEMLOCK")

    @cached_property
    def installed_at(self) -> float:
        """When this library was installed, by the time of its file, seconds since 1970: the clock cannot be before that."""
        return Path(__file__).stat().st_mtime


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


def _limit(name: str) -> tuple[int, int]:
    import resource

    soft, hard = resource.getrlimit(getattr(resource, f"RLIMIT_{name}"))
    return tuple(-1 if limit == resource.RLIM_INFINITY else limit for limit in (soft, hard))  # type: ignore[return-value]  # two of them


def _on(name: str) -> bool:
    return os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE")
