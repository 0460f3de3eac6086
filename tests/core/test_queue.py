"""A queue of training files in a folder: each file once, the urgent first, nothing lost, whatever is done to its folders."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from support.queues import Recorder, names, printed, put, run

from llmguard_core.queue import Summary, retry, status
from llmguard_core.queue.jobs import Queue


@pytest.fixture
def queue(tmp_path: Path) -> Path:
    Queue(tmp_path / "queue").make()
    return tmp_path / "queue"


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
    text = printed(told)
    for word in ("good.jsonl", "quarantine", "the loss was NaN", "no daemon"):
        assert word in text
