"""A new regression: a story to be told, `broken` and `fixed` to be written, and three tests that are red until then."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from string import Template

from llmguard.errors import UsageError
from llmguard.ledger.stories import FIELDS, UNFILLED

__all__ = ["Issue", "issue_of", "path_for", "slug_from", "template"]

LONGEST = 60
HINTS = {
    "Symptom": "what somebody sees, in the words they would search for",
    "Cause": "what the code did",
    "First seen": "where: a link, or a project and a version",
    "Cost": "what it cost until it was found",
    "Check": "the check that finds it, by its name (`llmguard explain` lists them; commas between several),"
    " or a guard of yours as `package.module.name`",
    "Lesson": "one sentence that would have prevented it",
}
HEADINGS = {
    "Symptom": r"symptoms?|what happened|description|(current|actual) behaviou?r|bug|describe the bug",
    "Cause": r"cause|root cause|why|analysis",
    "Cost": r"cost|impact|severity",
    "Lesson": r"lesson|fix|solution|remedy|workaround",
}
"""Heading of an issue -> the field of the story that its text goes to."""
BODY = Path(__file__).with_name("regression.txt")
"""What stands below the story of a new regression: it is the user's code, not ours, and so it lies here as text."""
TESTING = "pytest"
"""What that code is run by; nothing here is."""


@dataclass(frozen=True)
class Issue:
    """What an issue tells of a bug: its title, and what of its text belongs to which field of a story."""

    title: str
    fields: dict[str, str] = field(default_factory=dict)


def slug_from(title: str) -> str:
    """The slug of a title: its words, lower case, cut where a word ends.

    Raises:
        UsageError: no letter or digit in it.
    """
    words = re.findall(r"[a-z0-9]+", title.lower().replace("'", ""))
    slug = ""
    for word in words:
        if slug and len(slug) + 1 + len(word) > LONGEST:
            break
        slug = f"{slug}_{word}" if slug else word[:LONGEST]
    if not slug:
        raise UsageError("title", title, "a sentence that says what went wrong, as in 'EOS is never learnt'")
    return slug


def template(issue: Issue) -> str:
    """The text of a new regression; what the issue does not tell is left to be filled in."""
    title = _safe(issue.title).rstrip(".")
    lines = [f'"""{title}.', ""]
    for name in FIELDS:
        value = _safe(issue.fields.get(name, "")) or f"{UNFILLED} ({HINTS[name]})"
        lines.append(f"{name}: {value}")
    body = Template(BODY.read_text("utf-8")).substitute(testing=TESTING)
    return "\n".join([*lines, '"""', body])


def issue_of(text: str, source: str = "") -> Issue:
    """What an issue (Markdown) tells; its first heading or line is the title, `source` where it was first seen.

    Raises:
        UsageError: it is empty.
    """
    lines = [line.rstrip() for line in text.strip().splitlines()]
    if not lines:
        raise UsageError("from_issue", source or "an empty text", "a file with the text of an issue")
    title = re.sub(r"^\[?(bug|issue)\]?:?\s+", "", lines[0].lstrip("# ").strip(), flags=re.IGNORECASE)
    sections = _sections(lines[1:])
    found = {}
    for name, pattern in HEADINGS.items():
        texts = [body for heading, body in sections if re.fullmatch(pattern, heading, re.IGNORECASE)]
        if texts and texts[0]:
            found[name] = texts[0]
    if "Symptom" not in found and sections and sections[0][1]:
        found["Symptom"] = sections[0][1]
    link = re.search(r"https?://\S+/(?:issues|pull|discussions)/\d+", text)
    seen = link[0] if link else source
    return Issue(title, {**found, **({"First seen": seen} if seen else {})})


def _sections(lines: list[str]) -> list[tuple[str, str]]:
    """Heading and first paragraph of each section; code blocks are left out."""
    found: list[tuple[str, list[str]]] = [("", [])]
    code = ended = False
    for line in lines:
        if line.startswith("```"):
            code = not code
        elif code:
            continue
        elif re.match(r"#+ |\*\*.+\*\*$", line):
            found.append((line.strip("#* :"), []))
            ended = False
        elif not line.strip():
            ended = bool(found[-1][1])
        elif not ended:
            found[-1][1].append(line.strip())
    return [(heading, " ".join(body)) for heading, body in found if heading or body]


def _safe(text: str) -> str:
    """One line that cannot end the docstring it stands in."""
    line = " ".join(text.split()).replace("\\", "\\\\").replace('"""', "'''")
    return f"{line} " if line.endswith('"') else line


def path_for(folder: Path, title: str) -> Path:
    """Where the regression of a title belongs."""
    return folder / f"test_{slug_from(title)}.py"
