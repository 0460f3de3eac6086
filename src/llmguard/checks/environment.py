"""Environment: torch imports and finds its GPU, limits have room, versions fit each other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from llmguard.checks.torch_import import cause_and_remedy, place_of
from llmguard.contract import Yields, check
from llmguard.errors import EvidenceError, MissingEvidence
from llmguard.findings import Finding, Where, error, note, warning

if TYPE_CHECKING:
    from llmguard.probe.environment import Environment, Gpu, Torch

__all__ = ["gpu_is_available", "open_file_limit_is_enough", "python_is_supported", "torch_imports_in_time"]

OLDEST_PYTHON, NEWEST_PYTHON = (3, 10), (3, 13)
ENOUGH_FILES, TOO_FEW_FILES = 1024, 256
"""Every worker of a loader and every shard of a data set holds files open; below the second number a run has no chance."""
_STOPS = "nothing that trains or evaluates can start"


@check
def torch_imports_in_time(environment: Environment) -> Yields:
    """`import torch` comes to its end, from the library and not from a file of the project, and in time.

    It is tried in a process of its own that is ended when nothing has moved for `[environment] import_timeout` seconds; slow
    is not hung. Sees the machine it runs on; a GPU is hidden from it (`gpu_is_available` looks at that).
    """
    found = environment.torch
    if found.result.ok:
        yield from _shadowed(environment, found)
        yield from _aftermath(environment, found)
    elif found.missing:
        yield _missing(environment)
    else:
        yield _broken(environment, found)
    return 1


def _broken(environment: Environment, found: Torch) -> Finding:
    file, line = place_of(found.result)
    cause, remedy = cause_and_remedy(found, environment.folder)
    made = error if environment.torch_needed_by or environment.torch_wanted_by else warning
    return made(
        Where(file, line=line) if file else Where(what="python environment"),
        what=found.result.explain(),
        why=_STOPS,
        cause=cause,
        remedy=remedy,
        expected="import torch comes to its end",
        actual=found.result.verdict.value,
        evidence=found.result.to_json(),
    )


def _missing(environment: Environment) -> Finding:
    where = Where(what="python environment")
    if environment.torch_needed_by:
        return error(
            where,
            what="torch is not installed",
            why=f"{environment.torch_needed_by} of the project file cannot run without it",
            cause="another virtual environment than the one the project trains in",
            remedy="run pytest in the project's environment, or install torch with the command of pytorch.org",
        )
    if environment.torch_wanted_by:
        return warning(
            where,
            what="torch is not installed",
            why=f"{environment.torch_wanted_by} names a model: text and tokens are checked without torch, training and sentinels are not",
            cause="an environment for checks alone",
            remedy="nothing, if that is meant; else install torch with the command of pytorch.org",
        )
    return note(where, what="torch is not installed, and nothing in the project file needs it")


def _shadowed(environment: Environment, found: Torch) -> Iterator[Finding]:
    own = [file for file in found.beside if file == found.file]
    if not own and found.tensor:
        return
    loaded = found.file or ", ".join(found.path) or "something without a file"
    yield error(
        Where(loaded),
        what=f"`import torch` gives {loaded}, which is not the library: it has no Tensor"
        if not found.tensor
        else f"`import torch` gives {loaded} of the project's own folder",
        why="every import of torch in the project gets this in the place of the library",
        cause="a file or a folder named torch beside the project file, or on PYTHONPATH",
        remedy="rename it, and remove its __pycache__",
        expected="torch from site-packages",
        actual=loaded,
    )


def _aftermath(environment: Environment, found: Torch) -> Iterator[Finding]:
    result, where = found.result, Where(what="python environment")
    if result.leftovers:
        names = ", ".join(f"{left.name} ({left.pid})" for left in result.leftovers)
        yield warning(
            where,
            what=f"importing torch left {len(result.leftovers)} processes alive: {names}",
            why="they keep ports, files and GPU memory after the run has ended",
            cause="a profiler, a compile cache or a daemon that starts on import",
            remedy="find what starts it (sitecustomize, .pth files, TORCH_* variables) and switch it off",
        )
    if result.seconds > environment.import_timeout:
        yield warning(
            where,
            what=f"importing torch took {result.seconds:.0f} s for {result.observed.imports:,} modules",
            why="every process of a run pays this: each worker, each rank, each restart",
            cause="a virtual environment on a slow or cold network volume",
            remedy="move the environment to a local disk; raise `[environment] import_timeout` if this is normal here",
            expected=f"at most {environment.import_timeout:g} s",
            actual=f"{result.seconds:.0f} s",
        )


@check
def gpu_is_available(environment: Environment) -> Yields:
    """Where the project asks for a GPU, torch is built for one, finds it, and multiplies two matrices on it.

    Raises:
        MissingEvidence: the project does not ask for a GPU.
        EvidenceError: torch does not import; another check says why.
    """
    if not environment.gpu:
        raise MissingEvidence(
            "gpu", "add `[environment] gpu = true` to llmguard.toml to have the GPU checked"
        )
    if not environment.torch.result.ok:
        raise EvidenceError("gpu", "torch does not import", told_by="torch_imports_in_time")
    if not (environment.torch.cuda or environment.torch.hip):
        yield _built_for_cpu(environment.torch)
        return 1
    found = environment.uses_gpu
    if not found.result.ok:
        yield _gpu_hangs(found)
    elif found.why or not found.count:
        yield _no_gpu(found)
    elif found.product != 64.0:
        yield _wrong_product(found)
    return 1


def _built_for_cpu(found: Torch) -> Finding:
    return error(
        Where(found.file),
        what=f"torch {found.version} is built without CUDA and ROCm, and the project asks for a GPU",
        why="training falls back to the processor and takes weeks, or stops at the first .cuda()",
        cause="a wheel of the CPU index, or a constraint that picked it",
        remedy="reinstall torch with the command of pytorch.org for this machine's CUDA",
        expected="a build for CUDA or ROCm",
        actual=f"torch {found.version}",
    )


def _gpu_hangs(found: Gpu) -> Finding:
    return error(
        Where(what="GPU"),
        what=found.result.explain(),
        why="the run would hang at its first use of the GPU, for hours and without a message",
        cause="a driver that is stuck (nvidia-smi may look healthy all the same), or another process that holds the device",
        remedy="look at `dmesg | grep -i xid`; restart the container or the machine, then check again",
        evidence=found.result.to_json(),
    )


def _no_gpu(found: Gpu) -> Finding:
    return error(
        Where(what="GPU"),
        what=f"torch finds no GPU that it can use: {found.why or 'device count 0'}",
        why="training falls back to the processor and takes weeks, or stops at the first .cuda()",
        cause=_why_no_gpu(found.why),
        remedy="compare `nvidia-smi` with the CUDA version of torch, and look at CUDA_VISIBLE_DEVICES",
        expected="a GPU",
        actual=f"available {found.available}, count {found.count}",
    )


def _why_no_gpu(text: str) -> str:
    lower = text.lower()
    if "driver" in lower and "old" in lower:
        return "the driver is older than the CUDA version that torch was built for"
    if "no nvidia driver" in lower or "libcuda" in lower:
        return "no driver in this container: it was started without `--gpus`, or the machine has no GPU"
    if "out of memory" in lower:
        return "another process holds the memory of the GPU"
    if "no kernel image" in lower:
        return "this build of torch has no code for this generation of GPUs"
    return "no GPU in this machine, a container without it, or a CUDA_VISIBLE_DEVICES that hides it"


def _wrong_product(found: Gpu) -> Finding:
    return error(
        Where(what="GPU"),
        what=f"{found.names[0]} gives {found.product} for an element of a product that is 64.0",
        why="whatever is trained or evaluated on it is wrong, without a message",
        cause="a defective GPU or memory",
        remedy="take the machine back; run the vendor's diagnosis (`dcgmi diag -r 3`)",
        expected="64.0",
        actual=str(found.product),
    )


@check
def open_file_limit_is_enough(environment: Environment) -> Yields:
    """A process may have as many files open as loaders, shards and downloads need."""
    soft, hard = environment.open_files
    if soft != -1 and soft < ENOUGH_FILES:
        made = error if soft < TOO_FEW_FILES and environment.torch_needed_by else warning
        may, wanted = f"to {hard:,}", min(hard, 4 * ENOUGH_FILES)
        if hard == -1:
            may, wanted = "without bound", 4 * ENOUGH_FILES
        yield made(
            Where(what="ulimit -n"),
            what=f"a process may have {soft:,} files open",
            why=(
                "loader workers, shards and downloads hold files open; "
                "runs end with `Too many open files` or `received 0 items of ancdata`"
            ),
            cause="the default of the shell, the container or the job scheduler",
            remedy=f"run `ulimit -n {wanted}` before the run: it may be raised {may}",
            expected=f"at least {ENOUGH_FILES:,}",
            actual=f"{soft:,}",
        )
    return 1


@check
def python_is_supported(environment: Environment) -> Yields:
    """The interpreter is one that the training libraries are released for."""
    version = environment.python
    if not OLDEST_PYTHON <= version <= NEWEST_PYTHON:
        shown, oldest, newest = (".".join(map(str, v)) for v in (version, OLDEST_PYTHON, NEWEST_PYTHON))
        yield warning(
            Where(what="python environment"),
            what=f"Python {shown} is outside of {oldest} to {newest}",
            why="torch and its companions have no wheels for it, or untested ones: pip falls back to old versions without a word",
            cause="a system image with a newer or older default",
            remedy=f"make the virtual environment with Python {newest}",
            expected=f"{oldest} to {newest}",
            actual=shown,
        )
    return 1


for _check, _unit in (
    (torch_imports_in_time, "imports"),
    (gpu_is_available, "devices"),
    (open_file_limit_is_enough, "limits"),
    (python_is_supported, "interpreters"),
):
    _check.unit = _unit
