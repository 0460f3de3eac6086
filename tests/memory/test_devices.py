"""How devices are read: through the torch that is loaded, without a context of ours; NVML by process; the heap, tried out first."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
import types
from typing import TYPE_CHECKING, Any

import pytest
from support.device_memory import GIB, MIB, FakeDevice, FakeOutOfMemoryError, installed

from llmguard import memory
from llmguard.memory import accelerators, heap, nvml
from llmguard.memory.collector import Collector

if TYPE_CHECKING:
    from pathlib import Path


class Cuda:
    """torch.cuda with one device; what must not be asked before it is used raises."""

    def __init__(self) -> None:
        self.used, self.settled, self.count = False, 0, 2

    def is_initialized(self) -> bool:
        return self.used

    def device_count(self) -> int:
        return self.count

    def mem_get_info(self, index: int) -> tuple[int, int]:
        assert self.used, "this makes a context"
        return 3 * GIB, 8 * GIB

    def get_device_properties(self, index: int) -> Any:
        assert self.used, "this makes a context"
        return types.SimpleNamespace(uuid=f"0000-{index}")

    def host_memory_stats_as_nested_dict(self) -> dict[str, Any]:
        return {"active_bytes": {"current": 7 * MIB}}

    def memory_allocated(self, index: int) -> int:
        return 11

    def memory_reserved(self, index: int) -> int:
        return 12

    def max_memory_allocated(self, index: int) -> int:
        return 13

    def reset_peak_memory_stats(self, index: int) -> None:
        assert self.used

    def synchronize(self, index: int) -> None:
        self.settled += 1

    def empty_cache(self) -> None:
        raise RuntimeError("CUDA error: device-side assert triggered")


def stats(index: int) -> dict[str, Any]:
    return {
        "allocated_bytes": {"all": {"current": 5 * MIB, "peak": 9 * MIB}},
        "reserved_bytes": {"all": {"current": 20 * MIB}},
    }


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cuda:
    """A torch with CUDA is loaded, on a machine with a driver."""
    found = Cuda()
    version = types.SimpleNamespace(cuda="12.4", hip=None)
    torch = types.SimpleNamespace(
        cuda=found, version=version, device=object, _C=types.SimpleNamespace(_cuda_memoryStats=stats)
    )
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(accelerators.FILES, "cuda", (str(tmp_path),))
    monkeypatch.setattr(accelerators, "_accelerator", accelerators.Accelerator)
    monkeypatch.setattr(nvml, "of_processes", lambda uuid: ({os.getpid(): GIB, 1: MIB}, 2 * GIB))
    return found


def test_a_device_that_torch_has_not_used_is_not_touched(cuda: Cuda) -> None:
    """Nothing is held, nothing is asked that would make a context; the reason is told."""
    first, second = memory.devices()
    assert (first.name, second.name) == ("cuda:0", "cuda:1")
    assert memory.read(first) == memory.Figures(0, 0, None, None, 7 * MIB if cuda.used else 0)
    assert first.why_not("driver") == first.why_not("device") == "torch has not used the device yet"
    assert (first.shared(), first.peak(), first.identity) == (None, 0, "")
    first.settle()
    assert cuda.settled == 0


def test_a_device_in_use_is_read_at_every_level(cuda: Cuda) -> None:
    """Raw statistics of the allocator, NVML's by process, the device's, pinned memory once a process."""
    cuda.used = True
    first, second = memory.devices()
    assert memory.read(first) == memory.Figures(5 * MIB, 20 * MIB, GIB + MIB, 5 * GIB, 7 * MIB)
    assert first.device_wide() == (5 * GIB, 8 * GIB)
    assert (first.peak(), first.shared(), first.identity) == (9 * MIB, True, "GPU-0000-0")
    assert first.processes() == {os.getpid(): GIB, 1: MIB}
    assert second.pinned() is None
    assert second.why_not("pinned") == "one count a process: see cuda:0"
    assert first.why_not("pinned") == ""


def test_a_torch_without_raw_statistics_is_asked_by_its_functions(cuda: Cuda) -> None:
    """Older and other builds: the same numbers, dearer."""
    cuda.used = True
    del sys.modules["torch"]._C._cuda_memoryStats
    first = memory.devices()[0]
    assert (first.allocated(), first.reserved(), first.peak()) == (11, 12, 13)


def test_a_lost_context_does_not_break_a_reading(cuda: Cuda, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settling gives up, the device-wide number says why there is none."""
    cuda.used = True
    first = memory.devices()[0]
    first.settle()
    assert cuda.settled == 1

    def lost(index: int) -> tuple[int, int]:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(cuda, "mem_get_info", lost)
    assert first.device_wide() is None
    assert "illegal memory access" in first.why_not("device")


@pytest.mark.parametrize("version", [{"cuda": None, "hip": None}, {"cuda": "12.4", "hip": None}])
def test_without_a_device_the_heap_is_measured(
    cuda: Cuda, monkeypatch: pytest.MonkeyPatch, version: dict[str, str | None]
) -> None:
    """A torch for the CPU alone, and one for GPUs on a machine without: the heap; or nothing, where only GPUs are asked for."""
    monkeypatch.setattr(sys.modules["torch"], "version", types.SimpleNamespace(**version))
    cuda.count = 0
    assert [device.name for device in memory.devices()] == ["cpu"]
    assert memory.devices(heap=False) == ()


def test_devices_of_ones_own_are_used() -> None:
    """Until they are taken away again."""
    fake = FakeDevice()
    assert isinstance(fake, memory.DeviceMemory)
    with installed(fake):
        assert memory.devices() == (fake,)
    assert fake not in memory.devices()
    assert isinstance(heap.heap_memory(), memory.DeviceMemory)


class Library:
    """NVML, with the processes that it lists."""

    def __init__(self, processes: dict[int, int], code: int = 0) -> None:
        self.processes, self.code = processes, code

    def nvmlDeviceGetHandleByUUID(self, uuid: bytes, handle: Any) -> int:
        return int(uuid != b"GPU-1")

    def nvmlDeviceGetComputeRunningProcesses_v3(self, handle: Any, count: Any, room: Any) -> int:
        if len(room) < len(self.processes):
            count._obj.value = len(self.processes)
            return nvml.MORE
        count._obj.value = len(self.processes)
        for at, (pid, used) in enumerate(self.processes.items()):
            room[at].pid, room[at].used = pid, used
        return self.code


@pytest.mark.parametrize(
    ("processes", "code", "uuid", "told"),
    [
        ({os.getpid(): 5, 1: 7}, 0, "GPU-1", ({os.getpid(): 5}, 7)),
        ({os.getpid(): 5} | dict.fromkeys(range(100_000, 100_200), 1), 0, "GPU-1", ({os.getpid(): 5}, 200)),
        ({1: 7}, 0, "GPU-1", "the driver lists no process of ours"),
        ({os.getpid(): nvml.UNKNOWN}, 0, "GPU-1", "the driver gives no memory per process here"),
        ({}, 3, "GPU-1", "NVML lists no processes here (code 3)"),
        ({}, 0, "GPU-2", "NVML does not know GPU-2"),
        ({}, 0, "MIG-1", "no count per process on a slice of a GPU"),
        ({}, 0, "", "no UUID to ask NVML by"),
    ],
)
def test_nvml_is_asked_for_our_processes(
    monkeypatch: pytest.MonkeyPatch, processes: dict[int, int], code: int, uuid: str, told: Any
) -> None:
    """Ours and others apart; where it cannot say, the reason."""
    monkeypatch.setattr(nvml, "_library", lambda: Library(processes, code))
    found = nvml.of_processes(uuid)
    assert found == told if isinstance(told, tuple) else str(found).startswith(told)


def test_without_nvml_there_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library's own words."""
    monkeypatch.setattr(nvml, "LIBRARY", "libnone.so.1")
    nvml._library.cache_clear()
    assert "libnone.so.1" in str(nvml.of_processes("GPU-1"))
    nvml._library.cache_clear()


def test_the_heap_sees_what_malloc_hands_out() -> None:
    """To the page, up and down; where it is not glibc's, this is not said."""
    device = heap.HeapMemory()
    if device.because:
        pytest.skip(device.because)
    before = device.allocated()
    block = ctypes.create_string_buffer(3 * MIB)
    assert 0 <= device.allocated() - before - 3 * MIB <= 2 * device.resolution  # mapped, with its head
    del block
    assert abs(device.allocated() - before) <= device.resolution
    assert (device.reserved(), device.driver(), device.device_wide(), device.peak()) == (None,) * 4
    assert device.why_not("driver")


@pytest.mark.parametrize(
    ("library", "preload", "reason"),
    [
        (types.SimpleNamespace(), "", "this C library has no mallinfo2"),
        ("blind", "", "mallinfo2 does not see what is allocated: malloc is another library's"),
        ("blind", "/usr/lib/libjemalloc.so.2", "malloc is jemalloc's"),
    ],
)
def test_where_malloc_is_anothers_tensors_are_counted(
    monkeypatch: pytest.MonkeyPatch, library: Any, preload: str, reason: str
) -> None:
    """musl, macOS, jemalloc, tcmalloc: the reason is told, and what is counted instead."""
    if library == "blind":
        told = types.SimpleNamespace(uordblks=0, hblkhd=0)
        ask = types.FunctionType((lambda: told).__code__, {}, closure=(lambda: told).__closure__)
        libc = ctypes.CDLL(None)
        library = types.SimpleNamespace(mallinfo2=ask, malloc=libc.malloc, free=libc.free)
    monkeypatch.setenv("LD_PRELOAD", preload)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    device = heap.HeapMemory()
    assert reason in device.because
    assert device.by == "storages of live tensors"


def test_tensors_are_counted_by_their_storages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each storage once, gradients too; nothing where torch is not loaded."""
    torch = pytest.importorskip("torch")
    device = heap.HeapMemory()
    device._ask = None
    before = device.allocated()
    tensor = torch.ones(MIB // 4, requires_grad=True)
    view = tensor[:5]
    assert device.allocated() - before == MIB
    (tensor * 2).sum().backward()
    assert device.allocated() - before == 2 * MIB
    del tensor, view
    gc.collect()
    assert device.allocated() <= before
    monkeypatch.delitem(sys.modules, "torch")
    assert device.allocated() == 0


def test_the_collector_takes_what_is_new_and_thaws() -> None:
    """What was there is hidden in between, and seen again."""
    collector = Collector()
    collector.freeze()
    assert collector.frozen
    assert len(gc.get_objects()) < 1000
    collector.collect()
    collector.thaw()
    assert not collector.frozen
    assert gc.get_freeze_count() == 0
    assert len(gc.get_objects()) > 1000


def test_what_the_user_froze_before_stays_frozen() -> None:
    """Nothing is frozen or thawed by us then."""
    gc.freeze()
    try:
        collector = Collector()
        collector.freeze()
        assert not collector.frozen
        collector.collect_all()
        assert gc.get_freeze_count()
    finally:
        gc.unfreeze()


def test_what_the_user_froze_meanwhile_stays_frozen() -> None:
    """Thawing would thaw theirs."""
    collector = Collector()
    collector.freeze()
    try:
        gc.freeze()
        collector.thaw()
        assert gc.get_freeze_count()
    finally:
        gc.unfreeze()


@pytest.mark.parametrize("enabled", [True, False])
def test_a_collector_that_is_off_stays_off(monkeypatch: pytest.MonkeyPatch, enabled: bool) -> None:
    """And puts nothing off: no full collection is made up for."""
    collector, full = Collector(), []
    monkeypatch.setattr(Collector, "_full", lambda self: full.append(1))
    if not enabled:
        gc.disable()
    try:
        collector.catch_up()
        assert gc.isenabled() is enabled
        assert len(full) == enabled
    finally:
        gc.enable()


def test_the_fake_allocates_as_torch_does() -> None:
    """Rounding, segments, best fit, empty cache, fraction, out of memory in torch's words."""
    device = FakeDevice(total=2 * GIB)
    small, large = device.tensor(1), device.tensor(MIB + 1)
    assert device.allocated() == 512 + MIB + 512
    assert device.reserved() == 22 * MIB
    del large
    assert device.reserved() == 22 * MIB
    device.settle()
    assert device.reserved() == 2 * MIB
    huge = device.tensor(30 * MIB + 1)
    assert device.reserved() == 34 * MIB
    device.set_fraction(0.02)
    with pytest.raises(
        FakeOutOfMemoryError, match=r"CUDA out of memory\. Tried to allocate 20\.00 MiB\. GPU 0 has a total"
    ):
        device.tensor(20 * MIB)
    assert device.peak() == 512 + 30 * MIB + 512
    del small, huge
    assert device.allocated() == 0


def test_the_fakes_driver_is_late() -> None:
    """A killed process gives back nothing at first, then by and by."""
    now = [0.0]
    device = FakeDevice(clock=lambda: now[0])
    child = device.child(8 * GIB, pid=4711, late=3.0, over=2.0)
    child.kill()
    held = []
    for now[0] in (2.9, 3.0, 4.0, 5.0):
        held.append(child.held() // GIB)
    assert held == [8, 8, 4, 0]
    assert 4711 not in (device.processes() or {})
