"""The times of the project's files against this machine's clock."""

from __future__ import annotations

import contextlib
import datetime as dt
import glob
import os
import stat
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING

from llmguard.contract import Yields, check
from llmguard.findings import Finding, Where, warning
from llmguard.probe.mounts import where_it_lies
from llmguard.probe.scratch import is_remote

if TYPE_CHECKING:
    from llmguard.evidence.mounts import Mounts
    from llmguard.probe.environment import Environment

__all__ = ["no_file_is_from_the_future"]

FORGIVEN = 300.0
"""Seconds by which servers of network volumes may be ahead."""
DEPTH = 2
"""Levels of folders: an output folder, a checkpoint in it, its files."""
MOST = 20_000
SHOWN = 5
Times = tuple[str, float]


@check
def no_file_is_from_the_future(mounts: Mounts, environment: Environment) -> Yields:
    """No file that the project names was changed later than now, nor any checkpoint in its output folders.

    Folders are looked into two levels deep, hidden ones left out. Five minutes are forgiven, for servers of network volumes
    have clocks of their own. Cannot see: files that are dated too early, as archives and reproducible builds leave them.
    """
    silent = {one for each in mounts.silent for one in each.named}
    named = [one.path for one in mounts.named if one not in silent]
    outputs = [each.path for each in environment.folders if each.key == "output_dir"]
    local = [path for path in outputs if not is_remote(where_it_lies(path)[1])]
    found = dict(islice(_times([*named, *local]), MOST))
    now = environment.now()
    ahead = sorted(
        ((when - now, path) for path, when in found.items() if when - now > FORGIVEN), reverse=True
    )
    if ahead:
        yield _ahead(ahead, len(found), now)
    return len(found)


def _times(paths: Iterable[str]) -> Iterator[Times]:
    """Files and when they were changed, by their real path; what is not there or may not be read is left out."""
    for path in paths:
        for each in glob.glob(path, recursive=True) if glob.has_magic(path) else [path]:  # noqa: PTH207  # absolute patterns
            yield from _below(each, DEPTH)


def _below(path: str, depth: int) -> Iterator[Times]:
    with contextlib.suppress(OSError, ValueError):
        seen = os.stat(path)  # noqa: PTH116  # paths may hold anything; a link counts as what it leads to
        if stat.S_ISREG(seen.st_mode):
            yield os.path.realpath(path), seen.st_mtime
        elif stat.S_ISDIR(seen.st_mode) and depth:
            with os.scandir(path) as entries:
                for entry in entries:
                    if not entry.name.startswith("."):
                        yield from _below(entry.path, depth - 1)


def _ahead(ahead: list[tuple[float, str]], looked_at: int, now: float) -> Finding:
    most, path = ahead[0]
    shown = [dt.datetime.fromtimestamp(t, dt.timezone.utc).strftime("%Y-%m-%d %H:%M UTC") for t in (now + most, now)]  # fmt: skip
    far = f"{most / 86400:,.1f} days" if most > 86400 else f"{most / 60:,.0f} minutes"
    return warning(
        Where(path),
        what=f"{len(ahead):,} of {looked_at:,} files were changed later than now, up to {far}: {path} on {shown[0]}, and it is {shown[1]}",
        why="whatever takes the newest file takes these: a wrong checkpoint, a stale cache, an adapter older than its data",
        cause="the clock of the machine that wrote them was ahead, this one was set back, or a copy that kept wrong times",
        remedy="have the clocks set (`chronyc tracking`), then give the files the time they should have (`touch`)",
        expected=f"changed before {shown[1]}",
        actual=f"changed on {shown[0]}",
        evidence={"files": [{"file": p, "seconds_ahead": round(gap)} for gap, p in ahead[:SHOWN]]},
    )


no_file_is_from_the_future.unit = "files"
