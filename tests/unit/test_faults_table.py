"""The table of planted faults and negative controls."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from llmguard.catalogue import CHECKS


def test_the_table_lists_every_check_once(root: Path) -> None:
    """Every check of the token families that the file has is in the catalogue, once; what writes it finds tests for them."""
    code = "import sys; sys.path.insert(0, 'ci'); import gen_faults; print(gen_faults.document())"
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    known = {entry.name for entry in CHECKS}
    for text in (done.stdout, (root / "docs" / "faults.md").read_text("utf-8")):
        names = [line.split("`")[1] for line in text.splitlines() if line.startswith("| `")]
        assert len(set(names)) == len(names) > 50
        assert known >= set(names)
