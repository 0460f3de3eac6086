"""The regressions of this repository are whole, and what is made of them is current."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from llmguard.catalogue import CHECKS
from llmguard.ledger import Story, read_stories, twice

ROOT = Path(__file__).parents[2]
STORIES = read_stories(ROOT / "regressions", {entry.name for entry in CHECKS})


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.slug)
def test_a_regression_is_whole(story: Story) -> None:
    """Story, broken, fixed, witness, rejects, accepts; the checks that it names exist."""
    assert not story.problems, f"{story.file.name}: {'; '.join(story.problems)} (see regressions/README.md)"


def test_there_are_regressions_and_none_is_there_twice() -> None:
    """The folder is not empty, so that the test above cannot pass by looking at nothing."""
    assert len(STORIES) >= 8
    assert twice(STORIES) == {}


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
