"""False alarms of the preflight: how often a healthy machine fails, and how often a slow import is called hung.

Healthy: every check of the environment, again and again, each time in a new process. `--torch` takes the installed torch; without
it a small package stands in, since it is the probes that are tried. Throttled: a package of 40 modules on a FUSE file system
that takes 1 to 50 ms a call, with a no-progress window far shorter than the import (needs root and /dev/fuse).

    python benchmarks/soak.py [--healthy 20] [--throttled 12] [--at-once 4] [--torch]
"""

from __future__ import annotations

import argparse
import collections
import importlib.util
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))

from llmguard import probe  # noqa: E402  # the checkout's own package, installed or not

PREFLIGHT = """
import json, sys
from pathlib import Path
from llmguard import Project
from llmguard.auditing import Audit
session = Audit(Project.empty(Path(sys.argv[1])))
plan = [entry for entry, _ in session.plan() if entry.family == "environment"]
session.begin(plan)
results = [session.run(entry) for entry in plan]
session.evidence.close()
print(json.dumps({r.check: r.outcome.value for r in results if r.outcome.value in ("failed", "error", "warned")}))
assert "torch" not in sys.modules
"""
PARTS, WINDOW = 40, 1.0


def healthy(folder: Path, environ: dict[str, str]) -> dict[str, str]:
    """What fails or warns in one preflight."""
    command = [sys.executable, "-c", PREFLIGHT, str(folder)]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=600)
    return json.loads(done.stdout) if done.returncode == 0 else {"preflight": done.stderr.strip()[-300:]}


def throttled(fuse: ModuleType, home: Path, package: Path, number: int, delay: float) -> tuple[str, float]:
    """The verdict on one import that is slow and moves, and its seconds."""
    with fuse.mounted(home / f"mount-{number}", package, delay=delay) as point:
        environ = {"PYTHONPATH": str(point), "PYTHONDONTWRITEBYTECODE": "1"}
        result = probe.run(
            "import torch", timeout=600, no_progress=WINDOW, computing_is_progress=False, env=environ
        )
    return result.verdict.value, result.seconds


def main() -> int:
    """Count, print, and say whether there was a false alarm."""
    parser = argparse.ArgumentParser(description="false alarms of the preflight")
    parser.add_argument("--healthy", type=int, default=20)
    parser.add_argument("--throttled", type=int, default=12)
    parser.add_argument("--at-once", type=int, default=4)
    parser.add_argument("--torch", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as made, ThreadPoolExecutor(asked.at_once) as pool:
        home = Path(made)
        package = _package(home)
        (home / "project").mkdir()
        environ = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{'' if asked.torch else package}"}
        alarms = collections.Counter(
            f"{check} {outcome}"
            for told in pool.map(lambda _: healthy(home / "project", environ), range(asked.healthy))
            for check, outcome in told.items()
        )
        print(f"{asked.healthy} healthy preflights: {dict(alarms) or 'no failure, no warning'}")
        verdicts, slowest = _throttle(asked.throttled, home, package, pool)
        print(
            f"{asked.throttled} throttled imports: {dict(verdicts)}; the slowest took {slowest:.1f} s, with a window of {WINDOW} s"
        )
    return int(
        any(not alarm.endswith(" warned") for alarm in alarms) or any(verdict != "ok" for verdict in verdicts)
    )


def _package(home: Path) -> Path:
    folder = home / "package"
    (folder / "torch").mkdir(parents=True)
    names = ", ".join(f"part_{number}" for number in range(PARTS))
    (folder / "torch" / "__init__.py").write_text(
        f"from torch import {names}\nclass Tensor: pass\n__version__ = '9.9.9'\n"
    )
    for number in range(PARTS):
        (folder / "torch" / f"part_{number}.py").write_text("x = 1\n")
    return folder


def _throttle(
    count: int, home: Path, package: Path, pool: ThreadPoolExecutor
) -> tuple[dict[str, int], float]:
    spec = importlib.util.spec_from_file_location("fuse", ROOT / "tests" / "probe" / "fuse.py")
    assert spec
    assert spec.loader
    fuse = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fuse)
    if why := fuse.available():
        print(f"no throttled imports: {why}")
        return {}, 0.0
    delays = [random.Random(number).uniform(0.001, 0.05) for number in range(count)]
    found = list(pool.map(lambda n: throttled(fuse, home, package, n, delays[n]), range(count)))
    return collections.Counter(verdict for verdict, _ in found), max(
        (seconds for _, seconds in found), default=0.0
    )


if __name__ == "__main__":
    started = time.monotonic()
    status = main()
    print(f"{time.monotonic() - started:.0f} s")
    sys.exit(status)
