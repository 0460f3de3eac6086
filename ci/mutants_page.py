"""docs/mutants.md: one row a check. A run renews the rows of its checks and leaves the others as they are."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from mutations import Module, Mutation
from trees import ROOT

from llmguard.catalogue import CHECKS, FAMILIES

__all__ = ["EXCUSED", "KILLED", "RED", "SURVIVED", "TIMED_OUT", "Outcome", "Row", "judged", "table", "write"]

EQUIVALENT, PAGE = ROOT / "ci" / "mutants.json", ROOT / "docs" / "mutants.md"
KILLED, TIMED_OUT, SURVIVED, EXCUSED = "killed", "timed out", "survived", "equivalent"
RED = "red without it"
FEWEST = 3
"""A check of which fewer were run counts as not run yet."""
HEAD = (
    "| family | check | mutants | of | killed | by timeout | equivalent | survivors |",
    "|---|---|--:|--:|--:|--:|--:|---|",
)
ROW = re.compile(r"\| (\w+) \| `(\w+)` \| (\d+) \| (\d+) \| (\d+) \| (\d+) \| (\d+) \| (.*) \|")
TEXT = """\
# Broken checks, and the tests that notice

Written by `python ci/mutants.py --write` (`make mutants`). Each mutant is one small change of a check: a comparison, a
`not`, `and` for `or`, `&` for `|`, a threshold, a severity, a `yield` that is gone, a return before anything was looked
at. It is killed where a test goes red of those that run the check, while the same tests are green without it; a mutant that makes its
tests hang is ended after a time, and counted apart. `of` counts the mutants that could be made of the check and of what it uses of its
module; `mutants` of them were run, of as many kinds as there are (a short check also has some made of the functions of other modules that
it calls). Every figure is of the text that the check had then; `python ci/mutants.py CHECK --write` renews a row.
"""


@dataclass(frozen=True)
class Outcome:
    """What became of one mutant; without a mutation: of the tests as they are."""

    check: str
    family: str
    module: Module
    mutation: Mutation | None
    became: str

    @property
    def told(self) -> str:
        """A mutant that survives, in a cell of the table."""
        if self.mutation is None:
            return "its tests are red without a mutation"
        after = " ".join(self.mutation.after.split())
        change = f"{self.mutation.operator}: `{self.mutation.before}` to `{after}`".replace("|", "\\|")
        return f"`{self.module.file.name}:{self.mutation.line}` {change}"


@dataclass(frozen=True)
class Row:
    """The figures of one check."""

    family: str
    check: str
    mutants: int
    possible: int
    killed: int
    timed_out: int
    equivalent: int
    survivors: str

    def __str__(self) -> str:
        cells = (
            self.mutants,
            self.possible,
            self.killed,
            self.timed_out,
            self.equivalent,
            self.survivors or "-",
        )
        return f"| {self.family} | `{self.check}` | {' | '.join(map(str, cells))} |"


def excuses() -> dict[str, str]:
    """Mutants that no test can tell from the original, with the reason."""
    told: dict[str, str] = json.loads(EQUIVALENT.read_text("utf-8"))
    return told


def judged(outcomes: Sequence[Outcome], possible: Mapping[str, int]) -> list[Row]:
    """One row a check, mutants that are excused set apart."""
    excused = excuses()
    rows = []
    for check in dict.fromkeys(one.check for one in outcomes):
        own = [one for one in outcomes if one.check == check and one.mutation]
        alive = [one for one in own if one.became == SURVIVED]
        left = [one for one in alive if one.mutation and one.mutation.name not in excused]
        left += [one for one in outcomes if one.check == check and one.became == RED]
        killed, ended = (sum(one.became == kind for one in own) for kind in (KILLED, TIMED_OUT))
        same = sum(one not in left for one in alive)
        told = "; ".join(one.told for one in left)
        family = next(one.family for one in outcomes if one.check == check)
        rows.append(Row(family, check, len(own), possible[check], killed, ended, same, told))
    return sorted((row for row in rows if row.mutants >= FEWEST), key=_order)


def _order(row: Row) -> tuple[int, int]:
    names = [entry.name for entry in CHECKS]
    return FAMILIES.index(row.family), names.index(row.check)


def table(rows: Sequence[Row]) -> str:
    """A Markdown table."""
    return "\n".join([*HEAD, *map(str, rows)])


def read(page: Path = PAGE) -> list[Row]:
    """The rows of the page as it is, of checks that still exist."""
    known = {entry.name: entry.family for entry in CHECKS}
    rows = []
    for told in map(ROW.fullmatch, page.read_text("utf-8").splitlines() if page.is_file() else []):
        if told and told[2] in known:
            run, possible, killed, ended, same = (int(told[n]) for n in range(3, 8))
            alive = "" if told[8] == "-" else told[8]
            rows.append(Row(known[told[2]], told[2], run, possible, killed, ended, same, alive))
    return rows


def write(rows: Sequence[Row], page: Path = PAGE) -> None:
    """Renew the rows of these checks, and the sums."""
    merged = {row.check: row for row in read(page)} | {row.check: row for row in rows}
    page.write_text(document(sorted(merged.values(), key=_order)), "utf-8")


def document(rows: Sequence[Row]) -> str:
    """The page."""
    reasons = [f"- `{name}`: {reason}".replace("|", "\\|") for name, reason in sorted(excuses().items())]
    return "\n".join([TEXT, *sums(rows), table(rows), "\n## Equivalent mutants\n", *reasons]) + "\n"


def sums(rows: Sequence[Row]) -> Iterator[str]:
    """How many of what, by family, and which checks have no row."""
    count = {
        n: sum(getattr(row, n) for row in rows) for n in ("mutants", "killed", "timed_out", "equivalent")
    }
    alive = sum(row.mutants - row.killed - row.timed_out - row.equivalent for row in rows)
    yield (
        f"Last written {date.today().isoformat()}: {len(rows)} checks, {count['mutants']} mutants, {count['killed']} killed by a red test, "
        f"{count['timed_out']} by their time, {count['equivalent']} equivalent, {alive} survivors.\n"
    )
    by_family = {f: [row for row in rows if row.family == f] for f in FAMILIES}
    told = (f"{f} {len(own)} ({sum(r.mutants for r in own)})" for f, own in by_family.items() if own)
    yield f"Checks (mutants) by family: {', '.join(told)}.\n"
    if left := [f"`{e.name}`" for e in CHECKS if e.name not in {row.check for row in rows}]:
        yield f"Not run yet: {', '.join(left)}.\n"
