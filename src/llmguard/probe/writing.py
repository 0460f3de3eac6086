"""The write probe: what a folder really takes, found out by writing. Runs in a probe, where it may hang.

`statvfs` is a claim: on a volume with a quota it shows the whole server. So a payload is written, synced, renamed, read
back and removed, small files as well as one big one, all in a folder of its own that is removed in every case.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

from llmguard.probe.child import report, step
from llmguard.probe.scratch import mount_of

__all__ = ["try_folder"]

MiB = 2**20
SMALL_FILES = 16
"""A checkpoint is about as many files: shards, index, optimizer, scheduler, tokenizer, random states."""
WRITE_SECONDS = 15.0
"""How long the part of the payload that cannot be reserved is written for."""


def try_folder(folder: str, name: str, payload: int, size: int) -> dict[str, Any]:
    """Try to write `size` bytes into `folder`, `payload` of them for real, in a folder `name` of its own.

    A folder that does not exist is tried in its nearest existing parent; it is not made. At most half of the space
    that is claimed to be free is used, so that a neighbour on the same disk is not harmed.

    Returns:
        `probed`, `mount`, `claimed` and `claimed_files` (free), `accepted` (bytes), `asked`, `seconds` and `written` of the
        synced write, `corrupt`, and on failure `failed` (the step), `errno` and `message`.
    """
    found: dict[str, Any] = {
        "accepted": 0,
        "written": 0,
        "seconds": 0.0,
        "corrupt": False,
        "cut_short": False,
    }
    made = ""
    try:
        _say(found, "looking at the folder")
        found["probed"] = probed = _nearest(folder)
        found["mount"] = mount_of(os.path.realpath(probed))
        claimed = os.statvfs(probed)
        found["claimed"], found["claimed_files"] = claimed.f_bavail * claimed.f_frsize, claimed.f_favail
        half = found["claimed"] // 2
        found["asked"] = max(min(size, half), min(payload, half))
        _say(found, "making a folder")
        made = f"{probed}/{name}"
        Path(made).mkdir()
        _fill(found, made, min(payload, half))
    except OSError as why:
        found |= {"failed": found["step"], "errno": why.errno or 0, "message": why.strerror or str(why)}
    finally:
        _remove(found, made)
    return found


def _say(found: dict[str, Any], what: str) -> None:
    found["step"] = what
    step(what)


def _nearest(folder: str) -> str:
    """The folder, or the nearest parent that exists.

    Raises:
        OSError: something on the way is no folder, or may not be looked at.
    """
    path = Path(folder)
    while True:
        try:
            if not path.is_dir():
                path.stat()  # a file in the way; a missing folder raises here
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
        except FileNotFoundError:
            if path.is_symlink():
                raise
            path = path.parent
            continue
        return str(path)


def _fill(found: dict[str, Any], made: str, payload: int) -> None:
    started = time.monotonic()
    written = _write(found, f"{made}/payload.tmp", payload)
    found["seconds"], found["written"] = time.monotonic() - started, payload
    _reserve(found, f"{made}/rest", found["asked"] - payload)
    _say(found, "renaming a file")
    Path(made, "payload.tmp").rename(Path(made, "payload"))
    _sync_folder(made)
    _say(found, "reading back")
    found["corrupt"] = _read(f"{made}/payload") != written
    _say(found, "making small files")
    for number in range(SMALL_FILES):
        Path(made, f"small-{number}").write_bytes(b"x" * 1024)


def _write(found: dict[str, Any], path: str, size: int) -> str:
    """Write random bytes in pieces of 1 MiB and sync; returns their hash. Random: some disks compress."""
    digest = hashlib.blake2b()
    with open(path, "xb", buffering=0) as file:  # noqa: PTH123 - unbuffered: the error must come here, not at close
        _say(found, "writing")
        while found["accepted"] < size:
            piece = memoryview(os.urandom(min(MiB, size - found["accepted"])))
            digest.update(piece)
            while piece:  # a write may take less than it was given
                count = os.write(file.fileno(), piece)
                found["accepted"] += count
                piece = piece[count:]
        _say(found, "syncing to the disk")
        os.fsync(file.fileno())
        _say(found, "closing")
    return digest.hexdigest()


def _reserve(found: dict[str, Any], path: str, size: int) -> None:
    """The rest of the size: reserved, which quotas count too; written for some seconds where the disk cannot reserve."""
    if size <= 0:
        return
    _say(found, "reserving the size of a checkpoint")
    with open(path, "xb", buffering=0) as file:  # noqa: PTH123 - unbuffered, as above
        number = _fallocate(file.fileno(), size)
        if number == 0:
            found["accepted"] += size
        elif number in (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
            _write_for_a_while(found, file.fileno(), size)
        else:
            raise OSError(number, os.strerror(number))


def _fallocate(file: int, size: int) -> int:
    """fallocate(2), 0 or an errno; never the slow imitation by the C library."""
    try:
        call = ctypes.CDLL(None, use_errno=True).fallocate
    except AttributeError:
        return errno.ENOSYS
    call.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    return 0 if call(file, 0, 0, size) == 0 else ctypes.get_errno()


def _write_for_a_while(found: dict[str, Any], file: int, size: int) -> None:
    stop, left, piece = time.monotonic() + WRITE_SECONDS, size, os.urandom(MiB)
    while left > 0 and time.monotonic() < stop:
        count = os.write(file, piece[:left])
        found["accepted"] += count
        left -= count
    found["cut_short"] = left > 0
    _say(found, "syncing to the disk")
    os.fsync(file)


def _read(path: str) -> str:
    """The hash of a file, read from the disk and not from memory where the system can be asked for that."""
    digest = hashlib.blake2b()
    with Path(path).open("rb") as file:
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        while piece := file.read(MiB):
            digest.update(piece)
    return digest.hexdigest()


def _sync_folder(path: str) -> None:
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    except OSError as why:
        if why.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems sync files only
            raise
    finally:
        os.close(folder)


def _remove(found: dict[str, Any], made: str) -> None:
    if made:
        step("removing")
        shutil.rmtree(made, ignore_errors=True)
        found["left"] = made if os.path.lexists(made) else ""


def main() -> None:
    """Command line: the arguments of `try_folder` as JSON. SIGTERM ends it by way of its clean-up."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    report(try_folder(**json.loads(sys.argv[1])))


if __name__ == "__main__":
    main()
