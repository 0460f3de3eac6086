"""Group A of the matrix, what lies outside of torch itself: a disk that fails, another user's process, another library first."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from types import ModuleType

import pytest
from support.machines import FINE
from support.matrix import Matrix, fault

from llmguard import Severity
from llmguard.checks.environment import torch_imports_in_time
from llmguard.probe import Verdict
from llmguard.probe.environment import Environment

CAPBSET_DROP, CAP_KILL = 24, 5


def _package(folder: Path, **modules: str) -> Path:
    for name, text in modules.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(text)
    return folder


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
@fault("A26")
def test_a_library_that_cannot_be_read(fuse: ModuleType, tmp_path: Path, number: int, matrix: Matrix) -> None:
    """The loader's words name the file, the cause names the disk; the same package reads well without the fault."""
    libraries = sorted(Path(sysconfig.get_config_var("DESTSHARED") or "/nowhere").glob("_json*.so"))
    if not libraries:
        pytest.skip("this Python has no modules in libraries of their own")
    home = _package(tmp_path / "backing", torch=FINE + "from torch import _json\n")
    shutil.copy(libraries[0], home / "torch" / "_json.so")
    project = str(_package(tmp_path / "project", empty=""))
    with fuse.mounted(tmp_path / "good", home) as point:
        assert torch_imports_in_time(Environment(project, environ={"PYTHONPATH": str(point)})) == []
    with fuse.mounted(tmp_path / "bad", home, read_error=number) as point:
        environment = Environment(
            project, environ={"PYTHONPATH": str(point)}, torch_needed_by="[pipeline] trainer"
        )
        found = torch_imports_in_time(environment)
    matrix.saw(environment.torch.result, deadline=30.0)
    assert [each.severity for each in found] == [Severity.ERROR]
    assert "torch/_json.so: cannot read file data" in found[0].message
    assert os.strerror(number) in found[0].message
    assert "the disk or the network volume under the environment fails" in found[0].message


DRIVER = """
import json
from llmguard import probe
code = "import os, time\\nos.setgid(65534)\\nos.setuid(65534)\\ntime.sleep(1e6)"
result = probe.run(code, timeout=0.8, kill_grace=0.1)
print(json.dumps([result.verdict.value, result.seconds, result.explain(), [one.pid for one in result.survivors]]))
"""


@fault("A29")
def test_a_child_of_another_user_is_abandoned_with_a_report(root: Path, matrix: Matrix) -> None:
    """It has become another user, and who watches it may not kill those: said with the kernel's words, and not waited for."""
    if os.geteuid() != 0:
        pytest.skip("becoming another user needs root")
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", DRIVER], capture_output=True, text=True, check=False, timeout=30,
        env={**os.environ, "PYTHONPATH": str(root / "src")},
        preexec_fn=lambda: ctypes.CDLL(None).prctl(CAPBSET_DROP, CAP_KILL, 0, 0, 0),
    )  # fmt: skip
    took = time.monotonic() - started
    assert done.returncode == 0, done
    verdict, seconds, text, survivors = json.loads(done.stdout)
    for pid in survivors:
        os.kill(pid, signal.SIGKILL)
    matrix.saw(verdict, seconds=seconds, deadline=0.8)
    assert (verdict, len(survivors)) == (Verdict.UNKILLABLE.value, 1)
    assert "Operation not permitted" in text
    assert took < 0.8 + 2.0 + 2.0  # the interpreter's own start aside


TENSORFLOW = """
import ctypes
lock = ctypes.create_string_buffer(64)
pthread = ctypes.PyDLL(None)
pthread.pthread_mutex_lock(lock)
"""
AFTER_TENSORFLOW = """
import sys
if "tensorflow" in sys.modules:
    sys.modules["tensorflow"].pthread.pthread_mutex_lock(sys.modules["tensorflow"].lock)
"""


@fault("A30")
def test_another_framework_first_is_a_deadlock(tmp_path: Path, matrix: Matrix) -> None:
    """Two native runtimes in one process: a deadlock whose cause is the order of imports; alone torch imports well."""
    library = _package(tmp_path / "library", tensorflow=TENSORFLOW, torch=FINE + AFTER_TENSORFLOW)
    project = str(_package(tmp_path / "project", empty=""))
    environ: dict[str, str | None] = {"PYTHONPATH": str(library)}
    assert torch_imports_in_time(Environment(project, environ=environ)) == []
    (library / "sitecustomize.py").write_text("import tensorflow\n")
    environment = Environment(
        project, environ=environ, import_timeout=1.0, torch_needed_by="[pipeline] trainer"
    )
    started = time.monotonic()
    found = torch_imports_in_time(environment)
    matrix.saw(environment.torch.result, seconds=time.monotonic() - started, deadline=1.0)
    assert environment.torch.result.verdict is Verdict.DEADLOCK
    assert "TensorFlow" in found[0].message
    assert "import torch first" in found[0].remedy
    assert "last import: torch" in found[0].message


def test_an_import_that_was_slow_is_tried_again(tmp_path: Path) -> None:
    """Cold and warm side by side: when the second is quick, it was the disk."""
    once = tmp_path / "once"
    slow = f"import importlib, os, time\nif not os.path.exists({str(once)!r}):\n    open({str(once)!r}, 'w').close()\n"
    slow += "    for n in range(12):\n        time.sleep(0.1)\n        importlib.import_module(f'torch.part_{n}')\n"
    library = _package(tmp_path / "library", torch=FINE + slow)
    for number in range(12):
        (library / "torch" / f"part_{number}.py").touch()
    project = str(_package(tmp_path / "project", empty=""))
    found = torch_imports_in_time(
        Environment(project, environ={"PYTHONPATH": str(library)}, import_timeout=0.8)
    )
    assert [each.severity for each in found] == [Severity.WARNING]
    assert "s when it was imported again" in found[0].message
