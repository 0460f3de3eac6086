"""What is told of a step that went wrong: the batch as it was, the memory that was needed and the memory that there is."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import torch

from llmguard.estimates import Interval, Training, architecture_of, estimate_training
from llmguard_core.memory import pick_device

__all__ = ["dump", "room"]

LOOKING = 10.0  # seconds to look for a batch's rows in the data


def dump(
    output_dir: str, step: int, reason: str, batch: dict[str, Any], dataset: Any, tokenizer: Any
) -> Path:
    """Write a batch as JSON: each row with its number in the data, ids, labels and text; gives the file.

    A disk that is full hides nothing: the file's name then says why it is not there.
    """
    file = Path(output_dir) / f"stopped-at-step-{step}-process-{os.environ.get('RANK', '0')}.json"
    tables = {k: v.tolist() for k, v in batch.items() if _is_table(v)}
    ids = tables.get("input_ids", [])
    rows = [{"row": None, **{k: v[i] for k, v in tables.items() if i < len(v)}} for i in range(len(ids))]
    for row, number in zip(rows, _numbers(ids, tables.get("attention_mask"), dataset), strict=True):
        row["row"] = number
        if tokenizer is not None:
            row["text"] = tokenizer.decode(row["input_ids"])
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(
            json.dumps({"step": step, "reason": reason, "rows": rows}, ensure_ascii=False), "utf-8"
        )
    except OSError as error:
        return Path(f"(not written: {error})")
    return file


def room(model: Any, args: Any, tokens: int) -> str:
    """What one row of so many tokens needs, by the estimate from the model's config, against what there is."""
    device = pick_device(args.device)
    sizes = architecture_of(model.config.to_dict())
    if sizes is None:
        return f"There is: {device}."
    run = Training(
        batch=1, length=Interval(tokens, tokens), method="lora" if hasattr(model, "peft_config") else "full",
        weights=str(model.dtype).removeprefix("torch."), compute="bfloat16" if args.bf16 else "", device="cpu" if device.on_cpu else "gpu",
        checkpointing=bool(getattr(args, "activation_checkpointing", None) or getattr(args, "gradient_checkpointing", None)),
    )  # fmt: skip
    return f"A step needs about {estimate_training(sizes, run).peak.text}. There is: {device}."


def _is_table(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.ndim == 2 and not value.is_floating_point()


def _numbers(ids: list[list[int]], masks: list[list[int]] | None, dataset: Any) -> list[int | None]:
    """Where the rows of a batch stand in the data: the padding taken off, and looked for by their ids."""
    bare = [_bare(row, masks[i] if masks else None) for i, row in enumerate(ids)]
    found: dict[tuple[int, ...], int] = {}
    until = time.monotonic() + LOOKING
    try:
        for number in range(len(dataset)):
            row = dataset[number]
            found.setdefault(tuple(row["input_ids"]), number)
            if time.monotonic() > until:
                break
    except (TypeError, KeyError, IndexError):  # a stream, or rows of another kind
        return [None] * len(ids)
    return [found.get(tuple(row)) for row in bare]


def _bare(row: list[int], mask: list[int] | None) -> list[int]:
    return row if mask is None else [t for t, kept in zip(row, mask, strict=True) if kept]
