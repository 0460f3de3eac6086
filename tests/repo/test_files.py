"""What is tracked: the rooms that are planned, no secrets of the machine it was written on, links that lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TOP = {
    ".ci", ".github", ".gitignore", ".pre-commit-config.yaml", ".pre-commit-hooks.yaml", "ARCHITECTURE.md", "CHANGELOG.md",
    "CONTRIBUTING.md", "LICENSE", "Makefile", "README.md", "SECURITY.md", "benchmarks", "ci", "conftest.py", "docs", "examples",
    "pyproject.toml", "pytest_llmguard", "regressions", "src", "tests",
}  # fmt: skip
LARGEST = 400_000  # bytes
MACHINE = re.compile(
    r"/(?:work|root|tmp/team|Users/\w+|home/(?!user\b|me\b|runner\b|you\b|ada\b)\w+)/|/opt/(?:pypi|wheels)"
    r"|\b(?:files\.)?pythonhosted\.org|\bpypi\.org/simple|download\.pytorch\.org|--(?:extra-)?index-url|--find-links"
)
UNFINISHED = re.compile(
    r"\b(?:TO" + r"DO|FIX" + r"ME|X" + r"XX|HA" + r"CK)\b|NotImplemented" + r"Error|^<{7} |^>{7} ",
    re.MULTILINE,
)
LINK = re.compile(r"\[[^\]]*\]\((?!https?:|mailto:|#)([^)#\s]+)(#[^)\s]+)?\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def texts(root: Path, tracked: list[str]) -> dict[str, str]:
    """Every tracked text by its path."""
    found = {}
    for file in tracked:
        try:
            found[file] = (root / file).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
    return found


def test_the_top_level_is_what_was_planned(tracked: list[str]) -> None:
    """Nothing lies at the top that has no room of its own, and nothing is missing."""
    top = {file.partition("/")[0] for file in tracked}
    assert top - TOP == set(), "put it into a room, or name it here and say what it is for in ARCHITECTURE.md"
    assert TOP - top == set()


def test_no_file_is_large(root: Path, tracked: list[str]) -> None:
    """A repository is for sources: data are made, or read from LLMGUARD_REAL_DATA."""
    large = {file: size for file in tracked if (size := (root / file).stat().st_size) > LARGEST}
    assert not large


def test_no_file_names_the_machine_it_was_written_on(root: Path, tracked: list[str]) -> None:
    """No path of one machine, no host that packages were taken from."""
    found = {
        f"{file}: {hit[0]}"
        for file, text in texts(root, tracked).items()
        if file != _here(root)
        for hit in MACHINE.finditer(text)
    }
    assert not found, sorted(found)


def test_nothing_is_left_unfinished(root: Path, tracked: list[str]) -> None:
    """No note to oneself, no stub, no conflict marker."""
    found = {
        f"{file}: {hit[0]}"
        for file, text in texts(root, tracked).items()
        if file != _here(root)
        for hit in UNFINISHED.finditer(text)
    }
    assert not found, sorted(found)


def test_links_between_pages_lead_somewhere(root: Path, tracked: list[str]) -> None:
    """Every relative link in a Markdown page names a file of the checkout, and its heading."""
    broken = []
    for file, text in texts(root, [each for each in tracked if each.endswith(".md")]).items():
        for target, heading in LINK.findall(text):
            page = (root / file).parent / target
            if not page.exists() or (heading and heading[1:] not in anchors(page)):
                broken.append(f"{file} -> {target}{heading}")
    assert not broken, ", ".join(broken)


def anchors(page: Path) -> set[str]:
    """The headings of a page as links name them."""
    headings = HEADING.findall(page.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(("text", "seen"), [
    ("see /" + "work/tree", True),
    ("/home/" + "someone/x", True),
    ("cache_dir: /home/user/.cache", False),
    ("frame" + "work/x", False),
    ("pip install --extra-index-" + "url x", True),
])  # fmt: skip
def test_the_pattern_sees_what_it_should(text: str, seen: bool) -> None:
    """Paths of one machine are seen; a path that stands for any user's is not one."""
    assert bool(MACHINE.search(text)) is seen


def _here(root: Path) -> str:
    return Path(__file__).resolve().relative_to(root).as_posix()
