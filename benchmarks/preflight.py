"""What a healthy preflight costs beside the import of torch that it contains, in one run on one machine.

Commands in turn, in alternating order: `python -c "import torch"` as the measure; the checks of the machine through the library;
pytest on one empty test; the same checks through pytest, on a project that names an output folder. Everything that a check has to
wait for is started at once, so that the whole takes little more than its slowest part: the target is 1.15 times the import and
1 second. With `--hang`, nvidia-smi stands still for ever beside it: how much later the last of the other verdicts comes.

    python benchmarks/preflight.py [--rounds 7] [--hang] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FACTOR, EXTRA = 1.15, 1.0
PROJECT = '[model]\ntokenizer = "none"\n[environment]\noutput_dir = "out"\n'
AUDIT = """
import sys, time
from pathlib import Path
from llmguard.auditing import Audit
from llmguard.project import load_project
session = Audit(load_project(Path("llmguard.toml")))
plan = [(entry, target) for entry, target in session.plan() if entry.family in ("environment", "storage")]
started, told, slow = time.perf_counter(), {}, {}
session.begin(entry for entry, _ in plan)
for entry, target in plan:
    result = session.run(entry, target)
    told[entry.name], slow[entry.name] = result.outcome.value, time.perf_counter() - started
session.evidence.close()
assert "torch" not in sys.modules
bad = sorted(name for name, outcome in told.items() if outcome in ("failed", "error"))
print(len(told), *bad, file=sys.stderr)
"""
PYTEST = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
COMMANDS = {
    "import torch": [sys.executable, "-c", "import torch"],
    "audit": [sys.executable, "-c", AUDIT],
    "pytest on one empty test": [*PYTEST, "test_one.py"],
    "pytest, the same checks": [*PYTEST, "-m", "environment or storage"],
}


def once(name: str, folder: Path) -> tuple[float, float]:
    """Wall and processor seconds of one command and all that it started; the checks must have come to their end."""
    environ = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryFile() as said:
        started = time.perf_counter()
        child = subprocess.Popen(
            COMMANDS[name], cwd=folder, env=environ, stdout=said, stderr=subprocess.STDOUT
        )
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - started
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            said.seek(0)
            sys.exit(f"{name} failed:\n{said.read().decode(errors='replace')[-3000:]}")
    return seconds, usage.ru_utime + usage.ru_stime


def measure(rounds: int, folder: Path) -> dict[str, list[tuple[float, float]]]:
    """All commands in turn, forwards and backwards, after a round that warms the caches."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in COMMANDS}
    for number in range(rounds + 1):
        for name in list(COMMANDS)[:: -1 if number % 2 else 1]:
            spent = once(name, folder)
            if number:
                found[name].append(spent)
    return found


def hang(folder: Path) -> dict[str, float]:
    """Verdicts beside a driver query that never ends: seconds of the hung one, and of the last of the others."""
    code = """
import os, sys, time
from llmguard.checks.gpu_driver import cuda_driver_starts, nvidia_smi_answers
from llmguard.checks.environment import torch_imports_in_time
from llmguard.checks.host import processes_can_meet, temporary_folder_takes_files
from llmguard.probe.environment import Environment
environment = Environment(os.getcwd(), gpu=True, query_timeout=8.0, environ={"PATH": os.getcwd() + ":" + os.environ["PATH"]})
checks = [torch_imports_in_time, cuda_driver_starts, temporary_folder_takes_files, processes_can_meet, nvidia_smi_answers]
started = time.perf_counter()
environment.begin(check.name for check in checks)
for check in checks:
    check(environment)
    print(check.name, time.perf_counter() - started)
"""
    stuck = folder / "nvidia-smi"
    stuck.write_text("#!/bin/sh\nsleep 1000000\n")
    stuck.chmod(0o755)
    environ = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environ, capture_output=True, text=True, check=True
    )
    stuck.unlink()
    return {name: float(seconds) for name, seconds in (line.split() for line in done.stdout.splitlines())}


def main() -> int:
    """Measure, print, and say whether the promise is kept."""
    parser = argparse.ArgumentParser(description="what a healthy preflight costs beside the import of torch")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--hang", action="store_true")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        (folder / "llmguard.toml").write_text(PROJECT)
        (folder / "test_one.py").write_text("def test_one():\n    pass\n")
        spent = measure(asked.rounds, folder)
        beside = hang(folder) if asked.hang else {}
    best = {name: min(wall for wall, _ in runs) for name, runs in spent.items()}
    base = best["import torch"]
    bound = FACTOR * base + EXTRA
    print(
        "| | fastest s | median s | processor s | to the import | of the target |\n|---|--:|--:|--:|--:|--:|"
    )
    for name, runs in spent.items():
        middle, busy = (statistics.median(values) for values in zip(*runs, strict=True))
        share = f"{best[name] / bound:.2f}" if name == "audit" else ""
        print(
            f"| {name} | {best[name]:.2f} | {middle:.2f} | {busy:.2f} | {best[name] / base:.2f} | {share} |"
        )
    print(
        f"target, by the fastest runs (others may use the machine): {FACTOR} x {base:.2f} s + {EXTRA:.0f} s = {bound:.2f} s"
    )
    for check, at in beside.items():
        print(f"beside a query that hangs: {check} after {at:.2f} s")
    if asked.json:
        asked.json.write_text(
            json.dumps({"wall_and_processor_seconds": spent, "beside_a_hang": beside}, indent=1)
        )
    return int(best["audit"] > bound)


if __name__ == "__main__":
    sys.exit(main())
