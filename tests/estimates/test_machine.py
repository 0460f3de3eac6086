"""What memory there is: the control group's limit before the kernel's word, the GPU before both."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from llmguard.estimates.machine import gpu_memory, host_memory, machine_memory
from llmguard.probe.host import Host

GIB = 2**30
MEMINFO = f"MemTotal: {32 * GIB // 1024} kB\nMemFree: 1000 kB\nMemAvailable: {20 * GIB // 1024} kB\n"
Machine = Callable[..., Host]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A machine of 32 GiB with 20 available, in a group of version 2 where a limit is given."""

    def made(limit: str = "", used: int = 0) -> Host:
        files = {"proc/meminfo": MEMINFO}
        if limit:
            files |= {
                "proc/self/cgroup": "0::/job\n",
                "proc/self/mountinfo": "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
                "sys/fs/cgroup/job/memory.max": f"{limit}\n",
                "sys/fs/cgroup/job/memory.current": f"{used}\n",
            }
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        return Host(str(tmp_path))

    return made


def test_what_the_kernel_says_where_nothing_bounds_it(machine: Machine) -> None:
    found = host_memory(machine())
    assert found is not None
    assert (found.free, found.total, found.device, found.meant) == (20 * GIB, 32 * GIB, "cpu", False)


def test_the_limit_of_the_group_counts_not_the_host(machine: Machine) -> None:
    """In a container of 4 GiB the kernel still speaks of 20 GiB available."""
    found = host_memory(machine(str(4 * GIB), GIB))
    assert found is not None
    assert (found.free, found.total) == (3 * GIB, 4 * GIB)
    assert "control group" in found.text


@pytest.mark.parametrize("limit", ["max", str(64 * GIB)])
def test_a_group_without_a_limit_below_the_host_s_changes_nothing(machine: Machine, limit: str) -> None:
    found = host_memory(machine(limit, GIB))
    assert found is not None
    assert found.free == 20 * GIB


def test_nothing_told_is_nothing_known(tmp_path: Path) -> None:
    assert host_memory(Host(str(tmp_path))) is None


CARD = (
    "<gpu id='0'><product_name>X</product_name><uuid>GPU-{n}</uuid>"
    "<fb_memory_usage><total>24576 MiB</total><used>{used} MiB</used></fb_memory_usage></gpu>"
)


@pytest.fixture
def with_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An nvidia-smi that tells of two GPUs: the first is half taken."""
    cards = "".join(CARD.format(n=n, used=used) for n, used in enumerate((12288, 1024)))
    tool = tmp_path / "bin/nvidia-smi"
    tool.parent.mkdir()
    tool.write_text(f"#!/bin/sh\necho \"<?xml version='1.0' ?><nvidia_smi_log>{cards}</nvidia_smi_log>\"\n")
    tool.chmod(0o755)
    path = f"{tool.parent}:/usr/bin:/bin"
    monkeypatch.setenv("PATH", path)
    return path


@pytest.mark.parametrize(("visible", "free"), [(None, 12), ("1", 23), ("GPU-1", 23), ("0,1", 12)])
def test_the_visible_gpu_with_the_least_memory_counts(with_gpus: str, visible: str | None, free: int) -> None:
    environ = {"PATH": with_gpus} | ({"CUDA_VISIBLE_DEVICES": visible} if visible is not None else {})
    found = gpu_memory(environ)
    assert found is not None
    assert (found.free, found.device, found.meant) == (free * GIB, "gpu", True)


def test_hidden_gpus_leave_the_host(with_gpus: str) -> None:
    assert gpu_memory({"PATH": with_gpus, "CUDA_VISIBLE_DEVICES": ""}) is None


def test_a_machine_without_nvidia_tools_is_judged_by_its_host(tmp_path: Path) -> None:
    found = machine_memory({"PATH": str(tmp_path)})
    assert found is not None
    assert found.device == "cpu"
    assert 0 < found.free <= found.total
