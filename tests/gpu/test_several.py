"""Several GPUs: `accelerate launch` trains on two of the caller's devices what one process trains; skipped where there are fewer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.needs_torch, pytest.mark.gpu(count=2)]
TOLD = {"max_steps": 3, "accumulation": 2, "optimizer": "sgd", "learning_rate": 1e-2}
SCRIPT = """
import os, sys
from pathlib import Path
import torch
sys.path[:0] = [{tests!r}]
from support.runs import collate, model, rows, settings
from support.tiny import byte_level
from llmguard_core.training import train

rank = int(os.environ["LOCAL_RANK"])
torch.cuda.set_device(rank)
told = settings(Path({folder!r}), **{told!r})
train(model().to(f"cuda:{{rank}}"), byte_level(), rows(24), told, collator=collate)
Path({folder!r}, f"device-{{rank}}").write_text(str(torch.cuda.get_device_properties(rank).uuid))
"""
LAUNCH = "--multi_gpu --num_processes 2 --num_machines 1 --main_process_port 0 --mixed_precision no --dynamo_backend no"


def test_two_gpus_learn_what_one_process_learns(tmp_path: Path) -> None:
    """2 processes x 2 accumulated x 2 rows on two devices, against 1 x 2 x 4 on a processor: the same losses, up to rounding."""
    from support.runs import run

    tests, folder = str(Path(__file__).parents[1]), tmp_path / "two"
    folder.mkdir()
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(tests=tests, folder=str(folder), told={**TOLD, "batch_size": 2}))
    command = [sys.executable, "-m", "accelerate.commands.launch", *LAUNCH.split(), str(script)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=280, env=dict(os.environ), check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    run(tmp_path / "one", batch_size=4, **TOLD)
    assert len({(folder / f"device-{rank}").read_text() for rank in range(2)}) == 2
    assert losses(folder) == pytest.approx(losses(tmp_path / "one"), rel=5e-3)


def losses(folder: Path) -> list[float]:
    """What was logged of the loss, step by step."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def test_all_of_the_callers_gpus_can_be_used(tmp_path: Path) -> None:
    """A test that asked for two is not confined to one: what it starts sees the whole list."""
    code = "import torch; print(torch.cuda.device_count())"
    told = subprocess.check_output([sys.executable, "-c", code], text=True, timeout=120)
    assert int(told) >= 2
