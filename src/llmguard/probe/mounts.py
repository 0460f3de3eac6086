"""Paths that lie on a file system which may wait for something outside of this machine, or are a pipe, and whether they answer.

Which file system a path lies on is read from the kernel's table and from links on local disks, so that nothing is touched that
could hang; only then is the path itself asked, in a probe.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from llmguard.probe.launch import Probe, start
from llmguard.probe.result import ProbeResult, Verdict
from llmguard.probe.scratch import is_remote, mount_of, mountinfo

__all__ = ["HANGS", "PIPE", "Named", "Silent", "silent_among", "where_it_lies"]

HANGS = frozenset({Verdict.HUNG, Verdict.HUNG_FS, Verdict.UNKILLABLE, Verdict.PROGRESSING_SLOW})
"""Verdicts that say that a file system does not answer in time; a probe that broke for another reason says nothing about it."""
PIPE = "named pipe"
"""In the place of a file system's type, for a path that is a pipe: whoever opens it waits for somebody who writes."""
LINKS = 40
"""Links that the kernel follows at most in one path."""
_ASK = """
import json, os, stat, sys
from llmguard.probe.child import step
for path in json.loads(sys.argv[1]):
    step(f"asking for {path}")
    try:
        if os.path.isdir(path):
            next(os.scandir(path), None)
        else:
            with open(path, "rb") as file:
                if not stat.S_ISFIFO(os.fstat(file.fileno()).st_mode):  # what is read from a pipe is gone
                    file.read(1)
    except OSError:
        continue  # an answer too: what is missing or forbidden is the business of other checks
report("answered")
"""


@dataclass(frozen=True)
class Named:
    """A path that the project file names, and the key that names it."""

    key: str
    path: str


@dataclass(frozen=True)
class Silent:
    """Named paths whose file system does not answer: its mount point, type and source; or a pipe (of type PIPE, without source)."""

    named: tuple[Named, ...]
    point: str
    kind: str
    source: str
    result: ProbeResult

    @property
    def name(self) -> str:
        """Mount point, type and source in words."""
        return f"{self.point} ({self.kind}{f' from {self.source}' if self.source else ''})"


def silent_among(named: Iterable[Named], seconds: float, mounts: str | None = None) -> tuple[Silent, ...]:
    """The file systems that do not answer within `seconds`, of all that the named paths lie on; one probe for each.

    `mounts` is the text of /proc/self/mountinfo. Paths on local disks cost a look at that table and no probe.
    """
    mounts = mountinfo() if mounts is None else mounts
    beyond: dict[tuple[str, str, str], list[Named]] = {}
    for one in named:
        mount = where_it_lies(one.path, mounts)
        if is_remote(mount[1]):
            beyond.setdefault(mount, []).append(one)
        elif _is_pipe(one.path):
            beyond.setdefault((one.path, PIPE, ""), []).append(one)
    running = [(mount, held, _ask(held, mount[0], seconds)) for mount, held in beyond.items()]
    ended = [(mount, held, probe.wait()) for mount, held, probe in running]
    return tuple(
        Silent(tuple(held), *mount, result) for mount, held, result in ended if result.verdict in HANGS
    )


def _ask(named: Sequence[Named], point: str, seconds: float) -> Probe:
    paths = json.dumps([one.path for one in named])
    return start(_ASK, [paths], timeout=seconds, no_progress=seconds, kill_grace=0, what=f"a look at {point}")


def where_it_lies(path: str, mounts: str | None = None) -> tuple[str, str, str]:
    """Mount point, type and source of the file system that a path leads to; links are followed as long as they are local.

    `path` is absolute. ("", "", "") where the system does not say.
    """
    parts, at, followed = list(Path(path).parts), Path("/"), 0
    while parts:
        part = parts.pop(0)
        at = at.parent if part == ".." else at / part
        mount = mount_of(str(at), mounts)
        if is_remote(mount[1]):
            return mount
        link = _link(at)
        if link and followed < LINKS:
            followed += 1
            parts, at = (
                [*link.parts, *parts],
                at.parent,
            )  # an absolute link begins with "/", which replaces what it is joined to
    return mount_of(str(at), mounts)


def _is_pipe(path: str) -> bool:
    """Whether a path on a local disk is a pipe with a name."""
    try:
        return stat.S_ISFIFO(Path(path).stat().st_mode)
    except (OSError, ValueError):
        return False


def _link(path: Path) -> Path | None:
    try:
        return path.readlink()
    except OSError:
        return None
