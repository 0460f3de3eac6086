"""Each guard seen to speak on a real Trainer, and all of them silent on healthy runs."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.guarded import DATA, kinds, trainer_of
from support.matrix import fault
from support.runs import model
from support.tiny import byte_level
from transformers import TrainerCallback, TrainingArguments

from llmguard_core.errors import TrainingStopped
from llmguard_core.training import Guards, Limits
from llmguard_core.training.samples import prompt_of, sampler
from llmguard_core.training.trends import trend


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


class TestSamples:
    """Completions drawn while training."""

    @staticmethod
    def draw(texts: Sequence[str]) -> Guards:
        return Guards(Limits(sample_steps=2, marker_warmup=1), sampler=lambda _: texts)

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
