"""`llmguard bug new | list | find`: the ledger of bugs, a project's own and those that this library knows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from llmguard.catalogue import CHECKS
from llmguard.cli.mistakes import Mistake
from llmguard.ledger import Found, Issue, Story, find, issue_of, known_stories, read_stories, template
from llmguard.ledger.template import path_for
from llmguard.reporting.text import visible

__all__ = ["find_bugs", "list_bugs", "new"]

SHOWN = 5
NEXT = """\
Now, in this order (every test is red until you are there):
  1. tell the story: every line with … in it
  2. broken(): the code as it was, cut down to what matters; fixed(): as it should be
  3. test_witness: show without any check that broken() is broken
  4. test_check_rejects, test_check_accepts: the check on both
  pytest --llmguard-bugs={folder} {file}"""


def new(title: str | None, *, folder: Path, from_issue: Path | None, dry_run: bool) -> None:
    """Write a new regression, or say that it is there.

    Raises:
        Mistake: neither a title nor an issue; an issue that cannot be read; a slug that another story has.
    """
    issue = _issue(title, from_issue)
    file = path_for(folder, issue.title)
    text = template(issue)
    if dry_run:
        print(f"# {file}\n{text}", end="")
        return
    if file.exists():
        print(f"{file} is there already: nothing was changed")
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, "utf-8")
    print(f"wrote {file}\n{NEXT.format(folder=folder, file=file)}")


def _issue(title: str | None, file: Path | None) -> Issue:
    if file is None:
        if not title:
            raise Mistake(
                "say what went wrong, as in: llmguard bug new 'EOS is never learnt' (or --from-issue FILE)"
            )
        return Issue(title)
    try:
        told = issue_of(file.read_text("utf-8"), file.name)
    except (OSError, UnicodeDecodeError) as bad:
        raise Mistake(f"{file}: the issue cannot be read: {bad}") from None
    return Issue(title or told.title, told.fields)


def list_bugs(folder: Path, *, as_json: bool = False) -> None:
    """Print the bugs of a folder, with what their regressions lack, and those that the library knows."""
    own, known = _stories(folder)
    if as_json:
        print(json.dumps([_json(story) for story in (*own, *known)], indent=1))
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for heading in ("bug", "found by", "state"):
        table.add_column(heading, overflow="fold")
    for story in own:
        state = (
            Text("; ".join(story.problems), style="red") if story.problems else Text("whole", style="green")
        )
        table.add_row(Text(story.slug, style="bold"), Text(", ".join((*story.checks, *story.guards))), state)
    for story in known:
        table.add_row(
            Text(visible(story.slug)),
            Text(", ".join((*story.checks, *story.guards)), style="dim"),
            Text("known to llmguard", style="dim"),
        )
    console = Console(highlight=False)
    console.print(table)
    console.print(Text(f"\n{len(own)} in {folder}, {len(known)} known to llmguard.", style="dim"))


def find_bugs(question: str, folder: Path, *, as_json: bool = False) -> None:
    """Print the bugs whose stories fit a symptom best.

    Raises:
        Mistake: none shares a word with it.
    """
    own, known = _stories(folder)
    found = find(question, [*own, *known])
    if as_json:
        print(
            json.dumps(
                [{**_json(f.story), "score": round(f.score, 3), "words": f.words} for f in found[:SHOWN]],
                indent=1,
            )
        )
        return
    if not found:
        raise Mistake(
            f"no known bug shares a word with {question!r}; `llmguard bug list` shows all {len(own) + len(known)}"
        )
    _print_found(found[:SHOWN])


def _print_found(found: Sequence[Found]) -> None:
    console = Console(highlight=False)
    for one in found:
        story = one.story
        console.print(
            Text(visible(story.slug), style="bold"), Text(f" ({', '.join(one.words)})", style="dim")
        )
        for name in ("Symptom", "Cause", "Lesson"):
            if story.fields.get(name):
                console.print(Text.assemble((f"  {name}: ", "cyan"), visible(story.fields[name])))
        if story.checks:
            console.print(
                Text.assemble(("  Find it: ", "cyan"), (f"pytest -k '{' or '.join(story.checks)}'", "green"))
            )
        if story.guards:
            console.print(Text.assemble(("  Stopped by: ", "cyan"), (", ".join(story.guards), "green")))


def _stories(folder: Path) -> tuple[list[Story], list[Story]]:
    own = read_stories(folder, {entry.name for entry in CHECKS}) if folder.is_dir() else []
    slugs = {story.slug for story in own}
    return own, [story for story in known_stories() if story.slug not in slugs]


def _json(story: Story) -> dict[str, object]:
    return {
        "slug": story.slug, "title": story.title, "file": str(story.file), "fields": dict(story.fields),
        "checks": list(story.checks), "guards": list(story.guards), "problems": list(story.problems),
    }  # fmt: skip
