"""A job is a folder: its file, its original name, its attempts. Where the folder lies is the state; nothing else is kept."""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmguard_core.checkpoints.folder import flush, hashed, write_file

__all__ = ["STATES", "Entry", "Failed", "Interrupted", "Job", "Queue", "Work"]

STATES = ("running", "waiting", "done", "quarantine")
SUFFIXES = (".jsonl", ".json", ".parquet")
NAME = re.compile(r"(\d)-(\d+)-[0-9a-f]{8}")
USUAL = 5
log = logging.getLogger(__name__)


class Failed(Exception):
    """An attempt failed; the message is the reason."""


class Interrupted(Exception):
    """An attempt was told to end before it was done: not counted as one that failed."""


@dataclass(frozen=True)
class Entry:
    """A file in `pending/`, and since when (Unix seconds: when it was put there, not when it was written)."""

    path: Path
    priority: int
    since: float


@dataclass
class Job:
    """One claimed file. All that is read here comes from the folder, so that a daemon that starts anew knows as much."""

    folder: Path
    stopping: Callable[[], bool] = field(default=lambda: False)

    @property
    def priority(self) -> int:
        """0 is first, 9 is last."""
        return int(self.folder.name[0])

    @property
    def since(self) -> float:
        """When it was put into the queue, Unix seconds."""
        return int(self.folder.name.split("-")[1]) / 1000

    @property
    def name(self) -> str:
        """The original file name; bytes that are no UTF-8 as surrogates, as Python names files."""
        try:
            return os.fsdecode((self.folder / "name").read_bytes()) or self.folder.name
        except OSError:
            return self.folder.name

    @property
    def file(self) -> Path:
        """The file to train on, under a plain name with its own suffix: what its author called it cannot break a command."""
        return next(iter(sorted(self.folder.glob("input.*"))), self.folder / "input.jsonl")

    @property
    def attempts(self) -> list[dict[str, Any]]:
        """What became of each attempt: {"outcome", "reason", "at" (Unix seconds), …}; one that cannot be read counts as failed."""
        return [_record(p) for p in sorted(self.folder.glob("attempt-*.json"), key=_number)]

    @property
    def failures(self) -> int:
        """Attempts that count, since the last time somebody asked to try again."""
        outcomes = [each["outcome"] for each in self.attempts]
        since = len(outcomes) - outcomes[::-1].index("forgiven") if "forgiven" in outcomes else 0
        return outcomes[since:].count("failed")

    @property
    def log(self) -> Path:
        """Where the attempt that runs now, or ran last, writes."""
        return self.folder / f"attempt-{max(len(self.attempts), 1)}.log"

    def note(self, outcome: str, reason: str = "", *, new: bool = False, **more: Any) -> None:
        """Write what became of the last attempt (`new`: of one that begins), flushed."""
        number = len(self.attempts) + new
        record = {"outcome": outcome, "reason": reason, "at": time.time(), **more}
        write_file(self.folder / f"attempt-{number}.json", json.dumps(record).encode())

    def digest(self) -> str:
        """SHA-256 of the file.

        Raises:
            Failed: it cannot be read, or is not there any more.
        """
        try:
            return str(hashed(self.file)["sha256"])
        except OSError as bad:
            raise Failed(f"{self.name}: cannot be read: {bad.strerror} (errno {bad.errno})") from None


Work = Callable[[Job], object]
"""Trains on `job.file`. Raises Failed (or anything) when it failed, Interrupted when `job.stopping()` made it end."""


class Queue:
    """The folders, and the moves between them: each a rename, so that a job is always in one place, whatever happens."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.told: set[Path] = set()

    def make(self) -> None:
        """Make the folders where they are missing."""
        for name in ("pending", *STATES):
            (self.folder / name).mkdir(parents=True, exist_ok=True)

    def jobs(self, state: str) -> list[Job]:
        """The jobs in one state, oldest first; folders of other names are nobody's business."""
        place = self.folder / state
        found = [p for p in place.iterdir() if NAME.fullmatch(p.name)] if place.is_dir() else []
        return sorted((Job(p) for p in found), key=lambda job: job.since)

    def entries(self) -> list[Entry]:
        """The files that wait to be claimed."""
        return [e for e in self._pending() if _suffix(e.path)]

    def strangers(self) -> list[Path]:
        """What lies in `pending/` and is no training file by its name: left alone."""
        return [e.path for e in self._pending() if not _suffix(e.path)]

    def _pending(self) -> Iterator[Entry]:
        root = self.folder / "pending"
        for place, priority in [(root, USUAL), *((root / str(n), n) for n in range(10))]:
            if place != root and place.is_symlink():
                continue
            try:
                found = sorted(os.scandir(place), key=lambda each: each.name)
            except OSError:
                continue
            for each in found:
                folder_of_priority = (
                    place == root and re.fullmatch(r"\d", each.name) and each.is_dir(follow_symlinks=False)
                )
                if each.name.startswith(".") or folder_of_priority:
                    continue
                try:
                    since = each.stat(follow_symlinks=False).st_ctime
                except OSError:  # taken away since the folder was listed
                    continue
                yield Entry(Path(each.path), priority, since)

    def claim(self, entry: Entry) -> Job | None:
        """Make a job of a file, by rename; None where it has gone, or was no file and went to quarantine."""
        name = f"{entry.priority}-{int(entry.since * 1000)}-{secrets.token_hex(4)}"
        job = Job(self.folder / "running" / name)
        job.folder.mkdir()
        (job.folder / "name").write_bytes(os.fsencode(entry.path.name))
        target = job.folder / f"input{_suffix(entry.path)}"
        try:
            wrong = _not_a_file(entry.path)
            if entry.path.is_symlink() and not wrong:
                target.symlink_to(entry.path.resolve())  # a relative link would lead elsewhere from here
                entry.path.unlink()
            else:
                entry.path.rename(target)
        except FileNotFoundError:
            log.warning("%s: was deleted while it waited", entry.path)
            shutil.rmtree(job.folder, ignore_errors=True)
            return None
        for place in (job.folder, job.folder.parent):
            flush(place)
        if wrong:
            self.quarantine(job, wrong)
            return None
        return job

    def move(self, job: Job, state: str) -> None:
        """Give a job another state."""
        target = self.folder / state / job.folder.name
        job.folder.rename(target)
        flush(target.parent)
        job.folder = target

    def keep(self, job: Job, name: str) -> None:
        """Make a job's folder again if somebody took it away: its result is recorded all the same, under its name."""
        if not job.folder.is_dir():
            log.warning("%r: its folder was taken away while it ran", name)
            job.folder.mkdir()
            (job.folder / "name").write_bytes(os.fsencode(name))

    def quarantine(self, job: Job, reason: str) -> None:
        """Give up on a job."""
        (job.folder / "reason.txt").write_text(reason + "\n", "utf-8", errors="backslashreplace")
        self.move(job, "quarantine")
        log.error("%r goes to quarantine: %s", job.name, reason)

    def trained_before(self, digest: str) -> Job | None:
        """The job that is done with the very same content."""
        for job in self.jobs("done"):
            if any(each.get("sha256") == digest for each in job.attempts) or _same(job, digest):
                return job
        return None


def _same(job: Job, digest: str) -> bool:
    """For a job whose records cannot be read: its file itself."""
    if any(each.get("sha256") for each in job.attempts):
        return False
    try:
        return job.digest() == digest
    except Failed:
        return False


def _suffix(path: Path) -> str:
    return path.suffix.lower() if path.suffix.lower() in SUFFIXES else ""


def _not_a_file(path: Path) -> str:
    """Why there is nothing to train on; empty where there is a file.

    Raises:
        FileNotFoundError: the entry itself has gone.
    """
    path.lstat()
    try:
        return "" if path.is_file() or not path.stat() else "is no file"
    except FileNotFoundError:
        return f"is a link to {os.readlink(path)!r}, which is not there"  # noqa: PTH115  # the text as it stands in the link
    except OSError as bad:
        if bad.errno == errno.ELOOP:
            return "is a link that leads back to itself"
        return f"cannot be looked at: {bad.strerror} (errno {bad.errno})"


def _number(path: Path) -> int:
    digits = re.sub(r"\D", "", path.stem)
    return int(digits) if digits else 0


def _record(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        found = None
    whole = isinstance(found, dict) and isinstance(found.get("outcome"), str)
    return found if whole else {"outcome": "failed", "reason": "its record cannot be read"}
