"""Preference training (DPO) through TRL, on pairs that this core has encoded: the ids that generation will use, the terminator in both."""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from llmguard.encoded import IGNORE_INDEX
from llmguard_core.checkpoints import VerifiedTrainer
from llmguard_core.config import load_config, steps_of
from llmguard_core.errors import DataRefused
from llmguard_core.settings import DpoSettings, LoraSettings, RunConfig, TrainSettings
from llmguard_core.training.arguments import arguments, lora_config
from llmguard_core.training.run import TrainResult, finish, finished, prepare, read_splits
from llmguard_core.training.samples import sampler
from llmguard_core.training.trainer import Batch, InPieces

if TYPE_CHECKING:
    from llmguard_core.encoding import Encoder

__all__ = ["dpo", "encode_pairs", "train_pairs"]

_log = logging.getLogger(__name__)
Pair = dict[str, list[int]]


def dpo(config: RunConfig | Path | str) -> TrainResult:
    """Preference training as a config says: load, encode pairs, check them, train against the model as it was, save.

    Raises:
        SettingsError, LoadRefused, DataRefused, CheckFailed: before anything is trained. And what `train` raises.
    """
    run = config if isinstance(config, RunConfig) else load_config(config, objective="dpo")
    source, held_out = read_splits(run, pairs=True)
    loaded, encoder = prepare(run, train_on="last")
    strict = run.train.overflow == "error"
    pairs = encode_pairs(encoder, source, strict=strict)
    validation = encode_pairs(encoder, held_out, strict=strict) if held_out is not None else None
    return train_pairs(
        loaded.model, loaded.tokenizer, pairs, run.train, validation=validation, dpo=run.dpo, lora=run.lora
    )


def encode_pairs(encoder: Encoder, rows: Any, *, strict: bool = False) -> list[Pair]:
    """`prompt_ids`, `chosen_ids`, `rejected_ids` of each pair that can be trained on; those left out are told with the reason.

    Raises:
        DataRefused: no pair is left; with `strict`, any pair was left out.
        CheckFailed: chosen and rejected are the same text, answer different prompts, or repeat their prompt.
    """
    import llmguard
    from llmguard.rows import as_rows, turns_of

    source = as_rows(rows)
    for check in (
        llmguard.chosen_differs_from_rejected,
        llmguard.pairs_share_their_prompt,
        llmguard.pairs_do_not_repeat_their_prompt,
    ):
        llmguard.require(check(source))
    found: list[Pair] = []
    left_out: dict[str, list[int]] = {}
    for number, row in enumerate(source.records):
        try:
            sides = [
                encoder.encode_turns(turns_of(row, source.columns, s) or (), number)
                for s in ("chosen", "rejected")
            ]
            found.append(_pair(sides))
        except DataRefused as refused:
            left_out.setdefault(refused.what, []).append(number)
    told = "; ".join(f"{len(n):,} left out: {reason} (first: row {n[0]})" for reason, n in left_out.items())
    _log.info("%d pairs%s", len(found), f"; {told}" if told else "")
    if not found or (strict and left_out):
        raise DataRefused(
            f"{len(found):,} of {len(source.records):,} pairs can be trained on; {told}",
            where="preference pairs",
        )
    return found


def _pair(sides: Sequence[Any]) -> Pair:
    starts = [
        next((i for i, label in enumerate(s.labels) if label != IGNORE_INDEX), len(s.labels)) for s in sides
    ]
    prompts = [list(s.input_ids[:start]) for s, start in zip(sides, starts, strict=True)]
    if prompts[0] != prompts[1]:
        raise DataRefused("their prompts differ once they are cut to max_length")
    chosen, rejected = (list(s.input_ids[start:]) for s, start in zip(sides, starts, strict=True))
    return {"prompt_ids": prompts[0], "chosen_ids": chosen, "rejected_ids": rejected}


def train_pairs(
    model: Any,
    tokenizer: Any,
    pairs: Sequence[Pair],
    settings: TrainSettings,
    *,
    validation: Sequence[Pair] | None = None,
    dpo: DpoSettings | None = None,
    lora: LoraSettings | None = None,
    callbacks: Iterable[Any] = (),
    resume: bool = True,
) -> TrainResult:
    """Train on encoded pairs; as `train`, with the model as it is now for reference.

    Raises:
        ImportError: TRL is not installed (`pip install "pytest-llmguard[trl]"`). And what `train` raises.
    """
    import datasets
    import trl

    told, planned = (
        dpo or DpoSettings(),
        steps_of(settings, len(pairs), int(os.environ.get("WORLD_SIZE", "1"))),
    )
    if resume and (done := finished(settings, planned)):
        return done
    args = arguments(
        settings, model, validates=validation is not None, kind=trl.DPOConfig, beta=told.beta,
        label_smoothing=told.label_smoothing, loss_type=told.loss, max_length=None, max_prompt_length=None,
    )  # fmt: skip
    adapts = settings.method == "lora" and not hasattr(model, "peft_config")
    has_own_reference = adapts or hasattr(model, "peft_config")
    reference = None if has_own_reference else copy.deepcopy(model).eval()
    held_out = [_as_row(p) for p in (validation or pairs)[: settings.samples]]
    trainer = _trainer_class(trl.DPOTrainer)
    return finish(
        lambda own: trainer(
            model=model, ref_model=reference, args=args, train_dataset=datasets.Dataset.from_list(list(pairs)),
            eval_dataset=datasets.Dataset.from_list(list(validation)) if validation is not None else None,
            processing_class=tokenizer, peft_config=lora_config(lora or LoraSettings(), model) if adapts else None,
            callbacks=[*own, *callbacks],
        ),
        settings, resume, sampler(tokenizer, held_out, settings.samples) if settings.sample_steps else None,
    )  # fmt: skip


def _as_row(pair: Pair) -> Mapping[str, Any]:
    prompt, chosen = pair["prompt_ids"], pair["chosen_ids"]
    return {"input_ids": prompt + chosen, "labels": [IGNORE_INDEX] * len(prompt) + chosen}


def _trainer_class(base: Any) -> Any:
    class PairTrainer(InPieces, VerifiedTrainer, base):  # type: ignore[misc]  # TRL ships no types
        """TRL's DPOTrainer with this core's ids, steps and checkpoints; each pair of an optimizer step counts alike."""

        _pairs: int | None = None

        def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset  # encoded already

        def rows_in(self, inputs: Mapping[str, Any]) -> int:
            return len(inputs["input_ids"]) // 2  # TRL stacks the chosen ones on the rejected ones

        def cut(self, inputs: Mapping[str, Any], start: int, end: int) -> Batch:
            rows = self.rows_in(inputs)
            return {k: _of_pairs(v, rows, start, end) for k, v in inputs.items()}

        def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
            batches, items = super().get_batch_samples(*args, **kwargs)
            self._pairs = sum(map(self.rows_in, batches))
            return batches, items

        def compute_loss(self, model: Any, inputs: Batch, return_outputs: bool = False, **more: Any) -> Any:
            found = super().compute_loss(model, inputs, return_outputs, **more)
            if not model.training or not self._pairs:
                return found
            batches = getattr(
                self, "current_gradient_accumulation_steps", self.args.gradient_accumulation_steps
            )
            weight = self.rows_in(inputs) * batches / self._pairs
            return (found[0] * weight, found[1]) if return_outputs else found * weight

    return PairTrainer


def _of_pairs(value: Any, rows: int, start: int, end: int) -> Any:
    if not isinstance(value, torch.Tensor) or not value.ndim:
        return value
    if len(value) == rows:  # the reference's log-probabilities have one row a pair
        return value[start:end]
    return torch.cat([value[start:end], value[rows + start : rows + min(end, rows)]])
