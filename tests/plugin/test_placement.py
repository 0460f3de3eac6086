"""Placement under xdist: inside the caller's list of devices, by UUID, before anything is imported; turns, shares, lost contexts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.machines import Card, World, compile_libcuda, cuda_torch
from support.matrix import Matrix, fault

from llmguard.locks import locked
from llmguard.placement import Place, VisibleGpu
from pytest_llmguard import gpu, placement, turns

GIB = 2**30
UUIDS = [f"GPU-{b * 4}-{b * 2}-{b * 2}-{b * 2}-{b * 6}" for b in ("10", "11", "12", "13")]
LIMITED = """
    @staticmethod
    def set_per_process_memory_fraction(share):
        cuda.share = share
    is_initialized = staticmethod(lambda: False)
    share = None
"""
SAYS = """
import json, os, sys, time
import pytest
from llmguard.placement import shared

NAMES = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "PYTEST_XDIST_WORKER")

def say(**more):
    found = {name: os.environ.get(name) for name in NAMES}
    share = sys.modules["torch"].cuda.share if "torch" in sys.modules else None
    with open("said.jsonl", "a") as file:
        file.write(json.dumps({**found, "shared": shared(), "share": share, **more}) + "\\n")
"""
COMPUTING = (
    SAYS
    + """
import torch

@pytest.mark.gpu
@pytest.mark.parametrize("number", range(TESTS))
def test_computes(number):
    start = time.monotonic()
    deadline = start + SECONDS
    while time.monotonic() < deadline:
        time.sleep(0.01)
    say(start=start, end=time.monotonic())

@pytest.mark.gpu(count=2)
def test_several():
    say(several=True)

def test_plain():
    pass
"""
)


def computing(tests: int, seconds: float) -> str:
    """A test module whose GPU tests take so long each, and say where and when they were."""
    return COMPUTING.replace("TESTS", str(tests)).replace("SECONDS", str(seconds))


@dataclass(frozen=True)
class Said:
    """What the tests of a session wrote down, and what the session printed."""

    code: int
    out: str
    lines: list[dict[str, Any]]

    @property
    def computed(self) -> list[dict[str, Any]]:
        return [line for line in self.lines if "start" in line]

    def overlapping(self) -> int:
        """The most tests that ran on a device at the same time."""
        most = 0
        for line in self.computed:
            inside = [o for o in self.computed if o["start"] <= line["start"] < o["end"]]
            most = max(most, sum(o["CUDA_VISIBLE_DEVICES"] == line["CUDA_VISIBLE_DEVICES"] for o in inside))
        return most


@pytest.fixture(scope="module")
def stub(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a driver's library that does as it is told."""
    folder = compile_libcuda(tmp_path_factory.mktemp("libcuda"))
    if not folder:
        pytest.skip("no C compiler to build a libcuda.so.1 with")
    return folder


Machine = Callable[..., Said]


@pytest.fixture(scope="module")
def machine(stub: str, tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """Run pytest with `--gpu` on a machine of so many GPUs; tests are those of a file, a conftest may stand beside."""

    def run(tests: str, *arguments: str, gpus: int = 1, conftest: str = "", **environ: str) -> Said:
        folder = tmp_path_factory.mktemp("machine")
        seen = len(environ["CUDA_VISIBLE_DEVICES"].split(",")) if "CUDA_VISIBLE_DEVICES" in environ else gpus
        world = World(folder, stub).devices(gpus).torch(cuda_torch(count=seen) + LIMITED)
        world.reports(
            *(Card(uuid=uuid, used=f"{1559 + 10000 * n} MiB") for n, uuid in enumerate(UUIDS[:gpus]))
        )
        project = folder / "project"
        (project / "test_it.py").write_text(tests)
        (project / "conftest.py").write_text(conftest)
        hidden = ("PYTEST", "COV", "OMP_NUM", "MKL_NUM", "CUDA_VIS")
        env = {k: v for k, v in os.environ.items() if not k.startswith(hidden)}
        env |= {k: v for k, v in world.environ.items() if v is not None}
        paths = filter(None, (env["PYTHONPATH"], os.environ.get("PYTHONPATH")))
        env |= {
            "PYTHONPATH": os.pathsep.join(paths),
            "CUDA_STUB_COUNT": str(gpus),
            "LLMGUARD_LOCKS": str(folder / "locks"),
            **environ,
        }
        quiet = ("-p", "no:hypothesispytest", "-p", "no:anyio", "-p", "no:cacheprovider")
        command = [sys.executable, "-m", "pytest", *quiet, "--gpu", "-rsE", *arguments]
        done = subprocess.run(
            command, cwd=project, env=env, capture_output=True, text=True, timeout=120, check=False
        )
        said = project / "said.jsonl"
        lines = [json.loads(line) for line in said.read_text().splitlines()] if said.exists() else []
        return Said(done.returncode, done.stdout + done.stderr, lines)

    return run


@pytest.fixture(scope="module")
def crowd(machine: Machine) -> Said:
    """Eight workers on a machine of four GPUs, of which the caller was given one; it has not said how many threads MKL takes."""
    tests = computing(16, 0.05)
    return machine(tests, "-n", "8", gpus=4, CUDA_VISIBLE_DEVICES="2", OMP_NUM_THREADS="3")


@fault("H21")
def test_eight_workers_keep_to_the_one_device_of_the_caller(crowd: Said, matrix: Matrix) -> None:
    """The worker's number is nobody's device: all eight are on the device that was given, by its UUID."""
    assert crowd.code == 0, crowd.out
    assert {line["CUDA_VISIBLE_DEVICES"] for line in crowd.computed} == {UUIDS[2]}
    assert len({line["PYTEST_XDIST_WORKER"] for line in crowd.computed}) > 1
    assert len(crowd.computed) == 16
    matrix.saw("8 workers on the caller's one GPU take turns")


def test_they_take_turns(crowd: Said) -> None:
    """Without a budget never two at a time; each knows that it is not alone."""
    assert crowd.overlapping() == 1
    assert all(line["shared"] for line in crowd.computed)
    assert {line["share"] for line in crowd.computed} == {None}


def test_the_header_says_so(crowd: Said) -> None:
    """Who is where, and how."""
    assert f"gpu: 8 workers on 1 GPU ({UUIDS[2]}): they take turns" in crowd.out


def test_threads_are_shared_where_the_user_has_not_said(crowd: Said) -> None:
    """OMP's were set by the user, MKL's are its part of the processors."""
    assert {line["OMP_NUM_THREADS"] for line in crowd.computed} == {"3"}
    (mine,) = {line["MKL_NUM_THREADS"] for line in crowd.computed}
    assert int(mine) == max(1, len(os.sched_getaffinity(0)) // 8)


def test_tests_of_several_gpus_are_skipped_with_the_reason(crowd: Said) -> None:
    """There is one."""
    assert "needs 2 GPUs, and 1 can be used here" in crowd.out
    assert "17 passed, 1 skipped" in crowd.out


OVERWRITES = """
import os
{first}
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["CUDA_VISIBLE_DEVICES"] = os.environ["PYTEST_XDIST_WORKER"][2:]
"""


@pytest.fixture(scope="module")
def pair(machine: Machine) -> Said:
    """Two workers; the caller's list has two of three GPUs, the last one first. A conftest sets the worker's number, as many do."""
    number = OVERWRITES.format(first="")
    return machine(computing(6, 0.1), "-n", "2", gpus=3, conftest=number, CUDA_VISIBLE_DEVICES="2,0")


@fault("H21")
def test_one_worker_a_gpu_in_the_order_of_the_list(pair: Said, matrix: Matrix) -> None:
    """By UUID, whatever the conftest says: the usual recipe lands on other people's GPUs. Nobody waits, readings are one's own."""
    assert pair.code == 0, pair.out
    where = {line["PYTEST_XDIST_WORKER"]: line["CUDA_VISIBLE_DEVICES"] for line in pair.computed}
    assert where == {"gw0": UUIDS[2], "gw1": UUIDS[0]}
    assert not any(line["shared"] for line in pair.computed)
    assert f"gpu: 2 workers on 2 GPUs ({UUIDS[2]}, {UUIDS[0]}): one each" in pair.out
    matrix.saw("the worker's number was overruled by the caller's list")


def test_a_worker_is_no_place_for_several_gpus(pair: Said) -> None:
    """It has one; the reason says how to run such a test."""
    assert "needs 2 GPUs at once, and a worker of xdist has one: run it with -n 0" in pair.out


MEETING = (
    SAYS
    + """
import torch
from pathlib import Path

@pytest.mark.gpu
@pytest.mark.parametrize("number", range(2))
def test_meets(number):
    Path(f"here-{number}").touch()
    deadline = time.monotonic() + 30
    while not all(Path(f"here-{n}").exists() for n in range(2)):
        assert time.monotonic() < deadline, "the other one never came"
        time.sleep(0.01)
    say()
"""
)


def test_a_budget_lets_them_share(machine: Machine) -> None:
    """Two of 20 GiB fit into 78: they compute at the same time, each held to its share by the allocator."""
    said = machine(MEETING, "-n", "2", "--llmguard-budget", "20 GiB")
    assert said.code == 0, said.out
    assert "2 at once on each, of 20.0 GiB" in said.out
    (share,) = {line["share"] for line in said.lines}
    assert share == pytest.approx(20 * GIB / (81559 * 2**20))


DIES = (
    SAYS
    + """
import torch

@pytest.mark.gpu
@pytest.mark.parametrize("number", range(2))
def test_dies(number, pytestconfig):
    gpus = pytestconfig.pluginmanager.getplugin("llmguard-placement").place.gpus
    say(number=number, gpus=gpus)
    if number == 0:
        os._exit(9)

def test_plain():
    pass
"""
)


def test_a_worker_that_dies_is_replaced_on_its_device(machine: Machine) -> None:
    """Its lock ends with it, and the one after it has its place."""
    said = machine(DIES, "-n", "1", gpus=1)
    assert "crashed while running" in said.out
    assert "1 failed, 2 passed" in said.out
    assert [(line["number"], line["gpus"]) for line in said.lines] == [(0, UUIDS[:1]), (1, UUIDS[:1])]


def test_a_device_that_is_overruled_too_late_is_an_error(machine: Machine) -> None:
    """torch is there already: no GPU test runs on a device that was not given, and each says why; others run."""
    first = "import torch"
    said = machine(DIES, "-n", "2", gpus=4, conftest=OVERWRITES.format(first=first), CUDA_VISIBLE_DEVICES="3")
    assert "1 passed, 2 errors" in said.out
    assert f"in this worker, which was given {UUIDS[3]!r}: a conftest or a plugin has set it" in said.out
    assert "Traceback" not in said.out
    assert said.lines == []


# -- in one process, on stand-ins


class Cuda:
    """What of torch.cuda a turn touches."""

    def __init__(self) -> None:
        self.pending, self.emptied, self.synchronized = "", 0, 0

    def is_available(self) -> bool:
        return True

    def is_initialized(self) -> bool:
        return True

    def device_count(self) -> int:
        return 1

    def memory_allocated(self, device: int = 0) -> int:
        return 0

    def synchronize(self, device: int = 0) -> None:
        self.synchronized += 1
        if self.pending:
            raise RuntimeError(self.pending)

    def empty_cache(self) -> None:
        self.emptied += 1


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cuda:
    """A torch that is loaded, on a machine with two GPUs."""
    fake = Cuda()
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(cuda=fake))
    monkeypatch.setattr(gpu, "ask", lambda: {"devices": 2, "kind": "cuda", "uuids": ["GPU-a", "GPU-b"]})
    gpus = (VisibleGpu("GPU-a"), VisibleGpu("GPU-b"))
    monkeypatch.setattr(placement, "gpus_here", lambda *_, **__: gpus)
    monkeypatch.setenv("LLMGUARD_LOCKS", str(tmp_path / "locks"))
    return fake


Inner = Callable[..., pytest.RunResult]
ASSERTS = "CUDA error: device-side assert triggered\\nCUDA kernel errors might be asynchronously reported"


@pytest.mark.usefixtures("cuda")
def test_a_lost_context_ends_the_gpu_tests_of_its_process(inner: Inner, pytester: pytest.Pytester) -> None:
    """They fail at once and name the test that lost it; tests without a GPU go on; nothing is green that did not run."""
    pytester.makepyfile(
        f"import pytest\n@pytest.mark.gpu\ndef test_before(): pass\n@pytest.mark.gpu\ndef test_loses(): raise RuntimeError('{ASSERTS}')\n"
        "@pytest.fixture\ndef dear(): raise AssertionError('set up')\n@pytest.mark.gpu\ndef test_after(dear): pass\n"
        "@pytest.mark.gpu_memory(leak=0)\ndef test_after_too(): pass\ndef test_plain(): pass\n"
    )
    result = inner("--gpu", "-rE")
    result.assert_outcomes(passed=2, failed=1, errors=2)
    why = "not run: the GPU context of this process was lost in *::test_loses: CUDA error: device-side assert triggered"
    result.stdout.fnmatch_lines(["*setup of test_after *", why, "*setup of test_after_too *", why])
    assert "set up" not in result.stdout.str()


@pytest.mark.parametrize(
    "text", ["CUDA out of memory. Tried to allocate 2 GiB", "shapes cannot be multiplied"]
)
@pytest.mark.usefixtures("cuda")
def test_other_errors_cost_nothing(inner: Inner, pytester: pytest.Pytester, text: str) -> None:
    """Out of memory and plain mistakes leave the context as it was."""
    pytester.makepyfile(
        f"import pytest\n@pytest.mark.gpu\ndef test_fails(): raise RuntimeError('{text}')\n@pytest.mark.gpu\ndef test_after(): pass\n"
    )
    inner("--gpu").assert_outcomes(passed=1, failed=1)


def test_a_kernel_that_fails_late_is_blamed_on_its_test(
    inner: Inner, pytester: pytest.Pytester, cuda: Cuda
) -> None:
    """The test itself passed; asking the device after it shows whose kernel it was."""
    pytester.makepyfile(
        "import pytest, torch\n@pytest.mark.gpu\n"
        "def test_late(): torch.cuda.pending = 'CUDA error: an illegal memory access was encountered'\n"
        "@pytest.mark.gpu\ndef test_after(): pass\ndef test_plain(): pass\n"
    )
    result = inner("--gpu")
    result.assert_outcomes(passed=2, errors=2)
    told = "lost in this test: CUDA error: an illegal memory access was encountered"
    assert told in result.stdout.str()
    assert (
        "lost in test_a_kernel_that_fails_late_is_blamed_on_its_test.py::test_late: CUDA error"
        in result.stdout.str()
    )
    assert cuda.emptied == 0


def test_a_test_without_a_gpu_asks_nothing(inner: Inner, pytester: pytest.Pytester, cuda: Cuda) -> None:
    """No turn, no question to the device."""
    pytester.makepyfile("def test_plain(): pass\n")
    with locked(Path(os.environ["LLMGUARD_LOCKS"]) / "gpu-GPU-a.lock"):
        inner("--gpu").assert_outcomes(passed=1)
    assert cuda.synchronized == 0


@pytest.mark.usefixtures("cuda")
def test_no_turn_in_time_is_an_error_with_the_holder(
    inner: Inner, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another session has the GPU and does not end: which one, and since when; tests without a GPU run."""
    pytester.makepyfile("import pytest\n@pytest.mark.gpu\ndef test_it(): pass\ndef test_plain(): pass\n")
    real = turns.turn
    monkeypatch.setattr(turns, "turn", lambda place: real(place, wait=0.1, patience=0.1))
    with locked(Path(os.environ["LLMGUARD_LOCKS"]) / "gpu-GPU-b.lock"):
        result = inner("--gpu")
    result.assert_outcomes(passed=1, errors=1)
    assert (
        f"not run: no turn on the GPU in time: GPU GPU-b is held by process {os.getpid()} on"
        in result.stdout.str()
    )


NESTED = """
import os, subprocess, sys
import pytest

@pytest.mark.gpu
def test_starts_another():
    code = "import os, sys; from pytest_llmguard.turns import TURN; print(bool(os.environ.get(TURN)))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "True\\n"

def test_plain():
    assert "LLMGUARD_GPU_TURN" not in os.environ
"""


@pytest.mark.usefixtures("cuda")
def test_what_a_test_starts_is_in_its_turn(
    inner: Inner, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU test that runs pytest, or a launcher that does: the inner session waits for nobody, least of all for its own test."""
    pytester.makepyfile(NESTED)
    inner("--gpu").assert_outcomes(passed=2)
    monkeypatch.setenv(turns.TURN, "1")
    pytester.makepyfile("import pytest\n@pytest.mark.gpu\ndef test_it(): pass\n")
    with locked(Path(os.environ["LLMGUARD_LOCKS"]) / "gpu-GPU-a.lock"):
        inner("--gpu").assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("marker", "outcome", "told"),
    [
        ("", {"passed": 1}, ""),
        ("(count=2)", {"passed": 1}, ""),
        ("(count=3)", {"skipped": 1}, "needs 3 GPUs, and 2 can be used here"),
        ("(count=0)", {"errors": 1}, "takes count=, a whole number of GPUs, 1 or more; got count=0"),
        ("(count='2')", {"errors": 1}, "got count='2'"),
        ("(count=True)", {"errors": 1}, "got count=True"),
        ("(2)", {"errors": 1}, "got 2"),
        ("(gpus=2)", {"errors": 1}, "got gpus"),
    ],
)
@pytest.mark.usefixtures("cuda")
def test_how_many_gpus_a_test_needs(
    inner: Inner, pytester: pytest.Pytester, marker: str, outcome: dict[str, int], told: str
) -> None:
    """Skipped with the reason where there are fewer; a wrong marker is one clean line."""
    pytester.makepyfile(f"import pytest\n@pytest.mark.gpu{marker}\ndef test_it(): pass\n")
    result = inner("--gpu", "-rs")
    result.assert_outcomes(**outcome)
    assert told in result.stdout.str()
    assert "Traceback" not in result.stdout.str()


@pytest.fixture
def sharer(cuda: Cuda, pytestconfig: pytest.Config) -> placement.Worker:
    """A worker that shares its GPU with another one."""
    place = Place(("GPU-a",), 2, 1)
    return placement.Worker(pytestconfig, {"place": place.to_json(), "caller": 1})


def test_the_cache_is_given_back_to_those_who_wait(sharer: placement.Worker, cuda: Cuda) -> None:
    """What the allocator keeps unused is no use to others; who is alone keeps it, and who has lost the device leaves it."""
    sharer._leave()
    assert cuda.emptied == 1
    sharer.lost = "somewhere"
    sharer._leave()
    assert cuda.emptied == 1
    alone = placement.Worker(sharer.config, {"place": Place(("GPU-a",)).to_json(), "caller": 1})
    alone._leave()
    assert cuda.emptied == 1


@pytest.mark.parametrize(
    ("tx", "dist", "workers"),
    [
        (["popen"] * 3, "load", 3),
        (["4*popen"], "load", 4),
        (["2*popen", "ssh=a"], "each", 3),
        (["popen"], "no", 0),
        ([], "load", 0),
    ],
)
def test_workers_are_counted_as_xdist_does(tx: list[str], dist: str, workers: int) -> None:
    """Before any is started: the header says who is where."""
    config = types.SimpleNamespace(option=types.SimpleNamespace(tx=tx, dist=dist))
    assert placement._workers(config) == workers  # type: ignore[arg-type]  # what it reads of a config


def test_a_worker_that_was_told_nothing_is_left_alone(pytestconfig: pytest.Config) -> None:
    """On another machine, or beside an older controller."""
    worker = placement.Worker(pytestconfig, {})
    assert (worker.place, worker.caller, worker.wrong) == (Place(), 0, "")


class Spec:
    """What of an execnet specification is read and written."""

    def __init__(self, popen: bool = True, **env: str) -> None:
        self.popen, self.env = popen, dict(env)


@pytest.fixture
def session(cuda: Cuda, pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch) -> placement.Session:
    """A controller on a machine with two GPUs."""
    for name in (*placement.THREADS, "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    return placement.Session(pytestconfig, gpu.ask())


def told(session: placement.Session, spec: Spec) -> dict[str, Any]:
    """What the worker of a specification is told."""
    node = types.SimpleNamespace(gateway=types.SimpleNamespace(spec=spec), workerinput={})
    session.pytest_configure_node(node)
    return dict(node.workerinput[placement.KEY])


def test_one_worker_alone_has_all_gpus(session: placement.Session) -> None:
    """Nothing is set for it, and a test of several GPUs runs there."""
    spec = Spec()
    session.pytest_xdist_setupnodes([spec])
    assert "CUDA_VISIBLE_DEVICES" not in spec.env
    assert told(session, spec)["place"]["gpus"] == ["GPU-a", "GPU-b"]
    assert told(session, spec)["value"] == ""


def test_a_device_of_ones_own_is_left(session: placement.Session) -> None:
    """`--tx popen//env:…` says where a worker is: that counts, and its lock is that device's."""
    own, other = Spec(CUDA_VISIBLE_DEVICES="1", OMP_NUM_THREADS="7"), Spec()
    session.pytest_xdist_setupnodes([own, other])
    assert (own.env["CUDA_VISIBLE_DEVICES"], own.env["OMP_NUM_THREADS"]) == ("1", "7")
    assert told(session, own)["place"]["gpus"] == ["1"]
    assert other.env["CUDA_VISIBLE_DEVICES"] == "GPU-b"


def test_workers_on_other_machines_are_not_placed(session: placement.Session) -> None:
    """This machine's list says nothing of theirs."""
    here, there = Spec(), Spec(popen=False)
    session.pytest_xdist_setupnodes([there, here])
    assert there.env == {}
    assert told(session, there) == {}


def test_other_kinds_have_their_own_variable(pytestconfig: pytest.Config, cuda: Cuda) -> None:
    """HIP's on ROCm; Apple's one GPU has none, and its workers take turns all the same."""
    specs = [Spec(), Spec(), Spec()]
    placement.Session(pytestconfig, {"devices": 2, "kind": "rocm"}).pytest_xdist_setupnodes(specs)
    assert [spec.env["HIP_VISIBLE_DEVICES"] for spec in specs] == ["GPU-a", "GPU-b", "GPU-a"]
    metal, spec = placement.Session(pytestconfig, {"devices": 1, "kind": "mps"}), Spec()
    metal.pytest_xdist_setupnodes([spec, Spec(), Spec()])
    assert not any("VISIBLE" in name for name in spec.env)
    assert told(metal, spec)["place"]["workers"] == 2


def test_the_worker_puts_its_device_back(session: placement.Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a conftest has set counts no more, while torch is not imported; later it is an error for every GPU test."""
    spec = Spec()
    session.pytest_xdist_setupnodes([spec, Spec()])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    wrong = placement.Worker(session.config, told(session, spec)).wrong
    assert "CUDA_VISIBLE_DEVICES='7' in this worker, which was given 'GPU-a'" in wrong
    monkeypatch.delitem(sys.modules, "torch")
    assert placement.Worker(session.config, told(session, spec)).wrong == ""
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-a"
