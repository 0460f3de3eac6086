"""Edge cases 11 to 20: models that are not there or not whole, adapters and checkpoints of others, saves that were cut off."""

from __future__ import annotations

import json
import logging
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.configs import says
from support.matrix import fault
from support.small_runs import At, model_of, trainer_of, weights_hash
from support.weights import ROWS, WIDTH, adapter, lora, model, write

from llmguard_core.checkpoints import newest, verify
from llmguard_core.config import make_config
from llmguard_core.errors import CheckpointError, LoadRefused, SettingsError

# peft still asks transformers 5 for the old name
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
Project = Any  # see conftest.py
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Where somebody wanted to connect to."""
    asked: list[Any] = []
    monkeypatch.setattr(socket.socket, "connect", lambda self, address: asked.append(address))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *address, **more: asked.append(address))
    return asked


def test_edge_11_a_model_that_is_not_there_is_told_at_once_with_near_names(
    project: Project, no_network: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In milliseconds, where a loader raises after seconds; nobody is asked over the network."""
    from transformers import AutoConfig

    model(project.path / "models" / "qwen-base")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises((OSError, ValueError)):
        AutoConfig.from_pretrained(str(project.path / "models" / "qwen-bsae"), local_files_only=True)
    project.project(config="", model='path = "models/qwen-bsae"')
    results = project.results_of("model_path_exists", "weights_are_complete")
    told = results["model_path_exists"]
    says(told.findings[0].message, "models/qwen-bsae", "does not exist; near it lies qwen-base")
    assert (told.outcome.value, results["weights_are_complete"].outcome.value) == ("failed", "skipped")
    assert told.seconds < 0.5
    assert no_network == []


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


@pytest.mark.parametrize("way", ["cut off", "missing"])
def test_edge_12_the_shard_that_is_not_whole_is_told_from_headers(project: Project, way: str) -> None:
    """Which one, and what its header promises; of 512 MiB that are whole not a thousandth is read."""
    from safetensors import SafetensorError, safe_open

    shards = [{f"layers.{n}.weight": np.ones((WIDTH, WIDTH), np.float32)} for n in range(2)]
    folder = model(project.path / "base", weights={})
    (folder / "model.safetensors").unlink()
    for name, tensors in zip(SHARDS, shards, strict=True):
        write(folder / name, tensors)
    table = {name: shard for shard, tensors in zip(SHARDS, shards, strict=True) for name in tensors}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))
    project.project(config="", model='path = "base"')
    assert project.findings("weights_are_complete") == []
    whole = (folder / SHARDS[1]).read_bytes()
    (folder / SHARDS[1]).unlink()
    if way == "cut off":
        (folder / SHARDS[1]).write_bytes(whole[:-40])
    with pytest.raises((SafetensorError, FileNotFoundError)), safe_open(folder / SHARDS[1], "np") as opened:
        opened.keys()
    told = project.told("weights_are_complete").message
    says(
        told,
        f"base/{SHARDS[1]}",
        "its header speaks of" if way == "cut off" else "is named by the index and not there",
    )


def test_edge_12_weights_are_judged_without_being_loaded(project: Project) -> None:
    """Of 512 MiB not a thousandth is read."""
    size = 2**29
    header = json.dumps({"w": {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}}).encode()
    file = model(project.path / "base") / "model.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header)
    with file.open("r+b") as opened:
        opened.truncate(8 + len(header) + size)

    def read() -> int:
        return int(Path("/proc/self/io").read_text().split()[1])

    project.project(config="", model='path = "base"')
    before = read()
    assert project.findings("weights_are_complete") == []
    assert read() - before < size // 1000


EMBEDDING = "base_model.model.model.embed_tokens.weight"
ANOTHER: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "width": ({"width": 6}, ("8", "6")),
    "vocabulary": ({"more": {EMBEDDING: np.ones((2 * ROWS, WIDTH), np.float32)}}, (f"{2 * ROWS} rows", f"this model's {ROWS}")),
    "layers": ({"more": lora("model.layers.7.self_attn.q_proj")}, ("layers.7",)),
    "modules": ({"more": lora("model.layers.0.self_attn.W_pack")}, ("W_pack",)),
    "base": ({"base": "other"}, ("'other'", "are not those of this model")),
}  # fmt: skip


@pytest.mark.parametrize("way", ANOTHER)
def test_edge_13_an_adapter_of_another_base_is_told_by_what_differs(
    project: Project, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """Widths, vocabulary, layers, target modules, the weights of the base it names; of its own base nothing is said."""
    fault, words = ANOTHER[way]
    model(project.path / "base")
    model(project.path / "other", value=3.0)
    adapter(project.path / "right", base="base")
    project.project(config="", model='path = "base"\nadapter = "right"')
    monkeypatch.chdir(project.path)
    assert project.findings("adapter_belongs_to_its_base") == []
    adapter(project.path / "adapter", **{"base": "base", **fault})
    if way == "width":
        with pytest.raises(RuntimeError):
            torch.zeros(WIDTH, WIDTH) + torch.zeros(fault["width"], 2) @ torch.zeros(2, fault["width"])
    project.project(config="", model='path = "base"\nadapter = "adapter"')
    says(project.told("adapter_belongs_to_its_base").message, *words)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run of six steps, its checkpoints 2 and 4, and the weights it ends with."""
    folder = tmp_path_factory.mktemp("done")
    trainer = trainer_of(folder, steps=6)
    trainer.train()
    shutil.rmtree(folder / "checkpoint-6")
    return folder, weights_hash(trainer.model)


@pytest.fixture
def six(done: tuple[Path, str]) -> str:
    """The weights of six steps in one go."""
    return done[1]


@pytest.fixture
def out(done: tuple[Path, str], tmp_path: Path) -> Path:
    """The same, to be damaged: as transformers alone leaves it."""
    shutil.copytree(done[0], tmp_path / "out")
    for file in (tmp_path / "out").rglob("manifest.json"):
        file.unlink()
    return tmp_path / "out"


def test_edge_14_without_a_checkpoint_it_starts_fresh_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """`True` with nothing there is a first run, where transformers raises."""
    from transformers import Trainer

    with pytest.raises(ValueError, match="No valid checkpoint"):
        trainer_of(tmp_path, steps=2, kind=Trainer).train(resume_from_checkpoint=True)
    with caplog.at_level(logging.WARNING):
        done = trainer_of(tmp_path, steps=2).train(resume_from_checkpoint=True)
    assert done.global_step == 2
    assert "starting fresh" in caplog.text


def emptied(checkpoint: Path) -> None:
    shutil.rmtree(checkpoint)
    checkpoint.mkdir()


def falls_back(
    out: Path, damage: Callable[[Path], object], log: pytest.LogCaptureFixture, why: str, six: str
) -> None:
    """transformers takes the damaged one, and fails; the run goes on from the one before, says why, and ends as if uncut."""
    from transformers import Trainer
    from transformers.trainer_utils import get_last_checkpoint

    damage(out / "checkpoint-4")
    assert get_last_checkpoint(str(out)) == str(out / "checkpoint-4")
    with pytest.raises((OSError, ValueError, AttributeError, TypeError)):
        trainer_of(out, steps=6, kind=Trainer).train(resume_from_checkpoint=True)
    resumed = trainer_of(out, steps=6, save_strategy="no")
    with log.at_level(logging.INFO):
        resumed.train(resume_from_checkpoint=True)
    says(log.text, "checkpoint-4 is passed over", why, f"going on from {out / 'checkpoint-2'}")
    assert weights_hash(resumed.model) == six


def test_edge_15_an_empty_checkpoint_is_passed_over(
    out: Path, caplog: pytest.LogCaptureFixture, six: str
) -> None:
    """For the newest that is whole."""
    falls_back(out, emptied, caplog, "holds no weights", six)


def test_edge_16_a_checkpoint_without_its_state_is_passed_over(
    out: Path, caplog: pytest.LogCaptureFixture, six: str
) -> None:
    """Its last file was never written."""
    falls_back(
        out, lambda c: (c / "trainer_state.json").unlink(), caplog, "trainer_state.json: is not there", six
    )


def test_edge_17_a_checkpoint_whose_state_is_no_json_is_passed_over(
    out: Path, caplog: pytest.LogCaptureFixture, six: str
) -> None:
    """With the parser's own words."""
    text = (out / "checkpoint-4" / "trainer_state.json").read_text()[:100]
    with pytest.raises(json.JSONDecodeError) as broken:
        json.loads(text)
    falls_back(out, lambda c: (c / "trainer_state.json").write_text(text), caplog, str(broken.value), six)


@pytest.mark.parametrize(
    ("resumed", "severity"), [("", "warning"), ("resume_from_checkpoint: true\n", "error")]
)
def test_edge_15_the_checks_name_what_cannot_be_resumed_from(
    project: Project, out: Path, resumed: str, severity: str
) -> None:
    """Empty, without state, cut off: each with the file, and the newest that is whole; an error where a run would go on from it."""
    from transformers import Trainer

    settings = f"output_dir: out\nlearning_rate: 1.0e-4\nper_device_train_batch_size: 4\n{resumed}"
    project.write("train.yaml", settings)
    project.project()
    assert project.findings("checkpoints_are_whole") == []
    shutil.copytree(out / "checkpoint-4", out / "checkpoint-6")
    (out / "checkpoint-6" / "trainer_state.json").unlink()
    (out / "checkpoint-8").mkdir()
    with pytest.raises((OSError, ValueError)):
        trainer_of(out, kind=Trainer).train(resume_from_checkpoint=str(out / "checkpoint-8"))
    found = project.findings("checkpoints_are_whole")
    assert [f.where.file for f in found] == ["out/checkpoint-6", "out/checkpoint-8"]
    assert [f.severity.value for f in found] == ["warning", severity]
    says(found[0].message, "trainer_state.json: is not there", "go on from out/checkpoint-4")
    says(found[1].message, "the folder is empty")


def test_edge_15_a_checkpoint_of_accelerate_needs_no_state_of_a_trainer(project: Project, out: Path) -> None:
    """`Accelerator.save_state` writes none; the folder that the project names is looked at without any config."""
    (out / "checkpoint-4" / "trainer_state.json").unlink()
    (out / "checkpoint-4" / "random_states_0.pkl").touch()
    project.project(config="", environment='output_dir = "out"')
    assert project.findings("checkpoints_are_whole") == []
    project.project(config="")
    skipped = project.results_of("checkpoints_are_whole")["checkpoints_are_whole"]
    assert (skipped.outcome.value, "[environment] output_dir" in skipped.reason) == ("skipped", True)


@fault("L14")
def test_edge_18_the_checkpoint_of_a_different_model_is_refused(out: Path) -> None:
    """transformers loads what fits and keeps random values for the rest; here the tensors that differ are named."""
    with pytest.raises(RuntimeError, match="size mismatch"):
        model_of(hidden_size=64).load_state_dict(model_of().state_dict())
    for other, what in (
        (model_of(hidden_size=64), r"different model: \d+ tensors differ: .*\[48, 32\].*\[48, 64\]"),
        (model_of(num_hidden_layers=3), r"layers\.2\.\S+ \[.*\] is not in the checkpoint"),
    ):
        with pytest.raises(CheckpointError, match=what):
            trainer_of(out, model=other, steps=6).train(resume_from_checkpoint=True)


OLD = {
    "pytorch_model.bin": ("a pickle, as transformers saved before 4.35", "note"),
    "tf_model.h5": ("weights of TensorFlow", "warning"),
    "flax_model.msgpack": ("weights of Flax", "warning"),
    "consolidated.00.pth": ("weights in their maker's own layout", "warning"),
}


@pytest.mark.parametrize("name", OLD)
def test_edge_19_an_old_format_is_told_with_the_way_to_convert_it(
    project: Project, out: Path, name: str
) -> None:
    """Of a checkpoint and of a model's folder; safetensors beside it settle the matter."""
    from safetensors import SafetensorError, safe_open

    what, severity = OLD[name]
    checkpoint = out / "checkpoint-4"
    project.project(config="", environment='output_dir = "out"', model='path = "out/checkpoint-4"')
    torch.save({"w": torch.zeros(200)}, checkpoint / name)
    checks = ("checkpoints_are_whole", "weights_are_complete")
    assert project.findings(*checks) == []
    (checkpoint / "model.safetensors").unlink()
    with pytest.raises(SafetensorError), safe_open(checkpoint / name, "pt") as opened:
        opened.keys()
    of_model, told = project.findings(*checks)
    assert (told.where.file, told.severity.value) == (f"out/checkpoint-4/{name}", severity)
    for finding in (told, of_model):
        says(finding.message, f"checkpoint-4/{name}", "an old format", what, "onvert it")


def test_edge_19_a_checkpoint_of_the_old_format_goes_on_bit_for_bit(out: Path, six: str) -> None:
    """`pytorch_model.bin` without a manifest, as transformers 4 saved: the run ends with the weights of one that was not cut off."""
    from safetensors.torch import load_file

    old = out / "checkpoint-4"
    torch.save(load_file(old / "model.safetensors"), old / "pytorch_model.bin")
    (old / "model.safetensors").unlink()
    assert newest(out) == old
    resumed = trainer_of(out, steps=6, save_strategy="no")
    resumed.train(resume_from_checkpoint=True)
    assert weights_hash(resumed.model) == six


def test_edge_20_a_save_that_is_cut_off_is_never_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of the second save: transformers alone leaves a folder that it would go on from, here there is none."""
    from transformers import Trainer
    from transformers.trainer_utils import get_last_checkpoint

    class Cut(BaseException):
        """The machine goes."""

    def cut(*args: Any, **more: Any) -> None:
        raise Cut

    def run(folder: Path, kind: Any = None) -> None:
        more = {"kind": kind} if kind else {}
        with monkeypatch.context() as patch:
            at_three = At(3, lambda: patch.setattr(Trainer, "_save_optimizer_and_scheduler", cut))
            trainer = trainer_of(folder, steps=4, callbacks=[at_three], **more)
            with pytest.raises(Cut):
                trainer.train()

    run(tmp_path / "theirs", Trainer)
    assert get_last_checkpoint(str(tmp_path / "theirs")) == str(tmp_path / "theirs" / "checkpoint-4")
    assert verify(tmp_path / "theirs" / "checkpoint-4")
    assert newest(tmp_path / "theirs") == tmp_path / "theirs" / "checkpoint-2"
    run(tmp_path / "ours")
    assert newest(tmp_path / "ours") == tmp_path / "ours" / "checkpoint-2"
    assert not (tmp_path / "ours" / "checkpoint-4").exists()
