"""Write docs/fault-matrix.md: each fault of the matrix, what was said to it, how quickly, and what survived.

python ci/gen_fault_matrix.py [--results build/fault-matrix.jsonl]    writes the file
python ci/gen_fault_matrix.py --check    says whether every fault that a test plants stands in it (exit code 1 where not)

Run the tests first (`pytest tests`): each test under `@fault` (tests/support/matrix.py) appends what it saw to the results, and
the newest line of each test counts. Times are those of the machine that ran them; `--check` does not compare them.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from support.matrix import LIST, Known, known  # noqa: E402  # the list lies beside the tests

PEERS = ROOT / "build" / "diagnosis.md"
BESIDE = """\
## Other tools on the same faults

Written by `python benchmarks/diagnosis.py`: each tool in a process that is ended after its limit. *Told*: whether what it printed
names the fault. Ours was given deadlines of 3 s here; torch is imported for real in the last two faults, on a busy machine.
"""
TARGET, RESULTS = ROOT / "docs" / "fault-matrix.md", ROOT / "build" / "fault-matrix.jsonl"
NEEDS = {"C": "any machine", "R": "root or FUSE", "G": "GPU"}
HEAD = """\
# Fault matrix

Written by `python ci/gen_fault_matrix.py` from what the tests wrote down when they ran. Each fault is planted for real, or as
faithfully as a machine without a GPU allows, and is first shown to fire. Each of these tests also asserts that the verdict
came within its deadline and two seconds, and that no process, descriptor or mount is left and torch is not in the process
that runs the checks. *Verdict* is the class of the diagnosis, *in* the time from the start of the probe to its verdict,
*limit* its deadline (tests use short ones), *left* the processes that nobody can end and that were abandoned with a report.
"""
TAIL = """\
## What a machine without a GPU cannot prove

- A real `cuInit` or firmware (GSP) that hangs: the library is a stub that behaves as incidents describe it.
- How long a driver takes to give memory back, and what the workspaces of cuBLAS, cuDNN and NCCL take.
- What NVML says of single processes in containers and on MIG slices.
- ECC errors, Xid, NVLink, throttling: read from recorded outputs.
- The bandwidth and the watchdog of NCCL.
- The memory estimate against real kernels: the ones of the processor do not take what flash attention takes.
- Whether SIGKILL in the middle of a call wedges a driver: the probes that touch one are asked to end first.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the file, or compare what does not depend on the machine."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    asked = parser.parse_args(arguments)
    planted = planted_by()
    if asked.check:
        return check(planted)
    TARGET.write_text(document(planted, results(asked.results)), "utf-8")
    return 0


def check(planted: dict[str, list[str]]) -> int:
    """Compare the faults and their tests with the file's."""
    text = TARGET.read_text("utf-8") if TARGET.is_file() else ""
    rows = dict(re.findall(r"^\| ([A-L]\d+) \|.*\| ([^|]*) \|$", text, re.MULTILINE))
    wrong = [one for one in known() if rows.get(one) != _tests(planted.get(one, []))]
    if wrong:
        print(
            f"{TARGET.relative_to(ROOT)} is out of date ({', '.join(wrong)}): run ci/gen_fault_matrix.py after the tests"
        )
    return int(bool(wrong))


def planted_by() -> dict[str, list[str]]:
    """By fault the test files that name it; a file counts that imports `support.matrix`."""
    found: dict[str, list[str]] = {}
    for file in sorted((ROOT / "tests").rglob("test_*.py")):
        text = file.read_text("utf-8")
        if "support.matrix" in text and file.parent.name != "repo":
            for one in sorted({one for one in _constants(ast.parse(text)) if one in known()}):
                found.setdefault(one, []).append(file.relative_to(ROOT).as_posix())
    return found


def _constants(tree: ast.AST) -> Iterator[str]:
    return (n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str))


def results(file: Path) -> dict[str, list[dict[str, Any]]]:
    """By fault the newest line of each test that still exists."""
    newest: dict[str, dict[str, Any]] = {}
    for text in file.read_text("utf-8").splitlines() if file.is_file() else ():
        line = json.loads(text)
        newest[line["test"]] = line
    found: dict[str, list[dict[str, Any]]] = {}
    for line in newest.values():
        path, _, name = line["test"].partition("::")
        source = ROOT / path
        if source.is_file() and name.partition("[")[0].rpartition("::")[2] in source.read_text("utf-8"):
            for one in line["faults"]:
                found.setdefault(one, []).append(line)
    return found


def document(planted: dict[str, list[str]], seen: dict[str, list[dict[str, Any]]]) -> str:
    """The counts, then a table a group."""
    parts = [HEAD, *_counts(planted, seen), ""]
    for group, title in _groups():
        parts += [f"## {group}. {title}\n"]
        parts += [
            "| id | fault | needs | verdict | in | limit | left | planted in |",
            "|---|---|---|---|--:|--:|--:|---|",
        ]
        parts += [_row(one, planted, seen.get(one.id, [])) for one in known().values() if one.id[0] == group]
        parts.append("")
    return "\n".join([*parts, BESIDE, _peers(), TAIL])


def _peers() -> str:
    """The newest table of the other tools; where it was not measured here, the one that stands in the file."""
    if PEERS.is_file():
        return PEERS.read_text("utf-8")
    text = TARGET.read_text("utf-8") if TARGET.is_file() else ""
    return text.partition(BESIDE)[2].partition("\n## ")[0].strip("\n") + "\n"


def _groups() -> list[tuple[str, str]]:
    return re.findall(r"^\[([A-L])\] (.+)$", LIST.read_text("utf-8"), re.MULTILINE)


def _counts(planted: dict[str, list[str]], seen: dict[str, list[dict[str, Any]]]) -> Iterator[str]:
    yield "| group | faults | planted by tests | of these on any machine | passed in this run | skipped in this run |"
    yield "|---|--:|--:|--:|--:|--:|"
    total = [0] * 5
    for group, title in _groups():
        ids = [one for one in known().values() if one.id[0] == group]
        ours = [one for one in ids if one.id in planted]
        outcomes = [_outcome(seen.get(one.id, [])) for one in ours]
        row = [
            len(ids),
            len(ours),
            sum(one.needs == "C" for one in ours),
            outcomes.count("passed"),
            outcomes.count("skipped"),
        ]
        total = [a + b for a, b in zip(total, row, strict=True)]
        yield f"| {group}. {title} | {' | '.join(map(str, row))} |"
    yield f"| all | {' | '.join(map(str, total))} |"


def _outcome(lines: list[dict[str, Any]]) -> str:
    outcomes = {line["outcome"] for line in lines}
    return next((each for each in ("failed", "passed", "skipped") if each in outcomes), "")


def _row(one: Known, planted: dict[str, list[str]], lines: list[dict[str, Any]]) -> str:
    told = [line for line in lines if line["outcome"] == "passed"]
    verdicts = dict.fromkeys(str(line["verdict"]) for line in told if line.get("verdict"))
    verdict = "; ".join(verdicts) or {
        "failed": "**failed**",
        "skipped": f"skipped: {lines[0]['reason'] if lines else ''}",
    }.get(_outcome(lines), "passed" if told else "")
    slowest = max((line for line in told), key=lambda line: line.get("seconds") or 0, default={})
    left = sum(line.get("survivors", 0) for line in told) if told else ""
    cells = [
        one.id,
        one.title,
        NEEDS[one.needs],
        verdict,
        _seconds(slowest.get("seconds")),
        _seconds(slowest.get("deadline")),
        left,
    ]
    return (
        f"| {' | '.join(str(cell).replace('|', '/') for cell in cells)} | {_tests(planted.get(one.id, []))} |"
    )


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.1f} s"


def _tests(files: list[str]) -> str:
    return ", ".join(files) or "not yet"


if __name__ == "__main__":
    sys.exit(main())
