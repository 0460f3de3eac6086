"""Runs of the core: no split of a batch changes what is learnt, nothing is done twice, and nothing stays behind."""

from __future__ import annotations

import gc
import json
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from support.runs import collate, distance, model, rows, run, same
from support.tiny import byte_level

from llmguard_core.errors import OutOfMemory, TrainingStopped
from llmguard_core.settings import LoraSettings
from llmguard_core.training.oom import one_clear_error
from llmguard_core.training.trainer import token_losses

UNEVEN = rows(24)
# peft still asks transformers 5 for the old name
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


@pytest.fixture(autouse=True)
def _no_png(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than such a run."""
    monkeypatch.setattr("llmguard_core.training.run.png", lambda records, path: None)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run whose batch is not accumulated: SGD, so that the weights say what the gradients were."""
    return run(
        tmp_path_factory.mktemp("whole"), batch_size=8, optimizer="sgd", learning_rate=1e-2, grad_clip=50.0
    )[0]


@pytest.mark.parametrize(("batch", "accumulation"), [(1, 8), (2, 4), (4, 2)])
def test_accumulation_learns_what_one_big_batch_learns(
    whole: Any, tmp_path: Path, batch: int, accumulation: int
) -> None:
    """Rows of one to thirteen words: each supervised token counts alike, in whatever micro-batch it is."""
    split, _ = run(
        tmp_path,
        batch_size=batch,
        accumulation=accumulation,
        optimizer="sgd",
        learning_rate=1e-2,
        grad_clip=50.0,
    )
    assert same(split, whole)


def test_a_mean_of_means_learns_something_else() -> None:
    """The witness: on the same uneven rows the mean of the micro-batches' means has another gradient than the mean over tokens."""
    batch = UNEVEN[:8]
    one, other = model(), model()
    total, count = token_losses(one(**_inputs(batch)).logits, collate(batch)["labels"])
    (total / count).backward()
    for each in batch:
        total, count = token_losses(other(**_inputs([each])).logits, collate([each])["labels"])
        (total / count / len(batch)).backward()
    pairs = [(a.grad, b.grad) for a, b in zip(one.parameters(), other.parameters(), strict=True)]
    assert max(float((a - b).abs().max() / a.abs().max()) for a, b in pairs) > 0.1


def _inputs(batch: Any) -> dict[str, torch.Tensor]:
    return {k: v for k, v in collate(batch).items() if k != "labels"}


def test_accumulation_is_exact_where_nothing_is_counted_ahead(
    whole: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with transformers 4.45: gradients of sums, divided before they are clipped; out of memory on the way included."""
    from llmguard_core.checkpoints import VerifiedTrainer
    from llmguard_core.training.trainer import CountedAfterwards, InPieces

    class Old(CountedAfterwards, InPieces, VerifiedTrainer):
        def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
            return super().get_batch_samples(*args, **kwargs)[0], None

    monkeypatch.setattr("llmguard_core.training.run.CoreTrainer", Old)
    told = {"batch_size": 4, "accumulation": 2, "optimizer": "sgd", "learning_rate": 1e-2, "grad_clip": 50.0}
    assert same(run(tmp_path / "a", **told)[0], whole)
    net, calls = model(), [0]

    def called(module: Any, args: Any, output: Any) -> None:
        calls[0] += 1
        if calls[0] == 4:
            raise torch.OutOfMemoryError("CUDA out of memory")

    net.get_input_embeddings().register_forward_hook(called)
    assert run(tmp_path / "b", net=net, **told)[1].piece == 2
    assert same(net, whole)


def test_no_clipping_is_no_clipping(tmp_path: Path) -> None:
    """grad_clip 0: the norm is told, the step is the gradient."""
    told = {"max_steps": 1, "batch_size": 8, "optimizer": "sgd", "learning_rate": 1e-2}
    free, _ = run(tmp_path / "a", grad_clip=0.0, **told)
    high, result = run(tmp_path / "b", grad_clip=90.0, **told)
    low, _ = run(tmp_path / "c", grad_clip=1.0, **told)
    assert distance(free, high) == 0.0 < distance(free, low)
    assert result.metrics["grad_norm"] > 1.0


@pytest.mark.parametrize("kind", ["Qwen2", "GPTNeoX", "Mistral", "Phi"])
def test_accumulation_is_exact_for_other_families(tmp_path: Path, kind: str) -> None:
    """The loss is computed from logits, so that it asks nothing of the model."""
    nets = [model(kind=kind) for _ in range(2)]
    for net, (batch, accumulation) in zip(nets, [(8, 1), (2, 4)], strict=True):
        told = {
            "max_steps": 1,
            "batch_size": batch,
            "accumulation": accumulation,
            "optimizer": "sgd",
            "learning_rate": 1e-2,
            "grad_clip": 50.0,
        }
        run(tmp_path / str(batch), net=net, **told)
    assert same(*nets, model(kind=kind))


def test_the_last_accumulation_may_be_shorter(tmp_path: Path) -> None:
    """Twenty-two rows in steps of 2 x 4: the rest of the epoch is six rows, in whatever split."""
    nets = [
        run(
            tmp_path / str(b),
            data=UNEVEN[:22],
            batch_size=b,
            accumulation=8 // b,
            epochs=1.0,
            max_steps=None,
            optimizer="sgd",
            learning_rate=1e-2,
        )[0]
        for b in (2, 8)
    ]
    assert same(*nets)


def test_the_logged_loss_is_the_mean_over_the_steps_tokens(tmp_path: Path) -> None:
    """The first logged loss is that of the untrained model on the whole batch, in nats a token."""
    run(tmp_path, data=UNEVEN[:8], batch_size=2, accumulation=4, max_steps=1)
    first = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])
    with torch.no_grad():
        total, count = token_losses(model()(**_inputs(UNEVEN[:8])).logits, collate(UNEVEN[:8])["labels"])
    assert first["loss"] == pytest.approx(float(total / count), abs=1e-5)


@pytest.mark.parametrize("size", [1, 3, 8])
def test_validation_loss_is_the_same_for_every_batch_size(tmp_path: Path, size: int) -> None:
    """A mean over tokens, not over batches."""
    _, result = run(
        tmp_path,
        max_steps=1,
        learning_rate=1e-8,
        eval_batch_size=size,
        eval_steps=1,
        extra={"validation": UNEVEN[8:19]},
    )
    with torch.no_grad():
        total, count = token_losses(model()(**_inputs(UNEVEN[8:19])).logits, collate(UNEVEN[8:19])["labels"])
    assert result.metrics["eval_loss"] == pytest.approx(float(total / count), abs=2e-5)


def test_a_lora_run_trains_an_adapter_and_saves_it(tmp_path: Path) -> None:
    """The base is untouched, the adapter is in `final`, and the loss falls."""
    base = model()
    before = {k: v.clone() for k, v in base.state_dict().items()}
    told = {"method": "lora", "max_steps": 60, "learning_rate": 1e-2, "save_steps": 60}
    _, result = run(tmp_path, net=base, extra={"lora": LoraSettings(rank=8, alpha=16.0)}, **told)
    assert (result.final / "adapter_model.safetensors").is_file()
    kept = {k.replace(".base_layer", ""): v for k, v in base.state_dict().items() if "lora_" not in k}
    assert all(torch.equal(v, kept[k]) for k, v in before.items())
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[-1] < losses[0] - 0.3


def test_a_healthy_run_raises_no_alarm_and_is_whole(tmp_path: Path) -> None:
    """Everything at once: validation, saves, samples; the final model loads, no guard spoke."""
    from transformers import AutoModelForCausalLM

    from llmguard_core.checkpoints import verify

    told = {"max_steps": 60, "learning_rate": 5e-3, "eval_steps": 20, "sample_steps": 20, "batch_size": 8}
    net, result = run(tmp_path, extra={"validation": UNEVEN[:6]}, **told)
    assert (result.steps, result.alarms, result.already_trained) == (60, (), False)
    assert verify(result.final, resume=False) == []
    assert distance(AutoModelForCausalLM.from_pretrained(result.final), net) == 0.0
    assert not (tmp_path / "hang-report.json").exists()


def test_resuming_ends_where_an_uninterrupted_run_ends(tmp_path: Path) -> None:
    """Bit for bit on a CPU, with accumulation, in the middle of an epoch."""
    told = {"batch_size": 2, "accumulation": 2, "save_steps": 3}
    straight, _ = run(tmp_path / "a", max_steps=8, **told)

    class Stop(Exception):
        pass

    from transformers import TrainerCallback

    class Cut(TrainerCallback):  # type: ignore[misc]  # transformers ships no types
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == 5:
                raise Stop

    with pytest.raises(Stop):
        run(tmp_path / "b", max_steps=8, extra={"callbacks": [Cut()]}, **told)
    again, result = run(tmp_path / "b", seed=3, max_steps=8, **told)
    assert result.steps == 8
    assert distance(again, straight) == 0.0


def test_nothing_stays_alive_after_a_run(tmp_path: Path) -> None:
    """The model dies with the caller's name for it, at once: no cycle of a Trainer's waits for the garbage collector."""
    from transformers import TrainerCallback

    watched: list[Any] = []

    class Watch(TrainerCallback):  # type: ignore[misc]  # transformers ships no types
        def on_step_end(self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Any) -> None:
            watched[:] = [
                weakref.ref(optimizer),
                weakref.ref(next(iter(optimizer.state.values()))["exp_avg"]),
            ]

    gc.disable()
    try:
        net, _ = run(tmp_path, extra={"callbacks": [Watch()]})
        watched.append(weakref.ref(net))
        assert all(p.grad is None for p in net.parameters())
        del net
        assert [each() is None for each in watched] == [True] * 3
    finally:
        gc.enable()


def test_nothing_stays_alive_after_a_run_that_failed(tmp_path: Path) -> None:
    """Who keeps the error keeps neither optimizer nor gradients; without it, the model goes, too."""
    from transformers import TrainerCallback

    watched: list[Any] = []

    class Poison(TrainerCallback):  # type: ignore[misc]  # transformers ships no types
        def on_step_end(
            self, args: Any, state: Any, control: Any, optimizer: Any = None, **more: Any
        ) -> None:
            watched[:] = [
                weakref.ref(optimizer),
                weakref.ref(next(iter(optimizer.state.values()))["exp_avg"]),
            ]
            with torch.no_grad():
                next(more["model"].parameters()).fill_(float("nan"))

    net = model()
    with pytest.raises(TrainingStopped) as caught:
        run(tmp_path, net=net, extra={"callbacks": [Poison()]})
    assert [each() is None for each in watched] == [True] * 2
    assert all(p.grad is None for p in net.parameters())
    watched.append(weakref.ref(net))
    del net, caught
    gc.collect()
    assert watched[2]() is None


def test_out_of_memory_outside_of_steps_is_one_clear_error_that_holds_nothing() -> None:
    """While a model is loaded, say: what was half made is gone when the error is raised."""
    kept: list[Any] = []

    def load() -> None:
        half = torch.ones(1000)
        kept.append(weakref.ref(half))
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    with pytest.raises(OutOfMemory, match=r"loading m: no memory left.*2\.00 GiB") as caught:
        one_clear_error("loading m", load)
    assert kept[0]() is None
    assert caught.value.__context__ is None
    with pytest.raises(KeyError):
        one_clear_error("loading m", lambda: {}["other"])


FILE = """
model: {{path: {model}, kind: base}}
data: {{train: train.jsonl, validation: held.jsonl}}
prompt: {{format: alpaca}}
train: {{output_dir: out, learning_rate: 5.0e-3, max_steps: 40, accumulation: 2, max_length: 96, logging_steps: 5, save_steps: 20,
  eval_steps: 20, sample_steps: 20, warmup_ratio: 0.1, {more}}}
"""


@pytest.mark.parametrize(("method", "packing"), [("lora", False), ("full", True)])
def test_a_config_is_a_run(tmp_path: Path, method: str, packing: bool) -> None:
    """From a file to a whole final model: base loaded, rows encoded and checked, trained, evaluated; the loss falls on both splits."""
    from llmguard_core.checkpoints import verify
    from llmguard_core.training import sft

    model(max_position_embeddings=128).save_pretrained(tmp_path / "base")
    byte_level().save_pretrained(tmp_path / "base")
    for name, numbers in (("train", range(40)), ("held", range(40, 48))):
        lines = [
            json.dumps({"prompt": f"what is {i}?", "response": "one" + " two" * (i % 7)}) for i in numbers
        ]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    file = tmp_path / "run.yaml"
    more = "packing: true, batch_size: 1" if packing else "packing: false, batch_size: 4"
    file.write_text(FILE.format(model=tmp_path / "base", more=f"{more}, method: {method}"))
    result = sft(file)
    lines = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    held = [line["eval_loss"] for line in lines if "eval_loss" in line]
    assert result.steps == 40
    assert [a for a in result.alarms if a.stops] == []
    assert held[-1] < held[0] < 5.9
    assert verify(result.final, resume=False) == []
    weights = "adapter_model.safetensors" if method == "lora" else "model.safetensors"
    assert (result.final / weights).is_file()
