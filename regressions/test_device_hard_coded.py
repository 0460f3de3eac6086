"""A variable named device that is always "cpu".

Symptom: the run is a hundred times slower than it should be, and the GPU stays idle at 0 %.
Severity: low
Cause: device = "cpu", written for one machine and never made a choice.
First seen: written down by a fine-tuning project as minor
Cost: hours on the CPU of a rented GPU machine.
Check: device_is_not_hard_coded
Lesson: ask the machine for its device in one place, and say in the log which one it is.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from llmguard import device_is_not_hard_coded
from llmguard.findings import Findings, Severity


def broken() -> Any:
    """The device of the machine that the script was written on."""
    device = "cpu"
    return torch.device(device)


def fixed() -> Any:
    """The device that there is."""
    from llmguard_core import pick_device

    device = pick_device().device
    return device  # noqa: RET504  # the name is what the check looks at


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch tells of a GPU, whatever this machine has."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)


@pytest.mark.usefixtures("gpu")
def test_witness() -> None:
    """On a machine with a GPU the one stays on the CPU; the other takes the GPU that is current."""
    assert str(broken()) == "cpu"
    assert str(fixed()) == "cuda:1"


def test_witness_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no accelerator both run on the CPU: nobody sees a difference on the laptop."""
    monkeypatch.setattr("llmguard_core.memory._count", lambda kind: 0)
    assert str(broken()) == str(fixed()) == "cpu"


def _judged(function: Callable[[], Any], folder: Path) -> Findings:
    """The check on a file that holds the function above as it stands here."""
    (folder / "train.py").write_text(f"import torch\n\n\n{inspect.getsource(function)}", "utf-8")
    return device_is_not_hard_coded(folder / "train.py")


def test_check_rejects(tmp_path: Path) -> None:
    """A note with its line: it may be on purpose, so it fails nobody's run."""
    (found,) = _judged(broken, tmp_path)
    assert found.severity is Severity.NOTE
    assert "train.py:6: `device` is always 'cpu'" in found.message
    assert "torch.cuda.is_available()" in found.remedy


def test_check_accepts(tmp_path: Path) -> None:
    """A device that was asked for."""
    found = _judged(fixed, tmp_path)
    assert found == []
    assert found.looked_at == 1
