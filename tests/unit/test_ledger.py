"""Stories of bugs: read without being run, held against what a regression must have, found by what somebody sees, begun from nothing."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from llmguard.errors import UsageError
from llmguard.ledger import (
    FIELDS,
    Issue,
    find,
    issue_of,
    known_stories,
    read_stories,
    read_story,
    role_of,
    template,
    twice,
)
from llmguard.ledger.template import path_for, slug_from

ROOT = Path(__file__).parents[2]
WHOLE = '''"""EOS is never learnt.

Symptom: answers never stop.
Severity: critical
Cause: the collator masks by id,
    and pad is EOS.
First seen: a project
Cost: a week
Check: collator_keeps_labels, terminator_is_trained (and others)
Lesson: mask by attention
"""

from core import fixed


def broken(): ...
def test_witness(): ...


class TestChecks:
    def test_check_rejects_each(self): ...


def test_check_accepts(): ...
'''


def written(folder: Path, text: str, name: str = "test_eos_is_never_learnt.py") -> Path:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, "utf-8")
    return file


def test_a_whole_story_is_read(tmp_path: Path) -> None:
    """Slug, title, fields over several lines, checks, severity; functions may be imported, tests may be methods."""
    story = read_story(written(tmp_path, WHOLE), {"collator_keeps_labels", "terminator_is_trained"})
    assert story.problems == ()
    assert (story.slug, story.title, story.severity) == (
        "eos_is_never_learnt",
        "EOS is never learnt.",
        "critical",
    )
    assert story.fields["Cause"] == "the collator masks by id, and pad is EOS."
    assert story.checks == ("collator_keeps_labels", "terminator_is_trained")
    assert story.tests["rejects"] == ("test_check_rejects_each",)


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        *((f"{field}: ", f"{field}s: ", f"no line `{field}: …`") for field in FIELDS),
        (
            "Lesson: mask by attention",
            "Lesson: … (one sentence)",
            "`Lesson:` of its story is still to be filled in",
        ),
        ("def broken", "def broke", "it has no broken(…)"),
        ("import fixed", "import other", "it has no fixed(…)"),
        ("def test_witness", "def test_witnesses", "it has no test_witness()"),
        ("def test_check_rejects_each", "def check_rejects_each", "it has no test_check_rejects()"),
        ("def test_check_accepts", "def test_accepts", "it has no test_check_accepts()"),
        (
            "terminator_is_trained",
            "terminator_is_green",
            "names the check terminator_is_green, which does not exist",
        ),
        (
            "(and others)",
            ", llmguard_core.Guard",
            "names the guard llmguard_core.Guard, which does not exist",
        ),
        (
            "(and others)",
            ", llmguard_core.queue.daemon.run",
            "names the guard llmguard_core.queue.daemon.run,",
        ),
        ("(and others)", ", no_such_package.guard", "names the guard no_such_package.guard, which"),
        ("critical", "catastrophic", "is none of critical, high, medium, low"),
        ("EOS is never learnt.", "… (what went wrong)", "does not begin with a sentence"),
        ('"""\n\nfrom', '"\n\nfrom', "it cannot be read"),
    ],
)
def test_what_is_lacking_is_an_instruction(tmp_path: Path, old: str, new: str, problem: str) -> None:
    """One for each thing, and none for what is there."""
    assert old in WHOLE
    story = read_story(
        written(tmp_path, WHOLE.replace(old, new)), {"collator_keeps_labels", "terminator_is_trained"}
    )
    assert len(story.problems) == 1, story.problems
    assert problem in story.problems[0]


@pytest.mark.parametrize(
    "guard",
    [
        "llmguard_core.Guards",
        "llmguard_core.checkpoints.verify",
        "llmguard.probe",
        "llmguard.probe.launch.run",
    ],
)
def test_a_guard_is_named_by_where_it_lies(tmp_path: Path, guard: str) -> None:
    """Beside checks: a name that a module defines or hands on, or a module; a method is looked up by its class."""
    text = WHOLE.replace("(and others)", f", `{guard}` (in a run)")
    story = read_story(written(tmp_path, text), {"collator_keeps_labels", "terminator_is_trained"})
    assert story.problems == ()
    assert story.guards == (guard,)
    assert story.checks == ("collator_keeps_labels", "terminator_is_trained")


def test_nothing_of_a_story_is_run(tmp_path: Path) -> None:
    """A regression may import torch, or what is not installed."""
    ran = tmp_path / "ran"
    text = WHOLE + f"\nimport no_such_module_at_all\nopen({str(ran)!r}, 'w')\n"
    assert read_story(written(tmp_path, text)).problems == ()
    assert not ran.exists()


def test_two_bugs_with_one_slug_are_found(tmp_path: Path) -> None:
    """In folders of their own; other files are no stories."""
    one, other = written(tmp_path / "a", WHOLE), written(tmp_path / "b", WHOLE)
    written(tmp_path, WHOLE, "helpers.py")
    stories = read_stories(tmp_path)
    assert [story.file for story in stories] == [one, other]
    assert twice(stories) == {"eos_is_never_learnt": [one, other]}


@pytest.mark.parametrize(
    ("test", "role"),
    [
        ("regressions/test_x.py::test_witness", "witness"),
        ("test_x.py::test_check_rejects[case-1]", "rejects"),
        ("test_x.py::TestAll::test_check_accepts_packed", "accepts"),
        ("test_x.py::test_check_acceptsmore", ""),
        ("test_x.py::test_other", ""),
        ("test_x.py::ledger[x]", ""),
    ],
)
def test_the_name_of_a_test_says_what_it_proves(test: str, role: str) -> None:
    """Parameters and classes do not matter."""
    assert role_of(test) == role


@pytest.mark.parametrize(
    ("question", "slug"),
    [
        ("generation never stops", "eos_is_never_learnt"),
        ("the model does not stop until max_new_tokens", "eos_is_never_learnt"),
        ("word salad after training", "labels_are_shifted_twice"),
        ("my base model obeys instruction prompts", "base_model_follows_instructions"),
        ("edited rows have no effect", "text_edited_after_tokenisation"),
        ("masking has no effect on loss", "collator_overwrites_labels"),
        ("user turns are trained", "assistant_mask_runs_over_user_turns"),
        ("adapter looks like a no-op", "trained_in_one_format_tested_in_another"),
    ],
)
def test_a_bug_is_found_by_what_somebody_sees(question: str, slug: str) -> None:
    """In other words than the story's own; the best comes first."""
    found = find(question, known_stories())
    assert found[0].story.slug == slug
    assert found[0].words


def test_a_question_that_says_nothing_finds_nothing() -> None:
    """Small words are in every story."""
    assert find("it is not what we have when this was", known_stories()) == []


def test_the_known_stories_are_those_of_the_regressions() -> None:
    """They go with the library, so that they are found where its regressions are not."""
    here = read_stories(ROOT / "regressions")
    assert [(s.slug, s.title, s.fields) for s in known_stories()] == [
        (s.slug, s.title, s.fields) for s in here
    ]


@pytest.mark.parametrize(
    ("title", "slug"),
    [
        ("EOS is never learnt", "eos_is_never_learnt"),
        ("  The model's loss: 0.0?! ", "the_models_loss_0_0"),
        ("word " * 40, "_".join(["word"] * 12)),
        ("x" * 100, "x" * 60),
    ],
)
def test_a_title_becomes_a_slug(title: str, slug: str) -> None:
    """Words of the title, cut where a word ends."""
    assert slug_from(title) == slug


def test_a_title_without_a_word_is_refused() -> None:
    """There is nothing to call the bug by."""
    with pytest.raises(UsageError, match="a sentence that says what went wrong"):
        path_for(Path(), "… ?!")


@pytest.mark.parametrize(
    "title",
    ["EOS is never learnt", 'a """quoted""" title', "back\\slash", 'ends with a quote"', "two\nlines", "…"],
)
def test_a_new_story_is_python_and_lacks_exactly_its_text(tmp_path: Path, title: str) -> None:
    """Whatever the title; functions and tests are there, red until they are written."""
    file = written(tmp_path, template(Issue(title)), "test_new.py")
    ast.parse(file.read_text("utf-8"))
    story = read_story(file, ())
    assert len([p for p in story.problems if "still to be filled in" in p]) == len(FIELDS)
    assert len(story.problems) == len(FIELDS) + ("…" in title)


ISSUE = """# [Bug]: Loss goes to 0.0 on MPS

Seen with transformers 5.1, https://github.com/huggingface/transformers/issues/12345

## What happened
The loss is 0.0 from step 12 on,
and the gradient norm is nan.

More text that is not the symptom.

```python
## Cause
x = 1
```

## Root cause
An overflow in float16.

**Workaround**
Train in float32.
"""


def test_an_issue_fills_in_what_it_tells() -> None:
    """Title without its tag, first paragraphs under known headings, the link; code is left out."""
    told = issue_of(ISSUE, "issue.md")
    assert told.title == "Loss goes to 0.0 on MPS"
    assert told.fields == {
        "Symptom": "The loss is 0.0 from step 12 on, and the gradient norm is nan.",
        "Cause": "An overflow in float16.",
        "Lesson": "Train in float32.",
        "First seen": "https://github.com/huggingface/transformers/issues/12345",
    }


def test_an_issue_without_headings_is_its_own_symptom() -> None:
    """The first paragraph; the file's name is where it was first seen."""
    told = issue_of(
        "It hangs\n\nAfter the first step nothing moves.\nNot even Ctrl-C.\n\nRegards", "mail.txt"
    )
    assert told.fields == {
        "Symptom": "After the first step nothing moves. Not even Ctrl-C.",
        "First seen": "mail.txt",
    }
    with pytest.raises(UsageError, match="the text of an issue"):
        issue_of("  \n", "empty.md")
