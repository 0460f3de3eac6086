"""A look at a repository with git itself. Runs in a probe: hooks, monitors and network volumes may keep git for ever.

    python -m llmguard.repository.look FOLDER SECONDS

Tells `state` ("none", "no_git", "dubious", "broken", "hung", "ok") with `message`; where git answers also `lock` (an index.lock: hours,
whether a process has it open), `refusal` (why nothing can be written: errno, text, mount), `branch`, `ahead` and `changed`.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from llmguard.probe.child import report, step
from llmguard.probe.scratch import mount_of

__all__ = ["look"]

PAYLOAD = 1 << 16
QUIET = {"GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0", "GIT_ASKPASS": "true", "LC_ALL": "C"}
"""No question to anybody, nothing written, messages that can be read."""
HOUR = 3600.0


class _Git:
    """git in a folder, each command within a time limit."""

    def __init__(self, folder: str, seconds: float) -> None:
        self.folder, self.seconds = folder, seconds

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        step(f"git {' '.join(arguments)}")
        return subprocess.run(
            ["git", "-C", self.folder, *arguments],
            env={**os.environ, **QUIET}, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
            timeout=self.seconds, check=False,
        )  # fmt: skip


def look(folder: str, seconds: float) -> dict[str, Any]:
    """What git says about the repository of a folder."""
    if not shutil.which("git"):
        return {"state": "no_git", "message": ""}
    git = _Git(folder, seconds)
    try:
        return _looked(git)
    except subprocess.TimeoutExpired as late:
        return {"state": "hung", "message": " ".join(map(str, late.cmd[3:]))}


def _looked(git: _Git) -> dict[str, Any]:
    found = git("rev-parse", "--absolute-git-dir")
    if found.returncode:
        dubious = re.search(r"dubious ownership in repository at '(.*)'", found.stderr)
        if dubious:
            return {
                "state": "dubious",
                "message": dubious[1],
                "owner": Path(dubious[1]).stat().st_uid,
                "user": os.getuid(),
            }
        return {"state": "none", "message": found.stderr.strip()}
    place = Path(found.stdout.strip())
    told = {"folder": str(place), "lock": _lock(place / "index.lock"), "refusal": _refusal(place)}
    for command in (("status", "--porcelain=v2", "--branch"), ("ls-tree", "-r", "--name-only", "HEAD")):
        answer = git(*command)
        if (
            answer.returncode and "Not a valid object name HEAD" not in answer.stderr
        ):  # a repository without a commit is none the worse
            return {
                **told,
                "state": "broken",
                "message": answer.stderr.strip().splitlines()[0] if answer.stderr else "",
            }
        told |= _status(answer.stdout) if command[0] == "status" else {}
    return {**told, "state": "ok", "message": ""}


def _status(text: str) -> dict[str, Any]:
    branch = re.search(r"^# branch\.head (.*)$", text, re.MULTILINE)
    ahead = re.search(r"^# branch\.ab \+(\d+)", text, re.MULTILINE)
    changed = [line for line in text.splitlines() if line[:1] in ("1", "2", "u")]
    return {
        "branch": branch[1] if branch else "",
        "ahead": int(ahead[1]) if ahead else 0,
        "changed": len(changed),
    }


def _lock(file: Path) -> dict[str, Any] | None:
    """An index.lock; a git that is killed leaves it, and every later one that writes refuses to."""
    try:
        about = file.stat()
    except OSError:
        return None
    return {"file": str(file), "hours": (time.time() - about.st_mtime) / HOUR, "open": _is_open(file)}


def _is_open(file: Path) -> bool:
    """Whether a process of ours has the file open; those of other users cannot be seen without being root."""
    for entry in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if entry.readlink() == file:
                return True
        except OSError:
            continue
    return False


def _refusal(place: Path) -> tuple[int, str, str] | None:
    """Why a commit could not be written, found out by writing where objects go."""
    made = place / "objects" / f"llmguard-{secrets.token_hex(4)}"
    try:
        with made.open("xb") as file:
            file.write(b"\0" * PAYLOAD)
            file.flush()
            os.fsync(file.fileno())
    except OSError as why:
        return why.errno or 0, why.strerror or "", mount_of(os.path.realpath(place))[0]
    finally:
        with contextlib.suppress(OSError):
            made.unlink()
    return None


if __name__ == "__main__":
    report(look(sys.argv[1], float(sys.argv[2])))
