"""Fixtures that every room of the suite may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Real tokenizers, templates and data: the folder that LLMGUARD_REAL_DATA names, or `shared` beside the checkout."""
    folder = Path(os.environ.get("LLMGUARD_REAL_DATA") or ROOT.parent / "shared")
    if not (folder / "tokenizers").is_dir():
        pytest.skip(f"no real tokenizers in {folder}: name another folder with LLMGUARD_REAL_DATA")
    return folder


def pytest_configure(config: pytest.Config) -> None:
    """Tests under `@fault` are watched and written down: see `support.matrix`."""
    from support.matrix import Recorder

    config.addinivalue_line(
        "markers", "fault(*ids): plants these faults of the matrix (tests/support/matrix.py)"
    )
    config.pluginmanager.register(Recorder(config), "fault-matrix")
