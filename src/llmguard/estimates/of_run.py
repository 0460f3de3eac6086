"""A run of a training config as what decides about its memory; what the file does not say is counted both ways."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from llmguard.configs.base import Base
from llmguard.configs.config import Config
from llmguard.configs.libraries import library_of
from llmguard.configs.runs import Run
from llmguard.configs.sizes import plan_of, train_files_of
from llmguard.estimates.architecture import Architecture, architecture_of
from llmguard.estimates.interval import Interval
from llmguard.estimates.training import BYTES, Estimate, Training, estimate_training

__all__ = ["estimate_run", "model_of", "settings_of", "ways_out"]

_DEFAULT_LENGTH = {"trl": 1024, "llamafactory": 2048, "axolotl": 2048}
_MOST = 64_000_000
"""Bytes of data files that are looked through for their longest row."""
_BYTES_A_TOKEN = 12
"""No tokenizer of use takes more bytes of running text into one token; no byte makes more than one."""
_TEMPLATE = 128
"""Tokens that a template may add to a row."""
_MANY_DEVICES = (
    "deepspeed",
    "fsdp",
    "fsdp_config",
    "tensor_parallel_size",
    "device_map",
    "context_parallel_size",
)


def model_of(base: Base) -> Architecture | None:
    """The sizes of a base model, its parameters counted by the headers of its weights where they are there."""
    try:
        config = json.loads(base.file.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    model = architecture_of(config) if isinstance(config, dict) else None
    counted = _counted(base.file.parent) if model is not None and "quantization_config" not in config else 0
    return model.with_count(counted) if model is not None and counted else model


def _counted(folder: Path) -> int:
    from math import prod

    from llmguard.evidence.weights import read_weights

    problems: list[tuple[str, str]] = []
    try:
        tensors, _ = read_weights(folder, problems)
    except OSError:
        return 0
    return 0 if problems else sum(prod(tensor.shape) for tensor in tensors.values() if tensor.is_float)


def settings_of(config: Config, run: Run, model: Architecture, context: int | None) -> list[Training]:
    """What the file says; several readings where it leaves open what decides, none where a model lies on several devices."""
    if _said(config, *_MANY_DEVICES):
        return []
    plan = plan_of(config, run)
    told = Training(
        batch=plan.batch,
        length=_length(config, run, context),
        method="lora" if run.method in ("lora", "prompt") else "full",
        rank=int(run.number("lora_r") or (8 if run.dialect == "llamafactory" else 16)),
        targets=_targets(config),
        bits=_bits(run),
        optimizer=run.text("optim") or "adamw",
        accumulation=plan.accumulation,
        checkpointing=_checkpointing(run),
        fused_loss=any(run.keys.get(key) is True for key in ("use_liger_kernel", "enable_liger_kernel", "liger_fused_linear_cross_entropy"))
        or "chunked" in str(run.keys.get("loss_type")),
        eager_attention=run.keys.get("attn_implementation") == "eager",
        pairs=run.objective == "preference",
    )  # fmt: skip
    methods = ("lora", "full") if not run.method and run.dialect == "plain" else (told.method,)
    return [
        replace(told, method=method, weights=weights, compute=_autocast(run, weights))
        for method in methods
        for weights in _formats(run, model)
    ]


def estimate_run(model: Architecture, readings: list[Training], device: str) -> Estimate:
    """The estimate of a run; where its file can be read in several ways, the interval covers all of them."""
    found = [estimate_training(model, replace(reading, device=device)) for reading in readings]
    largest = max(found, key=lambda estimate: estimate.peak.high)
    low = min(estimate.peak.low for estimate in found)
    return replace(largest, peak=Interval(low, largest.peak.high))


def ways_out(model: Architecture, readings: list[Training], device: str, free: float) -> Iterator[str]:
    """Changes that would make the run fit for certain, the mildest first, each with what it would need."""
    run = max(readings, key=lambda reading: estimate_training(model, reading).peak.high)
    cheaper = replace(run, checkpointing=True)
    smaller = replace(cheaper, batch=1)
    changes = {
        "gradient checkpointing": cheaper,
        f"batch size 1 and accumulation {run.batch * run.accumulation}": replace(run, batch=1),
        "gradient checkpointing with batch size 1": smaller,
        "and a fused loss (Liger)": replace(smaller, fused_loss=True),
        "LoRA with gradient checkpointing and batch size 1": replace(smaller, method="lora"),
        "QLoRA (4 bits) with gradient checkpointing and batch size 1": replace(
            smaller, method="lora", bits=4
        ),
    }
    for words, change in changes.items():
        peak = estimate_training(model, replace(change, device=device)).peak
        if change != run and peak.high <= free:
            yield f"{words} ({peak.text})"


def _said(config: Config, *names: str) -> Any:
    """The value of the first of some keys that the file gives one, wherever it stands; lists and mappings too."""
    return next((item.value for item in config.document.items if item.name in names and item.value), None)


def _formats(run: Run, model: Architecture) -> list[str]:
    """Formats that the weights may be loaded in: as the file says, else as they are stored, or in 32 bits."""
    said = (run.text("dtype") or "").removeprefix("torch.")
    names = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32", "half": "float16"}
    said = names.get(said, said)
    if said in BYTES:
        return [said]
    stored = model.dtype.removeprefix("torch.")
    stored = stored if stored in BYTES else "float32"
    return [stored] if said == "auto" else list(dict.fromkeys((stored, "float32")))


def _autocast(run: Run, weights: str) -> str:
    return "bfloat16" if weights == "float32" and (run.is_on("bf16") or run.is_on("fp16")) else ""


def _bits(run: Run) -> int | None:
    if run.keys.get("load_in_4bit") is True or run.keys.get("adapter") == "qlora":
        return 4
    bits = run.keys.get("quantization_bit")
    return 8 if run.keys.get("load_in_8bit") is True else bits if bits in (4, 8) else None


def _targets(config: Config) -> tuple[str, ...]:
    said = _said(config, "target_modules", "lora_target_modules", "lora_target", "targets")
    names = [part.strip() for part in said.split(",")] if isinstance(said, str) else said
    if (
        not isinstance(names, list)
        or not names
        or names == ["all"]
        or _said(config, "lora_target_linear") is True
    ):
        return ("all-linear",)
    return tuple(str(name) for name in names)


def _checkpointing(run: Run) -> bool:
    setting = run.get("gradient_checkpointing")
    if setting is not None:
        return bool(setting.value)
    if run.dialect == "llamafactory":
        return run.keys.get("disable_gradient_checkpointing") is not True
    library = library_of(run.dialect)
    known = library.fields.get("gradient_checkpointing") if library is not None else None
    return bool(known is not None and known.default is True)


def _length(config: Config, run: Run, context: int | None) -> Interval:
    """Tokens of the longest row: no more than the limit, and no more than the data's longest row can have."""
    limit = run.number("max_length") or _DEFAULT_LENGTH.get(run.dialect) or context or 2048
    if run.is_on("packing") or run.keys.get("sample_packing") is True:
        return Interval(limit, limit)
    longest = _longest(train_files_of(config, run))
    if not longest:
        return Interval(min(limit, 1), limit)
    low, high = _text_bytes(longest) / _BYTES_A_TOKEN, len(longest) + _TEMPLATE
    return Interval(min(limit, max(1.0, low)), min(limit, high))


def _longest(files: list[Path]) -> bytes:
    """The longest line of JSON Lines files; nothing where there is none, or looking would take long."""
    try:
        if any(f.suffix not in (".jsonl", ".ndjson") or f.stat().st_size > _MOST for f in files):
            return b""
        return max(map(_longest_line, files), key=len, default=b"")
    except OSError:
        return b""


def _longest_line(file: Path) -> bytes:
    with file.open("rb") as lines:
        return max(lines, key=len, default=b"")


def _text_bytes(line: bytes) -> int:
    """Bytes of what a row trains on, other columns left out; 0 where its columns have no usual names."""
    from llmguard.rows import Columns, guess_columns

    try:
        row = json.loads(line)
    except ValueError:
        return 0
    if not isinstance(row, dict):
        return 0
    return sum(_bytes(row.get(name)) for name in guess_columns([row], Columns()).named.values())


def _bytes(value: object) -> int:
    if isinstance(value, str):
        return len(value.encode("utf-8", "surrogatepass"))
    return (
        sum(_bytes(part.get("content", part.get("value"))) for part in value if isinstance(part, dict))
        if isinstance(value, list)
        else 0
    )
