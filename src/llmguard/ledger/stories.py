"""Stories of bugs, read from the sources of regressions: nothing in them is imported or run."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from llmguard.ledger.guards import guard_exists

__all__ = [
    "FIELDS",
    "ROLES",
    "SEVERITIES",
    "SEVERITY",
    "UNFILLED",
    "Story",
    "known_stories",
    "read_stories",
    "read_story",
    "role_of",
    "slug_of",
    "twice",
]

FIELDS = ("Symptom", "Cause", "First seen", "Cost", "Check", "Lesson")
"""What every story tells, in this order, each as `Field: text`; lines that go on are indented."""
SEVERITY = "Severity"
SEVERITIES = ("critical", "high", "medium", "low")
ROLES = {"witness": "test_witness", "rejects": "test_check_rejects", "accepts": "test_check_accepts"}
"""What a test of a regression proves -> how its name begins."""
FUNCTIONS = ("broken", "fixed")
UNFILLED = "…"
"""Stands in a new story where something is to be written."""
_NAME = re.compile(r"\s*`?([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)")
_FIELD = re.compile(rf"^({'|'.join((*FIELDS, SEVERITY))}):[ \t]*(.*)$")


@dataclass(frozen=True)
class Story:
    """One bug: its slug (the file's name without `test_`), its title, its fields, its tests by role, and what is not right yet.

    `problems` are instructions to whoever writes the regression; empty where it is whole.
    """

    slug: str
    file: Path
    title: str = ""
    fields: Mapping[str, str] = field(default_factory=dict)
    tests: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    problems: tuple[str, ...] = ()

    @cached_property
    def checks(self) -> tuple[str, ...]:
        """The checks that find it."""
        return tuple(name for name in self._named if "." not in name)

    @cached_property
    def guards(self) -> tuple[str, ...]:
        """What else stops it, while the code runs: dotted names, as in `package.module.Guard`."""
        return tuple(name for name in self._named if "." in name)

    @cached_property
    def _named(self) -> tuple[str, ...]:
        parts = (_NAME.match(part) for part in self.fields.get("Check", "").split(","))
        return tuple(part[1] for part in parts if part)

    @property
    def severity(self) -> str:
        """How bad it was; "" where the story does not say."""
        return self.fields.get(SEVERITY, "").split(" ")[0].strip(".,;").lower()


def slug_of(file: Path) -> str:
    """The id of the bug that a file is about."""
    return file.stem.removeprefix("test_")


def role_of(test: str) -> str:
    """What a test proves, by its name (parameters and classes left out); "" for a test of another kind."""
    name = test.rpartition("::")[2].partition("[")[0]
    return next((role for role, start in ROLES.items() if name == start or name.startswith(f"{start}_")), "")


def read_stories(folder: Path, checks: Iterable[str] | None = None) -> list[Story]:
    """The stories of a folder and its subfolders, by slug."""
    known = None if checks is None else frozenset(checks)
    return sorted(
        (read_story(file, known) for file in folder.rglob("test_*.py")),
        key=lambda story: (story.slug, story.file),
    )


def twice(stories: Iterable[Story]) -> dict[str, list[Path]]:
    """Slugs that several files have."""
    files: dict[str, list[Path]] = {}
    for story in stories:
        files.setdefault(story.slug, []).append(story.file)
    return {slug: found for slug, found in files.items() if len(found) > 1}


def known_stories() -> list[Story]:
    """The stories of this library's own regressions, which need not be installed: they are kept beside this module."""
    told = json.loads(Path(__file__).with_name("known.json").read_text("utf-8"))
    return [
        Story(one["slug"], Path(f"regressions/test_{one['slug']}.py"), one["title"], one["fields"])
        for one in told
    ]


def read_story(file: Path, checks: Iterable[str] | None = None) -> Story:
    """The story of a file; `checks`: the names that exist (None: they are not held against anything)."""
    try:
        tree = ast.parse(file.read_text("utf-8"))
    except (OSError, SyntaxError, ValueError) as bad:
        return Story(slug_of(file), file, problems=(f"it cannot be read: {bad}",))
    text = ast.get_docstring(tree) or ""
    names = _names(tree)
    tests = {role: tuple(n for n in names if role_of(n) == role) for role in ROLES}
    made = Story(slug_of(file), file, text.partition("\n")[0].strip(), _fields(text), tests)
    lacking = (*_lacking(made), *_lacking_code(made, names), *_lacking_checks(made, checks))
    return Story(made.slug, file, made.title, made.fields, tests, lacking)


def _fields(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    name = ""
    for line in text.splitlines():
        start = _FIELD.match(line)
        if start:
            name = start[1]
            found[name] = start[2].strip()
        elif name and line.strip():
            found[name] = f"{found[name]} {line.strip()}".strip()
        else:
            name = ""
    return found


def _names(tree: ast.Module) -> list[str]:
    """Everything the module defines at its top: functions, classes, their methods, and names that are assigned."""
    found: list[str] = []
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found.append(node.name)
        if isinstance(node, ast.ClassDef):
            found += [n.name for n in node.body if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]
        if isinstance(node, (ast.Assign, ast.AnnAssign)):
            found += [
                n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
            ]
        if isinstance(node, ast.ImportFrom):
            found += [alias.asname or alias.name for alias in node.names]
    return found


def _lacking(story: Story) -> list[str]:
    told = story.title and UNFILLED not in story.title
    found = [] if told else ["its docstring does not begin with a sentence that says what went wrong"]
    for name in FIELDS:
        value = story.fields.get(name, "")
        if not value:
            found.append(f"its story has no line `{name}: …`")
        elif UNFILLED in value:
            found.append(f"`{name}:` of its story is still to be filled in")
    if story.severity and story.severity not in SEVERITIES:
        found.append(f"`{SEVERITY}: {story.fields[SEVERITY]}` is none of {', '.join(SEVERITIES)}")
    return found


def _lacking_code(story: Story, names: Iterable[str]) -> list[str]:
    there = set(names)
    found = [f"it has no {name}(…)" for name in FUNCTIONS if name not in there]
    return found + [f"it has no {start}()" for role, start in ROLES.items() if not story.tests[role]]


def _lacking_checks(story: Story, checks: Iterable[str] | None) -> list[str]:
    if checks is None or UNFILLED in story.fields.get("Check", UNFILLED):
        return []
    known = set(checks)
    gone = [f"check {name}" for name in story.checks if name not in known]
    gone += [f"guard {name}" for name in story.guards if not guard_exists(name)]
    return [f"its story names the {name}, which does not exist" for name in gone]
