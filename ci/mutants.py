"""Break each check in small ways, one at a time, and see which test goes red.

python ci/mutants.py                       every check of the catalogue, the quickest first
python ci/mutants.py CHECK_OR_FAMILY...    some of them
python ci/mutants.py --limit 12            more mutants a check (0: all of them)
python ci/mutants.py --fresh               forget what earlier runs found out
python ci/mutants.py --minutes 30          begin no other mutant after so many minutes
python ci/mutants.py --write               also renew the rows of these checks in docs/mutants.md

Mutants run in copies of the checkout (ci/trees.py), one a worker, never in the checkout itself. Each runs the tests that run its check
(ci/survey.py finds out which, once), the quickest first, until one goes red. What was found out is kept in build/mutants.json: a run that
was ended goes on where it stopped. A mutant that no test can tell from the original stands in ci/mutants.json with the reason.
Exit code 1 where others survive. Needs POSIX process groups: Linux or macOS.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "ci"), str(ROOT / "src")]

from mutants_page import KILLED, RED, SURVIVED, TIMED_OUT, Outcome, judged, table, write  # noqa: E402  # a neighbour of this script, whatever the working directory
from mutations import Module, Mutation, mutations_of  # noqa: E402  # a neighbour, too
from survey import Survey, Test  # noqa: E402  # a neighbour, too
from trees import Tree  # noqa: E402  # a neighbour, too

from llmguard.catalogue import CHECKS, Entry  # noqa: E402  # the checkout's own package, installed or not

KNOWN = ROOT / "build" / "mutants.json"
PATIENCE, SLOWNESS, WORKERS = 90.0, 6.0, 2
"""Seconds that a run may take, and so many times what its tests took when nothing was changed."""
Known = dict[str, list[Any]]
"""By mutant: what became of it, a digest of its tests, and the ids of those that went red."""


@dataclass(frozen=True)
class Job:
    """One mutant of one check, and the tests that should see it."""

    check: str
    family: str
    module: Module
    mutation: Mutation
    tests: tuple[Test, ...]
    number: int
    seconds: float
    """How long its tests take while nothing is changed."""

    @property
    def key(self) -> str:
        """The mutant: its check, the text of that, its change."""
        told = (self.check, *self.module.identity(self.check, self.mutation))
        return hashlib.sha1(repr(told).encode()).hexdigest()

    @property
    def tested_by(self) -> str:
        """The text of its tests."""
        files = sorted({test.file for test in self.tests})
        return hashlib.sha1(b"".join((ROOT / f).read_bytes() for f in files)).hexdigest()

    def is_known(self, known: Known) -> bool:
        """Whether an earlier run found it out: one that was killed stays so, another is tried again when its tests change."""
        outcome, tested_by, *_ = known.get(self.key, ("", ""))
        return outcome in (KILLED, TIMED_OUT) or tested_by == self.tested_by

    def run(self, tree: Tree) -> tuple[str, list[str]]:
        """Run its tests on a copy where it stands in the place of the original; what became of it, and which went red."""
        with tree.changed(self.module.file, self.module.mutated(self.mutation)):
            ids = [test.id for test in self.tests]
            ended = tree.pytest(ids, "-x", seconds=PATIENCE + SLOWNESS * self.seconds) if ids else None
        if ended is None or ended.code == 0:
            return SURVIVED, []
        return (TIMED_OUT if ended.code is None else KILLED), red_of(ids, ended.said)


def red_of(ids: Sequence[str], said: str) -> list[str]:
    """Which of these tests pytest calls red."""
    told = [line.partition(" ")[2] for line in said.splitlines() if line.startswith(("FAILED ", "ERROR "))]
    return [name for name in ids if any(f"{each} ".startswith(f"{name} ") for each in told)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Survey, plan, run, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("wanted", nargs="*", help="checks or families; all of them by default")
    parser.add_argument("--limit", type=int, default=6, help="mutants a check; 0 for all")
    parser.add_argument("--workers", type=int, default=WORKERS)
    parser.add_argument("--fresh", action="store_true", help="forget earlier outcomes")
    parser.add_argument("--write", action="store_true", help="renew the rows of docs/mutants.md")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no mutant after these")
    told = parser.parse_args(arguments)
    until = time.monotonic() + 60 * told.minutes
    chosen = chosen_from(told.wanted)
    known: Known = {} if told.fresh or not KNOWN.is_file() else json.loads(KNOWN.read_text("utf-8"))
    with tempfile.TemporaryDirectory(prefix="mutants-") as home:
        trees = [Tree(Path(home, str(number))) for number in range(told.workers)]
        survey = Survey.taken(trees, [entry.name for entry in chosen], fresh=told.fresh)
        jobs = plan(chosen, survey, told.limit)
        run_all(jobs, known, trees, until)
        red = prove(list(killers(jobs, survey, known).values()), known, trees)
    doubtful = [check for check, tests in killers(jobs, survey, known).items() if red & {t.id for t in tests}]
    outcomes = [Outcome(e.name, e.family, module_of(e), None, RED) for e in chosen if e.name in doubtful]
    outcomes += [
        Outcome(j.check, j.family, j.module, j.mutation, known[j.key][0]) for j in jobs if j.key in known
    ]
    rows = judged(outcomes, {entry.name: possible(entry) for entry in chosen})
    print(table(rows))
    if told.write:
        write(rows)
    return int(any(row.survivors for row in rows))


def chosen_from(wanted: Sequence[str]) -> list[Entry]:
    """Entries of the catalogue by the names of checks or families; all of them by default."""
    chosen = [e for e in CHECKS if not wanted or {e.name, e.family} & {*wanted}]
    if missing := {*wanted} - {n for e in chosen for n in (e.name, e.family)}:
        raise SystemExit(f"neither checks nor families: {', '.join(sorted(missing))}")
    return chosen


def module_of(entry: Entry) -> Module:
    """The module of a check."""
    return Module.read(ROOT / "src" / f"{entry.module.replace('.', '/')}.py")


def possible(entry: Entry) -> int:
    """How many mutants could be made of a check and the functions of its module that it uses."""
    return len(module_of(entry).mutations(entry.name))


def plan(chosen: Sequence[Entry], survey: Survey, limit: int) -> list[Job]:
    """The mutants of each check: three of each first, then the others; the quickest check first."""
    jobs = [job for entry in chosen for job in jobs_of(entry, survey, limit)]
    return sorted(jobs, key=lambda job: (job.number // 3, job.seconds))


def killers(jobs: Sequence[Job], survey: Survey, known: Known) -> dict[str, list[Test]]:
    """For each check, the tests that killed a mutant of it."""
    found: dict[str, list[Test]] = {}
    for job in jobs:
        red = {name for told in known.get(job.key, [])[2:] for name in told}
        found.setdefault(job.check, []).extend(test for test in job.tests if test.id in red)
    return found


def prove(by_check: Sequence[Sequence[Test]], known: Known, trees: list[Tree]) -> set[str]:
    """Run the tests that killed mutants once more, together, while nothing is changed; those that are red then prove nothing."""
    tests = {test.id: test for own in by_check for test in own}
    digests = {
        name: hashlib.sha1((ROOT / name).read_bytes()).hexdigest()
        for name in {t.file for t in tests.values()}
    }
    left = [test for test in tests.values() if known.get(f"green {test.id}") != [digests[test.file]]]
    names = sorted({test.file for test in left})

    def run(number: int) -> set[str]:
        own = [test.id for test in left if names.index(test.file) % len(trees) == number]
        ended = trees[number].pytest(own, seconds=PATIENCE * max(1, len(own))) if own else None
        return set(red_of(own, ended.said) if ended and ended.code in (0, 1) else own)

    with ThreadPoolExecutor(len(trees)) as pool:
        red = set[str]().union(*pool.map(run, range(len(trees))))
    known.update({f"green {test.id}": [digests[test.file]] for test in left if test.id not in red})
    keep(known)
    return red


def jobs_of(entry: Entry, survey: Survey, limit: int) -> Iterator[Job]:
    """The mutants of one check."""
    tests = tuple(survey.of(entry.name))
    for number, (module, mutation) in enumerate(mutations_of(module_of(entry), entry.name, limit)):
        yield Job(entry.name, entry.family, module, mutation, tests, number, survey.seconds(tests))


def run_all(jobs: list[Job], known: Known, trees: list[Tree], until: float) -> None:
    """Run what is not known yet, one at a time on each copy, and keep each outcome as it comes."""
    left = sorted((job for job in jobs if not job.is_known(known)), key=lambda job: job.key not in known)
    waiting: SimpleQueue[Job] = SimpleQueue()
    for job in left:
        waiting.put(job)
    lock, began, done = threading.Lock(), time.monotonic(), [0]

    def work(tree: Tree) -> None:
        while time.monotonic() < until:
            try:
                job = waiting.get_nowait()
            except Empty:
                return
            became, red = job.run(tree)
            with lock:
                done[0] += 1
                known[job.key] = [became, job.tested_by, red]
                keep(known)
                print(
                    f"{done[0]}/{len(left)} {time.monotonic() - began:5.0f} s", line(job, became), flush=True
                )

    with ThreadPoolExecutor(len(trees)) as pool:
        list(pool.map(work, trees))


def line(job: Job, became: str) -> str:
    """A line of progress."""
    what = " ".join(job.mutation.name.split())
    return f"{became:9} {job.check} {job.module.file.name}:{job.mutation.line} {what}"


def keep(known: Known) -> None:
    """Write the outcomes, in one step."""
    KNOWN.parent.mkdir(exist_ok=True)
    part = KNOWN.with_suffix(".part")
    part.write_text(json.dumps(known, indent=0), "utf-8")
    part.replace(KNOWN)


if __name__ == "__main__":
    sys.exit(main())
