"""The daemon as a process: its children, its signals, its death. And the default work: a run of `sft` for each file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.queues import daemon, once, until

from llmguard_core.queue import Job, status
from llmguard_core.queue.jobs import Queue

SOURCES = Path(__file__).resolve().parents[2] / "src"


@pytest.fixture
def queue(tmp_path: Path) -> Path:
    Queue(tmp_path / "queue").make()
    (tmp_path / "queue" / "pending" / "a.jsonl").write_text("{}\n")
    return tmp_path / "queue"


def test_sigterm_lets_the_child_save_and_puts_the_file_back(queue: Path) -> None:
    """A clean stop: exit code 0, no failure counted, nothing running; the next daemon goes on from what was saved."""
    first = daemon(queue)
    until(lambda: list(queue.glob("running/*/begun")))
    first.send_signal(signal.SIGTERM)
    assert first.wait(60) == 0
    (job,) = Queue(queue).jobs("waiting")
    assert (job.folder / "saved").exists()
    assert [each["outcome"] for each in job.attempts] == ["interrupted"]
    second = daemon(queue)
    until(lambda: Queue(queue).jobs("done"))
    second.send_signal(signal.SIGTERM)
    assert second.wait(60) == 0
    assert [each["outcome"] for each in Queue(queue).jobs("done")[0].attempts] == ["interrupted", "done"]


def test_a_child_that_fails_is_told_with_its_code_and_the_end_of_its_log(queue: Path) -> None:
    """What the user must read is in the reason."""
    once(queue, [sys.executable, "-c", "print('x' * 5000); raise SystemExit('no column named prompt')"])
    (row,) = status(queue).rows
    assert "exit code 1; its log ends: xxx" in row.reason
    assert row.reason.endswith("no column named prompt")


def test_a_child_that_ends_itself_by_sigterm_is_no_endless_circle(queue: Path) -> None:
    """143 without the daemon's asking counts as a failure."""
    once(queue, [sys.executable, "-c", "raise SystemExit(143)"])
    (row,) = status(queue).rows
    assert row.state == "quarantine"


def test_a_command_that_cannot_be_started_is_a_failure_with_its_reason(queue: Path) -> None:
    """Not the end of the daemon."""
    once(queue, ["/nowhere/python"])
    (row,) = status(queue).rows
    assert "FileNotFoundError" in row.reason


def test_the_daemon_loads_no_torch(queue: Path) -> None:
    """It lives for weeks beside those who need the memory."""
    script = (
        "import sys\nfrom llmguard_core.queue import in_child, run_queue\n"
        f"run_queue({str(queue)!r}, in_child(lambda job: ['true']), once=True, settle=0)\nsys.exit('torch' in sys.modules)"
    )
    path = os.pathsep.join(filter(None, [str(SOURCES), os.environ.get("PYTHONPATH")]))
    done = subprocess.run([sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": path}, check=False)
    assert done.returncode == 0
    assert Queue(queue).jobs("done")


def test_each_file_is_trained_by_sft_with_the_runs_config(queue: Path, tmp_path: Path) -> None:
    """The config's own, but for the file and the output, which lies with the job; paths in it stay what they were."""
    from llmguard_core.config import load_config
    from llmguard_core.queue import training

    (tmp_path / "run.yaml").write_text(
        "model: {path: some/model}\ndata: {prompt: question, response: answer}\n"
        "train: {method: lora, learning_rate: 2.0e-4, max_steps: 3}\nqueue: {directory: queue}\n"
    )
    seen: list[list[str]] = []
    job = Job(tmp_path / "5-1700000000000-00000000")
    job.folder.mkdir()
    (job.folder / "input.jsonl").write_text('{"question": "1+1?", "answer": "2"}\n' * 64)

    class Child:
        pid, returncode = 2**22 + 1, 0

        def __init__(self, command: list[str], **_: Any) -> None:
            seen.append(command)

        def wait(self, timeout: float | None = None) -> int:
            return 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("llmguard_core.queue.work.subprocess.Popen", Child)
        job.note("running", new=True)
        training(tmp_path / "run.yaml")(job)
    (command,) = seen
    assert command[1:4] == ["-m", "llmguard_core", "sft"]
    derived = load_config(Path(command[-1]), objective="sft")
    assert [str(each) for each in derived.data.train] == [str(job.folder / "input.jsonl")]
    assert derived.train.learning_rate == 2e-4
    assert derived.data.prompt == "question"
    assert Path(str(derived.train.output_dir)) == job.folder / "output"
