"""What waits, runs, is done and given up: read from the folders, with or without a daemon."""

from __future__ import annotations

import contextlib
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmguard.locks import holder
from llmguard_core.queue.daemon import LOCK
from llmguard_core.queue.jobs import STATES, Job, Queue

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["QueueStatus", "Row", "status"]


@dataclass(frozen=True)
class Row:
    """One file of the queue; `waited` in seconds."""

    state: str
    name: str
    job: str
    priority: int
    waited: float
    failures: int
    reason: str


@dataclass(frozen=True)
class QueueStatus:
    """A queue at one moment: the daemon (pid, since), every file, and what was left alone."""

    folder: str
    daemon: dict[str, Any] | None
    rows: tuple[Row, ...]
    left_alone: tuple[str, ...]

    def counts(self) -> dict[str, int]:
        """How many files are in each state."""
        return {s: sum(row.state == s for row in self.rows) for s in ("pending", *STATES)}

    def to_json(self) -> dict[str, Any]:
        """All of it, JSON-safe: names that are no UTF-8 with backslashes."""
        rows = [{**asdict(row), "name": _shown(row.name)} for row in self.rows]
        left = [_shown(each) for each in self.left_alone]
        return {
            "folder": _shown(self.folder),
            "daemon": self.daemon,
            "counts": self.counts(),
            "files": rows,
            "left_alone": left,
        }

    def table(self) -> Table:
        """All of it for a terminal."""
        from rich.table import Table
        from rich.text import Text

        told = (
            f"daemon: process {self.daemon.get('pid')} since {self.daemon.get('since')}"
            if self.daemon
            else "no daemon"
        )
        made = Table(
            "state",
            "file",
            "priority",
            "waited",
            "failures",
            "reason",
            title=_shown(self.folder),
            caption=told,
        )
        for row in self.rows:
            cells = (
                row.state,
                _shown(row.name),
                str(row.priority),
                f"{row.waited:,.0f} s",
                str(row.failures),
                row.reason,
            )
            made.add_row(*map(Text, cells))  # names may hold what rich takes for markup
        return made


def status(folder: Path | str) -> QueueStatus:
    """The state of a queue; changes nothing, and works beside a running daemon."""
    queue, now = Queue(Path(folder)), time.time()
    rows = [
        Row("pending", e.path.name, "", e.priority, max(now - e.since, 0.0), 0, "") for e in queue.entries()
    ]
    rows += [_row(state, job, now) for state in STATES for job in queue.jobs(state)]
    left = tuple(str(p) for p in queue.strangers())
    return QueueStatus(str(folder), holder(queue.folder / LOCK), tuple(rows), left)


def _row(state: str, job: Job, now: float) -> Row:
    attempts = job.attempts
    reason = str(attempts[-1].get("reason", "")) if attempts else ""
    with contextlib.suppress(OSError):
        reason = (job.folder / "reason.txt").read_text("utf-8", "replace").strip()
    return Row(
        state, job.name, job.folder.name, job.priority, max(now - job.since, 0.0), job.failures, reason
    )


def _shown(name: str) -> str:
    """A name on one line that any terminal and any JSON takes."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in name
    )
