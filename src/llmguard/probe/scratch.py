"""A folder for a probe's files on a disk of this machine, chosen without touching any file system that may
hang.

`$TMPDIR` may lie on a network volume, and even asking whether it exists can block for ever. The table of
mounts is plain text from the kernel, so the choice is made there.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

__all__ = ["NETWORK", "is_remote", "make", "mount_of", "mountinfo", "mounts_in", "remove"]

_NETWORKS = (
    "nfs nfs4 cifs smb3 smbfs ceph lustre gpfs beegfs 9p afs glusterfs orangefs pvfs2 virtiofs autofs panfs"
)
NETWORK = frozenset(_NETWORKS.split())
"""File systems that live on another machine. Everything in user space ("fuse…") counts as well."""


def mount_of(path: str, mounts: str | None = None) -> tuple[str, str, str]:
    """Where a path lies: mount point, type of the file system, its source; ("", "", "") where the system does
    not say.

    `path` must be absolute; links are not followed, nothing is touched. `mounts` is the text of
    /proc/self/mountinfo.
    """
    best = ("", "", "")
    for mount in mounts_in(mountinfo() if mounts is None else mounts):
        point = mount[0]
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best[0]):  # of two mounts on one point the later one is seen
            best = mount
    return best


def mounts_in(text: str) -> Iterator[tuple[str, str, str]]:
    """Mount point, type and source of every line of /proc/self/mountinfo."""
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        fields, kinds = left.split()[4:5], right.split()[:2]
        if fields and kinds[1:]:
            yield _unescaped(fields[0]), kinds[0], _unescaped(kinds[1])


def is_remote(kind: str) -> bool:
    """Whether a type of file system may wait for something outside of this machine's kernel."""
    return kind in NETWORK or kind.startswith("fuse")


def make(candidates: Iterable[str] | None = None) -> str:
    """A new private folder in the first candidate that is local and can be written; default: `$TMPDIR`, /tmp
    and others.

    Raises:
        OSError: none of them can be written.
    """
    why: OSError = FileNotFoundError("no local folder for temporary files")
    for folder in _candidates() if candidates is None else candidates:
        if not folder.startswith("/") or is_remote(mount_of(folder)[1]):
            continue
        try:
            return tempfile.mkdtemp(prefix="llmguard-probe-", dir=folder)
        except OSError as refused:
            why = refused
    raise why


def remove(folder: str) -> None:
    """Remove a probe's folder; what cannot be removed stays, silently: it is a folder of temporary files."""
    shutil.rmtree(folder, ignore_errors=True)


def _candidates() -> list[str]:
    named = [os.environ.get(name, "") for name in ("TMPDIR", "TEMP", "TMP", "XDG_RUNTIME_DIR")]
    return [*named[:3], "/tmp", "/var/tmp", "/dev/shm", named[3]]


def mountinfo() -> str:
    """The kernel's table of mounts; empty where there is none."""
    try:
        return Path("/proc/self/mountinfo").read_text("utf-8", "replace")
    except OSError:
        return ""


def _unescaped(text: str) -> str:
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, character)
    return text
