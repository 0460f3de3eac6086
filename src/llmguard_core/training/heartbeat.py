"""The run's side of the watchdog: a counter in shared memory, and a signal that has C code write all stacks."""

from __future__ import annotations

import faulthandler
import json
import mmap
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from llmguard_core.training import watchdog
from llmguard_core.training.watchdog import PHASES, SIZE, Beat

__all__ = ["Watchdog"]

SIGNAL = signal.SIGRTMAX - 3 if hasattr(signal, "SIGRTMAX") else signal.SIGUSR2
"""One that schedulers, torch and `SaveOnSignal` leave alone."""
WARM_UP = 5


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
        self.process: subprocess.Popen[bytes] | None = None
        self._counter = self._steps = 0
        self._longest = 0.0
        self._began = time.monotonic()

    def start(self, output_dir: str) -> None:
        """Start the process; it ends with this one."""
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        self._beat, self._stacks = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115  # closed by stop()
        self._beat.truncate(SIZE)
        self._memory = mmap.mmap(self._beat.fileno(), SIZE)
        self._counter, self._steps, self._longest = 0, 0, 0.0
        self.beat("starting", 0)
        faulthandler.register(SIGNAL, file=self._stacks, all_threads=True, chain=False)
        handles = (self._beat.fileno(), self._stacks.fileno())
        settings = {
            "pid": os.getpid(), "beat": handles[0], "stacks": handles[1], "signal": int(SIGNAL), "grace": self.grace,
            "report": str(Path(output_dir) / "hang-report.json"), "poll": min(1.0, self.floor / 10),
        }  # fmt: skip
        command = [sys.executable, "-I", "-S", watchdog.__file__, json.dumps(settings)]
        self.process = subprocess.Popen(
            command, pass_fds=handles, stdin=subprocess.DEVNULL, start_new_session=True
        )

    def beat(self, phase: str, step: int) -> None:
        """Say that something was done: cheap, no system call."""
        self._counter += 1
        report = self.timeout
        if phase == "a training step" and self._steps >= WARM_UP:
            report = min(self.timeout, max(self.floor, self.factor * self._longest))
        Beat(self._counter, step, report, self.timeout if self.ends else 0.0, PHASES.index(phase)).write(
            self._memory
        )

    def stop(self) -> None:
        """End the process, and free what was shared with it."""
        if self.process is None:
            return
        self.beat("done", 0)
        self.process.terminate()
        self.process.wait()
        faulthandler.unregister(SIGNAL)
        self._memory.close()
        self._beat.close()
        self._stacks.close()
        self.process = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start watching."""
        self.stop()
        self.start(args.output_dir)

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """A step begins; time between steps (the loader) counts as part of it."""
        self._say("a training step", state)

    def on_substep_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """A micro-batch is done."""
        self._say("a training step", state)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """A step is done; what follows may be an evaluation or a save."""
        now = time.monotonic()
        if self._steps:
            self._longest = max(self._longest, now - self._began)
        self._began, self._steps = now, self._steps + 1
        self._say(
            "saving"
            if control.should_save
            else "evaluating"
            if control.should_evaluate
            else "a training step",
            state,
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
        if self.process is not None and self.process.poll() is not None:
            self.on_train_begin(args, state, control)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop watching."""
        self.stop()

    def _say(self, phase: str, state: Any) -> None:
        if self.process is not None:
            self.beat(phase, state.global_step)

    def _resume(self, state: Any, control: Any) -> None:
        self._began = time.monotonic()  # neither an evaluation nor a save is part of a step's time
        self._say("saving" if control.should_save else "a training step", state)
