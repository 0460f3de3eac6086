"""The watchdog as a callback of any Trainer: what each moment of a run may take."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from llmguard_core.training.watchdog import Pulse

__all__ = ["Watchdog"]

WARM_UP = 5
STEP = "a training step"


class Watchdog(TrainerCallback):  # type: ignore[misc]  # transformers ships no types
    """Another process that reports when the run stands still, and ends it after `timeout` seconds where `ends` is set.

    A training step is reported after `factor` times the longest step so far, `floor` seconds at least; the first steps, an evaluation
    and a save after `timeout`. Works while the GIL is held. The report is `hang-report.json` in the output folder; it also says so
    when the run was killed.
    """

    def __init__(
        self,
        timeout: float = 1800.0,
        *,
        floor: float = 60.0,
        factor: float = 5.0,
        ends: bool = False,
        grace: float = 30.0,
    ) -> None:
        self.timeout, self.floor, self.factor, self.ends, self.grace = (
            timeout,
            min(floor, timeout),
            factor,
            ends,
            grace,
        )
        self.pulse: Pulse | None = None

    def stop(self) -> None:
        """Stop watching; does nothing where nothing is watched."""
        if self.pulse is not None:
            self.pulse.stop()
        self.pulse = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start watching."""
        self.stop()
        self._steps, self._longest, self._began = 0, 0.0, time.monotonic()
        self.pulse = Pulse(
            Path(args.output_dir) / "hang-report.json", poll=min(1.0, self.floor / 10), grace=self.grace
        )
        self._say("starting", state)

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """A step begins; time between steps (the loader) counts as part of it."""
        self._say(STEP, state)

    def on_substep_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """A micro-batch is done."""
        self._say(STEP, state)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """A step is done; what follows may be an evaluation or a save."""
        now = time.monotonic()
        if self._steps:
            self._longest = max(self._longest, now - self._began)
        self._began, self._steps = now, self._steps + 1
        self._say(
            "saving" if control.should_save else "evaluating" if control.should_evaluate else STEP, state
        )

    def on_prediction_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """A batch is evaluated."""
        self._say("evaluating", state)

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """An evaluation is done; a save may follow."""
        self._resume(state, control)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """A save is done."""
        self._resume(state, control)

    def on_log(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start another process if this one is gone."""
        if self.pulse is not None and self.pulse.process.poll() is not None:
            self.on_train_begin(args, state, control)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop watching."""
        self.stop()

    def _say(self, phase: str, state: Any) -> None:
        if self.pulse is None:
            return
        report = self.timeout
        if phase == STEP and self._steps >= WARM_UP:
            report = min(self.timeout, max(self.floor, self.factor * self._longest))
        self.pulse.beat(phase, state.global_step, report, self.timeout if self.ends else 0.0)

    def _resume(self, state: Any, control: Any) -> None:
        self._began = time.monotonic()  # neither an evaluation nor a save is part of a step's time
        self._say("saving" if control.should_save else STEP, state)
