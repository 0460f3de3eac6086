"""The sentinels on a GPU say what they say on a processor: the lab's models, in bfloat16, loaded once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llmguard.sentinels import SENTINELS, Route, collect
from llmguard.sentinels.route import ask

pytestmark = pytest.mark.needs_torch
PROMPTS = [sentinel.prompt for sentinel in SENTINELS]
DEVICES = ["cpu", pytest.param("auto", marks=pytest.mark.gpu)]


@pytest.fixture(scope="module")
def models() -> Any:
    """The lab, built by whoever needs it first."""
    from llmguard_core.lab import lab

    return lab()


@pytest.mark.parametrize("device", DEVICES)
def test_format_and_device_are_those_of_the_hardware(models: Any, device: str) -> None:
    """32 bits on a processor; on a GPU bfloat16 where it has that, loaded straight onto it, in batches that fit."""
    arm = {"name": "control", "prompts": PROMPTS, "clean": True}
    told = ask(
        {"model": {"path": str(models.base), "device": device}, "arms": [arm]}, hide_gpus=device == "cpu"
    )
    facts = told["facts"]
    assert facts["dtype"] == ("float32" if device == "cpu" else _half())
    assert facts["device"] == ("cpu" if device == "cpu" else "cuda:0")
    assert 1 <= facts["batch"] <= len(PROMPTS)
    assert len(told["arms"]["control"]["texts"]) == len(PROMPTS)


def _half() -> str:
    import torch

    return "bfloat16" if torch.version.hip or torch.cuda.get_device_capability(0)[0] >= 8 else "float16"


@pytest.mark.gpu
@pytest.mark.parametrize("leaks", [False, True], ids=["clean", "template"])
def test_the_verdict_is_the_processors(models: Any, leaks: bool) -> None:
    """A clean route obeys nothing and an applied template nearly everything, on both; a word may differ, the judgement does not."""
    model = str(models.base_with_template if leaks else models.base)
    verdicts = [
        collect(Route(model=model, chat_template=leaks, device=device)).verdict for device in ("cpu", "auto")
    ]
    assert [v.above_control for v in verdicts] == [leaks, leaks]
    assert [v.above_limit for v in verdicts] == [leaks, leaks]
    assert abs(verdicts[0].user - verdicts[1].user) <= 3


@pytest.mark.gpu
def test_a_session_runs_them_by_one_command(models: Any, tmp_path: Path) -> None:
    """`pytest -m sentinel --gpu --llmguard-model PATH`, in a folder that has nothing; the summary says on what."""
    import os
    import subprocess
    import sys

    command = [
        sys.executable,
        "-m",
        "pytest",
        "-m",
        "sentinel",
        "--gpu",
        "--llmguard-model",
        str(models.base),
    ]
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider"],
        cwd=tmp_path,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"the sentinel ran on {models.base}" in done.stdout
