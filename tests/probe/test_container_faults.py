"""Group C of the matrix: what a container leaves of the memory and the processors of its machine."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from support.groups import ENTER, small_group
from support.hosts import machine, only
from support.matrix import Matrix, fault

from llmguard import Severity, probe
from llmguard.checks.limits import (
    container_leaves_memory,
    threads_fit_the_processors,
)
from llmguard.probe.host import Cgroup, Host

GiB, MiB, KiB = 2**30, 2**20, 2**10
V2 = "0::/job/7\n"
V2_MOUNT = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n"
MEMINFO = "MemTotal: {total} kB\nMemFree: 1 kB\nMemAvailable: {free} kB\nSwapTotal: {swap} kB\nSwapFree: {unused} kB\n"


# -- memory and processors of a container


def _memory(total: int, free: int, swap: int = 0, unused: int = 0) -> dict[str, str]:
    return {
        "/proc/meminfo": MEMINFO.format(
            total=total // KiB, free=free // KiB, swap=swap // KiB, unused=unused // KiB
        )
    }


@fault("C9")
@pytest.mark.parametrize("version", [1, 2])
def test_a_container_that_may_use_little_of_the_machine(tmp_path: Path, matrix: Matrix, version: int) -> None:
    """The lower one counts and both are shown; an error where there is no chance."""
    files = {**_memory(64 * GiB, 60 * GiB), **_group(version, memory=8 * GiB, used=GiB)}
    found = only(container_leaves_memory(machine(tmp_path, files)), Severity.NOTE)
    matrix.saw("limit of the container", seconds=0.0, deadline=1.0)
    assert "may use 8.0 GiB, while `free` and psutil show 64.0 GiB" in found.message
    tight = {**files, **_group(version, memory=8 * GiB, used=8 * GiB - 512 * MiB)}
    told = only(container_leaves_memory(machine(tmp_path / "tight", tight)), Severity.ERROR)
    assert "512.0 MiB of memory are left: the container may use 8.0 GiB of 64.0 GiB" in told.message
    assert "137" in told.message


@fault("C9")
def test_a_real_limit_of_a_cgroup_is_read(matrix: Matrix) -> None:
    """A group of our own with 256 MiB: what is read in it is its limit, and its oom_kill counter rises when it is hit."""
    with small_group(256 * MiB) as group:
        started = time.monotonic()
        code = f"""
{ENTER.format(procs=str(group / "cgroup.procs"))}
child = os.fork()
if child == 0:
    hoard = bytearray(400 * 2**20)
    for at in range(0, len(hoard), 4096):
        hoard[at] = 1
    os._exit(0)
os.waitpid(child, 0)
from llmguard.probe.host import Host
found = Host().cgroup()
report([found.memory, found.oom_kills])
"""
        told = probe.run(code, timeout=30)
        matrix.saw("limit of the container, read in it", seconds=time.monotonic() - started, deadline=30.0)
        assert told.ok, told
        assert told.payload[0] == 256 * MiB
        assert told.payload[1] >= 1, "the fault did not fire"


def _group(version: int, **values: int) -> dict[str, str]:
    """The files of a container's group, as Docker with cgroup v1 and a pod with v2 show them."""
    if version == 2:
        files = {
            "/proc/self/cgroup": V2,
            "/proc/self/mountinfo": V2_MOUNT,
            "/sys/fs/cgroup/job/7/memory.max": "max\n",
        }
        files["/sys/fs/cgroup/job/7/memory.current"] = "1\n"
        files |= {
            "/sys/fs/cgroup/job/memory.max": str(values["memory"]),
            "/sys/fs/cgroup/job/memory.current": str(values["used"]),
        }
        return files | {
            "/sys/fs/cgroup/job/memory.events": f"low 0\nhigh 0\nmax 9\noom 3\noom_kill {values.get('kills', 0)}\n"
        }
    own = "/docker/abcdef"
    files = {"/proc/self/cgroup": f"5:memory:{own}\n4:cpu,cpuacct:{own}\n"}
    files["/proc/self/mountinfo"] = f"40 31 0:34 {own} /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    files |= {
        "/sys/fs/cgroup/memory/memory.limit_in_bytes": str(values["memory"]),
        "/sys/fs/cgroup/memory/memory.usage_in_bytes": str(values["used"]),
    }
    return files | {
        "/sys/fs/cgroup/memory/memory.oom_control": f"oom_kill_disable 0\nunder_oom 0\noom_kill {values.get('kills', 0)}\n"
    }


def test_a_container_without_limits_is_quiet(tmp_path: Path) -> None:
    """v1 writes "no limit" as a very large number, v2 as `max`."""
    for version in (1, 2):
        files = {**_memory(64 * GiB, 60 * GiB), **_group(version, memory=9223372036854771712, used=GiB)}
        unbounded = machine(tmp_path / str(version), files)
        assert container_leaves_memory(unbounded) == []
        assert unbounded.host.cgroup().memory is None
    assert container_leaves_memory(machine(tmp_path / "none", _memory(64 * GiB, 60 * GiB))) == []
    assert container_leaves_memory(machine(tmp_path / "nothing", {})).looked_at == 0


@pytest.mark.parametrize("version", [1, 2])
@fault("C10")
def test_processes_that_were_killed_for_memory_are_told(tmp_path: Path, matrix: Matrix, version: int) -> None:
    """By the counter of the container's own group."""
    files = {**_memory(64 * GiB, 60 * GiB), **_group(version, memory=60 * GiB, used=GiB, kills=4)}
    found = only(container_leaves_memory(machine(tmp_path, files)))
    matrix.saw("killed for want of memory", seconds=0.0, deadline=1.0)
    assert "4 processes of this container were killed for want of memory" in found.message


def test_swapping_is_told_and_unused_swap_is_not(tmp_path: Path) -> None:
    """No swap at all is how most containers run."""
    busy = {**_memory(16 * GiB, 4 * GiB, 16 * GiB, 2 * GiB)}
    assert container_leaves_memory(machine(tmp_path / "a", busy)) == []
    low = {**_memory(64 * GiB, 5 * GiB, 64 * GiB, 4 * GiB)}
    assert "the machine is swapping" in only(container_leaves_memory(machine(tmp_path / "b", low))).message
    first = {**_memory(64 * GiB, 60 * GiB), "/proc/self/oom_score_adj": "1000\n"}
    assert (
        "oom_score_adj 1000"
        in only(container_leaves_memory(machine(tmp_path / "c", first)), Severity.NOTE).message
    )


CPUS = {"/proc/cpuinfo": "".join(f"processor\t: {n}\nmodel name\t: x\n\n" for n in range(16))}
QUOTA_V1 = {
    "/proc/self/cgroup": "4:cpu,cpuacct:/docker/abc\n",
    "/proc/self/mountinfo": "40 31 0:34 /docker/abc /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n",
    "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "150000\n", "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
}  # fmt: skip
QUOTA_V2 = {
    "/proc/self/cgroup": V2, "/proc/self/mountinfo": V2_MOUNT,
    "/sys/fs/cgroup/job/7/cpu.max": "max 100000\n", "/sys/fs/cgroup/job/cpu.max": "100000 100000\n",
}  # fmt: skip


@pytest.mark.parametrize(
    ("files", "environ", "words"),
    [
        pytest.param(
            QUOTA_V2,
            {},
            ("may use 1 processors", "16 threads: they see 16", "OMP_NUM_THREADS=1"),
            marks=fault("C11"),
        ),
        pytest.param(QUOTA_V1, {}, ("may use 1.5 processors", "OMP_NUM_THREADS=1"), marks=fault("C11")),
        pytest.param(
            QUOTA_V2, {"OMP_NUM_THREADS": "8"}, ("8 threads (OMP_NUM_THREADS)",), marks=fault("C11")
        ),
        (QUOTA_V2, {"OMP_NUM_THREADS": "1"}, ()),
        ({**QUOTA_V2, "/sys/fs/cgroup/job/cpu.max": "1600000 100000\n"}, {}, ()),
        ({**QUOTA_V2, "/sys/fs/cgroup/job/cpu.max": "200000 100000\n"}, {"OMP_NUM_THREADS": "3"}, ()),
        ({**QUOTA_V1, "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n"}, {}, ()),
        ({}, {}, ()),
    ],
)
def test_a_quota_of_processors(
    tmp_path: Path, matrix: Matrix, files: dict[str, str], environ: dict[str, str], words: tuple[str, ...]
) -> None:
    """Against the threads that will be started: what is set, else what libraries see; up to half as many again do no harm."""
    host = machine(tmp_path, {**CPUS, **files}, environ={"OMP_NUM_THREADS": None, **environ})
    found = threads_fit_the_processors(host)
    assert bool(found) is bool(words)
    if words:
        matrix.saw("quota of processors", seconds=0.0, deadline=1.0)
        assert [word for word in words if word not in only(found).message] == [], found


def test_this_machine_is_read() -> None:
    """The real files: something of everything, in little time."""
    started = time.monotonic()
    host = Host()
    assert isinstance(host.cgroup(), Cgroup)
    assert host.processors >= 1
    assert host.numbers("/proc/meminfo")["MemTotal"] > MiB
    assert host.processes(os.geteuid()).own >= 1
    assert time.monotonic() - started < 2.0
