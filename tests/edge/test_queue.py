"""Edge cases 51 to 60: whatever happens to files that wait in a queue or are worked on, none is lost and none is trained twice."""

from __future__ import annotations

import itertools
import json
import logging
import os
import shlex
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.queues import Recorder, names, printed, put, run

from llmguard_core.queue import Job, Summary, retry, status
from llmguard_core.queue.daemon import LOCK
from llmguard_core.queue.jobs import SUFFIXES, Queue

pytestmark = pytest.mark.usefixtures("frozen")  # garbage is collected after each file


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> None:
    """Nothing here needs torch in this process."""


@pytest.fixture
def queue(tmp_path: Path) -> Path:
    Queue(tmp_path / "queue").make()
    return tmp_path / "queue"


def test_edge_51_a_file_deleted_while_it_waits_is_passed_by(
    queue: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes between the look and the claim; the next one is trained."""
    doomed = put(queue, "a.jsonl")
    put(queue, "b.jsonl")
    real, gone = Queue.claim, list[Path]()

    def claim(self: Queue, entry: Any) -> Any:
        if entry.path == doomed:
            doomed.unlink()
            with pytest.raises(FileNotFoundError):
                entry.path.open("rb")
            gone.append(entry.path)
        return real(self, entry)

    monkeypatch.setattr(Queue, "claim", claim)
    work = Recorder()
    assert run(queue, work).done == 1
    assert gone == [doomed], "the file was claimed before it could be deleted"
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
            assert not job.file.exists(), "the file was not moved"
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
    assert [e.path.name for e in Queue(queue).entries()] == names(queue, "done"), "the names are not the same"
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


def is_split(name: str) -> bool:
    """A shell that is given the name as it stands sees other words."""
    try:
        return shlex.split(name) != [name]
    except ValueError:  # an open quote
        return True


def is_no_text(name: str) -> bool:
    """It cannot be printed or written as UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return True
    return False


def is_markup(name: str) -> bool:
    """A terminal that knows colours swallows a part of it."""
    from rich.markup import render

    return render(name).plain != name


NAMES: dict[bytes, Callable[[str], bool]] = {
    b"two words.jsonl": is_split,
    b"quote ' and \".jsonl": is_split,
    b"new\nline.jsonl": is_split,
    b"latin \xe9 \xff.jsonl": is_no_text,
    b"--flag.jsonl": lambda name: name.startswith("-"),
    b"$(touch x).jsonl": is_split,
    b"[red]x.jsonl": is_markup,
}
"""Names, and what goes wrong with each where it is taken for more than a name."""


@pytest.mark.parametrize("name", NAMES)
def test_edge_55_a_name_is_only_a_name(queue: Path, name: bytes) -> None:
    """Spaces, quotes, line breaks, bytes that are no UTF-8, flags, shell code, markup: trained, recorded, shown."""
    assert NAMES[name](os.fsdecode(name)), "there is nothing wrong with this name"
    put(queue, name, b"rows")
    work = Recorder()
    assert run(queue, work).done == 1
    assert [os.fsencode(n) for n in work.names] == [name]
    told = status(queue)
    json.dumps(told.to_json()).encode("utf-8")
    assert "\n" not in told.to_json()["files"][0]["name"]
    printed(told)


def test_edge_56_other_files_are_left_alone_and_named_once(
    queue: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """No extension, another one, a hidden file: not moved, and named a single time however often the folder is looked at."""
    others = [".a.jsonl.swp", ".hidden.jsonl", "README", "notes.txt"]
    for name in others:
        assert put(queue, name).suffix not in SUFFIXES or name.startswith("."), "a training file by its name"
    put(queue, "a.jsonl")
    put(queue, "b.jsonl")
    run(queue, Recorder())
    assert sorted(p.name for p in (queue / "pending").iterdir()) == others
    assert caplog.text.count("notes.txt") == 1
    assert caplog.text.count("README") == 1
    assert [Path(p).name for p in status(queue).left_alone] == ["README", "notes.txt"]


def test_edge_57_a_retry_with_nothing_failed_says_so(
    queue: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Called from Python it gives 0, as a command it exits with 0; both say it."""
    from llmguard_core.__main__ import main

    monkeypatch.setattr(logging.getLogger("llmguard_core"), "level", logging.NOTSET)  # a command sets it
    put(queue, "a.jsonl")
    run(queue, Recorder())
    assert status(queue).counts()["quarantine"] == status(queue).counts()["waiting"] == 0
    with caplog.at_level(logging.INFO):
        assert retry(queue) == 0
    assert "nothing has failed" in caplog.text
    (tmp_path / "run.yaml").write_text(f"model: {{path: {tmp_path}}}\nqueue: {{directory: {queue}}}\n")
    assert main(["queue", "--config", str(tmp_path / "run.yaml"), "--retry"]) == 0
    assert "nothing has failed" in capfd.readouterr().out


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
    spoilt = [path for path in queue.glob(f"*/*/{file}") if path.write_bytes(garbage) == len(garbage)]
    assert spoilt, "no record was there to corrupt"
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
    assert not Queue(queue).entries(), "a daemon that only looked into `pending` would lose all three"
    work = Recorder()
    assert run(queue, work).done == 2
    assert sorted(work.names) == ["begun.jsonl", "claimed.jsonl"]
    assert sorted(names(queue, "done")) == ["begun.jsonl", "claimed.jsonl", "over.jsonl"]
    assert [j.failures for j in Queue(queue).jobs("done") if j.name == "begun.jsonl"] == [1]
    assert not list((queue / "running").iterdir())


def besieged(queue: Path, ageing: float) -> tuple[list[str], float]:
    """Urgent files come without end, each taking 5 s; the order of training, and when the patient one came, in s of the queue's clock."""
    put(queue, "patient.jsonl", priority=9)
    started, now = time.time(), [time.time()]
    trained: list[str] = []
    entered: dict[str, float] = {}
    real = Queue._pending

    def work(job: Job) -> None:
        trained.append(job.name)
        now[0] += 5
        urgent = put(queue, f"urgent-{len(trained)}.jsonl", priority=0)
        entered[urgent.name] = now[0]

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
            ageing=ageing,
            clock=lambda: now[0],
            stop=lambda: "patient.jsonl" in trained or len(trained) > 60,
        )
    return trained, now[0] - started


def test_edge_59_a_file_of_low_priority_waits_a_bounded_time(queue: Path, tmp_path: Path) -> None:
    """With 10 s a step the one of priority 9 waits no more than 90 s; where none ages it would starve."""
    Queue(tmp_path / "other").make()
    assert "patient.jsonl" not in besieged(tmp_path / "other", ageing=1e9)[0], "nothing starves here"
    trained, waited = besieged(queue, ageing=10.0)
    assert "patient.jsonl" in trained
    assert 50 < waited < 100


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
