"""Parts of the environment that are started together: a preflight takes as long as its slowest part, and hung ones do not add up."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from support.machines import World, cuda_torch

from llmguard import Audit, Project
from llmguard.auditing import TRIED
from llmguard.catalogue import CHECKS
from llmguard.evidence import Evidence, Options
from llmguard.probe import Probe
from llmguard.probe.early import EARLY, Later
from llmguard.probe.environment import Environment, Folder

SLEEPS = "import time\ntime.sleep(1e6)\n"
HANGING = ("torch_imports_in_time", "cuda_driver_starts", "nvidia_smi_answers", "processes_can_meet")


def _audit(environment: Environment, share: Path | None = None) -> Audit:
    project = Project.empty(Path(environment.folder))
    session = Audit(project, evidence=Evidence(project, Options(share=share)))
    session.evidence._known["environment", ""] = environment
    return session


def _entries(*names: str) -> list[object]:
    return [entry for entry in CHECKS if entry.name in names]


def test_four_parts_that_hang_take_the_time_of_one(world: World) -> None:
    """Import, driver, tool and name server at once; each is told as what it is, and a healthy one beside them passes."""
    world.torch(SLEEPS).smi("sleep 1000000")
    (world.folder / "library" / "sitecustomize.py").write_text(
        "import socket, time\nsocket.getaddrinfo = lambda *_, **__: time.sleep(1e6)\n"
    )
    world.environ["CUDA_STUB_HANG"] = "1"
    environment = world.environment(
        import_timeout=1.5, driver_timeout=1.5, query_timeout=1.5, quick_timeout=1.5
    )
    session = _audit(environment)
    entries = _entries(*HANGING, "temporary_folder_takes_files")
    started = time.monotonic()
    session.begin(entries)  # type: ignore[arg-type]  # entries of the catalogue
    assert time.monotonic() - started < 0.7, "beginning waits for something"
    results = {entry.name: session.run(entry) for entry in entries}  # type: ignore[attr-defined]  # entries
    took = time.monotonic() - started
    session.evidence.close()
    assert took < 1.5 + 2.0, took
    assert results["temporary_folder_takes_files"].outcome.value == "passed"
    for name in HANGING:
        said = " ".join(finding.message for finding in results[name].findings)
        assert "no progress for " in said, (name, said)
    seconds = sum(
        part.result.seconds
        for part in (environment.torch, environment.driver, environment.query, environment.meeting)
    )
    assert seconds > took, "they ran one after the other"


def test_evidence_that_the_project_does_not_name_keeps_nothing_from_beginning(world: World) -> None:
    """The check that asks for it is skipped with its reason; the others have begun."""
    environment = world.torch(cuda_torch()).environment()
    session = _audit(environment)
    session.begin(_entries("remote_host_lets_us_in", "processes_can_meet"))  # type: ignore[arg-type]  # entries of the catalogue
    assert set(environment._early) == {"meeting"}
    assert session.run(_entries("remote_host_lets_us_in")[0]).outcome.value == "skipped"  # type: ignore[arg-type]  # an entry
    session.evidence.close()


def test_every_preflight_check_may_be_begun(tmp_path: Path) -> None:
    """On a folder without a project file: nothing that is missing is raised."""
    session = Audit(Project.empty(tmp_path))
    entries = [entry for entry in CHECKS if entry.family in ("environment", "storage")]
    environment = session.evidence.get("environment")
    environment.__dict__.update(torch=None, places=None, meeting=None)
    session.begin(entries)
    session.evidence.close()


def test_only_what_the_selected_checks_ask_for_is_started(world: World) -> None:
    """Selecting a single check starts its parts and no other."""
    environment = world.torch(cuda_torch()).environment()
    session = _audit(environment)
    session.begin(_entries("processes_can_meet", "python_is_supported"))  # type: ignore[arg-type]  # entries of the catalogue
    assert set(environment._early) == {"meeting"}
    session.evidence.close()
    assert environment._early == {}


def test_workers_that_share_a_session_start_nothing_early(world: World, tmp_path: Path) -> None:
    """Each of them would write and import the same; they run side by side already."""
    environment = world.environment()
    session = _audit(environment, share=tmp_path)
    session.begin(_entries("processes_can_meet", "torch_imports_in_time"))  # type: ignore[arg-type]  # entries of the catalogue
    assert environment._early == {}


def test_writing_goes_on_while_other_parts_are_asked(tmp_path: Path) -> None:
    """The folders are written to in the background, and the result is the same as without."""
    folder = Folder("output_dir", str(tmp_path / "out"))
    early = Environment(str(tmp_path), folders=(folder,), payload=2**20)
    early.begin(["output_dir_takes_a_checkpoint"])
    late = Environment(str(tmp_path), folders=(folder,), payload=2**20)
    for environment in (early, late):
        (writing,) = environment.writings
        assert writing.told["accepted"] == 2**20
        assert writing.folder == folder
    assert early._early == {}


def test_what_was_begun_is_not_started_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither by beginning twice, nor by asking, nor after it was asked."""
    made: list[str] = []
    original = Environment._started

    def counted(self: Environment, part: str) -> Probe:
        made.append(part)
        return original(self, part)

    monkeypatch.setattr(Environment, "_started", counted)
    environment = world.environment()
    for _ in range(2):
        environment.begin(["processes_can_meet"])
        assert environment.meeting.result.ok
    assert made == ["meeting"]


def test_later_hands_on_what_its_work_raises() -> None:
    """And it may be asked more than once."""
    gate = threading.Event()
    work = Later(lambda: gate.wait(10) and 7)
    gate.set()
    assert (work.result(), work.result()) == (7, 7)
    with pytest.raises(ZeroDivisionError):
        Later(lambda: 1 // 0).result()


def test_every_name_of_the_table_is_a_check_and_a_part() -> None:
    """A slip of the pen would start nothing, in silence."""
    checks = {entry.name: entry for entry in CHECKS}
    for name, parts in EARLY.items():
        assert "environment" in checks[name].needs
        assert all(
            isinstance(getattr(Environment, part, None), object) and hasattr(Environment, part)
            for part in parts
        ), parts
    for kind in TRIED:
        assert any(kind in entry.needs for entry in CHECKS)
