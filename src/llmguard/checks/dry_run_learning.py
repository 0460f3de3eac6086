"""What the steps of a dry run show: losses that are numbers, a loss that can fall, parameters that change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmguard.checks.dry_run_words import Found, not_finite, trained, where_of
from llmguard.contract import Yields, check
from llmguard.errors import EvidenceError
from llmguard.findings import Finding, error, warning

__all__ = ["dry_run_loss_is_finite", "one_batch_can_be_overfitted", "trained_parameters_change"]

FALL, FEWEST = 0.01, 3
"""A loss has fallen clearly from one hundredth on (without dropout, on one batch, it moves for no other reason); losses to say so."""


@check
def dry_run_loss_is_finite(dry_run: Found) -> Yields:
    """Every loss and gradient norm of the dry run is a finite number, also where the log shows 0.0 for it, and not all are exactly 0."""
    seen = trained(dry_run)
    losses, logs = seen["losses"], [entry for entry in seen["logs"] if "loss" in entry]
    bad, norms = not_finite(losses), {e["step"]: e["grad_norm"] for e in logs if "grad_norm" in e}
    first = min((step for step, norm in norms.items() if not_finite([norm])), default=None)
    if first is not None and not any(seen["steps"][i] <= first for i in bad):
        yield _norm(norms[first], losses)
    elif bad:
        yield _not_finite(losses, bad, logs)
    elif all(float(x) == 0.0 for x in losses) and not any(map(float, norms.values())):
        yield _zero(len(losses))
    evaluation = dry_run.get("evaluation", {})
    if "eval_loss" in evaluation and not_finite([evaluation["eval_loss"]]) and not not_finite(losses):
        yield _evaluation(evaluation["eval_loss"])
    return len(losses)


def _not_finite(losses: Sequence[Any], bad: Sequence[int], logs: Sequence[Found]) -> Finding:
    masked = [entry for entry in logs if float(entry["loss"]) == 0.0]
    hidden = f"; the log shows loss {masked[0]['loss']} for it (logging_nan_inf_filter)" if masked else ""
    return error(
        where_of("train"),
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
        where_of("train"),
        what=f"the gradient norm is {norm} although the loss is {losses[0]:.4g}",
        why="the step makes every weight NaN; the next loss is logged as 0.0 or nan",
        cause="sqrt or a norm at 0, log of 0 or a division by 0 in your own loss or model code: its value is fine, its gradient is not",
        remedy="run one step under torch.autograd.set_detect_anomaly(True): it names the operation",
        expected="a finite norm",
        actual=str(norm),
    )


def _zero(count: int) -> Finding:
    return error(
        where_of("train"),
        what=f"the loss of all {count} micro-batches is exactly 0, and so are the gradients",
        why="nothing is learnt, and the log looks like a model that is done",
        cause="no supervised token in any row, a loss multiplied by a mask of zeros, or a reward that is the same for all completions",
        remedy="count labels that are not -100 in the first batch; look at what the loss is multiplied by",
        expected="a loss above 0",
        actual="0.0",
    )


def _evaluation(loss: Any) -> Finding:
    return error(
        where_of("evaluate"),
        what=f"the evaluation loss is {loss} although the training losses are finite",
        why="the best checkpoint and early stopping are chosen by this number: every comparison with nan is false",
        cause="evaluation rows without a supervised token, cut off by max_length, or an empty evaluation set",
        remedy="look at the labels of the evaluation rows",
        expected="a finite loss",
        actual=str(loss),
    )


@check
def one_batch_can_be_overfitted(dry_run: Found) -> Yields:
    """The loss falls clearly when one batch is repeated: gradients lead from the loss to what is trained (a warning).

    Eight steps of AdamW without dropout on the first batch. Trainers that learn from their own generations are not judged.
    """
    if "overfit" not in dry_run and (dry_run["failed"] or "ended" in dry_run):
        raise EvidenceError("dry_run", "it did not get as far", told_by="trainer_survives_a_dry_run")
    losses = [float(x) for x in dry_run.get("overfit", ())]
    if len(losses) < FEWEST or not_finite(losses) or abs(losses[0]) < 1e-6:
        return 0
    best = min(losses[1:])
    if losses[0] - best < FALL * max(abs(losses[0]), 0.1):
        yield warning(
            where_of("overfit"),
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
        where_of("train"),
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
        where_of("train"),
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
        where_of("train"),
        what=f"after the steps of the dry run all {changes['compared']} tensors that are to be trained "
        f"are what they were, to the last bit{rate}",
        why="the run ends with exit code 0, and the model that it saves is the one that it loaded",
        cause="a learning rate of 0, gradients of 0 or none (a detached loss, inputs without gradients under checkpointing), "
        "or an optimizer step of your own that does nothing",
        remedy="look at the learning rate, and at the gradient norm of the first step",
        expected="tensors that change",
        actual=f"{changes['unchanged']} of {changes['compared']} unchanged",
        evidence={"names": list(changes["names"])},
    )
