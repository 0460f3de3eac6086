"""Checks on one config file: readable, no key twice, every key known, every value of its type and in its range, paths there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llmguard.configs.config import Config, Setting, as_config, is_open
from llmguard.configs.keys import unknown_keys
from llmguard.configs.kinds import Fault, type_fault
from llmguard.configs.missing import missing_paths
from llmguard.configs.ranges import range_fault
from llmguard.configs.runs import runs_of
from llmguard.contract import Yields, check
from llmguard.findings import Finding, Where, error, note, warning

__all__ = [
    "config_file_is_readable",
    "every_config_key_is_known",
    "every_config_path_exists",
    "every_config_value_has_its_type",
    "every_config_value_is_in_range",
    "no_config_key_is_given_twice",
]

AnyConfig = Config | Mapping[str, Any] | Path | str


@check
def config_file_is_readable(config_file: AnyConfig) -> Yields:
    """The config file exists, is text, and is parsed as YAML, JSON or TOML with keys at its top."""
    config = as_config(config_file)
    problem = config.document.problem
    if problem is not None:
        yield error(
            Where(config.file, line=problem.line, column=problem.column),
            what=f"the config cannot be read: {problem.reason}",
            why="the run stops at this file, or starts with defaults that nobody chose",
            cause="a path that moved, or an edit that broke the syntax",
            remedy=problem.remedy,
            expected="a config file in YAML, JSON or TOML",
            actual=problem.reason,
        )
    elif config.owner:
        yield note(
            Where(config.file),
            what=f"this looks like a file of the kind {config.owner}, no config of a training run: its keys are not judged",
        )
    return 1


@check
def no_config_key_is_given_twice(config: AnyConfig) -> Yields:
    """No key stands twice in one mapping: parsers keep the last one and say nothing."""
    found = as_config(config)
    for twice in found.document.duplicates:
        first, second = twice.values
        yield error(
            Where(found.file, line=twice.second, column=twice.column, key=twice.key),
            what=f"`{twice.key}` is given twice, in line {twice.first} ({first!r}) and in line {twice.second} ({second!r})",
            why="the second one wins without a word: the value in the first line is not what is trained with",
            cause="a line that was copied to be changed, and both kept",
            remedy=f"keep one of the lines {twice.first} and {twice.second}",
            expected="each key once",
            actual=f"lines {twice.first} and {twice.second}",
        )
    return len(found.document.items)


@check
def every_config_key_is_known(config: AnyConfig) -> Yields:
    """Every key is one that the library of the file's dialect reads; misspelt and renamed ones are named with the right name."""
    found = as_config(config)
    yield from unknown_keys(found)
    return sum(len(section.items) for section in found.sections if not found.owner)


@check
def every_config_value_has_its_type(config: AnyConfig) -> Yields:
    """Every number is a number, every switch true or false, every name a name: nothing is text or None by accident."""
    found = as_config(config)
    for setting in found.settings:
        fault = type_fault(setting)
        if fault is not None:
            yield finding_of(setting, fault)
    return len(found.settings)


@check
def every_config_value_is_in_range(config: AnyConfig) -> Yields:
    """Every number is in its documented range (`[config.range]` of the project before it) and usual for the training method."""
    found = as_config(config)
    faults: dict[tuple[str | int, ...], Fault] = {}
    for run in runs_of(found):
        for setting in run.settings.values():
            fault = range_fault(setting, run, found.ranges)
            if fault is not None:
                faults.setdefault(setting.item.path, fault)
    for setting in found.settings:
        if setting.item.path in faults:
            yield finding_of(setting, faults[setting.item.path])
    return sum(setting.number is not None for setting in found.settings)


@check
def every_config_path_exists(config: AnyConfig) -> Yields:
    """The base model, data and other files that a config names are there; hub ids are not looked up."""
    found = as_config(config)
    looked_at = yield from missing_paths(found)
    return looked_at


def finding_of(setting: Setting, fault: Fault) -> Finding:
    """A fault of one setting as a finding at its line and key."""
    shown = setting.value if not is_open(setting.value) else "…"
    make = error if fault.severe else warning
    return make(
        setting.where,
        what=f"`{setting.item.name}`: {fault.what}",
        why=fault.why,
        cause=fault.cause,
        remedy=fault.remedy,
        expected=fault.expected,
        actual=repr(shown),
        evidence={"setting": setting.name, "dialect": setting.dialect},
    )


def findings_of(setting: Setting, *faults: Fault | None) -> Iterator[Finding]:
    """The findings of all faults of one setting."""
    yield from (finding_of(setting, fault) for fault in faults if fault is not None)
