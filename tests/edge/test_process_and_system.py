"""Edge cases 41 to 50: kills, power losses, reboots, disks, mounts, permissions, clocks, other daemons, zombies and locks."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.checkpoint_files import write_checkpoint
from support.hosts import unprivileged
from support.matrix import fault
from support.power import power_losses, save
from support.queues import Recorder, daemon, names, once, put, run, until
from support.supervised import crashes

from llmguard import probe
from llmguard.locks import Held, locked, started
from llmguard.probe.mounts import HANGS
from llmguard_core.checkpoints import atomic_folder, folder, newest
from llmguard_core.checkpoints.folder import staged
from llmguard_core.errors import CheckpointError, QueueError
from llmguard_core.queue import Job, retry, status
from llmguard_core.queue.daemon import LOCK
from llmguard_core.queue.jobs import Queue
from llmguard_core.queue.work import end_session

CORE = Path(__file__).resolve().parents[2] / "src" / "llmguard_core"
WEEK = 7 * 86400.0


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> None:
    """Nothing here needs torch in this process: it is not even imported."""


@pytest.fixture
def queue(tmp_path: Path) -> Path:
    """A queue without any file."""
    Queue(tmp_path / "queue").make()
    return tmp_path / "queue"


# 41


def judge_kills(seen: dict[str, Any], kills: int) -> None:
    """Each life ended by SIGKILL or by its last step; what is found afterwards holds the weights of the run without kills."""
    assert seen["kills"] == kills, "the processes were not killed"
    assert seen["while_saving"] > 0, "no kill fell into a save: nothing was shown"
    assert seen["wrong"] == []
    assert seen["finished"] > 0
    assert seen["most_lost"] <= seen["interval"]


@pytest.mark.needs_torch
@fault("L1")
def test_edge_41_killed_at_random_points_it_goes_on_bit_for_bit(tmp_path: Path) -> None:
    """8 SIGKILLs at random moments: at most one interval is lost, every checkpoint, the last too, holds the weights of its step."""
    judge_kills(crashes(tmp_path, "kills", "8"), 8)


@pytest.mark.needs_torch
@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_edge_41_killed_at_200_random_points(tmp_path: Path) -> None:
    """The same, 200 times."""
    judge_kills(crashes(tmp_path, "kills", "200"), 200)


# 42


@pytest.mark.parametrize("forgotten", ["files", "folders"])
def test_edge_42_the_model_of_a_power_loss_sees_a_flush_that_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forgotten: str
) -> None:
    """The fault fires: without the flushes of the files, or of the folders, the same losses do take what was saved."""
    real = folder.flush
    monkeypatch.setattr(
        folder, "flush", lambda path: real(path) if path.is_dir() == (forgotten == "files") else None
    )
    assert power_losses(tmp_path, monkeypatch, 50)


@fault("L2")
def test_edge_42_a_power_loss_never_takes_a_checkpoint_that_was_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """50 moments; whatever was not flushed may be lost, in any combination."""
    assert power_losses(tmp_path, monkeypatch, 50) == []


@pytest.mark.soak
def test_edge_42_power_losses_by_the_thousand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same at 5,000 moments."""
    assert power_losses(tmp_path, monkeypatch, 5000) == []


# 43


def test_edge_43_a_daemon_that_was_killed_leaves_nothing_in_the_way(queue: Path) -> None:
    """SIGKILL: the lock ends with the process, its child is ended by the next daemon, the file is trained again."""
    put(queue, "a.jsonl")
    first = daemon(queue)
    (begun,) = until(lambda: [p for p in queue.glob("running/*/begun") if p.read_text()])
    child = int(begun.read_text())
    first.kill()
    first.wait()
    since = started(child)
    assert since is not None, "the child was to outlive its daemon"
    begun.parent.joinpath("saved").touch()
    second = daemon(queue)
    until(lambda: Queue(queue).jobs("done"))
    assert started(child) != since
    second.send_signal(signal.SIGTERM)
    assert second.wait(60) == 0
    assert [each["outcome"] for each in Queue(queue).jobs("done")[0].attempts] == ["failed", "done"]


def test_edge_43_the_lock_of_a_daemon_before_the_reboot_is_no_lock(queue: Path) -> None:
    """Its file is there, with a pid that now belongs to somebody else (to us): it is taken over, and gone in the end."""
    put(queue, "a.jsonl")
    (queue / LOCK).write_text(f'{{"pid": {os.getpid()}, "started": 1.0, "boot": "another", "host": null}}')
    os.kill(os.getpid(), 0)  # whoever asks for nothing but the pid finds a process that lives
    once(queue, ["true"])
    assert names(queue, "done") == ["a.jsonl"]
    assert not (queue / LOCK).exists()


# 44


@pytest.mark.parametrize(("number", "name"), [(errno.ENOSPC, "ENOSPC"), (errno.EIO, "EIO")])
def test_edge_44_an_error_of_the_disk_is_told_with_path_and_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, name: str
) -> None:
    """Flushing is where a disk tells that it could not write; the checkpoint before stays the newest."""
    save(tmp_path, 2)
    fired: list[int] = []

    def fails(handle: int) -> None:
        fired.append(handle)
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fails)
        with (
            pytest.raises(CheckpointError, match=rf"checkpoint-4: .*\(errno {number}, {name}\); 1,000 bytes"),
            atomic_folder(tmp_path / "checkpoint-4", needs=1000) as place,
        ):
            write_checkpoint(place, 4)
    assert fired
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint-2"]
    assert newest(tmp_path) == tmp_path / "checkpoint-2"


def test_edge_44_data_on_a_disk_that_cannot_be_read_are_told(project: Any) -> None:
    """A real EIO, from a file that the kernel lets anybody open and nobody read at its start; no row of it is taken."""
    (project.path / "train.jsonl").symlink_to("/proc/self/mem")
    with pytest.raises(OSError, match="Input/output error") as fired:
        (project.path / "train.jsonl").read_bytes()
    assert fired.value.errno == errno.EIO
    project.project(config="", data='train = "train.jsonl"')
    told = project.told("data_files_are_readable")
    assert "train.jsonl cannot be read: Input/output error (errno 5)" in told.message


# 45


@pytest.mark.parametrize("table", ["nfs", "local"])
def test_edge_45_a_path_that_never_answers_is_told_in_bounded_time(
    project: Any, monkeypatch: pytest.MonkeyPatch, table: str
) -> None:
    """Its mount, or that it is a pipe, is named; whatever would open it is skipped with that reason; the machine is checked all the same.

    The same on a file system of our own that falls silent: tests/probe/test_mounts.py, where root may mount one.
    """
    train = project.path / "train.jsonl"
    os.mkfifo(train)
    witness = probe.run("import sys; open(sys.argv[1])", [str(train)], timeout=0.5, kill_grace=0)
    assert witness.verdict in HANGS, "it answers"
    if table == "nfs":
        lines = f"1 0 0:1 / / rw - ext4 /dev/a rw\n2 1 0:2 / {project.path} rw - nfs4 nas:/vol rw\n"
        monkeypatch.setattr("llmguard.probe.mounts.mountinfo", lambda: lines)
    project.project(config="", data='train = "train.jsonl"', environment="import_timeout = 1.0")
    began = time.monotonic()
    results = project.results_of("named_paths_answer", "data_files_are_readable", "python_is_supported")
    assert time.monotonic() - began < 1.0 + 10.0
    (told,) = results["named_paths_answer"].findings
    named = f"{project.path} (nfs4 from nas:/vol)" if table == "nfs" else f"{train} (named pipe)"
    assert f"{named} does not answer" in told.message
    assert told.where.key == "[data] train"
    skipped = results["data_files_are_readable"]
    assert (skipped.outcome.value, "does not answer" in skipped.reason) == ("skipped", True)
    assert results["python_is_supported"].outcome.value == "passed"


# 46


@pytest.fixture
def closed() -> Iterator[Path]:
    """A folder in which only others than us may not write, seen by them: root's own temporary folders are closed to them."""
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        made = Path(place) / "closed"
        made.mkdir(mode=0o555)
        yield made
        made.chmod(0o755)


def test_edge_46_an_output_folder_that_may_not_be_written_is_told_before_the_run(closed: Path) -> None:
    """By writing to it, as a user that is not root: mode bits alone say nothing of quotas, lists of access and read-only mounts."""
    config = closed.parent / "llmguard.toml"
    config.write_text(f'[environment]\noutput_dir = "{closed}/out"\n')
    code = f"""
import os
try:
    open({str(closed / "fires")!r}, "w")
except PermissionError:
    print("fired")
from llmguard.auditing import audit
from llmguard.project import load_project
for result in audit(load_project({str(config)!r})).checks:
    if result.check == "output_dir_takes_a_checkpoint":
        print(result.outcome.value, result.findings[0].message if result.findings else result.reason)
"""
    said = unprivileged([sys.executable, "-c", code])
    assert said.stdout.startswith("fired\n"), said
    assert said.stdout.splitlines()[1].startswith("failed ")
    assert "EACCES (Permission denied)" in said.stdout
    assert "at its first checkpoint" in said.stdout


@pytest.mark.needs_torch
def test_edge_46_a_run_that_may_not_write_is_refused_before_a_model_is_loaded(closed: Path) -> None:
    """The core's own command, as a user that is not root: exit code 2, the key, and no word of the model, which is not there."""
    (closed.parent / "train.jsonl").write_text('{"prompt": "a", "response": "b"}\n' * 8)
    (closed.parent / "model").mkdir()
    config = closed.parent / "run.yaml"
    config.write_text(
        "model: {path: model}\ndata: {train: train.jsonl}\ntrain: {output_dir: closed/out, batch_size: 4}\n"
    )
    assert unprivileged(["touch", str(closed / "fires")]).returncode, "the folder may be written"
    said = unprivileged([sys.executable, "-m", "llmguard_core", "sft", "--config", str(config)])
    assert said.returncode == 2
    assert "may not be written by this user" in said.stderr
    assert "`train.output_dir`" in said.stderr


def test_edge_46_a_checkpoint_that_may_not_be_written_is_told(closed: Path) -> None:
    """Where the permission went while the run went on."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        with pytest.raises(PermissionError):
            (closed / "fires").touch()
        with pytest.raises(CheckpointError, match="errno 13, EACCES"), atomic_folder(closed / "x"):
            pass
    finally:
        if root:
            os.seteuid(0)


def test_edge_46_a_queue_that_may_not_be_written_is_told(tmp_path: Path) -> None:
    """Where a file has the folder's place, also root cannot make it."""
    (tmp_path / "queue").write_text("no folder")
    with pytest.raises(OSError, match=r"Not a directory|File exists"):
        (tmp_path / "queue" / "pending").mkdir(parents=True)
    with pytest.raises(QueueError, match=r"cannot be worked on: .* \(errno \d+, E[A-Z]+\)"):
        run(tmp_path / "queue", Recorder())


# 47


def test_edge_47_waits_end_although_the_clock_is_set_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An hour back at every look: a wait by that clock would never end; no duration of the core is taken from it."""
    now = [time.time()]

    def back() -> float:
        now[0] -= 3600
        return now[0]

    with locked(tmp_path / "lock"), monkeypatch.context() as patch:
        patch.setattr(time, "time", back)
        assert time.time() > time.time(), "the clock does not go back"
        began = time.monotonic()
        with pytest.raises(Held), locked(tmp_path / "lock", wait=0.3):
            pass
        assert 0.25 < time.monotonic() - began < 20
    using = {p.parent.name for p in CORE.rglob("*.py") if "time.time" in p.read_text("utf-8")}
    assert using == {"queue"}, "times that are kept over processes and reboots have no other clock"


def test_edge_47_a_clock_that_was_set_back_keeps_nobody_waiting(queue: Path) -> None:
    """A failure of next week is tried again after one back-off; a file of next week is taken now."""
    put(queue, "bad.jsonl")
    work = Recorder("bad.jsonl")
    later = time.time() + WEEK
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("llmguard_core.queue.jobs.time.time", lambda: later)
        run(
            queue,
            work,
            backoff=0.3,
            attempts=2,
            once=False,
            stop=lambda: bool(work.seen),
            clock=lambda: later,
        )
    assert Queue(queue).jobs("waiting")[0].attempts[0]["at"] > time.time() + WEEK / 2, "not of next week"
    os.utime(put(queue, "future.jsonl"), (later, later))
    work.failing.clear()
    began = time.monotonic()
    assert run(queue, work, backoff=0.0).done == 2
    assert time.monotonic() - began < 30


def test_edge_47_what_was_put_there_in_the_future_keeps_its_priority(queue: Path) -> None:
    """An urgent file from before the clock was set back by a week has not waited less than none."""
    urgent = queue / "waiting" / f"0-{int(time.time() + WEEK) * 1000}-00000000"
    urgent.mkdir()
    (urgent / "input.jsonl").write_bytes(b"urgent")
    assert Queue(queue).jobs("waiting")[0].since > time.time()
    put(queue, "usual.jsonl")
    work = Recorder()
    run(queue, work)
    assert [content for _, content in work.seen] == [b"urgent", b"usual.jsonl"]


def test_edge_47_files_from_the_future_are_named(project: Any) -> None:
    """The data and a checkpoint, written before the clock was set back; once it is right again, nothing is told."""
    project.rows("train.jsonl", 3)
    project.write("out/checkpoint-2/trainer_state.json", "{}")
    project.project(config="", data='train = "train.jsonl"', environment='output_dir = "out"')
    ahead = [project.path / "train.jsonl", project.path / "out/checkpoint-2/trainer_state.json"]
    for file in ahead:
        os.utime(file, (time.time() + WEEK,) * 2)
        assert file.stat().st_mtime > time.time()
    told = project.told("no_file_is_from_the_future", "warning")
    assert "2 of 2 files were changed later than now, up to 7.0 days" in told.message
    for file in ahead:
        os.utime(file)
    assert project.findings("no_file_is_from_the_future") == []


# 48


def test_edge_48_a_second_daemon_is_refused_by_name(queue: Path) -> None:
    """Pid and time of the first, which lives and works; also for a retry, which moves the same folders."""
    put(queue, "a.jsonl")
    first = daemon(queue)
    until(lambda: list(queue.glob("running/*/begun")))
    assert first.poll() is None, "there is no first daemon"
    try:
        for second in (lambda: run(queue, Recorder()), lambda: retry(queue)):
            with pytest.raises(QueueError, match=rf"held by process {first.pid} on .* since 20\d\d-"):
                second()
        assert (status(queue).daemon or {})["pid"] == first.pid
    finally:
        first.send_signal(signal.SIGTERM)
        assert first.wait(60) == 0
    assert status(queue).daemon is None
    assert run(queue, Recorder()).done == 1


def test_edge_48_a_process_with_the_same_number_is_not_the_child_of_before() -> None:
    """Pid reuse: start time decides, and nobody else is killed."""
    child = subprocess.Popen(["sleep", "60"], start_new_session=True)
    since = started(child.pid)
    assert since is not None
    end_session(child.pid, since - 1)
    end_session(child.pid, None)
    end_session("x", since)
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(0.5)
    end_session(child.pid, since)
    assert child.wait(20) == -signal.SIGKILL


# 49


def is_zombie(pid: int | str) -> bool:
    """Whether a process has ended and nobody has waited for it."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def test_edge_49_children_that_nobody_waited_for_are_reaped(queue: Path) -> None:
    """Work that forks and forgets."""
    put(queue, "a.jsonl")
    forgotten: list[subprocess.Popen[bytes]] = []

    def work(job: Job) -> None:
        forgotten.append(subprocess.Popen(["true"]))
        until(lambda: is_zombie(forgotten[0].pid))

    run(queue, work)
    assert not Path(f"/proc/{forgotten[0].pid}").exists()
    forgotten[0].wait()


def test_edge_49_zombies_are_counted_with_the_parent_that_forgets_them(project: Any) -> None:
    """120 of them, real ones; after that parent has ended nothing is told of it any more."""
    code = "import os, sys\nfor _ in range(120): os.fork() or os._exit(0)\nprint('ready', flush=True)\nsys.stdin.read()"
    project.project(config="")

    def told() -> list[str]:
        found = project.findings("processes_can_be_started")
        return [f.message for f in found if f.where.what == f"process {parent.pid}"]

    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"ready\n"
        children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
        until(lambda: all(is_zombie(child) for child in children.read_text().split()))
        assert len(children.read_text().split()) == 120
        (message,) = told()
        parent.communicate()
    assert "120 processes have ended and are not collected by their parent python" in message
    assert told() == []


# 50


def test_edge_50_a_locked_file_is_waited_for_then_its_holder_is_named(
    queue: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer that holds a lock on the file; once it lets go, the file is trained."""
    import fcntl

    monkeypatch.setattr("llmguard_core.queue.work.LOCK_WAIT", 0.3)
    path = put(queue, "a.jsonl")
    with path.open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with path.open("rb") as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
        run(queue, Recorder(), attempts=1)
    (row,) = status(queue).rows
    assert row.state == "quarantine"
    assert f"locked by process {os.getpid()} (" in row.reason
    assert retry(queue) == 1
    assert run(queue, Recorder()).done == 1


@fault("L12")
def test_edge_50_a_save_by_another_process_is_waited_for_then_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two runs with one output_dir never write into each other's files."""
    monkeypatch.setattr(folder, "LOCK_WAIT", 0.2)
    final = tmp_path / "checkpoint-2"
    with locked(staged(final).parent / "lock"):
        with pytest.raises(Held), locked(staged(final).parent / "lock"):
            pass
        with (
            pytest.raises(CheckpointError, match=rf"held by process {os.getpid()} on"),
            atomic_folder(final),
        ):
            pass
    with atomic_folder(final) as place:
        write_checkpoint(place, 2)
    assert newest(tmp_path) == final
