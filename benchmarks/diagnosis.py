"""What tools say of a broken machine: ours beside torch's collect_env and accelerate's env, on the same faults, in one run.

Each tool runs in a probe of ours, which ends it after `--limit` seconds: "no answer" is what a person would wait for in vain.
The faults are packages named torch and a script named nvidia-smi that come first on their paths; for the last two the installed
torch is taken. For each: whether it came back, after how long, with which status, and the line that tells the fault.

    python benchmarks/diagnosis.py [--limit 30] [--only TOOL]
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))

from llmguard import probe  # noqa: E402  # the checkout's own package, installed or not

OURS = """
import sys
from pathlib import Path
from llmguard import Project
from llmguard.auditing import Audit
from llmguard.evidence import Evidence
session = Audit(Project.empty(Path(sys.argv[1])))
session.evidence.get("environment")  # made here, so that it can be told other deadlines than the usual 15 and 30 s
environment = session.evidence._known["environment", ""]
shorter = {"import_timeout": 3.0, "query_timeout": 3.0, "gpu": True, "torch_needed_by": "[pipeline] trainer"}
for name, value in shorter.items():
    object.__setattr__(environment, name, value)
plan = [entry for entry, _ in session.plan() if entry.family == "environment"]
session.begin(plan)
for entry in plan:
    for finding in session.run(entry).findings:
        if finding.severity.value == "error":
            print(f"{entry.name}: {finding.message.splitlines()[0]}")
session.evidence.close()
"""


@dataclass(frozen=True)
class Fault:
    """What is broken: the text of torch, or of nvidia-smi; and the word by which a diagnosis is known."""

    name: str
    torch: str = ""
    smi: str = ""
    word: str = ""


FAULTS = (
    Fault("import sleeps for ever", torch="import time\ntime.sleep(1e6)\n", word="no progress"),
    Fault("import crashes", torch="import faulthandler, ctypes\nctypes.string_at(0)\n", word="SIGSEGV"),
    Fault("import ends with status 0", torch="import os\nos._exit(0)\n", word="without coming to its end"),
    Fault(
        "a library is missing",
        torch="raise ImportError('libcudart.so.12: cannot open shared object file: No such file or directory')\n",
        word="libcudart.so.12",
    ),
    Fault(
        "nvidia-smi hangs, its child too",
        smi="sleep 1000000 &\nsleep 1000000",
        word="nvidia-smi: no progress",
    ),
    Fault("nvidia-smi ends with 9", smi="echo 'NVIDIA-SMI has failed'; exit 9", word="status 9"),
)


def tools(folder: Path) -> dict[str, list[str]]:
    """Command lines by name; a tool that is not installed is left out."""
    found = {"llmguard": [sys.executable, "-c", OURS, str(folder)]}
    torch = importlib.util.find_spec("torch")
    if torch and torch.submodule_search_locations:
        found["collect_env"] = [
            sys.executable,
            str(Path(torch.submodule_search_locations[0], "utils", "collect_env.py")),
        ]
    accelerate = Path(sys.executable).with_name("accelerate")
    if accelerate.exists():
        found["accelerate env"] = [str(accelerate), "env"]
    return found


def tried(command: list[str], fault: Fault, home: Path, limit: float) -> str:
    """One row: came back or not, when, how, and what it said."""
    place = home / fault.name.replace(" ", "-").replace(",", "")
    shutil.rmtree(place, ignore_errors=True)
    (place / "bin").mkdir(parents=True)
    paths = [str(ROOT / "src")]
    if fault.torch:
        (place / "library" / "torch").mkdir(parents=True)
        (place / "library" / "torch" / "__init__.py").write_text(fault.torch)
        paths.insert(0, str(place / "library"))
    if fault.smi:
        (place / "bin" / "nvidia-smi").write_text(f"#!/bin/sh\n{fault.smi}\n")
        (place / "bin" / "nvidia-smi").chmod(0o755)
    environ = {"PYTHONPATH": ":".join(paths), "PATH": f"{place / 'bin'}:{os.environ['PATH']}"}
    result = probe.run(command, timeout=limit, no_progress=None, env=environ)
    if result.observed.ended != "exit":
        return f"no answer | {limit:.0f} s | | |"
    said = next((line.strip() for line in result.output.splitlines() if fault.word in line), "")
    left = f"; left {len(result.leftovers)} processes" if result.leftovers else ""
    status = result.signal_name or f"status {result.returncode}"
    words = said.replace("|", "/")
    for prefix in (str(place), str(Path(sys.executable).parent.parent), sys.base_prefix):
        words = words.replace(prefix, "…")
    words = words[:120]
    return f"yes | {result.seconds:.1f} s | {status}{left} | {'yes' if said else 'no'} | {words}"


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description="what tools say of a broken machine")
    parser.add_argument("--limit", type=float, default=30.0)
    parser.add_argument("--only", default="")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "diagnosis.md")
    asked = parser.parse_args()
    lines = [
        "| fault | tool | came back | after | how | told | in its words |",
        "|---|---|---|--:|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as made:
        home = Path(made)
        (home / "project").mkdir()
        for fault in FAULTS:
            for name, command in tools(home / "project").items():
                if asked.only in name:
                    lines.append(f"| {fault.name} | {name} | {tried(command, fault, home, asked.limit)} |")
                    print(lines[-1], flush=True)
    asked.out.parent.mkdir(exist_ok=True)
    asked.out.write_text("\n".join(lines) + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
