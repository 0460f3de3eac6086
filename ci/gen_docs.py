"""Write docs/checks.md from the catalogue and the docstrings of the checks.

python ci/gen_docs.py            writes the file
python ci/gen_docs.py --check    says whether it is up to date (exit code 1 where it is not)
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "ci")]

from pages import write_or_check  # noqa: E402  # beside this script, however it is loaded

from llmguard.catalogue import CHECKS, FAMILIES  # noqa: E402  # the checkout's own package, installed or not
from llmguard.cli.describe import Description, Need, describe  # noqa: E402  # as above

TARGET = ROOT / "docs" / "checks.md"
HEAD = """\
# The checks

Written by `python ci/gen_docs.py` from the catalogue and the docstrings; a test says when it is out of date.

Each check's name is a sentence that holds for a sound project, and its id everywhere: in reports, as a test
(`pytest -k NAME`), in `llmguard explain NAME`, in `[accept]` of the project file. `preflight` needs neither weights nor a GPU
and takes seconds, `sentinel` needs a model, `gpu` a GPU. A check that lacks its evidence is skipped and says which line to add.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Write what is generated here, or compare it."""
    return write_or_check(__file__, __doc__, {TARGET: document}, arguments)


def document() -> str:
    """The whole file: a table of contents by family, then every check."""
    found = [describe(entry) for entry in CHECKS]
    families = {f: [d for d in found if d.family == f] for f in FAMILIES}
    parts = [HEAD, f"{len(found)} checks.\n", contents(families)]
    for family, checks in families.items():
        if checks:
            parts.append(f"## {family}\n")
            parts += [section(check) for check in checks]
    return "\n".join(parts)


def contents(families: dict[str, list[Description]]) -> str:
    """One line a family, each check a link."""
    lines = [
        f"- **[{family}](#{family})**: {', '.join(link(c.name) for c in checks)}"
        for family, checks in families.items()
        if checks
    ]
    return "\n".join(lines) + "\n"


def link(name: str) -> str:
    """A link to the section of a check."""
    return f"[{name}](#{name})"


def section(check: Description) -> str:
    """One check: its promise, details, tier, evidence and the bugs it guards against."""
    if check.trouble:
        raise SystemExit(f"{check.name} {check.trouble}")
    lines = [f"### {check.name}\n", f"{check.promise or check.sentence}\n"]
    if check.details:
        lines.append(f"{check.details}\n")
    told = f"Tier `{check.tier}`"
    lines.append(f"{told}, once for each target of `{check.over}`.\n" if check.over else f"{told}.\n")
    if check.needs:
        lines += ["| evidence | how to give it |", "|---|---|", *(row(need) for need in check.needs), ""]
    if check.bugs:
        lines.append(f"Guards against: {', '.join(bug.replace('_', ' ') for bug in check.bugs)}.\n")
    return "\n".join(lines)


def row(need: Need) -> str:
    """A row of the table of evidence."""
    line = (need.line or "every project has it").replace("|", "\\|")
    return f"| {need.evidence}{' (optional)' if need.optional else ''} | {line} |"


if __name__ == "__main__":
    sys.exit(main())
