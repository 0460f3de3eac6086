"""A run that is told to end saves first, within its time, and its exit code says which signal it was."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from support.matrix import fault
from support.small_runs import At, trainer_of

from llmguard_core.checkpoints import SaveOnSignal, newest

TESTS = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Real processes, each told to end at step 5 of 10, with a save due at step 10 only."""
    folder = tmp_path_factory.mktemp("signals")
    done = subprocess.run(
        [sys.executable, "-m", "support.crashes", "signals", str(folder)],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent / "src")]),
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(("name", "code"), [("term", 143), ("usr1", 0)])
@fault("L19")
def test_a_signal_saves_at_the_end_of_the_step_and_ends(told: Any, name: str, code: int) -> None:
    """SIGTERM ends with 143 as any process, SIGUSR1 (asked to pause) with 0; both leave the step in which it came."""
    assert told[name]["code"] == code
    assert told[name]["newest"] == "checkpoint-5"


def test_without_it_the_same_signal_loses_the_run(told: Any) -> None:
    """The negative control: the process dies of SIGTERM, nothing was saved."""
    assert told["without"]["code"] == -signal.SIGTERM
    assert told["without"]["newest"] is None


def test_a_step_that_does_not_end_is_left_when_the_time_is_over(told: Any) -> None:
    """Half a second of grace, a step of a minute."""
    assert told["stuck"]["code"] == 143
    assert 0.3 < told["stuck"]["seconds"] < 20


def test_a_second_signal_ends_it_at_once(told: Any) -> None:
    """Who asks twice does not want to wait."""
    assert told["twice"]["code"] == 143
    assert told["twice"]["seconds"] < 20


def test_a_signal_while_saving_asks_for_no_second_save(tmp_path: Path) -> None:
    """What it asked for has just been done: the run ends at that step."""
    callback = SaveOnSignal()
    trainer = trainer_of(tmp_path, steps=6, callbacks=[callback])
    real = trainer._save_optimizer_and_scheduler

    def signalled(folder: str) -> None:
        signal.raise_signal(signal.SIGTERM)
        real(folder)

    trainer._save_optimizer_and_scheduler = signalled
    with pytest.raises(SystemExit) as ended:
        trainer.train()
    assert ended.value.code == 143
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint-2"]


def test_the_handlers_of_before_are_given_back(tmp_path: Path) -> None:
    """After training, and after training that failed."""
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGUSR1)
    trainer_of(tmp_path / "a", steps=1, callbacks=[SaveOnSignal()]).train()
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGUSR1)) == before

    def fails() -> None:
        raise KeyError("a user's callback")

    with pytest.raises(KeyError):
        trainer_of(tmp_path / "b", steps=1, callbacks=[SaveOnSignal(), At(1, fails)]).train()
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGUSR1)) == before


def test_a_run_without_a_signal_ends_as_always(tmp_path: Path) -> None:
    """`leave` does nothing."""
    callback = SaveOnSignal()
    assert trainer_of(tmp_path, steps=2, callbacks=[callback]).train().global_step == 2
    callback.leave()
    assert newest(tmp_path) == tmp_path / "checkpoint-2"


def test_outside_the_main_thread_it_says_that_it_cannot(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Python allows handlers in the main thread alone; the training itself goes on."""
    done: list[Any] = []
    trainer = trainer_of(tmp_path, steps=2, callbacks=[SaveOnSignal()])
    thread = threading.Thread(target=lambda: done.append(trainer.train()))
    thread.start()
    thread.join()
    assert done[0].global_step == 2
    assert "will not save" in caplog.text
