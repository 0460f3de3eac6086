"""A look at one model in the cache. Runs in a probe: a cache often lies on a network volume.

    python -m llmguard.hub.look OWNER/NAME

Tells `cache`, `snapshot` (None: not cached), `files`, `problems` (file, what), `incomplete` (file, bytes, hours), `locks`, and in
`writable` and `modules` why nothing can be written there (errno, name of the mount), None where it can.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmguard.evidence.weights import read_weights
from llmguard.hub.cache import cache_folder, modules_folder, repository, snapshot
from llmguard.probe.child import report, step
from llmguard.probe.scratch import mount_of

__all__ = ["look"]

NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)
"""What `flock` says on file systems that have none: huggingface_hub then takes the lock file itself for the lock."""
HOUR = 3600.0


def look(hub_id: str) -> dict[str, Any]:
    """What the cache holds of a model."""
    cache = cache_folder()
    step(f"looking for {hub_id} in {cache}")
    place, found = repository(hub_id, cache), snapshot(hub_id, cache)
    problems = list(_problems(found)) if found else []
    return {
        "cache": str(cache),
        "mount": mount_of(os.path.realpath(_nearest(cache))),
        "snapshot": str(found) if found else None,
        "files": sum(1 for _ in found.rglob("*")) if found else 0,
        "problems": problems,
        "incomplete": list(_incomplete(place)),
        "locks": list(_locks(cache / ".locks" / place.name)),
        "writable": _refusal(cache),
        "modules": _refusal(modules_folder()),
    }


def _problems(folder: Path) -> Iterator[tuple[str, str]]:
    """Links that lead nowhere, files that we may not read, weights that are not all there."""
    step(f"reading {folder}")
    told: set[str] = set()
    for file in sorted(folder.rglob("*")):
        name = str(file.relative_to(folder))
        if file.is_symlink() and not file.exists():
            told.add(name)
            yield name, f"is a link to {file.readlink()}, which is not there"
        elif file.is_file() and not os.access(file, os.R_OK):
            told.add(name)
            about = file.stat()
            yield (
                name,
                f"may not be read: mode {about.st_mode & 0o777:04o}, owner {about.st_uid}, this is user {os.getuid()}",
            )
    found: list[tuple[str, str]] = []
    tensors, others = read_weights(folder, found)
    yield from (problem for problem in found if problem[0] not in told)
    if not tensors and not others and not told:
        yield "", "holds no weights"


def _incomplete(place: Path) -> Iterator[tuple[str, int, float]]:
    for blob in sorted(place.glob("blobs/*.incomplete")):
        about = blob.stat()
        yield blob.name, about.st_size, (time.time() - about.st_mtime) / HOUR


def _locks(folder: Path) -> Iterator[dict[str, Any]]:
    for file in sorted(folder.glob("*.lock")):
        about = file.stat()
        held, why = _held(file)
        yield {
            "file": str(file), "hours": (time.time() - about.st_mtime) / HOUR, "held": held, "errno": why,
            "holder": _holder(about) if held else None, "said": _said(file),
        }  # fmt: skip


def _held(file: Path) -> tuple[bool | None, int | None]:
    """Whether somebody holds the lock now; None with the errno where this file system cannot say."""
    try:
        with file.open("rb") as opened:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(opened, fcntl.LOCK_UN)
    except BlockingIOError:
        return True, None
    except OSError as why:
        return None, why.errno
    return False, None


def _holder(about: os.stat_result) -> dict[str, Any] | None:
    """Process and command that hold a lock, by the kernel's list of locks; None where it is none of this machine."""
    wanted = f"{os.major(about.st_dev):02x}:{os.minor(about.st_dev):02x}:{about.st_ino}"
    try:
        lines = [line.split() for line in Path("/proc/locks").read_text("utf-8").splitlines()]
        (pid,) = {int(f[4]) for f in lines if wanted in f and "->" not in f and int(f[4]) > 0}
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
    except (OSError, ValueError):
        return None
    return {"pid": pid, "command": command.strip()[:120]}


def _said(file: Path) -> str:
    """Who made a lock file, where its text says so (soft locks write pid and host)."""
    try:
        return file.read_bytes()[:100].decode("utf-8", "replace").strip()
    except OSError:
        return ""


def _nearest(folder: Path) -> Path:
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    return folder


def _refusal(folder: Path) -> tuple[int, str, str] | None:
    """Why no file can be made in a folder (or where it would be made): errno, text, mount point."""
    there = _nearest(folder)
    name = there / f".llmguard-{secrets.token_hex(4)}"
    try:
        name.touch(exist_ok=False)
        name.unlink()
    except OSError as why:
        return why.errno or 0, why.strerror or "", mount_of(os.path.realpath(there))[0]
    return None


if __name__ == "__main__":
    report(look(sys.argv[1]))
