"""A queue of training files in a folder: each file once, the urgent first, nothing lost, whatever is done to its folders."""

from __future__ import annotations

import io
import itertools
import json
import logging
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmguard_core.errors import QueueError
from llmguard_core.locks import locked
from llmguard_core.queue import Failed, Job, Summary, retry, run_queue, status
from llmguard_core.queue.daemon import LOCK
from llmguard_core.queue.jobs import Queue


class Recorder:
    """Work that remembers what it was given; fails, while `failing` says so, for the names in it."""

    def __init__(self, *failing: str) -> None:
        self.seen: list[tuple[str, bytes]] = []
        self.failing = set(failing)

    def __call__(self, job: Job) -> None:
        self.seen.append((job.name, job.file.read_bytes()))
        if job.name in self.failing:
            raise Failed("the loss was NaN")

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.seen]


@pytest.fixture
def queue(tmp_path: Path) -> Path:
    Queue(tmp_path / "queue").make()
    return tmp_path / "queue"


def put(queue: Path, name: str | bytes, content: bytes | None = None, priority: int | None = None) -> Path:
    place = queue / "pending" / ("" if priority is None else str(priority))
    place.mkdir(exist_ok=True)
    path = place / os.fsdecode(name)
    path.write_bytes(os.fsencode(name) if content is None else content)
    return path


def run(queue: Path, work: Any, **more: Any) -> Summary:
    return run_queue(queue, work, **{"once": True, "settle": 0.0, "backoff": 0.0, "poll": 0.01, **more})


def names(queue: Path, state: str) -> list[str]:
    return [job.name for job in Queue(queue).jobs(state)]


def test_files_are_trained_once_each_and_end_in_done(queue: Path) -> None:
    """With their content, their record, and nothing left elsewhere; a second run finds nothing to do."""
    put(queue, "a.jsonl", b"one")
    put(queue, "b.parquet", b"two")
    work = Recorder()
    assert run(queue, work).done == 2
    assert sorted(work.seen) == [("a.jsonl", b"one"), ("b.parquet", b"two")]
    assert sorted(names(queue, "done")) == ["a.jsonl", "b.parquet"]
    assert run(queue, work) == Summary()
    assert status(queue).counts() == {"pending": 0, "running": 0, "waiting": 0, "done": 2, "quarantine": 0}


def test_the_urgent_go_first_and_equals_in_their_order(queue: Path) -> None:
    """`pending/0` to `pending/9`; `pending` itself is 5."""
    for name, priority in [("last", 9), ("usual", None), ("first", 0), ("second", 1)]:
        put(queue, f"{name}.jsonl", priority=priority)
        time.sleep(0.01)
    put(queue, "usual too.jsonl")
    work = Recorder()
    run(queue, work)
    assert [n.removesuffix(".jsonl") for n in work.names] == ["first", "second", "usual", "usual too", "last"]


def test_a_file_that_still_changes_is_not_claimed(queue: Path) -> None:
    """Someone copies into the folder: half a file is never trained on."""
    put(queue, "a.jsonl", b"half")
    work, stop = Recorder(), threading.Event()
    thread = threading.Thread(
        target=lambda: run(queue, work, settle=0.6, once=False, stop=stop.is_set), daemon=True
    )
    thread.start()
    time.sleep(0.3)
    assert work.seen == []
    put(queue, "a.jsonl", b"whole")
    deadline = time.monotonic() + 20
    while not work.seen and time.monotonic() < deadline:
        time.sleep(0.01)
    stop.set()
    thread.join(20)
    assert work.seen == [("a.jsonl", b"whole")]


def test_edge_51_a_file_deleted_while_it_waits_is_passed_by(
    queue: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes between the look and the claim; the next one is trained."""
    doomed = put(queue, "a.jsonl")
    put(queue, "b.jsonl")
    real = Queue.claim

    def claim(self: Queue, entry: Any) -> Any:
        if entry.path == doomed:
            doomed.unlink()
        return real(self, entry)

    monkeypatch.setattr(Queue, "claim", claim)
    work = Recorder()
    assert run(queue, work).done == 1
    assert not doomed.exists()
    assert work.names == ["b.jsonl"]
    assert "was deleted while it waited" in caplog.text
    assert names(queue, "running") == []


@pytest.mark.parametrize("what", ["file", "folder"])
def test_edge_52_a_file_moved_while_it_is_trained_is_recorded_under_its_name(
    queue: Path, tmp_path: Path, what: str
) -> None:
    """What was opened is read to its end, and the result is not lost with the name."""
    put(queue, "a.jsonl", b"content")
    read: list[bytes] = []

    def work(job: Job) -> None:
        with job.file.open("rb") as opened:
            (job.file if what == "file" else job.folder).rename(tmp_path / "elsewhere")
            read.append(opened.read())

    assert run(queue, work).done == 1
    assert read == [b"content"]
    assert names(queue, "done") == ["a.jsonl"]
    assert run(queue, Recorder()) == Summary()


def test_edge_53_a_name_given_twice_is_two_files_and_content_given_twice_is_one(queue: Path) -> None:
    """Told apart by SHA-256 of the content."""
    work = Recorder()
    put(queue, "a.jsonl", b"one")
    run(queue, work)
    put(queue, "a.jsonl", b"two")
    put(queue, "b.jsonl", b"one")
    put(queue, "c.jsonl", b"two", priority=9)
    done = run(queue, work)
    assert work.seen == [("a.jsonl", b"one"), ("a.jsonl", b"two")]
    assert (done.done, done.duplicates) == (1, 2)
    assert sorted(names(queue, "done")) == ["a.jsonl", "a.jsonl", "b.jsonl", "c.jsonl"]
    reasons = {row.name: row.reason for row in status(queue).rows}
    assert reasons["b.jsonl"].startswith("the same content as 'a.jsonl'")


def test_edge_54_links_that_lead_nowhere_go_to_quarantine_and_others_are_followed(
    queue: Path, tmp_path: Path
) -> None:
    """A circle, a dangling link, a folder under a file's name; a relative link still leads to its file."""
    (queue / "pending" / "circle.jsonl").symlink_to("circle.jsonl")
    (queue / "pending" / "one.jsonl").symlink_to("two.jsonl")
    (queue / "pending" / "two.jsonl").symlink_to("one.jsonl")
    (queue / "pending" / "gone.jsonl").symlink_to("nowhere")
    (queue / "pending" / "folder.jsonl").mkdir()
    (queue / "pending" / "7").symlink_to("..")
    (tmp_path / "real").write_bytes(b"rows")
    (queue / "pending" / "good.jsonl").symlink_to("../../real")
    with pytest.raises(OSError, match="symbolic links"):
        (queue / "pending" / "circle.jsonl").read_bytes()
    work = Recorder()
    run(queue, work)
    assert work.seen == [("good.jsonl", b"rows")]
    reasons = {row.name: row.reason for row in status(queue).rows if row.state == "quarantine"}
    back = "is a link that leads back to itself"
    assert (
        reasons
        == {
            "circle.jsonl": back,
            "one.jsonl": back,
            "two.jsonl": "is a link to 'one.jsonl', which is not there",  # any more: the other half of the circle went first
            "gone.jsonl": "is a link to 'nowhere', which is not there",
            "folder.jsonl": "is no file",
        }
    )
    assert [Path(each).name for each in status(queue).left_alone] == ["7"]


NAMES = [
    b"two words.jsonl",
    b"quote ' and \".jsonl",
    b"new\nline.jsonl",
    b"latin \xe9 \xff.jsonl",
    b"--flag.jsonl",
    b"$(touch x).jsonl",
    b"[red]x.jsonl",
]


@pytest.mark.parametrize("name", NAMES)
def test_edge_55_a_name_is_only_a_name(queue: Path, name: bytes) -> None:
    """Spaces, quotes, line breaks, bytes that are no UTF-8, flags, shell code, markup: trained, recorded, shown."""
    put(queue, name, b"rows")
    work = Recorder()
    assert run(queue, work).done == 1
    assert [os.fsencode(n) for n in work.names] == [name]
    told = status(queue)
    json.dumps(told.to_json()).encode("utf-8")
    assert "\n" not in told.to_json()["files"][0]["name"]
    _printed(told)


def _printed(told: Any) -> str:
    from rich.console import Console

    console = Console(width=200, record=True, file=io.StringIO())
    console.print(told.table())
    return console.export_text()


def test_edge_56_other_files_are_left_alone_and_named_once(
    queue: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """No extension, another one, a hidden file: not moved, and named a single time however often the folder is looked at."""
    for name in ("README", "notes.txt", ".hidden.jsonl", ".a.jsonl.swp"):
        put(queue, name)
    put(queue, "a.jsonl")
    put(queue, "b.jsonl")
    run(queue, Recorder())
    assert sorted(p.name for p in (queue / "pending").iterdir()) == [
        ".a.jsonl.swp",
        ".hidden.jsonl",
        "README",
        "notes.txt",
    ]
    assert caplog.text.count("notes.txt") == 1
    assert caplog.text.count("README") == 1
    assert [Path(p).name for p in status(queue).left_alone] == ["README", "notes.txt"]


def test_edge_57_a_retry_with_nothing_failed_says_so(queue: Path, caplog: pytest.LogCaptureFixture) -> None:
    """And gives 0."""
    put(queue, "a.jsonl")
    run(queue, Recorder())
    with caplog.at_level(logging.INFO):
        assert retry(queue) == 0
    assert "nothing has failed" in caplog.text


def test_a_retry_gives_what_failed_all_its_attempts_again(queue: Path) -> None:
    """What is in quarantine and what still waits; what is done stays done."""
    work = Recorder("bad.jsonl")
    put(queue, "bad.jsonl")
    put(queue, "good.jsonl")
    run(queue, work)
    assert names(queue, "quarantine") == ["bad.jsonl"]
    assert retry(queue) == 1
    run(queue, work)
    assert work.names.count("bad.jsonl") == 6
    assert retry(queue) == 1
    work.failing.clear()
    assert run(queue, work).done == 1
    assert work.names.count("good.jsonl") == 1


METADATA = ["name", "attempt-1.json", "reason.txt"]


@pytest.mark.parametrize("garbage", [b"", b"\x00\xff{", b"[]", b'{"outcome": 3}'])
@pytest.mark.parametrize("file", METADATA)
def test_edge_58_a_corrupt_record_loses_no_file_and_trains_none_twice(
    queue: Path, file: str, garbage: bytes
) -> None:
    """Every kind of record of jobs in every state is overwritten: the folders are the state."""
    work = Recorder("bad.jsonl")
    put(queue, "done.jsonl")
    put(queue, "bad.jsonl")
    run(queue, work)
    put(queue, "new.jsonl")
    put(queue, "again.jsonl", b"done.jsonl")
    for path in queue.glob(f"*/*/{file}"):
        path.write_bytes(garbage)
    (queue / LOCK).write_bytes(garbage)
    after = run(queue, work)
    assert (after.done, after.duplicates) == (1, 1)
    assert work.names.count("done.jsonl") == 1
    assert "again.jsonl" not in work.names
    counts = status(queue).counts()
    assert (counts["done"], counts["quarantine"]) == (3, 1)


def test_edge_58_what_a_killed_daemon_left_is_found_again(queue: Path) -> None:
    """Killed while it claimed, in an attempt, after the attempt but before the move: each goes on where it was."""
    for name in ("claimed", "begun", "over"):
        put(queue, f"{name}.jsonl")
    states = {e.path.stem: Queue(queue).claim(e) for e in Queue(queue).entries()}
    begun, over = states["begun"], states["over"]
    assert begun is not None
    assert over is not None
    begun.note("running", new=True, pid=2**22 + 1, started=1.0)
    over.note("running", new=True)
    over.note("done", sha256=over.digest())
    (queue / "running" / "5-1700000000000-00000000").mkdir()
    work = Recorder()
    assert run(queue, work).done == 2
    assert sorted(work.names) == ["begun.jsonl", "claimed.jsonl"]
    assert sorted(names(queue, "done")) == ["begun.jsonl", "claimed.jsonl", "over.jsonl"]
    assert [j.failures for j in Queue(queue).jobs("done") if j.name == "begun.jsonl"] == [1]
    assert not list((queue / "running").iterdir())


def test_edge_59_a_file_of_low_priority_waits_a_bounded_time(queue: Path) -> None:
    """Urgent files come without end; with 10 s a step the one of priority 9 waits no more than 90 s of the queue's clock."""
    put(queue, "patient.jsonl", priority=9)
    started, now = time.time(), [time.time()]
    trained: list[str] = []

    def work(job: Job) -> None:
        trained.append(job.name)
        now[0] += 5
        urgent = put(queue, f"urgent-{len(trained)}.jsonl", priority=0)
        entered[urgent.name] = now[0]

    entered: dict[str, float] = {}
    real = Queue._pending

    def pending(self: Queue) -> Iterator[Any]:
        for entry in real(self):
            yield type(entry)(entry.path, entry.priority, entered.get(entry.path.name, entry.since))

    put(queue, "urgent-0.jsonl", priority=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Queue, "_pending", pending)
        run(
            queue,
            work,
            once=False,
            ageing=10.0,
            clock=lambda: now[0],
            stop=lambda: "patient.jsonl" in trained or len(trained) > 60,
        )
    assert "patient.jsonl" in trained
    assert 50 < now[0] - started < 100


def test_edge_60_a_file_that_always_fails_is_given_up_after_its_attempts(queue: Path) -> None:
    """With the reason; the others are not held up."""
    put(queue, "bad.jsonl", priority=0)
    put(queue, "good.jsonl")
    work = Recorder("bad.jsonl")
    seen = run(queue, work, attempts=4)
    assert (seen.done, seen.failed, seen.quarantined) == (1, 4, 1)
    assert work.names.count("bad.jsonl") == 4
    (row,) = [row for row in status(queue).rows if row.state == "quarantine"]
    assert row.reason == "failed 4 times; the last reason: the loss was NaN"
    assert run(queue, work) == Summary()


def test_edge_60_each_failure_doubles_the_time_to_the_next_attempt(queue: Path) -> None:
    """10, 20, 40 seconds of the queue's clock, while which other files go on."""
    put(queue, "bad.jsonl")
    now, times = [time.time()], list[float]()

    def work(job: Job) -> None:
        times.append(now[0])
        raise KeyError("instruction")

    def clock() -> float:
        now[0] += 0.5
        return now[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("llmguard_core.queue.jobs.time.time", lambda: now[0])
        run(queue, work, backoff=10.0, attempts=4, clock=clock)
    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert [round(gap / 10) for gap in gaps] == [1, 2, 4]
    (row,) = status(queue).rows
    assert row.reason.endswith("KeyError: 'instruction'")


def test_edge_47_a_clock_that_was_set_back_keeps_nobody_waiting(queue: Path) -> None:
    """A failure of next week is tried again after one back-off; a file of next week is taken now."""
    put(queue, "bad.jsonl")
    work = Recorder("bad.jsonl")
    later = time.time() + 7 * 86400
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
    os.utime(put(queue, "future.jsonl"), (later, later))
    work.failing.clear()
    began = time.monotonic()
    assert run(queue, work, backoff=0.0).done == 2
    assert time.monotonic() - began < 30


def test_edge_47_what_was_put_there_in_the_future_keeps_its_priority(queue: Path) -> None:
    """An urgent file from before the clock was set back by a week has not waited less than none."""
    urgent = queue / "waiting" / f"0-{int(time.time() + 7 * 86400) * 1000}-00000000"
    urgent.mkdir()
    (urgent / "input.jsonl").write_bytes(b"urgent")
    put(queue, "usual.jsonl")
    work = Recorder()
    run(queue, work)
    assert [content for _, content in work.seen] == [b"urgent", b"usual.jsonl"]


def test_edge_48_a_second_daemon_is_refused_by_name(queue: Path) -> None:
    """Pid and time of the first; also for a retry, which moves the same folders."""
    with locked(queue / LOCK):
        for second in (lambda: run(queue, Recorder()), lambda: retry(queue)):
            with pytest.raises(QueueError, match=rf"held by process {os.getpid()} on .* since 20\d\d-"):
                second()
        assert status(queue).daemon is not None
    assert run(queue, Recorder()) == Summary()
    assert status(queue).daemon is None


def test_edge_50_a_locked_file_is_waited_for_then_its_holder_is_named(
    queue: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer that holds a lock on the file."""
    import fcntl

    monkeypatch.setattr("llmguard_core.queue.work.LOCK_WAIT", 0.3)
    with put(queue, "a.jsonl").open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        run(queue, Recorder(), attempts=1)
    (row,) = status(queue).rows
    assert row.state == "quarantine"
    assert f"locked by process {os.getpid()} (" in row.reason
    assert retry(queue) == 1
    assert run(queue, Recorder()).done == 1


def test_edge_49_children_that_nobody_waited_for_are_reaped(queue: Path) -> None:
    """Work that forks and forgets."""
    put(queue, "a.jsonl")
    pids: list[int] = []

    def work(job: Job) -> None:
        import subprocess

        child = subprocess.Popen(["true"])
        pids.append(child.pid)
        forgotten.append(child)
        while Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
            time.sleep(0.01)

    forgotten: list[Any] = []
    run(queue, work)
    assert not Path(f"/proc/{pids[0]}").exists()
    forgotten[0].wait()


def test_edge_46_a_queue_that_may_not_be_written_is_told(tmp_path: Path) -> None:
    """Where a file has the folder's place, also root cannot make it."""
    (tmp_path / "queue").write_text("no folder")
    with pytest.raises(QueueError, match=r"cannot be worked on: .* \(errno \d+, E[A-Z]+\)"):
        run(tmp_path / "queue", Recorder())


def test_the_table_and_the_json_tell_the_same(queue: Path) -> None:
    """Every file with its state, its reason, and the daemon."""
    put(queue, "good.jsonl")
    put(queue, "bad.jsonl")
    run(queue, Recorder("bad.jsonl"))
    put(queue, "new.jsonl", priority=2)
    told = status(queue)
    rows = {row["name"]: (row["state"], row["priority"], row["failures"]) for row in told.to_json()["files"]}
    assert rows == {
        "good.jsonl": ("done", 5, 0),
        "bad.jsonl": ("quarantine", 5, 3),
        "new.jsonl": ("pending", 2, 0),
    }
    text = _printed(told)
    for word in ("good.jsonl", "quarantine", "the loss was NaN", "no daemon"):
        assert word in text
