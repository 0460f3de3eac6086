"""What the probes of a machine came to, as records; each holds the `ProbeResult` that it was read from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from llmguard.probe.result import ProbeResult

__all__ = [
    "Card",
    "Computing",
    "Device",
    "Driver",
    "Folder",
    "Gpu",
    "Meeting",
    "Place",
    "Places",
    "Query",
    "Torch",
    "Writing",
]


@dataclass(frozen=True)
class Folder:
    """A folder that the run writes to: `key` of the project file, its path (never touched by this process).

    `told_by`: the place in a training config that names it, where the project file does not.
    """

    key: str
    path: str
    told_by: str = ""


@dataclass(frozen=True)
class Torch:
    """What importing torch came to. `beside` are modules that were loaded from the project's own folder meanwhile.

    `arch` are the GPU architectures that the build holds code for (`sm_90`, `compute_90`).
    """

    result: ProbeResult
    version: str = ""
    file: str = ""
    path: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    tensor: bool = False
    cuda: str = ""
    hip: str = ""
    arch: tuple[str, ...] = ()

    @property
    def missing(self) -> bool:
        """Whether there is no torch at all."""
        failure = self.result.failure
        return failure is not None and failure.kind == "ModuleNotFoundError" and failure.name == "torch"


@dataclass(frozen=True)
class Gpu:
    """What starting CUDA (or ROCm) from torch came to; `why` is torch's own error."""

    result: ProbeResult
    available: bool = False
    count: int = 0
    names: tuple[str, ...] = ()
    why: str = ""


@dataclass(frozen=True)
class Computing:
    """What a small kernel on each GPU came to: an element of a product of two 64 x 64 matrices of ones."""

    result: ProbeResult
    names: tuple[str, ...] = ()
    products: tuple[float, ...] = ()
    why: str = ""


@dataclass(frozen=True)
class Device:
    """A GPU as its driver describes it; `memory` in bytes, `capability` as (major, minor)."""

    name: str
    memory: int = 0
    capability: tuple[int, int] = (0, 0)
    uuid: str = ""


@dataclass(frozen=True)
class Driver:
    """What starting the CUDA driver without torch came to.

    `stage` is what it was doing last, `library` the file that was loaded ("" where there is none: `why` says what the
    loader said), `code` what `cuInit` returned, `cuda` the version of CUDA that the driver speaks.
    """

    result: ProbeResult
    stage: str = ""
    library: str = ""
    why: str = ""
    code: int | None = None
    error: str = ""
    cuda: tuple[int, int] = (0, 0)
    devices: tuple[Device, ...] = ()

    @property
    def works(self) -> bool:
        """Whether it started and showed its devices."""
        return self.result.ok and self.code == 0 and bool(self.devices)


@dataclass(frozen=True)
class Card:
    """A GPU as nvidia-smi describes it: a value that it did not tell is None, and its field is in `untold`. Bytes.

    `processes` are (process id, name, bytes or None); `unhealthy` sentences on errors that it counted.
    """

    name: str = ""
    uuid: str = ""
    bus: str = ""
    total: int | None = None
    used: int | None = None
    mode: str = ""
    mig: bool = False
    virtual: str = ""
    processes: tuple[tuple[int, str, int | None], ...] = ()
    unhealthy: tuple[str, ...] = ()
    throttled: tuple[str, ...] = ()
    untold: tuple[str, ...] = ()


@dataclass(frozen=True)
class Query:
    """What asking nvidia-smi came to; `unreadable` is the beginning of an answer that is none."""

    result: ProbeResult
    driver: str = ""
    cuda: str = ""
    cards: tuple[Card, ...] = ()
    unreadable: str = ""

    @property
    def absent(self) -> bool:
        """Whether there is no such program."""
        return self.result.observed.ended == "exec"


@dataclass(frozen=True)
class Place:
    """A folder of scratch files or compiled code, tried: `executable` says whether code in it may be loaded.

    `skew` is the time of a file that was just written, minus this machine's, seconds.
    """

    key: str
    path: str
    probed: str = ""
    mount: str = ""
    errno: int = 0
    message: str = ""
    executable: bool = True
    free: int = 0
    skew: float = 0.0


@dataclass(frozen=True)
class Places:
    """What trying these folders came to. `hung` is the one that did not answer; `compiler` and `headers` are paths, "" for none."""

    result: ProbeResult
    tried: tuple[Place, ...] = ()
    hung: tuple[str, str] = ("", "")
    compiler: str = ""
    headers: str = ""


@dataclass(frozen=True)
class Meeting:
    """Whether processes of one run would find each other on this machine.

    `step` is what was tried last; `failures` maps what failed to the error; `taken` is (address, port) that is in use.
    """

    result: ProbeResult
    step: str = ""
    name: str = ""
    failures: Mapping[str, str] = field(default_factory=dict)
    taken: str = ""


@dataclass(frozen=True)
class Writing:
    """What writing to a folder came to; `told` is empty where the probe did not come to its end (see `writing`)."""

    folder: Folder
    result: ProbeResult
    told: Mapping[str, Any]
    left: str = ""
