"""The wheel works with the sources gone: build it, look into it, install it elsewhere, use it there.

`pytest_llmguard/` lies at the root of the checkout, so a pytest that runs there finds it even when the wheel lacks a file.
Only this script would see that: it builds from a copy, deletes the copy, and leaves the checkout.

    python ci/check_wheel.py FOLDER        FOLDER is made anew, and keeps the wheel and its environment
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {
    "llmguard": "src/llmguard",
    "llmguard_core": "src/llmguard_core",
    "pytest_llmguard": "pytest_llmguard",
}
CONFIG = "learning_rate: {rate}\nper_device_train_batch_size: 8\n"
PROJECT = '[config]\nfiles = ["train.yaml"]\n'
USE = """\
import pathlib, sys, llmguard, pytest_llmguard.plugin
from llmguard.catalogue import CHECKS
for module in (llmguard, pytest_llmguard.plugin):
    assert "site-packages" in pathlib.Path(module.__file__).parts, module.__file__
for name in ("tests", "ci", "benchmarks", "regressions", "conftest"):
    try:
        __import__(name)
    except ImportError:
        continue
    sys.exit(f"the wheel brings {name}")
for entry in CHECKS:
    entry.load()
"""


def run(*command: str | Path, folder: Path, expect: int = 0) -> str:
    """Run a command in a folder and give what it printed; leave with all of it where the exit code is another."""
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTEST_ADDOPTS", "PYTEST_PLUGINS")}
    done = subprocess.run(
        [str(each) for each in command], cwd=folder, env=env, capture_output=True, text=True, check=False
    )
    if done.returncode != expect:
        sys.exit(
            f"{' '.join(map(str, command))}\nexit {done.returncode}, expected {expect}\n{done.stdout}{done.stderr}"
        )
    return done.stdout + done.stderr


def tracked(folder: Path) -> list[str]:
    """The files of the checkout that git tracks or would track, by their path from `folder`."""
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", folder=folder).splitlines()
    return [each for each in listed if (folder / each).is_file()]


def build(work: Path) -> Path:
    """The wheel, built from a copy of the sources that is gone afterwards."""
    copy = work / "sources"
    for each in tracked(ROOT):
        (copy / each).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / each, copy / each)
    run(
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--wheel-dir",
        work / "dist",
        copy,
        folder=work,
    )
    shutil.rmtree(copy)
    (wheel,) = (work / "dist").glob("*.whl")
    return wheel


def look_into(wheel: Path) -> None:
    """Every file of the three packages is in it, and nothing else."""
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    wanted = {
        f"{package}/{Path(each).relative_to(folder)}"
        for package, folder in PACKAGES.items()
        for each in tracked(ROOT)
        if each.startswith(f"{folder}/")
    }
    for what, names in (("lacks", wanted - inside), ("should not hold", inside - wanted)):
        if names:
            sys.exit(
                f"{wheel.name} {what}: {', '.join(sorted(names))}\nremedy: [tool.setuptools] in pyproject.toml"
            )


def use(wheel: Path, work: Path) -> None:
    """Install it with its base dependencies alone, and let it find a planted fault in a project of its own."""
    run(ROOT / "ci" / "venv.sh", work / "venv", "-c", ROOT / "ci" / "constraints.txt", wheel, folder=work)
    bin_ = work / "venv" / "bin"
    project = work / "project"
    project.mkdir()
    run(bin_ / "python", "-c", USE, folder=project)
    if "pytest-llmguard" not in run(bin_ / "pytest", "--version", "--version", folder=project):
        sys.exit("pytest does not know the plugin: [project.entry-points.pytest11] in pyproject.toml")
    run(bin_ / "llmguard", "--help", folder=project)
    (project / "llmguard.toml").write_text(PROJECT)
    (project / "train.yaml").write_text(CONFIG.format(rate="0.00001"))
    run(bin_ / "pytest", "-m", "preflight and config", folder=project)
    (project / "train.yaml").write_text(CONFIG.format(rate="50.0"))
    found = run(bin_ / "pytest", "-m", "preflight and config", folder=project, expect=1)
    if "learning_rate" not in found:
        sys.exit(f"a learning rate of 50 was not named:\n{found}")


def main(work: Path) -> None:
    """Build, look, use."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    wheel = build(work)
    look_into(wheel)
    use(wheel, work)
    print(f"{wheel.name}: complete, and works with its sources gone")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
