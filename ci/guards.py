"""Take away each guard that a regression names, one at a time, and see the regression go red.

python ci/guards.py             every regression
python ci/guards.py SLUG...     some of them
python ci/guards.py --fresh     forget what earlier runs found out
python ci/guards.py --write     also write docs/guards.md

The guards of a regression are the checks of its `Check:` line, each made to find nothing, and what ci/guards.json takes out of the
core: a text that stands once in a file, and the text of someone who does without. It runs in copies of the checkout (ci/trees.py). Exit
code 1 where a regression stays green.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "ci"), str(ROOT / "src")]

from mutations import Module  # noqa: E402  # a neighbour of this script, whatever the working directory
from trees import Tree  # noqa: E402  # a neighbour, too

from llmguard.catalogue import CHECKS  # noqa: E402  # the checkout's own package, installed or not
from llmguard.ledger import Story, read_stories  # noqa: E402  # likewise

KNOWN, EDITS, PAGE = ROOT / "build" / "guards.json", ROOT / "ci" / "guards.json", ROOT / "docs" / "guards.md"
PATIENCE, WORKERS = 240.0, 2
GREEN = "stays green"
FAILED = re.compile(r"^(?:FAILED|ERROR) [^ ]+?::(\w+)", re.MULTILINE)
TEXT = """\
# Guards, and the regressions that miss them

Written by `python ci/guards.py --write` (part of `make mutants`). Each row takes one guard away: a check finds nothing any more, or the
core does without one of its precautions (ci/guards.json); and names the tests of the regression that go red then. All of these tests are
green as the code is.

| bug | guard that is taken away | tests that go red |
|---|---|---|
"""


@dataclass(frozen=True)
class Guard:
    """One guard of one regression, and the text of its file without it."""

    slug: str
    name: str
    regression: Path
    file: Path
    without: bytes

    @property
    def key(self) -> str:
        """The texts of the regression and of the file."""
        told = (self.slug, self.name, self.regression.read_bytes(), self.without)
        return hashlib.sha1(repr(told).encode()).hexdigest()

    def red(self, tree: Tree) -> list[str]:
        """The tests of the regression that go red without it; its witnesses, the slowest, are only asked where the others stay green."""
        with tree.changed(self.file, self.without):
            found = self._red(tree, "-k", "not test_witness") if self.name.startswith("`") else []
            return found or self._red(tree)

    def _red(self, tree: Tree, *options: str) -> list[str]:
        ended = tree.pytest([self.regression.relative_to(ROOT).as_posix()], *options, seconds=PATIENCE)
        if ended.code is None:
            return ["all of them: they hang"]
        found = list(dict.fromkeys(FAILED.findall(ended.said)))
        return found or ([] if ended.code in (0, 5) else [f"pytest ends with {ended.code}"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is not known yet, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("wanted", nargs="*", help="slugs of regressions; all of them by default")
    parser.add_argument("--workers", type=int, default=WORKERS)
    parser.add_argument("--fresh", action="store_true", help="forget earlier outcomes")
    parser.add_argument("--write", action="store_true", help="write docs/guards.md")
    told = parser.parse_args(arguments)
    guards = [guard for story in stories() for guard in guards_of(story)]
    known: dict[str, list[str]] = (
        {} if told.fresh or not KNOWN.is_file() else json.loads(KNOWN.read_text("utf-8"))
    )
    chosen = [guard for guard in guards if not told.wanted or guard.slug in told.wanted]
    run([guard for guard in chosen if guard.key not in known], known, told.workers)
    rows = [(guard, known[guard.key]) for guard in guards if guard.key in known]
    wrong = [line(guard, red) for guard, red in rows if guard in chosen and not red]
    print(page(rows), *(f"WRONG {each}" for each in wrong), sep="\n")
    if told.write:
        PAGE.write_text(page(rows), "utf-8")
    return int(bool(wrong))


def stories() -> list[Story]:
    """The regressions of this repository."""
    return read_stories(ROOT / "regressions")


def edits() -> dict[str, list[dict[str, str]]]:
    """What is taken out of the core, by regression."""
    told: dict[str, list[dict[str, str]]] = json.loads(EDITS.read_text("utf-8"))
    return told


def guards_of(story: Story) -> Iterator[Guard]:
    """Each check that it names, then what the core does."""
    modules = {entry.name: ROOT / "src" / f"{entry.module.replace('.', '/')}.py" for entry in CHECKS}
    for check in story.checks:
        if check in modules:
            text = Module.read(modules[check]).blinded(check)
            yield Guard(story.slug, f"`{check}`", story.file, modules[check], text)
    for edit in edits().get(story.slug, []):
        yield Guard(story.slug, edit["guard"], story.file, ROOT / edit["file"], without(edit))


def without(edit: dict[str, str]) -> bytes:
    """The text of a file without a guard of the core."""
    text = (ROOT / edit["file"]).read_text("utf-8")
    if text.count(edit["before"]) != 1:
        raise SystemExit(f"ci/guards.json: {edit['file']} does not hold once: {edit['before']!r}")
    return text.replace(edit["before"], edit["after"]).encode()


def run(guards: list[Guard], known: dict[str, list[str]], workers: int) -> None:
    """Run regressions, one at a time on each copy, and keep what was found as it comes."""
    waiting: SimpleQueue[Guard] = SimpleQueue()
    for guard in guards:
        waiting.put(guard)
    lock = threading.Lock()

    def work(tree: Tree) -> None:
        while True:
            try:
                guard = waiting.get_nowait()
            except Empty:
                return
            red = guard.red(tree)
            with lock:
                known[guard.key] = red
                keep(known)
                print(line(guard, red), flush=True)

    with tempfile.TemporaryDirectory(prefix="guards-") as home, ThreadPoolExecutor(workers) as pool:
        trees = [Tree(Path(home, str(number))) for number in range(workers if guards else 0)]
        for tree in trees[:1]:
            require_green(tree, sorted({guard.regression for guard in guards}))
        list(pool.map(work, trees))


def require_green(tree: Tree, regressions: Sequence[Path]) -> None:
    """A regression that is red while nothing is taken away would prove nothing."""
    names = [file.relative_to(ROOT).as_posix() for file in regressions]
    ended = tree.pytest(names, seconds=PATIENCE * len(names))
    if ended.code != 0:
        raise SystemExit(f"red as the code is: {', '.join(FAILED.findall(ended.said)) or ended.said[-500:]}")


def keep(known: dict[str, list[str]]) -> None:
    """Write what was found, in one step."""
    KNOWN.parent.mkdir(exist_ok=True)
    part = KNOWN.with_suffix(".part")
    part.write_text(json.dumps(known, indent=0), "utf-8")
    part.replace(KNOWN)


def line(guard: Guard, red: list[str]) -> str:
    """A line of progress."""
    return f"{guard.slug}: {guard.name}: {', '.join(red) or GREEN}"


def page(rows: Sequence[tuple[Guard, list[str]]]) -> str:
    """docs/guards.md."""
    told = (
        f"| `{g.slug}` | {g.name} | {', '.join(f'`{test}`' for test in red) or GREEN} |\n" for g, red in rows
    )
    return TEXT + "".join(told)


if __name__ == "__main__":
    sys.exit(main())
