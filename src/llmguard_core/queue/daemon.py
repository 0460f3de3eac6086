"""The daemon: one at a time, the most urgent file first, again after a failure, never twice after a success."""

from __future__ import annotations

import errno
import logging
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from llmguard.locks import Held, locked
from llmguard_core.errors import QueueError
from llmguard_core.queue.jobs import Entry, Failed, Interrupted, Job, Queue, Work
from llmguard_core.queue.work import end_session, reap, wait_for_lock

__all__ = ["LOCK", "Summary", "retry", "run_queue"]

LOCK = ".daemon.lock"
SLICE = 0.1  # seconds between two looks at whether to stop
log = logging.getLogger(__name__)


@dataclass
class Summary:
    """What one run of the daemon did."""

    done: int = 0
    failed: int = 0
    quarantined: int = 0
    duplicates: int = 0
    interrupted: int = 0


@dataclass
class Rules:
    """How often, after how long, how soon; durations in seconds."""

    attempts: int
    backoff: float
    ageing: float
    settle: float
    clock: Callable[[], float]


class _Stop:
    """Whether to end: set by SIGTERM and SIGINT, looked at ten times a second (an Event could deadlock in a handler)."""

    def __init__(self, more: Callable[[], bool]) -> None:
        self.asked, self.more = False, more

    def __call__(self) -> bool:
        return self.asked or self.more()

    def note(self, *_: Any) -> None:
        """The signal handler."""
        self.asked = True

    def wait(self, seconds: float) -> None:
        """Sleep, but no longer than until somebody asks to stop."""
        until = time.monotonic() + seconds
        while not self() and (left := until - time.monotonic()) > 0:
            time.sleep(min(SLICE, left))


def run_queue(
    folder: Path | str,
    work: Work,
    *,
    attempts: int = 3,
    backoff: float = 60.0,
    poll: float = 5.0,
    ageing: float = 3600.0,
    once: bool = False,
    settle: float = 1.0,
    stop: Callable[[], bool] = lambda: False,
    clock: Callable[[], float] = time.time,
) -> Summary:
    """Do `work` on each file of the queue, until SIGTERM, SIGINT or `stop()`; with `once` until nothing waits any more.

    A file that fails is tried again after `backoff` seconds, then twice that, four times …, and goes to quarantine after `attempts`
    failures. Each `ageing` seconds of waiting count as one step of priority, so that a file of priority 9 waits at most 9 x `ageing`
    behind newer ones of 0. A file is claimed once it has not changed for `settle` seconds.

    Raises:
        QueueError: another daemon works here (its pid and since when), or the folder cannot be written.
    """
    queue, rules, summary = Queue(Path(folder)), Rules(attempts, backoff, ageing, settle, clock), Summary()
    with _alone(queue), _signals(_Stop(stop)) as ending:
        _recover(queue)
        while not ending():
            _name_strangers(queue)
            job, soonest = _next(queue, rules)
            if job is not None:
                job.stopping = ending
                _attempt(queue, job, work, rules, summary)
            elif once and soonest is None:
                break
            else:
                ending.wait(min(poll, soonest if soonest is not None else poll))
    return summary


def retry(folder: Path | str) -> int:
    """Let every job that failed or is in quarantine be tried anew, at once; gives how many, and says so when there are none.

    Raises:
        QueueError: a daemon works here now: it moves the same folders.
    """
    queue = Queue(Path(folder))
    with _alone(queue):
        failed = [job for job in queue.jobs("waiting") if job.failures] + queue.jobs("quarantine")
        for job in failed:
            (job.folder / "reason.txt").unlink(missing_ok=True)
            job.note("forgiven", new=True)
            queue.move(job, "waiting")
    log.info("%s: %s", folder, f"{len(failed)} jobs will be tried again" if failed else "nothing has failed")
    return len(failed)


@contextmanager
def _alone(queue: Queue) -> Iterator[None]:
    try:
        queue.make()
        with locked(queue.folder / LOCK, wait=0.5):
            yield
    except Held as held:
        raise QueueError(
            f"another daemon works on this queue: {held}. Two of them would train the same file twice.",
            where=str(queue.folder),
            remedy="Stop it first (SIGTERM lets it save and put its file back), or name another folder.",
        ) from None
    except OSError as bad:
        raise QueueError(
            f"cannot be worked on: {bad.strerror} (errno {bad.errno}, {errno.errorcode.get(bad.errno or 0, '?')})",
            where=str(bad.filename or queue.folder),
            remedy="Give this user the right to write there, or free space.",
        ) from bad


@contextmanager
def _signals(stop: _Stop) -> Iterator[_Stop]:
    main = threading.current_thread() is threading.main_thread()
    before = {n: signal.signal(n, stop.note) for n in (signal.SIGTERM, signal.SIGINT)} if main else {}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _recover(queue: Queue) -> None:
    """What a daemon that was killed has left in `running/`: its process ended, its job back among those that wait."""
    for job in queue.jobs("running"):
        last = job.attempts[-1] if job.attempts else {}
        if (
            not last and not job.file.is_symlink() and not job.file.exists()
        ):  # killed while it claimed: the file is in pending/ still
            shutil.rmtree(job.folder)
            continue
        if last.get("outcome") == "done":
            queue.move(job, "done")
            continue
        if last.get("outcome") == "running":
            end_session(last.get("pid"), last.get("started"))
            job.note("failed", "the daemon was killed in this attempt")
        log.warning("%r was left in running/ by a daemon that was killed; it waits again", job.name)
        queue.move(job, "waiting")


def _next(queue: Queue, rules: Rules) -> tuple[Job | None, float | None]:
    """The most urgent job, claimed; else in how many seconds there may be one (None: nothing waits)."""
    now, soonest = rules.clock(), list[float]()
    ready: list[tuple[float, float, Entry | Job]] = []
    waiting: list[Entry | Job] = [*queue.entries(), *queue.jobs("waiting")]
    for each in waiting:
        due = _due_in(each, now, rules)
        if due > 0:
            soonest.append(due)
        else:
            waited = max(now - each.since, 0.0)  # a clock that was set back makes nobody wait longer
            ready.append((each.priority - waited / rules.ageing, each.since, each))
    for _, _, chosen in sorted(ready, key=lambda item: item[:2]):
        if isinstance(chosen, Job):
            queue.move(chosen, "running")
            return chosen, None
        job = queue.claim(chosen)
        if job:
            return job, None
    return None, 0.0 if ready else min(soonest, default=None)


def _due_in(each: Entry | Job, now: float, rules: Rules) -> float:
    """Seconds until it may be tried; a time in the future (a clock set back) counts as now."""
    if isinstance(each, Entry):
        try:
            changed = each.path.lstat().st_mtime
        except OSError:
            return 0.0
        return rules.settle - (now - changed) if changed <= now else 0.0
    last = each.attempts[-1] if each.attempts else {}
    if last.get("outcome") != "failed":
        return 0.0
    at = last.get("at")
    passed = max(now - at, 0.0) if isinstance(at, (int, float)) else rules.backoff
    return float(rules.backoff * 2 ** max(each.failures - 1, 0) - passed)


def _attempt(queue: Queue, job: Job, work: Work, rules: Rules, summary: Summary) -> None:
    """One attempt, and where it leads."""
    before, name = {c.pid for c in psutil.Process().children()}, job.name
    job.note("running", new=True)
    try:
        digest = job.digest()
        twin = queue.trained_before(digest)
        if twin is None:
            wait_for_lock(job)
            work(job)
        queue.keep(job, name)
        job.note(
            "done", f"the same content as {twin.name!r} ({twin.folder.name})" if twin else "", sha256=digest
        )
        queue.move(job, "done")
        summary.duplicates += twin is not None
        summary.done += twin is None
        log.info("%r: done%s", name, f": its content was trained before, as {twin.name!r}" if twin else "")
    except Interrupted as ended:
        queue.keep(job, name)
        job.note("interrupted", str(ended))
        queue.move(job, "waiting")
        summary.interrupted += 1
    except Exception as failed:
        queue.keep(job, name)
        _failed(queue, job, failed, rules, summary)
    finally:
        reap(before)
        _release()


def _failed(queue: Queue, job: Job, failed: Exception, rules: Rules, summary: Summary) -> None:
    reason = str(failed) if isinstance(failed, Failed) else f"{type(failed).__name__}: {failed}"
    job.note("failed", reason)
    summary.failed += 1
    gone = not job.file.exists()
    if gone or job.failures >= rules.attempts:
        summary.quarantined += 1
        more = "its file is gone" if gone else f"failed {job.failures} times"
        queue.quarantine(job, f"{more}; the last reason: {reason}")
    else:
        log.warning("%r: attempt %d of %d failed: %s", job.name, job.failures, rules.attempts, reason)
        queue.move(job, "waiting")


def _name_strangers(queue: Queue) -> None:
    for path in queue.strangers():
        if path not in queue.told:
            queue.told.add(path)
            log.warning("%r is no .jsonl, .json or .parquet file: left alone", str(path))


def _release() -> None:
    """After work in this very process: nothing of it may stay for the next file. Work in a child has ended with it."""
    if "torch" in sys.modules:
        from llmguard_core.memory import release

        release()
