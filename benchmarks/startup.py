"""What an installed plugin costs a pytest run that does not use it: ours and its peers, measured side by side.

Each plugin gets an environment of its own: the same pytest, and it. There `pytest --co -q` on one test runs in pairs, as it is and with
PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 (less than `-p no:NAME`, which still looks into its distribution), in alternating order; the median of
the paired differences is the cost, so that a busy machine disturbs both alike.
Twice: with byte code as usual, and with PYTHONDONTWRITEBYTECODE=1, as in many container images, where pytest rewrites every module of a
plugin's distribution that it loads anew at each start.

    python benchmarks/startup.py [--rounds 25] [--only llmguard,pytest-timeout] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENTS = ROOT / "build" / "bench"
TARGET_MS = 5.0
HEAVY = (
    "numpy",
    "torch",
    "transformers",
    "pydantic",
    "jinja2",
    "tokenizers",
    "yaml",
    "llmguard",
    "llmguard_core",
)
QUIET = {"DEEPEVAL_TELEMETRY_OPT_OUT": "YES", "LANGSMITH_TRACING": "false", "NO_COLOR": "1"}
SPY = """\
import pytest, sys

@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config):
    with open("modules.txt", "w") as file:
        print(*sorted(sys.modules), file=file)
"""


@dataclass(frozen=True)
class Subject:
    """A plugin to measure: its name, and what to install."""

    name: str
    requirement: str


SUBJECTS = (
    Subject("llmguard", str(ROOT)),
    Subject("pytest-timeout", "pytest-timeout"),
    Subject("hypothesis", "hypothesis"),
    Subject("langsmith", "langsmith"),
    Subject("deepeval", "deepeval"),
)


@dataclass(frozen=True)
class Cost:
    """One plugin, one way of keeping byte code: medians over the rounds, in milliseconds; module counts at the end of the run."""

    plugin: str
    bytecode: bool
    plain_ms: float
    extra_ms: float
    spread_ms: tuple[float, float]
    extra_cpu_ms: float
    modules: int
    extra_modules: int
    heavy: tuple[str, ...]

    @property
    def ratio(self) -> float:
        """With the plugin, to plain."""
        return (self.plain_ms + self.extra_ms) / self.plain_ms


def environment(subject: Subject) -> Path | None:
    """The Python of the environment that holds pytest and this plugin alone; None where it cannot be installed."""
    folder = ENVIRONMENTS / subject.name
    python, ready = folder / "bin" / "python", folder / ".ready"
    if not ready.exists() or subject.requirement == str(ROOT):  # ours is installed anew: it may have changed
        pinned = re.search(r"^pytest==\S+", (ROOT / "ci" / "constraints.txt").read_text(), re.MULTILINE)
        assert pinned
        extra = ["--force-reinstall", "--no-deps"] if ready.exists() else []
        command = [str(ROOT / "ci" / "venv.sh"), str(folder), pinned[0], subject.requirement, *extra]
        done = subprocess.run(command, env={**os.environ, "PYTHON": sys.executable}, check=False)
        if done.returncode:
            print(f"{subject.name}: could not be installed, left out", file=sys.stderr)
            return None
        ready.touch()
    return python


def once(python: Path, folder: Path, plugin: bool, bytecode: bool) -> tuple[float, float]:
    """Wall and processor milliseconds of one run, with the plugin or without."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "PYTHON"))} | QUIET
    if not bytecode:
        environ["PYTHONDONTWRITEBYTECODE"] = "1"
    if not plugin:
        environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    start = time.perf_counter()
    command = [python, "-m", "pytest", "--co", "-q", "-p", "no:cacheprovider"]
    with tempfile.TemporaryFile() as said:
        child = subprocess.Popen(command, cwd=folder, env=environ, stdout=said, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(child.pid, 0)
        wall = time.perf_counter() - start
        child.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        output = said.read().decode(errors="replace")
    if child.returncode or "1 test collected" not in output:
        sys.exit(f"{python}: pytest did not collect its one test:\n{output}")
    return wall * 1e3, (usage.ru_utime + usage.ru_stime) * 1e3


def modules(python: Path, folder: Path, plugin: bool) -> set[str]:
    """What is in `sys.modules` when pytest has done its last."""
    (folder / "conftest.py").write_text(SPY)
    once(python, folder, plugin, bytecode=True)
    (folder / "conftest.py").unlink()
    return set((folder / "modules.txt").read_text().split())


def measure(subject: Subject, python: Path, folder: Path, rounds: int, bytecode: bool) -> Cost:
    """The paired cost of one plugin."""
    for cached in python.parent.parent.rglob("*-pytest-*.pyc"):
        cached.unlink()
    for _ in range(2):
        once(python, folder, True, bytecode)
    pairs = []
    for number in range(rounds):
        runs = {
            plugin: once(python, folder, plugin, bytecode)
            for plugin in ((False, True) if number % 2 else (True, False))
        }
        pairs.append((runs[False], runs[True]))
    extra = [with_[0] - plain[0] for plain, with_ in pairs]
    without, loaded = modules(python, folder, False), modules(python, folder, True)
    quarters = statistics.quantiles(extra, n=4)
    return Cost(
        plugin=subject.name,
        bytecode=bytecode,
        plain_ms=statistics.median(plain[0] for plain, _ in pairs),
        extra_ms=statistics.median(extra),
        spread_ms=(quarters[0], quarters[2]),
        extra_cpu_ms=statistics.median(with_[1] - plain[1] for plain, with_ in pairs),
        modules=len(without),
        extra_modules=len(loaded - without),
        heavy=tuple(name for name in HEAVY if name in loaded - without),
    )


def table(costs: list[Cost]) -> Iterator[str]:
    """The costs as Markdown."""
    yield "| plugin | byte code | plain ms | + ms, paired median (quartiles) | + processor ms | to plain | + modules | heavy ones |"
    yield "|---|---|--:|--:|--:|--:|--:|---|"
    for each in costs:
        low, high = each.spread_ms
        yield (
            f"| {each.plugin} | {'yes' if each.bytecode else 'not written'} | {each.plain_ms:.0f}"
            f" | {each.extra_ms:+.1f} ({low:+.1f} to {high:+.1f})"
            f" | {each.extra_cpu_ms:+.1f} | {each.ratio:.2f} | {each.extra_modules} | {', '.join(each.heavy) or 'none'} |"
        )


def main() -> int:
    """Measure, print, and say whether ours keeps its promise."""
    parser = argparse.ArgumentParser(
        description="what an installed plugin costs a pytest run that does not use it"
    )
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--only", default="", help="names of plugins, with commas")
    parser.add_argument("--json", type=Path, default=ENVIRONMENTS / "startup.json")
    asked = parser.parse_args()
    wanted = [each for each in SUBJECTS if not asked.only or each.name in asked.only.split(",")]
    ENVIRONMENTS.mkdir(parents=True, exist_ok=True)
    costs = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "pytest.ini").write_text("[pytest]\n")
        (folder / "test_one.py").write_text("def test_one():\n    pass\n")
        for subject in wanted:
            python = environment(subject)
            for bytecode in (True, False) if python else ():
                assert python
                costs.append(measure(subject, python, folder, asked.rounds, bytecode))
                print(f"{subject.name}: {costs[-1].extra_ms:+.1f} ms", file=sys.stderr)
    print("\n".join(table(costs)))
    asked.json.write_text(json.dumps([asdict(each) for each in costs], indent=1))
    slow = [
        each for each in costs if min(each.extra_ms, each.extra_cpu_ms) > TARGET_MS
    ]  # the clock alone also counts what else ran
    late = [each for each in costs if each.plugin == "llmguard" and (each in slow or each.heavy)]
    for each in late:
        print(
            f"llmguard costs {each.extra_ms:.1f} ms (at most {TARGET_MS}) and loads {each.heavy or 'nothing heavy'}",
            file=sys.stderr,
        )
    return int(bool(late))


if __name__ == "__main__":
    sys.exit(main())
