"""The child that builds: `python -m llmguard_core.lab.build FOLDER NAME...`; torch is loaded only when something is missing."""

from __future__ import annotations

import multiprocessing
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from llmguard_core.lab.cache import NAMES

__all__ = ["build", "main"]

EVERY = 10  # steps between two progress lines


def main(arguments: Sequence[str]) -> int:
    """Build what `FOLDER NAME...` names and is not there; one process at a time a folder."""
    folder, names = Path(arguments[0]), list(arguments[1:])
    build(folder, names)
    return 0


def build(folder: Path, names: Sequence[str]) -> None:
    """Build the artefacts `names` and what they need, under a lock: who comes second finds them done."""
    import filelock

    folder.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(folder / ".lock"):
        if all((folder / name).is_dir() for name in names):
            return
        _sweep(folder)
        import torch

        from llmguard_core.lab.recipes import STAGES

        torch.set_num_threads(1)
        torch.use_deterministic_algorithms(True)
        missing = {name for name in _with_needs(names) if not (folder / name).is_dir()}
        for stage in STAGES:
            lanes = [[name for name in lane if name in missing] for lane in stage]
            _side_by_side(folder, [lane for lane in lanes if lane])
        _line("")


def _with_needs(names: Sequence[str]) -> set[str]:
    from llmguard_core.lab.recipes import RECIPES

    wanted = set(names)
    for name in reversed(NAMES):
        wanted |= set(RECIPES[name].needs) if name in wanted else set()
    return wanted


def _side_by_side(folder: Path, lanes: Sequence[Sequence[str]]) -> None:
    """The first lane here, the others in forks (each has one thread, so a fork inherits no lock); elsewhere in turn."""
    if not sys.platform.startswith("linux"):
        lanes = [[name for lane in lanes for name in lane]]
    forks = [
        multiprocessing.get_context("fork").Process(target=_lane, args=(folder, lane)) for lane in lanes[1:]
    ]
    for fork in forks:
        fork.start()
    for lane in lanes[:1]:
        _lane(folder, lane)
    for fork in forks:
        fork.join()
    if any(fork.exitcode for fork in forks):
        raise RuntimeError(f"a fork building {lanes[1:]} ended with {[f.exitcode for f in forks]}")


def _lane(folder: Path, names: Sequence[str]) -> None:
    from llmguard_core.lab.recipes import RECIPES

    for name in names:
        _build_one(folder, name, RECIPES[name].make)


def _build_one(
    folder: Path, name: str, make: Callable[[Path, Path, Callable[[int, int, float], None]], None]
) -> None:
    """Write into a temporary folder and rename it: nobody ever sees half an artefact."""
    unfinished = Path(tempfile.mkdtemp(prefix=f".unfinished-{name}-", dir=folder))
    started = time.monotonic()

    def progress(step: int, steps: int, loss: float) -> None:
        if step % EVERY == 0 or step == steps:
            _line(f"lab: {name} {step}/{steps}, loss {loss:.2f}, {time.monotonic() - started:.0f} s")

    _line(f"lab: {name}")
    make(folder, unfinished, progress)
    unfinished.chmod(
        0o755
    )  # a temporary folder is private, an artefact is as readable as any file of the user
    unfinished.replace(folder / name)


def _sweep(folder: Path) -> None:
    """Remove what a killed build left; we hold the lock, so nobody is working on it."""
    for left in folder.glob(".unfinished-*"):
        shutil.rmtree(left, ignore_errors=True)


def _line(text: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
