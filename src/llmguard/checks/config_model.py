"""Checks on how a config fits its model: number format, context, length limits, the scale of the adapter."""

from __future__ import annotations

import math
from collections.abc import Iterator

from llmguard.checks.config import AnyConfig
from llmguard.configs.base import base_of
from llmguard.configs.config import Config, Setting, as_config
from llmguard.configs.libraries import library_of
from llmguard.configs.runs import Run, runs_of
from llmguard.contract import Yields, check
from llmguard.findings import Finding, Where, error, warning

__all__ = [
    "adapter_scaling_is_moderate",
    "max_length_agrees_with_the_project",
    "max_length_fits_the_model_context",
    "precision_settings_agree",
]

_MOST_SCALING = 64.0


@check
def precision_settings_agree(config: AnyConfig) -> Yields:
    """One number format is chosen, and it is one that the base model's weights survive."""
    found = as_config(config)
    for run in runs_of(found):
        fp16, bf16 = run.is_on("fp16"), run.is_on("bf16")
        if fp16 and bf16:
            yield error(
                run.settings["fp16"].where,
                what="fp16 and bf16 are both true",
                why="the Trainer refuses the pair, after everything is loaded",
                cause="a line added for another GPU, and the old one kept",
                remedy="keep `bf16: true` on Ampere and newer GPUs, `fp16: true` on older ones",
                expected="one of the two",
                actual="both",
            )
        elif fp16:
            yield from _half_of_bfloat(found, run)
    return len(found.settings)


def _half_of_bfloat(config: Config, run: Run) -> Iterator[Finding]:
    said = run.text("dtype") or ""
    base = base_of(config, run)
    model = said if said else base.dtype if base else ""
    if model.removeprefix("torch.") not in ("bfloat16", "bf16"):
        return
    source = "this config loads" if said else f"{base.file if base else ''} says"
    yield warning(
        run.settings["fp16"].where,
        what=f"fp16 is true for a model whose weights are bfloat16 ({source} {model})",
        why="bfloat16 values go beyond 65,504, the largest of fp16: the loss turns NaN after some steps, or an adapter stays empty",
        cause="a config written for another model, or for a GPU without bfloat16",
        remedy="set `bf16: true` and remove fp16; where the GPU has no bfloat16, watch the loss for NaN",
        expected="bf16",
        actual="fp16",
    )


@check
def max_length_fits_the_model_context(config: AnyConfig) -> Yields:
    """Rows are not longer than what the base model was made for (its own config.json)."""
    found, looked_at = as_config(config), 0
    for run in runs_of(found):
        length, base = run.number("max_length"), base_of(found, run)
        stretched = any(
            "rope" in name or name in ("overrides_of_model_config", "model_init_kwargs") for name in run.keys
        )
        if length is None or base is None or base.context is None or stretched:
            continue
        looked_at += 1
        if length > base.context:
            yield error(
                run.settings["max_length"].where,
                what=f"max_length is {length:g}, the model's context {base.context:,} tokens ({base.file}, {base.context_key})",
                why="positions beyond the context were never trained: the tail of long rows is noise, or the index is out of range",
                cause="a length taken over from a model with a longer context",
                remedy=f"set max_length to {base.context} or less, or extend the context on purpose (rope scaling)",
                expected=f"up to {base.context}",
                actual=f"{length:g}",
            )
    return looked_at


@check
def max_length_agrees_with_the_project(config: AnyConfig, max_length: int) -> Yields:
    """The config cuts rows where the project file says that they are cut."""
    found = as_config(config)
    for run in runs_of(found):
        setting = run.get("max_length")
        length = setting.number if setting else _default_length(run)
        if length is None or length == max_length:
            continue
        make = error if found.alone and setting else warning
        key = setting.item.name if setting else "max_length"
        whose = (
            f"`{key}` is {length:g}"
            if setting
            else f"max_length is not set, and {run.dialect} cuts at its default of {length:g} tokens"
        )
        yield make(
            setting.where if setting else Where(found.file, key="max_length"),
            what=f"{whose}, `[pipeline] max_length` of the project file {max_length}",
            why="rows are cut at another place than the checks assume: responses and terminators are lost, or seem to be",
            cause="one of the two was changed alone"
            if setting
            else "the trainer's default cuts without a word",
            remedy=f"write `{key}: {max_length}` here, or {length:g} in the project file",
            expected=str(max_length),
            actual=f"{length:g}",
        )
    return len(found.settings)


def _default_length(run: Run) -> float | None:
    """What TRL's supervised trainer cuts at when nothing is said: its own default, not the model's context."""
    if run.dialect != "trl" or run.objective not in ("sft", "") or run.is_on("packing"):
        return None
    library = library_of("trl")
    known = library.fields.get("max_length") if library and library.installed else None
    return known.default if known and isinstance(known.default, int) else None


@check
def adapter_scaling_is_moderate(config: AnyConfig) -> Yields:
    """alpha / r of a LoRA adapter is neither vanishing nor enormous."""
    found, looked_at = as_config(config), 0
    for run in runs_of(found):
        alpha, rank = run.get("lora_alpha"), run.number("lora_r")
        if alpha is None or alpha.number is None or not rank or rank < 1 or alpha.number <= 0:
            continue
        looked_at += 1
        scaling = alpha.number / (math.sqrt(rank) if run.keys.get("use_rslora") is True else rank)
        if not 1 / _MOST_SCALING <= scaling <= _MOST_SCALING:
            yield _scaling(alpha, rank, scaling)
    return looked_at


def _scaling(alpha: Setting, rank: float, scaling: float) -> Finding:
    return warning(
        alpha.where,
        what=f"lora_alpha {alpha.number:g} with rank {rank:g} scales the adapter by {scaling:g}",
        why="the scale multiplies the learning rate of the adapter: far above the usual 0.25 to 4 it diverges, far below it learns nothing",
        cause="alpha and rank exchanged, or a digit too many",
        remedy=f"set lora_alpha to about {2 * rank:g}",
        expected="alpha / r between 1/64 and 64, usually 0.25 to 4",
        actual=f"{scaling:g}",
    )
