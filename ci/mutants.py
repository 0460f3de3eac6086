"""Break each check in small ways, one at a time, and see which test goes red.

python ci/mutants.py                       every check of the families below
python ci/mutants.py CHECK_OR_FAMILY...    some of them
python ci/mutants.py --limit 12            more mutants a check (0: all of them)
python ci/mutants.py --fresh               forget what earlier runs found out
python ci/mutants.py --write               also write docs/mutants.md

Mutants run on a copy of src/llmguard, never on the checkout. Each runs the tests of tests/unit and tests/checks that name its
check or its module. What was found out is kept in build/mutants.json, by the text of the module and of the tests: a run that was
ended goes on where it stopped. A mutant that no test can tell from the original stands in ci/mutants.json with the reason.
Exit code 1 where others survive. Needs os.fork: Linux or macOS.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib
import importlib.util
import inspect
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "ci"), str(ROOT / "src")]

from mutations import Module, Mutation  # noqa: E402  # a neighbour of this script, whatever the working directory

from llmguard.catalogue import CHECKS, Entry  # noqa: E402  # the checkout's own package, installed or not

FAMILIES = (
    "template",
    "tokens",
    "masking",
    "collation",
    "packing",
    "prompts",
    "preference",
    "data",
    "statistics",
)
ROOMS = ("tests/unit", "tests/checks")
KNOWN, EQUIVALENT, TABLE = (
    ROOT / "build" / "mutants.json",
    ROOT / "ci" / "mutants.json",
    ROOT / "docs" / "mutants.md",
)
PATIENCE, WORKERS, FOREIGN = 90.0, 2, 97
QUIET = ("--assert=plain", "-p", "no:llmguard", "-W", "ignore::pytest.PytestAssertRewriteWarning")
KILLED, SURVIVED, EXCUSED, RED = "killed", "survived", "equivalent", "red without it"
Known = dict[str, tuple[str, str]]
"""By mutant: what became of it, and the tests that said so."""


@dataclass(frozen=True)
class Job:
    """One mutant of one check, and the tests that should see it."""

    check: str
    family: str
    module: Module
    mutation: Mutation | None
    tests: tuple[Path, ...]

    @property
    def key(self) -> str:
        """The mutant: its check, the text of its module, its change."""
        told = self.mutation and (self.mutation.start, self.mutation.stop, self.mutation.after)
        return hashlib.sha1(repr((self.check, self.module.digest, told)).encode()).hexdigest()

    @property
    def tested_by(self) -> str:
        """The text of its tests."""
        return hashlib.sha1(b"".join(t.read_bytes() for t in self.tests)).hexdigest()

    def is_known(self, known: Known) -> bool:
        """Whether an earlier run found it out: one that was killed stays so, another is tried again when its tests change."""
        outcome, tested_by = known.get(self.key, ("", ""))
        return (self.mutation is not None and outcome == KILLED) or tested_by == self.tested_by

    @property
    def place(self) -> str:
        """File and line."""
        return f"{self.module.file.name}:{self.mutation.line if self.mutation else 0}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Plan, run, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("wanted", nargs="*", help="checks or families; all of them by default")
    parser.add_argument("--limit", type=int, default=6, help="mutants a check; 0 for all")
    parser.add_argument("--workers", type=int, default=WORKERS)
    parser.add_argument("--fresh", action="store_true", help="forget earlier outcomes")
    parser.add_argument("--write", action="store_true", help="write docs/mutants.md")
    told = parser.parse_args(arguments)
    jobs = plan(told.wanted, told.limit)
    known: Known = {} if told.fresh or not KNOWN.is_file() else json.loads(KNOWN.read_text("utf-8"))
    run_all([job for job in jobs if not job.is_known(known)], known, told.workers)
    outcomes = judge(jobs, known)
    print(table(outcomes))
    if told.write:
        TABLE.write_text(document(outcomes), "utf-8")
    return int(any(outcome in (SURVIVED, RED) for _, outcome in outcomes))


def plan(wanted: Sequence[str], limit: int) -> list[Job]:
    """The unmutated run and the mutants of each check, in the catalogue's order."""
    chosen = [e for e in CHECKS if (e.family in FAMILIES and not wanted) or {e.name, e.family} & {*wanted}]
    if missing := {*wanted} - {n for e in chosen for n in (e.name, e.family)}:
        raise SystemExit(f"neither checks nor families: {', '.join(sorted(missing))}")
    modules = {e.module: Module(ROOT / "src" / f"{e.module.replace('.', '/')}.py") for e in chosen}
    return [job for entry in chosen for job in jobs_of(entry, modules[entry.module], limit)]


def jobs_of(entry: Entry, module: Module, limit: int) -> Iterator[Job]:
    """The run that must be green, then the mutants."""
    tests = tuple(tests_of(entry))
    for mutation in [None, *spread(module.mutations(entry.name), limit)]:
        yield Job(entry.name, entry.family, module, mutation, tests)


def tests_of(entry: Entry) -> Iterator[Path]:
    """Test files that name the check, the least first: most mutants die early."""
    found = [
        f
        for room in ROOMS
        for f in sorted((ROOT / room).glob("test_*.py"))
        if entry.name in f.read_text("utf-8")
    ]
    yield from sorted(found, key=lambda f: f.stat().st_size)


def spread(found: list[Mutation], limit: int) -> list[Mutation]:
    """So many mutations, of as many kinds as there are, the check's own body before its helpers."""
    if not limit or len(found) <= limit:
        return found
    kinds: dict[str, list[Mutation]] = {}
    for mutation in found:
        kinds.setdefault(mutation.operator, []).append(mutation)
    taken: list[Mutation] = []
    while len(taken) < limit:
        taken += [left.pop(0) for left in kinds.values() if left][: limit - len(taken)]
    return sorted(taken, key=lambda m: (m.start, m.stop))


def run_all(jobs: list[Job], known: Known, workers: int) -> None:
    """Run what is not known yet, some at once, and keep each outcome as it comes."""
    if not jobs:
        return
    warm_up()
    running: dict[int, tuple[Job, Path, float]] = {}
    waiting, done, began = list(jobs), 0, time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutants-") as room:
        while waiting or running:
            while waiting and len(running) < workers:
                job = waiting.pop(0)
                running[start(job, Path(room))] = (job, Path(room), time.monotonic())
            pid, status = os.waitpid(-1, os.WNOHANG)
            for late in [p for p, (_, _, since) in running.items() if time.monotonic() - since > PATIENCE]:
                with contextlib.suppress(ProcessLookupError):  # it may have ended just now
                    os.kill(late, signal.SIGKILL)
            if not pid:
                time.sleep(0.05)
                continue
            job, _, _ = running.pop(pid)
            done += 1
            known[job.key] = (outcome(job, status), job.tested_by)
            keep(known)
            print(
                f"{done}/{len(jobs)} {time.monotonic() - began:5.0f} s",
                line(job, known[job.key][0]),
                flush=True,
            )


def line(job: Job, what: str) -> str:
    """A line of progress."""
    change = " ".join(job.mutation.name.split()) if job.mutation else "without a mutation"
    return f"{what:9} {job.check} {job.place} {change}"


def outcome(job: Job, status: int) -> str:
    """What the exit status of a test run says; whoever hangs or crashes is found out too."""
    code = os.waitstatus_to_exitcode(status)
    if code == FOREIGN:
        raise SystemExit("the tests imported another llmguard than the mutated copy")
    if job.mutation is None:
        return KILLED if code == 0 else RED
    return SURVIVED if code in (0, 5) else KILLED


def keep(known: Known) -> None:
    """Write the outcomes, in one step."""
    KNOWN.parent.mkdir(exist_ok=True)
    part = KNOWN.with_suffix(".part")
    part.write_text(json.dumps(known, indent=0), "utf-8")
    part.replace(KNOWN)


def warm_up() -> None:
    """Import what tests import, once; each mutant runs in a fork that has it already."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    for name in ("numpy", "yaml", "jinja2", "pydantic", "hypothesis", "tokenizers", "transformers", "pytest"):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    with contextlib.suppress(ImportError, AttributeError):
        vars(sys.modules["transformers"]).get("x", sys.modules["transformers"].PreTrainedTokenizerFast)


def start(job: Job, room: Path) -> int:
    """Fork a child that runs the tests on its own copy of the package; its process id."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    code = FOREIGN
    try:
        code = run_tests(job, room / str(os.getpid()))
    except BaseException:  # a child must end here, whatever happened: it is a fork of the script
        code = 3
    finally:
        os._exit(code)


def run_tests(job: Job, home: Path) -> int:
    """In the child: pytest on the mutated copy."""
    shutil.copytree(ROOT / "src" / "llmguard", home / "llmguard")  # with its compiled files
    if job.mutation:
        target = home / "llmguard" / job.module.file.relative_to(ROOT / "src" / "llmguard")
        target.write_bytes(job.module.mutated(job.mutation))
    for name in [n for n in sys.modules if n.split(".")[0] in ("llmguard", "mutations")]:
        del sys.modules[name]
    sys.path[:] = [str(home), *(p for p in sys.path if p not in (str(ROOT / "src"), str(ROOT / "ci")))]
    os.environ["PYTHONPATH"] = str(home)
    silent = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(silent, stream)
    os.chdir(ROOT)
    package = importlib.util.find_spec("llmguard")
    if package is None or not str(package.origin).startswith(str(home)):
        return FOREIGN
    import pytest

    options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *QUIET, f"--basetemp={home / 'tmp'}"]
    code = pytest.main([*options, *map(str, job.tests)], plugins=[Relevant(job.check)]) if job.tests else 5
    shutil.rmtree(home, ignore_errors=True)
    return int(code)


class Relevant:
    """A pytest plugin: of each file, the tests that name a check, by themselves, their class, or the case that they run."""

    def __init__(self, check: str) -> None:
        self.check = check

    def pytest_collection_modifyitems(self, config: Any, items: list[Any]) -> None:
        """Deselect the others; where only a file's own helpers name the check, all of its tests stay."""
        near = {item: self._names(item) for item in items}
        files = {item.path for item, named in near.items() if named}
        items[:] = [item for item in items if near[item] or item.path not in files]

    def _names(self, item: Any) -> bool:
        cases = getattr(item.module, "CASES", {})
        told = [item.cls or item.function]
        told += [
            cases[p] for p in getattr(getattr(item, "callspec", None), "params", {}).values() if _in(p, cases)
        ]
        return self.check in item.name or any(self.check in inspect.getsource(one) for one in told)


def _in(key: Any, cases: dict[str, Any]) -> bool:
    return isinstance(key, str) and key in cases


def judge(jobs: list[Job], known: Known) -> list[tuple[Job, str]]:
    """Outcomes, those that are excused set apart."""
    excused = json.loads(EQUIVALENT.read_text("utf-8")) if EQUIVALENT.is_file() else {}
    return [
        (
            j,
            EXCUSED
            if known[j.key][0] == SURVIVED and j.mutation and j.mutation.name in excused
            else known[j.key][0],
        )
        for j in jobs
        if j.mutation or known[j.key][0] == RED
    ]


def rows_of(outcomes: list[tuple[Job, str]]) -> Iterator[tuple[str, str, list[tuple[Job, str]]]]:
    """Family, check, and its outcomes."""
    for family, check in dict.fromkeys((job.family, job.check) for job, _ in outcomes):
        yield family, check, [(j, o) for j, o in outcomes if j.check == check]


def table(outcomes: list[tuple[Job, str]]) -> str:
    """A Markdown table: one row a check."""
    lines = [
        "| family | check | mutants | of | killed | equivalent | survivors |",
        "|---|---|--:|--:|--:|--:|---|",
    ]
    for family, check, those in rows_of(outcomes):
        count = {o: sum(one == o for _, one in those) for o in (KILLED, EXCUSED)}
        alive = "; ".join(f"`{j.place}` {told(j)}" for j, o in those if o in (SURVIVED, RED))
        lines.append(
            f"| {family} | `{check}` | {len(those)} | {possible(those)} | {count[KILLED]} | {count[EXCUSED]} | {alive or '-'} |"
        )
    return "\n".join(lines)


def possible(outcomes: list[tuple[Job, str]]) -> int:
    """How many mutants there are of a check, run or not."""
    return len(outcomes[0][0].module.mutations(outcomes[0][0].check))


def told(job: Job) -> str:
    """A mutation in a cell of the table."""
    if job.mutation is None:
        return "its tests are red without a mutation"
    text = f"{job.mutation.operator}: `{job.mutation.before}` to `{' '.join(job.mutation.after.split())}`"
    return text.replace("|", "\\|")


def by_family(outcomes: list[tuple[Job, str]]) -> str:
    """A sentence: what of which family was run, and which checks were not."""
    run: dict[str, set[str]] = {f: {j.check for j, _ in outcomes if j.family == f} for f in FAMILIES}
    counted = (
        f"{f} {len(checks)} ({sum(j.family == f for j, _ in outcomes)})"
        for f, checks in run.items()
        if checks
    )
    left = [f"`{e.name}`" for e in CHECKS if e.family in FAMILIES and e.name not in run[e.family]]
    rest = f"\n\nNot in this run, so that nothing is said of them: {', '.join(left)}." if left else ""
    return f"Checks (mutants) run by family: {', '.join(counted)}.{rest}\n"


def document(outcomes: list[tuple[Job, str]]) -> str:
    """docs/mutants.md: the figures of a run, with its date."""
    count = {o: sum(one == o for _, one in outcomes) for o in (KILLED, EXCUSED, SURVIVED, RED)}
    excused = json.loads(EQUIVALENT.read_text("utf-8")) if EQUIVALENT.is_file() else {}
    reasons = [f"- `{name}`: {reason}".replace("|", "\\|") for name, reason in sorted(excused.items())]
    parts = [
        "# Broken checks, and the tests that notice\n",
        "Written by `python ci/mutants.py --write` (`make mutants`). Each mutant is one small change of a check: a comparison, a",
        "`not`, `and` for `or`, `&` for `|`, a threshold, a severity, a `yield` that is gone, a return before anything was looked",
        "at. It is killed where a test of tests/unit or tests/checks goes red, while the same tests are green without it.",
        "`of` counts the mutants that could be made; `mutants` of them were run, of as many kinds as there are. Every figure is of",
        "the text that the check's module had then; a mutant that was killed is not run again when only tests change.\n",
        f"Run of {date.today().isoformat()}: {len({j.check for j, _ in outcomes})} checks, {len(outcomes)} mutants, "
        f"{count[KILLED]} killed, {count[EXCUSED]} equivalent, {count[SURVIVED] + count[RED]} survivors.\n",
        by_family(outcomes),
        table(outcomes),
    ]
    return "\n".join([*parts, *(["\n## Equivalent mutants\n", *reasons] if reasons else [])]) + "\n"


if __name__ == "__main__":
    sys.exit(main())
