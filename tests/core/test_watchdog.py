"""A run that stands still is seen from outside, with the stacks of its threads, whatever holds it; a run that works is left alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.importing import imported
from support.matrix import fault

imported("transformers")
from llmguard_core.training.heartbeat import Watchdog  # noqa: E402  # after the skip above
from llmguard_core.training.watchdog import Beat, Pulse  # noqa: E402  # likewise

RUN = """
import ctypes, os, sys, threading, time
from pathlib import Path
from llmguard_core.training.watchdog import Pulse

def hold_the_gil_for_ever():
    library = ctypes.PyDLL(None)  # PyDLL does not let go of the GIL
    lock = ctypes.create_string_buffer(64)
    library.pthread_mutex_lock(lock)
    library.pthread_mutex_lock(lock)

def wait_without_the_gil():
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()

def spin():
    while True:
        pass

def another_thread():
    time.sleep(600)

threading.Thread(target=another_thread, daemon=True).start()
pulse = Pulse(Path(sys.argv[1]) / "hang-report.json", poll=0.05, grace=1.0)
for _ in range(8):
    time.sleep(0.02)
    pulse.beat("a training step", 7, 0.5, {end_after})
print("standing still", flush=True)
{hang}
"""


def started(folder: Path, hang: str, *, end_after: float = 2.0) -> subprocess.Popen[str]:
    """A process that beats eight times and then does `hang`."""
    script = folder / "script.py"
    script.write_text(textwrap.dedent(RUN).format(hang=hang, end_after=end_after))
    process = subprocess.Popen(
        [sys.executable, str(script), str(folder)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout
    assert process.stdout.readline() == "standing still\n"
    return process


@pytest.fixture
def hanging(tmp_path: Path) -> Iterator[Any]:
    """Starts such processes, and ends them."""
    made: list[subprocess.Popen[str]] = []

    def start(hang: str, **told: float) -> subprocess.Popen[str]:
        made.append(started(tmp_path, hang, **told))
        return made[-1]

    yield start
    for process in made:
        process.kill()
        process.communicate()


def report_in(folder: Path, seconds: float = 25.0) -> dict[str, Any]:
    """The report, once it is there."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if (folder / "hang-report.json").exists():
            return dict(json.loads((folder / "hang-report.json").read_text()))
        time.sleep(0.05)
    raise AssertionError("no report")


@pytest.mark.parametrize(
    ("hang", "says"),
    [
        ("hold_the_gil_for_ever()", "waits without computing"),
        ("wait_without_the_gil()", "waits without computing"),
        ("spin()", "computes without getting on"),
    ],
)
@fault("K2", "K3", "K4")
def test_a_run_that_stands_still_is_reported_with_all_stacks_and_ended(
    tmp_path: Path, hanging: Any, hang: str, says: str
) -> None:
    """Within seconds, the GIL held or not: the line of each Python thread, then SIGTERM and SIGKILL."""
    began = time.monotonic()
    process = hanging(hang)
    report = report_in(tmp_path)
    assert time.monotonic() - began < 25
    assert report["verdict"] == "stalled"
    assert (report["step"], report["phase"]) == (7, "a training step")
    assert report["diagnosis"].startswith(says)
    assert hang.removesuffix("()") in report["stacks"]
    assert "another_thread" in report["stacks"]
    assert report["threads"]
    assert process.wait(30) in (-signal.SIGTERM, -signal.SIGKILL)
    assert json.loads((tmp_path / "hang-report.json").read_text())["ended"]
    process.communicate()


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
