"""A run that was cut off goes on as if it had not been: every weight bit for bit, on a CPU, with dropout on."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from support.matrix import fault
from support.small_runs import ARCHITECTURES, At, model_of, trainer_of, weights_hash

from llmguard_core.checkpoints import newest, verify
from llmguard_core.errors import CheckpointError, TrainingStopped

torch.set_num_threads(1)
# peft 0.19 still asks transformers 5 for the old name
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
STEPS = 9  # one epoch and a half


class Cut(Exception):
    """The power goes."""


def cut() -> None:
    raise Cut


def lora() -> Any:
    from peft import LoraConfig, get_peft_model

    model = model_of()
    return get_peft_model(model, LoraConfig(r=4, lora_dropout=0.2, target_modules=["q_proj", "v_proj"]))


def interrupted(folder: Path, step: int, make: Any, **settings: Any) -> None:
    with pytest.raises(Cut):
        trainer_of(folder, model=make(), steps=STEPS, callbacks=[At(step, cut)], **settings).train()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The weights of a whole run, by what was trained."""
    done: dict[str, str] = {}

    def run(name: str, make: Any) -> str:
        if name not in done:
            trainer = trainer_of(tmp_path_factory.mktemp(name), model=make(), steps=STEPS)
            trainer.train()
            done[name] = weights_hash(trainer.model)
        return done[name]

    return run


@pytest.mark.parametrize("step", [3, 5, 6, 7, 8])
@fault("L13")
def test_a_run_cut_off_ends_with_the_weights_of_one_that_was_not(
    tmp_path: Path, uninterrupted: Any, step: int
) -> None:
    """Cut in the first epoch, at its last step (one batch alone), at the second's first, and after."""
    interrupted(tmp_path, step, model_of)
    trainer = trainer_of(tmp_path, steps=STEPS)
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == STEPS
    assert weights_hash(trainer.model) == uninterrupted("Llama", model_of)


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_every_architecture_resumes_bit_for_bit(
    tmp_path: Path, uninterrupted: Any, architecture: str
) -> None:
    """Also tied weights, and mixtures of experts, whose names on disk are not those in memory."""

    def make() -> Any:
        return model_of(architecture)

    interrupted(tmp_path, 5, make)
    trainer = trainer_of(tmp_path, model=make(), steps=STEPS)
    trainer.train(resume_from_checkpoint=True)
    assert weights_hash(trainer.model) == uninterrupted(architecture, make)


def test_an_adapter_resumes_bit_for_bit(tmp_path: Path, uninterrupted: Any) -> None:
    """LoRA with dropout of its own: the checkpoint holds the adapter alone."""
    interrupted(tmp_path, 5, lora)
    trainer = trainer_of(tmp_path, model=lora(), steps=STEPS)
    trainer.train(resume_from_checkpoint=True)
    assert weights_hash(trainer.model) == uninterrupted("lora", lora)


def test_another_seed_of_the_random_numbers_gives_other_weights(tmp_path: Path, uninterrupted: Any) -> None:
    """The comparison can fail: without the saved states dropout falls otherwise."""
    interrupted(tmp_path, 5, model_of)
    (tmp_path / "checkpoint-4" / "manifest.json").unlink()
    other = torch.load(tmp_path / "checkpoint-4" / "rng_state.pth", weights_only=False)
    other["cpu"] = torch.Generator().manual_seed(1).get_state()
    torch.save(other, tmp_path / "checkpoint-4" / "rng_state.pth")
    trainer = trainer_of(tmp_path, steps=STEPS)
    trainer.train(resume_from_checkpoint=True)
    assert weights_hash(trainer.model) != uninterrupted("Llama", model_of)


def test_a_named_checkpoint_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    """A path that was asked for is never quietly replaced by another one."""
    trainer_of(tmp_path, steps=2).train()
    (tmp_path / "checkpoint-2" / "optimizer.pt").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"cannot be resumed from: optimizer\.pt: has 0 bytes"):
        trainer_of(tmp_path).train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


@fault("L15")
def test_the_best_checkpoint_is_named_by_its_last_place_and_kept(tmp_path: Path) -> None:
    """While it was saved it lay elsewhere; the limit deletes others."""
    trainer = trainer_of(
        tmp_path,
        steps=8,
        eval_strategy="steps",
        eval_steps=2,
        metric_for_best_model="loss",
        save_total_limit=2,
        learning_rate=0.3,
        load_best_model_at_end=True,
    )
    trainer.train()
    best = Path(trainer.state.best_model_checkpoint)
    assert best.parent == tmp_path
    assert verify(best) == []
    latest = newest(tmp_path)
    assert latest is not None
    assert json.loads((latest / "trainer_state.json").read_text())["best_model_checkpoint"] == str(best)
    assert {p.name for p in tmp_path.iterdir()} == {best.name, "checkpoint-8"}


def test_a_damaged_newest_checkpoint_costs_one_interval_and_no_bit(
    tmp_path: Path, uninterrupted: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """One bit of the newest is flipped: the one before is taken, and the end is the same."""
    interrupted(tmp_path, 7, model_of)
    weights = bytearray((tmp_path / "checkpoint-6" / "model.safetensors").read_bytes())
    weights[-100] ^= 4
    (tmp_path / "checkpoint-6" / "model.safetensors").write_bytes(weights)
    trainer = trainer_of(tmp_path, steps=STEPS)
    trainer.train(resume_from_checkpoint=True)
    assert "checkpoint-6 is passed over: model.safetensors" in caplog.text
    assert weights_hash(trainer.model) == uninterrupted("Llama", model_of)
    assert verify(tmp_path / "checkpoint-6") == [], "it was saved again over the damaged one"


@fault("L16")
def test_the_limit_deletes_nothing_while_the_new_checkpoint_cannot_be_read_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A disk that takes a save and gives back something else: the last good one stays."""
    from llmguard_core.checkpoints import trainer as saving

    real = saving._rotate

    def damaged(run_dir: Path, saved: Path, *rest: Any) -> None:
        if saved.name != "checkpoint-2":
            (saved / "optimizer.pt").write_bytes(b"something else")
        real(run_dir, saved, *rest)

    monkeypatch.setattr(saving, "_rotate", damaged)
    trainer_of(tmp_path, steps=6, save_total_limit=1).train()
    assert newest(tmp_path) == tmp_path / "checkpoint-2"
    assert "no older checkpoint is deleted" in caplog.text


def test_the_limit_keeps_the_newest_ones(tmp_path: Path) -> None:
    """The control: with a good disk it deletes."""
    trainer_of(tmp_path, steps=8, save_total_limit=1).train()
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint-8"]


@fault("L21")
def test_no_code_in_a_checkpoint_is_run(tmp_path: Path) -> None:
    """A pickle that calls something, where the optimizer's state should be: refused, as only tensors and plain values are read."""
    import pickle
    import zipfile

    class Calls:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "was run"),)

    trainer_of(tmp_path, steps=2).train()
    place = tmp_path / "checkpoint-2"
    (place / "manifest.json").unlink()
    with zipfile.ZipFile(place / "optimizer.pt", "w") as archive:
        archive.writestr("optimizer/data.pkl", pickle.dumps(Calls(), 2))
        archive.writestr("optimizer/version", "3\n")
        archive.writestr("optimizer/byteorder", "little")
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        trainer_of(tmp_path).train(resume_from_checkpoint=True)
    assert not (tmp_path / "was run").exists()
    torch.load(place / "optimizer.pt", weights_only=False)
    assert (tmp_path / "was run").exists(), "the pickle would have run"


def test_an_adapter_of_another_rank_is_refused(tmp_path: Path) -> None:
    """PEFT's own loading would say so with a traceback; another target it would not say at all."""
    from peft import LoraConfig, get_peft_model

    trainer_of(tmp_path, model=lora(), steps=2).train()
    for settings in (
        {"r": 8, "target_modules": ["q_proj", "v_proj"]},
        {"r": 4, "target_modules": ["q_proj"]},
    ):
        other = get_peft_model(model_of(), LoraConfig(**settings))
        with pytest.raises(CheckpointError, match=r"different model: \d+ tensors differ: .*lora_"):
            trainer_of(tmp_path, model=other, steps=4).train(resume_from_checkpoint=True)


@pytest.mark.parametrize("where", ["parameter", "optimizer"])
@fault("L18")
def test_nothing_that_is_not_finite_is_saved(tmp_path: Path, where: str) -> None:
    """Neither as a checkpoint nor as the final model; what was saved before stays the newest."""
    trainer = trainer_of(tmp_path, steps=6)

    def spoil() -> None:
        parameter = next(iter(trainer.model.parameters()))
        target = parameter.data if where == "parameter" else trainer.optimizer.state[parameter]["exp_avg"]
        target.view(-1)[0] = float("nan")

    trainer.add_callback(At(4, spoil))
    with pytest.raises(TrainingStopped, match=r"step 4: .*NaN or infinite"):
        trainer.train()
    with pytest.raises(TrainingStopped):
        trainer.save_model(str(tmp_path / "final"))
    assert {p.name for p in tmp_path.iterdir()} == {"checkpoint-2"}


def test_the_final_model_never_takes_the_place_of_other_things(tmp_path: Path) -> None:
    """Where checkpoints lie the model goes into a folder of its own, and over itself when saved again."""
    trainer = trainer_of(tmp_path, steps=2)
    trainer.train()
    trainer.save_model()
    trainer.save_model()
    assert {p.name for p in tmp_path.iterdir()} == {"checkpoint-2", "final"}
    assert verify(tmp_path / "final", resume=False) == []


TWO = """
import os, signal, sys
from pathlib import Path
import torch
from support.small_runs import At, trainer_of, weights_hash
from llmguard_core.checkpoints import SaveOnSignal
torch.set_num_threads(1)
folder, mode = Path(sys.argv[1]), sys.argv[2]
calls = [SaveOnSignal()]
if mode == "cut" and os.environ["RANK"] == "1":
    calls.insert(0, At(5, lambda: signal.raise_signal(signal.SIGTERM)))
trainer = trainer_of(folder, steps=9, callbacks=calls, ddp_find_unused_parameters=False)
try:
    trainer.train(resume_from_checkpoint=mode == "resumed")
    print("ended", weights_hash(trainer.model), trainer.state.global_step, flush=True)
except SystemExit as told:
    print("left", told.code, trainer.state.global_step, flush=True)
"""


@pytest.mark.soak
def test_two_processes_stop_together_and_resume_bit_for_bit(tmp_path: Path) -> None:
    """SIGTERM to one of them: both save the same step, each its own random states, and the end is that of a whole run."""
    (tmp_path / "two.py").write_text(TWO)

    def run(folder: str, mode: str) -> set[str]:
        tests = Path(__file__).resolve().parents[1]
        path = os.pathsep.join([str(tests), str(tests.parent / "src")])
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
        done = subprocess.run(
            [*launch, str(tmp_path / "two.py"), str(tmp_path / folder), mode],
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
            capture_output=True,
            text=True,
            timeout=250,
            check=True,
        )
        return set(re.findall(r"^(?:ended|left) .*", done.stdout, re.MULTILINE))

    whole = run("whole", "whole")
    assert len(whole) == 1
    assert run("cut", "cut") == {"left 143 5"}
    assert {p.name for p in (tmp_path / "cut" / "checkpoint-5").glob("rng_state*")} == {
        "rng_state_0.pth",
        "rng_state_1.pth",
    }
    assert run("cut", "resumed") == whole
