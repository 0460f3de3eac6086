"""Training processes that are killed: a supervisor that imports torch once and forks each life from there.

    python -m support.crashes kills FOLDER COUNT | signals FOLDER | disk_full FOLDER

The last line of its output is JSON: what was seen.
"""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from llmguard_core.checkpoints import SaveOnSignal, newest, verify
from llmguard_core.errors import CheckpointError
from support.small_runs import At, model_of, trainer_of, weights_hash

torch.set_num_threads(1)
STEPS, INTERVAL = 12, 2
LONGEST = 60.0  # seconds for one life; a hundred times what it takes


class Diary(TrainerCallback):
    """One line a step or save, written past every buffer: what really happened before the kill."""

    def __init__(self, path: Path, hashes: bool = False) -> None:
        self.handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.hashes = hashes

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **more: Any) -> None:
        os.write(self.handle, b"step %d\n" % state.global_step)
        if self.hashes:
            os.write(self.handle, b"hash %d %s\n" % (state.global_step, weights_hash(model).encode()))

    def on_save(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        os.write(self.handle, b"saved %d\n" % state.global_step)


def forked(work: Callable[[], Any]) -> int:
    """Run `work` in a child, quietly; gives its pid."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        work()
        code = 0
    except SystemExit as left:
        code = int(left.code or 0)
    finally:
        os._exit(code)


def last(diary: Path, word: str) -> int:
    lines = [each.split() for each in diary.read_text().splitlines()] if diary.exists() else []
    return max((int(line[1]) for line in lines if line[0] == word), default=0)


def weights_in(checkpoint: Path) -> str:
    """Without transformers' loader: its progress bar starts a thread, and a process with threads must not fork."""
    model = model_of()
    model.load_state_dict(load_file(checkpoint / "model.safetensors"))
    return weights_hash(model)


def resumed(out: Path, diary: Path, hashes: bool = False) -> None:
    trainer = trainer_of(
        out, steps=STEPS, save_steps=INTERVAL, save_total_limit=2, callbacks=[Diary(diary, hashes)]
    )
    trainer.train(resume_from_checkpoint=True)


def kills(folder: Path, count: int) -> dict[str, Any]:
    began = time.monotonic()
    os.waitpid(forked(lambda: resumed(folder / "whole", folder / "diary", hashes=True)), 0)
    length = time.monotonic() - began
    lines = [line.split() for line in (folder / "diary").read_text().splitlines()]
    hashes = {int(line[1]): line[2] for line in lines if line[0] == "hash"}
    seen: dict[str, Any] = {"kills": 0, "while_saving": 0, "finished": 0, "most_lost": 0, "wrong": []}
    draw, run = random.Random(4), 0
    while seen["kills"] < count or not seen["finished"]:
        out, diary = folder / f"run-{run}", folder / f"diary-{run}"
        pid = forked(lambda out=out, diary=diary: resumed(out, diary))  # type: ignore[misc]  # mypy infers no lambda with defaults
        saving = out if draw.random() < 0.6 else None
        patience = draw.uniform(0.02, 0.6 * length) if seen["kills"] < count else LONGEST
        status = killed(pid, patience, draw, saving if seen["kills"] < count else None)
        seen["kills"] += os.WIFSIGNALED(status)
        if os.WIFEXITED(status) and os.WEXITSTATUS(status):
            seen["wrong"].append(f"a life ended by itself with code {os.WEXITSTATUS(status)}")
            break
        seen["while_saving"] += any(out.glob(".saving-*"))
        judge(seen, out, diary, hashes)
        if newest(out) and newest(out).name == f"checkpoint-{STEPS}":  # type: ignore[union-attr]  # asked for just before
            seen["finished"] += 1
            run += 1
    return {**seen, "interval": INTERVAL}


def killed(pid: int, after: float, draw: random.Random, saving: Path | None) -> int:
    """SIGKILL after some seconds and, with `saving`, some moments into the next save; gives the status it ended with."""
    until = time.monotonic() + after
    while time.monotonic() < until or (
        saving and not any(saving.glob(".saving-*")) and time.monotonic() < until + LONGEST
    ):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return status
        time.sleep(0.001)
    if saving:
        time.sleep(draw.uniform(0, 0.015))
    os.kill(pid, signal.SIGKILL)
    return os.waitpid(pid, 0)[1]


def judge(seen: dict[str, Any], out: Path, diary: Path, hashes: dict[int, str]) -> None:
    found = newest(out)
    step = int(found.name.partition("-")[2]) if found else 0
    if step < last(diary, "saved"):
        seen["wrong"].append(f"step {last(diary, 'saved')} was saved, {step} is found")
    if found and weights_in(found) != hashes[step]:
        seen["wrong"].append(f"{found.name} holds other weights than the uninterrupted run had")
    seen["most_lost"] = max(seen["most_lost"], last(diary, "step") - step)


def signals(folder: Path) -> dict[str, Any]:
    """What a run does when it is told to end: by SIGTERM, by SIGUSR1, in a step that does not end, and twice."""
    return {
        "term": told(folder / "term", [signal.SIGTERM]),
        "usr1": told(folder / "usr1", [signal.SIGUSR1]),
        "stuck": told(folder / "stuck", [signal.SIGTERM], stuck=True, grace=0.5),
        "twice": told(folder / "twice", [signal.SIGTERM, signal.SIGTERM], stuck=True, grace=30.0),
        "without": told(folder / "without", [signal.SIGTERM], grace=-1.0),
    }


def told(folder: Path, numbers: list[int], stuck: bool = False, grace: float = 20.0) -> dict[str, Any]:
    """A run that is told to end at its fifth step; saves are due at the tenth only."""
    reader, writer = os.pipe()

    def at_five() -> None:
        os.write(writer, b"5")
        time.sleep(LONGEST if stuck else 0.3)

    def run() -> None:
        calls: list[Any] = [At(5, at_five)] + ([SaveOnSignal(grace=grace)] if grace > 0 else [])
        trainer_of(folder, steps=10, save_steps=10, callbacks=calls).train()

    pid = forked(run)
    os.read(reader, 1)
    began = time.monotonic()
    for number in numbers:
        os.kill(pid, number)
        time.sleep(0.1)
    status = os.waitpid(pid, 0)[1]
    found = newest(folder)
    return {
        "code": os.waitstatus_to_exitcode(status),
        "seconds": time.monotonic() - began,
        "newest": found.name if found else None,
    }


def disk_full(folder: Path) -> dict[str, Any]:
    """Saves that fail: in a file system too small for the third (where this process may mount: `unshare -rm`), and by a limit on files."""
    small, limited = folder / "small", folder / "limited"
    small.mkdir()
    limited.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "none", str(small)], check=False)
    return {
        "mounted": None if made.returncode else what_is_left(small, trainer_of(small, steps=20)),
        "limited": what_is_left(limited, trainer_of(limited, steps=6, callbacks=[At(3, small_files)])),
        "witness": refused(folder / "witness"),
    }


def small_files() -> None:
    """No file of this process grows beyond 20 kB from now on."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))


def refused(file: Path) -> int | None:
    """The errno with which a file of 30 kB is refused."""
    try:
        file.write_bytes(bytes(30_000))
    except OSError as why:
        return why.errno
    return None


def what_is_left(out: Path, trainer: Any) -> dict[str, Any]:
    """Train until a save fails; the error, what lies there, what of it is whole, and which checkpoint is chosen."""
    error = "none"
    try:
        trainer.train()
    except CheckpointError as full:
        error = str(full)
    names = sorted(p.name for p in out.iterdir())
    found = newest(out)
    whole = [n for n in names if n.startswith("checkpoint-") and not verify(out / n)]
    return {"error": error, "left": names, "before": whole, "newest": found.name if found else None}


if __name__ == "__main__":
    mode, place = sys.argv[1], Path(sys.argv[2])
    work: Any = {"kills": kills, "signals": signals, "disk_full": disk_full}[mode]
    print(json.dumps(work(place, *map(int, sys.argv[3:]))), flush=True)
