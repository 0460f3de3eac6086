"""What is kept of a step that went wrong: the batch as it was, and how much memory is in use."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import torch

__all__ = ["dump", "used_memory"]

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


def used_memory(model: Any) -> int:
    """Bytes that the model's device has allocated for this process; on a CPU, what the process holds."""
    device = next(model.parameters()).device
    if device.type == "cuda":
        return int(torch.cuda.memory_allocated(device))
    if device.type == "mps":
        return int(torch.mps.current_allocated_memory())
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:  # not Linux
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


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


def empty_cache() -> None:
    """Give what the allocators of the devices hold without need back."""
    for name in ("cuda", "mps", "xpu"):
        module = getattr(torch, name, None)
        if module is not None and module.is_available():
            module.empty_cache()


def described_memory() -> str:
    """`allocated 10.2, reserved 11.0, free 0.4 of 24.0 GiB on cuda:0`; on a CPU what the process may still take."""
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        held = (torch.cuda.memory_allocated(), torch.cuda.memory_reserved(), free, total)
        allocated, reserved, free_, total_ = (f"{n / 2**30:.1f}" for n in held)
        return f"allocated {allocated}, reserved {reserved}, free {free_} of {total_} GiB on cuda:{torch.cuda.current_device()}"
    return "on a CPU"
