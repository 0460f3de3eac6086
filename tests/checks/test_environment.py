"""Environment: what an import of torch, a GPU and the limits of a machine say, and what a person is told."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from llmguard import Audit, Finding, Findings, Project, Severity, load_project, probe
from llmguard.catalogue import CHECKS
from llmguard.checks.environment import (
    gpu_is_available,
    open_file_limit_is_enough,
    python_is_supported,
    torch_imports_in_time,
)
from llmguard.checks.torch_import import cause_and_remedy
from llmguard.errors import EvidenceError, MissingEvidence
from llmguard.evidence import Evidence
from llmguard.probe import Failure, ProbeResult, Verdict
from llmguard.probe.environment import Environment, Folder, Gpu, Torch

FINE = "class Tensor: pass\n__version__ = '9.9.9'\n"
NO_SITE_PACKAGES = "import sys\nsys.path[:] = [path for path in sys.path if 'site-packages' not in path]\n"


def _world(tmp_path: Path, **files: str) -> tuple[str, dict[str, str | None]]:
    """A project folder, and an environment whose first library folder holds these files (`torch/__init__.py` as `torch`)."""
    project, library = tmp_path / "project", tmp_path / "library"
    project.mkdir()
    library.mkdir()
    for name, text in files.items():
        home = library / name
        home.mkdir()
        (home / "__init__.py").write_text(text)
    return str(project), {"PYTHONPATH": str(library)}


def _only(findings: Findings) -> Finding:
    assert len(findings) == 1, findings
    return findings[0]


def _given(**facts: object) -> Environment:
    """An environment that has been tried already, with these results."""
    found = Environment("/project", gpu=True, torch_needed_by="[pipeline] trainer")
    found.__dict__.update(facts)
    return found


def _result(verdict: Verdict = Verdict.OK, **other: object) -> ProbeResult:
    return ProbeResult(verdict, "first use of the GPU", 1.0, 900.0, **other)  # type: ignore[arg-type]  # fields by name


@pytest.mark.needs_torch
def test_the_installed_torch_imports(tmp_path: Path) -> None:
    """The real one, in its child: no finding, and it is not in this process because of it."""
    before = "torch" in sys.modules
    environment = Environment(str(tmp_path), import_timeout=60)
    assert torch_imports_in_time(environment) == []
    assert environment.torch.tensor
    assert environment.torch.version
    assert ("torch" in sys.modules) == before


def test_a_healthy_import_is_tried_once(tmp_path: Path) -> None:
    """Two checks share one probe."""
    folder, environ = _world(tmp_path, torch=FINE)
    environment = Environment(folder, environ=environ)
    assert torch_imports_in_time(environment) == []
    assert environment.torch is environment.torch
    assert torch_imports_in_time(environment).looked_at == 1


def test_a_hang_is_an_error_with_its_place(tmp_path: Path) -> None:
    """Where, for how long, why it matters, what to do."""
    folder, environ = _world(tmp_path, torch="import time\n\ntime.sleep(1e6)\n")
    environment = Environment(folder, import_timeout=1.0, environ=environ, torch_wanted_by="[model] path")
    found = _only(torch_imports_in_time(environment))
    assert found.severity is Severity.ERROR
    assert found.where.file == str(tmp_path / "library" / "torch" / "__init__.py")
    assert found.where.line == 3
    assert "no progress for 1." in found.message
    assert "Why it matters" in found.message
    assert found.remedy
    assert found.actual == "hung"
    assert "torch/__init__.py" in found.evidence["stack"]


@pytest.mark.parametrize(
    ("needs", "severity"),
    [
        ({"torch_needed_by": "[pipeline] trainer"}, Severity.ERROR),
        ({"torch_wanted_by": "[model] path"}, Severity.WARNING),
        ({}, Severity.NOTE),
    ],
)
def test_a_missing_torch_is_as_bad_as_it_is_needed(
    tmp_path: Path, needs: dict[str, str], severity: Severity
) -> None:
    """A project that only checks text and tokens may do without."""
    folder, environ = _world(tmp_path)
    (tmp_path / "library" / "sitecustomize.py").write_text(NO_SITE_PACKAGES)
    found = _only(torch_imports_in_time(Environment(folder, environ=environ, **needs)))
    assert found.severity is severity
    assert "torch is not installed" in found.message
    assert next(iter(needs.values()), "nothing in the project file needs it") in found.message


def test_a_broken_torch_nobody_needs_is_a_warning(tmp_path: Path) -> None:
    """Without a project file the environment alone is looked at."""
    folder, environ = _world(
        tmp_path, torch="raise ImportError('libcudart.so.12: cannot open shared object file')"
    )
    found = _only(torch_imports_in_time(Environment(folder, environ=environ)))
    assert found.severity is Severity.WARNING
    assert "libcudart.so.12 comes with the nvidia packages" in found.message


@pytest.mark.parametrize(
    "text",
    [FINE, "x = 1\n", "import torch.nn\n", "def broken(:\n"],
    ids=["works", "empty", "breaks", "syntax"],
)
def test_a_file_named_torch_in_the_project_is_found(tmp_path: Path, text: str) -> None:
    """Whether or not its import works: every `import torch` of the project gets it."""
    folder, environ = _world(tmp_path, torch=FINE)
    shadow = Path(folder, "torch.py")
    shadow.write_text(text)
    found = _only(
        torch_imports_in_time(Environment(folder, environ=environ, torch_needed_by="[pipeline] trainer"))
    )
    assert found.severity is Severity.ERROR
    assert str(shadow) in found.message
    assert "rename it" in found.remedy


def test_an_empty_folder_named_torch_is_found(tmp_path: Path) -> None:
    """Where torch is not installed, a folder of that name imports without an error and is empty."""
    folder, environ = _world(tmp_path)
    (tmp_path / "library" / "sitecustomize.py").write_text(NO_SITE_PACKAGES)
    Path(folder, "torch").mkdir()
    found = _only(torch_imports_in_time(Environment(folder, environ=environ)))
    assert found.severity is Severity.ERROR
    assert "it has no Tensor" in found.message
    assert found.actual == f"{folder}/torch"


def test_a_file_that_shadows_the_standard_library_is_found(tmp_path: Path) -> None:
    """`queue.py` beside the project file breaks the import of torch with an error that does not name it."""
    folder, environ = _world(tmp_path, torch="import queue\nqueue.Queue\nclass Tensor: pass\n")
    Path(folder, "queue.py").write_text("jobs = []\n")
    environment = Environment(folder, environ=environ, torch_needed_by="[pipeline] trainer")
    found = _only(torch_imports_in_time(environment))
    assert "queue.py in the project's folder is imported in the place of a library" in found.message
    Path(folder, "queue.py").rename(Path(folder, "jobs.py"))
    assert torch_imports_in_time(Environment(folder, environ=environ)) == []


def test_a_virtual_environment_in_the_project_is_no_shadow(tmp_path: Path) -> None:
    """The library may lie below the project's folder."""
    project = tmp_path / "project"
    library = project / ".venv" / "lib" / "site-packages" / "torch"
    library.mkdir(parents=True)
    (library / "__init__.py").write_text(FINE)
    environment = Environment(str(project), environ={"PYTHONPATH": str(library.parent)})
    assert torch_imports_in_time(environment) == []
    assert environment.torch.file == str(library / "__init__.py")


def test_a_slow_import_is_a_warning(tmp_path: Path) -> None:
    """It moved all the time, so it is not hung; it is told all the same."""
    steps = "import time, importlib\nfor n in range(10):\n    time.sleep(0.12)\n    importlib.import_module(f'torch.part_{n}')\n"
    folder, environ = _world(tmp_path, torch=FINE + steps)
    for number in range(10):
        (tmp_path / "library" / "torch" / f"part_{number}.py").touch()
    found = _only(torch_imports_in_time(Environment(folder, import_timeout=0.8, environ=environ)))
    assert found.severity is Severity.WARNING
    assert "importing torch took 1 s for 1" in found.message


def test_a_process_left_alive_is_a_warning(tmp_path: Path) -> None:
    """It would keep ports and GPU memory after the run."""
    folder, environ = _world(
        tmp_path, torch=FINE + "import subprocess\nsubprocess.Popen(['sleep', '1000000'])\n"
    )
    found = _only(torch_imports_in_time(Environment(folder, environ=environ)))
    assert found.severity is Severity.WARNING
    assert "left 1 processes alive: sleep" in found.message


@pytest.mark.parametrize(
    ("failure", "cause", "remedy"),
    [
        (Failure(("ImportError",), "libcudnn.so.9: cannot open shared object file"), "nvidia packages", "reinstall torch"),
        (Failure(("ImportError",), "libGL.so.1: cannot open shared object file"), "system library libGL.so.1", "system package"),
        (Failure(("ImportError",), "x.so: undefined symbol: ncclX"), "two versions of one native library", "reinstall"),
        (Failure(("OSError",), "version `GLIBCXX_3.4.32' not found"), "it has no GLIBCXX_3.4.32", "newer system image"),
        (Failure(("ImportError",), "partially initialized module (circular import)"), "half one version", "reinstall"),
        (Failure(("ModuleNotFoundError", "ImportError"), "x", name="sympy"), "sympy is not installed", "install sympy"),
        (Failure(("OSError",), "x", errno=5), "the disk or the network volume", "local disk"),
        (Failure(("ValueError",), "x"), "an installation that is damaged", "reinstall"),
    ],
)  # fmt: skip
def test_exceptions_have_causes_and_remedies(failure: Failure, cause: str, remedy: str) -> None:
    """The classes of broken installations that people report."""
    found = cause_and_remedy(Torch(_result(Verdict.IMPORT_ERROR, failure=failure)), "/project")
    assert cause in found[0]
    assert remedy in found[1]


@pytest.mark.parametrize("verdict", [verdict for verdict in Verdict if verdict is not Verdict.OK])
def test_every_verdict_has_a_cause_and_a_remedy(verdict: Verdict) -> None:
    """A person who reads it knows what to try."""
    cause, remedy = cause_and_remedy(Torch(_result(verdict)), "/project")
    assert cause
    assert remedy


def test_signals_have_causes() -> None:
    """An illegal instruction is the processor's, a kill came from outside."""
    assert "newer processor" in cause_and_remedy(Torch(_result(Verdict.CRASHED, signal=4)), "/")[0]
    assert "from outside" in cause_and_remedy(Torch(_result(Verdict.CRASHED, signal=9)), "/")[0]
    assert "native libraries" in cause_and_remedy(Torch(_result(Verdict.CRASHED, signal=11)), "/")[0]


CUDA = """
class version:
    cuda = "12.4"
    hip = None
class _Product:
    def __matmul__(self, other): return self
    def __getitem__(self, key): return self
    def item(self): return {product}
def ones(*shape, device): return _Product()
class cuda:
    is_available = staticmethod(lambda: {count} > 0)
    device_count = staticmethod(lambda: {count})
    get_device_name = staticmethod(lambda number: "Fake GPU")
    @staticmethod
    def init():
        {init}
"""


def _gpu_world(tmp_path: Path, count: int = 1, product: float = 64.0, init: str = "pass") -> Environment:
    text = FINE + CUDA.format(count=count, product=product, init=init)
    folder, environ = _world(tmp_path, torch=text)
    return Environment(folder, gpu=True, import_timeout=1.0, environ=environ)


def test_a_working_gpu_passes(tmp_path: Path) -> None:
    """Found, and 64 is 64."""
    assert gpu_is_available(_gpu_world(tmp_path)) == []


@pytest.mark.parametrize(
    ("world", "words"),
    [
        ({"count": 0}, ("device count 0", "a container without it")),
        ({"init": "raise RuntimeError('Found no NVIDIA driver on your system.')"}, ("no NVIDIA driver", "--gpus")),
        ({"init": "raise RuntimeError('The NVIDIA driver on your system is too old')"}, ("older than the CUDA version",)),
        ({"init": "raise RuntimeError('CUDA error: no kernel image is available')"}, ("this generation of GPUs",)),
        ({"init": "raise RuntimeError('CUDA error: out of memory')"}, ("another process holds the memory",)),
        ({"init": "import time; time.sleep(1e6)"}, ("no progress for 1.", "a driver that is stuck")),
        ({"product": 63.5}, ("Fake GPU gives 63.5", "64.0")),
    ],
    ids=["none", "no-driver", "old-driver", "no-kernel", "out-of-memory", "hangs", "wrong"],
)  # fmt: skip
def test_a_gpu_that_does_not_work_is_named(
    tmp_path: Path, world: dict[str, object], words: tuple[str, ...]
) -> None:
    """A missing GPU, a driver that hangs and one that calculates wrongly are different things."""
    found = _only(gpu_is_available(_gpu_world(tmp_path, **world)))  # type: ignore[arg-type]  # by name
    assert found.severity is Severity.ERROR
    assert [word for word in words if word not in found.message] == [], found.message


def test_a_build_for_the_processor_is_no_build_for_a_gpu() -> None:
    """Nothing is started on the GPU then."""
    cpu = _given(torch=Torch(_result(), version="2.13.0+cpu", file="/x/torch/__init__.py", tensor=True))
    found = _only(gpu_is_available(cpu))
    assert "torch 2.13.0+cpu is built without CUDA" in found.message
    assert "uses_gpu" not in cpu.__dict__
    rocm = _given(
        torch=Torch(_result(), tensor=True, hip="6.2"), uses_gpu=Gpu(_result(), True, 1, ("MI300",), "", 64.0)
    )
    assert gpu_is_available(rocm) == []


def test_a_gpu_nobody_asked_for_is_not_looked_at() -> None:
    """Skipped with the line to add; skipped with the check that tells why where torch is broken."""
    with pytest.raises(MissingEvidence, match="gpu = true"):
        gpu_is_available(Environment("/project"))
    with pytest.raises(EvidenceError, match="torch_imports_in_time"):
        gpu_is_available(_given(torch=Torch(_result(Verdict.HUNG))))


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
    """A low limit is a warning, a hopeless one an error."""
    found = open_file_limit_is_enough(_given(open_files=limits))
    assert [finding.severity for finding in found] == ([severity] if severity else [])
    if limits == (1000, 4096):
        assert "run `ulimit -n 4096`" in found[0].remedy


def test_the_limit_is_the_one_in_force(tmp_path: Path) -> None:
    """Seen from within a process that was really limited."""
    code = (
        "from llmguard.checks.environment import open_file_limit_is_enough\n"
        "from llmguard.probe.environment import Environment\n"
        "report([str(finding.message) for finding in open_file_limit_is_enough(Environment('/'))])"
    )
    told = probe.run(code, timeout=60, limits=probe.Limits(open_files=64))
    assert told.ok, told
    assert len(told.payload) == 1
    assert "may have 64 files open" in told.payload[0]


@pytest.mark.parametrize(
    ("version", "fine"),
    [((3, 9), False), ((3, 10), True), ((3, 13), True), ((3, 14), False), ((4, 0), False)],
)
def test_interpreters_outside_the_range_are_told(version: tuple[int, int], fine: bool) -> None:
    """Both ends of the range belong to it."""
    found = python_is_supported(Environment("/project", python=version))
    assert bool(found) is not fine
    assert all(finding.severity is Severity.WARNING for finding in found)


def test_this_interpreter_is_the_default() -> None:
    """What is looked at is what runs."""
    assert Environment("/project").python == sys.version_info[:2]


def _provided(tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> Environment:
    """What the provider makes of a project file."""
    monkeypatch.delenv("MODEL_PATH", raising=False)
    (tmp_path / "llmguard.toml").write_text(text)
    found = Evidence(load_project(tmp_path / "llmguard.toml")).get("environment")
    assert isinstance(found, Environment)
    return found


def test_the_project_file_says_what_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths are resolved from its folder; nothing is tried before a check asks."""
    text = """
[model]
path = "base"
[pipeline]
collate = "train:collator"
[environment]
output_dir = "out"
cache_dirs = ["/cache", "cache"]
checkpoint_size = "2 GB"
import_timeout = 7
"""
    found = _provided(tmp_path, text, monkeypatch)
    assert (found.torch_needed_by, found.torch_wanted_by) == ("[pipeline] collate", "[model] path")
    assert found.folders == (
        Folder("output_dir", str(tmp_path / "out")),
        Folder("cache_dirs", "/cache"),
        Folder("cache_dirs", str(tmp_path / "cache")),
    )
    assert (found.checkpoint_size, found.import_timeout, found.gpu) == (2 * 10**9, 7.0, False)
    assert {"torch", "uses_gpu", "writings"} & set(found.__dict__) == set()


@pytest.mark.parametrize(
    ("text", "needed"),
    [
        ("", ""),
        ('[model]\npath = "base"', ""),
        ("[environment]\ngpu = true", "[environment] gpu"),
        ('[model]\nadapter = "out/adapter"', "[model] adapter"),
        ('[pipeline]\ntrainer = "train:build"\ncollate = "train:collator"', "[pipeline] trainer"),
    ],
)
def test_only_what_handles_tensors_needs_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, needed: str
) -> None:
    """The key is named as it is written in the project file."""
    assert _provided(tmp_path, text, monkeypatch).torch_needed_by == needed


def test_a_folder_without_a_project_file_has_its_environment_checked(tmp_path: Path) -> None:
    """Whatever is skipped says what to add."""
    session = Audit(Project.empty(tmp_path))
    entries = [entry for entry in CHECKS if entry.family in ("environment", "storage")]
    session.evidence._known["environment", ""] = _given(
        gpu=False, torch=Torch(_result(), tensor=True), open_files=(4096, 4096), folders=()
    )
    outcomes = {entry.name: session.run(entry) for entry in entries}
    assert outcomes["torch_imports_in_time"].outcome == "passed"
    assert outcomes["torch_imports_in_time"].unit == "imports"
    assert outcomes["output_dir_takes_a_checkpoint"].outcome == "skipped"
    assert "output_dir" in outcomes["output_dir_takes_a_checkpoint"].reason
    assert all(result.outcome != "error" for result in outcomes.values()), outcomes
