"""The main job, to be watched: preflight and sentinels on a project full of planted bugs, then on a clean one.

    python examples/demo.py [FOLDER]        (default: build/demo)

The projects are copied to FOLDER, together with the tiny models of the lab, which are trained on the first run (under a
minute on two cores) and cached. Exits with 0 when the planted project fails and the clean one passes, as they should.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
TITLES = {
    ("planted", "preflight"): "1  A project full of silent bugs:  pytest -m preflight",
    ("planted", "sentinel"): "2  Its base model follows instructions:  pytest -m sentinel",
    ("clean", "preflight"): "3  The same project done right:  pytest -m preflight",
    ("clean", "sentinel"): "4  Its base model only continues text:  pytest -m sentinel",
}
FAILED = {("planted", "preflight"): 12, ("planted", "sentinel"): 1}
"""How many checks fail at least where bugs were planted; none elsewhere."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Set the projects up, run all four, and judge whether each ended as it should."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", nargs="?", default=str(HERE.parent / "build" / "demo"), type=str)
    folder = Path(parser.parse_args(arguments).folder).resolve()
    started = time.monotonic()
    set_up(folder)
    ended = {(project, tier): run(folder / project, tier) for project, tier in TITLES}
    return summarise(folder, ended, time.monotonic() - started)


def set_up(folder: Path) -> None:
    """Fresh copies of the examples, with the lab's models in them, and the planted project's stale prepared data."""
    from llmguard_core.lab import lab

    say("Setting up: the lab trains its tiny models on the first run and keeps them ...")
    models = lab()
    shutil.rmtree(folder, ignore_errors=True)
    for project in ("planted", "clean"):
        shutil.copytree(
            HERE / project,
            folder / project,
            ignore=shutil.ignore_patterns("__pycache__", "models", "prepared", "out"),
        )
        # A root of its own, as a user's project is one: pytest takes no settings from the checkout around it.
        (folder / project / "pytest.ini").write_text("[pytest]\n", "utf-8")
    parts = {
        "planted": {"base-with-template": models.base_with_template, "broken-adapter": models.broken_adapter},
        "clean": {"base": models.base, "adapter": models.adapter},
    }
    for project, sources in parts.items():
        for name, source in sources.items():
            shutil.copytree(source, folder / project / "models" / name, copy_function=shutil.copyfile)
            point_at_base(folder / project / "models" / name, folder / project / "models")
    subprocess.run(
        [sys.executable, "-m", "project.prepare"],
        cwd=folder / "planted",
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def point_at_base(adapter: Path, models: Path) -> None:
    """The copied adapter names the copied base."""
    file = adapter / "adapter_config.json"
    if file.exists():
        config = json.loads(file.read_text("utf-8"))
        base = next(p for p in sorted(models.iterdir()) if p.name.startswith("base"))
        config["base_model_name_or_path"] = str(base)
        file.write_text(json.dumps(config, indent=1), "utf-8")


def run(project: Path, tier: str) -> int:
    """One pytest session, shown as it runs; its reports are kept beside the project."""
    say(f"\n{'─' * 100}\n{TITLES[project.name, tier]}\n{'─' * 100}")
    reports = [f"--llmguard-{kind}={project}/llmguard-{tier}.{kind}" for kind in ("json", "html")]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-m",
        tier,
        "-p",
        "no:cacheprovider",
        f"--rootdir={project}",
        *reports,
    ]
    colours = {"FORCE_COLOR": "1"} if sys.stdout.isatty() else {}
    return subprocess.run(command, cwd=project, env={**os.environ, **colours}, check=False).returncode


def summarise(folder: Path, ended: dict[tuple[str, str], int], seconds: float) -> int:
    """What was found, and whether every session ended as it should: the planted project's failed, the clean one's passed."""
    say(f"\n{'─' * 100}")
    right = True
    for (project, tier), code in ended.items():
        totals = json.loads((folder / project / f"llmguard-{tier}.json").read_text("utf-8"))["totals"]
        least = FAILED.get((project, tier), 0)
        found = code == 1 and totals["failed"] >= least if least else code == 0 and totals["passed"] > 0
        right = right and found
        wanted = f"1, and {least} failed or more" if least else "0, and some passed"
        word = "as it should" if found else f"NOT as it should (expected {wanted})"
        counts = ", ".join(f"{totals[outcome]} {outcome}" for outcome in ("failed", "warned", "passed"))
        say(f"{project:8} {tier:10} exit code {code}, {word}: {counts}")
    say(f"Reports to look at: {folder}/planted/llmguard-preflight.html   ({seconds:.0f} s in all)")
    return 0 if right else 1


def say(text: str) -> None:
    """Print at once, so that the order with the child's output is kept."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
