"""docs/public-bugs.md: what it lists, and that it is current."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_the_table_is_current_and_long(root: Path) -> None:
    """Written from the cases as they are now; at least 62 ids are caught."""
    done = subprocess.run(
        [sys.executable, "ci/gen_public_bugs.py", "--check"],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = (root / "docs" / "public-bugs.md").read_text("utf-8").splitlines()
    rows = [line.split(" | ") for line in lines if line[:2] == "| " and line[2:4].isupper()]
    assert len({row[0] for row in rows}) == len(rows) >= 62
    assert all(cell.strip(" |") for row in rows for cell in row), (
        "a row without its check, family or severity"
    )
