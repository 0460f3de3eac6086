"""Why an import of torch failed or hung, and what to do: the texts of `torch_imports_in_time`."""

from __future__ import annotations

import errno
import os
import re

from llmguard.probe import Failure, ProbeResult, Verdict, stacks
from llmguard.probe.environment import Torch

__all__ = ["cause_and_remedy", "place_of"]

_LIBRARY = re.compile(r"([\w.+-]+\.so[\w.]*): cannot open shared object file")
_TOO_OLD = re.compile(r"(GLIBC|GLIBCXX|CXXABI)_[\d.]+")
_DISK = (errno.EIO, errno.ESTALE)
_REINSTALL = "reinstall torch in a fresh virtual environment with the command of pytorch.org for this machine"
_LOOK = "look at the stack in the evidence of this finding, or run `python -X importtime -c 'import torch'`"

_BY_VERDICT: dict[Verdict, tuple[str, str]] = {
    Verdict.HUNG: ("something that runs on import waits for what never comes", _LOOK),
    Verdict.HUNG_FS: (
        "the file system does not answer: a network volume that is gone, or its server",
        "try `timeout 5 stat` on the path above; remount it, or move the virtual environment to a local disk",
    ),
    Verdict.DEADLOCK: (
        "two native libraries in one process, each with a runtime of its own (TensorFlow or another OpenMP imported first)",
        "import torch first, keep a single OpenMP runtime in the environment, and look at the stack in the evidence",
    ),
    Verdict.LOCK_POLL: (
        "a lock left behind by a process that was killed while it built an extension, or one that builds still",
        "see who holds the lock (`fuser FILE`); when nobody does, remove the file and import again",
    ),
    Verdict.SPIN: ("a loop on import: code generation without its cache, or a wait that never rests", _LOOK),
    Verdict.STOPPED: ("a debugger, a job control signal, or a container that is frozen", "continue the process or its container"),
    Verdict.PROGRESSING_SLOW: (
        "a virtual environment on a slow or cold network volume: importing torch asks for some 20,000 files",
        "move the environment to a local disk, or warm it up; raise `[environment] import_timeout` if this is normal",
    ),
    Verdict.EXITED_EARLY: ("code that runs on import ends the process: a licence check, a wrapper, sitecustomize", _LOOK),
    Verdict.RESOURCE: (
        "a limit of the shell or the container (`ulimit -a`), or memory that others use",
        "raise the limit that is named above, or end what uses it up",
    ),
    Verdict.INTERPRETER_UNREACHABLE: (
        "the interpreter lies on a file system that does not answer",
        "move the virtual environment to a local disk",
    ),
    Verdict.UNKILLABLE: (
        "a process in a state in which the kernel does not end it: a driver or a file system that hangs",
        "look at `dmesg`; the machine may need a restart",
    ),
}  # fmt: skip
_UNKNOWN = ("unknown", _LOOK)


def cause_and_remedy(found: Torch, folder: str) -> tuple[str, str]:
    """The likely cause and the remedy of an import that did not come to its end."""
    if found.beside:
        named = ", ".join(found.beside)
        return (
            f"{named} in the project's folder is imported in the place of a library of the same name",
            "rename it (and remove its __pycache__): the project's folder comes first on the path",
        )
    result = found.result
    if result.failure is not None and result.verdict is not Verdict.RESOURCE:
        return _of_failure(result.failure)
    if result.signal is not None and result.verdict is Verdict.CRASHED:
        return _of_signal(result)
    return _BY_VERDICT.get(result.verdict, _UNKNOWN)


def _of_signal(result: ProbeResult) -> tuple[str, str]:
    if result.signal_name == "SIGILL":
        return "a binary built for a newer processor than this one", "install a build for this processor"
    if result.signal_name == "SIGKILL":
        return (
            "something ended it from outside: the kernel for want of memory, a job scheduler",
            "look at `dmesg` and at the limits of the job",
        )
    return "native libraries that do not fit each other or this machine", _REINSTALL


def _of_failure(failure: Failure) -> tuple[str, str]:
    text = failure.message
    if failure.errno in _DISK or any(os.strerror(number) in text for number in _DISK):
        return (
            "the disk or the network volume under the environment fails",
            "move the environment to a local disk; look at `dmesg`",
        )
    if library := _LIBRARY.search(text):
        return _of_library(library[1])
    if needed := _TOO_OLD.search(text):
        return (
            f"the system is older than the binary: it has no {needed[0]}",
            "use a newer system image, or an older build of torch",
        )
    if "undefined symbol" in text:
        return (
            "two versions of one native library are mixed (torch and its nvidia packages, or LD_LIBRARY_PATH)",
            _REINSTALL,
        )
    if "circular import" in text or "partially initialized" in text:
        return "an installation that is half one version and half another", _REINSTALL
    if failure.kind == "ModuleNotFoundError":
        return f"{failure.name} is not installed, and torch needs it", f"python -m pip install {failure.name}"
    return (
        "an installation that is damaged, or a setting of the environment that torch reads on import",
        _REINSTALL,
    )


def _of_library(name: str) -> tuple[str, str]:
    if name.startswith(("libcu", "libnv", "libnccl")):
        return (
            f"{name} comes with the nvidia packages that this build of torch pins, and is not there",
            _REINSTALL,
        )
    return f"the system library {name} is not installed", f"install the system package that brings {name}"


def place_of(result: ProbeResult) -> tuple[str, int | None]:
    """File and line where it failed or hung, "" where unknown."""
    if result.failure is not None and result.failure.file and not result.failure.file.startswith("<"):
        return result.failure.file, result.failure.line or None
    for file, line, _ in stacks.main_thread(result.stack):
        if not file.startswith("<") and not file.endswith("/probe/bootstrap.py"):
            return file, line or None
    return "", None
