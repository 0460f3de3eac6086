"""What is watched while a trainer makes its steps: raw losses, norms, token ids before they reach the model, weights before and after."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from llmguard.collect.dry_run_faults import IdBeyondEmbedding, TooSlow
from llmguard.probe import step

__all__ = [
    "STEPS",
    "Watch",
    "embedding_rows",
    "look_at_ids",
    "optimized",
    "plain",
    "trainable",
    "unchanged",
    "watched",
]

STEPS = 2
"""Optimizer steps of the first run, and the step at which a resumed run ends."""


@dataclass
class Watch:
    """What was seen of a run, which may go on `until` a time of the monotonic clock.

    `losses`: of each micro-batch, as the model gave it; `steps`: the step that each belongs to; `logs`: what the Trainer logged.
    """

    until: float = math.inf
    stage: str = ""
    began: int = -1
    ended: int = -1
    losses: list[float] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    logs: list[dict[str, Any]] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    batch: dict[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """As a result holds it: numbers that JSON has no words for as text."""
        return {
            "began": self.began,
            "ended": self.ended,
            "losses": [plain(x) for x in self.losses],
            "steps": self.steps,
            "logs": self.logs,
            "rates": self.rates,
        }


def plain(number: float) -> float | str:
    """A number as JSON takes it: `"nan"`, `"inf"` and `"-inf"` where it is none."""
    return number if math.isfinite(number) else str(number)


def watched(trainer: Any, watch: Watch) -> None:
    """Make a Trainer tell what it does: the stage that it is in, the loss of each micro-batch, what it logs; and end after two steps."""
    embedding = embedding_rows(trainer.model)
    own, save, evaluate = trainer.training_step, trainer._save_checkpoint, trainer.evaluate

    def training_step(model: Any, inputs: Any, *args: Any, **more: Any) -> Any:
        if time.monotonic() > watch.until:
            raise TooSlow(f"it was not done in time, and was ended in its stage {watch.stage!r}")
        look_at_ids(inputs, embedding)
        _keep(watch, inputs)
        step(f"{watch.stage}: micro-batch {len(watch.losses) + 1}")
        loss = own(model, inputs, *args, **more)
        watch.losses.append(float(loss))
        watch.steps.append(int(trainer.state.global_step) + 1)
        return loss

    trainer.training_step = training_step
    trainer._save_checkpoint = _as_stage("save", save, watch)
    trainer.evaluate = _as_stage("evaluate", evaluate, watch)
    trainer.add_callback(_callback(trainer, watch))


def _as_stage(name: str, original: Any, watch: Watch) -> Any:
    def told(*args: Any, **more: Any) -> Any:
        before, watch.stage = watch.stage, name
        step(name)
        found = original(*args, **more)
        watch.stage = before  # where it fails, it is in this stage that it failed
        return found

    return told


def _callback(trainer: Any, watch: Watch) -> Any:
    from transformers import TrainerCallback

    class Stops(TrainerCallback):  # type: ignore[misc]  # transformers ships no types that hold
        """Saves the first step, ends after the second; the last of the callbacks, so that what it says holds."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            watch.began = int(state.global_step)

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            watch.ended = int(state.global_step)
            control.should_log = True
            control.should_save = control.should_save or state.global_step == 1
            if state.global_step >= STEPS:
                control.should_training_stop = True
                if watch.stage == "resume" and _evaluates(trainer):
                    control.should_evaluate = control.should_save = True

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            numbers = {k: plain(float(v)) for k, v in (logs or {}).items() if isinstance(v, (int, float))}
            watch.logs.append({"step": int(state.global_step), **numbers})
            if isinstance(rate := (logs or {}).get("learning_rate"), (int, float)):
                watch.rates.append(float(rate))

    return Stops()


def _evaluates(trainer: Any) -> bool:
    """Whether the user's own run evaluates on its way."""
    strategy = getattr(trainer.args, "eval_strategy", "no")
    return (
        str(getattr(strategy, "value", strategy)) != "no"
        and getattr(trainer, "eval_dataset", None) is not None
    )


def embedding_rows(model: Any) -> int | None:
    """Rows of the input embedding; None where there is none to be found."""
    try:
        return int(model.get_input_embeddings().weight.shape[0])
    except Exception:  # models of other kinds have none, and say so each in its own way
        return None


def look_at_ids(inputs: Any, rows: int | None) -> None:
    """Whether all token ids of a batch have a row in the embedding.

    Raises:
        IdBeyondEmbedding: one has not.
    """
    if rows is None or not isinstance(inputs, Mapping):
        return
    for name, ids in inputs.items():
        if not str(name).endswith("input_ids") or getattr(ids, "ndim", 0) != 2 or ids.numel() == 0:
            continue
        beyond = (ids >= rows) | (ids < 0)
        if bool(beyond.any()):
            row, place = (int(i) for i in beyond.nonzero()[0])
            raise IdBeyondEmbedding(str(name), [int(i) for i in ids[beyond]], rows, (row, place))


def _keep(watch: Watch, inputs: Any) -> None:
    """The first batch, for later."""
    if watch.batch is None and isinstance(inputs, Mapping):
        watch.batch = {k: v.clone() if hasattr(v, "clone") else v for k, v in inputs.items()}


def trainable(model: Any) -> dict[str, Any]:
    """The parameters of a model that are to be trained."""
    return {n: p for n, p in model.named_parameters() if p.requires_grad}


def optimized(trainer: Any) -> dict[str, int]:
    """Tensors of the model, those to be trained, those of them that the optimizer holds, and those that it holds beside."""
    mine = trainable(trainer.model)
    inside = {id(p) for p in mine.values()}
    optimizer = getattr(trainer.optimizer, "optimizer", trainer.optimizer)
    held = {id(p) for g in getattr(optimizer, "param_groups", ()) for p in g["params"]}
    return {
        "tensors": sum(1 for _ in trainer.model.parameters()),
        "trainable": len(mine),
        "held": len(inside & held),
        "others_held": len(held - inside),
        "has_optimizer": int(optimizer is not None),
    }


def unchanged(before: Mapping[str, Any], model: Any) -> dict[str, Any]:
    """How many of the tensors to be trained are what they were, and some of their names."""
    now = trainable(model)
    same = [n for n, old in before.items() if n in now and bool((now[n].detach() == old).all())]
    return {"compared": len(before), "unchanged": len(same), "names": same[:5]}
