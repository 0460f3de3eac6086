"""Checkpoints of an earlier run in the output folder of a new one."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from llmguard.configs.config import Config
from llmguard.configs.places import find
from llmguard.configs.runs import Run

__all__ = ["Checkpoint", "newest_checkpoint", "resumes"]


@dataclass(frozen=True)
class Checkpoint:
    """The newest checkpoint of an output folder: its path, its step, how many there are."""

    folder: Path
    step: int
    count: int


def newest_checkpoint(config: Config, run: Run) -> Checkpoint | None:
    """The newest `checkpoint-N` in the run's output folder, or None."""
    setting = run.get("output_dir")
    if setting is None or not isinstance(setting.value, str) or not setting.value:
        return None
    place, _ = find(config, setting.value)
    if place is None or not place.is_dir():
        return None
    found: dict[int, Path] = {}
    for folder in place.glob("checkpoint-*"):
        number = re.fullmatch(r"checkpoint-(\d+)", folder.name)
        if number and folder.is_dir():
            found[int(number[1])] = folder
    if not found:
        return None
    newest = found[max(found)]
    return Checkpoint(newest, _step(newest, max(found)), len(found))


def _step(folder: Path, named: int) -> int:
    try:
        step = json.loads((folder / "trainer_state.json").read_text("utf-8")).get("global_step")
    except (OSError, ValueError, AttributeError):
        return named
    return step if isinstance(step, int) else named


def resumes(run: Run) -> bool:
    """Whether the config says that the run goes on from a checkpoint."""
    said = run.keys.get("resume_from_checkpoint") or run.keys.get("auto_resume_from_checkpoints")
    return bool(said) and str(said).lower() not in ("false", "no", "none", "")
