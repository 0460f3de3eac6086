"""What must hold between the settings of a run: steps, batches, lengths, adapter and method, each with its reason."""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from llmguard.configs.base import Base, base_of
from llmguard.configs.config import Config
from llmguard.configs.document import Document
from llmguard.configs.rules import RULES
from llmguard.configs.runs import Run
from llmguard.configs.sizes import count_rows
from llmguard_core.errors import DataRefused
from llmguard_core.settings import LoraSettings, RunConfig, TrainSettings

__all__ = ["Objective", "Problem", "problems_between", "steps_of"]

Objective = Literal["sft", "dpo", "evaluate", "compare", "queue"]
USUAL = {"full": 1e-3, "lora": 5e-3, "dpo": 5e-4}
HIGHEST = {"full": 1e-2, "lora": 1e-2, "dpo": 1e-3}
"""Rates above these are spoken of, and refused: published DPO runs lie at 5e-7 to 5e-5, LoRA runs at 1e-4 to 1e-3."""
WHOSE = {"full": "training of all weights", "lora": "LoRA", "dpo": "preference training (DPO)"}
SCALING = 64.0
LENGTHS = (128, 32_768)
BATCH = ("train.batch_size", "train.accumulation", "data.train")


@dataclass(frozen=True)
class Problem:
    """Settings that do not go together: the dotted key it is told at, a sentence with its remedy, the keys it was judged by."""

    key: str
    text: str
    reads: tuple[str, ...] = ()
    severe: bool = True


@dataclass(frozen=True)
class _Case:
    """What the rules look at. `given`: what the file itself says."""

    config: RunConfig
    given: Mapping[Any, Any]
    objective: Objective | None
    folder: Path

    def says(self, key: str) -> bool:
        """Whether the file gives a setting another value than it has anyway (a config written by a program may name them all)."""
        section, _, name = key.partition(".")
        table = self.given.get(section)
        fields = getattr(RunConfig.model_fields[section].annotation, "model_fields", {})
        return isinstance(table, dict) and table.get(name) not in (None, fields[name].default)

    @property
    def trains(self) -> bool:
        """Whether the run changes weights; without an objective it does where the file has a `train` section."""
        return self.objective in ("sft", "dpo", "queue") or (self.objective is None and "train" in self.given)

    @property
    def model(self) -> str | None:
        """The model of the run: MODEL_PATH in the environment wins."""
        return os.environ.get("MODEL_PATH") or self.config.model.path

    @property
    def base(self) -> Base | None:
        """What the model's config.json says, where it is on this machine."""
        config = Config("", Document(), roots=(self.folder,), model=self.model)
        return base_of(config, Run("", {}, {}, "plain"))

    @cached_property
    def rows(self) -> int | None:
        """Training rows, where counting is cheap and one row makes one example."""
        train = self.config.data.train
        if not train or self.config.train.packing or self.objective == "queue":
            return None
        counts = [count_rows(file) if file.is_file() else None for file in train]
        return None if None in counts else sum(count or 0 for count in counts)

    @cached_property
    def steps(self) -> int | DataRefused | None:
        """Optimizer steps of the run on one device, or why there are none."""
        if self.rows is None:
            return self.config.train.max_steps
        try:
            return steps_of(self.config.train, self.rows)
        except DataRefused as refused:
            return refused


def steps_of(settings: TrainSettings, rows: int, world: int = 1) -> int:
    """Optimizer steps of a run over so many rows (packed rows, where packed) on `world` devices.

    Raises:
        DataRefused: the rows do not fill one step, or there are none; the message has the arithmetic.
    """
    effective = settings.batch_size * settings.accumulation * world
    if rows < effective:
        devices = f" x {world} devices" if world > 1 else ""
        raise DataRefused(
            f"{rows:,} rows make 0 whole optimizer steps: {settings.batch_size} rows a batch x {settings.accumulation} "
            f"accumulated{devices} = {effective:,} rows a step",
            where="training data",
            remedy=f"bring at least {effective:,} rows, or lower train.batch_size x train.accumulation to {max(1, rows // world)} or less"
            if rows
            else "name files with rows under data.train",
        )
    if settings.max_steps is not None:
        return settings.max_steps
    return max(1, math.ceil(math.ceil(rows / effective) * settings.epochs))


def problems_between(
    config: RunConfig, given: Mapping[Any, Any], objective: Objective | None, folder: Path
) -> Iterator[Problem]:
    """Everything that does not go together, errors and advice."""
    case = _Case(config, given, objective, folder)
    for rule in (*_ALWAYS, *(_TRAINING if case.trains else ())):
        yield from rule(case)


def _needs(case: _Case) -> Iterator[Problem]:
    """What a command cannot do without, with the line to add."""
    data, evaluation, objective = case.config.data, case.config.evaluation, case.objective
    if objective in ("sft", "dpo", "queue") and not case.model:
        yield Problem("model.path", "no model is named; write a folder or hub id, or set MODEL_PATH")
    if objective in ("sft", "dpo") and not data.train:
        yield Problem(
            "data.train", 'there is nothing to train on; write `train: ["train.jsonl"]` below `data`'
        )
    if objective == "evaluate" and not (evaluation.items or data.test):
        yield Problem(
            "evaluation.items",
            "there is nothing to evaluate on; name files of items here, or `data.test`",
            ("data.test",),
        )
    if objective == "evaluate" and not (evaluation.models or case.model):
        yield Problem(
            "evaluation.models", "no model is named; write `models: {base: {path: …}}`", ("model.path",)
        )
    if objective == "queue" and case.config.queue.directory is None:
        yield Problem("queue.directory", "no folder is named; write `directory: queue` below `queue`")


def _installed(case: _Case) -> Iterator[Problem]:
    """Packages that a setting needs, said before a model is loaded."""
    wanted = (
        {"train.optimizer": "bitsandbytes"} if case.trains and "8bit" in case.config.train.optimizer else {}
    )
    if case.objective == "dpo":
        wanted["dpo"] = "trl"
    for key, package in wanted.items():
        if importlib.util.find_spec(package) is None:
            yield Problem(
                key, f"it needs the package {package}, which is not installed; run `pip install {package}`"
            )


def _places(case: _Case) -> Iterator[Problem]:
    """Folders that a command writes to, as far as they can be asked without writing."""
    named = {
        "evaluate": "evaluation.output_dir",
        "compare": "evaluation.output_dir",
        "queue": "queue.directory",
    }
    key = named.get(str(case.objective), "train.output_dir")
    section, _, name = key.partition(".")
    folder = getattr(getattr(case.config, section), name)
    if case.objective is None or folder is None:
        return
    there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    if not there.is_dir():
        yield Problem(key, f"{there} is a file, and a folder is needed; name another place")
    elif not os.access(there, os.W_OK | os.X_OK):
        yield Problem(
            key, f"{there} may not be written by this user; name another place, or change its owner"
        )


def _pairs(case: _Case) -> Iterator[Problem]:
    data = case.config.data
    if bool(data.chosen) != bool(data.rejected):
        key = "data.chosen" if data.chosen else "data.rejected"
        yield Problem(key, "preference rows have two responses; name both columns, `chosen` and `rejected`")


def _steps(case: _Case) -> Iterator[Problem]:
    train = case.config.train
    if train.max_steps is not None and case.says("train.epochs"):
        told = f"max_steps {train.max_steps} wins over epochs {train.epochs:g}; remove one of the two lines"
        yield Problem("train.max_steps", told, severe=False)
    if isinstance(case.steps, DataRefused):
        key = "train.accumulation" if case.says("train.accumulation") else "train.batch_size"
        yield Problem(key, f"{case.steps.what}; {case.steps.remedy}", BATCH)


def _warm_up(case: _Case) -> Iterator[Problem]:
    train, steps = case.config.train, case.steps
    if train.warmup_steps is None and train.warmup_ratio > 0.5:
        told = f"{train.warmup_ratio:g} of the run is warm-up, the full rate is hardly reached; usual is 0.03 to 0.1"
        yield Problem("train.warmup_ratio", told, severe=False)
    if train.warmup_steps is None:
        return
    if case.says("train.warmup_ratio"):
        told = (
            "warmup_ratio and warmup_steps are both given, and only one can hold; remove one of the two lines"
        )
        yield Problem("train.warmup_ratio", told, ("train.warmup_steps",))
    if isinstance(steps, int) and train.warmup_steps >= steps:
        told = (
            f"warm-up takes {train.warmup_steps} steps of {steps}: the rate never reaches {train.learning_rate:g}; "
            f"write {max(1, steps // 10)} or less"
        )
        yield Problem("train.warmup_steps", told, (*BATCH, "train.epochs", "train.max_steps"))


def _evaluation(case: _Case) -> Iterator[Problem]:
    train, every = case.config.train, case.config.train.eval_steps
    reads = ("train.eval_steps", "train.early_stopping", "train.save_steps", "data.validation")
    key = "train.early_stopping" if train.early_stopping else "train.eval_steps"
    if (every or train.early_stopping) and not case.config.data.validation:
        yield Problem(key, "there are no validation rows; name their files under `data.validation`", reads)
    if train.early_stopping and not every:
        yield Problem(
            key, "early stopping looks at evaluations, and none is planned; write `eval_steps: 50`", reads
        )
    if train.early_stopping and every and (train.save_steps or every) % every:
        told = (
            f"save_steps {train.save_steps} is no multiple of eval_steps {every}: the checkpoint that evaluates best "
            f"would not be there to go back to; write `save_steps: {every}`"
        )
        yield Problem("train.save_steps", told, reads)


def _length(case: _Case) -> Iterator[Problem]:
    length, base, (low, high) = case.config.train.max_length, case.base, LENGTHS
    if case.says("train.max_length") and not low <= length <= high:
        told = f"{length:,} tokens are outside the usual {low} to {high:,}: short rows lose responses, long ones run out of memory"
        yield Problem("train.max_length", told, severe=False)
    if base is not None and base.context is not None and length > base.context:
        told = (
            f"it is {length:,}, the model's context {base.context:,} tokens ({base.file}, {base.context_key}): positions "
            f"beyond it were never trained; write {base.context} or less"
        )
        yield Problem("train.max_length", told, ("model.path",))


def _rate(case: _Case) -> Iterator[Problem]:
    train = case.config.train
    rate, method = train.learning_rate, "dpo" if case.objective == "dpo" else train.method
    lowest = RULES["learning_rate"]
    if rate < lowest.low and method != "dpo":
        yield Problem(
            "train.learning_rate", f"it is {rate:g}, outside {lowest.range}: {lowest.why}", ("train.method",)
        )
    if rate > USUAL[method]:
        severe = rate > HIGHEST[method]
        told = (
            f"it is {rate:g}, {'too high' if severe else 'high'} for {WHOSE[method]} (usual: up to {USUAL[method]:g}): "
            "the loss diverges, or the model forgets what it knew; lower it tenfold"
        )
        yield Problem("train.learning_rate", told, ("train.method",), severe)


def _adapter(case: _Case) -> Iterator[Problem]:
    train, lora = case.config.train, case.config.lora
    if train.method == "full":
        if lora != LoraSettings():
            told = "method is full: all weights are trained and this section does nothing; remove it, or write `method: lora`"
            yield Problem("lora", told, ("train.method",))
        return
    scaling = lora.alpha / (math.sqrt(lora.rank) if lora.rslora else lora.rank)
    if not 1 / SCALING <= scaling <= SCALING:
        told = (
            f"alpha {lora.alpha:g} with rank {lora.rank} scales the adapter, and with it the rate, by {scaling:g} "
            f"(usual: 0.25 to 4); set alpha to about {2 * lora.rank}"
        )
        yield Problem(
            "lora.alpha" if case.says("lora.alpha") else "lora.rank", told, ("lora", "train.method")
        )


def _numbers(case: _Case) -> Iterator[Problem]:
    train, loaded = case.config.train, case.config.model.dtype
    if train.dtype == "float16" and loaded == "float16" and train.method == "full":
        told = "gradients of float16 weights cannot be unscaled: the first step is refused; write `dtype: float32` below `model`"
        yield Problem("train.dtype", told, ("model.dtype", "train.method"))
    if train.dtype == "float16" and loaded == "bfloat16":
        told = "bfloat16 weights go beyond 65,504, the largest float16: the loss turns NaN; write `dtype: bfloat16`"
        yield Problem("train.dtype", told, ("model.dtype",))
    if case.objective == "dpo" and train.packing:
        told = "pairs cannot be packed, chosen and rejected are compared row by row; write `packing: false`"
        yield Problem("train.packing", told)


_ALWAYS: tuple[Callable[[_Case], Iterator[Problem]], ...] = (_needs, _installed, _places, _pairs)
_TRAINING = (_steps, _warm_up, _evaluation, _length, _rate, _adapter, _numbers)
