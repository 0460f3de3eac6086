"""The dry run of the user's trainer: two steps of a small model, saved, resumed, evaluated, and one batch learnt by heart."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from llmguard.checks.dry_run_words import CAUSES, STAGES, failure_text
from llmguard.contract import Yields, check
from llmguard.errors import EvidenceError, MissingEvidence
from llmguard.findings import Finding, Where, error, note, warning

__all__ = [
    "dry_run_can_resume",
    "dry_run_loss_is_finite",
    "one_batch_can_be_overfitted",
    "trained_parameters_change",
    "trainer_survives_a_dry_run",
]

Found = Mapping[str, Any]
SAME_LOSS = 1e-3
"""Relative difference of two losses up to which they are the same: threads may add numbers in another order."""
FALL, FEWEST = 0.01, 3
"""A loss has fallen clearly from one hundredth on (without dropout, on one batch, it moves for no other reason); losses to say so."""


def _where(stage: str, told: Found | None = None) -> Where:
    told = told or {}
    return Where(
        file=told.get("file"), line=told.get("line"), row=told.get("row"), what=f"dry run, stage {stage!r}"
    )


@check
def trainer_survives_a_dry_run(dry_run: Found) -> Yields:
    """The trainer can be built, makes steps, saves, is resumed, evaluates and generates: nothing of it raises, exits, hangs or dies.

    The factory is called in a supervised child with a small model of random weights in place of the one that it loads (same class, same
    vocabulary, two layers), a few rows (the longest that fits among them), and arguments that are harmless on a CPU: no GPU, no mixed
    precision, no DeepSpeed, no reports, output into a temporary folder. What it cannot see: what only the real model, the whole data or
    several processes bring about. `[pipeline] dry_run = false` switches it off.
    """
    for told in dry_run["failed"]:
        yield _failed(told)
    if "ended" in dry_run:
        yield _ended(dry_run)
    if dry_run.get("train", {}).get("ended") == -1 and not dry_run["failed"] and "ended" not in dry_run:
        yield _no_step()
    if notes := dry_run.get("notes"):
        said = "; ".join(f"{name}: {text}" for name, text in sorted(notes.items()))
        yield note(Where(what="dry run"), what=f"the dry run differs from the run itself: {said}")
    return len(dry_run["stages"]) + len(dry_run["failed"]) + ("ended" in dry_run)


def _failed(told: Found) -> Finding:
    kind = str(told.get("type"))
    cause, remedy = CAUSES.get(kind, CAUSES[""])
    return error(
        _where(str(told["stage"]), told),
        what=failure_text(told),
        why="the run itself ends here, after the model was loaded: some stages are reached only after hours",
        cause=cause,
        remedy=remedy,
        expected="a stage that comes to its end",
        actual=f"{kind}: {told.get('message', '')}"[:200],
        evidence={
            "error": {k: v for k, v in told.items() if isinstance(v, (str, int, float, list)) or v is None}
        },
    )


def _ended(found: Found) -> Finding:
    stage, ended = str(found.get("stage")), found["ended"]
    own = ended.get("own") or {}
    at = f" at {own['file']}:{own['line']} in {own['function']}()" if own else ""
    return error(
        _where(stage, own),
        what=f"{STAGES.get(stage, stage)}, the process came to no good end{at}: {ended['message']} ({ended['verdict']})",
        why="the run itself would end, or stand still, in this place, and nothing would say so",
        cause="a loop that does not end, a lock that nobody releases, os._exit(), a crash in native code, or memory above the limit",
        remedy="call the factory and `.train()` by hand; `py-spy dump` and `PYTHONFAULTHANDLER=1` name the line",
        expected="a stage that comes to its end",
        actual=str(ended["verdict"]),
        evidence={"stack": str(ended.get("stack", ""))[-1000:]},
    )


def _no_step() -> Finding:
    return error(
        _where("train"),
        what="`train()` came to its end without a single optimizer step",
        why="the run ends with exit code 0, and the model that it saves is the one that it loaded",
        cause="num_train_epochs = 0, an empty data loader (fewer rows than a batch with dataloader_drop_last), or a callback that stops it",
        remedy="print len(trainer.get_train_dataloader()) and the arguments before training",
        expected="at least one step",
        actual="0 steps",
    )


def _trained(dry_run: Found) -> Found:
    """What was seen of the first run.

    Raises:
        EvidenceError: it did not get as far as one loss.
    """
    seen: Found = dry_run.get("train") or {}
    if not seen.get("losses"):
        raise EvidenceError("dry_run", "no step was made", told_by="trainer_survives_a_dry_run")
    return seen


def _bad(values: Sequence[Any]) -> list[int]:
    """Places of what is no finite number (`"nan"`, `"inf"`)."""
    return [i for i, v in enumerate(values) if not math.isfinite(float(v))]


@check
def dry_run_loss_is_finite(dry_run: Found) -> Yields:
    """Every loss and gradient norm of the dry run is a finite number, also where the log shows 0.0 for it, and not all are exactly 0."""
    seen = _trained(dry_run)
    losses, logs = seen["losses"], [entry for entry in seen["logs"] if "loss" in entry]
    bad, norms = _bad(losses), {e["step"]: e["grad_norm"] for e in logs if "grad_norm" in e}
    first = min((step for step, norm in norms.items() if _bad([norm])), default=None)
    if first is not None and not any(seen["steps"][i] <= first for i in bad):
        yield _norm(norms[first], losses)
    elif bad:
        yield _not_finite(losses, bad, logs)
    elif all(float(x) == 0.0 for x in losses) and not any(map(float, norms.values())):
        yield _zero(len(losses))
    evaluation = dry_run.get("evaluation", {})
    if "eval_loss" in evaluation and _bad([evaluation["eval_loss"]]) and not _bad(losses):
        yield _evaluation(evaluation["eval_loss"])
    return len(losses)


def _not_finite(losses: Sequence[Any], bad: Sequence[int], logs: Sequence[Found]) -> Finding:
    masked = [entry for entry in logs if float(entry["loss"]) == 0.0]
    hidden = f"; the log shows loss {masked[0]['loss']} for it (logging_nan_inf_filter)" if masked else ""
    return error(
        _where("train"),
        what=f"{len(bad)} of {len(losses)} micro-batches of the first steps have the loss {losses[bad[0]]}{hidden}",
        why="one step with it makes every weight NaN; the run goes on to its end and saves them",
        cause="a batch without a supervised token (all labels -100), a division by a count of 0, log of 0, or an overflow in your own loss",
        remedy="look at the labels of this batch; make the loss total over empty batches; set logging_nan_inf_filter = False",
        expected="finite losses",
        actual=str(losses[bad[0]]),
        evidence={"losses": list(losses)[:8]},
    )


def _norm(norm: Any, losses: Sequence[Any]) -> Finding:
    return error(
        _where("train"),
        what=f"the gradient norm is {norm} although the loss is {losses[0]:.4g}",
        why="the step makes every weight NaN; the next loss is logged as 0.0 or nan",
        cause="sqrt or a norm at 0, log of 0 or a division by 0 in your own loss or model code: its value is fine, its gradient is not",
        remedy="run one step under torch.autograd.set_detect_anomaly(True): it names the operation",
        expected="a finite norm",
        actual=str(norm),
    )


def _zero(count: int) -> Finding:
    return error(
        _where("train"),
        what=f"the loss of all {count} micro-batches is exactly 0, and so are the gradients",
        why="nothing is learnt, and the log looks like a model that is done",
        cause="no supervised token in any row, a loss multiplied by a mask of zeros, or a reward that is the same for all completions",
        remedy="count labels that are not -100 in the first batch; look at what the loss is multiplied by",
        expected="a loss above 0",
        actual="0.0",
    )


def _evaluation(loss: Any) -> Finding:
    return error(
        _where("evaluate"),
        what=f"the evaluation loss is {loss} although the training losses are finite",
        why="the best checkpoint and early stopping are chosen by this number: every comparison with nan is false",
        cause="evaluation rows without a supervised token, cut off by max_length, or an empty evaluation set",
        remedy="look at the labels of the evaluation rows",
        expected="a finite loss",
        actual=str(loss),
    )


@check
def dry_run_can_resume(dry_run: Found) -> Yields:
    """A run resumed from its own checkpoint goes on at the next step, and with the loss that the run itself had there."""
    seen = _trained(dry_run)
    failed = [told for told in dry_run["failed"] if told["stage"] == "resume"]
    if failed:
        yield _failed(failed[0])
        return 1
    again = dry_run.get("resume")
    if again is None:
        reason = dry_run.get("notes", {}).get("resume") or dry_run.get("notes", {}).get("time")
        if reason:
            raise MissingEvidence("dry_run", str(reason))
        raise EvidenceError("dry_run", "it was not resumed", told_by="trainer_survives_a_dry_run")
    if again["began"] != 1:
        yield _from_the_start(again["began"])
        return 1
    first = [float(x) for x, at in zip(seen["losses"], seen["steps"], strict=True) if at == 2]
    second = [float(x) for x in again["losses"]]
    if not _same(first, second):
        yield _other_losses(first, second)
    return 1


def _from_the_start(step: int) -> Finding:
    return error(
        _where("resume"),
        what=f"resumed from the checkpoint of step 1, the run began at step {max(step, 0)}",
        why="an interrupted run starts over: rows are trained twice, the schedule runs from its beginning",
        cause="no trainer_state.json in the checkpoint (an own `_save_checkpoint`), or an own `train` that ignores resume_from_checkpoint",
        remedy="save what Trainer saves, and give resume_from_checkpoint on to it",
        expected="step 1",
        actual=f"step {max(step, 0)}",
    )


def _same(first: Sequence[float], second: Sequence[float]) -> bool:
    return len(first) == len(second) and all(
        math.isclose(a, b, rel_tol=SAME_LOSS, abs_tol=1e-6) or (math.isnan(a) and math.isnan(b))
        for a, b in zip(first, second, strict=True)
    )


def _other_losses(first: Sequence[float], second: Sequence[float]) -> Finding:
    shown = [", ".join(f"{x:.5g}" for x in xs) for xs in (first, second)]
    return warning(
        _where("resume"),
        what=f"the second step has the losses {shown[0]} in the run itself, and {shown[1]} after it was resumed",
        why="a resumed run is another run: weights, optimizer, rows or random numbers are not those that it stopped with",
        cause="weights that are not saved or not loaded, a sampler or random generator of your own, or ignore_data_skip",
        remedy="compare the weights and the row order of both; draw random numbers from torch, numpy or random, whose states are saved",
        expected=shown[0],
        actual=shown[1],
    )


@check
def one_batch_can_be_overfitted(dry_run: Found) -> Yields:
    """The loss falls clearly when one batch is repeated: gradients lead from the loss to what is trained (a warning).

    Eight steps of AdamW without dropout on the first batch. Trainers that learn from their own generations are not judged.
    """
    if "overfit" not in dry_run and (dry_run["failed"] or "ended" in dry_run):
        raise EvidenceError("dry_run", "it did not get as far", told_by="trainer_survives_a_dry_run")
    losses = [float(x) for x in dry_run.get("overfit", ())]
    if len(losses) < FEWEST or _bad(losses) or abs(losses[0]) < 1e-6:
        return 0
    best = min(losses[1:])
    if losses[0] - best < FALL * max(abs(losses[0]), 0.1):
        yield warning(
            _where("overfit"),
            what=f"the loss of one batch went from {losses[0]:.5g} to {best:.5g} in {len(losses)} steps that repeat it",
            why="what cannot learn one batch by heart learns nothing from all of them",
            cause="a loss of the wrong sign, one that was detached or replaced by a number, labels that the loss does not read, "
            "or too little that is trained",
            remedy="call compute_loss on this batch and look which parameters have a gradient, and of which sign",
            expected=f"below {losses[0] - FALL * max(abs(losses[0]), 0.1):.5g}",
            actual=f"{best:.5g}",
            evidence={"losses": losses},
        )
    return len(losses)


@check
def trained_parameters_change(dry_run: Found) -> Yields:
    """Something is trained: parameters that require gradients are there, the optimizer holds them, and two steps change them.

    Frozen embeddings, adapters on a frozen model and layers left out on purpose are fine, as long as something changes.
    """
    held = dry_run.get("parameters")
    if held is None:
        raise EvidenceError("dry_run", "the trainer was not built", told_by="trainer_survives_a_dry_run")
    changes = dry_run.get("changes") or {}
    if not held["trainable"]:
        yield _nothing_trainable(held)
    elif held["has_optimizer"] and held["held"] < held["trainable"]:
        yield _others_held(held)
    elif not changes or dry_run["train"]["ended"] < 1:
        raise EvidenceError("dry_run", "no step was made", told_by="trainer_survives_a_dry_run")
    elif changes["unchanged"] == changes["compared"]:
        yield _nothing_changed(changes, dry_run["train"]["rates"])
    return int(held["tensors"])


def _nothing_trainable(held: Found) -> Finding:
    return error(
        _where("train"),
        what=f"0 of {held['tensors']} parameter tensors of the model require a gradient",
        why="training fails at its first step, or changes nothing",
        cause="a loop that freezes the model after the adapter was put on, PeftModel.from_pretrained without is_trainable = True, "
        "or inference_mode = True in the adapter's config",
        remedy="freeze first and put the adapter on then; print model.print_trainable_parameters() before training",
        expected="at least one trainable tensor",
        actual="0",
    )


def _others_held(held: Found) -> Finding:
    some = held["held"] > 0
    return (warning if some else error)(
        _where("train"),
        what=f"the optimizer holds {held['held']} of the {held['trainable']} tensors that require a gradient, "
        f"and {held['others_held']} tensors that do not, or are not the model's",
        why="what it does not hold is never changed"
        + ("" if some else ": the run ends well and the model is the one it began with"),
        cause="an optimizer that was made before the adapter was put on or the embedding resized, or parameter groups that leave some out",
        remedy="make the optimizer last, or leave it to the Trainer; or freeze what is not to be trained",
        expected=f"{held['trainable']} tensors",
        actual=f"{held['held']} tensors",
    )


def _nothing_changed(changes: Found, rates: Sequence[float]) -> Finding:
    rate = f"; the learning rate was {max(rates):g}" if rates else ""
    return error(
        _where("train"),
        what=f"after two steps all {changes['compared']} tensors that are to be trained are what they were, to the last bit{rate}",
        why="the run ends with exit code 0, and the model that it saves is the one that it loaded",
        cause="a learning rate of 0, gradients of 0 or none (a detached loss, inputs without gradients under checkpointing), "
        "or an optimizer step of your own that does nothing",
        remedy="look at the learning rate, and at the gradient norm of the first step",
        expected="tensors that change",
        actual=f"{changes['unchanged']} of {changes['compared']} unchanged",
        evidence={"names": list(changes["names"])},
    )
