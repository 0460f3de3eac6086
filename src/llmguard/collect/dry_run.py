"""The child of a dry run: `python -m llmguard.collect.dry_run SPEC.json OUTDIR`.

The user's trainer is built with a small model of random weights and a few rows, makes two steps, saves, is resumed, evaluates, generates,
and learns one batch by heart. Stages: `build`, `collate`, `train`, `save`, `resume`, `evaluate`, `generate`, `overfit`.

`dry_run.json`: `trainer`, `model`: names; `stages`: seconds by stage that came to its end; `failed`: what was raised, each as
`llmguard.collect.dry_run_faults.told_of` says; `train`, `resume`: see `Watch`; `parameters`, `changes`: see there; `overfit`: losses;
`notes`: what was given in place of what the user's code says; or `unmeasured`: why nothing of it can be said here.
"""

from __future__ import annotations

import contextlib
import gc
import inspect
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from llmguard.collect.dry_run_faults import IdBeyondEmbedding, not_for_a_cpu, told_of
from llmguard.collect.dry_run_rows import Fetched, fetches
from llmguard.collect.dry_run_small import Given, given
from llmguard.collect.dry_run_stages import Stopped, stages
from llmguard.collect.dry_run_watch import Watch
from llmguard.collect.user import UserError, load_reference, shown
from llmguard.probe import step
from llmguard.project import load_project

__all__ = ["main"]

RESULT, SO_FAR = "dry_run.json", "dry_run.so_far"
NEEDED = ("train", "get_train_dataloader", "training_step", "_save_checkpoint", "evaluate", "add_callback")


class DryRun:
    """One dry run: where results go, what was found so far."""

    def __init__(self, spec: Mapping[str, Any], out: Path) -> None:
        self.out, self.limit, self.seconds = out, int(spec["memory"]), float(spec["seconds"])
        self.project = load_project(spec["project"])
        self.reference = str(self.project.schema.pipeline.trainer)
        self.key = f"[pipeline] trainer = {self.reference!r}"
        self.fetched = Fetched()
        self.watch = Watch()
        self.found: dict[str, Any] = {"stages": {}, "failed": [], "notes": {}}
        self.started = time.monotonic()
        self.asked_beyond = False

    def left(self) -> float:
        """Seconds that are left."""
        return self.seconds - (time.monotonic() - self.started)

    def write(self, name: str, **more: Any) -> None:
        """What was found, whole or not at all."""
        partial = self.out / f"{name}.partial"
        partial.write_text(json.dumps({**self.found, **more}, default=str), "utf-8")
        partial.replace(self.out / name)

    @contextlib.contextmanager
    def stage(self, name: str, factory: Mapping[str, Any] | None = None) -> Iterator[None]:
        """One stage; what it raises is told, and ends it."""
        self.watch.stage = name
        self.write(SO_FAR, stage=name)
        step(name)
        began = time.monotonic()
        try:
            yield
            self.found["stages"][name] = round(time.monotonic() - began, 2)
        except (Exception, SystemExit) as fault:
            self._failed(fault, factory or {})
            raise Stopped from None

    def _failed(self, fault: BaseException, factory: Mapping[str, Any]) -> None:
        self.asked_beyond = self.fetched.beyond() and not self.given.few.whole
        reason = not_for_a_cpu(fault)
        if reason:
            self.found.setdefault("unmeasured", reason)
            return
        if isinstance(fault, UserError):
            told = {**fault.told, "stage": "build", "raised_in": ""}
        else:
            told = told_of(fault, self.project.folder, self.watch.stage, self.key, self.limit)
        if "file" not in told:
            told |= {**factory, "beyond": True}
        told.setdefault("row", self._row(fault))
        self.found["failed"].append(told)

    def _row(self, fault: BaseException) -> int | None:
        """The row of the user's own data set that a batch failed for."""
        last = self.fetched
        if isinstance(fault, IdBeyondEmbedding):
            index = last.holding(fault.token)
        else:
            index = last.culprit(fault) if last.collate is not None else None
        name = "eval_dataset" if self.watch.stage == "evaluate" else "train_dataset"
        return None if index is None else self.given.few.row(last.dataset, index, name)

    given: Given

    def run(self) -> None:
        """All stages, each left out where one that it stands on failed; again with all rows where the trainer asks for rows by number."""
        with tempfile.TemporaryDirectory(prefix="llmguard-dry-run-") as scratch:
            self._attempt(Path(scratch, "out"), whole=False)
            if self.asked_beyond:
                self.found = {"stages": {}, "failed": [], "notes": {}}
                self._attempt(Path(scratch, "again"), whole=True)
        self.write(RESULT, ok=True, seconds=round(time.monotonic() - self.started, 2))

    def _attempt(self, output: Path, *, whole: bool) -> None:
        with contextlib.suppress(Stopped), given(output) as self.given, fetches() as self.fetched:
            self.started = time.monotonic()  # torch and transformers are here
            gc.freeze()  # every train() collects garbage: what libraries brought is none
            self.given.few.whole, self.watch, self.found["notes"] = (
                whole,
                Watch(until=self.started + self.seconds),
                self.given.notes,
            )
            trainer, factory = self._built()
            if trainer is not None:
                stages(self, trainer, factory)

    def _built(self) -> tuple[Any, dict[str, Any]]:
        factory: dict[str, Any] = {}
        with self.stage("build"):
            build = load_reference(self.reference, self.project.folder, self.key)
            factory = _place(build, self.project.folder)
            trainer = build()
        self.found |= {
            "trainer": type(trainer).__name__,
            "model": type(getattr(trainer, "model", None)).__name__,
        }
        lacking = [n for n in NEEDED if not hasattr(trainer, n)]
        if lacking:
            self.found["unmeasured"] = (
                f"a {type(trainer).__name__} is no Trainer of transformers: it has no {lacking[0]}"
            )
            return None, factory
        return trainer, factory

    def cut(self, trainer: Any, name: str, count: int) -> None:
        """Leave a data set of the trainer with a few rows."""
        if getattr(trainer, name, None) is not None:
            setattr(trainer, name, self.given.few.of(getattr(trainer, name), count, name))


def _place(build: Any, folder: Path) -> dict[str, Any]:
    """Where the factory stands: the place to look at for what libraries raise on behalf of what it returned."""
    try:
        code = inspect.unwrap(build).__code__
    except AttributeError:
        return {}
    return {
        "file": shown(code.co_filename, folder),
        "line": code.co_firstlineno,
        "function": code.co_name,
        "code": "",
    }


def _few_threads() -> None:
    """As many threads as processors are idle: threads that wait for one another on a busy machine take twice the time."""
    import torch

    idle = len(os.sched_getaffinity(0)) - int(os.getloadavg()[0])
    torch.set_num_threads(max(1, min(idle, torch.get_num_threads())))


def main(arguments: list[str], run: Callable[[DryRun], None] = DryRun.run) -> int:
    """`SPEC.json OUTDIR`: one dry run."""
    spec, out = json.loads(Path(arguments[0]).read_text("utf-8")), Path(arguments[1])
    step("import torch and transformers")
    import transformers

    os.chdir(spec["folder"])
    _few_threads()
    step(f"transformers {transformers.__version__}")
    run(DryRun(spec, out))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
