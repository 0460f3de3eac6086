"""The commands and their options; what each of them does is in a module of its own, imported when it is called."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from llmguard.errors import LLMGuardError

__all__ = ["app", "run"]

app = typer.Typer(
    name="llmguard",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _llmguard(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Look at a fine-tuning project before any training: what will be trained, and what is checked.

    The checks themselves run under pytest: `pytest -m preflight`.
    """


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="The project's folder.")] = Path(),
    force: Annotated[bool, typer.Option("--force", help="Overwrite an llmguard.toml that is there.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the file instead of writing it.")] = False,
) -> None:
    """Look at a folder and write a commented llmguard.toml that names what lies in it."""
    from llmguard.cli.init import init as command

    command(folder, force=force, dry_run=dry_run)


@app.command()
def show(
    project: Annotated[
        Path | None, typer.Option("--project", "-p", help="The project file or its folder.")
    ] = None,
    split: Annotated[
        str | None,
        typer.Option("--split", "-s", help="train, validation, or another source of encoded rows."),
    ] = None,
    rows: Annotated[int, typer.Option("--rows", "-n", min=1, help="How many rows.")] = 3,
    row: Annotated[
        int | None, typer.Option("--row", "-r", min=0, help="This row alone, token by token.")
    ] = None,
    html: Annotated[Path | None, typer.Option("--html", help="Write a page instead of printing.")] = None,
) -> None:
    """Print rows with the colours of their labels: what is trained, what is masked, what looks wrong."""
    from llmguard.cli.show import show as command

    command(project, split=split, rows=rows, row=row, html=html)


@app.command()
def explain(
    check: Annotated[str | None, typer.Argument(help="A check, or a family of checks.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for other programs.")] = False,
) -> None:
    """Say what a check promises, what it needs and how to give it that; without a name, list all checks."""
    from llmguard.cli.explain import explain as command

    command(check, as_json=as_json)


bugs = typer.Typer(help="The ledger of bugs: what went wrong once is a test for ever.", no_args_is_help=True)
app.add_typer(bugs, name="bug")
BUGS = Path("regressions")
Folder = Annotated[Path, typer.Option("--folder", "-f", help="The folder of your regressions.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for other programs.")]


@bugs.command("new")
def bug_new(
    title: Annotated[str | None, typer.Argument(help="What went wrong, as a sentence.")] = None,
    folder: Folder = BUGS,
    from_issue: Annotated[
        Path | None, typer.Option("--from-issue", help="Take title and story from the text of an issue.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the file instead of writing it.")] = False,
) -> None:
    """Write a regression for a bug: its story to be told, and three tests that are red until it is whole."""
    from llmguard.cli.bug import new as command

    command(title, folder=folder, from_issue=from_issue, dry_run=dry_run)


@bugs.command("list")
def bug_list(folder: Folder = BUGS, as_json: AsJson = False) -> None:
    """List your regressions, with what they lack, and the bugs that llmguard knows."""
    from llmguard.cli.bug import list_bugs as command

    command(folder, as_json=as_json)


@bugs.command("find")
def bug_find(
    symptom: Annotated[str, typer.Argument(help="What you see, in your own words.")],
    folder: Folder = BUGS,
    as_json: AsJson = False,
) -> None:
    """Find known bugs by what you see: `llmguard bug find "loss is 0.0"`."""
    from llmguard.cli.bug import find_bugs as command

    command(symptom, folder, as_json=as_json)


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code."""
    arguments = list(arguments) or ["--help"]
    if arguments[:1] == ["--version"]:
        from llmguard import __version__

        print(f"pytest-llmguard {__version__}")
        return 0
    for stream in (sys.stdout, sys.stderr):
        _let_everything_through(stream)
    try:
        app(arguments, prog_name="llmguard")
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except LLMGuardError as mistake:
        return _told(str(mistake))
    except BrokenPipeError:  # `llmguard explain | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as bad:
        return _told(f"{bad.filename or 'file'}: {bad.strerror or bad}")
    return 0


def _let_everything_through(stream: Any) -> None:
    """A terminal that cannot show a character gets its escape; it is no reason to stop."""
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="backslashreplace")


def _told(message: str) -> int:
    from llmguard.cli import USAGE
    from llmguard.reporting.text import visible

    print(f"llmguard: {visible(message)}", file=sys.stderr)
    return USAGE
