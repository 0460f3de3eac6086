"""A name is used above the line that sets it: the refactored script dies after the data are prepared.

Symptom: UnboundLocalError: cannot access local variable 'total_steps', after minutes of tokenisation and loading.
Severity: critical
Cause: a refactoring moved the warm-up above the line that computes total_steps.
First seen: written down by a fine-tuning project as critical
Cost: every start of the run, each after its whole preparation.
Check: names_are_defined_before_use
Lesson: let static analysis read a training script before a GPU is rented for it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llmguard import names_are_defined_before_use, require
from llmguard.errors import CheckFailed
from llmguard.sources.undefined import find_ruff

pytestmark = pytest.mark.skipif(find_ruff() is None, reason="ruff is not installed")

ROWS, BATCH = 7_888, 16
HEAD = "def plan(rows, batch, done):\n    done.append('rows are encoded')\n"
TAIL = "    return {'warmup_steps': warmup_steps, 'total_steps': total_steps}\n"
WARMUP = "    warmup_steps = max(1, total_steps // 20)\n"
BY_HAND = "    total_steps = -(-rows // batch)\n"
BY_THE_CORE = """\
    from llmguard_core.config import TrainSettings, steps_of

    total_steps = steps_of(TrainSettings(output_dir="out", batch_size=batch, accumulation=1), rows)
"""


def broken() -> str:
    """The script after the refactoring: its lines changed places."""
    return HEAD + WARMUP + BY_HAND + TAIL


def fixed() -> str:
    """The steps first, as the core counts them, and then what is computed from them."""
    return HEAD + BY_THE_CORE + WARMUP + TAIL


def run(script: str, done: list[str]) -> Any:
    """What the script plans."""
    names: dict[str, Any] = {}
    exec(compile(script, "train.py", "exec"), names)  # noqa: S102  # our own text, from above
    return names["plan"](ROWS, BATCH, done)


def test_witness() -> None:
    """Both compile; the broken one raises, and only when its preparation is done."""
    done: list[str] = []
    with pytest.raises(UnboundLocalError, match="total_steps"):
        run(broken(), done)
    assert done == ["rows are encoded"]
    assert run(fixed(), done) == {"warmup_steps": 24, "total_steps": 493}


def test_check_rejects(tmp_path: Path) -> None:
    """Without running it: the name, the line of its use and the line that sets it."""
    (tmp_path / "train.py").write_text(broken(), "utf-8")
    with pytest.raises(CheckFailed, match=r"`total_steps` is used in line 3, before line 4 sets it"):
        require(names_are_defined_before_use(tmp_path / "train.py"))


def test_check_accepts(tmp_path: Path) -> None:
    """The lines in their order."""
    (tmp_path / "train.py").write_text(fixed(), "utf-8")
    found = names_are_defined_before_use(tmp_path / "train.py")
    require(found, strict=True)
    assert found.looked_at == 1
