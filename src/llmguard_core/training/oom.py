"""Out of memory: told from what only looks like it, and survived by taking smaller pieces of the same batch."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar, cast

from llmguard.memory.fragmentation import fragmentation, requested
from llmguard.memory.oom import classify, is_oom
from llmguard_core.errors import OutOfMemory
from llmguard_core.memory import pick_device

__all__ = ["Failure", "classify", "halving", "is_oom", "one_clear_error", "tried"]

Result = TypeVar("Result")


@dataclass(frozen=True)
class Failure:
    """An out of memory of which nothing is kept but what it said, the state of the device at that moment, and what helps there."""

    text: str
    remedy: str = ""

    def __str__(self) -> str:
        return self.text


def halving(
    attempt: Callable[[int], Result],
    size: int,
    *,
    release: Callable[[], object] | None = None,
    explain: Callable[[Failure], OutOfMemory] | None = None,
) -> tuple[Result, int]:
    """Call `attempt(size)`, with half the size after each out of memory; gives its result and the size that fitted.

    Retries happen outside of the except block, after the failed attempt's frames were cleared and `release` was called, so that
    nothing of it is alive. `explain` makes the error for a size of 1 from the last failure.

    Raises:
        OutOfMemory: not even 1 fits.
    """
    while True:
        found, failure = tried(partial(attempt, size))
        if failure is None:
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
    found, failure = tried(work)
    if failure is None:
        return cast("Result", found)
    _release()
    raise OutOfMemory(
        f"no memory left: {failure}. There is: {pick_device()}", where=what,
        remedy=f"Use a smaller dtype, method: lora, gradient_checkpointing, or a device_map over several devices. {failure.remedy}".strip(),
    )  # fmt: skip


def tried(work: Callable[[], Result]) -> tuple[Result | None, Failure | None]:
    """The result; or what an out of memory said, when its frames, and all that they held, are let go."""
    try:
        return work(), None
    except Exception as error:
        if isinstance(error, OutOfMemory) or not is_oom(error):
            raise
        failure = _failure(error)  # before anything is let go: afterwards there are no pieces to be seen
        traceback.clear_frames(error.__traceback__)
        return None, failure


def _failure(error: BaseException) -> Failure:
    text = f"{type(error).__name__}: {error}"
    state, wanted = fragmentation(str(pick_device().device)), requested(text)
    if state is None:
        return Failure(text)
    return Failure(f"{text} (then {state.told(wanted)})", state.advice(wanted))


def _release() -> None:
    gc.collect()
    pick_device().empty_cache()


def _plain(failure: Failure) -> OutOfMemory:
    return OutOfMemory(
        f"one row at a time does not fit: {failure}",
        remedy="Shorten max_length, switch gradient_checkpointing on, train an adapter (method: lora), or take a smaller dtype. "
        f"{failure.remedy}".strip(),
    )
