"""`accelerate launch` on two processes of a CPU: the sharded run learns what one process learns."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from support.runs import collate, model, rows, settings
from support.tiny import byte_level

from llmguard_core.training import train

SCRIPT = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
sys.path[:0] = {paths!r}
from support.runs import collate, model, rows, settings
from support.tiny import byte_level
from llmguard_core.training import train

told = settings(Path({folder!r}), **{told!r})
train(model(), byte_level(), rows(24), told, validation=rows(9), collator=collate)
"""
TOLD = {
    "max_steps": 3,
    "accumulation": 2,
    "optimizer": "sgd",
    "learning_rate": 1e-2,
    "save_steps": 3,
    "eval_steps": 3,
}
# accelerate starts several processes on one machine under the name of --multi_gpu alone; they are told to stay on the CPU
LAUNCH = "--multi_gpu --num_processes 2 --num_machines 1 --main_process_port 0 --mixed_precision no --dynamo_backend no"


def launched(folder: Path, told: dict[str, object]) -> None:
    """Run the script by `accelerate launch` on two processes; what it printed where it fails."""
    script, tests = folder / "script.py", str(Path(__file__).parents[1])
    script.write_text(textwrap.dedent(SCRIPT).format(paths=[tests], folder=str(folder / "out"), told=told))
    command = [sys.executable, "-m", "accelerate.commands.launch", *LAUNCH.split(), str(script)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=env, check=False)
    assert done.returncode == 0, done.stderr[-4000:]


def logged(folder: Path, name: str) -> list[float]:
    """What was logged of one measurement."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line[name] for line in lines if name in line]


def test_two_processes_learn_what_one_learns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """2 processes x 2 accumulated x 2 rows, against 1 x 2 x 4: losses, gradient norms, weights and validation loss are the same."""
    from safetensors.torch import load_file

    monkeypatch.setattr("llmguard_core.training.run.png", lambda records, path: None)
    launched(tmp_path, {**TOLD, "batch_size": 2})
    alone = train(
        model(),
        byte_level(),
        rows(24),
        settings(tmp_path / "alone", **TOLD, batch_size=4),
        validation=rows(9),
        collator=collate,
    )
    shards, whole = tmp_path / "out", tmp_path / "alone"
    for name, count in (("loss", 3), ("grad_norm", 3), ("eval_loss", 1)):
        assert logged(shards, name) == pytest.approx(
            logged(whole, name), abs=1e-4 if name == "grad_norm" else 1e-5
        )
        assert len(logged(shards, name)) == count
    found, wanted = (load_file(folder / "model.safetensors") for folder in (shards / "final", alone.final))
    start = model().state_dict()
    moved = max(float((w - start[k]).abs().max()) for k, w in wanted.items())
    assert max(float((found[k] - w).abs().max()) for k, w in wanted.items()) < 1e-4 * moved
    assert not list(shards.glob("stopped-*"))
