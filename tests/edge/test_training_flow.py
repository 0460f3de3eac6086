"""Edge cases 61 to 70: steps that cannot be, losses that are no numbers or do not fall, outputs without answers, runs that stand still."""

from __future__ import annotations

import json
import logging
import math
import shutil
import signal
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from support.hanging import processes, report_in
from support.importing import imported
from support.matrix import fault

torch = imported("torch")
imported("transformers")
from support.guarded import DATA, finite, from_step, kinds, trainer_of  # noqa: E402  # after the skips above
from support.runs import IGNORED, model, rows, run  # noqa: E402  # likewise
from support.small_runs import trainer_of as verified  # noqa: E402  # likewise
from support.tiny import byte_level  # noqa: E402  # likewise
from transformers import Trainer, TrainerCallback  # noqa: E402  # likewise
from transformers.trainer_callback import TrainerState  # noqa: E402  # likewise

from llmguard_core.config import TrainSettings, steps_of  # noqa: E402  # likewise
from llmguard_core.errors import DataRefused, TrainingStopped  # noqa: E402  # likewise
from llmguard_core.metrics import judge, summary  # noqa: E402  # likewise
from llmguard_core.training import Guards, Limits  # noqa: E402  # likewise

# peft still asks transformers 5 for the old name
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


@pytest.fixture(autouse=True)
def _no_png(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than such a run."""
    monkeypatch.setattr("llmguard_core.training.run.png", lambda records, path: None)


def losses(trainer: Any, name: str = "loss") -> dict[int, float]:
    """What was logged, by step."""
    return {entry["step"]: entry[name] for entry in trainer.state.log_history if name in entry}


# 61


def test_edge_61_a_run_without_a_step_is_an_error_with_the_arithmetic(project: Any) -> None:
    """Rows that do not fill a step and are dropped, and no epochs at all; a run of a thousand rows is right."""
    loader = torch.utils.data.DataLoader(range(3), batch_size=8, drop_last=True)
    assert list(loader) == [], "a step is made"
    project.rows("train.jsonl", 3)
    project.project(data='train = "train.jsonl"')
    batch = "per_device_train_batch_size: 8\ngradient_accumulation_steps: 4\n"
    project.write("train.yaml", f"{batch}num_train_epochs: 1\ndataloader_drop_last: true\n")
    told = project.told("rows_fill_an_optimizer_step")
    assert "3 rows (train.jsonl)" in told.message
    assert "8 per device x 4 accumulated = 32 on one device; the whole run has 0 steps" in told.message
    project.write("train.yaml", f"{batch}num_train_epochs: 0\n")
    assert "`num_train_epochs`: it is 0" in project.told("every_config_value_is_in_range").message
    project.rows("train.jsonl", 1000)
    project.write("train.yaml", f"{batch}num_train_epochs: 3\n")
    assert project.findings("rows_fill_an_optimizer_step", "every_config_value_is_in_range") == []


@pytest.mark.parametrize(
    ("rows", "world", "says"),
    [
        (31, 1, "31 rows make 0 whole optimizer steps: 8 rows a batch x 4 accumulated = 32"),
        (63, 2, "x 2 devices = 64"),
        (0, 1, "name files"),
    ],
)  # fmt: skip
def test_edge_61_the_core_refuses_with_the_arithmetic(rows: int, world: int, says: str) -> None:
    """By the rows of all devices together."""
    assert rows // (8 * 4 * world) == 0
    with pytest.raises(DataRefused, match=says):
        steps_of(TrainSettings(batch_size=8, accumulation=4), rows, world)


def test_edge_61_a_run_that_can_make_no_step_leaves_nothing_behind(tmp_path: Path) -> None:
    """No rows, or fewer than one step takes: not even a folder is made."""
    with pytest.raises(
        DataRefused, match=r"3 rows make 0 whole optimizer steps.*8 rows a batch x 4 accumulated = 32"
    ):
        run(tmp_path, data=rows(3), batch_size=8, accumulation=4)
    with pytest.raises(DataRefused, match="0 rows"):
        run(tmp_path, data=[])
    assert not list(tmp_path.iterdir())


# 62


@pytest.mark.parametrize("step", [-3, "three", None])
def test_edge_62_a_state_with_an_impossible_step_is_never_trained_on_from(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, step: Any
) -> None:
    """A checkpoint without a manifest, as transformers writes, whose step is damaged: it is passed over, and the log says why."""
    run(tmp_path, save_steps=3)
    (tmp_path / "checkpoint-3" / "manifest.json").unlink()
    file = tmp_path / "checkpoint-3" / "trainer_state.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "global_step": step}))
    assert TrainerState.load_from_json(str(file)).global_step == step, "transformers itself refuses it"
    _, result = run(tmp_path, save_steps=3)
    assert (result.steps, result.already_trained) == (3, False)
    assert "checkpoint-3" in caplog.text
    assert "global_step" in caplog.text


# 63


def test_edge_63_a_run_that_has_its_steps_touches_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Fewer steps asked for than there are: transformers trains one more, and writes it over what was there."""
    out, other = tmp_path / "out", tmp_path / "other"
    verified(out, steps=5).train()
    shutil.copytree(out, other)
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    plain = verified(other, steps=4, kind=Trainer)
    plain.train(resume_from_checkpoint=str(other / "checkpoint-5"))
    assert plain.state.global_step > 5, "transformers alone trains no step too many"
    with caplog.at_level(logging.INFO):
        done = verified(out, steps=4).train(resume_from_checkpoint=True)
    assert done.global_step == 5
    assert "already trained: 5 steps are done, 4 are asked for" in caplog.text
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before


def test_edge_63_a_run_of_the_core_is_already_trained(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It says so, and touches neither file nor weight; with more steps asked for it goes on."""
    run(tmp_path, save_steps=3)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    caplog.set_level(logging.INFO)
    net, result = run(tmp_path, seed=1, save_steps=3)
    assert result.already_trained
    assert (result.steps, result.final) == (3, tmp_path / "final")
    assert "already trained: 3 of 3 steps" in caplog.text
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before
    pairs = zip(net.parameters(), model(1).parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    _, more = run(tmp_path, seed=1, save_steps=3, max_steps=5)
    assert (more.steps, more.already_trained) == (5, False)


# 64 and 65


def unguarded(folder: Path, to: Any) -> Any:
    """What transformers alone makes of such a loss: a run that ends well."""
    trainer = trainer_of(folder, Guards(), change=from_step(0, to), logging_nan_inf_filter=True)
    trainer.remove_callback(Guards)
    trainer.train()
    return trainer


def stops_at_once(folder: Path, kind: str, to: Any, accumulation: int) -> None:
    """Within the optimizer step, with every weight as it was, although transformers would log 0.0; the batch is on disk."""
    guards = Guards()
    told: dict[str, Any] = {
        "gradient_accumulation_steps": accumulation,
        "logging_nan_inf_filter": True,
        "logging_steps": 100,
    }
    trainer = trainer_of(folder, guards, change=from_step(2, to), **told)
    with pytest.raises(TrainingStopped, match=r"the log would have shown it as 0\.0") as caught:
        trainer.train()
    assert (trainer.state.global_step, caught.value.step) == (2, 3)
    assert finite(trainer.model)
    assert kinds(guards) == [kind]
    assert guards.alarms[0].stops
    (file,) = folder.glob("stopped-at-step-*.json")
    assert {"row", "input_ids", "labels"} <= json.loads(file.read_text("utf-8"))["rows"][0].keys()


def test_edge_64_transformers_alone_shows_such_a_run_as_a_loss_of_nought(tmp_path: Path) -> None:
    """The fault fires: without the guard the run ends well, its logged loss is 0.0, and its weights are NaN."""
    trainer = unguarded(tmp_path, lambda loss: loss * math.nan)
    assert losses(trainer) == {1: 0.0, 2: 0.0, 3: 0.0, 4: 0.0}
    assert not finite(trainer.model)


@pytest.mark.parametrize("accumulation", [1, 3])
@fault("I1", "I4")
def test_edge_64_a_loss_that_is_no_number_stops_before_the_weights_change(
    tmp_path: Path, accumulation: int
) -> None:
    """Also in one micro-batch of an accumulation."""
    stops_at_once(tmp_path, "nan", lambda loss: loss * math.nan, accumulation)


@fault("I5", "I10")
def test_edge_64_a_nan_that_a_trainer_makes_itself_is_seen_in_the_gradients(tmp_path: Path) -> None:
    """In the same step, too, whatever is logged when."""
    guards = Guards()
    trainer = trainer_of(
        tmp_path, guards, outside=from_step(2, lambda loss: loss * math.nan), logging_steps=100
    )
    with pytest.raises(TrainingStopped, match="a gradient is nan"):
        trainer.train()
    assert trainer.state.global_step == 2
    assert finite(trainer.model)


def test_edge_64_the_batch_is_written_with_rows_ids_labels_and_text(tmp_path: Path) -> None:
    """The rows are found in the data again, padding aside; the label of the row that did it can be read."""
    tokenizer, bad = byte_level(), 9
    net = model()
    poison = tokenizer("what is 9?")["input_ids"]

    def called(module: Any, args: Any, output: Any) -> Any:
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


def test_edge_64_a_disk_that_is_full_hides_nothing(tmp_path: Path) -> None:
    """The run stops with the same reason when the batch cannot be written."""
    guards = Guards()
    trainer = trainer_of(tmp_path, guards, change=from_step(1, lambda loss: loss * math.nan))
    trainer.args.output_dir = "/proc/nowhere"
    with pytest.raises(TrainingStopped, match="the loss is nan") as caught:
        trainer.train()
    assert "not written" in str(caught.value)


@fault("I11")
def test_edge_64_weights_that_are_nan_are_never_saved(tmp_path: Path) -> None:
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
    assert not finite(trainer.model), "the weights were not poisoned"
    assert sorted(p.name for p in tmp_path.glob("checkpoint-*")) == ["checkpoint-1", "checkpoint-2"]


@pytest.mark.parametrize(
    "to", [lambda loss: loss + math.inf, lambda loss: loss - math.inf], ids=["inf", "minus inf"]
)
@pytest.mark.parametrize("accumulation", [1, 3])
@fault("I2", "I3")
def test_edge_65_an_infinite_loss_stops_before_the_weights_change(
    tmp_path: Path, to: Any, accumulation: int
) -> None:
    """Of either sign; transformers alone logs 0.0 and goes on to the end."""
    if accumulation == 1:
        assert set(losses(unguarded(tmp_path / "alone", to)).values()) == {0.0}
    stops_at_once(tmp_path, "inf", to, accumulation)


def test_edge_65_an_infinite_loss_with_finite_gradients_stops_with_its_log_line(tmp_path: Path) -> None:
    """A logit of minus infinity at a label: the gradient looks well, the loss is infinite; nothing in the weights tells."""

    class Bounded(torch.autograd.Function):  # type: ignore[misc,name-defined]  # torch is imported where it is installed
        @staticmethod
        def forward(ctx: Any, loss: Any) -> Any:
            return loss + math.inf

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            return torch.ones_like(grads[0])

    guards = Guards()
    trainer = trainer_of(
        tmp_path, guards, outside=from_step(1, Bounded.apply), save_strategy="steps", save_steps=1
    )
    with pytest.raises(TrainingStopped, match="logged loss is inf"):
        trainer.train()
    assert trainer.state.global_step == 2


# 66


@fault("I8")
def test_edge_66_a_loss_that_does_not_fall_is_an_alarm_with_its_test(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A learning rate that trains nothing: tau and p are told, at step 40, once; the same run at a usual rate is silent."""
    flat, well = Guards(Limits(trend_steps=40, window=5)), Guards(Limits(trend_steps=40, window=5))
    trainer = trainer_of(tmp_path, flat, learning_rate=1e-9, max_steps=60)
    trainer.train()
    logged = [*losses(trainer).values()]
    assert sum(logged[-20:]) > 0.97 * sum(logged[:20]), "the loss falls"
    assert kinds(flat) == ["plateau"]
    assert flat.alarms[0].step == 40
    assert flat.alarms[0].numbers["p"] > 0.05
    assert "Mann-Kendall tau" in caplog.text
    trainer_of(tmp_path, well, learning_rate=1e-3, max_steps=60).train()
    assert well.alarms == []


# 67


def contrary() -> list[Any]:
    """A validation split whose labels contradict the training data: its loss rises while the model learns."""
    other = byte_level()(" garden")["input_ids"][0]
    return [{**r, "labels": [t if t == IGNORED else other for t in r["labels"]]} for r in DATA[:4]]


def test_edge_67_a_validation_loss_that_rises_is_an_alarm(tmp_path: Path) -> None:
    """At the second evaluation that is no better; the run goes on."""
    guards = Guards()
    told: dict[str, Any] = {
        "validation": contrary(),
        "eval_strategy": "steps",
        "eval_steps": 4,
        "max_steps": 24,
        "learning_rate": 5e-3,
    }
    trainer = trainer_of(tmp_path, guards, **told)
    trainer.train()
    evaluated = [*losses(trainer, "eval_loss").values()]
    assert evaluated[-1] > min(evaluated), "the validation loss does not rise"
    assert trainer.state.global_step == 24
    assert kinds(guards) == ["validation"]
    assert not guards.alarms[0].stops


def test_edge_67_it_ends_the_run_where_patience_says_so_and_the_best_is_kept(tmp_path: Path) -> None:
    """After two evaluations without a better one; the best checkpoint's weights are the model's in the end."""
    guards = Guards(Limits(patience=2))
    told: dict[str, Any] = {
        "validation": contrary(), "eval_strategy": "steps", "eval_steps": 4, "max_steps": 80, "learning_rate": 5e-3,
        "save_strategy": "steps", "save_steps": 4, "load_best_model_at_end": True, "save_total_limit": 1,
        "metric_for_best_model": "eval_loss",
    }  # fmt: skip
    trainer = trainer_of(tmp_path, guards, **told)
    trainer.train()
    found = losses(trainer, "eval_loss")
    best = min(found, key=found.__getitem__)
    assert trainer.state.global_step == best + 8
    assert trainer.state.best_model_checkpoint.endswith(f"checkpoint-{best}")
    assert trainer.evaluate()["eval_loss"] == pytest.approx(found[best], abs=1e-6)


# 68


def test_edge_68_a_marker_in_every_sample_is_an_alarm_after_the_warm_up(tmp_path: Path) -> None:
    """Its rate is known at each round; not at the first, then each time it is an alarm."""
    texts = ["<think> yes", "so <think>", "<think></think> 4"]
    assert all("<think>" in text for text in texts)
    guards = Guards(Limits(sample_steps=2, marker_warmup=1), sampler=lambda _: texts)
    trainer_of(tmp_path, guards, max_steps=6).train()
    assert [(a.kind, a.step) for a in guards.alarms] == [("marker", 4), ("marker", 6)]
    assert "all 3 samples carry" in guards.alarms[0].what
    assert guards.samples == {"marker_rate": 1.0, "empty_rate": 0.0}


# 69

OUTPUTS = {
    "empty": ["", " ", "\n", "", "", "", "", ""],
    "unparseable": ["no idea"] * 8,
    "wrong": ["41"] * 8,
}
"""Three models that are never right, each for a reason of its own."""


@pytest.mark.parametrize("model", OUTPUTS)
def test_edge_69_empty_and_unparseable_outputs_are_told_apart_from_wrong_ones(
    project: Any, model: str
) -> None:
    """The accuracy of all three is 0; only the one that answers wrongly has been measured, and is no error."""
    judged = [judge(output, "42", "gsm8k") for output in OUTPUTS[model]]
    assert sum(j.score for j in judged) == 0.0, "one of them is right"
    lines = [
        {"id": i, "score": j.score, "output": o, "status": j.status}
        for i, (o, j) in enumerate(zip(OUTPUTS[model], judged, strict=True))
    ]
    project.write("results.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    project.project(config="", evaluation='results = { tuned = "results.jsonl" }')
    told = project.told("accuracy_is_not_from_empty_outputs", "warning" if model == "wrong" else "error")
    counts = {"right": 0, "wrong": 0, "empty": 0, "unparseable": 0, model: 8}
    assert "of 8 items " + ", ".join(f"{n} {name}" for name, n in counts.items()) in told.message


def test_edge_69_a_summary_counts_empty_and_unparseable_apart() -> None:
    """In the core's own evaluation: zero right says why."""
    outputs = ["", " ", "no idea", "41", "42"]
    judged = [judge(o, "42", "gsm8k") for o in outputs]
    told = summary({"status": j.status, "score": j.score} for j in judged)
    assert {k: told[k] for k in ("items", "right", "wrong", "empty", "unparseable")} == {
        "items": 5, "right": 1, "wrong": 1, "empty": 2, "unparseable": 1,
    }  # fmt: skip
    assert told["score"] == pytest.approx(0.2)
    assert told["interval"] == pytest.approx([0.00505, 0.71642], abs=1e-4)


# 70

HANGS = {
    "hold_the_gil_for_ever": "waits without computing",
    "wait_without_the_gil": "waits without computing",
    "spin": "computes without getting on",
}
"""Ways to stand still, and how each is told."""


@fault("K2", "K3", "K4")
def test_edge_70_a_run_that_stands_still_is_reported_with_all_stacks_and_ended(tmp_path: Path) -> None:
    """Within seconds, the GIL held or not: the line of each Python thread, then SIGTERM and SIGKILL. Three runs at once."""
    began = time.monotonic()
    with ExitStack() as ended:
        standing = {}
        for hang in HANGS:
            folder = tmp_path / hang
            folder.mkdir()
            standing[hang] = ended.enter_context(processes(folder))(f"{hang}()")
            assert standing[hang].poll() is None, "it has ended instead of standing still"
        for hang, says in HANGS.items():
            report = report_in(tmp_path / hang)
            assert time.monotonic() - began < 25
            assert report["verdict"] == "stalled"
            assert (report["step"], report["phase"]) == (7, "a training step")
            assert report["diagnosis"].startswith(says)
            assert hang in report["stacks"]
            assert "another_thread" in report["stacks"]
            assert report["threads"]
        for hang, process in standing.items():
            assert process.wait(30) in (-signal.SIGTERM, -signal.SIGKILL)
            assert json.loads((tmp_path / hang / "hang-report.json").read_text())["ended"]
