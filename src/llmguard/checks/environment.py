"""Environment: torch imports, in time and from the library; the interpreter is one that it is released for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from llmguard.checks.torch_import import cause_and_remedy, place_of
from llmguard.contract import Yields, check
from llmguard.findings import Finding, Where, error, note, warning

if TYPE_CHECKING:
    from llmguard.probe.environment import Environment, Torch

__all__ = ["python_is_supported", "torch_imports_in_time"]

OLDEST_PYTHON, NEWEST_PYTHON = (3, 10), (3, 13)
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
            what=f"importing torch took {result.seconds:.0f} s for {result.observed.imports:,} modules{_warm(environment)}",
            why="every process of a run pays this: each worker, each rank, each restart",
            cause="a virtual environment on a slow or cold network volume",
            remedy="move the environment to a local disk; raise `[environment] import_timeout` if this is normal here",
            expected=f"at most {environment.import_timeout:g} s",
            actual=f"{result.seconds:.0f} s",
        )


def _warm(environment: Environment) -> str:
    """What a second import takes: when that is quick, it is the disk and not the modules."""
    again = environment.torch_again.result
    return f", and {again.seconds:.1f} s when it was imported again" if again.ok else ""


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
    (python_is_supported, "interpreters"),
):
    _check.unit = _unit
