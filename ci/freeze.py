"""Print `ci/constraints.txt`: the exact version of everything installed beside this project, one line each.

A distribution that has given up an older Python is pinned for the newer ones alone; pip chooses for itself on the older.
A local label (`2.13.0+cpu`) is left out: it says where a wheel came from, and the version alone fits all of them.

    build/constraints/bin/python ci/freeze.py > ci/constraints.txt
"""

from __future__ import annotations

import re
import sys
from importlib.metadata import Distribution, distributions

OURS = "pytest-llmguard"
TOOLS = frozenset({"pip", "setuptools", "wheel"})
OLDEST, NEWEST = 10, 13  # Python 3.x that pyproject.toml promises
HEAD = """\
# What CI installs, exactly; `make constraints` renews it. Every make target installs with it:
#     pip install -c ci/constraints.txt -e ".[all]"
# A line with `python_version` is for the Pythons which that release still supports."""


def pin(distribution: Distribution) -> str:
    """The line of one distribution."""
    version = distribution.version.partition("+")[0]
    oldest = re.search(r">=\s*3\.(\d+)", distribution.metadata.get("Requires-Python") or "")
    since = int(oldest[1]) if oldest else 0
    marker = f'; python_version >= "3.{since}"' if OLDEST < since <= NEWEST else ""
    return f"{distribution.metadata['Name']}=={version}{marker}"


def main() -> None:
    """Print all lines, sorted by name."""
    found = {d.metadata["Name"].lower(): d for d in distributions()}
    lines = [pin(d) for name, d in sorted(found.items()) if name not in TOOLS | {OURS}]
    sys.stdout.write("\n".join([HEAD, *lines]) + "\n")


if __name__ == "__main__":
    main()
