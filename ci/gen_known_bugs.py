"""Write docs/known-bugs.md, and what `llmguard bug find` searches, from the stories of regressions/.

python ci/gen_known_bugs.py            writes both files
python ci/gen_known_bugs.py --check    says whether they are up to date (exit code 1 where one is not)
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "ci")]

from pages import write_or_check  # noqa: E402  # beside this script, however it is loaded

from llmguard.ledger import FIELDS, Story, read_stories  # noqa: E402  # the checkout's own package, installed or not

DOCS = ROOT / "docs" / "known-bugs.md"
DATA = ROOT / "src" / "llmguard" / "ledger" / "known.json"
HEAD = """\
# Known bugs

Written by `python ci/gen_known_bugs.py` from the stories of `regressions/`; a test says when it is out of date. Each of these bugs is a
permanent test: a witness that it is one, a check that rejects it, and the same check on code that is right.
`llmguard bug find "loss is 0.0"` searches them by what you see.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Write what is generated here, or compare it."""
    stories = read_stories(ROOT / "regressions")
    return write_or_check(
        __file__, __doc__, {DOCS: lambda: document(stories), DATA: lambda: data(stories)}, arguments
    )


def data(stories: Sequence[Story]) -> str:
    """The stories as JSON."""
    told = [{"slug": s.slug, "title": s.title, "fields": dict(s.fields)} for s in stories]
    return json.dumps(told, indent=1, ensure_ascii=False) + "\n"


def document(stories: Sequence[Story]) -> str:
    """From what is seen to the bug, and then every bug."""
    rows = [
        f"| {_cell(s.fields.get('Symptom', ''))} | [{s.slug}](#{s.slug}) | {_checks(s)} |" for s in stories
    ]
    quick = ["## This looks wrong", "", "| what you see | bug | found by |", "|---|---|---|", *rows, ""]
    return "\n".join([HEAD, f"{len(stories)} bugs.", "", *quick, *(_section(s) for s in stories)])


def _section(story: Story) -> str:
    lines = [f"## {story.slug}", "", story.title, ""]
    lines += [
        f"- **{name}**: {_checks(story) if name == 'Check' else story.fields[name]}"
        for name in FIELDS
        if name in story.fields
    ]
    return "\n".join([*lines, f"- **Regression**: `regressions/{story.file.name}`", ""])


def _checks(story: Story) -> str:
    return ", ".join(f"[{name}](checks.md#{name})" for name in story.checks)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    sys.exit(main())
