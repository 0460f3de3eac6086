"""A training run from settings to a verified model: rows in, guarded steps, the best weights out, everything released."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer

from llmguard.rows import Columns, Rows, turns_of
from llmguard_core.checkpoints import SaveOnSignal, newest, verify
from llmguard_core.collating import Collator
from llmguard_core.config import load_config, steps_of
from llmguard_core.encoding import Encoder, read_rows
from llmguard_core.errors import DataRefused
from llmguard_core.formats import format_for
from llmguard_core.loading import Loaded, load_named
from llmguard_core.packing import pack
from llmguard_core.settings import LoraSettings, RunConfig, TrainSettings
from llmguard_core.training.alarms import Alarm, Limits
from llmguard_core.training.arguments import arguments, lora_config
from llmguard_core.training.guards import Guards
from llmguard_core.training.heartbeat import Watchdog
from llmguard_core.training.monitoring import Monitor, png, read_metrics, svg
from llmguard_core.training.oom import one_clear_error
from llmguard_core.training.samples import sampler
from llmguard_core.training.trainer import CoreTrainer

__all__ = ["TrainResult", "finished", "sft", "train"]

_log = logging.getLogger(__name__)
TOKENIZER = "processing_class" if "processing_class" in Trainer.__init__.__annotations__ else "tokenizer"


@dataclass(frozen=True)
class TrainResult:
    """Optimizer steps done in all, the last metrics, the folder of the final model, and what the guards saw.

    `already_trained`: there was nothing left to do, and nothing was touched. `piece`: rows that went through the model at once.
    """

    steps: int
    metrics: dict[str, float]
    final: Path
    already_trained: bool = False
    alarms: tuple[Alarm, ...] = field(default=())
    piece: int | None = None


def train(
    model: Any,
    tokenizer: Any,
    rows: Sequence[Mapping[str, Any]],
    settings: TrainSettings,
    *,
    validation: Sequence[Mapping[str, Any]] | None = None,
    callbacks: Sequence[Any] = (),
    resume: bool = True,
    lora: LoraSettings | None = None,
    collator: Any = None,
) -> TrainResult:
    """Train `model` in place on encoded rows (`input_ids`, `labels`, `attention_mask` of ints) and save it to `output_dir/final`.

    With `method: lora` an adapter is added unless the model has one. With `validation` the best checkpoint's weights are the final
    ones. `resume`: go on from the newest whole checkpoint of `output_dir`. Give `accelerate launch` a script that calls this.

    Raises:
        DataRefused: the rows make no optimizer step; the message has the arithmetic.
        TrainingStopped: a guard stopped the run: NaN, infinite or zero steps, divergence. Nothing of it was saved.
        OutOfMemory: not even one row at a time fits.
        CheckpointError: the newest checkpoint's state is corrupt, or nothing can be written.
    """
    planned = steps_of(settings, len(rows), int(os.environ.get("WORLD_SIZE", "1")))
    if resume and (done := finished(settings, planned)):
        return done
    if settings.method == "lora" and not hasattr(model, "peft_config"):
        from peft import get_peft_model

        torch.manual_seed(settings.seed)
        model = get_peft_model(model, lora_config(lora or LoraSettings(), model))
    held_out = validation if validation is not None else rows
    return finish(
        lambda own: CoreTrainer(
            model=model, args=arguments(settings, model, validates=validation is not None), train_dataset=rows, eval_dataset=validation,
            data_collator=collator or Collator(tokenizer, dtype=model.dtype), callbacks=[*own, *callbacks], **{TOKENIZER: tokenizer},
        ),
        settings, resume, sampler(tokenizer, held_out, settings.samples) if settings.sample_steps else None,
    )  # fmt: skip


def finish(
    make: Callable[[list[Any]], Any],
    settings: TrainSettings,
    resume: bool,
    samples: Callable[[Any], Sequence[str]] | None,
) -> TrainResult:
    """Run the Trainer that `make(callbacks)` gives, to its saved end; whatever happens, nothing of it stays alive."""
    guards = Guards(
        Limits(patience=settings.early_stopping, sample_steps=settings.sample_steps), sampler=samples
    )
    monitor = Monitor(settings.output_dir / "metrics.jsonl", guards)
    guards.on_alarm = monitor.alarm
    watchdog = Watchdog(settings.hang_timeout, ends=True)
    return one_clear_error("training", lambda: _finish(make, settings, resume, (guards, watchdog, monitor)))


def _finish(
    make: Callable[[list[Any]], Any],
    settings: TrainSettings,
    resume: bool,
    watching: tuple[Guards, Watchdog, Monitor],
) -> TrainResult:
    guards, watchdog, monitor = watching
    trainer = None
    try:
        trainer = make([guards, watchdog, monitor, SaveOnSignal()])
        done = trainer.train(resume_from_checkpoint=resume or None)
        final = settings.output_dir / "final"
        trainer.save_model(str(final))
        if trainer.is_world_process_zero():
            _plot(monitor.path)
        metrics = {**_last(trainer.state.log_history), **done.metrics}
        return TrainResult(done.global_step, metrics, final, False, tuple(guards.alarms), trainer.piece)
    except BaseException as error:
        # who keeps the error shall not keep optimizer and activations
        traceback.clear_frames(error.__traceback__)
        raise
    finally:
        watchdog.stop()
        guards.release()
        if trainer is not None:
            _let_go(trainer)


def sft(config: RunConfig | Path | str) -> TrainResult:
    """Supervised fine-tuning as a config says: load, encode, verify, pack where asked, train, save.

    Raises:
        SettingsError, LoadRefused, DataRefused, CheckFailed: before anything is trained. And what `train` raises.
    """
    run = config if isinstance(config, RunConfig) else load_config(config, objective="sft")
    source, held_out = read_splits(run)
    loaded, encoder = prepare(run)

    def encoded(split: Any) -> Any:
        rows = encoder.rows(split)
        return pack(rows, run.train.max_length) if run.train.packing else rows

    validation = encoded(held_out) if held_out is not None else None
    return train(
        loaded.model, loaded.tokenizer, encoded(source), run.train, validation=validation, lora=run.lora
    )


def read_splits(run: RunConfig, *, pairs: bool = False) -> tuple[Rows, Rows | None]:
    """Training and validation rows, read before any model is loaded: an empty file is told in seconds.

    Raises:
        DataRefused: there are none, lines cannot be read, no row has its columns, or they make no optimizer step.
    """
    files = {"train": run.data.train, "validation": run.data.validation}
    found = {s: read_rows(files[s], columns_of(run), s) for s in files if files[s] or s == "train"}
    wanted = "chosen and rejected" if pairs else "prompt and response, or messages"
    for split, rows in found.items():
        right = rows.columns.preference or not pairs
        if not (right and any(turns_of(row, rows.columns) for row in rows.records)):
            keys = dict.fromkeys(str(key) for row in rows.records[:100] for key in row)
            raise DataRefused(
                f"none of {len(rows):,} rows can be read; their keys are {', '.join(keys)}",
                where=f"{split} data ({', '.join(map(str, files[split]))})",
                remedy=f"Give rows with texts, and name their columns under `data`: {wanted}.",
            )
    if not run.train.packing:
        steps_of(run.train, len(found["train"]), int(os.environ.get("WORLD_SIZE", "1")))
    return found["train"], found.get("validation")


def columns_of(run: RunConfig) -> Columns:
    """The columns that a config names."""
    d = run.data
    return Columns(d.prompt, d.response, d.messages, d.chosen, d.rejected, d.group)


def prepare(run: RunConfig, **encoding: Any) -> tuple[Loaded, Encoder]:
    """The loaded model of a run and the encoder of its rows."""
    m, t = run.model, run.train
    # rounding to bfloat16 would lose most of the small updates of weights that are trained themselves
    dtype = "float32" if (m.dtype, t.method) == ("auto", "full") else m.dtype
    loaded = load_named(m, dtype=dtype)
    told: dict[str, Any] = {
        "train_on": t.train_on,
        "overflow": t.overflow,
        "max_length": t.max_length,
        **encoding,
    }
    fmt = format_for(loaded.tokenizer, run.prompt.table, m.kind)
    return loaded, Encoder(loaded.tokenizer, fmt, columns=columns_of(run), **told)


def finished(settings: TrainSettings, planned: int) -> TrainResult | None:
    """What there is, if the newest whole checkpoint has all the planned steps and the final model is whole."""
    folder, final = newest(settings.output_dir), settings.output_dir / "final"
    if folder is None:
        return None
    state = json.loads((folder / "trainer_state.json").read_text("utf-8"))
    if state["global_step"] < planned or verify(final, resume=False):
        return None
    step = state["global_step"]
    _log.info(
        "already trained: %d of %d steps are done, %s is whole; nothing was touched", step, planned, final
    )
    return TrainResult(step, _last(state["log_history"]), final, already_trained=True)


def _let_go(trainer: Any) -> None:
    """Cut what a Trainer and its Accelerator hold, so that model, optimizer and gradients die with the caller's own names."""
    if trainer.model is not None:
        trainer.model.zero_grad(set_to_none=True)
    trainer.callback_handler.callbacks.clear()
    for held in (trainer, trainer.callback_handler):
        for name in (
            "model",
            "model_wrapped",
            "optimizer",
            "lr_scheduler",
            "train_dataloader",
            "eval_dataloader",
            "deepspeed",
        ):
            if hasattr(held, name):
                setattr(held, name, None)
    trainer.accelerator.free_memory()  # collects garbage and empties the caches


def _last(history: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The last value of each measurement."""
    found: dict[str, float] = {}
    for entry in history:
        found.update({k: v for k, v in entry.items() if isinstance(v, (int, float))})
    return found


def _plot(metrics: Path) -> None:
    with contextlib.suppress(OSError):  # a plot is not worth a run
        records = read_metrics(metrics)
        metrics.with_suffix(".svg").write_text(svg(records), "utf-8")
        png(records, metrics.with_suffix(".png"))
