"""The regressions of this repository are whole, and what is made of them is current."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support.documented import DOCUMENTED, Documented

from llmguard.catalogue import CHECKS, Entry
from llmguard.ledger import Story, read_stories, twice

ROOT = Path(__file__).parents[2]
BUGS = {entry.name: entry.bugs for entry in CHECKS}
STORIES = read_stories(ROOT / "regressions", BUGS)
BY_SLUG = {story.slug: story for story in STORIES}


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.slug)
def test_a_regression_is_whole(story: Story) -> None:
    """Story, broken, fixed, witness, rejects, accepts; the checks that it names exist."""
    assert not story.problems, f"{story.file.name}: {'; '.join(story.problems)} (see regressions/README.md)"


@pytest.mark.parametrize("documented", DOCUMENTED.values(), ids=lambda documented: documented.slug)
def test_a_documented_bug_has_its_regression(documented: Documented) -> None:
    """Its file is there, with a whole story, its severity, and a check of the catalogue or a guard of the core that is there."""
    assert documented.slug in BY_SLUG, f"there is no regressions/test_{documented.slug}.py"
    story = BY_SLUG[documented.slug]
    assert not story.problems
    assert story.severity == documented.severity
    assert story.checks or story.guards


def test_all_documented_bugs_are_told_apart() -> None:
    """Thirty-four of them, each with a regression of its own; and no regression is there twice."""
    assert [*DOCUMENTED] == [*range(1, 35)]
    assert len({documented.slug for documented in DOCUMENTED.values()}) == len(DOCUMENTED)
    assert twice(STORIES) == {}


@pytest.mark.parametrize("entry", [e for e in CHECKS if e.bugs], ids=lambda entry: entry.name)
def test_a_bug_that_a_check_says_it_guards_has_a_regression(entry: Entry) -> None:
    """The slugs of the catalogue, which stand in every report, lead to a story."""
    unknown = [slug for slug in entry.bugs if slug not in BY_SLUG]
    assert not unknown, f"no regression for {', '.join(unknown)}; are they misspelt?"


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.slug)
def test_the_checks_of_a_story_say_so_themselves(story: Story) -> None:
    """Who looks at a check in a report sees which bugs it is there for."""
    silent = [name for name in story.checks if name in BUGS and story.slug not in BUGS[name]]
    assert not silent, f'add bugs="… {story.slug}" in the catalogue to {", ".join(silent)}'


def test_what_is_made_of_the_stories_is_current() -> None:
    """docs/known-bugs.md, and the stories that go with the library."""
    ran = subprocess.run(
        [sys.executable, "ci/gen_known_bugs.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout
