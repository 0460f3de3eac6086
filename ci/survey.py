"""Which tests run which check, found out by running them once on a copy where every check says that it runs.

Kept in build/mutants-survey.json by the text of each test file: only files that are new or changed are run again.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import json
import re
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from mutations import Module
from survey_plugin import FILE
from trees import ROOT, Tree

from llmguard.catalogue import CHECKS

__all__ = ["Survey", "Test"]

KEPT = ROOT / "build" / "mutants-survey.json"
BESIDE = ("tests/repo/", "tests/support/", "tests/edge/")
"""Tests of the repository itself run no check, what tests share is surveyed with them, and edge cases run everything: too slow here."""
PATIENCE, OWN, OTHERS = 600.0, 90.0, 12.0
"""Seconds for one test file; of tests for one mutant, of the check's own and with all others."""
LOCK = threading.Lock()
MODULES = {entry.name: ROOT / "src" / f"{entry.module.replace('.', '/')}.py" for entry in CHECKS}


@dataclass(frozen=True)
class Test:
    """One test: its id, how long it takes, how it ended, and the checks that ran in it."""

    id: str
    seconds: float
    outcome: str
    checks: frozenset[str]

    @property
    def file(self) -> str:
        """Its file, from the root of the checkout."""
        return self.id.partition("::")[0]


@dataclass
class Survey:
    """What is known of all test files."""

    tests: dict[str, list[Test]] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)

    @classmethod
    def taken(cls, trees: list[Tree], checks: Iterable[str], *, fresh: bool = False) -> Survey:
        """The survey of the checkout as it is now, for these checks; runs what is new, and keeps it file by file."""
        survey = cls() if fresh else cls.kept()
        root = trees[0].root
        wanted = {name: hashlib.sha1((root / name).read_bytes()).hexdigest() for name in files(root, checks)}
        gone = {n for n in survey.tests if not is_asked(n) or not (root / n).is_file()}
        survey.forget(gone | {n for n in wanted if survey.digests.get(n) != wanted[n]})
        left: SimpleQueue[str] = SimpleQueue()
        for name in wanted:
            if name not in survey.tests:
                left.put(name)
        with ThreadPoolExecutor(len(trees)) as pool:
            list(pool.map(lambda tree: survey.run(tree, left, wanted), trees if left.qsize() else []))
        return survey

    @classmethod
    def kept(cls) -> Survey:
        """What earlier runs found out."""
        told = json.loads(KEPT.read_text("utf-8")) if KEPT.is_file() else {}
        tests = {
            name: [Test(i, s, o, frozenset(c)) for i, s, o, c in one["tests"]] for name, one in told.items()
        }
        return cls(tests, {name: one["digest"] for name, one in told.items()})

    def forget(self, names: Iterable[str]) -> None:
        """Leave out files."""
        for name in names:
            self.tests.pop(name, None)

    def run(self, tree: Tree, left: SimpleQueue[str], digests: dict[str, str]) -> None:
        """Run files for as long as there are any."""
        with watched(tree), contextlib.suppress(Empty):
            while True:
                name = left.get_nowait()
                found = look(tree, name)
                with LOCK:
                    self.tests[name], self.digests[name] = found, digests[name]
                    self.keep()
                red = [test.id for test in found if test.outcome == "failed"]
                print(
                    f"survey: {name}: {len(found)} tests, {sum(t.seconds for t in found):.0f} s",
                    *red,
                    flush=True,
                )

    def keep(self) -> None:
        """Write all of it, in one step."""
        told = {
            name: {
                "digest": self.digests[name],
                "tests": [(t.id, t.seconds, t.outcome, sorted(t.checks)) for t in tests],
            }
            for name, tests in sorted(self.tests.items())
        }
        KEPT.parent.mkdir(exist_ok=True)
        part = KEPT.with_suffix(".part")
        part.write_text(json.dumps(told, indent=0), "utf-8")
        part.replace(KEPT)

    def of(self, check: str) -> list[Test]:
        """The tests for a check, its own first: in files that name it those that run it; then, for so many seconds as there are, others
        that run it, and others of these files."""
        green = [t for tests in self.tests.values() for t in tests if t.outcome == "passed"]
        near = [t for t in green if check in t.checks]
        named = re.compile(rf"\b{check}\b")
        files = {t.file for t in near if named.search((ROOT / t.file).read_text("utf-8"))}
        found: list[Test] = []
        for part, limit in (
            ([t for t in near if t.file in files], OWN),
            ([t for t in near if t.file not in files], OTHERS),
            ([t for t in green if t.file in files and t not in near], OTHERS),
        ):
            taken: list[Test] = []
            for test in self.cheapest_first(part):
                if self.seconds([*found, *taken, test]) < limit:
                    taken.append(test)
            found += taken
        return found

    def seconds(self, tests: Iterable[Test]) -> float:
        """How long these take together: in each file, what its slowest test sets up may have to be set up by another one."""
        told = list(tests)
        return sum(t.seconds for t in told) + sum(self.slowest(name) for name in {t.file for t in told})

    def slowest(self, name: str) -> float:
        """Seconds of the slowest test of a file."""
        return max((t.seconds for t in self.tests[name]), default=0.0)

    def cheapest_first(self, tests: Sequence[Test]) -> list[Test]:
        """File by file, as fixtures are shared: the cheapest file first, and in it the cheapest test."""
        cost = {name: self.seconds(t for t in tests if t.file == name) for name in {t.file for t in tests}}
        return sorted(tests, key=lambda t: (cost[t.file], t.file, t.seconds))


def files(root: Path, checks: Iterable[str]) -> Iterator[str]:
    """Test files that name a check or run all of them, themselves or by what they share."""
    names = re.compile(rf"\b({'|'.join(checks)}|Audit|audit)\b")
    shared = [f.stem for f in (root / "tests" / "support").glob("*.py") if names.search(f.read_text("utf-8"))]
    told = re.compile(rf"\bsupport(?:\.| import )({'|'.join(shared)})\b") if shared else names
    for file in sorted((root / "tests").rglob("test_*.py")):
        name, text = file.relative_to(root).as_posix(), file.read_text("utf-8")
        if is_asked(name) and (names.search(text) or told.search(text)):
            yield name


def is_asked(name: str) -> bool:
    """Whether a file is one that may see a mutant; what regressions see is told by ci/guards.py."""
    return name.startswith("tests/") and not name.startswith(BESIDE)


def instrumented(module: Module, checks: Iterable[str]) -> bytes:
    """The module's text, where each of these checks says that it runs before it does anything else."""
    text = module.text
    functions = [module.functions[c] for c in checks if c in module.functions]
    for function in sorted(functions, key=lambda f: -f.lineno):
        first = function.body[1 if ast.get_docstring(function) and len(function.body) > 1 else 0]
        at = module.starts[first.lineno - 1] + first.col_offset
        told = f'__import__("survey_plugin").seen("{function.name}")\n{" " * first.col_offset}'
        text = text[:at] + told.encode() + text[at:]
    return text


def by_module() -> dict[Path, list[str]]:
    """The checks of each module."""
    found: dict[Path, list[str]] = defaultdict(list)
    for check, file in MODULES.items():
        found[file].append(check)
    return found


@contextlib.contextmanager
def watched(tree: Tree) -> Iterator[None]:
    """A copy all of whose checks say that they run, for as long as the block lasts."""
    with contextlib.ExitStack() as stack:
        for file, checks in by_module().items():
            text = instrumented(Module(tree.root / file.relative_to(ROOT)), checks)
            stack.enter_context(tree.changed(file, text))
        yield


def look(tree: Tree, name: str) -> list[Test]:
    """Run one test file on a copy whose checks say that they run."""
    notes = tree.root.parent / "survey.jsonl"
    notes.write_text("", "utf-8")
    tree.pytest([name], "-p", "survey_plugin", seconds=PATIENCE, **{FILE: str(notes)})
    lines = [json.loads(line) for line in notes.read_text("utf-8").splitlines()]
    return list(tests_of(lines))


def tests_of(lines: list[dict[str, Any]]) -> Iterator[Test]:
    """What the plugin wrote, by test: one is as green as the worst of its parts."""
    worst = ("passed", "skipped", "failed")
    for test in dict.fromkeys(line["test"] for line in lines if "outcome" in line):
        own = [line for line in lines if line["test"] == test]
        outcome = max((line["outcome"] for line in own if "outcome" in line), key=worst.index)
        seconds = sum(line.get("seconds", 0.0) for line in own)
        yield Test(
            test, round(seconds, 3), outcome, frozenset(line["check"] for line in own if "check" in line)
        )
