"""Shared by the probe tests: the broken packages, the misbehaving file system, and who is still alive."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from support.machines import Card, World, compile_libcuda, cuda_torch


def _beside(name: str) -> ModuleType:
    """A module beside this file, loaded by its path: tests are no package."""
    spec = importlib.util.spec_from_file_location(
        f"llmguard_tests_{name}", Path(__file__).with_name(f"{name}.py")
    )
    if spec is None or spec.loader is None:
        raise ImportError(name)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def faults() -> ModuleType:
    """Packages named torch that break their import."""
    return _beside("faults")


@pytest.fixture(scope="session")
def fuse() -> ModuleType:
    """A file system that misbehaves; skipped where none can be mounted."""
    module = _beside("fuse")
    if why := module.available():
        pytest.skip(f"no file system of our own: {why}")
    return module


def marked(nonce: str) -> list[int]:
    """Every process, zombies aside, whose environment carries a nonce."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if int(entry.name) != os.getpid() and nonce.encode() in (entry / "environ").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def descriptors() -> int:
    """How many files this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture(scope="session")
def alive() -> Callable[[str], list[int]]:
    """nonce -> ids of the processes that still live with it."""
    return marked


@pytest.fixture
def clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for scratch files; afterwards it is empty, no descriptor has leaked and torch was never imported."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    before, torch_before = descriptors(), "torch" in sys.modules
    yield scratch
    assert list(scratch.iterdir()) == []
    assert descriptors() == before
    assert ("torch" in sys.modules) == torch_before


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
