"""Environment, installation: what the project declares is there, and each library is there once; from metadata alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.version import InvalidVersion

from llmguard.contract import Yields, check
from llmguard.findings import Finding, Where, error, warning
from llmguard.sources.declared import wanted_by

if TYPE_CHECKING:
    from llmguard.probe.environment import Environment

__all__ = ["declared_requirements_are_installed", "each_library_is_installed_once"]

PACKAGES = (
    "torch",
    "triton",
    "transformers",
    "accelerate",
    "peft",
    "trl",
    "datasets",
    "tokenizers",
    "flash_attn",
    "bitsandbytes",
    "vllm",
)
"""Importable packages of which a second distribution in the same folder overwrites the first."""


@check
def each_library_is_installed_once(environment: Environment) -> Yields:
    """No training library is there twice: in two versions on the import path, or brought by two distributions."""
    for name, copies in sorted(environment.copies.items()):
        if len({version for version, _ in copies}) > 1:
            yield _twice(name, copies)
    for package in PACKAGES:
        brought_by = environment.providers.get(package, ())
        if len({name.lower().replace("_", "-") for name in brought_by}) > 1:
            yield _overwritten(package, brought_by)
    return max(1, len(environment.copies))


each_library_is_installed_once.unit = "libraries"


def _twice(name: str, copies: tuple[tuple[str, str], ...]) -> Finding:
    same_folder = len({place for _, place in copies}) < len(copies)
    named = ", ".join(f"{version} in {place}" for version, place in copies)
    make = error if same_folder else warning
    return make(
        Where(what="python environment"),
        what=f"{name} is installed {len(copies)} times: {named}",
        why="files of one version are imported beside files of another, or another version than the one that pip names",
        cause="an upgrade that broke off"
        if same_folder
        else "a second installation, by `pip install --user` or on PYTHONPATH",
        remedy=f"python -m pip uninstall -y {name} until it says that it is not installed, then install it once",
        expected="one version",
        actual=", ".join(version for version, _ in copies),
    )


def _overwritten(package: str, brought_by: tuple[str, ...]) -> Finding:
    return error(
        Where(what="python environment"),
        what=f"the package `{package}` is brought by {len(brought_by)} distributions: {', '.join(sorted(brought_by))}",
        why="the one that was installed later has overwritten files of the other: symbols are missing, or kernels of another version run",
        cause="a nightly, a fork or a vendor's build installed beside the release",
        remedy=f"uninstall all of them ({' '.join(sorted(brought_by))}), then install the one that is meant",
    )


@check
def declared_requirements_are_installed(sources: Any, environment: Environment) -> Yields:
    """What the project's requirements declare is installed here, in a version that they allow; extras and other files are left out.

    In files that the project file names a missing one is an error, in those that merely lie there a warning.
    """
    lines = list(wanted_by(Path(sources.root), tuple(sources.requirements)))
    judged = 0
    for line, file in lines:
        needed = _parsed(line)
        if needed is None:
            continue
        judged += 1
        yield from _judged(needed, file, environment, named=bool(sources.requirements))
    return judged


declared_requirements_are_installed.unit = "requirements"


def _parsed(line: str) -> Requirement | None:
    """The requirement of a line that applies here; None for URLs, folders and other systems."""
    try:
        needed = Requirement(line.partition(" --hash")[0].strip())
    except InvalidRequirement:
        return None
    applies = needed.marker is None or needed.marker.evaluate({"extra": ""})
    return needed if applies else None


def _judged(needed: Requirement, file: str, environment: Environment, *, named: bool) -> Iterator[Finding]:
    have = environment.version(needed.name)
    where = Where(file, key=needed.name)
    if have is None:
        yield (error if named else warning)(
            where,
            what=f"{needed.name}{needed.specifier} is declared and not installed here",
            why="its import fails: at the start, or hours later in the part that alone needs it (evaluation, logging, saving)",
            cause="an installation that broke off, one of another requirements file, or another environment than the one that is active",
            remedy=f"python -m pip install -r {file}"
            if not file.endswith(".toml")
            else "python -m pip install -e .",
            expected=str(needed),
            actual="not installed",
        )
    elif not _allowed(needed, have):
        yield warning(
            where,
            what=f"{needed.name}{needed.specifier} is declared, and {have} is installed",
            why="what was tested elsewhere is not what will run here",
            cause="a later `pip install` that changed it, or requirements that were edited and never installed",
            remedy=f"python -m pip install '{needed.name}{needed.specifier}', or declare the version that is meant",
            expected=str(needed.specifier),
            actual=have,
        )


def _allowed(needed: Requirement, have: str) -> bool:
    try:
        return needed.specifier.contains(have, prereleases=True)
    except InvalidVersion:
        return True
