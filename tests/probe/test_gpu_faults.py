"""Group B of the matrix: drivers that hang, tools that lie, GPUs that are others; on a machine made of files, stubs and scripts."""

from __future__ import annotations

import shutil
import time

import pytest
from support.machines import Card, World, cuda_torch
from support.matrix import Matrix, fault

from llmguard import Finding, Findings, Severity
from llmguard.checks.gpu import gpu_computes_right, gpu_is_available
from llmguard.checks.gpu_build import torch_build_fits_the_gpu, visible_devices_exist
from llmguard.checks.gpu_driver import CODES, cuda_driver_starts, nvidia_smi_answers
from llmguard.checks.gpu_state import gpu_is_healthy, gpu_is_the_one_asked_for, gpu_memory_is_free
from llmguard.errors import EvidenceError, MissingEvidence
from llmguard.probe import Verdict

GB = 10**9


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
        ({"gpu_name": "NVIDIA A10"}, {"CUDA_STUB_NAME": "NVIDIA A100 80GB PCIe"}, ("NVIDIA A10 was asked for",)),
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
        ("1,1", 0, "its entry '1' is none of them, or stands there twice"),
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
