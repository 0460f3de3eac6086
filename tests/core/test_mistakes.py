"""Mistakes of a config, its data and its places are told before a model is loaded."""

from __future__ import annotations

import json
import logging
import os
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from llmguard.errors import LLMGuardError, UsageError
from llmguard_core.config import make_config
from llmguard_core.errors import DataRefused, LoadRefused, OutOfMemory, SettingsError

# peft still asks transformers 5 for the old name
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

GOOD = '{"prompt": "What is 2 + 2?", "response": "Four."}\n'
PAIR = '{"prompt": "What is 2 + 2?", "chosen": "Four.", "rejected": "Five."}\n'


def test_edge_11_the_last_of_several_models_is_missed_before_the_first_answers(tmp_path: Path) -> None:
    """An evaluation of hours does not end at its second model, and MODEL_PATH makes no other path right."""
    from llmguard_core.evaluation import evaluate
    from llmguard_core.lab import lab

    base, answered = str(lab().base), tmp_path / "results"
    run = make_config(
        {"evaluation": {"models": {"base": {"path": base}, "sft": {"path": base, "adapter": "gone"}}}}
    )
    items = [{"prompt": "What is 2 + 2?", "response": "Four."}]
    with pytest.raises(LoadRefused, match="gone does not exist"):
        evaluate(run.evaluation.models, items, out=answered)
    assert not answered.exists()


def test_edge_11_model_path_stands_for_the_model_and_for_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A config's own model may be missing then; its adapter is still found from the config's folder, or missed."""
    monkeypatch.setenv("MODEL_PATH", "/elsewhere")
    (tmp_path / "adapter").mkdir()
    told = {"models": {"sft": {"path": "./nowhere", "adapter": "adapter"}}}
    model = make_config({"evaluation": told}, folder=tmp_path).evaluation.models["sft"]
    assert (model.path, model.adapter) == ("./nowhere", str(tmp_path / "adapter"))
    with pytest.raises(SettingsError, match="there is no model at"):
        make_config({"evaluation": {"models": {"sft": {"adapter": "./gone"}}}}, folder=tmp_path)


def test_edge_19_a_checkpoint_of_the_old_format_goes_on_bit_for_bit(tmp_path: Path) -> None:
    """`pytorch_model.bin` without a manifest, as transformers 4 saved: the run ends with the weights of one that was not cut off."""
    from safetensors.torch import load_file
    from support.small_runs import trainer_of, weights_hash

    from llmguard_core.checkpoints import newest

    whole = trainer_of(tmp_path / "whole", steps=6)
    whole.train()
    old = tmp_path / "whole" / "checkpoint-4"
    torch.save(load_file(old / "model.safetensors"), old / "pytorch_model.bin")
    for new in ("model.safetensors", "manifest.json"):
        (old / new).unlink()
    out = tmp_path / "old"
    out.mkdir()
    old.rename(out / old.name)
    assert newest(out) == out / old.name
    resumed = trainer_of(out, steps=6)
    resumed.train(resume_from_checkpoint=True)
    assert weights_hash(resumed.model) == weights_hash(whole.model)


def test_edge_21_memory_that_ends_while_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    """One error with what was wanted and what there is; what had been loaded by then is gone, although the error is kept."""
    from llmguard_core.lab import lab
    from llmguard_core.loading import load_base

    shards: list[weakref.ref[Any]] = []

    def fill(*args: Any, **more: Any) -> Any:
        shard = torch.nn.Linear(8, 8)
        shards.append(weakref.ref(shard))
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.delenv("MODEL_PATH", raising=False)
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", fill)
    with pytest.raises(
        OutOfMemory, match=r"GiB of weights\): no memory left.*Tried to allocate 2\.00 GiB.*free"
    ) as kept:
        load_base(lab().base, device="cpu")
    assert kept.value.__cause__ is None
    assert [shard() for shard in shards] == [None]


def test_edge_27_devices_are_those_that_the_caller_may_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process' current device of those visible; one that is not visible is refused; a queue's child sees the same ones."""
    from llmguard_core.memory import pick_device
    from llmguard_core.queue import in_child, run_queue

    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: True)
        patch.setattr(torch.cuda, "device_count", lambda: 2)
        patch.setattr(torch.cuda, "current_device", lambda: 1)
        assert str(pick_device().device) == "cuda:1"
        assert str(pick_device("cuda:0").device) == "cuda:0"
        with pytest.raises(UsageError, match=r"device='cuda:2'.*cpu, cuda:0 to cuda:1"):
            pick_device("cuda:2")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    (tmp_path / "pending").mkdir()
    (tmp_path / "pending" / "a.jsonl").write_text(GOOD)
    says = "import os; print('sees', os.environ['CUDA_VISIBLE_DEVICES'])"
    assert (
        run_queue(tmp_path, in_child(lambda job: [sys.executable, "-c", says]), once=True, settle=0.0).done
        == 1
    )
    assert "sees 3" in next(tmp_path.glob("done/*/attempt-1.log")).read_text()


@pytest.mark.parametrize("wanted", ["cuda:7", "tpu9", "cuda"])
def test_edge_26_a_device_that_is_not_there_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, wanted: str
) -> None:
    """Never a stack of torch, and never the CPU in its place."""
    from llmguard_core.memory import pick_device

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(LLMGuardError, match=f"device='{wanted}'.*one of those here: cpu"):
        pick_device(wanted)


def test_edge_29_fragmentation_is_told_with_its_numbers_and_the_setting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Allocated, reserved, the largest unused block of this device, and what helps, in the error of a memory that is full."""
    from llmguard_core.memory import Device
    from llmguard_core.training.oom import one_clear_error

    def blocks(device: int, *sizes: int) -> dict[str, Any]:
        states = ("active_allocated", "inactive")
        return {"device": device, "blocks": [{"size": n, "state": s} for n in sizes for s in states]}

    snapshot = [blocks(0, *[60_000_000] * 30), blocks(1, 900_000_000)]
    gpu = Device(torch.device("cuda", 0))
    for name, value in {
        "memory_snapshot": lambda: snapshot, "memory_allocated": lambda d: 6_100_000_000, "memory_reserved": lambda d: 7_900_000_000,
        "mem_get_info": lambda d: (100_000_000, 8_000_000_000), "empty_cache": lambda: None,
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr("llmguard_core.training.oom.pick_device", lambda: gpu)

    def full() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 512.00 MiB. GPU 0 has …")

    with pytest.raises(OutOfMemory) as told:
        one_clear_error("training", full)
    for said in (
        "6.10 GB allocated, 7.90 reserved",
        "largest unused block 0.06 GB",
        "a request of 0.54 GB lacks 0.44",
        "1.90 GB are unused, 0.10 GB of them in one piece",
        "expandable_segments:True",
    ):
        assert said in str(told.value)


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


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_place_that_may_not_be_written_is_told_before_a_model_is_loaded(
    told: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir(mode=0o500)
    assert "may not be written by this user" in told("sft", train={"output_dir": "mine/out"})


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
