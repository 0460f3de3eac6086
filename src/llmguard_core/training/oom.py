"""Out of memory: told from what only looks like it, and survived by taking smaller pieces of the same batch."""

from __future__ import annotations

import errno
import gc
import re
import traceback
from collections.abc import Callable
from functools import partial
from typing import Literal, TypeVar, cast

import torch

from llmguard_core.errors import OutOfMemory
from llmguard_core.memory import pick_device

__all__ = ["classify", "halving", "is_oom", "one_clear_error"]

Result = TypeVar("Result")

_POISONED = re.compile(
    r"device-side assert|illegal (?:memory access|address|instruction)|misaligned address|unspecified launch failure"
    r"|uncorrectable ECC|hardware stack error|device kernel image is invalid",
    re.IGNORECASE,
)
"""After these the process can do nothing more on that device: every later call fails, `empty_cache` too."""
_NOT_MEMORY = re.compile(r"out of resources?\b.*shared memory|OutOfResources", re.IGNORECASE | re.DOTALL)
"""A kernel (Triton's) that wants more shared memory than a multiprocessor has: no smaller batch helps."""
_MEMORY = re.compile(
    r"out of memory|out_of(?:_device|_host)?_memory|can'?t allocate memory|cannot allocate memory|not enough memory"
    r"|CUBLAS_STATUS_(?:ALLOC_FAILED|NOT_INITIALIZED)|CUDNN_STATUS_ALLOC_FAILED|HIPBLAS_STATUS_ALLOC_FAILED|std::bad_alloc"
    r"|would exceed allowed memory",
    re.IGNORECASE,
)
"""What allocators, cuBLAS (NOT_INITIALIZED: it found no room for its workspace), cuDNN, NCCL and drivers say."""
FRAGMENTED = (
    "If much more is reserved than allocated and the largest unused block is small, memory is fragmented: "
    "set PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True."
)
_TYPES: tuple[type[BaseException], ...] = (torch.OutOfMemoryError, MemoryError)


def classify(error: BaseException) -> Literal["out of memory", "poisoned", "other"]:
    """What an error means for the process: by its type, then, for runtime errors alone, by its text.

    `poisoned`: the device context is lost, no further step is possible in this process. Causes that were named (`raise … from …`)
    count as the error itself.
    """
    text = " ".join(str(arg) for arg in error.args)
    if isinstance(error, RuntimeError) and _POISONED.search(text):
        return "poisoned"
    if _NOT_MEMORY.search(text) or "OutOfResources" in type(error).__name__:
        return "other"
    if isinstance(error, _TYPES) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return "out of memory"
    if isinstance(error, RuntimeError) and _MEMORY.search(text):
        return "out of memory"
    return classify(error.__cause__) if error.__cause__ is not None else "other"


def is_oom(error: BaseException) -> bool:
    """Whether less work at once could have helped."""
    return classify(error) == "out of memory"


def halving(
    attempt: Callable[[int], Result],
    size: int,
    *,
    release: Callable[[], object] | None = None,
    explain: Callable[[str], OutOfMemory] | None = None,
) -> tuple[Result, int]:
    """Call `attempt(size)`, with half the size after each out of memory; gives its result and the size that fitted.

    Retries happen outside of the except block, after the failed attempt's frames were cleared and `release` was called, so that
    nothing of it is alive. `explain` makes the error for a size of 1 from the last failure's text.

    Raises:
        OutOfMemory: not even 1 fits.
    """
    while True:
        found, failure = _tried(partial(attempt, size))
        if not failure:
            return cast("Result", found), size
        (release or _release)()
        if size <= 1:
            raise (explain or _plain)(failure)
        size //= 2


def one_clear_error(what: str, work: Callable[[], Result]) -> Result:
    """The result of `work()`; of an out of memory, one error that is raised when everything that was held is gone.

    Raises:
        OutOfMemory: there was no memory for it; says how much there is.
    """
    found, failure = _tried(work)
    if not failure:
        return cast("Result", found)
    _release()
    raise OutOfMemory(
        f"no memory left: {failure}. There is: {pick_device()}", where=what,
        remedy=f"Use a smaller dtype, method: lora, gradient_checkpointing, or a device_map over several devices. {FRAGMENTED}",
    )  # fmt: skip


def _tried(work: Callable[[], Result]) -> tuple[Result | None, str]:
    """The result; or the text of an out of memory, when its frames, and all that they held, are let go."""
    try:
        return work(), ""
    except Exception as error:
        if isinstance(error, OutOfMemory) or not is_oom(error):
            raise
        traceback.clear_frames(error.__traceback__)
        return None, f"{type(error).__name__}: {error}"


def _release() -> None:
    gc.collect()
    pick_device().empty_cache()


def _plain(failure: str) -> OutOfMemory:
    return OutOfMemory(
        f"one row at a time does not fit: {failure}",
        remedy="Shorten max_length, switch gradient_checkpointing on, train an adapter (method: lora), or take a smaller dtype.",
    )
