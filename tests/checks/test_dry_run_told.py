"""What the five checks of a dry run make of its record: each record has the form that the child writes, and no child is started."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest

from llmguard.checks.dry_run import dry_run_can_resume, trainer_survives_a_dry_run
from llmguard.checks.dry_run_learning import (
    dry_run_loss_is_finite,
    one_batch_can_be_overfitted,
    trained_parameters_change,
)
from llmguard.errors import EvidenceError, MissingEvidence
from llmguard.findings import Finding, Findings

Found = dict[str, Any]
FIRST, SECOND = 5.9554, 5.8707
TENSORS = ["model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight"]
LOGS = [
    {"step": 1, "loss": FIRST, "grad_norm": 2.9474, "learning_rate": 1e-3, "epoch": 0.5},
    {"step": 2, "loss": SECOND, "grad_norm": 2.9069, "learning_rate": 8.75e-4, "epoch": 1.0},
    {"step": 2, "train_runtime": 0.02, "train_loss": 5.9131, "epoch": 1.0},
]
SOUND: Found = {
    "stages": dict.fromkeys(("build", "collate", "train", "resume", "evaluate", "generate", "overfit"), 0.02),
    "failed": [],
    "notes": {},
    "trainer": "Trainer",
    "model": "LlamaForCausalLM",
    "train": {
        "began": 0, "ended": 2, "losses": [FIRST, SECOND], "steps": [1, 2], "logs": LOGS, "rates": [1e-3, 8.75e-4],
    },
    "parameters": {"tensors": 21, "trainable": 21, "held": 21, "others_held": 0, "has_optimizer": 1},
    "changes": {"compared": 21, "unchanged": 0, "names": []},
    "resume": {"began": 1, "ended": 2, "losses": [SECOND], "steps": [2], "logs": LOGS[1:], "rates": [8.75e-4]},
    "evaluation": {"eval_loss": 5.7923, "eval_runtime": 0.01, "epoch": 1.0},
    "overfit": [5.7532, 5.3761, 4.7843, 4.4757, 3.8903, 3.4586, 3.0494, 2.6954],
}  # fmt: skip
"""Of a small Llama under a plain Trainer."""
KEY = {
    "what": "[pipeline] trainer = 'train:build'", "type": "KeyError", "message": "'weight'", "file": "train.py", "line": 125,
    "code": 'weights = [row.pop("weight") for row in batch]', "function": "collate", "stage": "collate",
    "raised_in": "train.py:125 in collate", "key": "weight", "keys": ["input_ids", "labels"], "row": 17,
}  # fmt: skip
HUNG = {
    "verdict": "HUNG",
    "message": "no step for 20 s",
    "stack": "File train.py, line 9",
    "own": {"file": "train.py", "line": 9, "function": "on_step_end"},
}
CHECKS = (
    trainer_survives_a_dry_run,
    dry_run_loss_is_finite,
    dry_run_can_resume,
    one_batch_can_be_overfitted,
    trained_parameters_change,
)


def record(*without: str, **changes: Any) -> Found:
    """The sound record with some parts changed: a mapping changes the part's entries, anything else takes its place."""
    made = copy.deepcopy(SOUND)
    for name, value in changes.items():
        made[name] = {**made.get(name, {}), **value} if isinstance(value, dict) else value
    return {name: part for name, part in made.items() if name not in without}


def failing(stage: str, **more: Any) -> list[Found]:
    """An exception of a stage."""
    return [{**KEY, "stage": stage, "key": None, "row": None, **more}]


def logged(*entries: tuple[float | str, float | str | None]) -> list[Found]:
    """The log of steps by loss and gradient norm, and the summary that ends it."""
    steps = [
        {"step": number, "loss": loss, **({} if norm is None else {"grad_norm": norm})}
        for number, (loss, norm) in enumerate(entries, 1)
    ]
    return [*steps, LOGS[2]]


def trained(losses: list[float | str], logs: list[Found], **more: Any) -> Found:
    """A run of so many micro-batches, one a step."""
    return record(train={"losses": losses, "logs": logs, "steps": list(range(1, len(losses) + 1))}, **more)


def one(findings: Findings, severity: str, *words: str) -> Finding:
    """The one finding, of this severity and with these words."""
    assert [f.severity.value for f in findings] == [severity], [f.message for f in findings]
    for word in words:
        assert word in findings[0].message, findings[0].message
    return findings[0]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_a_sound_run_passes_each_check(check: Any) -> None:
    """No finding, and something was looked at: stages, micro-batches, the resumed run, repetitions, tensors."""
    found = check(record())
    assert list(found) == []
    assert found.looked_at == dict(zip(CHECKS, (7, 2, 1, 8, 21), strict=True))[check]


# -- trainer_survives_a_dry_run


def test_a_failure_is_told_with_row_key_and_line() -> None:
    """Who reads it finds the line, the row of the data and what the row has instead."""
    found = trainer_survives_a_dry_run(record(failed=[KEY], stages={"build": 0.1}))
    told = one(
        found,
        "error",
        "while batches were made: KeyError",
        "row 17 has no key 'weight'",
        "it has input_ids, labels",
    )
    assert (told.where.file, told.where.line, told.where.row) == ("train.py", 125, 17)
    assert "remove_unused_columns" in told.remedy
    assert told.evidence["error"]["key"] == "weight"
    assert found.looked_at == 8


def test_every_failure_is_told_and_no_other_fault_is_made_of_them() -> None:
    """Two stages failed, the first of them before any step: that no step was made needs no words of its own."""
    failed = [*failing("train"), *failing("evaluate")]
    found = trainer_survives_a_dry_run(record(failed=failed, train={"ended": -1}))
    assert [f.where.what for f in found] == ["dry run, stage 'train'", "dry run, stage 'evaluate'"]


def test_a_process_that_hung_is_told_with_the_users_line() -> None:
    """Also where the first step never ended: one error, not a second one about steps."""
    found = trainer_survives_a_dry_run(record(ended=HUNG, stage="train", train={"ended": -1}))
    told = one(
        found, "error", "in the first two steps", "at train.py:9 in on_step_end()", "no step for 20 s (HUNG)"
    )
    assert (told.where.file, told.where.line, told.actual) == ("train.py", 9, "HUNG")
    assert found.looked_at == 8
    nowhere = {**HUNG, "own": {}}
    told = one(
        trainer_survives_a_dry_run(record(ended=nowhere, stage="save")),
        "error",
        "a checkpoint was saved",
    )
    assert told.where.file is None


def test_a_run_without_a_step_is_an_error() -> None:
    """train() came back at once; one whose train() was never reached is not accused."""
    found = trainer_survives_a_dry_run(record(train={"ended": -1, "losses": [], "steps": []}))
    one(found, "error", "without a single optimizer step", "num_train_epochs = 0")
    assert not trainer_survives_a_dry_run(record("train"))


def test_what_was_given_in_place_of_the_users_settings_is_a_note() -> None:
    """In order, and no failure."""
    found = trainer_survives_a_dry_run(record(notes={"layers": "2 of 22", "bf16": "off"}))
    one(found, "note", "differs from the run itself: bf16: off; layers: 2 of 22")


# -- dry_run_loss_is_finite


def test_a_loss_that_is_no_number_is_an_error_whatever_the_log_shows() -> None:
    """NaN behind a logged 0.0 is called so; an infinite loss that is logged as it is hides nothing."""
    found = dry_run_loss_is_finite(trained(["nan", "nan"], logged((0.0, "nan"), (0.0, "nan"))))
    one(found, "error", "2 of 2 micro-batches", "have the loss nan; the log shows loss 0.0 for it")
    assert found.looked_at == 2
    found = dry_run_loss_is_finite(trained([FIRST, "inf"], logged((FIRST, 2.9), ("inf", 2.9))))
    told = one(found, "error", "1 of 2 micro-batches", "have the loss inf")
    assert "the log shows" not in told.message
    assert told.evidence["losses"] == [FIRST, "inf"]


def test_a_gradient_that_is_no_number_is_told_before_the_loss_that_it_spoils() -> None:
    """The loss of the first step is fine and its gradient is not: the NaN of the second step follows from it."""
    found = dry_run_loss_is_finite(trained([FIRST, "nan"], logged((FIRST, "nan"), (0.0, "nan"))))
    one(found, "error", "the gradient norm is nan although the loss is 5.955", "set_detect_anomaly")


def test_losses_of_exactly_nought_are_an_error_only_without_gradients() -> None:
    """A policy's first loss is 0 with gradients that are not; a run that logs no norms is judged by its losses."""
    nothing = trained([0.0, 0.0], logged((0.0, 0.0), (0.0, 0.0)))
    one(dry_run_loss_is_finite(nothing), "error", "the loss of all 2 micro-batches is exactly 0")
    assert not dry_run_loss_is_finite(trained([0.0, 0.0], logged((0.0, 0.7), (0.0, 0.6))))
    assert not dry_run_loss_is_finite(trained([0.0, SECOND], logged((0.0, 0.0), (SECOND, 0.0))))
    one(dry_run_loss_is_finite(trained([0.0], logged((0.0, None)))), "error", "exactly 0")
    assert not dry_run_loss_is_finite(trained([FIRST], logged((FIRST, None))))


def test_an_evaluation_loss_that_is_no_number_is_told_once() -> None:
    """Beside sound training losses only; metrics without a loss, and no evaluation at all, are nobody's fault."""
    found = dry_run_loss_is_finite(record(evaluation={"eval_loss": "nan"}))
    told = one(found, "error", "the evaluation loss is nan although the training losses are finite")
    assert told.where.what == "dry run, stage 'evaluate'"
    both = trained(["nan"], logged((0.0, "nan")), evaluation={"eval_loss": "nan"})
    one(dry_run_loss_is_finite(both), "error", "have the loss nan")
    assert not dry_run_loss_is_finite({**record(), "evaluation": {"eval_accuracy": 0.5}})
    assert not dry_run_loss_is_finite(record("evaluation"))


# -- dry_run_can_resume


def resumed(*losses: float | str, began: int = 1) -> Findings:
    """The check on a run that was resumed and had these losses."""
    return dry_run_can_resume(record(resume={"began": began, "losses": list(losses)}))


def test_a_checkpoint_that_does_not_load_is_an_error() -> None:
    """With the user's line; an evaluation that failed has nothing to do with it."""
    found = dry_run_can_resume(record(failed=failing("resume", message="'rng'"), resume={"began": 1}))
    told = one(found, "error", "while it was resumed from its own checkpoint: KeyError: 'rng'")
    assert (told.where.file, found.looked_at) == ("train.py", 1)
    assert not dry_run_can_resume(record(failed=failing("evaluate")))


@pytest.mark.parametrize("began", [0, -1])
def test_a_run_that_begins_anew_is_an_error(began: int) -> None:
    """Whatever its losses are; a run that never began is at step 0 too."""
    one(resumed(SECOND, began=began), "error", "from the checkpoint of step 1, the run began at step 0")


def test_other_losses_after_resuming_are_a_warning() -> None:
    """From one thousandth on: threads may add in another order, and one batch more or less is no rounding."""
    told = one(resumed(5.7068), "warning", "5.8707 in the run itself, and 5.7068 after it was resumed")
    assert (told.expected, told.actual) == ("5.8707", "5.7068")
    one(resumed(SECOND * 1.002), "warning", "the run itself")
    one(resumed(SECOND, SECOND), "warning", "5.8707 in the run itself, and 5.8707, 5.8707 after")
    one(resumed("nan"), "warning", "and nan after it was resumed")
    assert not resumed(SECOND * 1.0005)


def test_losses_that_are_nan_in_both_runs_are_the_same() -> None:
    """That they are NaN is told by another check."""
    train = {"losses": [FIRST, "nan"]}
    assert not dry_run_can_resume(record(train=train, resume={"losses": ["nan"]}))


@pytest.mark.parametrize("why", ["resume", "time"])
def test_who_is_not_resumed_for_a_reason_is_skipped_with_it(why: str) -> None:
    """save_only_model, or no time left: nothing failed. Without a reason another check tells it."""
    with pytest.raises(MissingEvidence, match="save_only_model is set"):
        dry_run_can_resume(record("resume", notes={why: "not tried: save_only_model is set"}))
    with pytest.raises(EvidenceError, match="trainer_survives_a_dry_run"):
        dry_run_can_resume(record("resume"))


# -- one_batch_can_be_overfitted


def repeated(*losses: float | str, **more: Any) -> Findings:
    """The check on the losses of one batch."""
    return one_batch_can_be_overfitted(record(overfit=list(losses), **more))


def test_a_loss_that_does_not_fall_is_a_warning() -> None:
    """One that stays, and one that rises because its sign is wrong."""
    told = one(repeated(*[5.7532] * 8), "warning", "went from 5.7532 to 5.7532 in 8 steps")
    assert (told.expected, told.actual) == ("below 5.6957", "5.7532")
    found = repeated(-5.0, -4.0, -3.0)
    one(found, "warning", "went from -5 to -4 in 3 steps")
    assert found.looked_at == 3


def test_a_fall_of_one_hundredth_is_clear() -> None:
    """Of the loss, and of a tenth where the loss is small; a loss below zero that goes on falling is learnt as well."""
    assert not repeated(100.0, 99.5, 99.0)
    assert not repeated(100.0, 98.0, 98.5)
    assert not repeated(-0.5, -0.6, -0.7)
    assert not repeated(0.05, 0.04, 0.03)
    assert repeated(100.0, 99.5, 99.1)
    assert repeated(0.05, 0.0495, 0.0495)


def test_too_little_to_judge_is_not_judged() -> None:
    """Two repetitions, losses that are no numbers, a loss of nought, a trainer that learns from what it generates."""
    for losses in ((5.0, 5.0), ("nan",) * 8, (5.0, math.inf, 5.0), (0.0,) * 8, (9e-7,) * 8):
        found = repeated(*losses)
        assert (list(found), found.looked_at) == ([], 0)
    assert one_batch_can_be_overfitted(record("overfit")).looked_at == 0
    assert repeated(*[1e-6] * 3)
    assert repeated(*[2e-6] * 3)


def test_one_batch_is_judged_although_something_else_failed() -> None:
    """Where the run ended before it, the check that tells the failure is named."""
    assert repeated(5.0, 5.0, 5.0, failed=failing("evaluate"))
    assert not one_batch_can_be_overfitted(record(failed=failing("evaluate")))
    for more in ({"failed": failing("train")}, {"ended": HUNG, "stage": "train"}):
        with pytest.raises(EvidenceError, match="trainer_survives_a_dry_run"):
            one_batch_can_be_overfitted(record("overfit", **more))


# -- trained_parameters_change


def changed(*without: str, **changes: Any) -> Findings:
    """The check on a record."""
    return trained_parameters_change(record(*without, **changes))


def test_a_model_without_trainable_tensors_is_an_error() -> None:
    """Also where training failed for it, so that nothing is known of changes."""
    held = {"trainable": 0, "held": 0, "has_optimizer": 0}
    found = changed("changes", parameters=held, failed=failing("train"))
    one(found, "error", "0 of 21 parameter tensors of the model require a gradient", "is_trainable = True")
    assert found.looked_at == 21


def test_tensors_that_the_optimizer_lacks_are_counted() -> None:
    """None held is an error, some left out a warning; an adapter on a frozen model is all that its optimizer has to hold."""
    nothing = changed(parameters={"held": 0, "others_held": 21}, changes={"unchanged": 21})
    one(
        nothing,
        "error",
        "holds 0 of the 21 tensors",
        "and 21 tensors that do not",
        "the model is the one it began with",
    )
    some = one(changed(parameters={"held": 1}), "warning", "holds 1 of the 21 tensors")
    assert "the model is the one it began with" not in some.message
    assert not changed(parameters={"tensors": 37, "trainable": 16, "held": 16})
    assert not changed(parameters={"held": 0, "has_optimizer": 0})


def test_tensors_that_stay_as_they_were_are_an_error() -> None:
    """All of them after a step; frozen embeddings or experts that no token came to are none."""
    same = {"unchanged": 21, "names": TENSORS}
    for ended in (1, 2):
        told = one(
            changed(changes=same, train={"ended": ended, "rates": [0.0, 0.0]}),
            "error",
            "after the steps of the dry run all 21 tensors",
        )
        assert "; the learning rate was 0" in told.message
        assert told.evidence["names"] == TENSORS
    assert "learning rate was" not in changed(changes=same, train={"rates": []})[0].message
    assert not changed(changes={"unchanged": 20, "names": TENSORS})


def test_parameters_of_a_run_without_steps_are_left_to_another_check() -> None:
    """No trainer, no step, or a first step that failed: each is told by the check that sees it."""
    for found in (
        record("parameters"),
        record("changes"),
        record(changes={"unchanged": 21}, train={"ended": -1}),
    ):
        with pytest.raises(EvidenceError, match="trainer_survives_a_dry_run"):
            trained_parameters_change(found)


@pytest.mark.parametrize("check", CHECKS[1:3], ids=lambda check: check.name)
def test_a_run_without_losses_is_left_to_another_check(check: Any) -> None:
    """The trainer was not built, or made no step."""
    for found in (record("train"), record(train={"losses": [], "steps": []})):
        with pytest.raises(EvidenceError, match="trainer_survives_a_dry_run"):
            check(found)
