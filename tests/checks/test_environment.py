"""Environment: what an import of torch, a GPU and the limits of a machine say, and what a person is told."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from support.matrix import Matrix, fault

from llmguard import Audit, Finding, Findings, Project, Severity, load_project
from llmguard.catalogue import CHECKS
from llmguard.checks.environment import (
    python_is_supported,
    torch_imports_in_time,
)
from llmguard.checks.torch_import import cause_and_remedy
from llmguard.evidence import Evidence
from llmguard.probe import Failure, ProbeResult, Verdict
from llmguard.probe.environment import Environment, Folder, Torch

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
@fault("A19")
def test_a_file_named_torch_in_the_project_is_found(tmp_path: Path, text: str, matrix: Matrix) -> None:
    """Whether or not its import works: every `import torch` of the project gets it."""
    folder, environ = _world(tmp_path, torch=FINE)
    shadow = Path(folder, "torch.py")
    shadow.write_text(text)
    environment = Environment(folder, environ=environ, torch_needed_by="[pipeline] trainer")
    found = _only(torch_imports_in_time(environment))
    matrix.saw("shadowed", seconds=environment.torch.result.seconds, deadline=30.0)
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
    assert re.search(r"importing torch took [1-9] s for 1", found.message), (
        "more on a machine with other work"
    )


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
        ('[environment]\ngpu_name = "H100"', "[environment] gpu_name"),
        ("[environment]\ngpu_count = 2", "[environment] gpu_count"),
        ('[environment]\ngpu_memory = "80 GB"', ""),  # what training is held against, wherever it will run
        ('[model]\nadapter = "out/adapter"', "[model] adapter"),
        ('[pipeline]\ntrainer = "train:build"\ncollate = "train:collator"', "[pipeline] trainer"),
    ],
)
def test_only_what_handles_tensors_needs_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, needed: str
) -> None:
    """The key is named as it is written in the project file."""
    found = _provided(tmp_path, text, monkeypatch)
    assert found.torch_needed_by == needed
    assert found.gpu is needed.startswith("[environment] gpu")
    assert found.gpu_memory == (80 * 10**9 if "gpu_memory" in text else None)


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
