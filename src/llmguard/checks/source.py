"""Checks on the user's own Python files, which are read and never run: syntax, names, imports, arguments, habits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from llmguard.contract import Yields, check
from llmguard.errors import MissingEvidence
from llmguard.findings import Finding, Where, error, note, warning
from llmguard.sources.declared import declared_by
from llmguard.sources.habits import Resident, fixed_devices, residents
from llmguard.sources.imports import Undeclared, imports_of, undeclared_imports
from llmguard.sources.read import Sources, as_sources
from llmguard.sources.undefined import Undefined, find_ruff, undefined_names

__all__ = [
    "device_is_not_hard_coded",
    "imports_are_declared",
    "names_are_defined_before_use",
    "one_model_is_resident_at_a_time",
    "sources_parse",
]

AnySources = Sources | Path | str


@check
def sources_parse(sources: AnySources) -> Yields:
    """Every source file that the project names is there and is valid Python."""
    found = as_sources(sources)
    for problem in found.problems:
        yield error(
            problem.where,
            what=problem.reason,
            why="the run stops when the file is imported, wherever that happens first",
            cause="an unfinished edit, or a file that moved",
            remedy=problem.remedy,
            expected="a Python file that parses",
            actual=problem.reason,
        )
    return len(found.files) + len(found.missing)


@check
def names_are_defined_before_use(sources: AnySources) -> Yields:
    """No name is used that is not set by then: found by ruff, confirmed on the syntax tree.

    Raises:
        MissingEvidence: ruff is not installed.
    """
    found = as_sources(sources)
    ruff = find_ruff()
    if ruff is None:
        raise MissingEvidence("ruff", "install ruff to have names checked: pip install ruff")
    for name in undefined_names(found, ruff):
        yield _undefined(name)
    return len(found.parsed)


def _undefined(name: Undefined) -> Finding:
    where = Where(name.file, line=name.line, column=name.column)
    if name.set_at is not None:
        what = f"`{name.name}` is used in line {name.line}, before line {name.set_at} sets it"
        cause, remedy = (
            "lines that changed places in an edit",
            f"move line {name.set_at} above line {name.line}",
        )
    else:
        what = f"`{name.name}` is used, and set nowhere that line {name.line} can see"
        cause = "a misspelt name, a missing import, or a variable of another function"
        remedy = f"did you mean `{name.near}`" if name.near else f"import or set `{name.name}` first"
    what += f" (ruff {name.rule})"
    severe = name.certain and not name.in_annotation
    make = error if severe else warning
    why = "the line ends the run with a NameError when it is reached, which may be after hours"
    if name.in_annotation:
        why = "reading the type hints (dataclasses, argument parsers, pydantic) ends in a NameError"
    return make(
        where, what=what, why=why, cause=cause, remedy=remedy, expected="a name that is set", actual=name.name
    )


@check
def imports_are_declared(sources: AnySources) -> Yields:
    """Every package that the sources import is declared in the project's requirements (test files left out).

    Raises:
        MissingEvidence: the project declares its requirements nowhere.
    """
    found = as_sources(sources)
    declared = declared_by(found.root, found.requirements)
    for file, reason in declared.problems:
        yield error(
            Where(file),
            what=f"the requirements cannot be read: {reason}",
            why="nobody can tell what a fresh machine needs",
            cause="a path that moved, or a broken line",
            remedy="correct the path in `[environment] requirements`, or the file",
        )
    if not declared.files and not declared.problems:
        raise MissingEvidence(
            "requirements", 'add `[environment] requirements = ["requirements.txt"]` to llmguard.toml'
        )
    if not declared.problems:
        for one in undeclared_imports(found, declared):
            yield _undeclared(one, ", ".join(declared.files))
    return sum(1 for file in found.parsed if not file.is_test for _ in imports_of(file))


def _undeclared(one: Undeclared, files: str) -> Finding:
    first = one.imports[0]
    more = f" and {len(one.imports) - 1} more places" if len(one.imports) > 1 else ""
    where = Where(first.file, line=first.line)
    evidence = {"lines": [f"{i.file}:{i.line}" for i in one.imports[:5]]}
    if one.brought_by or one.optional:
        how = f"it comes with {one.brought_by}" if one.brought_by else "its absence is handled"
        return note(where, what=f"`{one.module}` is imported here{more} and not declared in {files}; {how}",
                    remedy="declare it, where the code needs it", evidence=evidence)  # fmt: skip
    return error(
        where,
        what=f"`{one.module}` is imported here{more} and declared nowhere in {files}",
        why="on a fresh machine the run ends with a ModuleNotFoundError, in a late stage where the import is inside a function",
        cause="a package that was installed by hand and never written down",
        remedy=f"add the distribution that brings `{one.module}` to {files}",
        expected="declared",
        actual="not declared",
        evidence=evidence,
    )


@check
def device_is_not_hard_coded(sources: AnySources) -> Yields:
    """The device is asked for, not written down: a variable `device` is not always the same constant."""
    found = as_sources(sources)
    for file in found.parsed:
        for name, device, line in fixed_devices(file.tree) if file.tree is not None else ():
            yield note(
                Where(file.name, line=line),
                what=f"`{name}` is always {device!r}",
                why="the run stays on that device on every machine: the GPU is idle, or missing where the code insists on one",
                cause="a value for one machine that was never made a choice",
                remedy=f'write `{name} = "cuda" if torch.cuda.is_available() else "cpu"`, or take it from the configuration',
            )
    return len(found.parsed)


@check
def one_model_is_resident_at_a_time(sources: AnySources) -> Yields:
    """No function holds several models at once that could be used one after the other."""
    found = as_sources(sources)
    for file in found.parsed:
        yield from _resident(file.name, residents(file.tree) if file.tree is not None else iter(()))
    return len(found.parsed)


def _resident(name: str, found: Iterator[Resident]) -> Iterator[Finding]:
    for several in found:
        lines = ", ".join(str(line) for line in several.lines)
        what = "a comprehension holds one model for each round" if several.collected else (
            f"{len(several.names)} models are in memory at once: {', '.join(several.names)} (lines {lines})"
        )  # fmt: skip
        yield note(
            Where(name, line=several.lines[-1]),
            what=what,
            why="together they need the memory of all of them: evaluation ends out of memory, or with models that disturb each other",
            cause="models loaded first and compared afterwards",
            remedy="load, use and release one before the next: `del model`, then `torch.cuda.empty_cache()`",
        )
