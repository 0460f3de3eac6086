"""Group C of the matrix: limits of a process and of its user, locked and shared memory."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from support.hosts import in_namespace, machine, only, unshared
from support.matrix import Matrix, fault

from llmguard import Severity, probe
from llmguard.checks.limits import (
    locked_memory_is_enough,
    open_file_limit_is_enough,
    processes_can_be_started,
    shared_memory_has_room,
)
from llmguard.probe.host import Host

GiB, MiB, KiB = 2**30, 2**20, 2**10
V2 = "0::/job/7\n"
V2_MOUNT = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n"


def _inside(check: str, module: str, limits: dict[str, int], prelude: str = "") -> list[dict[str, Any]]:
    """The findings of a check in a process of its own that is really limited."""
    code = f"""
import resource, json
{prelude}
for name, value in {limits!r}.items():
    resource.setrlimit(getattr(resource, "RLIMIT_" + name), (value, value))
from llmguard.checks.{module} import {check}
from llmguard.probe.environment import Environment
report([dict(found.to_json(), severity=found.severity.value) for found in {check}(Environment("/", torch_needed_by="x"))])
"""
    told = probe.run(code, timeout=60)
    assert told.ok, told
    found: list[dict[str, Any]] = told.payload
    return found


# -- open files


@fault("C1")
def test_few_open_files_in_force(matrix: Matrix) -> None:
    """Seen from within a process that was really limited; an error, since 64 leave no chance."""
    started = time.monotonic()
    found = _inside("open_file_limit_is_enough", "limits", {"NOFILE": 64})
    matrix.saw("limit too low: have 64, need 1,024", seconds=time.monotonic() - started, deadline=60)
    assert [each["severity"] for each in found] == ["error"]
    assert "may have 64 files open" in found[0]["message"]
    assert found[0]["expected"] == "at least 1,024"


@pytest.mark.parametrize(
    ("limits", "severity"),
    [
        ((1024, 4096), None),
        ((-1, -1), None),
        ((1_048_576, 1_048_576), None),
        ((1000, 4096), Severity.WARNING),
        ((64, -1), Severity.ERROR),
    ],
)
def test_few_open_files_are_told(limits: tuple[int, int], severity: Severity | None) -> None:
    """A low limit is a warning, a hopeless one an error; without need of torch a warning at most."""
    found = open_file_limit_is_enough(machine(open_files=limits))
    assert [finding.severity for finding in found] == ([severity] if severity else [])
    if limits == (1000, 4096):
        assert "run `ulimit -n 4096`" in found[0].remedy
    if limits == (64, -1):
        assert "without bound" in found[0].remedy
        only(open_file_limit_is_enough(machine(torch_needed_by="", open_files=limits)))


@fault("C2")
def test_a_hard_limit_that_is_too_low_is_told(matrix: Matrix) -> None:
    """`ulimit -n` would not help: the remedy names who can raise it."""
    started = time.monotonic()
    found = _inside("open_file_limit_is_enough", "limits", {"NOFILE": 512})
    matrix.saw("hard limit too low", seconds=time.monotonic() - started, deadline=60)
    assert [each["severity"] for each in found] == ["warning"]
    assert "raised to 512 alone" in found[0]["remedy"]
    assert "--ulimit nofile" in found[0]["remedy"]


# -- processes

STATUS = (
    "Name:\t{name}\nState:\t{state}\nPPid:\t{parent}\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\nThreads:\t{threads}\n"
)


def _processes(count: int, threads: int, uid: int, zombies: int = 0) -> dict[str, str]:
    said = {"name": "python", "parent": 1, "uid": uid}
    files = {
        f"/proc/{100 + n}/status": STATUS.format(state="S (sleeping)", threads=threads, **said)
        for n in range(count)
    }
    dead = {
        f"/proc/{9000 + n}/status": STATUS.format(state="Z (zombie)", threads=1, **{**said, "parent": 100})
        for n in range(zombies)
    }
    return (
        files | dead | {"/proc/sys/kernel/threads-max": "200000\n", "/proc/sys/kernel/pid_max": "4194304\n"}
    )


@fault("C3")
def test_a_limit_on_processes_that_is_used_up(tmp_path: Path, matrix: Matrix) -> None:
    """The user's threads are counted, not only the limit; the limit itself is first shown to fire, as a user it binds."""
    become_nobody = "os.setgid(65534); os.setuid(65534)" if os.geteuid() == 0 else ""
    code = f"""
import os, resource, threading
{become_nobody}
resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
threading.Thread(target=print).start()
"""
    said = probe.run([sys.executable, "-c", code], timeout=20).output
    assert "can't start new thread" in said, f"the limit does not bind here: {said}"
    started = time.monotonic()
    host = machine(tmp_path, _processes(5, 20, os.geteuid()), user_processes=(110, 110))
    found = only(processes_can_be_started(host), Severity.ERROR)
    matrix.saw("no room for processes", seconds=time.monotonic() - started, deadline=1.0)
    assert "ulimit -u: 100 of 110 processes and threads are in use: 10 are left" in found.message
    assert "can't start new thread" in found.message


@pytest.mark.parametrize(
    ("most", "running", "severity"),
    [("300", 200, Severity.WARNING), ("205", 200, Severity.ERROR), ("max", 200, None), ("2000", 200, None)],
)
def test_a_container_that_allows_few_processes(
    tmp_path: Path, most: str, running: int, severity: Severity | None
) -> None:
    """pids.max of the cgroup, against what runs in it."""
    group = {"/proc/self/cgroup": V2, "/proc/self/mountinfo": V2_MOUNT}
    files = {"/sys/fs/cgroup/job/7/pids.max": most, "/sys/fs/cgroup/job/7/pids.current": str(running)}
    host = machine(tmp_path, {**_processes(2, 4, 0), **group, **files}, user_processes=(-1, -1))
    found = processes_can_be_started(host)
    assert [each.severity for each in found] == ([severity] if severity else [])
    assert all("pids.max of the container" in each.message for each in found)


@pytest.mark.parametrize(("count", "told"), [(3, False), (150, True)])
def test_many_zombies_are_told_with_their_parent(tmp_path: Path, count: int, told: bool) -> None:
    """A few are everywhere."""
    host = machine(tmp_path, _processes(3, 1, 0, zombies=count), user_processes=(-1, -1))
    found = processes_can_be_started(host)
    assert bool(found) is told
    if told:
        assert (
            "150 processes have ended and are not collected by their parent python (100)"
            in only(found).message
        )


def test_real_zombies_are_counted() -> None:
    """A child that has ended and was not waited for."""
    child = os.fork()
    if child == 0:
        os._exit(0)
    try:
        os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
        assert any(parent == os.getpid() for parent, _, _ in Host().processes(0).zombies)
    finally:
        os.waitpid(child, 0)


# -- locked memory


@pytest.mark.parametrize(
    ("limit", "devices", "right", "told"),
    [
        pytest.param(64 * KiB, True, 0, True, marks=fault("C4")),
        (64 * KiB, False, 0, False),
        (64 * KiB, True, 1 << 14, False),
        (-1, True, 0, False),
        (64 * GiB, True, 0, False),
    ],
)
def test_little_locked_memory_where_infiniband_needs_it(
    tmp_path: Path, matrix: Matrix, limit: int, devices: bool, right: int, told: bool
) -> None:
    """Nothing but InfiniBand asks for it, and a process with the right needs no limit."""
    files = {"/proc/self/status": f"CapEff:\t{right:016x}\n"} | (
        {"/dev/infiniband/uverbs0": ""} if devices else {}
    )
    found = locked_memory_is_enough(machine(tmp_path, files, locked_memory=(limit, limit)))
    assert bool(found) is told
    assert found.looked_at == int(devices)
    if told:
        matrix.saw("limit too low: 64 KiB", seconds=0.0, deadline=1.0)
        assert "may lock 64.0 KiB of memory, and this machine has InfiniBand" in only(found).message


def test_the_limit_on_locked_memory_is_the_one_in_force() -> None:
    """Read from within a process that was really limited."""
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_MEMLOCK, (65536, 65536))\n"
        "from llmguard.probe.environment import Environment; report(Environment('/').locked_memory)"
    )
    assert probe.run(code, timeout=20).payload == [65536, 65536]


# -- shared memory


@fault("C5")
def test_small_shared_memory_in_a_container(root: Path, tmp_path: Path, matrix: Matrix) -> None:
    """A tmpfs of 1 MiB over /dev/shm, in a namespace: writing more than that is really a bus error there."""
    script = tmp_path / "ask.py"
    script.write_text(
        "import json, mmap, os, signal, sys\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    file = os.open('/dev/shm/torch_big', os.O_RDWR | os.O_CREAT)\n"
        "    os.ftruncate(file, 2**21)\n"
        "    mmap.mmap(file, 2**21).write(bytes(2**21))\n"
        "    os._exit(0)\n"
        "status = os.waitpid(child, 0)[1]\n"
        "os.unlink('/dev/shm/torch_big')\n"
        "from llmguard.checks.limits import shared_memory_has_room\n"
        "from llmguard.probe.environment import Environment\n"
        "print(json.dumps([os.WTERMSIG(status), [f.message for f in shared_memory_has_room(Environment('/'))]]))\n"
    )
    inside = unshared("mount -t tmpfs -o size=1m tmpfs /dev/shm")
    started = time.monotonic()
    number, messages = json.loads(
        in_namespace(inside(f"PYTHONPATH={root / 'src'} {sys.executable} {script}"))
    )
    matrix.saw("shared memory too small", seconds=time.monotonic() - started, deadline=60.0)
    assert number == signal.SIGBUS, "the fault did not fire"
    assert "/dev/shm: 1.0 MiB of shared memory" in messages[0]
    assert "Bus error" in messages[0]


@pytest.mark.parametrize(
    ("room", "told"),
    [((64 * MiB, 64 * MiB), True), ((8 * GiB, 8 * GiB), False), ((8 * GiB, 10 * MiB), True), (None, False)],
)
def test_room_in_shared_memory(
    room: tuple[int, int] | None, told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small, full, and none at all."""
    monkeypatch.setattr(Host, "shared_memory", lambda self: room)
    monkeypatch.setattr(Host, "torch_segments", lambda self: ())
    found = shared_memory_has_room(machine())
    assert bool(found) is told
    assert {f.severity for f in found} <= {Severity.WARNING}  # who loads without workers needs none of it
    assert found.looked_at == (0 if room is None else 1)


@fault("C6")
def test_segments_of_dead_owners_are_told(
    tmp_path: Path, matrix: Matrix, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By name, size and owner; those of the living and what others keep there are not."""
    gone = subprocess.Popen(["true"])
    gone.wait()
    files = {f"/dev/shm/torch_{gone.pid}_17_0": "x" * MiB, f"/dev/shm/torch_{gone.pid}_17_1": "x" * MiB}
    files |= {
        "/dev/shm/torch_4242_9_0": "x" * MiB,
        "/proc/4242/stat": "4242 (python) S 1",
        "/dev/shm/sem.mp-abc": "x" * MiB,
    }
    monkeypatch.setattr(Host, "shared_memory", lambda self: (8 * MiB, 3 * MiB))
    monkeypatch.setattr("llmguard.checks.limits.SMALL_SHARED", MiB)
    monkeypatch.setattr("llmguard.checks.limits.FULL_SHARED", MiB)
    found = only(shared_memory_has_room(machine(tmp_path, files)))
    matrix.saw("stale segments", seconds=0.0, deadline=1.0)
    assert f"2 segments of torch hold 2.0 MiB of 8.0 MiB: left by {gone.pid}" in found.message
    assert f"/dev/shm/torch_{gone.pid}_*" in found.remedy
    assert "4242" not in found.message
