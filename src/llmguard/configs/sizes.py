"""How many rows a run has and how many steps that makes: counted only where counting is cheap, never guessed."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from llmguard.configs.config import Config
from llmguard.configs.places import Claim, claims_of, find
from llmguard.configs.runs import Run

__all__ = ["Plan", "count_rows", "plan_of", "train_files_of"]

_MOST_STEPS = 1e12
_LINES, _ARRAY = 64_000_000, 4_000_000
"""Bytes up to which lines, and a JSON array, are counted."""


@dataclass(frozen=True)
class Plan:
    """The arithmetic of a run on `world` devices. `rows` and `steps` are None where nothing tells them.

    `of_rows`: the steps follow from the rows (more devices or packing make them fewer), not from `max_steps`.
    """

    rows: int | None
    batch: int
    accumulation: int
    epochs: float
    steps: int | None
    of_rows: bool
    source: str = ""
    world: int = 1

    @property
    def effective(self) -> int:
        """Rows that one optimizer step takes, on all devices together."""
        return self.batch * self.accumulation * self.world

    @property
    def factors(self) -> str:
        """`4 x 8`, or `4 x 8 x 2` on two devices."""
        return f"{self.batch} x {self.accumulation}" + (f" x {self.world}" if self.world > 1 else "")

    @property
    def per_epoch(self) -> int | None:
        """Optimizer steps of one epoch."""
        return (
            None
            if self.rows is None
            else max(1, math.ceil(math.ceil(self.rows / (self.batch * self.world)) / self.accumulation))
        )

    @property
    def arithmetic(self) -> str:
        """`7,888 rows / (4 x 8 rows a step) = 247 steps an epoch, x 3 epochs = 741 steps`."""
        if self.rows is None:
            return f"{self.factors} = {self.effective} rows a step"
        total = math.ceil((self.per_epoch or 0) * self.epochs)
        head = f"{self.rows:,} rows / ({self.factors} rows a step) = {self.per_epoch:,} steps an epoch"
        return f"{head}, x {self.epochs:g} epochs = {total:,} steps"


def plan_of(config: Config, run: Run) -> Plan:
    """The rows, the effective batch and the steps that a run has by its config."""
    rows, source = _rows_of_run(config, run)
    batch, accumulation = (
        _whole(run.number("per_device_train_batch_size")),
        _whole(run.number("gradient_accumulation_steps")),
    )
    if run.get("per_device_train_batch_size") is None:
        batch = _whole(run.number("batch_size")) if run.get("batch_size") else _default(run, 8)
    most = min(run.number("max_steps") or 0, _MOST_STEPS)
    epochs = run.number("num_train_epochs")
    epochs = (
        3.0 if epochs is None and run.dialect in ("transformers", "trl", "llamafactory") else epochs or 1.0
    )
    epochs = min(epochs, _MOST_STEPS)
    plan = Plan(rows, batch, accumulation, epochs, None, False, source, _world())
    if most > 0:
        return replace(plan, steps=int(most))
    if plan.per_epoch is not None and not _is_packed(run):
        return replace(plan, steps=max(1, math.ceil(plan.per_epoch * epochs)), of_rows=True)
    return plan


def _world() -> int:
    """The processes of the run: WORLD_SIZE, where it is set as launchers set it; else one."""
    told = os.environ.get("WORLD_SIZE", "")
    return max(1, int(told)) if told.isdecimal() else 1


def _whole(number: float | None) -> int:
    return max(1, int(number)) if number is not None and math.isfinite(number) else 1


def _default(run: Run, value: int) -> int:
    return value if run.dialect in ("transformers", "trl", "llamafactory") else 1


def _is_packed(run: Run) -> bool:
    return run.is_on("packing") or run.keys.get("neat_packing") is True or run.keys.get("streaming") is True


def train_files_of(config: Config, run: Run) -> list[Path]:
    """The training files of a run: those its config names, else those of the project."""
    files = _own_files(config, run)
    return list(config.train_files) if files is None or (not files and config.alone) else files


def _rows_of_run(config: Config, run: Run) -> tuple[int | None, str]:
    files = train_files_of(config, run)
    counts = [count_rows(file) for file in files]
    if not counts or any(count is None for count in counts):
        return None, ""
    rows = sum(count or 0 for count in counts)
    cap = run.keys.get("max_samples")
    rows = min(rows, cap) if isinstance(cap, int) and cap > 0 else rows
    return _without_validation(run, rows), ", ".join(file.name for file in files[:3])


def _own_files(config: Config, run: Run) -> list[Path] | None:
    """The data files that the config itself names for training: None where it names none, empty where not all are here."""
    found: list[Path] = []
    named = any(
        isinstance(run.keys.get(key), str) and run.keys.get(key) for key in ("dataset", "dataset_name")
    )
    whole = not named
    for claim in _training_data(config, run):
        place, _ = find(config, claim.text)
        named = True
        if place is not None and place.is_file():
            found.append(place)
        else:
            whole = False
    return None if not named else found if whole else []


def _training_data(config: Config, run: Run) -> Iterator[Claim]:
    made = {setting.item.path for setting in run.settings.values()}
    for claim in claims_of(config):
        group, name = claim.item.path[0], claim.item.name
        trains = not any(word in name for word in ("val", "eval", "test")) and group != "test_datasets"
        if claim.kind == "data" and trains and (claim.item.path in made or group == "datasets"):
            yield claim


def _without_validation(run: Run, rows: int) -> int:
    """The rows left when the run cuts its validation rows off: a share below 1, or a number of rows."""
    for key in ("val_set_size", "val_size"):
        value = run.keys.get(key)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < _MOST_STEPS:
            return max(0, rows - (math.ceil(rows * value) if value < 1 else int(value)))
    return rows


def count_rows(file: Path) -> int | None:
    """The rows of a JSON Lines or small JSON file; None where counting would cost more than reading a config."""
    try:
        size = file.stat().st_size
        if file.suffix in (".jsonl", ".ndjson") and size <= _LINES:
            with file.open("rb") as lines:
                return sum(1 for line in lines if not line.isspace())
        if file.suffix == ".json" and size <= _ARRAY:
            data = file.read_bytes()
            return (
                _array(data)
                if data.lstrip()[:1] == b"["
                else sum(1 for line in data.splitlines() if line.strip())
            )
    except OSError:
        return None
    return None


def _array(data: bytes) -> int | None:
    try:
        found = json.loads(data)
    except ValueError:
        return None
    return len(found) if isinstance(found, list) else None
