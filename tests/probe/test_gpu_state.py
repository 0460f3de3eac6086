"""Group B of the matrix: memory that others hold, GPUs that are ill, slices, builds without code; and the first computation."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable

import pytest
from support.machines import Card, World, cuda_torch
from support.matrix import Matrix, fault

from llmguard import Finding, Findings, Severity
from llmguard.checks import gpu_state
from llmguard.checks.gpu import gpu_computes_right, gpu_is_available
from llmguard.checks.gpu_build import torch_build_fits_the_gpu, visible_devices_exist
from llmguard.checks.gpu_driver import cuda_driver_starts, nvidia_smi_answers
from llmguard.checks.gpu_state import gpu_is_healthy, gpu_is_the_one_asked_for, gpu_memory_is_free
from llmguard.errors import EvidenceError, MissingEvidence
from llmguard.probe import Verdict

GB = 10**9


def _only(findings: Findings, severity: Severity = Severity.ERROR) -> Finding:
    assert [finding.severity for finding in findings] == [severity], findings
    return findings[0]


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
