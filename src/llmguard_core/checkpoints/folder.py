"""Folders that are whole or not there: written beside, flushed, listed with their hashes, and only then given their name."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llmguard.locks import Held, locked
from llmguard_core.errors import CheckpointError

__all__ = [
    "MANIFEST",
    "atomic_folder",
    "flush",
    "hashed",
    "remove_folder",
    "replaceable",
    "staged",
    "tidy",
    "write_file",
]

MANIFEST = "manifest.json"
SAVING, REMOVING, REPLACED = ".saving-", ".removing-", "replaced"
LOCK_WAIT = 30.0  # seconds for another process that saves to the same place
BLOCK = 1 << 20
log = logging.getLogger(__name__)


@contextmanager
def atomic_folder(final: Path | str, *, needs: int | None = None) -> Iterator[Path]:
    """Give an empty folder to write to, which becomes `final` when the block ends and leaves no trace when it fails.

    A crash at any point leaves the old `final` or the new one. `needs`: bytes that will be written, for the message
    when the disk is full. SHA-256 in the manifest, because a disk is slower than its computation on any processor of today, and it is
    the hash by which hubs and object stores name the same file, so that copies can be compared without either at hand.

    Raises:
        CheckpointError: the folder could not be written; the old one is as it was. Names path, errno and bytes.
    """
    final = Path(os.path.abspath(final))  # noqa: PTH100  # Path.resolve would follow a link that is the user's choice
    folder = staged(final)
    try:
        _make(final.parent)
        tidy(final.parent)
        with locked(folder.parent / "lock", LOCK_WAIT):
            try:
                _clear(folder)
                yield folder
                _seal(folder)
                _publish(folder, final)
            finally:
                _recover(folder.parent)
                shutil.rmtree(folder.parent, ignore_errors=True)
    except Held as held:
        raise CheckpointError(
            f"cannot be saved: {held}", where=str(final), remedy="Give each run its own output_dir."
        ) from None
    except OSError as bad:
        raise _not_saved(final, bad, needs) from bad


def staged(final: Path) -> Path:
    """Where `final` lies until it is whole: the same for every process of a run, so that all ranks write to one folder."""
    return final.parent / f"{SAVING}{final.name}" / final.name


def replaceable(folder: Path) -> bool:
    """Whether nothing would be lost: the folder is not there, empty, or holds only what `atomic_folder` wrote."""
    if not folder.exists():
        return True
    there = {p.name for p in folder.iterdir()} - {MANIFEST}
    try:
        listed = json.loads((folder / MANIFEST).read_text("utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return not there
    return there <= {name.partition("/")[0] for name in listed}


def remove_folder(folder: Path) -> None:
    """Take a folder away so that a crash leaves it whole or not there."""
    aside = folder.with_name(f"{REMOVING}{folder.name}")
    shutil.rmtree(aside, ignore_errors=True)
    folder.rename(aside)
    flush(folder.parent)
    shutil.rmtree(aside, ignore_errors=True)


def tidy(parent: Path) -> None:
    """Clear away what saves and removals that were cut off have left; a folder that was about to be replaced comes back."""
    for left in parent.glob(f"{REMOVING}*"):
        shutil.rmtree(left, ignore_errors=True)
    for left in parent.glob(f"{SAVING}*"):
        try:
            with locked(left / "lock"):
                _recover(left)
                shutil.rmtree(left, ignore_errors=True)
        except (Held, OSError) as kept:  # a save that goes on, or a folder that may only be read
            log.debug("%s stays: %s", left, kept)


def write_file(path: Path, content: bytes) -> None:
    """Replace a file as a whole: the old content or the new one, after a crash too."""
    beside = path.with_name(f".{path.name}.new")
    with beside.open("wb") as opened:
        opened.write(content)
        opened.flush()
        os.fsync(opened.fileno())
    beside.replace(path)
    flush(path.parent)


def flush(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as bad:
        # some network file systems have no flush of folders and say so; for files each error counts
        if not (path.is_dir() and bad.errno in (errno.EINVAL, errno.ENOTSUP)):
            raise
    finally:
        os.close(handle)


def _make(folder: Path) -> None:
    """Make a folder and those above it, each flushed into the one that names it."""
    if folder.is_dir():
        return
    _make(folder.parent)
    folder.mkdir(exist_ok=True)
    flush(folder.parent)


def _clear(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()


def _seal(folder: Path) -> None:
    """Hash and flush every file, then the manifest, then the folders from the innermost out."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p != folder / MANIFEST)
    table = {p.relative_to(folder).as_posix(): hashed(p) for p in files}
    manifest = folder / MANIFEST
    manifest.write_text(json.dumps({"version": 1, "files": table}, indent=1), "utf-8")
    for file in (*files, manifest):
        flush(file)
    for inner in sorted((p for p in folder.rglob("*") if p.is_dir()), reverse=True):
        flush(inner)
    flush(folder)


def hashed(file: Path) -> dict[str, Any]:
    """Size in bytes and SHA-256 of a file: {"size", "sha256"}."""
    digest, size = hashlib.sha256(), 0
    with file.open("rb") as opened:
        while block := opened.read(BLOCK):
            digest.update(block)
            size += len(block)
    return {"size": size, "sha256": digest.hexdigest()}


def _publish(folder: Path, final: Path) -> None:
    """Rename; what has the name already goes aside first, where `tidy` finds it again after a crash between the two."""
    if final.exists():
        flush(final.parent)  # the temporary folder's own name, before anything of worth goes into it
        final.rename(folder.parent / REPLACED)
        flush(folder.parent)
    folder.rename(final)
    flush(final.parent)


def _recover(staging: Path) -> None:
    final = staging.parent / staging.name.removeprefix(SAVING)
    if (staging / REPLACED).is_dir() and not final.exists():
        (staging / REPLACED).rename(final)
        flush(final.parent)
        log.warning("%s: a save over it was cut off; the one before is back", final)


def _not_saved(final: Path, bad: OSError, needs: int | None) -> CheckpointError:
    free = shutil.disk_usage(final.parent).free if final.parent.is_dir() else 0
    wanted = f"{needs:,} bytes are needed" if needs else "how many bytes are needed is not known"
    number = errno.errorcode.get(bad.errno or 0, "no errno")
    return CheckpointError(
        f"cannot be saved: {bad.strerror or bad} (errno {bad.errno}, {number}); {wanted}, {free:,} are free."
        " What was there before is as it was; the unfinished folder was removed.",
        where=str(bad.filename or final),
        remedy="Free space or raise the quota there, or set output_dir to another disk; then run again: it resumes.",
    )
