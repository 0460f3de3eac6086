"""What guarding every test against leaks costs, and what is found: ours, pytest-memray, torch's own check and the loop that most write.

Two parts, each measured in one run on this machine:

- `cost`: microseconds around one test, with torch loaded: clean, and moved (something was made that the collector must take). Beside
  ours: a full collection before and after (the first thing that torch's CudaMemoryLeakCheck does, on any device), and collections
  with a scan for tensors, which is what people write into a conftest.
- `found`: one file of planted leaks, run as a session plain, with ours and with pytest-memray (installed into build/bench; its
  marker limit_leaks).

torch.testing's CudaMemoryLeakCheck itself needs a GPU: it begins with torch.cuda.memory_allocated on every device. Without one
it is not run, and the table says so.

    python benchmarks/leaks.py [--tests 300] [--no-memray] [--json FILE]
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "build" / "bench" / "memray"
KIB, MIB = 2**10, 2**20
CLEAN_US, MOVED_US = 50.0, 5000.0
PLANTS = """
import functools
import pytest
import torch

KEPT = []
{marker}

def tensor(size):
    return torch.ones(size // 4)

@functools.lru_cache
def cache():
    return tensor(4 * 2**20)

@pytest.mark.parametrize("n", range({tests}))
def test_clean(n):
    layer = torch.nn.Linear(32, 32)
    layer(torch.ones(4, 32)).sum().backward()

def test_global_1_mib(): KEPT.append(tensor(2**20))

def test_kept_exception():
    try:
        local = tensor(2**20)
        raise ValueError(local.shape)
    except ValueError as error:
        KEPT.append(error)

def test_locals_of_a_failure():
    local = tensor(4 * 2**20)
    assert local is None

@pytest.fixture(scope="module")
def model(): return tensor(16 * 2**20)

def test_first_user_of_a_fixture(model): pass

def test_cycle():
    cycle = [tensor(4 * 2**20)]
    cycle.append(cycle)

@pytest.mark.parametrize("n", range(25))
def test_drift_64_kib(n): KEPT.append(tensor(64 * 2**10))
"""
LEAKS = ("test_global_1_mib", "test_kept_exception", "test_drift_64_kib")
CLEAN = ("test_clean", "test_locals_of_a_failure", "test_first_user_of_a_fixture", "test_cycle")


def main() -> int:
    """Both parts as tables; 1 where the promise of the clean or the moved test does not hold."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tests", type=int, default=300)
    parser.add_argument("--no-memray", action="store_true")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    cost = measure(given.tests)
    show_cost(cost)
    found = {name: session(name, given.tests) for name in runs(given.no_memray)}
    show_found(found)
    if given.json:
        given.json.write_text(json.dumps({"cost": cost, "found": found}, indent=2), "utf-8")
    held = cost["ours, clean test"] <= CLEAN_US and cost["ours, something moved"] <= MOVED_US
    print(
        f"promise (clean {CLEAN_US:.0f} us, moved {MOVED_US / 1000:.0f} ms): {'holds' if held else 'BROKEN'}"
    )
    return not held


# cost


def measure(rounds: int) -> dict[str, float]:
    """Processor time of this process in microseconds around one test: the median, so that a busy machine disturbs little."""
    import torch

    from llmguard.memory.guard import Guard

    gc.collect()
    guard = Guard()

    def ours(body: Callable[[], object]) -> Callable[[], None]:
        def around() -> None:
            guard.begin()
            body()
            guard.end()

        return around

    def cycle() -> None:
        kept: list[Any] = [torch.ones(64 * KIB)]
        kept.append(kept)

    def collections(body: Callable[[], object]) -> Callable[[], None]:
        return lambda: (gc.collect(), body(), gc.collect(), None)[-1]

    def scans(body: Callable[[], object]) -> Callable[[], None]:
        def scan() -> int:
            gc.collect()
            return sum(found.nbytes for found in gc.get_objects() if issubclass(type(found), torch.Tensor))

        return lambda: (scan(), body(), scan(), None)[-1]

    nothing: Callable[[], object] = int
    few = max(rounds // 10, 5)
    return {
        "objects of the collector": float(len(gc.get_objects())),
        "ours, clean test": timed(ours(nothing), nothing, rounds),
        "ours, something moved": timed(ours(cycle), cycle, rounds),
        "collect before and after": timed(collections(nothing), nothing, few),
        "collect and scan for tensors": timed(scans(nothing), nothing, few),
    }


def timed(around: Callable[[], object], body: Callable[[], object], rounds: int) -> float:
    """Median microseconds of the one, less those of the other, in alternating order."""
    around()
    differences = []
    for _ in range(rounds):
        begun = time.process_time()
        body()
        between = time.process_time()
        around()
        differences.append(time.process_time() - between - (between - begun))
    return statistics.median(differences) * 1e6


def show_cost(cost: dict[str, float]) -> None:
    """The table, with ratios to ours on a clean test."""
    ours = cost["ours, clean test"]
    print(f"around one test, {cost['objects of the collector']:,.0f} objects in the collector")
    for name, value in cost.items():
        if name != "objects of the collector":
            print(f"  {name:<32}{value:>12,.1f} us{value / ours:>12,.1f}x")
    print(f"  {'CudaMemoryLeakCheck of torch':<32}{cuda_check()}\n")


def cuda_check() -> str:
    """Whether torch's own check can be run here."""
    import torch

    if not torch.cuda.is_available():
        return "not run: it asks torch.cuda on every device, and there is none"
    from torch.testing._internal.common_utils import CudaMemoryLeakCheck, TestCase

    case = TestCase("run")
    times = []
    for _ in range(5):
        begun = time.perf_counter()
        with CudaMemoryLeakCheck(case, "bench"):
            pass
        times.append(time.perf_counter() - begun)
    return f"{statistics.median(times) * 1e6:>12,.1f} us"


# what is found


def runs(no_memray: bool) -> list[str]:
    """Which sessions can be run here."""
    names = ["plain", "ours"]
    if no_memray:
        return names
    if not (TARGET / "memray").is_dir():
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "-q",
            "--target",
            str(TARGET),
            "pytest-memray",
            "pytest",
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"pytest-memray could not be installed here: {done.stderr.strip().splitlines()[-1]}")
            return names
    return [*names, "pytest-memray"]


def session(name: str, tests: int) -> dict[str, Any]:
    """Seconds of a session (processor time of the child), and which tests it complained about."""
    marker = 'pytestmark = pytest.mark.limit_leaks("512 KB")' if name == "pytest-memray" else ""
    arguments = {
        "ours": ["--llmguard-gpu-leaks"],
        "pytest-memray": ["--memray"],
    }.get(name, [])
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "COV"))} | {
        "OMP_NUM_THREADS": "1"
    }
    if name == "pytest-memray":
        env |= {"PYTHONPATH": str(TARGET), "PYTHONMALLOC": "malloc"}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "test_plants.py").write_text(PLANTS.format(tests=tests, marker=marker), "utf-8")
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-rfE", *arguments]
        before = os.times()
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
        after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    word = "MEMORY PROBLEMS" if name == "pytest-memray" else "ERROR"
    told = set(re.findall(rf"^{word} \S+?::(test_\w+)", done.stdout, re.MULTILINE))
    if " passed" not in done.stdout:
        raise SystemExit(f"the session of {name} did not run:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return {"seconds": used, "told": sorted(told)}


def show_found(found: dict[str, dict[str, Any]]) -> None:
    """Which leaks were told, which clean tests were."""
    print("planted in one session (processor seconds; ratio to plain)")
    plain = found["plain"]["seconds"]
    for name, result in found.items():
        told = result["told"]
        hits, false = [leak for leak in LEAKS if leak in told], [test for test in told if test not in LEAKS]
        print(
            f"  {name:<16}{result['seconds']:>8.1f} s{result['seconds'] / plain:>7.2f}x   found {len(hits)} of {len(LEAKS)}"
            f" ({', '.join(hits) or 'none'}), wrongly {len(false)} of {len(CLEAN)}"
            + (f": {', '.join(false)}" if false else "")
        )


if __name__ == "__main__":
    sys.exit(main())
