"""GPU, below torch: the CUDA driver starts, and nvidia-smi answers; each asked in a process of its own, with a deadline."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from llmguard.contract import Yields, check
from llmguard.errors import EvidenceError, MissingEvidence
from llmguard.findings import Finding, Where, error, note, warning

if TYPE_CHECKING:
    from llmguard.probe.environment import Environment
    from llmguard.probe.machine import Driver, Query

__all__ = ["cuda_driver_starts", "nvidia_smi_answers"]

FALLS_BACK = "training falls back to the processor and takes weeks, or stops at the first .cuda()"
_RESTART = "restart the container or the machine, then check again"
_TOOLKIT = "start the container with `--gpus all` (Docker), or ask for a GPU in the job or pod"

CODES: dict[int, tuple[str, str]] = {
    2: ("the memory of the GPU is used up by others", "end what holds it (`nvidia-smi`), then check again"),
    34: (
        "the libcuda.so.1 that is loaded is the stub for compiling, not the driver's",
        "take the `stubs` folder of the toolkit off LD_LIBRARY_PATH",
    ),
    46: ("the device is busy or in exclusive mode", "end what uses it (`nvidia-smi`), or take another one"),
    100: (
        "no GPU is handed to this machine or container, or the driver has lost it",
        f"{_TOOLKIT}; look at `dmesg | grep -i nvrm`",
    ),
    101: ("the list of devices is not valid", "look at CUDA_VISIBLE_DEVICES"),
    304: (
        "a call of the operating system failed: device files that may not be opened",
        "look at the rights of /dev/nvidia*",
    ),
    802: (
        "the fabric manager is not running, or not ready yet (NVSwitch machines)",
        "`systemctl status nvidia-fabricmanager` on the host; its version must be the driver's",
    ),
    803: (
        "libcuda of this container and the kernel module of the host are of different versions",
        "restart the container, or the machine after a driver update; take forward-compatibility libraries off LD_LIBRARY_PATH",
    ),
    804: (
        "forward-compatibility libraries (cuda-compat) on a GPU that does not support them",
        "take cuda-compat off LD_LIBRARY_PATH, or update the driver of the host",
    ),
    999: (
        "the driver is in a state that it cannot name: after a crash, a suspend, or a module that was half loaded",
        f"look at `dmesg | grep -i -e xid -e nvrm`; {_RESTART}",
    ),
}
"""What `cuInit` returns (cuda.h, CUresult): likely cause and remedy."""

STATUS: dict[int, tuple[str, str]] = {
    6: ("it finds no GPU", _TOOLKIT),
    9: (
        "the kernel module of the NVIDIA driver is not loaded",
        "load it on the host (`modprobe nvidia`), or start the container on a GPU machine",
    ),
    12: (
        "the library of NVML is not in this container",
        "start the container with NVIDIA_DRIVER_CAPABILITIES=compute,utility",
    ),
    15: ("the GPU has fallen off the bus", _RESTART),
}
"""Exit statuses of nvidia-smi, from its manual."""


@check
def cuda_driver_starts(environment: Environment) -> Yields:
    """The CUDA driver starts and shows a device, asked through libcuda without torch.

    Where torch hangs or finds nothing, this says whether the driver is at fault. All devices are looked at, also those that
    CUDA_VISIBLE_DEVICES hides; none is used. Errors where the project needs a GPU, else notes.

    Raises:
        MissingEvidence: no NVIDIA GPU here, and the project asks for none.
    """
    wanted_here(environment)
    found = environment.driver
    if not found.result.ok:
        yield _stuck(environment, found)
    elif not found.library:
        yield _no_library(environment, found)
    elif not found.works:
        yield _refused(environment, found)
    return max(1, len(found.devices))


def wanted_here(environment: Environment) -> None:
    """Go on where there is an NVIDIA GPU, or the project needs one.

    Raises:
        MissingEvidence: neither; or the GPU is AMD's, which these checks know nothing of.
    """
    if not environment.asks_gpu:
        raise MissingEvidence(
            "gpu",
            "no NVIDIA GPU here; add `[environment] gpu = true` to llmguard.toml if the project needs one",
        )
    if environment.host.has_amd and not environment.host.has_nvidia:
        raise MissingEvidence("gpu", "the GPU here is AMD's, and this asks NVIDIA's driver")


def severity(environment: Environment) -> Callable[..., Finding]:
    """An error where the project needs a GPU, else a note."""
    return error if environment.gpu else note


def _stuck(environment: Environment, found: Driver) -> Finding:
    return severity(environment)(
        Where(what="CUDA driver"),
        what=f"{found.result.explain()}; it was {'in ' if found.stage == 'cuInit' else ''}{found.stage or 'not started'}",
        why="whatever touches the GPU hangs the same way, torch included, for hours and without a message",
        cause="a driver that is stuck, though nvidia-smi may look healthy, or a GPU whose firmware does not answer",
        remedy=f"look at `dmesg | grep -i xid`; {_RESTART}; no pip install helps",
        expected=f"an answer within {environment.driver_timeout:g} s",
        actual=found.result.verdict.value,
        evidence=found.result.to_json(),
    )


def _no_library(environment: Environment, found: Driver) -> Finding:
    here = environment.host.nvidia_devices
    cause, remedy = (
        "no NVIDIA driver: a machine without a GPU, or a container that was started without it",
        _TOOLKIT,
    )
    if here:
        cause = f"{', '.join(here)} are here, but the driver's library was not handed to this container"
        remedy = "start the container with NVIDIA_DRIVER_CAPABILITIES=compute,utility, or install the driver's library (libcuda1)"
    return severity(environment)(
        Where(what="CUDA driver"),
        what=f"libcuda.so.1 cannot be loaded: {found.why}",
        why=FALLS_BACK,
        cause=cause,
        remedy=remedy,
        expected="libcuda.so.1 of the driver",
        actual="none",
    )


def _refused(environment: Environment, found: Driver) -> Finding:
    code = 100 if found.code == 0 else found.code or 0
    cause, remedy = CODES.get(code, ("unknown", "look the code up in cuda.h (CUresult)"))
    if code == 100 and environment.host.nvidia_cards and not environment.host.nvidia_devices:
        cause = "an NVIDIA GPU is on the bus, and there are no device files: no driver, or a container without them"
    said = (
        f"cuInit returned {found.code} ({found.error})"
        if found.code
        else "the driver started and shows no device"
    )
    return severity(environment)(
        Where(found.library),
        what=said,
        why=FALLS_BACK,
        cause=cause,
        remedy=remedy,
        expected="0, and a device",
        actual=f"{found.code}, {len(found.devices)} devices",
        evidence={"driver": environment.host.driver_version, "cuda": list(found.cuda)},
    )


@check
def nvidia_smi_answers(environment: Environment) -> Yields:
    """nvidia-smi comes back in time, with a readable answer about every GPU.

    Its names, memory and errors are what other checks compare: what it does not tell is said to be incomplete, never passed.

    Raises:
        MissingEvidence: no NVIDIA GPU here, and the project asks for none.
        EvidenceError: it tells nothing, and the project does not need a GPU; or there is no GPU, and another check says so.
    """
    wanted_here(environment)
    found = environment.query
    if found.absent:
        yield _absent(environment)
    elif not found.result.ok:
        yield _failed(environment, found)
    elif found.unreadable:
        yield incomplete(
            environment, f"nvidia-smi answers with what is no report: {found.unreadable[:120]!r}"
        )
    else:
        yield from _contradictions(environment, found)
        yield from _untold(environment, found)
    return max(1, len(found.cards))


def incomplete(
    environment: Environment,
    what: str,
    cause: str = "a driver in a bad state, a virtual GPU, or a tool of another version than the driver",
    remedy: str = "run `nvidia-smi -q -x` by hand; compare its version with /proc/driver/nvidia/version",
) -> Finding:
    """What could not be judged: a warning where the project needs a GPU.

    Raises:
        EvidenceError: it does not; the check is skipped with the reason, and not green.
    """
    if not environment.gpu:
        raise EvidenceError("gpu", f"incomplete: {what}")
    return warning(
        Where(what="nvidia-smi"),
        what=f"incomplete: {what}",
        why="memory that others hold, hardware errors and the model of the GPU could not be looked at",
        cause=cause,
        remedy=remedy,
        expected="a full answer",
        actual="incomplete",
    )


def _absent(environment: Environment) -> Finding:
    here = environment.host.nvidia_devices
    if not here:
        raise EvidenceError(
            "gpu", "neither nvidia-smi nor /dev/nvidia* is here", told_by="cuda_driver_starts"
        )
    return incomplete(
        environment,
        f"{', '.join(here)} are here and nvidia-smi is not on PATH",
        cause="a container without the driver's tools",
        remedy="start the container with NVIDIA_DRIVER_CAPABILITIES=compute,utility",
    )


def _failed(environment: Environment, found: Query) -> Finding:
    result = found.result
    status = result.returncode if result.observed.ended == "exit" and result.signal is None else None
    cause, remedy = STATUS.get(
        status or 0,
        ("the driver is in a state that its own tool cannot read", f"run nvidia-smi by hand; {_RESTART}"),
    )
    if status is None:
        cause = "a driver that is stuck: what asks it waits in the kernel"
        remedy = f"look at `dmesg | grep -i xid`; {_RESTART}"
    if not environment.host.nvidia_devices and status is not None:
        cause += "; there are no device files /dev/nvidia* either"
    said = result.output.strip().splitlines()
    return severity(environment)(
        Where(what="NVIDIA driver"),
        what=result.explain(),
        why="the driver answers its own tool no better than it will answer the run",
        cause=cause,
        remedy=remedy,
        expected="exit status 0",
        actual=result.verdict.value
        if status is None
        else f"exit status {status}: {said[-1][:200] if said else 'nothing said'}",
        evidence=result.to_json(),
    )


def _contradictions(environment: Environment, found: Query) -> Iterator[Finding]:
    here = environment.host.nvidia_devices
    if found.cards and here:
        return
    listed = f"nvidia-smi lists {len(found.cards)} GPUs and there are {len(here)} device files"
    yield severity(environment)(
        Where(what="nvidia-smi"),
        what=listed,
        why=FALLS_BACK,
        cause="a container that was given the driver's tools and not its devices"
        if found.cards
        else "no GPU is handed to this container",
        remedy=_TOOLKIT,
        expected="as many devices as GPUs",
        actual=listed,
    )


def _untold(environment: Environment, found: Query) -> Iterator[Finding]:
    fields = sorted(
        {f"{field} of GPU {n}" for n, card in enumerate(found.cards) for field in card.untold if not card.mig}
    )
    if fields:
        yield incomplete(environment, f"nvidia-smi does not tell {', '.join(fields[:8])}")


cuda_driver_starts.unit = nvidia_smi_answers.unit = "devices"
