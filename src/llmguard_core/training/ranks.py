"""A run of several processes, of which one runs out of memory: it says so to the others before it goes, and none of them waits.

One process cannot do part of a step again without the others, which stand in the backward pass and wait for its gradients: all stop, the
one with the numbers, the others with its name, and the run resumes from the newest checkpoint with a smaller batch.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

import torch.distributed as dist

from llmguard_core.errors import OutOfMemory, TrainingStopped
from llmguard_core.training.oom import Failure, tried

__all__ = ["stop_with_the_others", "together"]

Result = TypeVar("Result")
_LOST = re.compile(
    r"connection (?:closed|reset|refused)|broken pipe|remote process (?:has )?exited", re.IGNORECASE
)
_KEPT: list[Any] = []
KEY = "llmguard/out of memory"
REMEDY = (
    "Start again with batch_size halved and accumulation doubled: the effective batch stays the same, and training resumes from the"
    " newest verified checkpoint."
)


def together(work: Callable[[], Result], explain: Callable[[Failure], OutOfMemory]) -> Result:
    """The result of one process' part of a step.

    Raises:
        OutOfMemory: there was no memory for it in this process; the others have been told, and are not kept waiting.
    """
    found, failure = tried(work)
    if failure is None:
        return found  # type: ignore[return-value]  # a result, where there is no failure
    error = explain(failure)
    told = f"process {dist.get_rank()} of {dist.get_world_size()} ran out of memory at {error.where}"
    with suppress(RuntimeError):  # the store is another process', which may be gone
        _store().set(KEY, told)
    _leave()
    raise OutOfMemory(f"{told}: {error.what}", where=error.where, remedy=f"{REMEDY} {error.remedy}")


def stop_with_the_others(error: RuntimeError, step: int) -> None:
    """Give a lost connection its cause: another process that ran out of memory. Returns where that is not what happened.

    Raises:
        TrainingStopped: names the process.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return
    told = ""
    with suppress(RuntimeError):  # the store is gone with the process that had it
        if _store().check([KEY]):
            told = _store().get(KEY).decode()
    if not told and _LOST.search(str(error)):
        told = "another process of this run has ended: its own log says why"
    if told:
        _leave()
        raise TrainingStopped(f"{told}; this process stops with it", step=step, remedy=REMEDY) from error


def _store() -> Any:
    return dist.distributed_c10d._get_default_store()


def _leave() -> None:
    """End what this process shares with the others: who waits for it is told by its connection, at once.

    The store stays, as long as this process does: the others read there why.
    """
    _KEPT.append(_store())
    abort = getattr(dist.distributed_c10d, "_abort_process_group", None)  # torch 2.6 and later
    for end in (abort, dist.destroy_process_group):
        if end is not None:
            with suppress(RuntimeError, ValueError, AssertionError):
                end()
                return
