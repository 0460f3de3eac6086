"""Checks on how the settings of one run go together: rows, steps, schedule, saving, resuming."""

from __future__ import annotations

import math
from collections.abc import Iterator

from llmguard.checks.config import AnyConfig
from llmguard.configs.config import Config, as_config
from llmguard.configs.resume import Checkpoint, newest_checkpoint, resumes
from llmguard.configs.runs import Run, runs_of
from llmguard.configs.saving import saving_faults
from llmguard.configs.sizes import Plan, plan_of
from llmguard.contract import Yields, check
from llmguard.findings import Finding, Where, error, note, warning

__all__ = [
    "max_steps_agrees_with_epochs",
    "output_dir_holds_no_old_checkpoint",
    "rows_fill_an_optimizer_step",
    "run_saves_what_it_trains",
    "training_budget_fits_the_data",
    "warmup_ends_within_the_run",
]

_FEW_ROWS = 10_000
_SHARE = 0.1


def _planned(config: Config) -> Iterator[tuple[Run, Plan]]:
    for run in runs_of(config):
        yield run, plan_of(config, run)


def _at(config: Config, run: Run, *names: str) -> Where:
    """The place of the first of some settings that the run makes."""
    made = next((run.settings[name] for name in names if name in run.settings), None)
    return made.where if made else Where(config.file)


@check
def rows_fill_an_optimizer_step(config: AnyConfig) -> Yields:
    """There are at least as many training rows as one optimizer step takes (counted only where counting is cheap)."""
    found, looked_at = as_config(config), 0
    for run, plan in _planned(found):
        if plan.rows is None or not run.settings:
            continue
        looked_at += plan.rows
        dropped = run.keys.get("dataloader_drop_last") is True and plan.rows < plan.batch * plan.world
        devices = (
            f"x {plan.world} processes (WORLD_SIZE) = {plan.effective}" if plan.world > 1 else "on one device"
        )
        if 0 < plan.rows < plan.effective:
            steps = 0 if dropped else max(1, math.ceil(plan.epochs))
            yield error(
                _at(found, run, "gradient_accumulation_steps", "per_device_train_batch_size", "batch_size"),
                what=f"{plan.rows:,} rows ({plan.source}) are fewer than one optimizer step takes: "
                f"{plan.batch} per device x {plan.accumulation} accumulated = "
                f"{plan.batch * plan.accumulation} {devices}; "
                f"the whole run has {steps} steps",
                why="the rate warms up and decays over a handful of steps: the model is as good as untrained",
                cause="a batch meant for another data set or another number of devices",
                remedy=f"lower batch size x accumulation to {max(1, plan.rows // 10 // plan.world)} or less, or bring more rows",
                expected=f"at least {plan.effective} rows",
                actual=f"{plan.rows} rows, {steps} steps",
                evidence={
                    "rows": plan.rows,
                    "effective_batch": plan.effective,
                    "steps": steps,
                    "world": plan.world,
                },
            )
    return looked_at


@check
def max_steps_agrees_with_epochs(config: AnyConfig) -> Yields:
    """`max_steps` and the number of epochs do not contradict each other: where both are set, `max_steps` wins without a word."""
    found = as_config(config)
    for run, plan in _planned(found):
        steps, epochs = run.number("max_steps"), run.number("num_train_epochs")
        if steps is None or epochs is None or steps <= 0:
            continue
        planned = None if plan.per_epoch is None else math.ceil(plan.per_epoch * epochs)
        if planned is None and steps >= epochs:
            yield note(
                run.settings["max_steps"].where,
                what=f"max_steps = {steps:g} replaces num_train_epochs = {epochs:g}: the epochs only count for the log",
            )
        elif planned is None or abs(planned - steps) > _SHARE * planned:
            yield _overridden(run, plan, steps, epochs, planned)
    return len(found.settings)


def _overridden(run: Run, plan: Plan, steps: float, epochs: float, planned: int | None) -> Finding:
    covered = (
        f", which is {steps * epochs / planned:.2f} epochs ({plan.arithmetic})"
        if planned
        else f": fewer than the {epochs:g} epochs"
    )
    return warning(
        run.settings["max_steps"].where,
        what=f"max_steps = {steps:g} overrides num_train_epochs = {epochs:g}{covered}",
        why="the run is another one than the epochs promise, and a schedule made for the epochs never warms up or decays",
        cause="max_steps left from a trial run",
        remedy="remove `max_steps` (or set -1) to train the epochs, or remove the epochs",
        expected=f"about {planned:,} steps" if planned else f"at least {epochs:g} steps",
        actual=f"{steps:g} steps",
        evidence={"rows": plan.rows, "effective_batch": plan.effective},
    )


@check
def warmup_ends_within_the_run(config: AnyConfig) -> Yields:
    """The warm-up is shorter than the run: else the learning rate never reaches the value that the config names."""
    found = as_config(config)
    for run, plan in _planned(found):
        warmup = run.number("warmup_steps")
        if not warmup or warmup < 1 or plan.steps is None or warmup * 2 <= plan.steps:
            continue
        reached = min(1.0, plan.steps / warmup)
        make = error if warmup >= plan.steps else warning
        how = f"max_steps = {plan.steps:,}" if not plan.of_rows else plan.arithmetic
        yield make(
            run.settings["warmup_steps"].where,
            what=f"the warm-up takes {warmup:g} of the run's {plan.steps:,} steps ({how})",
            why=f"the learning rate ends at {reached:.0%} of its value"
            if reached < 1
            else "most of the run is spent below the learning rate",
            cause="a warm-up meant for a longer run, or a share written as a number of steps",
            remedy=f"set warmup_steps to about {max(1, plan.steps // 20)}",
            expected=f"well under {plan.steps:,} steps",
            actual=f"{warmup:g} steps",
        )
    return len(found.settings)


@check
def run_saves_what_it_trains(config: AnyConfig) -> Yields:
    """Checkpoints are written and evaluated within the run, and the best one can be told from the last."""
    found = as_config(config)
    for run, plan in _planned(found):
        yield from saving_faults(found, run, plan)
    return len(found.settings)


@check
def output_dir_holds_no_old_checkpoint(config: AnyConfig) -> Yields:
    """The run starts where it says: no checkpoint of an earlier run lies in its output folder to be taken up silently."""
    found = as_config(config)
    looked_at = 0
    for run, plan in _planned(found):
        old = newest_checkpoint(found, run)
        looked_at += 1
        if old is not None and not (
            run.is_on("overwrite_output_dir") or run.keys.get("overwrite_output_dir") is True
        ):
            yield from _resumed(run, plan, old)
    return looked_at


def _resumed(run: Run, plan: Plan, old: Checkpoint) -> Iterator[Finding]:
    where, on_purpose = run.settings["output_dir"].where, resumes(run)
    over = plan.steps is not None and not plan.of_rows and old.step >= plan.steps
    if on_purpose and not over:
        return
    ends = (
        f"; the run's {plan.steps:,} steps are done there: it would end at once"
        if over and plan.steps
        else ""
    )
    make = error if on_purpose and over else warning
    yield make(
        where,
        what=f"{old.folder} of an earlier run lies in the output folder ({old.count} checkpoints, newest step {old.step:,}){ends}",
        why="scripts and libraries that look for the last checkpoint go on from it: the new experiment continues the old one",
        cause="an output folder used for a second experiment",
        remedy="name another output_dir, or move the old checkpoints away; to go on on purpose, set resume_from_checkpoint",
        expected="no checkpoint-* folder",
        actual=f"{old.count} of them",
    )


@check
def training_budget_fits_the_data(config: AnyConfig) -> Yields:
    """A small data set is seen more than once: supervised fine-tuning on few rows needs more than one epoch."""
    found, looked_at = as_config(config), 0
    for run, plan in _planned(found):
        epochs = run.get("num_train_epochs")
        if plan.rows is None or epochs is None or epochs.number is None or (run.number("max_steps") or 0) > 0:
            continue
        looked_at += plan.rows
        if run.objective in ("", "sft") and 0 < epochs.number <= 1 and 0 < plan.rows < _FEW_ROWS:
            yield warning(
                epochs.where,
                what=f"{epochs.number:g} epochs over {plan.rows:,} rows: {plan.arithmetic}",
                why="a few hundred steps teach the format at best: the responses after training look untrained",
                cause="a number of epochs meant for a data set of a hundred thousand rows",
                remedy="train 2 to 4 epochs and keep the checkpoint with the best validation loss",
                expected="2 epochs or more below 10,000 rows",
                actual=f"{epochs.number:g}",
                evidence={"rows": plan.rows, "steps": plan.steps},
            )
    return looked_at
