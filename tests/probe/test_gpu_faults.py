"""Group B of the matrix: drivers that hang, tools that lie, GPUs that are others; on a machine made of files, stubs and scripts."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.machines import Card, World, compile_libcuda, cuda_torch
from support.matrix import Matrix, fault

from llmguard import Finding, Findings, Severity
from llmguard.checks import gpu_state
from llmguard.checks.gpu import gpu_computes_right, gpu_is_available
from llmguard.checks.gpu_build import torch_build_fits_the_gpu, visible_devices_exist
from llmguard.checks.gpu_driver import CODES, cuda_driver_starts, nvidia_smi_answers
from llmguard.checks.gpu_state import gpu_is_healthy, gpu_is_the_one_asked_for, gpu_memory_is_free
from llmguard.errors import EvidenceError, MissingEvidence
from llmguard.probe import Verdict

GB = 10**9


@pytest.fixture(scope="session")
def libcuda(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a driver's library that does as it is told."""
    folder = compile_libcuda(tmp_path_factory.mktemp("libcuda"))
    if not folder:
        pytest.skip("no C compiler to build a libcuda.so.1 with")
    return folder


@pytest.fixture
def world(tmp_path: Path, libcuda: str) -> World:
    """A healthy machine with one H100, its driver, its tool and a torch for it."""
    return World(tmp_path, libcuda).devices().reports(Card()).torch(cuda_torch())


@pytest.fixture
def bare(tmp_path: Path) -> World:
    """A machine without a GPU, a driver or a tool; with a torch for GPUs."""
    path = f"{tmp_path / 'bin'}:/usr/bin:/bin"
    return World(tmp_path, environ={"PATH": path}).torch(cuda_torch(count=0))


def _only(findings: Findings, severity: Severity = Severity.ERROR) -> Finding:
    assert [finding.severity for finding in findings] == [severity], findings
    return findings[0]


ALL = (
    cuda_driver_starts, nvidia_smi_answers, torch_build_fits_the_gpu, visible_devices_exist, gpu_is_available,
    gpu_computes_right, gpu_memory_is_free, gpu_is_healthy,
)  # fmt: skip


def test_a_healthy_gpu_passes_every_check(world: World) -> None:
    """The negative control of everything below; all parts are started at once."""
    environment = world.environment(gpu_name="H100", gpu_count=1, gpu_memory=80 * GB)
    environment.begin(check.name for check in (*ALL, gpu_is_the_one_asked_for))
    for check in (*ALL, gpu_is_the_one_asked_for):
        found = check(environment)
        assert found == [], (check, found)
        assert found.looked_at == (0 if check is visible_devices_exist else 1), check
    assert environment.driver.cuda == (12, 4)
    assert environment.driver.devices[0].uuid == "GPU-10101010-1010-1010-1010-101010101010"
    assert environment.driver.library.endswith("/libcuda.so.1")
    assert environment.query.driver == "550.54.15"
    environment.close()


def test_a_machine_without_a_gpu_is_quiet(bare: World) -> None:
    """Every check is skipped with a reason, and nothing is started, where the project needs no GPU."""
    environment = bare.environment(gpu=False)
    environment.begin(check.name for check in (*ALL, gpu_is_the_one_asked_for))
    for check in (*ALL, gpu_is_the_one_asked_for):
        with pytest.raises(MissingEvidence, match="environment"):
            check(environment)
    assert set(environment._early) == {"torch"}
    environment.close()


def test_an_amd_gpu_is_not_asked_for_nvidias_driver(bare: World) -> None:
    """What these checks know nothing of they do not judge."""
    bare.files["/dev/kfd"] = ""
    with pytest.raises(MissingEvidence, match="AMD"):
        cuda_driver_starts(bare.environment())


@fault("B1")
def test_a_query_that_hangs_with_a_child_on_its_pipe(world: World, matrix: Matrix) -> None:
    """Bounded, although a grandchild holds its output open; the driver's own check goes on meanwhile."""
    environment = world.smi("sleep 1000000 &\nsleep 1000000").environment(query_timeout=1.0)
    environment.begin(["nvidia_smi_answers", "cuda_driver_starts"])
    started = time.monotonic()
    assert cuda_driver_starts(environment) == []
    assert time.monotonic() - started < 1.0, "the query that hangs delayed another verdict"
    found = _only(nvidia_smi_answers(environment))
    matrix.saw(environment.query.result, seconds=time.monotonic() - started)
    assert "nvidia-smi: no progress for " in found.message
    assert found.actual == "hung"
    assert "stuck" in found.message


@fault("B2")
def test_devices_without_a_tool_and_a_tool_without_devices(world: World, matrix: Matrix) -> None:
    """A container that was given half of the driver: incomplete in one case, no GPU in the other."""
    (world.folder / "bin" / "nvidia-smi").unlink()
    world.environ["PATH"] = f"{world.folder / 'bin'}:/usr/bin:/bin"
    if shutil.which("nvidia-smi", path="/usr/bin:/bin"):
        pytest.skip("this machine has an nvidia-smi of its own")
    found = _only(nvidia_smi_answers(world.environment()), Severity.WARNING)
    assert "/dev/nvidia0 are here and nvidia-smi is not on PATH" in found.message
    assert "utility" in found.remedy
    with pytest.raises(EvidenceError, match="incomplete"):
        nvidia_smi_answers(world.environment(gpu=False))
    for name in [name for name in world.files if name.startswith("/dev/")]:
        (world.folder / "root" / name.lstrip("/")).unlink()
        del world.files[name]
    environment = world.reports(Card()).environment()
    found = _only(nvidia_smi_answers(environment))
    assert "lists 1 GPUs and there are 0 device files" in found.message
    assert "--gpus" in found.remedy
    matrix.saw("incomplete; no device files", seconds=environment.query.result.seconds, deadline=1.5)


@fault("B2")
def test_nothing_of_a_gpu_is_told_once(bare: World) -> None:
    """The project needs one: the driver's check says so, the tool's points there."""
    if shutil.which("nvidia-smi", path="/usr/bin:/bin"):
        pytest.skip("this machine has an nvidia-smi of its own")
    environment = bare.environment()
    found = _only(cuda_driver_starts(environment))
    assert "libcuda.so.1 cannot be loaded" in found.message
    assert "a machine without a GPU, or a container" in found.message
    with pytest.raises(EvidenceError, match="cuda_driver_starts"):
        nvidia_smi_answers(environment)
    bare.devices()
    found = _only(cuda_driver_starts(bare.environment()))
    assert "/dev/nvidia0 are here, but the driver's library was not" in found.message


@pytest.mark.parametrize(
    ("script", "words"),
    [
        pytest.param("echo 'NVIDIA-SMI has failed because it couldn'\\''t communicate with the NVIDIA driver.'; exit 9",
                     ("status 9", "couldn't communicate", "kernel module", "modprobe"), marks=fault("B3"), id="9"),
        pytest.param("echo 'Failed to initialize NVML: Unknown Error'; exit 255", ("status 255", "Unknown Error"),
                     marks=fault("B3"), id="255"),
        pytest.param("echo 'No devices were found'; exit 6", ("status 6", "No devices were found", "it finds no GPU"),
                     marks=fault("B3"), id="6"),
        pytest.param("kill -SEGV $$", ("killed by SIGSEGV",), marks=fault("B3"), id="crash"),
    ],
)  # fmt: skip
def test_a_query_that_fails_keeps_its_message(
    world: World, matrix: Matrix, script: str, words: tuple[str, ...]
) -> None:
    """The exit status is explained and what it said is kept; without need of a GPU it is a note."""
    environment = world.smi(script).environment()
    found = _only(nvidia_smi_answers(environment))
    matrix.saw(environment.query.result)
    assert [word for word in words if word not in found.message] == [], found.message
    _only(nvidia_smi_answers(world.environment(gpu=False)), Severity.NOTE)
    for check in (gpu_memory_is_free, gpu_is_healthy):
        with pytest.raises(EvidenceError, match="nvidia_smi_answers"):
            check(environment)


@pytest.mark.parametrize(
    ("cards", "script", "words"),
    [
        pytest.param((), "echo 'Segfault in driver \x01\x02'", ("what is no report", "Segfault"), marks=fault("B4"), id="garbage"),
        pytest.param((), "echo '<html>502</html>'", ("what is no report",), marks=fault("B4"), id="other-xml"),
        pytest.param((), "printf ''", ("what is no report", "nothing"), marks=fault("B4"), id="empty"),
        pytest.param((Card(used="[N/A]"),), "", ("memory used of GPU 0",), marks=fault("B4"), id="n/a"),
        pytest.param((Card(), Card(name="[Unknown Error]", total="Unknown Error")), "",
                     ("product_name of GPU 1", "memory total of GPU 1"), marks=fault("B4"), id="unknown-error"),
    ],
)  # fmt: skip
def test_what_is_not_told_is_incomplete_and_never_passed(
    world: World, matrix: Matrix, cards: tuple[Card, ...], script: str, words: tuple[str, ...]
) -> None:
    """A warning where a GPU is needed; elsewhere skipped with the reason, not green."""
    (world.reports(*cards) if cards else world.smi(script)).devices(2)
    environment = world.environment()
    found = _only(nvidia_smi_answers(environment), Severity.WARNING)
    matrix.saw("incomplete", seconds=environment.query.result.seconds, deadline=1.5)
    assert "incomplete" in found.message
    assert [word for word in words if word not in found.message] == [], found.message
    with pytest.raises(EvidenceError, match="incomplete"):
        nvidia_smi_answers(world.environment(gpu=False))
    with pytest.raises(EvidenceError, match="nvidia_smi_answers"):
        gpu_memory_is_free(environment)


def test_warnings_around_a_report_do_not_spoil_it(world: World) -> None:
    """nvidia-smi writes them to the other stream, before and after."""
    world.smi(
        f"echo WARNING: infoROM >&2\ncat {world.folder / 'report.xml'}\necho WARNING: infoROM is corrupted at gpu 0 >&2"
    )
    assert nvidia_smi_answers(world.environment()) == []


@pytest.mark.parametrize(
    ("asked", "stub", "words"),
    [
        ({"gpu_name": "H100", "gpu_count": 2}, {"CUDA_STUB_NAME": "NVIDIA A100-SXM4-40GB"},
         ("2 GPUs were asked for and 1 are visible", "H100 was asked for and it is NVIDIA A100-SXM4-40GB")),
        ({"gpu_memory": 80 * GB}, {"CUDA_STUB_MEMORY": str(42 * GB)}, ("80 GB were asked for", "has 42.0 GB")),
        ({"gpu_name": "A10"}, {"CUDA_STUB_NAME": "NVIDIA A100 80GB PCIe"}, ("A10 was asked for",)),
    ],
    ids=["model-and-number", "memory", "prefix-of-a-name"],
)  # fmt: skip
@fault("B5")
def test_another_gpu_than_asked_for(
    world: World,
    matrix: Matrix,
    asked: dict[str, object],
    stub: dict[str, str | None],
    words: tuple[str, ...],
) -> None:
    """Every difference in one table: what was asked for beside what is here."""
    world.environ.update(stub)
    environment = world.environment(**asked)
    found = _only(gpu_is_the_one_asked_for(environment))
    matrix.saw("another GPU", seconds=environment.driver.result.seconds, deadline=1.5)
    assert [word for word in words if word not in found.message] == [], found.message
    assert found.expected
    assert found.actual


@pytest.mark.parametrize(
    ("asked", "stub"),
    [
        ({"gpu_name": "h100"}, {}),
        ({"gpu_name": "A100"}, {"CUDA_STUB_NAME": "NVIDIA A100-SXM4-80GB"}),
        ({"gpu_memory": 80 * 2**30}, {}),  # 79.2 GiB are shown
        ({"gpu_count": 4}, {"CUDA_STUB_COUNT": "4"}),
        ({"gpu_count": 2}, {"CUDA_STUB_COUNT": "4", "CUDA_VISIBLE_DEVICES": "0,3"}),
    ],
)
def test_the_gpu_that_was_asked_for(
    world: World, asked: dict[str, object], stub: dict[str, str | None]
) -> None:
    """Case, the maker's name and what firmware takes of the memory do not matter; only what is visible counts."""
    world.environ.update(stub)
    assert gpu_is_the_one_asked_for(world.environment(**asked)) == []


@fault("B6")
def test_a_driver_older_than_the_build(world: World, matrix: Matrix) -> None:
    """Told from the two versions, before anything runs: which build to take, or which driver."""
    world.environ["CUDA_STUB_VERSION"] = "12020"
    environment = world.torch(cuda_torch(cuda="13.0", arch="sm_90")).environment()
    found = _only(torch_build_fits_the_gpu(environment))
    matrix.saw("driver too old", seconds=environment.driver.result.seconds, deadline=1.5)
    assert "built for CUDA 13.0, and the driver 550.54.15 speaks CUDA 12.2" in found.message
    assert "580.65.06" in found.remedy
    assert "CUDA 12" in found.remedy


@pytest.mark.parametrize("cuda", ["12.8", "12.0", "11.8"])
def test_every_minor_version_runs_on_a_driver_of_its_major_one(world: World, cuda: str) -> None:
    """CUDA 12.8 on a driver that speaks 12.4 is fine, and so is whatever is older."""
    assert torch_build_fits_the_gpu(world.torch(cuda_torch(cuda=cuda)).environment()) == []


@pytest.mark.parametrize(
    "code", [pytest.param(code, marks=fault("B7") if code in (802, 803, 999, 100) else ()) for code in CODES]
)
def test_what_cuinit_returns_is_explained(world: World, matrix: Matrix, code: int) -> None:
    """The number, the driver's own words, a cause and a remedy; a note where no GPU is needed."""
    world.environ["CUDA_STUB_CODE"] = str(code)
    environment = world.environment()
    found = _only(cuda_driver_starts(environment))
    matrix.saw(f"cuInit returned {code}", seconds=environment.driver.result.seconds, deadline=1.5)
    assert f"cuInit returned {code} (CUDA_ERROR_OF_THE_STUB: as it was told)" in found.message
    assert CODES[code][0] in found.message
    _only(cuda_driver_starts(world.environment(gpu=False)), Severity.NOTE)
    with pytest.raises(EvidenceError, match="cuda_driver_starts"):
        torch_build_fits_the_gpu(environment)


@fault("B8")
def test_a_driver_that_hangs_while_its_tool_is_healthy(world: World, matrix: Matrix) -> None:
    """In cuInit, by name; nvidia-smi passes at once beside it."""
    world.environ["CUDA_STUB_HANG"] = "1"
    environment = world.environment(driver_timeout=1.0)
    started = time.monotonic()
    environment.begin(["cuda_driver_starts", "nvidia_smi_answers"])
    assert nvidia_smi_answers(environment) == []
    assert time.monotonic() - started < 1.0
    found = _only(cuda_driver_starts(environment))
    matrix.saw(environment.driver.result, seconds=time.monotonic() - started)
    assert environment.driver.result.verdict is Verdict.HUNG
    assert "it was in cuInit" in found.message
    assert "nvidia-smi may look healthy" in found.message


def test_a_driver_that_crashes_is_told(world: World) -> None:
    """A crash is no hang and no missing driver."""
    world.environ["CUDA_STUB_CRASH"] = "1"
    found = _only(cuda_driver_starts(world.environment()))
    assert "killed by SIGABRT" in found.message


@pytest.mark.parametrize(
    ("torch", "words"),
    [
        (
            {"count": 0},
            ("device count 0, although the driver shows 1 (NVIDIA H100", "the driver works without torch"),
        ),
        (
            {"init": "raise RuntimeError('The NVIDIA driver on your system is too old')"},
            ("older than the CUDA version",),
        ),
    ],
)
@fault("B9")
def test_torch_sees_no_gpu_although_the_driver_does(
    world: World, matrix: Matrix, torch: dict[str, object], words: tuple[str, ...]
) -> None:
    """Both counts side by side, and what that can mean."""
    environment = world.torch(cuda_torch(**torch)).environment()  # type: ignore[arg-type]  # by name
    found = _only(gpu_is_available(environment))
    matrix.saw("torch sees none, the driver does", seconds=environment.uses_gpu.result.seconds, deadline=1.5)
    assert [word for word in words if word not in found.message] == [], found.message
    with pytest.raises(EvidenceError, match="gpu_is_available"):
        gpu_computes_right(environment)


@pytest.mark.parametrize(
    ("value", "left", "said"),
    [
        ("", 0, "it is empty"),
        ("4", 0, "its entry '4' is none of them"),
        ("0,7", 1, "its entry '7' is none of them"),
        ("GPU-deadbeef-0000-0000-0000-000000000000", 0, "its entry 'GPU-deadbeef"),
        ("NoDevFiles", 0, "its entry 'NoDevFiles'"),
        ("1,1", 1, "or stands there twice"),
        ("-1", 0, "its entry '-1'"),
    ],
)
@fault("B10")
def test_devices_that_are_not_there_are_named(
    world: World, matrix: Matrix, value: str, left: int, said: str
) -> None:
    """CUDA takes the list up to its first wrong entry and says nothing."""
    world.environ |= {"CUDA_VISIBLE_DEVICES": value, "CUDA_STUB_COUNT": "2"}
    environment = world.environment()
    found = _only(visible_devices_exist(environment))
    matrix.saw("CUDA_VISIBLE_DEVICES is not valid", seconds=environment.driver.result.seconds, deadline=1.5)
    assert f"={value!r} leaves {left} of 2 GPUs" in found.message
    assert said in found.message
    _only(visible_devices_exist(world.environment(gpu=False)), Severity.NOTE)


@pytest.mark.parametrize(
    "value", ["0", "1,0", " 0 , 1 ", "GPU-11111111-1111-1111-1111-111111111111", "gpu-1010,GPU-1111", None]
)
def test_devices_that_are_there_pass(world: World, value: str | None) -> None:
    """In any order, by number or by the beginning of a UUID; or not set at all, which is nothing to judge."""
    world.environ |= {"CUDA_VISIBLE_DEVICES": value, "CUDA_STUB_COUNT": "2"}
    found = visible_devices_exist(world.environment())
    assert found == []
    assert found.looked_at == (0 if value is None else len(value.split(",")))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory settles in less time."""
    monkeypatch.setattr(gpu_state, "PAUSE_SECONDS", 0.05)


@fault("B11")
@pytest.mark.usefixtures("quick")
def test_memory_that_others_hold_is_named_with_its_holders(world: World, matrix: Matrix) -> None:
    """A living process by its name, one that is gone as such, and one that nobody shows."""
    world.files["/proc/4242/stat"] = "4242 (python) S 1 "
    held = Card(used="57000 MiB", processes=((4242, "python", "50000 MiB"), (31337, "vllm", "6900 MiB")))
    environment = world.reports(held).environment()
    found = _only(gpu_memory_is_free(environment), Severity.WARNING)
    matrix.saw("memory is held by others", seconds=environment.query.result.seconds, deadline=1.5)
    assert "55.7 of 79.6 GiB" in found.message
    assert "python (4242, 48.8 GiB)" in found.message
    assert "vllm (31337, 6.7 GiB, no such process here" in found.message
    unseen = gpu_memory_is_free(world.reports(Card(used="57000 MiB")).environment())
    assert "by no process that nvidia-smi shows" in _only(unseen, Severity.WARNING).message
    short = gpu_memory_is_free(world.environment(gpu_memory=80 * GB))
    _only(short, Severity.ERROR)
    _only(gpu_memory_is_free(world.environment(gpu=False)), Severity.NOTE)


@fault("B12")
@pytest.mark.usefixtures("quick")
def test_memory_that_is_being_given_back_is_waited_for(world: World, matrix: Matrix) -> None:
    """Each look shows less: no finding in the end."""
    for number, used in enumerate((60_000, 60_000, 40_000, 20_000, 500)):
        world.reports(Card(used=f"{used} MiB"))
        (world.folder / "report.xml").rename(world.folder / f"report-{number}.xml")
    count = world.folder / "count"
    world.smi(
        f"n=$(cat {count} 2>/dev/null || echo 0)\necho $((n + 1)) > {count}\n[ $n -gt 4 ] && n=4\ncat {world.folder}/report-$n.xml"
    )
    started = time.monotonic()
    environment = world.environment()
    assert gpu_memory_is_free(environment) == []
    matrix.saw("waited for, passed", seconds=time.monotonic() - started, deadline=gpu_state.SETTLE_SECONDS)
    assert int(count.read_text()) == 5
    assert environment.query.cards[0].used == 60_000 * 2**20, "the fault did not fire"


ECC = (
    "<ecc_errors><volatile><sram_correctable>3</sram_correctable><sram_uncorrectable_parity>{sram}</sram_uncorrectable_parity>"
    "<dram_uncorrectable>{dram}</dram_uncorrectable></volatile></ecc_errors>"
)
ROWS = (
    "<remapped_rows><remapped_row_pending>{pending}</remapped_row_pending>"
    "<remapped_row_failure>No</remapped_row_failure></remapped_rows>"
)
SLOW = (
    "<clocks_event_reasons><clocks_event_reason_gpu_idle>Active</clocks_event_reason_gpu_idle>"
    "<clocks_event_reason_hw_thermal_slowdown>{hot}</clocks_event_reason_hw_thermal_slowdown></clocks_event_reasons>"
)
XID = (
    "4,812,{at},-;NVRM: Xid (PCI:0000:3b:00): {number}, pid=4242, name=python, GPU has fallen off the bus.\n"
)
UPTIME = {"/proc/uptime": "7200.00 14000.00\n"}


@pytest.mark.parametrize(
    ("more", "files", "severity", "words"),
    [
        (ECC.format(sram=0, dram=2), {}, Severity.ERROR, ("2 uncorrected memory errors", "reset")),
        (ROWS.format(pending="Yes"), {}, Severity.ERROR, ("waits to be remapped",)),
        ("<gpu_reset_status><reset_required>Yes</reset_required></gpu_reset_status>", {}, Severity.ERROR, ("it asks to be reset",)),
        (SLOW.format(hot="Active"), {}, Severity.WARNING, ("slowed down: too hot",)),
        ("", {"/dev/kmsg": XID.format(at=3_600_000_000, number=79), **UPTIME}, Severity.WARNING, ("Xid 79", "1.0 hours ago", "restart")),
    ],
    ids=["ecc", "remap", "reset", "throttle", "xid"],
)  # fmt: skip
@fault("B13")
def test_a_gpu_that_is_ill_is_named(
    world: World, matrix: Matrix, more: str, files: dict[str, str], severity: Severity, words: tuple[str, ...]
) -> None:
    """With what to have done about it."""
    world.files |= files
    environment = world.reports(Card(more=more)).environment()
    found = _only(gpu_is_healthy(environment), severity)
    matrix.saw("unhealthy", seconds=environment.query.result.seconds, deadline=1.5)
    assert [word for word in words if word not in found.message] == [], found.message


def test_a_gpu_that_is_well_passes(world: World) -> None:
    """Corrected errors, idle clocks, and errors that a program has caused (Xid 13, 43) are no illness."""
    world.files |= {"/dev/kmsg": XID.format(at=1, number=43) + XID.format(at=2, number=13), **UPTIME}
    more = ECC.format(sram=0, dram=0) + ROWS.format(pending="No") + SLOW.format(hot="Not Active")
    environment = world.reports(Card(more=more)).environment()
    assert gpu_is_healthy(environment) == []
    assert len(environment.host.xids()) == 2


@fault("B14")
def test_slices_are_known_as_such(world: World, matrix: Matrix) -> None:
    """A MIG slice has the name of the whole GPU and a part of its memory; what it does not tell is no fault."""
    world.environ |= {"CUDA_STUB_NAME": "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "CUDA_STUB_MEMORY": str(10 * GB)}
    world.reports(Card(mig="Enabled", used="[N/A]", total="[N/A]"))
    environment = world.environment(gpu_name="H100", gpu_memory=80 * GB)
    assert nvidia_smi_answers(environment) == []
    assert gpu_memory_is_free(environment) == []
    found = _only(gpu_is_the_one_asked_for(environment))
    matrix.saw("a slice of the GPU", seconds=environment.driver.result.seconds, deadline=1.5)
    assert "80 GB were asked for" in found.message
    assert "it is a slice of one" in found.message
    world.environ |= {"CUDA_STUB_NAME": "GRID A100-10C"}
    virtual = world.environment(gpu_name="A100", gpu_memory=40 * GB)
    assert "it is a slice of one" in _only(gpu_is_the_one_asked_for(virtual)).message
    world.environ["CUDA_VISIBLE_DEVICES"] = "MIG-5f1f2f3f-0000-0000-0000-000000000000"
    assert "cannot confirm" in _only(visible_devices_exist(world.environment()), Severity.WARNING).message


@pytest.mark.parametrize(
    ("arch", "sm", "fine"),
    [
        pytest.param("sm_80 sm_90", 120, False, marks=fault("B15")),
        pytest.param("sm_90 sm_100", 70, False, marks=fault("B15")),
        pytest.param("sm_90a", 120, False, marks=fault("B15")),
        ("sm_80 sm_90", 89, True),
        ("sm_80 compute_90", 120, True),
        ("sm_90", 90, True),
        ("sm_90a", 90, True),
        ("sm_120f", 121, True),
        ("", 120, True),  # a build that does not tell is not accused
    ],
)
def test_a_build_without_code_for_the_gpu(
    world: World, matrix: Matrix, arch: str, sm: int, fine: bool
) -> None:
    """Binaries run within their generation, PTX on whatever is newer; "a" is for one GPU alone."""
    world.environ["CUDA_STUB_SM"] = str(sm)
    environment = world.torch(cuda_torch(arch=arch)).environment()
    findings = torch_build_fits_the_gpu(environment)
    assert bool(findings) is not fine
    if findings:
        assert f"has no code for NVIDIA H100 80GB HBM3 (sm_{sm})" in _only(findings).message
        matrix.saw("no code for this GPU", seconds=environment.driver.result.seconds, deadline=1.5)


@fault("B16")
def test_nothing_to_ask_with_is_incomplete(world: World, matrix: Matrix) -> None:
    """The driver works, its tool is not here: memory and health are not judged, and not called good."""
    (world.folder / "bin" / "nvidia-smi").unlink()
    world.environ["PATH"] = f"{world.folder / 'bin'}:/usr/bin:/bin"
    if shutil.which("nvidia-smi", path="/usr/bin:/bin"):
        pytest.skip("this machine has an nvidia-smi of its own")
    environment = world.environment()
    assert cuda_driver_starts(environment) == []
    assert "incomplete" in _only(nvidia_smi_answers(environment), Severity.WARNING).message
    for check in (gpu_memory_is_free, gpu_is_healthy):
        with pytest.raises(EvidenceError, match="tells nothing"):
            check(environment)
    matrix.saw("incomplete", seconds=environment.query.result.seconds, deadline=1.5)


@fault("B17")
@pytest.mark.usefixtures("quick")
def test_a_gpu_for_one_process_that_has_one(world: World, matrix: Matrix) -> None:
    """Exclusive mode is fine while the GPU is free."""
    world.reports(Card(mode="Exclusive_Process", processes=((4242, "python", "500 MiB"),)))
    environment = world.environment()
    found = _only(gpu_memory_is_free(environment))
    matrix.saw("exclusive and busy", seconds=environment.query.result.seconds, deadline=1.5)
    assert "is in compute mode Exclusive_Process, and it has one: by python (4242" in found.message
    assert gpu_memory_is_free(world.reports(Card(mode="Exclusive_Process")).environment()) == []
    assert (
        "Prohibited"
        in _only(gpu_memory_is_free(world.reports(Card(mode="Prohibited")).environment())).message
    )


# -- torch's own start of CUDA, and the first kernel


@pytest.mark.parametrize(
    ("torch", "words"),
    [
        ({"count": 0}, ("device count 0",)),
        (
            {"init": "raise RuntimeError('Found no NVIDIA driver on your system.')"},
            ("no NVIDIA driver", "--gpus"),
        ),
        (
            {"init": "raise RuntimeError('CUDA error: no kernel image is available')"},
            ("this generation of GPUs",),
        ),
        ({"init": "raise RuntimeError('CUDA error: out of memory')"}, ("another process holds the memory",)),
        (
            {"init": "import time; time.sleep(1e6)"},
            ("start of CUDA by torch: no progress for 1.", "a driver that is stuck"),
        ),
    ],
    ids=["none", "no-driver", "no-kernel", "out-of-memory", "hangs"],
)
def test_a_start_of_cuda_that_fails_is_named(
    bare: World, torch: dict[str, str | int], words: tuple[str, ...]
) -> None:
    """A missing GPU, a driver that hangs and one that refuses are different things."""
    found = _only(gpu_is_available(bare.torch(cuda_torch(**torch)).environment()))  # type: ignore[arg-type]  # by name
    assert [word for word in words if word not in found.message] == [], found.message


@pytest.mark.parametrize(
    ("torch", "words"),
    [
        (
            {"kernel": "import time; time.sleep(1e6)"},
            ("Fake GPU does not come back", "no progress for 1.", "hangs at the first step"),
        ),
        ({"synchronize": "import time; time.sleep(1e6)"}, ("Fake GPU does not come back",)),
        (
            {"kernel": "raise RuntimeError('CUDA error: CUBLAS_STATUS_NOT_INITIALIZED')"},
            ("fails at its first", "cuBLAS"),
        ),
        (
            {"kernel": "raise RuntimeError('CUDA error: no kernel image is available')"},
            ("this generation of GPUs",),
        ),
        ({"product": 63.5}, ("Fake GPU gives 63.5", "64.0", "dcgmi")),
    ],
    ids=["hangs", "never-done", "cublas", "no-kernel", "wrong"],
)
def test_a_first_computation_that_fails_is_named(
    bare: World, torch: dict[str, str | float], words: tuple[str, ...]
) -> None:
    """CUDA starts, so its own check passes; the computation has a verdict of its own."""
    environment = bare.torch(cuda_torch(**torch)).environment()  # type: ignore[arg-type]  # by name
    environment.begin(["gpu_is_available", "gpu_computes_right"])
    assert gpu_is_available(environment) == []
    found = _only(gpu_computes_right(environment))
    assert [word for word in words if word not in found.message] == [], found.message


def test_every_gpu_is_computed_on(bare: World) -> None:
    """Four devices, four products."""
    environment = bare.torch(cuda_torch(count=4)).environment()
    assert gpu_computes_right(environment).looked_at == 4
    assert environment.computes.products == (64.0,) * 4


@fault("G7")
def test_a_build_for_the_processor_on_a_machine_with_a_gpu(bare: World, matrix: Matrix) -> None:
    """An error where the project needs the GPU, a note where it is merely there; nothing is started on it."""
    cpu = "class Tensor: pass\n__version__ = '2.13.0+cpu'\nclass version:\n    cuda = None\n    hip = None\n"
    environment = bare.torch(cpu).environment()
    found = _only(torch_build_fits_the_gpu(environment))
    matrix.saw("torch is built for the processor", seconds=environment.torch.result.seconds, deadline=1.5)
    assert "torch 2.13.0+cpu is built without CUDA and ROCm, and the project asks for a GPU" in found.message
    with pytest.raises(EvidenceError, match="torch_build_fits_the_gpu"):
        gpu_is_available(environment)
    assert {"uses_gpu", "driver"} & set(environment.__dict__) == set()
    bare.devices()
    noted = _only(torch_build_fits_the_gpu(bare.environment(gpu=False)), Severity.NOTE)
    assert "this machine has a GPU" in noted.message


def test_a_build_for_rocm_is_a_build_for_gpus(bare: World) -> None:
    """NVIDIA's driver is not asked then."""
    rocm = cuda_torch().replace("cuda = '12.4'", "cuda = None").replace("hip = None", "hip = '6.2'")
    environment = bare.torch(rocm).environment()
    assert torch_build_fits_the_gpu(environment) == []
    assert "driver" not in environment.__dict__
    assert gpu_is_available(environment) == []


@pytest.mark.parametrize("check", [gpu_is_available, gpu_computes_right])
def test_a_gpu_is_not_used_where_nobody_asked_or_torch_is_broken(
    bare: World, check: Callable[..., Findings]
) -> None:
    """Skipped with the line to add; skipped with the check that tells why."""
    with pytest.raises(MissingEvidence, match="gpu = true"):
        check(bare.environment(gpu=False))
    with pytest.raises(EvidenceError, match="torch_imports_in_time"):
        check(bare.torch("raise ImportError('broken')").environment())


def test_what_nobody_asks_for_is_ended(bare: World) -> None:
    """Started early, never looked at: closing ends it, and what it was is not started again."""
    environment = bare.torch("import time\ntime.sleep(1e6)").environment()
    environment.begin(["torch_imports_in_time"])
    environment.begin(["torch_imports_in_time"])
    assert set(environment._early) == {"torch"}
    probe = environment._early["torch"]
    environment.close()
    assert probe.wait().verdict is Verdict.CANCELLED  # type: ignore[union-attr]  # a probe
