"""A run that is told to end saves first: SIGTERM (Kubernetes, systemd) and SIGUSR1 (Slurm's `--signal=USR1@90`)."""

from __future__ import annotations

import logging
import os
import signal
import threading
from typing import Any

import torch
from transformers import TrainerCallback

__all__ = ["SaveOnSignal"]

CODES = {signal.SIGTERM: 143, signal.SIGUSR1: 0}
"""Exit codes. SIGTERM: 128 + 15, as of any process that it ends. SIGUSR1: 0, the run was asked to pause, and did."""
log = logging.getLogger(__name__)


class SaveOnSignal(TrainerCallback):  # type: ignore[misc]  # transformers ships no types
    """Save at the end of the step in which SIGTERM or SIGUSR1 came, then end: exit code 143 or 0.

    `VerifiedTrainer.train` ends the process itself, by SystemExit, after every callback has had its `on_train_end`; after another
    Trainer's `train` call `leave()`. If `grace` seconds after the signal the step has not ended, the process ends at once with 143:
    the newest checkpoint is then the one before. A second signal ends it at once too. `grace=None`: no limit.
    """

    def __init__(self, grace: float | None = 25.0) -> None:
        self.grace, self.received = grace, 0
        self._before: dict[int, Any] = {}
        self._timer: threading.Timer | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Take the signals; outside the main thread Python allows no handlers."""
        self.received = 0
        if threading.current_thread() is not threading.main_thread():
            log.warning("training is not in the main thread: SIGTERM and SIGUSR1 will not save")
            return
        for number in CODES:
            self._before[number] = signal.signal(number, self._note)

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Save and stop if a signal came to any process of the run: all must stop at the same step."""
        if self._agreed(args):
            control.should_save = control.should_training_stop = True

    def on_save(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """A signal that came while saving: what it asked for is done."""
        if self._agreed(args):
            control.should_training_stop = True

    def on_train_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Give the signals back."""
        self.release()

    def release(self) -> None:
        """Put the handlers of before in place again and stop the clock."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()
        if self._timer:
            self._timer.cancel()

    def leave(self) -> None:
        """End the process if a signal ended the training; does nothing otherwise.

        Raises:
            SystemExit: 143 after SIGTERM, 0 after SIGUSR1.
        """
        if self.received:
            raise SystemExit(CODES[signal.Signals(self.received)])

    def _note(self, number: int, frame: Any) -> None:
        if self.received:
            os._exit(CODES[signal.SIGTERM])
        self.received = number
        if self.grace is not None:
            self._timer = threading.Timer(self.grace, os._exit, (CODES[signal.SIGTERM],))
            self._timer.daemon = True
            self._timer.start()
        os.write(2, b"signal %d: saving at the end of this step, then ending\n" % number)

    def _agreed(self, args: Any) -> bool:
        if args.world_size == 1 or not torch.distributed.is_initialized():
            return bool(self.received)
        number = torch.tensor(self.received, device=args.device)
        torch.distributed.all_reduce(number, op=torch.distributed.ReduceOp.MAX)
        self.received = int(number)
        return bool(self.received)
