"""Volumes: what a run writes is still there when its container is gone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from llmguard.contract import Yields, check
from llmguard.errors import MissingEvidence
from llmguard.findings import Finding, Where, note, warning
from llmguard.probe.mounts import where_it_lies
from llmguard.probe.scratch import is_remote, mountinfo, mounts_in

if TYPE_CHECKING:
    from llmguard.probe.environment import Environment

__all__ = ["output_dir_outlives_the_container"]

CONTAINERS_OWN = frozenset({"overlay", "aufs", "fuse.fuse-overlayfs"})
IN_MEMORY = frozenset({"tmpfs", "ramfs"})
DISKS = frozenset({"ext4", "ext3", "xfs", "btrfs", "zfs", "f2fs", "bcachefs"})
SYSTEM = (
    "/proc",
    "/sys",
    "/dev",
    "/run",
    "/etc",
    "/usr",
    "/lib",
    "/boot",
    "/var/lib",
    "/opt/nvidia",
    "/snap",
)


@check
def output_dir_outlives_the_container(environment: Environment) -> Yields:
    """The folder that checkpoints go to lies neither on the container's own disk nor in memory, where a volume is at hand.

    Read from the kernel's table of mounts (`environment.mounts` in its place); nothing is touched.

    Raises:
        MissingEvidence: the project names no output folder.
    """
    folders = [f for f in environment.folders if f.key == "output_dir"]
    if not folders:
        raise MissingEvidence("output_dir", 'add `[environment] output_dir = "out"` to llmguard.toml')
    table = mountinfo() if environment.mounts is None else environment.mounts
    volumes = list(_volumes(table))
    for folder in folders:
        point, kind, _ = where_it_lies(folder.path, table)
        if kind in IN_MEMORY:
            yield _in_memory(folder.path, point, kind)
        elif kind in CONTAINERS_OWN:
            yield _ephemeral(folder.path, kind, volumes)
    return len(folders)


output_dir_outlives_the_container.unit = "folders"


def _volumes(table: str) -> Iterator[tuple[str, str]]:
    """Mount points that look like a place for data: a disk or a network volume, and no part of the system."""
    for point, kind, _ in mounts_in(table):
        lasting = kind in DISKS or (is_remote(kind) and kind not in CONTAINERS_OWN)
        if lasting and point != "/" and not point.startswith(SYSTEM):
            yield point, kind


def _in_memory(path: str, point: str, kind: str) -> Finding:
    return warning(
        Where(path, key="environment.output_dir"),
        what=f"checkpoints go to memory: {point} is a {kind}",
        why="they are gone with a restart, and until then they take the memory that the run needs",
        cause="/dev/shm or a tmpfs /tmp taken for a fast disk",
        remedy="write to a disk or a volume; copy to memory what is only read",
    )


def _ephemeral(path: str, kind: str, volumes: list[tuple[str, str]]) -> Finding:
    make = warning if volumes else note
    named = ", ".join(f"{point} ({its})" for point, its in volumes[:4])
    return make(
        Where(path, key="environment.output_dir"),
        what=f"checkpoints go to the container's own disk ({kind}){f', while {named} is mounted' if volumes else ''}",
        why="they are gone with the container: when the pod is stopped, moved or runs out of money",
        cause="a relative path, or the volume is mounted somewhere else than on the machine where this was written",
        remedy=f"point `[environment] output_dir`, and the training config's, below {volumes[0][0]}" if volumes
        else "mount a volume, or copy the results away before the container ends",
    )  # fmt: skip
