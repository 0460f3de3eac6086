"""The dry run of a user's trainer: a mistake in each stage comes back with the user's own line, and sound trainers raise no alarm.

All factories run in one process, each after its witness: the same factory called without us, in plain Python.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from typing import Any

import pytest
from support.factories import FACTORIES, RUNNER, factories

import llmguard
from llmguard.errors import EvidenceError, MissingEvidence
from llmguard.findings import Finding

pytestmark = [pytest.mark.needs_torch, pytest.mark.timeout(600)]  # half a minute where nothing else runs
Found = dict[str, Any]

RAISES: dict[str, tuple[str, str, str, tuple[str, ...]]] = {
    "used_before_set": ("train", "UnboundLocalError", "UnboundLocalError", ("total_steps",)),
    "undefined_name": ("train", "NameError", "NameError", ("learning_rte", "<lambda>")),
    "missing_attribute": ("train", "AttributeError", "AttributeError", ("total_tokens",)),
    "no_epochs": ("train", "TypeError", "TypeError", ("NoneType", "on behalf of what no_epochs() returned")),
    "text_rate": (
        "train",
        "TypeError",
        "TypeError",
        ("'float' and 'str'", "on behalf of what text_rate() returned"),
    ),
    "lacking_key": (
        "collate",
        "KeyError",
        "KeyError",
        ("row 17 has no key 'weight'", "it has input_ids, labels"),
    ),
    "lacking_column": ("build", "KeyError", "KeyError", ("row 17 has no key 'topic'",)),
    "empty_row": ("collate", "IndexError", "IndexError", ("list index out of range",)),
    "beyond_embedding": ("collate", "IndexError", "IdBeyondEmbedding", ("the token id 373", "has 368 rows")),
    "recursion": (
        "build",
        "RecursionError",
        "RecursionError",
        ("child (factories.py:", "parent (factories.py:"),
    ),
    "memory": (
        "build",
        "MemoryError",
        "MemoryError",
        ("the limit of the dry run is 6.0 GiB", "table = bytearray"),
    ),
    "save_fails": ("save", "OSError", "OSError", ("No space left on device", "_save()")),
    "resume_fails": ("resume", "KeyError", "KeyError", ("rng",)),
    "metrics_of_nothing": ("evaluate", "ZeroDivisionError", "ZeroDivisionError", ("accuracy()",)),
    "empty_evaluation": ("evaluate", "ZeroDivisionError", "ZeroDivisionError", ("evaluate()",)),
    "unknown_metric": ("train", "KeyError", "KeyError", ("eval_accuracy",)),
    "leaves": ("train", "SystemExit", "SystemExit", ("sys.exit(3)",)),
    "frozen": ("train", "RuntimeError", "RuntimeError", ("does not require grad",)),
}
"""Factory: the stage that it fails in, what plain Python raises, what the dry run tells, and words of the finding."""
ODD = {"lacking_key", "lacking_column", "empty_row", "beyond_embedding"}
"""Those whose row 17 is the cause."""
SILENT = (
    "nan_loss", "infinite_loss", "nan_gradient", "zero_loss", "cannot_learn", "no_steps", "starts_over", "other_weights", "zero_rate",
    "other_optimizer",
)  # fmt: skip
SOUND = (
    "plain", "early_stopping", "own_metrics", "accumulating", "for_a_gpu", "own_dataset", "streaming", "frozen_embeddings", "classifier",
    "adapter", "own_trainer", "own_sampler", "supervised", "preference",
)  # fmt: skip
UNMEASURED = {
    "needs_a_gpu": "it needs a GPU",
    "not_on_this_machine": "is not on this machine",
    "weights_by_hand": "do not fit the small model",
    "no_trainer": "no Trainer of transformers",
}
NO_WITNESS = {"for_a_gpu", "classifier", "adapter", "supervised", "preference", *UNMEASURED}
"""Their models have no weights on this machine, or they need another one."""
CHECKS = (
    llmguard.trainer_survives_a_dry_run,
    llmguard.dry_run_loss_is_finite,
    llmguard.dry_run_can_resume,
    llmguard.one_batch_can_be_overfitted,
    llmguard.trained_parameters_change,
)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Found]:
    """Factory -> what the dry run found, with `witness`: what it comes to in plain Python."""
    folder = factories(tmp_path_factory.mktemp("project"))
    names = [*RAISES, *SILENT, *SOUND, *UNMEASURED]
    wanted = [name for name in names if name not in NO_WITNESS]
    done = subprocess.run(
        [
            sys.executable,
            str(RUNNER),
            str(folder),
            json.dumps(names),
            json.dumps(wanted),
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=580,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads((folder / "results.json").read_text("utf-8")))


def alarms(found: Found) -> dict[str, Finding]:
    """Errors and warnings of all checks on a dry run; checks that had nothing to look at are left out."""
    told = {}
    for check in CHECKS:
        try:
            told.update((check.name, f) for f in check(found) if f.severity.value != "note")
        except (EvidenceError, MissingEvidence):
            continue
    return told


@pytest.mark.parametrize("name", RAISES)
def test_a_mistake_comes_back_with_the_users_own_line(results: dict[str, Found], name: str) -> None:
    """Stage, exception, file, line and code of the user, row and key; the witness raises the same in plain Python."""
    stage, plain, kind, words = RAISES[name]
    found = results[name]
    assert found["witness"]["raised"] == plain
    finding = alarms(found)["trainer_survives_a_dry_run"]
    assert finding.severity.value == "error"
    assert found["failed"][0]["stage"] == stage
    assert kind in finding.message
    assert all(word in finding.message for word in words), finding.message
    assert finding.where.file == "factories.py"
    assert line(name) <= (finding.where.line or 0) < line(name) + 25
    assert "llmguard" not in finding.message
    assert finding.where.row == (17 if name in ODD else None)


def line(name: str) -> int:
    """The line of a factory."""
    lines = FACTORIES.read_text("utf-8").splitlines()
    return lines.index(f"def {name}() -> Any:") + 1


def test_a_missing_key_of_a_library_is_not_called_a_rows(results: dict[str, Found]) -> None:
    """KeyErrors that no mapping of the user's frame explains have no key and no row."""
    for name in ("unknown_metric", "resume_fails"):
        assert "has no key" not in alarms(results[name])["trainer_survives_a_dry_run"].message


def test_stages_after_a_failure_are_still_tried(results: dict[str, Found]) -> None:
    """What does not stand on the failed stage goes on: a failed evaluation leaves the resumed run and the one batch judged."""
    found = results["metrics_of_nothing"]
    assert set(alarms(found)) == {"trainer_survives_a_dry_run"} | (
        {"dry_run_loss_is_finite"} & set(alarms(found))
    )
    assert {"build", "collate", "train", "resume", "generate", "overfit"} <= set(found["stages"])
    with pytest.raises(EvidenceError, match="trainer_survives_a_dry_run"):
        llmguard.dry_run_can_resume(results["used_before_set"])
    with pytest.raises(EvidenceError, match="trainer_survives_a_dry_run"):
        llmguard.one_batch_can_be_overfitted(results["used_before_set"])
    for check in CHECKS[1:]:
        with pytest.raises(EvidenceError, match="trainer_survives_a_dry_run"):
            check(results["recursion"])


def test_a_loss_that_is_no_number_is_found_behind_the_log(results: dict[str, Found]) -> None:
    """NaN that Trainer logs as 0.0 (the witness shows the log), infinite losses, and a NaN gradient behind a sound loss."""
    found = results["nan_loss"]
    assert found["witness"]["logged"] == [0.0]
    finding = alarms(found)["dry_run_loss_is_finite"]
    assert "have the loss nan; the log shows loss 0.0 for it" in finding.message
    assert "loss inf" in alarms(results["infinite_loss"])["dry_run_loss_is_finite"].message
    finding = alarms(results["nan_gradient"])["dry_run_loss_is_finite"]
    assert "the gradient norm is nan although the loss is" in finding.message


def test_a_loss_of_exactly_nought_is_found(results: dict[str, Found]) -> None:
    """All losses 0 with gradients of 0."""
    assert results["zero_loss"]["witness"]["logged"] == [0.0]
    assert "is exactly 0" in alarms(results["zero_loss"])["dry_run_loss_is_finite"].message


def test_a_run_without_steps_is_found(results: dict[str, Found]) -> None:
    """num_train_epochs = 0: train() returns, and nothing was trained."""
    assert results["no_steps"]["witness"] == {"raised": "", "steps": 0, "changed": 0, "logged": []}
    finding = alarms(results["no_steps"])["trainer_survives_a_dry_run"]
    assert "without a single optimizer step" in finding.message


def test_a_resumed_run_that_is_another_run_is_found(results: dict[str, Found]) -> None:
    """One that begins anew, one that goes on with other weights, one whose state does not load."""
    finding = alarms(results["starts_over"])["dry_run_can_resume"]
    assert finding.severity.value == "error"
    assert "the run began at step 0" in finding.message
    finding = alarms(results["other_weights"])["dry_run_can_resume"]
    assert finding.severity.value == "warning"
    assert finding.expected != finding.actual
    assert alarms(results["resume_fails"])["dry_run_can_resume"].severity.value == "error"


def test_a_model_that_does_not_change_is_found(results: dict[str, Found]) -> None:
    """A frozen model, a learning rate of 0, an optimizer of another model, a loss without gradients: with the counts."""
    for name, words in {
        "frozen": "0 of 21 parameter tensors of the model require a gradient",
        "zero_rate": "the learning rate was 0",
        "other_optimizer": "holds 0 of the 21 tensors that require a gradient, and 21 tensors that do not",
        "cannot_learn": "all 21 tensors that are to be trained are what they were",
    }.items():
        finding = alarms(results[name])["trained_parameters_change"]
        assert finding.severity.value == "error"
        assert words in finding.message, finding.message
        if name != "frozen":
            assert results[name]["witness"]["changed"] == 0


def test_one_batch_that_cannot_be_learnt_is_a_warning(results: dict[str, Found]) -> None:
    """A loss that was detached; with another optimizer's or a rate of 0 the gradients are there, and it falls."""
    finding = alarms(results["cannot_learn"])["one_batch_can_be_overfitted"]
    assert finding.severity.value == "warning"
    for name in ("zero_rate", "other_optimizer"):
        assert "one_batch_can_be_overfitted" not in alarms(results[name])


@pytest.mark.parametrize("name", SOUND)
def test_sound_trainers_raise_no_alarm(results: dict[str, Found], name: str) -> None:
    """Every check had something to look at, and none fails or warns; the witness, where it can be had, trains."""
    found = results[name]
    assert {check: f.message for check, f in alarms(found).items()} == {}
    assert found["witness"].get("raised", "") == ""
    for check in CHECKS:
        assert check(found).looked_at, check.name


def test_what_differs_from_the_run_itself_is_said(results: dict[str, Found]) -> None:
    """A note names what was given instead; a small model of the user's own is taken as it is."""
    (told,) = llmguard.trainer_survives_a_dry_run(results["for_a_gpu"])
    assert told.severity.value == "note"
    for word in (
        "22 layers of width 2048",
        "bf16",
        "deepspeed",
        "paged_adamw_8bit",
        "flash_attention_2",
        "device_map",
    ):
        assert word in told.message
    assert "lora r" in results["adapter"]["notes"]
    assert "layers_to_transform" in results["adapter"]["notes"]
    assert results["plain"]["notes"] == {}
    assert not llmguard.trainer_survives_a_dry_run(results["plain"])


def test_policy_and_reference_are_one_model(results: dict[str, Found]) -> None:
    """What is loaded twice from one place is the same model: the first loss of a preference run is log 2."""
    assert results["preference"]["train"]["losses"][0] == pytest.approx(math.log(2), abs=1e-5)


def test_what_cannot_be_judged_here_is_no_failure(results: dict[str, Found]) -> None:
    """Code that needs a GPU, models that are not here, weights loaded by hand, what is no Trainer: told as such."""
    for name, words in UNMEASURED.items():
        assert words in results[name]["unmeasured"]
        assert results[name]["failed"] == []


def test_time_that_is_over_is_no_failure(results: dict[str, Found]) -> None:
    """A run that has no time left is ended at its next micro-batch, and says nothing about the trainer."""
    found = results["out_of_time"]
    assert found["unmeasured"] == "it was not done in time, and was ended in its stage 'train'"
    assert found["failed"] == found["train"]["losses"] == []


def test_a_longer_run_agrees_with_itself(results: dict[str, Found]) -> None:
    """The losses of the resumed second step are those of the first run, to the last digits, under accumulation and dropout too."""
    for name in ("plain", "accumulating", "adapter", "preference"):
        found = results[name]
        first = [
            x for x, at in zip(found["train"]["losses"], found["train"]["steps"], strict=True) if at == 2
        ]
        assert first == pytest.approx(found["resume"]["losses"], rel=1e-4)
        assert found["train"]["ended"] == found["resume"]["ended"] == 2
