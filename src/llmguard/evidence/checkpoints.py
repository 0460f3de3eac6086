"""`checkpoints`: what runs left in the folders that the project writes to, told from names, sizes and headers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from llmguard.configs.config import Config
from llmguard.configs.places import find
from llmguard.configs.resume import resumes
from llmguard.configs.runs import runs_of
from llmguard.errors import EvidenceError, MissingEvidence
from llmguard.evidence import Evidence
from llmguard.evidence.saved import NAME, Old, old_formats, state_problems, weight_problems

__all__ = ["Checkpoint", "Checkpoints", "provide", "read_checkpoint"]

OF_ACCELERATE = ("random_states_*.pkl", "optimizer.bin")
"""Files of `Accelerator.save_state`, which keeps no trainer_state.json and lets models save themselves as they like."""


@dataclass(frozen=True)
class Checkpoint:
    """A folder named checkpoint-<step>: `problems` as `file: what is wrong`, none for a whole one; `old`: formats of other days."""

    name: str
    step: int
    empty: bool = False
    problems: Sequence[str] = ()
    old: Sequence[tuple[str, Old]] = ()


@dataclass(frozen=True)
class Checkpoints:
    """Every checkpoint of some output folders, by step; `resumed`: a config of the project goes on from the newest of them."""

    found: Sequence[Checkpoint]
    resumed: bool = False


def provide(evidence: Evidence, target: str) -> Checkpoints:
    """The checkpoints in `[environment] output_dir` and in the output folders of the project's configs."""
    project, resumed = evidence.project, False
    told = project.schema.environment.output_dir
    folders: list[Path | None] = [project.path(told)] if told else []
    for config in _configs(evidence):
        for run in runs_of(config):
            setting = run.get("output_dir")
            if setting is not None and isinstance(setting.value, str) and setting.value:
                folders.append(find(config, setting.value)[0])
                resumed = resumed or resumes(run)
    if not folders:
        raise MissingEvidence("checkpoints", 'add `[environment] output_dir = "out"` to llmguard.toml')
    paths = dict.fromkeys(
        path for folder in folders if folder for path in folder.resolve().glob("checkpoint-*")
    )
    found = [
        read_checkpoint(path, project.relative(path))
        for path in paths
        if NAME.match(path.name) and path.is_dir()
    ]
    return Checkpoints(sorted(found, key=lambda one: one.step), resumed)


def _configs(evidence: Evidence) -> Iterator[Config]:
    """The configs that can be read; of the others a check of theirs tells."""
    for target in evidence.targets("config"):
        with suppress(MissingEvidence, EvidenceError):
            yield evidence.get("config", target, over="config")


def read_checkpoint(path: Path, name: str = "") -> Checkpoint:
    """What a checkpoint holds; never raises for what is in it."""
    step, name = int((NAME.match(path.name) or ["", "0"])[1]), name or path.name
    try:
        if not any(path.iterdir()):
            return Checkpoint(name, step, empty=True)
        if any(any(path.glob(pattern)) for pattern in OF_ACCELERATE):
            return Checkpoint(name, step, old=old_formats(path))
        return Checkpoint(
            name, step, False, [*weight_problems(path), *state_problems(path)], old_formats(path)
        )
    except OSError as bad:
        return Checkpoint(
            name,
            step,
            problems=[f"{bad.filename or path}: cannot be read: {bad.strerror} (errno {bad.errno})"],
        )
