"""Folders of scratch files and of compiled code, tried in a probe; and the compiler that fills them.

Run as a module: `[{"key", "path"}, …]` as JSON. Each folder is tried in turn and told when it is done, so that one that hangs
is known by what is missing.
"""

from __future__ import annotations

import errno
import json
import mmap
import os
import secrets
import shutil
import sys
import sysconfig
import time
from pathlib import Path
from typing import Any

from llmguard.probe.child import report, step
from llmguard.probe.launch import Probe, start
from llmguard.probe.machine import Place, Places
from llmguard.probe.result import ProbeResult
from llmguard.probe.scratch import mount_of

__all__ = ["places_of", "start_places"]

SIZE = 64 * 1024
"""Bytes that are written: enough that a full disk cannot hide it in a block that is there already."""


def start_places(folders: list[tuple[str, str]], environ: dict[str, str | None], *, timeout: float) -> Probe:
    """Try folders, `(key, path)` each, and look for a compiler."""
    return start(
        "llmguard.probe.places", [json.dumps(folders)], timeout=timeout, no_progress=timeout, kill_grace=0.5, env=environ,
        what="trying the folders for scratch files and compiled code",
    )  # fmt: skip


def places_of(result: ProbeResult, folders: list[tuple[str, str]]) -> Places:
    """What was told, and which folder was under way when it hung."""
    told: dict[str, Any] = result.payload if isinstance(result.payload, dict) else {}
    tried = tuple(Place(**each) for each in told.get("tried", ()))
    hung = ("", "") if result.ok or len(tried) == len(folders) else folders[len(tried)]
    return Places(result, tried, hung, told.get("compiler", ""), told.get("headers", ""))


def try_place(key: str, path: str) -> dict[str, Any]:
    """Write a file there, map it as code, remove it; a folder that does not exist is tried in its nearest parent."""
    found: dict[str, Any] = {"key": key, "path": path}
    made: Path | None = None
    try:
        probed = _nearest(Path(path))
        found["probed"], found["mount"] = str(probed), " ".join(mount_of(os.path.realpath(probed))[:2])
        space = os.statvfs(probed)
        found["free"] = space.f_bavail * space.f_frsize
        made = probed / f".llmguard-probe-{secrets.token_hex(4)}"
        found |= _written(made)
    except OSError as why:
        found |= {"errno": why.errno or 0, "message": why.strerror or str(why)}
    finally:
        _remove(made)
    return found


def _nearest(path: Path) -> Path:
    while not path.is_dir():
        if path.exists() or path.is_symlink() or path == path.parent:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
        path = path.parent
    return path


def _written(made: Path) -> dict[str, Any]:
    with made.open("xb") as file:
        file.write(os.urandom(SIZE))
        file.flush()
        os.fsync(file.fileno())
        skew = os.fstat(file.fileno()).st_mtime - time.time()
    with made.open("rb") as file:
        try:
            mmap.mmap(file.fileno(), 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC).close()
        except PermissionError:  # what a mount with `noexec` says to the loader of libraries
            return {"executable": False, "skew": skew}
    return {"executable": True, "skew": skew}


def _remove(made: Path | None) -> None:
    if made is not None:
        try:
            made.unlink()
        except OSError:  # it was never made, or its volume takes no changes any more
            return


def _compiler() -> str:
    """What triton and inductor would call: CC, then the usual names."""
    names = [os.environ.get("CC", "").partition(" ")[0], "gcc", "cc", "clang"]
    return next((path for name in names if name and (path := shutil.which(name))), "")


def main() -> None:
    """Try the folders that the command line names."""
    told: dict[str, Any] = {"tried": []}
    for key, path in json.loads(sys.argv[1]):
        step(f"trying {path}")
        told["tried"].append(try_place(key, path))
        report(told)
    step("looking for a compiler")
    told["compiler"] = _compiler()
    headers = Path(sysconfig.get_paths()["include"], "Python.h")
    told["headers"] = str(headers) if headers.is_file() else ""
    report(told)


if __name__ == "__main__":
    main()
