"""The stages of a dry run once the trainer is built: batches, two steps, resumed, evaluated, a few tokens, one batch by heart."""

from __future__ import annotations

import contextlib
import copy
import itertools
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmguard.collect.dry_run_arguments import rows_of_steps
from llmguard.collect.dry_run_small import EVALUATED
from llmguard.collect.dry_run_watch import (
    STEPS,
    embedding_rows,
    look_at_ids,
    optimized,
    plain,
    trainable,
    unchanged,
    watched,
)
from llmguard.probe import step

if TYPE_CHECKING:
    from llmguard.collect.dry_run import DryRun

__all__ = ["Stopped", "stages"]

COLLATIONS = 16
OVERFIT_STEPS, OVERFIT_LEAST, OVERFIT_SECONDS, RATE = 8, 4, 6.0, 1e-2
ONLINE = (
    "GRPOTrainer",
    "RLOOTrainer",
    "PPOTrainer",
    "OnlineDPOTrainer",
    "XPOTrainer",
    "NashMDTrainer",
    "AsyncGRPOTrainer",
)
"""Trainers whose loss is no measure of what was learnt: nothing is expected to fall."""


class Stopped(Exception):
    """A stage failed, and those that stand on it cannot be."""


def stages(run: DryRun, trainer: Any, factory: dict[str, Any]) -> None:
    """Everything after the build; what a stage raises is in `run`, and what stands on it is left out.

    Raises:
        Stopped: one failed that all others stand on.
    """
    run.cut(trainer, "eval_dataset", EVALUATED)
    with run.stage("collate", factory):
        _collated(trainer)
    run.cut(trainer, "train_dataset", rows_of_steps(trainer.args, STEPS))
    watched(trainer, run.watch)
    before = {n: p.detach().clone() for n, p in trainable(trainer.model).items()}
    try:
        with run.stage("train", factory):
            trainer.train()
    finally:
        run.found["train"] = run.watch.to_json()
        run.found["parameters"] = optimized(trainer)
    run.found["changes"] = unchanged(before, trainer.model)
    batch = run.watch.batch
    for part in (_resumed, _evaluated, _generated, _overfitted):
        if run.left() < 0:
            run.found["notes"]["time"] = f"no time was left for {part.__name__.strip('_')}"
            return
        with contextlib.suppress(Stopped):
            part(run, trainer, factory, batch)


def _collated(trainer: Any) -> None:
    """More rows than are trained on, as batches: that costs little, and rows of a form that few have are among them."""
    rows = embedding_rows(trainer.model)
    for number, batch in enumerate(itertools.islice(trainer.get_train_dataloader(), COLLATIONS)):
        step(f"collate: batch {number + 1}")
        look_at_ids(batch, rows)


def _resumed(run: DryRun, trainer: Any, factory: dict[str, Any], _: Any) -> None:
    """From the checkpoint of the first step to the second."""
    folder = Path(trainer.args.output_dir) / "checkpoint-1"
    if run.found["train"]["ended"] < 2 or getattr(trainer.args, "save_only_model", False):
        run.found["notes"]["resume"] = "not tried: save_only_model is set, or the run made one step only"
        return
    again = run.watch
    again.losses, again.steps, again.logs, again.rates, again.began, again.ended = [], [], [], [], -1, -1
    try:
        with run.stage("resume", factory):
            trainer.train(resume_from_checkpoint=str(folder))
    finally:
        run.found["resume"] = again.to_json()


def _evaluated(run: DryRun, trainer: Any, factory: dict[str, Any], _: Any) -> None:
    failed = any(f["stage"] == "evaluate" for f in run.found["failed"])
    if getattr(trainer, "eval_dataset", None) is None or failed:
        return
    with run.stage("evaluate", factory):
        found = trainer.evaluate()
    numbers = {k: plain(float(v)) for k, v in dict(found or {}).items() if isinstance(v, (int, float))}
    run.found["evaluation"] = numbers


def _generated(run: DryRun, trainer: Any, factory: dict[str, Any], batch: Any) -> None:
    import torch

    model, ids = trainer.model, (batch or {}).get("input_ids")
    if ids is None or ids.ndim != 2 or not getattr(model, "can_generate", lambda: False)():
        return
    with run.stage("generate", factory), torch.inference_mode():
        model.eval()
        asked = ids[:1, :8].clamp(min=0)
        model.generate(
            input_ids=asked, attention_mask=torch.ones_like(asked), max_new_tokens=4, do_sample=False
        )


def _overfitted(run: DryRun, trainer: Any, factory: dict[str, Any], batch: Any) -> None:
    """One batch, learnt by heart by an optimizer of our own, without dropout: the losses."""
    import torch

    wanted = list(trainable(trainer.model).values())
    if batch is None or not wanted or any(c.__name__ in ONLINE for c in type(trainer).__mro__):
        return
    optimizer = torch.optim.AdamW(wanted, lr=RATE, weight_decay=0.0)
    losses: list[float | str] = []
    began = time.monotonic()
    with run.stage("overfit", factory):
        trainer.model.eval()
        for _ in range(OVERFIT_STEPS):
            if len(losses) >= OVERFIT_LEAST and (
                time.monotonic() - began > OVERFIT_SECONDS or run.left() < 0
            ):
                break
            loss = _loss(trainer, batch)
            losses.append(plain(float(loss.detach())))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    run.found["overfit"] = losses


def _loss(trainer: Any, batch: Mapping[str, Any]) -> Any:
    inputs = trainer._prepare_inputs(
        {k: v.clone() if hasattr(v, "clone") else copy.copy(v) for k, v in batch.items()}
    )
    return trainer.compute_loss(trainer.model, inputs)
