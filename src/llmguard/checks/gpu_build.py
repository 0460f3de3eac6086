"""GPU, between torch and driver: the build of torch fits the driver and the GPUs, and CUDA_VISIBLE_DEVICES names what is there."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from llmguard import placement
from llmguard.checks.gpu_driver import FALLS_BACK, severity, wanted_here
from llmguard.contract import Yields, check
from llmguard.errors import EvidenceError
from llmguard.findings import Finding, Where, note, warning

if TYPE_CHECKING:
    from llmguard.probe.environment import Environment
    from llmguard.probe.machine import Device, Torch

__all__ = ["torch_build_fits_the_gpu", "visible", "visible_devices_exist"]

VARIABLE = "CUDA_VISIBLE_DEVICES"
OLDEST_DRIVER = {11: "450.80.02", 12: "525.60.13", 13: "580.65.06"}
"""The first Linux driver for each major version of CUDA, from the release notes of the toolkit ("minor version compatibility")."""


@check
def torch_build_fits_the_gpu(environment: Environment) -> Yields:
    """torch is built for GPUs, for no newer CUDA than the driver speaks, and with code for each GPU that is here.

    Told from torch's own version and list of architectures and from the driver: no GPU is used.

    Raises:
        MissingEvidence: no NVIDIA GPU here, and the project asks for none.
        EvidenceError: torch does not import, or the driver does not start; other checks say why.
    """
    wanted_here(environment)
    found = environment.torch
    if not found.result.ok:
        raise EvidenceError("torch", "torch does not import", told_by="torch_imports_in_time")
    if not (found.cuda or found.hip):
        yield _built_for_cpu(environment, found)
        return 1
    if found.hip:
        return 1
    if not environment.driver.works:
        raise EvidenceError("driver", "the CUDA driver does not start", told_by="cuda_driver_starts")
    yield from _old_driver(environment, found)
    for device in environment.driver.devices:
        yield from _no_code(environment, found, device)
    return len(environment.driver.devices)


def _built_for_cpu(environment: Environment, found: Torch) -> Finding:
    asked = "the project asks for a GPU" if environment.gpu else "this machine has a GPU"
    return severity(environment)(
        Where(found.file),
        what=f"torch {found.version} is built without CUDA and ROCm, and {asked}",
        why=FALLS_BACK,
        cause="a wheel of the CPU index, or a constraint that picked it",
        remedy="reinstall torch with the command of pytorch.org for this machine's CUDA",
        expected="a build for CUDA or ROCm",
        actual=f"torch {found.version}",
    )


def _old_driver(environment: Environment, found: Torch) -> Iterator[Finding]:
    """A driver runs every minor version of its major one; below that nothing starts."""
    major, minor = environment.driver.cuda
    wanted = int(found.cuda.partition(".")[0])
    if major and major < wanted:
        needs = f" (driver {OLDEST_DRIVER[wanted]} or newer)" if wanted in OLDEST_DRIVER else ""
        driver = f"the driver {environment.host.driver_version}".rstrip()
        yield severity(environment)(
            Where(found.file),
            what=f"torch {found.version} is built for CUDA {found.cuda}, and {driver} speaks CUDA {major}.{minor}",
            why="torch says that the driver is too old and finds no GPU",
            cause="`pip install torch` takes the newest build, whatever the driver",
            remedy=f"install the build of torch for CUDA {major} (pytorch.org), or update the driver of the host{needs}",
            expected=f"CUDA {wanted} or newer from the driver",
            actual=f"CUDA {major}.{minor}",
        )


def _no_code(environment: Environment, found: Torch, device: Device) -> Iterator[Finding]:
    if device.capability == (0, 0) or not found.arch or has_code(found.arch, device.capability):
        return
    name = f"sm_{device.capability[0]}{device.capability[1]}"
    yield severity(environment)(
        Where(found.file),
        what=f"torch {found.version} has no code for {device.name} ({name}): it is built for {', '.join(found.arch)}",
        why="the first kernel ends with `no kernel image is available for execution on the device`",
        cause="a GPU that is newer than this release of torch, or older than it still supports",
        remedy=f"install a release and a build of torch with {name} (`torch.cuda.get_arch_list()` lists them)",
        expected=f"{name}, or an earlier one of the same generation",
        actual=", ".join(found.arch),
    )


def has_code(arch: Sequence[str], capability: tuple[int, int]) -> bool:
    """Whether a list of architectures serves a GPU: binaries run within their generation, PTX on whatever is newer."""
    for name in arch:
        parts = re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", name)
        if not parts:
            continue
        built = (int(parts[2]), int(parts[3]))
        if parts[4] == "a":  # for this one GPU alone
            served = built == capability
        elif parts[1] == "sm" or parts[4]:
            served = built[0] == capability[0] and built <= capability
        else:
            served = built <= capability
        if served:
            return True
    return False


@check
def visible_devices_exist(environment: Environment) -> Yields:
    """CUDA_VISIBLE_DEVICES, where it is set, names devices that are there, each once.

    CUDA takes the list up to its first wrong entry and says nothing: an entry that is not there hides all that follow,
    one that stands there twice hides everything.

    Raises:
        MissingEvidence: no NVIDIA GPU here, and the project asks for none.
        EvidenceError: nothing tells which devices there are; another check says why.
    """
    wanted_here(environment)
    if not _is_set(environment):
        return 0
    text = environment.variable(VARIABLE)
    devices = environment.driver.devices
    if not devices:
        raise EvidenceError("gpu", "the driver shows no devices", told_by="cuda_driver_starts")
    entries = [entry.strip() for entry in text.split(",")]
    seen = visible(text, devices)
    wrong = entries[len(seen) :] if seen or len(set(entries)) == len(entries) else _repeated(entries)
    if wrong or not seen:
        yield _hidden(environment, text, wrong[0] if wrong else "", len(seen))
    return len(entries)


def _is_set(environment: Environment) -> bool:
    import os

    return environment.environ.get(VARIABLE, os.environ.get(VARIABLE)) is not None


def _repeated(entries: Sequence[str]) -> list[str]:
    """The entries that stand there again: CUDA then shows nothing at all."""
    return [entry for number, entry in enumerate(entries) if entry in entries[:number]]


def visible(text: str, devices: Sequence[Device]) -> list[Device]:
    """The devices that a value of CUDA_VISIBLE_DEVICES leaves, in its order: up to the first entry that names none."""
    return [devices[number] for number in placement.visible(text, [device.uuid for device in devices])]


def _hidden(environment: Environment, text: str, entry: str, left: int) -> Finding:
    count = len(environment.driver.devices)
    if entry.upper().startswith("MIG-"):
        made = warning if environment.gpu else note
        return made(
            Where(what=VARIABLE),
            what=f"{VARIABLE}={text!r} names a slice of a GPU, which the list of {count} whole devices cannot confirm",
            why="a slice that is not there hides everything",
            cause="a scheduler that hands out MIG slices",
            remedy="compare it with `nvidia-smi -L`",
            expected="a slice of `nvidia-smi -L`",
            actual=text,
        )
    said = f"its entry {entry!r} is none of them, or stands there twice" if entry else "it is empty"
    return severity(environment)(
        Where(what=VARIABLE),
        what=f"{VARIABLE}={text!r} leaves {left} of {count} GPUs: {said}",
        why=FALLS_BACK if not left else "the run sees fewer GPUs than it was given, without a message",
        cause="a variable of another machine or job, a slip in a UUID, or a scheduler that gave no GPU to this step",
        remedy=f"unset {VARIABLE}, or name devices of `nvidia-smi -L` (0 to {count - 1})",
        expected=f"entries from 0 to {count - 1}, or their UUIDs",
        actual=text or "empty",
        evidence={"devices": [device.uuid for device in environment.driver.devices][:16]},
    )


torch_build_fits_the_gpu.unit = visible_devices_exist.unit = "devices"
