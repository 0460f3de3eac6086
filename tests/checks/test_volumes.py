"""Where checkpoints go: the container's own disk and memory are told, volumes and plain disks are right."""

from __future__ import annotations

import pytest
from support.matrix import Matrix, fault

from llmguard import Finding
from llmguard.checks.volumes import output_dir_outlives_the_container
from llmguard.errors import MissingEvidence
from llmguard.probe.environment import Environment, Folder

POD = """
1 0 0:1 / / rw - overlay overlay rw,lowerdir=/a
2 1 0:2 / /proc rw - proc proc rw
3 1 0:3 / /dev rw - tmpfs tmpfs rw
4 3 0:4 / /dev/shm rw - tmpfs shm rw
5 1 8:1 /docker/hosts /etc/hosts rw - ext4 /dev/sda1 rw
6 1 8:1 /lib/nvidia /usr/lib/libcuda.so rw - ext4 /dev/sda1 rw
7 1 0:5 / /workspace rw - fuse.mfs mfs#host:9421 rw
"""
BARE = "1 0 0:1 / / rw - overlay overlay rw\n2 1 8:1 /hosts /etc/hosts rw - ext4 /dev/sda1 rw\n"
MACHINE = "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n2 1 0:2 / /tmp rw - tmpfs tmpfs rw\n3 1 0:3 / /mnt/nas rw - nfs4 nas:/v rw\n"


def judged(path: str, table: str) -> list[Finding]:
    found = output_dir_outlives_the_container(
        Environment("/p", folders=(Folder("output_dir", path),), mounts=table)
    )
    assert found.looked_at == 1
    return list(found)


@fault("D15")
def test_the_containers_own_disk_is_a_warning_where_a_volume_is_mounted(matrix: Matrix) -> None:
    """Which volume it is, is said; files of the system that are mounted into a container are no volumes."""
    (told,) = judged("/srv/out", POD)
    matrix.saw("overlay while a volume is mounted")
    assert told.severity.value == "warning"
    assert "the container's own disk (overlay), while /workspace (fuse.mfs) is mounted" in told.message


def test_without_a_volume_it_is_a_note() -> None:
    """Nothing better is at hand; the results must be carried away."""
    (told,) = judged("/srv/out", BARE)
    assert told.severity.value == "note"
    assert "copy the results away" in told.message


@fault("D15")
def test_memory_is_a_warning(matrix: Matrix) -> None:
    """On any machine."""
    for path, table in (("/dev/shm/out", POD), ("/tmp/out", MACHINE)):
        (told,) = judged(path, table)
        assert "checkpoints go to memory" in told.message
    matrix.saw("tmpfs")


@pytest.mark.parametrize(
    ("path", "table"),
    [("/workspace/out", POD), ("/home/me/out", MACHINE), ("/mnt/nas/out", MACHINE), ("/anywhere", "")],
)
def test_disks_and_volumes_are_right(path: str, table: str) -> None:
    """Also where the system does not say what is mounted."""
    assert judged(path, table) == []


def test_a_project_without_an_output_folder_is_told_what_to_add() -> None:
    """Cache folders may lie in the container: what is lost with them is time."""
    with pytest.raises(MissingEvidence, match="output_dir"):
        output_dir_outlives_the_container(
            Environment("/p", folders=(Folder("cache_dirs", "/srv/cache"),), mounts=POD)
        )
