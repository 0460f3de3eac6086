"""Each guard seen to speak on a real Trainer, and all of them silent on healthy runs."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.matrix import fault
from support.runs import IGNORED, collate, model, rows
from support.tiny import byte_level
from transformers import Trainer, TrainerCallback, TrainingArguments

from llmguard_core.errors import TrainingStopped
from llmguard_core.training import Guards, Limits
from llmguard_core.training.samples import prompt_of, sampler
from llmguard_core.training.trends import trend

DATA = rows(32)


Change = Callable[[torch.Tensor, int], torch.Tensor]


class Changed(Trainer):  # type: ignore[misc]  # transformers ships no types
    """A Trainer of somebody else that makes another loss of what the model gives: no hook on the model sees it."""

    outside: Change | None = None

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        found = super().compute_loss(*args, **kwargs)
        if self.outside is None or isinstance(found, tuple):
            return found
        return self.outside(found, self.state.global_step)


def trainer_of(
    folder: Path,
    guards: Guards,
    *,
    change: Change | None = None,
    outside: Change | None = None,
    data: Any = DATA,
    net: Any = None,
    **told: Any,
) -> Any:
    """transformers' own Trainer with the guards as a callback."""
    usual = {
        "max_steps": 4, "per_device_train_batch_size": 4, "learning_rate": 1e-3, "use_cpu": True, "report_to": "none", "logging_steps": 1,
        "save_strategy": "no", "disable_tqdm": True, "dataloader_pin_memory": False, "remove_unused_columns": False,
    }  # fmt: skip
    callbacks = [guards, *told.pop("callbacks", [])]
    validation = told.pop("validation", None)
    made = Changed(
        net or model(), TrainingArguments(str(folder), **{**usual, **told}), train_dataset=data, eval_dataset=validation,
        data_collator=collate, callbacks=callbacks, processing_class=byte_level(),
    )  # fmt: skip
    made.outside = outside

    def changed(module: Any, args: Any, output: Any) -> None:
        if torch.is_grad_enabled():
            output["loss"] = change(output["loss"], made.state.global_step) if change else output["loss"]

    if change is not None:
        made.model.register_forward_hook(changed)
    return made


def kinds(guards: Guards) -> list[str]:
    """The kinds of alarms, in order."""
    return [a.kind for a in guards.alarms]


def from_step(step: int, to: Any) -> Any:
    """A change of the loss from a step on."""
    return lambda loss, now: to(loss) if now >= step else loss


def finite(net: Any) -> bool:
    """Whether all weights are."""
    return all(bool(torch.isfinite(p).all()) for p in net.parameters())


@pytest.mark.parametrize(
    ("kind", "to"),
    [
        ("nan", lambda loss: loss * math.nan),
        ("inf", lambda loss: loss + math.inf),
        ("inf", lambda loss: loss - math.inf),
    ],
    ids=["nan", "inf", "minus inf"],
)
@pytest.mark.parametrize("accumulation", [1, 3])
@fault("I1", "I2", "I3", "I4")
def test_a_loss_that_is_no_number_stops_before_the_weights_change(
    tmp_path: Path, kind: str, to: Any, accumulation: int
) -> None:
    """Within the optimizer step, with every weight as it was, although transformers would log 0.0."""
    guards = Guards()
    told = {"gradient_accumulation_steps": accumulation, "logging_nan_inf_filter": True, "logging_steps": 100}
    trainer = trainer_of(tmp_path, guards, change=from_step(2, to), **told)
    with pytest.raises(TrainingStopped, match=r"the log would have shown it as 0\.0") as caught:
        trainer.train()
    assert (trainer.state.global_step, caught.value.step) == (2, 3)
    assert finite(trainer.model)
    assert kinds(guards) == [kind]
    assert guards.alarms[0].stops


@fault("I5", "I10")
def test_a_nan_that_a_trainer_makes_itself_is_seen_in_the_gradients(tmp_path: Path) -> None:
    """In the same step, too, whatever is logged when."""
    guards = Guards()
    trainer = trainer_of(
        tmp_path, guards, outside=from_step(2, lambda loss: loss * math.nan), logging_steps=100
    )
    with pytest.raises(TrainingStopped, match="a gradient is nan"):
        trainer.train()
    assert trainer.state.global_step == 2
    assert finite(trainer.model)


def test_transformers_alone_shows_such_a_run_as_a_loss_of_nought(tmp_path: Path) -> None:
    """The witness: without the guard the run ends well, its logged loss is 0.0, and its weights are NaN."""
    trainer = trainer_of(
        tmp_path, Guards(), change=from_step(0, lambda loss: loss * math.nan), logging_nan_inf_filter=True
    )
    trainer.remove_callback(Guards)
    trainer.train()
    assert [entry["loss"] for entry in trainer.state.log_history if "loss" in entry] == [0.0] * 4
    assert not finite(trainer.model)


class TestEvidence:
    """What is on disk after a NaN."""

    def test_the_batch_is_written_with_rows_ids_labels_and_text(self, tmp_path: Path) -> None:
        """The rows are found in the data again, padding aside; the label of the row that did it can be read."""
        tokenizer, bad = byte_level(), 9
        net = model()
        poison = tokenizer("what is 9?")["input_ids"]

        def called(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
            hit = (args[0][:, : len(poison)] == torch.tensor(poison)).all(1)
            return torch.where(hit[:, None, None], math.nan, output)

        net.get_input_embeddings().register_forward_hook(called)
        guards = Guards()
        with pytest.raises(TrainingStopped, match=r"the loss is nan.*0\.0") as caught:
            trainer_of(tmp_path, guards, net=net, max_steps=8, seed=3).train()
        (file,) = tmp_path.glob("stopped-at-step-*.json")
        assert str(file) in str(caught.value)
        written = json.loads(file.read_text("utf-8"))
        numbers = [r["row"] for r in written["rows"]]
        assert bad in numbers
        assert len(set(numbers)) == 4
        row = written["rows"][numbers.index(bad)]
        assert row["input_ids"][: len(DATA[bad]["input_ids"])] == DATA[bad]["input_ids"]
        assert row["labels"][: len(DATA[bad]["labels"])] == DATA[bad]["labels"]
        assert row["text"].startswith("what is 9?")

    def test_a_disk_that_is_full_hides_nothing(self, tmp_path: Path) -> None:
        """The run stops with the same reason when the batch cannot be written."""
        guards = Guards()
        trainer = trainer_of(tmp_path, guards, change=from_step(1, lambda loss: loss * math.nan))
        trainer.args.output_dir = "/proc/nowhere"
        with pytest.raises(TrainingStopped, match="the loss is nan") as caught:
            trainer.train()
        assert "not written" in str(caught.value)


def test_an_infinite_loss_of_the_trainers_own_with_finite_gradients_stops_with_its_log_line(
    tmp_path: Path,
) -> None:
    """A logit of minus infinity at a label: the gradient looks well, the loss is infinite; nothing in the weights tells."""

    class Bounded(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, loss: torch.Tensor) -> torch.Tensor:
            return loss + math.inf

        @staticmethod
        def backward(ctx: Any, *grads: torch.Tensor) -> Any:
            return torch.ones_like(grads[0])

    guards = Guards()
    trainer = trainer_of(
        tmp_path, guards, outside=from_step(1, Bounded.apply), save_strategy="steps", save_steps=1
    )
    with pytest.raises(TrainingStopped, match="logged loss is inf"):
        trainer.train()
    assert trainer.state.global_step == 2


@fault("I6")
def test_gradients_that_stay_exactly_nought_stop(tmp_path: Path) -> None:
    """Nothing is supervised: three steps one after another, not one."""
    guards = Guards()
    with pytest.raises(TrainingStopped, match="every gradient was exactly 0 in 3 steps"):
        trainer_of(tmp_path, guards, change=lambda loss, step: loss * 0.0, max_steps=8).train()
    once = Guards()
    trainer_of(
        tmp_path, once, change=lambda loss, step: loss * 0.0 if step % 3 else loss, max_steps=8
    ).train()
    assert once.alarms == []


@fault("I11")
def test_weights_that_are_nan_are_never_saved(tmp_path: Path) -> None:
    """Poisoned behind the optimizer's back: the save of that step does not happen, the one before is there."""

    class Poison(TrainerCallback):  # type: ignore[misc]  # transformers ships no types
        def on_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            if state.global_step == 2:
                with torch.no_grad():
                    next(model.parameters())[0, 0] = math.nan

    guards = Guards()
    trainer = trainer_of(
        tmp_path, guards, callbacks=[Poison()], save_strategy="steps", save_steps=1, max_steps=6
    )
    with pytest.raises(TrainingStopped, match="nothing is saved"):
        trainer.train()
    assert sorted(p.name for p in tmp_path.glob("checkpoint-*")) == ["checkpoint-1", "checkpoint-2"]


@fault("I9")
def test_a_run_that_diverges_is_stopped(tmp_path: Path) -> None:
    """A learning rate a thousand times too high, clipped gradients and all."""
    guards = Guards(Limits(window=5))
    with pytest.raises(TrainingStopped, match=r"the loss diverges: [\d.e+]+ now"):
        trainer_of(tmp_path, guards, learning_rate=1.0, max_steps=60, lr_scheduler_type="constant").train()
    assert list(tmp_path.glob("stopped-at-step-*.json"))


def test_a_loss_that_rises_again_is_an_alarm(tmp_path: Path) -> None:
    """More than half of what was learnt is lost again."""
    guards = Guards(Limits(window=5))
    trainer_of(
        tmp_path,
        guards,
        change=lambda loss, step: loss * (1.0 - 0.02 * step if step < 30 else 0.95),
        max_steps=50,
    ).train()
    assert "rise" in kinds(guards)
    assert not any(a.stops for a in guards.alarms)


@fault("I8")
def test_a_loss_that_does_not_fall_is_an_alarm_with_its_test(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A learning rate that trains nothing: tau and p are told, at step 40, once."""
    guards = Guards(Limits(trend_steps=40, window=5))
    trainer_of(tmp_path, guards, learning_rate=1e-9, max_steps=60).train()
    assert kinds(guards) == ["plateau"]
    assert guards.alarms[0].step == 40
    assert guards.alarms[0].numbers["p"] > 0.05
    assert "Mann-Kendall tau" in caplog.text


def test_a_gradient_norm_far_above_the_usual_is_an_alarm(tmp_path: Path) -> None:
    """The norm before clipping, as it is logged."""
    guards = Guards()
    trainer_of(
        tmp_path, guards, change=lambda loss, step: loss * (1000.0 if step == 14 else 1.0), max_steps=16
    ).train()
    assert kinds(guards) == ["gradient norm"]
    assert guards.alarms[0].step == 15


def test_memory_that_grows_is_an_alarm(tmp_path: Path) -> None:
    """Three MiB a step, seen after the caches are full; memory that comes and goes is none."""
    steps = iter(range(10_000))
    guards = Guards(Limits(trend_steps=20, window=5), memory=lambda: (100 + 3 * next(steps)) << 20)
    trainer_of(tmp_path, guards, max_steps=30).train()
    assert kinds(guards) == ["memory"]
    assert guards.alarms[0].numbers["bytes_a_step"] == pytest.approx(3 << 20)
    draw = np.random.default_rng(0)
    calm = Guards(Limits(trend_steps=20, window=5), memory=lambda: int(draw.integers(100, 400)) << 20)
    trainer_of(tmp_path, calm, max_steps=30).train()
    assert calm.alarms == []


def test_the_memory_of_this_process_is_measured(tmp_path: Path) -> None:
    """A list that keeps a tensor of every step."""
    kept: list[torch.Tensor] = []

    class Leak(TrainerCallback):  # type: ignore[misc]  # transformers ships no types
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            kept.append(torch.ones(2 << 20))

    guards = Guards(Limits(trend_steps=16, window=4))
    trainer_of(tmp_path, guards, max_steps=24, callbacks=[Leak()]).train()
    kept.clear()
    assert kinds(guards) == ["memory"]


class TestValidation:
    """A validation split whose labels contradict the training data: its loss rises while the model learns."""

    @staticmethod
    def contrary() -> list[Any]:
        other = byte_level()(" garden")["input_ids"][0]
        return [{**r, "labels": [t if t == IGNORED else other for t in r["labels"]]} for r in DATA[:4]]

    def test_validation_that_gets_worse_is_an_alarm(self, tmp_path: Path) -> None:
        """At the second evaluation that is no better; the run goes on."""
        guards = Guards()
        told = {
            "validation": self.contrary(),
            "eval_strategy": "steps",
            "eval_steps": 4,
            "max_steps": 24,
            "learning_rate": 5e-3,
        }
        trainer_of(tmp_path, guards, **told).train()
        assert kinds(guards) == ["validation"]
        assert not guards.alarms[0].stops

    def test_it_ends_the_run_where_patience_says_so_and_the_best_is_kept(self, tmp_path: Path) -> None:
        """After two evaluations without a better one; the best checkpoint's weights are the model's in the end."""
        guards = Guards(Limits(patience=2))
        told = {
            "validation": self.contrary(), "eval_strategy": "steps", "eval_steps": 4, "max_steps": 80, "learning_rate": 5e-3,
            "save_strategy": "steps", "save_steps": 4, "load_best_model_at_end": True, "save_total_limit": 1,
            "metric_for_best_model": "eval_loss",
        }  # fmt: skip
        trainer = trainer_of(tmp_path, guards, **told)
        trainer.train()
        losses = {e["step"]: e["eval_loss"] for e in trainer.state.log_history if "eval_loss" in e}
        best = min(losses, key=losses.__getitem__)
        assert trainer.state.global_step == best + 8
        assert trainer.state.best_model_checkpoint.endswith(f"checkpoint-{best}")
        assert trainer.evaluate()["eval_loss"] == pytest.approx(losses[best], abs=1e-6)


class TestSamples:
    """Completions drawn while training."""

    @staticmethod
    def draw(texts: Sequence[str]) -> Guards:
        return Guards(Limits(sample_steps=2, marker_warmup=1), sampler=lambda _: texts)

    def test_a_marker_in_every_sample_is_an_alarm_after_the_warm_up(self, tmp_path: Path) -> None:
        """Not at the first round; then each time."""
        guards = self.draw(["<think> yes", "so <think>", "<think></think> 4"])
        trainer_of(tmp_path, guards, max_steps=6).train()
        assert [(a.kind, a.step) for a in guards.alarms] == [("marker", 4), ("marker", 6)]
        assert "all 3 samples carry" in guards.alarms[0].what
        assert guards.samples == {"marker_rate": 1.0, "empty_rate": 0.0}

    def test_markers_in_some_samples_are_only_counted(self, tmp_path: Path) -> None:
        """A rate below one may be right for the data."""
        guards = self.draw(["<think> yes", "no", "perhaps"])
        trainer_of(tmp_path, guards, max_steps=6).train()
        assert guards.alarms == []
        assert guards.samples["marker_rate"] == pytest.approx(1 / 3)

    def test_empty_samples_are_an_alarm(self, tmp_path: Path) -> None:
        """Half of them."""
        guards = self.draw(["", " \n", "yes", "no"])
        trainer_of(tmp_path, guards, max_steps=2).train()
        assert kinds(guards) == ["empty"]

    def test_no_samples_are_no_alarm(self) -> None:
        """Total over nothing."""
        assert Guards().judge([], 1) == {"marker_rate": 0.0, "empty_rate": 0.0}

    def test_drawing_changes_nothing_of_the_training(self, tmp_path: Path) -> None:
        """The same weights bit for bit with dropout, as without; the model is in training mode again."""
        nets = []
        for each in (None, sampler(byte_level(), DATA, 3, 5)):
            net = model(attention_dropout=0.3)
            torch.manual_seed(0)
            trainer_of(tmp_path, Guards(Limits(sample_steps=1), sampler=each), net=net).train()
            assert net.training
            nets.append(net)
        assert all(torch.equal(a, b) for a, b in zip(*(n.parameters() for n in nets), strict=True))

    def test_prompts_end_where_supervision_begins(self) -> None:
        """Of a fully supervised row a quarter is the prompt; what is drawn ends before EOS, batched as alone."""
        assert byte_level().decode(prompt_of(DATA[3])) == "what is 3?"
        assert len(prompt_of({"input_ids": [5] * 8, "labels": [5] * 8})) == 2
        net, end = model(), byte_level().eos_token_id
        together = sampler(byte_level(), DATA, 4, 6)(net)
        alone = [sampler(byte_level(), [r], 1, 6)(net)[0] for r in DATA[:4]]
        assert together == alone
        net.lm_head.weight.data[:] = 0
        net.lm_head.weight.data[end] = 1
        net.model.norm.weight.data[:] = 1
        torch.nn.init.ones_(net.get_input_embeddings().weight)
        assert sampler(byte_level(), DATA, 2, 6)(net) == ["", ""]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("rate", [1e-4, 5e-3])
def test_healthy_runs_are_silent(
    tmp_path: Path, seed: int, rate: float, caplog: pytest.LogCaptureFixture
) -> None:
    """Slow and quick learning, with the guards as they come but for shorter windows."""
    guards = Guards(Limits(trend_steps=40, window=10), sampler=sampler(byte_level(), DATA, 2, 4))
    caplog.set_level(logging.WARNING, "llmguard_core")
    trainer_of(tmp_path, guards, net=model(seed), max_steps=120, learning_rate=rate, logging_steps=10).train()
    assert guards.alarms == []


def test_learning_by_heart_is_no_divergence(tmp_path: Path) -> None:
    """A loss near nought that flutters."""
    guards = Guards(Limits(window=5, trend_steps=50))
    trainer_of(tmp_path, guards, data=DATA[:4], max_steps=150, learning_rate=1e-2).train()
    assert guards.alarms == []


@fault("I14")
def test_overflows_of_half_precision_are_the_scalers_business(tmp_path: Path) -> None:
    """With fp16 a gradient that overflows skips a step; only many of them one after another stop the run."""
    guards = Guards(Limits(overflows=3))
    net = model()
    for p in net.parameters():
        p.grad = torch.full_like(p, math.inf)
    args = TrainingArguments(str(tmp_path), use_cpu=True, report_to="none")
    args.fp16 = True
    state = type("State", (), {"global_step": 0})()
    guards.on_pre_optimizer_step(args, state, None, model=net)
    guards.on_pre_optimizer_step(args, state, None, model=net)
    with pytest.raises(TrainingStopped, match="a gradient is inf"):
        guards.on_pre_optimizer_step(args, state, None, model=net)


def test_hooks_are_taken_off_the_model(tmp_path: Path) -> None:
    """After a run, and before the next on the same model."""
    guards, net = Guards(), model()
    trainer = trainer_of(tmp_path, guards, net=net)
    trainer.train()
    assert not net._forward_hooks
    assert not net._forward_pre_hooks
    trainer.train()
    assert guards.alarms == []


class TestTrend:
    """The test behind plateau and memory."""

    def test_it_agrees_with_scipys_kendall(self) -> None:
        """Tau and p of a rising, a falling and a flat series; with ties tau-a is reported."""
        stats = pytest.importorskip("scipy.stats")
        draw = np.random.default_rng(1)
        for slope in (-0.05, 0.0, 0.05):
            values = slope * np.arange(60) + draw.normal(size=60)
            tau, p = stats.kendalltau(np.arange(60), values, method="asymptotic", alternative="less")
            found = trend(values)
            assert found.tau == pytest.approx(tau)
            assert found.p_falls == pytest.approx(p, abs=0.005)  # scipy makes no continuity correction
            assert found.p_falls + found.p_rises == pytest.approx(1.0, abs=0.02)

    def test_its_false_alarms_are_as_rare_as_it_says(self) -> None:
        """Of 400 series of noise about one in twenty falls at 5 %."""
        draw = np.random.default_rng(2)
        rate = np.mean([trend(draw.normal(size=50)).p_falls < 0.05 for _ in range(400)])
        assert 0.02 < rate < 0.08

    def test_short_constant_and_long_series_are_answered(self) -> None:
        """No division by nought; long ones in 200 blocks."""
        assert trend([1.0, 2.0]).p_rises == 1.0
        assert trend([3.0] * 50).p_falls >= 0.5
        assert trend(np.arange(5000.0)).points == 200
        assert trend(np.arange(5000.0)).p_rises < 1e-9
