"""What the scripts that generate pages share: write them, or say which are out of date."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
Pages = Mapping[Path, Callable[[], str]]


def write_or_check(
    script: str, about: str | None, pages: Pages, arguments: Sequence[str] | None = None
) -> int:
    """Write each page, or with `--check` compare it; 1 where one is out of date. `script` is the caller's `__file__`."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    checks = parser.parse_args(arguments).check
    stale = [page for page, text in pages.items() if _is_stale(page, text(), writes=not checks)]
    for page in stale:
        name = page.relative_to(ROOT) if page.is_relative_to(ROOT) else page
        print(f"{name} is out of date: run python ci/{Path(script).name}")
    return 1 if stale else 0


def _is_stale(page: Path, text: str, *, writes: bool) -> bool:
    if writes:
        page.write_text(text, "utf-8")
        return False
    return not page.is_file() or page.read_text("utf-8") != text
