"""A run that stands still is seen from outside, with the stacks of its threads, whatever holds it; a run that works is left alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.hanging import processes, report_in
from support.importing import imported
from support.matrix import fault

imported("transformers")
from llmguard_core.training.heartbeat import Watchdog  # noqa: E402  # after the skip above
from llmguard_core.training.watchdog import Beat, Pulse  # noqa: E402  # likewise


@pytest.fixture
def hanging(tmp_path: Path) -> Iterator[Any]:
    """Starts processes that stand still, and ends them."""
    with processes(tmp_path) as start:
        yield start


def test_without_leave_to_end_it_only_reports_and_goes_on_watching(tmp_path: Path, hanging: Any) -> None:
    """The run that stood still for a while goes on and ends well; nothing of the watchdog is left."""
    hang = (
        "time.sleep(4.0); pulse.beat('a training step', 8, 9.0, 0.0); pulse.stop(); print('done', flush=True)"
    )
    process = hanging(hang, end_after=0.0)
    assert report_in(tmp_path)["ended"] is False
    out, _ = process.communicate(timeout=30)
    assert (process.returncode, out) == (0, "done\n")


@fault("K11")
def test_a_run_stopped_by_a_signal_is_told_as_such(tmp_path: Path, hanging: Any) -> None:
    """SIGSTOP: no handler runs, no stacks are to be had; the state says it."""
    process = hanging("time.sleep(600)", end_after=0.0)
    os.kill(process.pid, signal.SIGSTOP)
    try:
        assert report_in(tmp_path)["diagnosis"].startswith("stopped by a signal")
    finally:
        process.kill()
        process.communicate()


def test_a_run_that_is_killed_is_reported(tmp_path: Path, hanging: Any) -> None:
    """SIGKILL leaves no traceback: the report has the step, and says whether the kernel killed for memory."""
    process = hanging("os.kill(os.getpid(), 9)")
    report = report_in(tmp_path)
    assert (report["verdict"], report["step"], report["oom_kills"]) == ("died", 7, 0)
    assert "cannot be caught" in report["diagnosis"]
    assert process.wait(10) == -signal.SIGKILL
    process.communicate()


def test_a_run_that_works_is_left_alone(tmp_path: Path) -> None:
    """No report, no process, no open file left, and the signal's handler is gone."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    pulse = Pulse(tmp_path / "hang-report.json", poll=0.05, grace=1.0)
    until = time.monotonic() + 1.5
    while time.monotonic() < until:
        pulse.beat("a training step", 1, 0.5, 1.0)
        time.sleep(0.01)
    pulse.stop()
    assert not Path(f"/proc/{pulse.process.pid}").exists()
    assert not (tmp_path / "hang-report.json").exists()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


class _Steps:
    """What callbacks are given."""

    def __init__(self, folder: Path) -> None:
        self.output_dir, self.global_step = str(folder), 1
        self.should_save = self.should_evaluate = False


@fault("K10")
def test_a_long_save_or_evaluation_has_its_own_time(tmp_path: Path) -> None:
    """What a step may take says nothing of them: they are reported after `timeout` alone. Five steps must have been seen."""
    watchdog, now = Watchdog(100.0, floor=0.25, factor=2.0), _Steps(tmp_path)
    watchdog.on_train_begin(now, now, now)

    def allowed() -> float:
        return Beat.read(watchdog.pulse.memory).report_after

    assert allowed() == 100.0
    for _ in range(6):
        watchdog.on_step_begin(now, now, now)
        watchdog.on_step_end(now, now, now)
    assert allowed() == 0.25
    now.should_save = True
    watchdog.on_step_end(now, now, now)
    assert allowed() == 100.0
    now.should_save = False
    watchdog.on_save(now, now, now)
    assert allowed() == 0.25
    now.should_evaluate = True
    watchdog.on_step_end(now, now, now)
    watchdog.on_prediction_step(now, now, now)
    assert allowed() == 100.0
    watchdog.stop()


@fault("K5")
def test_a_trainer_that_waits_for_its_data_is_reported(tmp_path: Path) -> None:
    """In a real run: the step, and the stack of the collator that does not come back."""
    from support.runs import collate, model, rows
    from transformers import Trainer, TrainingArguments

    batches = iter(range(100))

    def collator_that_stops(batch: Any) -> Any:
        if next(batches) == 10:
            report_in(tmp_path)
        return collate(batch)

    args = TrainingArguments(
        str(tmp_path), max_steps=12, per_device_train_batch_size=2, use_cpu=True, report_to="none", save_strategy="no", disable_tqdm=True,
        dataloader_pin_memory=False, remove_unused_columns=False,
    )  # fmt: skip
    callback = Watchdog(60.0, floor=0.4)
    Trainer(
        model(), args, train_dataset=rows(24), data_collator=collator_that_stops, callbacks=[callback]
    ).train()
    report = report_in(tmp_path)
    assert (report["verdict"], report["phase"], report["ended"]) == ("stalled", "a training step", False)
    assert 7 <= report["step"] <= 10
    assert "collator_that_stops" in report["stacks"]
    assert callback.pulse is None


@fault("K15")
def test_a_watchdog_that_died_is_started_again(tmp_path: Path) -> None:
    """At the next log line."""
    watchdog, now = Watchdog(5.0), _Steps(tmp_path)
    watchdog.on_train_begin(now, now, now)
    first = watchdog.pulse
    assert first
    watchdog.on_log(now, now, now)
    assert watchdog.pulse is first
    first.process.kill()
    first.process.wait()
    watchdog.on_log(now, now, now)
    assert watchdog.pulse
    assert watchdog.pulse.process.pid != first.process.pid
    assert watchdog.pulse.process.poll() is None
    watchdog.stop()
    watchdog.stop()


def test_the_script_needs_nothing_but_the_standard_library() -> None:
    """It must run where the run's own environment is what hangs."""
    from llmguard_core.training import watchdog

    code = f"import sys, runpy; runpy.run_path({watchdog.__file__!r}, run_name='x'); print('torch' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False False\n"
