"""Adapters: whole, trained, of this base, newer than the data."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from llmguard.contract import Yields, check
from llmguard.evidence.adapter import Adapter
from llmguard.evidence.model import ModelFolder
from llmguard.findings import Where, error, note, warning
from llmguard.project import Project

__all__ = [
    "adapter_belongs_to_its_base",
    "adapter_files_are_whole",
    "adapter_is_newer_than_its_data",
    "adapter_is_trained",
    "adapter_keeps_added_tokens",
]

BYTES_READ = 2**30
"""Weights beyond this size are not read for zeros and NaN at preflight."""


@check
def adapter_files_are_whole(adapter: Adapter) -> Yields:
    """The adapter's folder exists and holds adapter_config.json and whole safetensors weights, of an adapter and not of a model."""
    for file, what in adapter.problems:
        if adapter.legacy and file.endswith(".safetensors"):
            yield note(
                Where(file=f"{adapter.name}/adapter_model.bin"),
                what="the adapter's weights are a pickle, which is not read here",
                remedy="save it again with PEFT of today (safe_serialization=True)",
            )
            continue
        yield error(
            Where(
                file=adapter.name if file == adapter.name else f"{adapter.name}/{file}", key="model.adapter"
            ),
            what=f"{file} {what}",
            why="evaluation would fail, or silently measure the base model or another run's adapter",
            cause="a wrong path, a run that failed before it saved, or a copy that was cut off",
            remedy=(
                "point `[model] adapter` at the folder that the run saved, and compare its time with the "
                "run's"
            ),
        )
    full = [
        n
        for n in adapter.tensors
        if not re.search(
            r"lora_|ia3|prompt_|modules_to_save|vera_|oft_|hada_|lokr_|boft_|embed|lm_head|base_model", n
        )
    ]
    if full and len(full) == len(adapter.tensors):
        yield error(
            Where(file=adapter.name, key="model.adapter"),
            what=f"the folder holds a whole model's {len(full)} tensors ({full[0]} …), not an adapter's",
            why="PEFT finds none of its keys in it: the model stays as it is, with a warning only",
            cause="a full checkpoint passed as adapter",
            remedy="load it as a model, or name the adapter's folder",
        )
    return 1 + len(adapter.tensors)


@check
def adapter_is_trained(adapter: Adapter) -> Yields:
    """The adapter changes something: not all of its B matrices are zero, none is empty, all values are finite.

    Values are read from files under 1 GiB; larger ones are judged by shape alone.
    """
    where = Where(file=adapter.name, key="model.adapter")
    empty = [t.name for t in adapter.tensors.values() if t.empty]
    if empty:
        yield error(
            where,
            what=f"{len(empty)} of {len(adapter.tensors)} tensors are empty ({empty[0]} …)",
            why="the adapter has no weights there: evaluation equals the base model",
            cause="saved under ZeRO-3 while parameters were partitioned (peft#453)",
            remedy=(
                "gather parameters before saving (stage3_gather_16bit_weights_on_model_save), and save again"
            ),
        )
    if sum(t.stop - t.start for t in adapter.tensors.values()) > BYTES_READ or not adapter.tensors:
        return len(adapter.tensors)
    zero = [t for t in adapter.b_tensors if not t.empty and t.is_zero()]
    if adapter.b_tensors and len(zero) == len([t for t in adapter.b_tensors if not t.empty]) and zero:
        yield error(
            where,
            what=f"all {len(zero)} B matrices are zero: the adapter does nothing",
            why="the model with it answers like the base model, token for token",
            cause=(
                "the adapter of a failed run, one saved before its first step, or a wrapped twice model "
                "whose trained weights are elsewhere (peft#2115)"
            ),
            remedy=(
                "load the adapter of the run that you mean; after training, compare logits with the "
                "adapter on and off"
            ),
            expected="at least one B matrix that is not zero",
            actual="all zero",
        )
    broken = [t.name for t in adapter.tensors.values() if not t.is_finite()]
    if broken:
        yield error(
            where,
            what=(
                f"{len(broken)} of {len(adapter.tensors)} tensors hold NaN or infinite values ({broken[0]} …)"
            ),
            why="every output of the model is NaN, or the first token of its vocabulary",
            cause="a loss that became NaN (logged as 0.0) before the adapter was saved",
            remedy="do not use it; look for the step at which the loss became NaN",
        )
    return len(adapter.tensors)


@check
def adapter_belongs_to_its_base(adapter: Adapter, model: ModelFolder) -> Yields:
    """The adapter was trained on this base: its name (a moved folder is fine), its width, the modules it names."""
    where = Where(file=f"{adapter.name}/adapter_config.json", key="base_model_name_or_path")
    wrong = _wrong_shapes(adapter, model)
    if wrong:
        yield error(
            where,
            what=(
                f"{wrong}; the adapter says that it was trained on {adapter.base!r}, the project's model "
                f"is {model.name!r}"
            ),
            why="the adapter cannot be applied to this model, or only in part and without a word",
            cause="the adapter of another base model",
            remedy="name the base that it was trained on, or the adapter of this base",
            expected=model.name,
            actual=adapter.base,
        )
    elif adapter.base and not _same_name(adapter.base, model):
        yield (warning if model.tensors else note)(
            where,
            what=(
                f"the adapter says that it was trained on {adapter.base!r}, the project's model is "
                f"{model.name!r}; the shapes agree"
            ),
            why=(
                "an adapter on another base of the same shape (base and instruct, stage 0 and stage 2) "
                "runs, and means nothing"
            ),
            cause="a base of another stage or sibling, or a renamed folder",
            remedy="check that both are the same weights; if so, set base_model_name_or_path",
            expected=model.name,
            actual=adapter.base,
        )
    return len(adapter.tensors)


def _same_name(base: str, model: ModelFolder) -> bool:
    told = {Path(base).name.lower(), base.lower()}
    here = {
        Path(model.name).name.lower(),
        model.name.lower(),
        str(model.config.get("_name_or_path", "")).lower(),
    }
    same_place = (
        model.path is not None and Path(base).exists() and Path(base).resolve() == model.path.resolve()
    )
    return same_place or bool(told & here)


def _wrong_shapes(adapter: Adapter, model: ModelFolder) -> str:
    modules: dict[str, dict[str, Any]] = {}
    for name, tensor in adapter.tensors.items():
        found = re.match(r"(?:base_model\.model\.)?(.*?)\.(lora_A|lora_B)(?:\.\w+)?\.weight$", name)
        if found:
            modules.setdefault(found.group(1), {})[found.group(2)] = tensor.shape
    if model.tensors:
        unknown = [m for m in modules if f"{m}.weight" not in model.tensors]
        if unknown:
            return f"{len(unknown)} of {len(modules)} adapted modules are not in this model ({unknown[0]} …)"
        for module, shapes in modules.items():
            rows, columns = model.tensors[f"{module}.weight"].shape[:2]
            a, b = shapes.get("lora_A"), shapes.get("lora_B")
            if (a and a[-1] not in (rows, columns)) or (b and b[0] not in (rows, columns)):
                return f"{module} is {rows} x {columns} in this model, and the adapter's matrices are A {a} and B {b}"
        return ""
    widths = {
        s["lora_A"][-1]
        for m, s in modules.items()
        if "lora_A" in s
        and m.endswith(("q_proj", "k_proj", "v_proj", "c_attn", "query_key_value", "qkv_proj"))
    }
    if model.width and widths and model.width not in widths:
        return f"the adapter's attention modules are {min(widths)} wide, this model {model.width}"
    return ""


@check
def adapter_is_newer_than_its_data(adapter: Adapter, project: Project) -> Yields:
    """The adapter was saved after the training data were last changed; a warning where it is older (by more than a minute)."""
    files = [f for f in project.files("train") if f.exists()]
    newest = max((f.stat().st_mtime for f in files), default=None)
    if newest is not None and adapter.changed is not None and newest - adapter.changed > 60:
        yield warning(
            Where(file=adapter.name, key="model.adapter"),
            what=f"the adapter is older than the training data, by {_age(newest - adapter.changed)}",
            why="it was not trained on the data as they are now: a result of another run is judged",
            cause="the path of an earlier run, or data that were changed (or copied anew) after training",
            remedy="check which run the adapter is of; train again if the data changed",
        )
    return len(files)


def _age(seconds: float) -> str:
    days, hours = divmod(int(seconds) // 3600, 24)
    return f"{days} days" if days else f"{hours} hours" if hours else f"{int(seconds) // 60} minutes"


@check
def adapter_keeps_added_tokens(adapter: Adapter, model: ModelFolder, tokenizer: Any) -> Yields:
    """Tokens that were added to the tokenizer are trained and saved with the adapter (peft#1147).

    Vocabularies padded beyond the tokenizer are usual; only more tokens than the base has rows are judged.
    """
    rows = model.embedding_rows
    added = len(tokenizer) - rows if rows is not None else 0
    saved = any(
        "embed_tokens" in n or "wte" in n or "embed_in" in n or "lm_head" in n for n in adapter.tensors
    )
    told = adapter.config.get("modules_to_save") or adapter.config.get("trainable_token_indices")
    if added > 0 and not (saved or told):
        yield error(
            Where(file=adapter.name, key="modules_to_save"),
            what=(
                f"the tokenizer has {added} more tokens than the base has embedding rows "
                f"({len(tokenizer):,} against {rows:,}), and the adapter saves no embedding"
            ),
            why=(
                "the new rows are made anew, at random, whenever the model is loaded: special tokens "
                "behave at random"
            ),
            cause="resize_token_embeddings without modules_to_save",
            remedy='add "embed_tokens" and "lm_head" to modules_to_save (or trainable_token_indices), and train again',
        )
    return 1
