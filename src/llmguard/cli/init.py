"""`llmguard init`: look at a folder and write its project file."""

from __future__ import annotations

import tempfile
from pathlib import Path

from llmguard.cli.compose import compose, keys_of
from llmguard.cli.mistakes import Mistake
from llmguard.cli.survey import survey
from llmguard.project import FILE_NAME, find_project, load_project

__all__ = ["init"]


def init(folder: Path, *, force: bool = False, dry_run: bool = False) -> None:
    """Write `llmguard.toml` for a folder, or print it.

    Raises:
        Mistake: no such folder, or a project file is there already.
    """
    if not folder.is_dir():
        raise Mistake(
            f"{folder} is {'not a folder' if folder.exists() else 'not there'}: `llmguard init` takes the project's folder"
        )
    there = find_project(folder)
    if there is not None and not (force or dry_run):
        table = " has a [tool.llmguard] table" if there.name != FILE_NAME else " is there"
        raise Mistake(
            f"{there}{table} already: `--force` writes {FILE_NAME} anew, `--dry-run` prints what it would be"
        )
    found = survey(folder)
    text = compose(found)
    _accepted(text)
    if dry_run:
        print(text, end="")
        return
    (folder / FILE_NAME).write_text(text, "utf-8")
    keys = list(keys_of(text))
    said = (
        f"names {', '.join(keys)}" if keys else "names nothing yet: nothing was found here that it could name"
    )
    print(f"{folder / FILE_NAME} {said}.")
    print("Guesses and suggestions are comments in it. Then: `llmguard show`, and `pytest -m preflight`.")


def _accepted(text: str) -> None:
    """Prove that the text is a project file before it is written."""
    with tempfile.TemporaryDirectory(prefix="llmguard-") as folder:
        file = Path(folder, FILE_NAME)
        file.write_text(text, "utf-8")
        load_project(file, environ={})
