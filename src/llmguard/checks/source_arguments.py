"""Checks on training arguments that are written in code, by the same rules as those in config files."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping

from llmguard.checks.config import finding_of
from llmguard.checks.source import AnySources
from llmguard.configs.config import Config
from llmguard.configs.keys import unknown_keys
from llmguard.configs.kinds import type_fault
from llmguard.configs.library import version_of
from llmguard.configs.ranges import range_fault
from llmguard.configs.runs import runs_of
from llmguard.contract import Yields, check
from llmguard.findings import Finding, Where, error
from llmguard.project import Project
from llmguard.sources.calls import Call, calls_of, config_of, constants_of
from llmguard.sources.read import SourceFile, as_sources
from llmguard.sources.trainers import MOVED, unknown_arguments

__all__ = ["trainer_arguments_are_known", "training_arguments_are_valid"]


@check
def training_arguments_are_valid(sources: AnySources, project: Project | None = None) -> Yields:
    """Calls of TrainingArguments, SFTConfig, LoraConfig and their like hold known arguments, of their type and in range."""
    found, looked_at = as_sources(sources), 0
    ranges = project.schema.config.range if project else {}
    for file in found.parsed:
        for config in _configs(file, ranges):
            looked_at += len(config.settings)
            yield from unknown_keys(config)
            yield from _values(config)
    return looked_at


def _configs(file: SourceFile, ranges: Mapping[str, tuple[float, float]]) -> Iterator[Config]:
    tree = file.tree
    if tree is None:
        return
    constants = constants_of(tree)
    for call in calls_of(tree):
        config = config_of(file, call, constants, ranges)
        if config is not None:
            yield config


def _values(config: Config) -> Iterator[Finding]:
    run = runs_of(config)[0]
    for setting in config.settings:
        for fault in (type_fault(setting), range_fault(setting, run, config.ranges)):
            if fault is not None:
                yield finding_of(setting, fault)


@check
def trainer_arguments_are_known(sources: AnySources) -> Yields:
    """Calls of a Trainer hold only arguments that the installed class takes; `tokenizer=` and its like have moved."""
    found, looked_at = as_sources(sources), 0
    for file in found.parsed:
        for call in calls_of(file.tree) if file.tree is not None else ():
            looked_at += call.name.endswith("Trainer")
            for keyword in unknown_arguments(call):
                yield _refused(file, call, keyword)
    return looked_at


def _refused(file: SourceFile, call: Call, keyword: ast.keyword) -> Finding:
    name = str(keyword.arg)
    return error(
        Where(file.name, line=keyword.lineno, column=keyword.col_offset + 1, key=f"{call.name}.{name}"),
        what=f"{call.name} of {call.library} {version_of(call.library)} (installed here) takes no argument `{name}`",
        why="the call ends the run with a TypeError, after the model is loaded",
        cause="code written for an older version",
        remedy=MOVED.get(name, f"remove `{name}=`, or install the version that the code was written for"),
        expected="an argument that the class takes",
        actual=name,
    )
