"""Training processes in supervisors of their own (`support.crashes`), and what those saw."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

__all__ = ["crashes"]

TESTS = Path(__file__).resolve().parents[1]


def crashes(folder: Path, mode: str, *args: str, before: tuple[str, ...] = ()) -> Any:
    """Run the supervisor of forked training processes; gives what it saw."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent / "src")])}
    done = subprocess.run(
        [*before, sys.executable, "-m", "support.crashes", mode, str(folder), *args],
        env={**environment, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])
