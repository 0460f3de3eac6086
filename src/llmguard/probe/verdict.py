"""From what was seen to a verdict: exact where the evidence is, `hung` or `unknown` where it is not."""

from __future__ import annotations

import errno
import os
import signal
from dataclasses import dataclass

from llmguard.probe import waits
from llmguard.probe.result import Failure, Observed, Survivor, Thread, Verdict

__all__ = ["Case", "deciding", "hung_file", "judge", "out_of_resources"]

_RESOURCE_ERRNOS = {errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_RESOURCE_TEXTS = (
    "can't start new thread",
    "cannot allocate memory",
    "failed to map segment",
    "too many open files",
)
_BY_END = {
    "cancel": Verdict.CANCELLED, "orphaned": Verdict.CANCELLED, "exec": Verdict.INTERPRETER_UNREACHABLE,
    "memory": Verdict.RESOURCE, "processes": Verdict.RESOURCE,
}  # fmt: skip
_SHORTEST_SILENCE, _SILENT_SHARE = 0.3, 0.25
"""A deadline finds a probe hung when it has been silent for this share of its patience; else it was slow."""
_BUSY_SHARE, _CROWDED_SHARE, _POLLS_A_SECOND, _FEW_SWITCHES = 0.5, 0.05, 1.0, 2


@dataclass(frozen=True)
class Case:
    """What a verdict is made of. `patience`: the shorter of no-progress window and deadline, seconds."""

    seen: Observed
    python: bool
    finished: bool
    failure: Failure | None
    output: str
    survivors: tuple[Survivor, ...]
    patience: float


def judge(case: Case) -> Verdict:
    """The verdict."""
    verdict = _judge(case)
    # a process that hangs in a file system and cannot be killed for it is told by its cause
    told_by_cause = verdict in (Verdict.HUNG_FS, Verdict.INTERPRETER_UNREACHABLE)
    return Verdict.UNKILLABLE if case.survivors and not told_by_cause else verdict


def _judge(case: Case) -> Verdict:
    seen = case.seen
    cut_off = seen.ended in ("no_progress", "deadline")
    if seen.ended in _BY_END:
        return _BY_END[seen.ended]
    if cut_off and not seen.executed:
        return Verdict.INTERPRETER_UNREACHABLE
    if seen.ended == "exit" and seen.status is not None:
        return _ended(case, seen.status)
    return _still_running(seen, case.patience) if cut_off else Verdict.UNKNOWN


def _ended(case: Case, status: int) -> Verdict:
    if os.WIFSIGNALED(status):
        return _killed(os.WTERMSIG(status), case.seen.oom_kills, case.output)
    if case.failure is not None:
        if out_of_resources(case.failure):
            return Verdict.RESOURCE
        return Verdict.IMPORT_ERROR if "ImportError" in case.failure.kinds else Verdict.CRASHED
    clean = os.WEXITSTATUS(status) == 0
    return Verdict.OK if clean and (case.finished or not case.python) else Verdict.EXITED_EARLY


def _killed(number: int, oom_kills: int, output: str) -> Verdict:
    if number in (signal.SIGXFSZ, signal.SIGXCPU) or (number == signal.SIGKILL and oom_kills):
        return Verdict.RESOURCE
    if number == signal.SIGABRT and ("bad_alloc" in output or "cannot allocate memory" in output.lower()):
        return Verdict.RESOURCE
    return Verdict.CRASHED


def out_of_resources(failure: Failure) -> bool:
    """Whether an exception says that a limit of the machine or of the probe was hit."""
    text = failure.message.lower()
    return (
        "MemoryError" in failure.kinds
        or failure.errno in _RESOURCE_ERRNOS
        or any(known in text for known in _RESOURCE_TEXTS)
    )


def _still_running(seen: Observed, patience: float) -> Verdict:
    window = seen.window
    if seen.ended == "deadline" and window.seconds < max(_SHORTEST_SILENCE, _SILENT_SHARE * patience):
        return Verdict.TIMEOUT if window.last_progress == "computing" else Verdict.PROGRESSING_SLOW
    if _mostly(seen, "T", "t"):
        return Verdict.STOPPED
    # on a busy machine a loop gets less than it wants, but it wants all the time
    share = _CROWDED_SHARE if _mostly(seen, "R") else _BUSY_SHARE
    return Verdict.SPIN if window.cpu_seconds >= share * window.seconds else _waiting(seen)


def _mostly(seen: Observed, *states: str) -> bool:
    places = seen.window.places
    return sum(n for place, n in places.items() if place[:1] in states) * 2 > sum(places.values())


def _in_files(state: str, wchan: str) -> bool:
    return state == "D" or waits.family(wchan) == waits.FILES


def _mostly_in_files(seen: Observed) -> bool:
    """One look is not enough: whoever writes much is now and then made to wait for the disk."""
    places = seen.window.places
    return sum(n for place, n in places.items() if _in_files(place[:1], place[2:])) * 2 > sum(places.values())


def _waiting(seen: Observed) -> Verdict:
    """What the main thread waits for; where that is a child process, what that one waits for."""
    window, threads = seen.window, deciding(seen.threads)
    kinds = {waits.family(thread.wchan) for thread in threads}
    first = threads[0] if threads else None
    if (
        first
        and _in_files(first.state, first.wchan)
        and (first.pid != seen.threads[0].pid or _mostly_in_files(seen))
    ):
        return Verdict.HUNG_FS
    if first and waits.family(first.wchan) == waits.LOCK:
        return Verdict.LOCK_POLL
    if seen.locks and window.switches >= _POLLS_A_SECOND * window.seconds:
        return Verdict.LOCK_POLL
    if kinds == {waits.FUTEX} and window.switches <= _FEW_SWITCHES:
        return Verdict.DEADLOCK
    return Verdict.HUNG


def deciding(threads: tuple[Thread, ...]) -> tuple[Thread, ...]:
    """The threads that decide: those of the main process, or of the child process that its main thread waits
    for."""
    if not threads:
        return ()
    own = tuple(thread for thread in threads if thread.pid == threads[0].pid)
    others = tuple(thread for thread in threads if thread.pid != threads[0].pid)
    waits_for_child = waits.family(own[0].wchan) == waits.CHILD
    return deciding(others) if waits_for_child and others else own


def hung_file(seen: Observed, survivors: tuple[Survivor, ...] = ()) -> tuple[str, str]:
    """The call and the file that a hung probe waits for, "" where unknown."""
    waiting: list[Thread | Survivor] = [*deciding(seen.threads), *survivors]
    return next(((one.call, one.file) for one in waiting if one.file), ("", ""))
