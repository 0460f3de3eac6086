"""What went wrong in a dry run, as data: the user's own frame, the row and the key, the cycle of a recursion, the memory that was there."""

from __future__ import annotations

import re
import resource
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from llmguard.collect.user import is_library, mistake, shown

__all__ = ["IdBeyondEmbedding", "TooSlow", "cycle_of", "not_for_a_cpu", "row_of", "told_of"]

OF_A_GPU = re.compile(
    r"CUDA|NVIDIA|flash[ _-]?attn|FlashAttention|flash_attention|bitsandbytes|\btriton\b|unsloth|deepspeed|vllm|liger|apex|xformers"
    r"|needs? a GPU|requires? a GPU|torch accelerator|not compiled with",
    re.IGNORECASE,
)
"""What an exception speaks of that a machine without a GPU raises for code that is right on its own machine."""
OFFLINE = ("LocalEntryNotFoundError", "OfflineModeIsEnabled", "RepositoryNotFoundError")
SHOWN_KEYS, DEEPEST = 12, 200


class IdBeyondEmbedding(LookupError):
    """A token id that the embedding has no row for: said before the step, where a GPU would say "device-side assert"."""

    def __init__(self, column: str, ids: Sequence[int], rows: int, where: tuple[int, int]) -> None:
        self.token = ids[0]
        super().__init__(
            f"{column} holds the token id {ids[0]}{f' and {len(ids) - 1} more beyond' if len(ids) > 1 else ''} in row {where[0]} of the "
            f"batch at position {where[1]}, and the embedding has {rows} rows"
        )


class TooSlow(Exception):
    """The time of a dry run is over, which is no fault of the user's code."""


def told_of(fault: BaseException, folder: Path, stage: str, key: str, limit: int) -> dict[str, Any]:
    """An exception of a stage: what `mistake` tells, and `stage`, `raised_in`, `key`, `row`, `cycle`, `limit` and `peak` (bytes)."""
    told = {**mistake(fault, folder, key), "stage": stage, "raised_in": _raised_in(fault)}
    if told["message"] == "" and isinstance(fault, SystemExit):
        told["message"] = "the run is left by sys.exit()"
    if isinstance(fault, (KeyError, IndexError)):
        told |= _missing(fault)
    if isinstance(fault, RecursionError):
        told["cycle"] = cycle_of(fault, folder)
    if isinstance(fault, MemoryError) or "can't allocate memory" in str(fault):
        told |= {"memory": True, "limit": limit, "peak": peak()}
    if (row := row_of(fault)) is not None:
        told["row"] = row
    return told


def peak() -> int:
    """The most resident memory that this process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def not_for_a_cpu(fault: BaseException) -> str:
    """Why an exception says nothing about the user's code: it speaks of a GPU, or of a model that is not on this machine. Else ""."""
    if isinstance(fault, TooSlow):
        return str(fault)
    line = next(iter(str(fault).strip().splitlines()), "")
    chain = list(_chain(fault))
    if any(type(f).__name__ in OFFLINE for f in chain):
        return f"what the factory loads is not on this machine: {line}"[:300]
    kinds = (RuntimeError, AssertionError, ImportError, ValueError, OSError)
    if isinstance(fault, kinds) and OF_A_GPU.search(str(fault)):
        return f"it needs a GPU: {type(fault).__name__}: {line}"[:300]
    if isinstance(fault, RuntimeError) and "size mismatch for" in str(fault):
        return f"weights are loaded by hand, and do not fit the small model: {line}"[:300]
    return ""


def _chain(fault: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = fault
    for _ in range(10):
        if seen is None:
            return
        yield seen
        seen = seen.__cause__ or seen.__context__


def _raised_in(fault: BaseException) -> str:
    """The last frame of all, the library's where it is one: `trainer.py:2537 in set_initial_training_values`."""
    frames = traceback.extract_tb(fault.__traceback__) if not isinstance(fault, IdBeyondEmbedding) else []
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno} in {frames[-1].name}" if frames else ""


def _missing(fault: BaseException) -> dict[str, Any]:
    """The key that is missing from a mapping of the user's frame, and those that are in it."""
    key = fault.args[0] if fault.args and isinstance(fault, KeyError) else None
    if key is None:
        return {}
    frame = _own_frame(fault.__traceback__)
    found = [
        v
        for v in (frame.f_locals.values() if frame else ())
        if isinstance(v, Mapping) or hasattr(v, "keys")
        if not _holds(v, key)
    ]
    if not found:
        return {}
    return {"key": str(key), "keys": [str(k) for k in list(found[0].keys())[:SHOWN_KEYS]]}


def _holds(mapping: Any, key: Any) -> bool:
    try:
        return key in mapping
    except Exception:  # a mapping of the user's own may refuse the question
        return True


def _frames(trace: TracebackType | None) -> Iterator[FrameType]:
    while trace is not None:
        yield trace.tb_frame
        trace = trace.tb_next


def _own_frame(trace: TracebackType | None) -> FrameType | None:
    """The last frame of the user's code."""
    own = [f for f in _frames(trace) if not is_library(Path(f.f_code.co_filename))]
    return own[-1] if own else None


def row_of(fault: BaseException) -> int | None:
    """The row that `Dataset.map` was at when the user's function failed; None where it was not in one."""
    for frame in _frames(fault.__traceback__):
        if frame.f_code.co_name == "iter_outputs" and "datasets" in frame.f_code.co_filename:
            at = frame.f_locals.get("i")
            return at if isinstance(at, int) else at[0] if isinstance(at, list) and at else None
    return None


def cycle_of(fault: BaseException, folder: Path) -> list[str]:
    """The user's functions that call one another for ever, each as `name (file:line)`; empty where it is no cycle of theirs."""
    frames = [f for f in _frames(fault.__traceback__) if not is_library(Path(f.f_code.co_filename))]
    lines = [(f.f_code.co_filename, f.f_code.co_firstlineno, f.f_code.co_name) for f in frames[-DEEPEST:]]
    while lines and lines.count(lines[-1]) < 2:
        lines.pop()  # where it gave up, beyond the cycle
    if not lines:
        return []
    before = len(lines) - 2 - lines[-2::-1].index(lines[-1])
    return [f"{name} ({shown(file, folder)}:{line})" for file, line, name in lines[before + 1 :]]
