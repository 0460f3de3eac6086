"""Which process gets which GPU: lists of visible devices as CUDA reads them, places, shares of memory, turns."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.machines import Card, World
from support.matrix import Matrix, fault

from llmguard.locks import Held, locked, started
from llmguard.placement import (
    CONTEXT,
    SHARED,
    Place,
    VisibleGpu,
    assign,
    entries_of,
    fraction_of,
    gpus_here,
    lock_folder,
    room_for,
    shared,
    turn,
    variable_of,
    visible,
)

GIB = 2**30
UUIDS = ("GPU-aa11-0", "GPU-aa22-1", "GPU-bb33-2", "GPU-cc44-3")


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (None, [0, 1, 2, 3]),
        ("", []),
        ("2", [2]),
        ("3,1", [3, 1]),
        (" 3 , 1 ", [3, 1]),
        ("0,9,1", [0]),
        ("9", []),
        ("-1", []),
        ("1,-1,2", [1]),
        ("NoDevFiles", []),
        ("none", []),
        ("1,1", []),
        ("1,2,1", []),
        ("+2", [2]),
        ("1gpu,2b", [1, 2]),
        ("01", [1]),
        ("GPU-bb33-2", [2]),
        ("gpu-BB33-2", [2]),
        ("GPU-bb", [2]),
        ("GPU-aa", []),
        ("GPU-cc,GPU-aa1", [3, 0]),
        ("GPU-cc,GPU-dead,GPU-aa1", [3]),
        ("GPU-cc,GPU-cc44", []),
        ("GPU-cc,GPU-cc", []),
        ("GPU-cc,1", [3]),
        ("1,GPU-cc", [1]),
        ("MIG-GPU-bb33-2/1/0", []),
        (",1", []),
    ],
)
def test_a_list_is_read_as_cuda_reads_it(text: str | None, left: list[int]) -> None:
    """Up to the first entry that names nothing; one that is there twice leaves nothing."""
    assert visible(text, UUIDS) == left


def test_torch_reads_lists_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers, signs, letters behind digits, repeats, ends: as torch's own parser of this variable has them."""
    cuda = pytest.importorskip("torch").cuda
    for text in (
        "",
        "2",
        "3,1",
        "0,2,1",
        "-1",
        "1,-1,2",
        "NoDevFiles",
        "1,1",
        "1,2,1",
        "1gpu,2b",
        "0,GPU-a",
        "+2",
    ):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", text)
        assert [int(entry) for entry in entries_of(text)] == cuda._parse_visible_devices(), text
    for text in ("GPU-a,GPU-b", "GPU-a,1", "GPU-a,GPU-a", "MIG-1,MIG-2", "MIG-1,GPU-2"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", text)
        assert entries_of(text) == cuda._parse_visible_devices(), text


def test_unknown_uuids_are_named_by_no_uuid() -> None:
    """Numbers still count."""
    assert visible("1,0", ["", ""]) == [1, 0]
    assert visible("GPU-1", ["", ""]) == []


@pytest.mark.parametrize(
    ("kind", "environ", "name"),
    [
        ("cuda", {"HIP_VISIBLE_DEVICES": "1"}, "CUDA_VISIBLE_DEVICES"),
        ("rocm", {}, "HIP_VISIBLE_DEVICES"),
        ("rocm", {"CUDA_VISIBLE_DEVICES": "0"}, "CUDA_VISIBLE_DEVICES"),
        ("rocm", {"CUDA_VISIBLE_DEVICES": "0", "HIP_VISIBLE_DEVICES": "1"}, "HIP_VISIBLE_DEVICES"),
        ("rocm", {"ROCR_VISIBLE_DEVICES": "2,3"}, "HIP_VISIBLE_DEVICES"),
        ("xpu", {}, "ZE_AFFINITY_MASK"),
        ("mps", {}, ""),
    ],
)
def test_each_kind_of_gpu_has_its_variable(kind: str, environ: dict[str, str], name: str) -> None:
    """The one that the caller set, where two would do; HIP counts within what ROCR leaves."""
    assert variable_of(kind, environ) == name


def test_devices_are_named_by_uuid_with_what_is_free(world: World) -> None:
    """Driver and nvidia-smi, joined by UUID; in the caller's order, and nothing that it did not list."""
    world.environ["CUDA_STUB_COUNT"] = "3"
    cards = [
        Card(uuid=_uuid(n), used=f"{1559 + 10000 * n} MiB", processes=((7, "python", "1 MiB"),) * n)
        for n in range(3)
    ]
    world.reports(*cards)
    found = gpus_here(environ=_environ(world, CUDA_VISIBLE_DEVICES="2,0"))
    assert [gpu.entry for gpu in found] == [_uuid(2), _uuid(0)]
    assert [gpu.free for gpu in found] == [60000 * 2**20, 80000 * 2**20]
    assert found[0].others == (7, 7)
    assert found[0].name == "NVIDIA H100 80GB HBM3"


def test_without_nvidia_smi_the_driver_names_them(world: World) -> None:
    """What is free is then not known, and nothing is shared by it."""
    world.smi("exit 9")
    (gpu,) = gpus_here(environ=_environ(world))
    assert (gpu.entry, gpu.total, gpu.free) == (_uuid(0), 85017624576, None)
    assert room_for(gpu, GIB) == 1


@pytest.mark.parametrize(
    ("environ", "count", "entries"),
    [
        ({}, 2, ["0", "1"]),
        ({"CUDA_VISIBLE_DEVICES": "5,3"}, 2, ["5", "3"]),
        ({"CUDA_VISIBLE_DEVICES": "GPU-7,GPU-8"}, 2, ["GPU-7", "GPU-8"]),
        ({"CUDA_VISIBLE_DEVICES": "MIG-1,MIG-2"}, 1, ["MIG-1", "MIG-2"]),
        ({"CUDA_VISIBLE_DEVICES": ""}, 0, []),
    ],
)
def test_where_nothing_tells_the_callers_own_entries_count(
    environ: dict[str, str], count: int, entries: list[str], tmp_path: Path
) -> None:
    """A slice (MIG) stands for itself: CUDA shows a process one of them at a time."""
    nothing = {"PATH": str(tmp_path), "LD_LIBRARY_PATH": str(tmp_path)}
    assert [gpu.entry for gpu in gpus_here("cuda", count, {**nothing, **environ})] == entries


def test_other_kinds_are_named_by_the_callers_entries(tmp_path: Path) -> None:
    """ROCm and XPU: numbers within the list; nobody is asked."""
    assert [g.entry for g in gpus_here("rocm", 2, {"HIP_VISIBLE_DEVICES": "3,2"})] == ["3", "2"]
    assert [g.entry for g in gpus_here("rocm", 2, {"ROCR_VISIBLE_DEVICES": "3,2"})] == ["0", "1"]
    assert [g.entry for g in gpus_here("xpu", 1, {})] == ["0"]


def test_every_worker_gets_a_gpu_of_its_own_where_there_are_enough() -> None:
    """In the order of the list; nobody is limited."""
    gpus = [VisibleGpu(uuid, total=80 * GIB, free=79 * GIB) for uuid in UUIDS]
    assert assign(gpus, 4, GIB) == [Place((uuid,)) for uuid in UUIDS]
    assert assign(gpus, 2) == [Place((uuid,)) for uuid in UUIDS[:2]]


def test_workers_beyond_the_gpus_take_turns() -> None:
    """Five on two: three on the first, two on the second, one of each at a time."""
    places = assign([VisibleGpu("a"), VisibleGpu("b")], 5)
    assert [place.gpus[0] for place in places] == ["a", "b", "a", "b", "a"]
    assert [place.workers for place in places] == [3, 2, 3, 2, 3]
    assert {place.at_once for place in places} == {1}
    assert all(place.shared for place in places)


@pytest.mark.parametrize(
    ("budget", "at_once"), [(None, 1), (4, 8), (9, 8), (10, 7), (30, 2), (70, 1), (200, 1)]
)
@fault("H21")
def test_eight_workers_on_one_device_share_by_budget_or_take_turns(
    budget: int | None, at_once: int, matrix: Matrix
) -> None:
    """As many at once as its free memory takes with their contexts; never a device that the caller did not list."""
    places = assign([VisibleGpu("GPU-only", total=80 * GIB, free=79 * GIB)], 8, budget and budget * GIB)
    matrix.saw(f"{at_once} at once on the one device of the caller")
    assert {place.gpus for place in places} == {("GPU-only",)}
    assert {place.at_once for place in places} == {at_once}
    limits = {place.fraction for place in places}
    assert len(limits) == 1
    assert (limits == {None}) is (budget is None)
    taken = sum(at_once * (float(limit) * 80 * GIB + CONTEXT) for limit in limits if limit)
    assert taken <= 79 * GIB


@pytest.mark.parametrize(
    ("free", "budget", "room"), [(12, 1, 7), (12, 12, 1), (0, 1, 1), (13.25, 6, 2), (13.2, 6, 1), (9, 0, 1)]
)
def test_a_context_takes_room_beside_a_budget(free: float, budget: int, room: int) -> None:
    """Five eighths of a GiB for each process, which no allocator counts."""
    assert room_for(VisibleGpu("a", free=int(free * GIB)), budget * GIB) == room


@given(
    total=st.floats(1, 1e12),
    share=st.floats(0, 1.2),
    processes=st.integers(1, 10_000),
)
@fault("H22")
def test_a_share_of_memory_is_never_zero_or_less(total: float, share: float, processes: int) -> None:
    """Whatever is free and however many ask; and together they never take what is not there, unless it is the smallest share."""
    found = fraction_of(total, share * total, processes)
    assert 0 < found <= 1
    if found > 1 / 1024:
        assert processes * (found * total + CONTEXT) <= total * 1.000001


@fault("H22")
def test_the_share_that_went_below_zero_elsewhere(matrix: Matrix) -> None:
    """32 workers on 16 GB, each with a context: less is left than nothing, and the share is small, not negative."""
    found = fraction_of(16 * GIB, 16 * GIB, 32)
    matrix.saw(f"a share of {found:.4f}")
    assert found == 1 / 1024
    assert fraction_of(0, 0, 3) == 1.0
    place = assign([VisibleGpu("a", total=16 * GIB, free=0)], 32, GIB)[0]
    assert place.fraction is not None
    assert place.fraction > 0
    assert place.at_once == 1


def test_no_gpus_known_places_nobody() -> None:
    """Nothing is set, and all share what there is."""
    assert assign([], 3) == [Place((), 3)] * 3


def test_a_place_crosses_processes_as_json() -> None:
    """What the controller decides is what the worker reads."""
    place = Place(("GPU-a",), 3, 2, 0.25)
    assert Place(**{**json.loads(json.dumps(place.to_json())), "gpus": ("GPU-a",)}) == place


def test_sharing_is_told_to_whoever_asks() -> None:
    """By the environment, so that children know it, too."""
    assert shared({SHARED: "1"})
    assert not shared({SHARED: ""})
    assert not shared({})


# -- turns

HOLDER = """
import sys
from pathlib import Path
from llmguard.placement import Place, turn
with turn(Place((sys.argv[2],), 3, int(sys.argv[3])), folder=Path(sys.argv[1])):
    print("mine", flush=True)
    sys.stdin.read()
"""


class Other:
    """Another process that has a turn until it is told to end."""

    def __init__(self, folder: Path, gpu: str, at_once: int = 1) -> None:
        command = [sys.executable, "-c", HOLDER, str(folder), gpu, str(at_once)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "mine\n"

    def end(self, how: int = 0) -> None:
        self.process.send_signal(how)
        self.process.communicate()


def take(folder: Path, *gpus: str, at_once: int = 1, wait: float = 0.0) -> None:
    """Have a turn, and end it at once."""
    with turn(Place(gpus, at_once + 1, at_once), folder=folder, wait=wait):
        pass


def test_a_gpu_is_one_processes_at_a_time(tmp_path: Path) -> None:
    """Others are told who has it; another GPU is free; one that was killed holds nothing."""
    other = Other(tmp_path, "GPU-a")
    with pytest.raises(Held, match=rf"GPU GPU-a is held by process {other.process.pid} on "):
        take(tmp_path, "GPU-a")
    with pytest.raises(Held, match="GPU-a"):
        take(tmp_path, "GPU-b", "GPU-a")
    with pytest.raises(Held, match="GPU-a"):
        take(tmp_path, "GPU-", "GPU-a")
    take(tmp_path, "GPU-b")
    other.end(signal.SIGKILL)
    take(tmp_path, "GPU-a", "GPU-b")
    assert list(tmp_path.iterdir()) == []


def test_those_who_fit_share_it_and_no_more(tmp_path: Path) -> None:
    """Two seats: a second sharer has one, a third waits, and so does who wants it alone."""
    other = Other(tmp_path, "GPU-a", at_once=2)
    with turn(Place(("GPU-a",), 3, 2), folder=tmp_path):
        with pytest.raises(Held):
            take(tmp_path, "GPU-a", at_once=2)
        with pytest.raises(Held):
            take(tmp_path, "GPU-a")
    take(tmp_path, "GPU-a", at_once=2)
    other.end()
    take(tmp_path, "GPU-a")
    assert list(tmp_path.iterdir()) == []


def test_who_shares_waits_for_who_is_alone(tmp_path: Path) -> None:
    """A sharer of one session beside an owner of another."""
    with turn(Place(("GPU-a",)), folder=tmp_path), pytest.raises(Held):
        take(tmp_path, "GPU-a", at_once=4)


def test_a_turn_comes_when_the_other_ends(tmp_path: Path) -> None:
    """Within its wait."""
    other = Other(tmp_path, "GPU-a")
    timer = threading.Timer(0.2, other.end)
    timer.start()
    take(tmp_path, "GPU-a", wait=30.0)
    timer.join()


def test_a_holder_who_does_not_end_is_not_waited_for_to_the_last(tmp_path: Path) -> None:
    """Patience is for one holder: the whole wait is for many who take their turns."""
    other = Other(tmp_path, "GPU-a")
    with (
        pytest.raises(Held, match="held by process"),
        turn(Place(("GPU-a",)), folder=tmp_path, wait=60.0, patience=0.1),
    ):
        pass
    other.end()


def test_a_holder_that_changes_starts_patience_anew(tmp_path: Path) -> None:
    """The file names another one: somebody got a turn in between."""
    path = tmp_path / "gpu-a.lock"
    other = Other(tmp_path, "a")
    record = json.loads(path.read_text())
    stop = threading.Event()

    def rewrite() -> None:
        for number in range(1000):
            path.write_text(json.dumps({**record, "turn": number}))
            if stop.wait(0.05):
                return
        other.end()

    thread = threading.Thread(target=rewrite)
    thread.start()
    began = time.monotonic()
    with pytest.raises(Held), locked(path, 1.2, patience=0.6):
        pass
    assert time.monotonic() - began >= 1.2
    stop.set()
    thread.join()
    other.end()


def test_a_record_without_a_kernels_lock_is_no_lock(tmp_path: Path) -> None:
    """Left by a process that is gone, whose number another one has now: nobody waits."""
    record = {"pid": os.getpid(), "started": (started(os.getpid()) or 0) - 5, "boot": "another", "host": "h"}
    (tmp_path / "gpu-a.lock").write_text(json.dumps(record))
    take(tmp_path, "a")


def test_locks_lie_in_a_folder_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For this user alone; a link, or another's folder, is refused."""
    assert lock_folder({"LLMGUARD_LOCKS": str(tmp_path / "a" / "b")}).stat().st_mode & 0o777 == 0o700
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "a")
    with pytest.raises(PermissionError, match="belongs to another"):
        lock_folder({"LLMGUARD_LOCKS": str(link)})
    monkeypatch.setattr(os, "getuid", lambda: 12345678)
    with pytest.raises(PermissionError):
        lock_folder({"LLMGUARD_LOCKS": str(tmp_path)})


def _uuid(number: int) -> str:
    """As the stub of the driver names its devices."""
    byte = f"{0x10 + number:02x}"
    return f"GPU-{byte * 4}-{byte * 2}-{byte * 2}-{byte * 2}-{byte * 6}"


def _environ(world: World, **more: str) -> dict[str, str]:
    """The environment of a process on that machine."""
    return {k: v for k, v in world.environ.items() if v is not None and k != "PYTHONPATH"} | more
