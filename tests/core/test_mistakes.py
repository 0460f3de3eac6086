"""Mistakes of a config, its data and its places are told before a model is loaded."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmguard_core.config import make_config
from llmguard_core.errors import DataRefused, SettingsError

# peft still asks transformers 5 for the old name
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

GOOD = '{"prompt": "What is 2 + 2?", "response": "Four."}\n'


@pytest.fixture
def told(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., str]:
    """Run a command on a config made of a good one and a change; gives what is said, having seen that it is refused in words."""
    from llmguard_core.__main__ import main

    (tmp_path / "train.jsonl").write_text(GOOD * 8)
    (tmp_path / "a file").write_text("")
    (tmp_path / "model").mkdir()
    monkeypatch.delenv("MODEL_PATH", raising=False)
    monkeypatch.setattr(logging.getLogger("llmguard_core"), "level", logging.NOTSET)
    good = {
        "model": {"path": "model"},
        "data": {"train": "train.jsonl"},
        "train": {"batch_size": 4, "output_dir": "out"},
    }

    def run(command: str, **change: Any) -> str:
        config = {**good, **{name: {**good.get(name, {}), **more} for name, more in change.items()}}
        (tmp_path / "run.json").write_text(json.dumps(config))
        assert main([command, "--config", str(tmp_path / "run.json"), "--json"]) == 2
        out, err = capfd.readouterr()
        assert out == ""
        assert "Traceback" not in err
        return err

    return run


def test_mistakes_are_told_before_a_model_is_loaded(
    told: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Places that are files, packages that are not installed, names of results that are no file names: exit code 2 and the key."""
    assert "`train.output_dir`" in told("sft", train={"output_dir": "a file/out"})
    assert "is a file, and a folder is needed" in told("queue", queue={"directory": "a file"})
    items = {"items": "train.jsonl", "models": {"../out": {"path": "model"}}}
    assert "evaluation.models" in told("evaluate", evaluation=items)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "needs the package bitsandbytes" in told("sft", train={"optimizer": "adamw_8bit"})
    assert "needs the package trl" in told("dpo")


def test_adapter_targets_that_the_model_has_not_are_refused() -> None:
    """PEFT leaves out those it does not find where it finds another: half an adapter, and no word."""
    from support.runs import model

    from llmguard_core.settings import LoraSettings
    from llmguard_core.training.arguments import lora_config

    net = model()
    for good in (["all-linear"], ["q_proj", "v_proj"], ["mlp.down_proj"]):
        assert lora_config(LoraSettings(targets=good), net).r == 16
    with pytest.raises(
        SettingsError, match=r"(?s)no module named 'W_pack'.*Its linear layers are.*q_proj"
    ) as refused:
        lora_config(LoraSettings(targets=["q_proj", "W_pack"]), net)
    assert refused.value.where == "lora.targets"


@pytest.mark.parametrize("code", [143, 0])
def test_a_run_that_saved_and_left_has_the_code_of_its_signal(
    told: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    code: int,
) -> None:
    """SIGTERM 143, SIGUSR1 0, as `SaveOnSignal` leaves; nothing is printed for a run that has no result."""
    from llmguard_core.__main__ import main

    def leave(config: Any) -> None:
        raise SystemExit(code)

    told("sft", data={"train": "gone.jsonl"})  # makes a config that only needs its data
    config = json.loads((tmp_path / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps({**config, "data": {"train": "train.jsonl"}}))
    monkeypatch.setattr("llmguard_core.training.sft", leave, raising=False)
    assert main(["sft", "--config", str(tmp_path / "run.json"), "--json"]) == code
    assert capfd.readouterr().out == ""


def test_few_shot_examples_without_their_columns_are_refused(tmp_path: Path) -> None:
    """By the number of the row and the keys it has; rows with other usual names are taken."""
    from llmguard_core.commands import _few_shot

    (tmp_path / "bad.jsonl").write_text('{"q": "a"}\n' * 4)
    (tmp_path / "good.jsonl").write_text(
        '{"instruction": "Half of 90 is", "output": "45", "kind": "sum"}\n' * 4
    )
    with pytest.raises(DataRefused, match="item 0: it has no prompt with a reference; its keys are q"):
        _few_shot(make_config({"prompt": {"few_shot": 2, "examples": "bad.jsonl"}}, folder=tmp_path))
    found = _few_shot(make_config({"prompt": {"few_shot": 2, "examples": "good.jsonl"}}, folder=tmp_path))
    assert found.pool[0] == ("sum", "Half of 90 is", "45")
    assert _few_shot(make_config({})) is None
