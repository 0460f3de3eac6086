"""What a leak says to the person who must act: where, what with the numbers of every level, why, likely cause, remedy."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from llmguard.estimates.interval import size_text
from llmguard.findings import Where, error
from llmguard.memory import LEVELS, DeviceMemory, Figures

if TYPE_CHECKING:
    import pytest

    from llmguard.memory.guard import Growth
    from llmguard.memory.verdict import Drift

__all__ = ["drift_text", "leak_text", "level_names", "medium", "peak_text"]

level_names = {
    "allocated": "allocator",
    "reserved": "reserved",
    "driver": "driver, this process and its children",
    "device": "whole device",
    "pinned": "pinned host memory",
}
WHY = "what one test leaves is missing to all that follow, and a run that does the same at every step ends out of memory"
REMEDIES = {
    "traceback": "keep the exception's text, not the exception; or `traceback.clear_frames(error.__traceback__)`",
    "notebook": "delete the output: `del Out[…]`, `%reset out`",
    "parametrize": "parametrize with names or sizes, and make the tensor inside of the test",
    "fixture": "let the fixture yield, and drop in its teardown what it gathered",
    "lru_cache": "call `cache_clear()` in a teardown, or key the cache by something that is not a tensor",
    "accelerate hook": "`accelerate.hooks.remove_hook_from_module(model, recurse=True)` before the model is dropped",
    "PEFT adapter": "`model.delete_adapter(name)` for adapters that are no longer used",
    "DataLoader": "drop the loader's iterator; with persistent_workers drop the loader itself",
    "optimizer": "drop the optimizer together with the model: it holds the parameters and their state",
    "Trainer or callback": "drop the Trainer, and let callbacks keep numbers instead of tensors",
    "compile cache": "`torch.compiler.reset()` in a teardown",
    "autograd graph": "keep `loss.item()` or `loss.detach()`: a loss keeps the whole graph of its step",
    "generator": "close the generator, or use it up",
    "closure": "drop the function that closes over it",
    "running frame": "end the thread or the generator that still runs",
    "module global": "drop it in a teardown, or keep numbers in the place of tensors",
}
OF_CLASS = (
    "pytest keeps the instance of a test class for the whole session: drop the attribute in `teardown_method`"
)
NO_OWNER = (
    "no Python object holds it: a library does (a workspace, a graph pool, a compiled kernel, a C++ object)",
    "repeat the test, gpu_memory(leak=…, repeat=3): a cache grows once, a leak each time",
)

EACH_TIME = (
    "no tensor that Python knows holds it: arrays of another library, C++ objects, or threads that still run",
    "take the test's calls away one by one until the slope is gone: the last one leaks",
)


def medium(device: DeviceMemory) -> str:
    """What kind of memory it is."""
    return "host memory" if device.name == "cpu" else "GPU memory"


def leak_text(item: pytest.Item, growth: Growth) -> str:
    """The five parts of one leak."""
    return _composed(item, _what(growth), WHY, *_cause(growth))


def peak_text(item: pytest.Item, device: str, used: int, limit: int) -> str:
    """The five parts of a peak that is too high."""
    return _composed(
        item,
        f"the test used {size_text(used)} of GPU memory on {device} beyond what was held before;"
        f" gpu_memory(peak=…) allows {size_text(limit)}",
        "the run may not fit beside what else lives on the GPU",
        "batch, sequence length or dtype are larger than the limit was made for, or something is kept longer than needed",
        "make the batch or the dtype smaller, free what is no longer needed before the peak, or raise peak=",
    )


def drift_text(item: pytest.Item, device: DeviceMemory, level: str, drift: Drift) -> str:
    """The five parts of a session that loses memory by and by."""
    return _composed(
        item,
        f"up to this test {drift.tests} tests left {size_text(drift.grown)} on {device.name} ({level_names[level]}), each"
        f" {size_text(drift.each)} in the middle: none of them is beyond its limit, all together are a drift",
        WHY,
        "something that every test passes through keeps a little each time: a fixture, a cache, a log, a list of results",
        "mark one of the tests gpu_memory(leak=0, repeat=5): its failure names what holds the memory",
    )


def _composed(item: pytest.Item, what: str, why: str, cause: str, remedy: str) -> str:
    file, line, name = item.location
    where = Where(file=file, line=None if line is None else line + 1, what=name)
    return error(where, what=what, why=why, cause=cause, remedy=remedy).message


def _what(growth: Growth) -> str:
    device = growth.device
    name = f"{device.name} ({device.identity})" if device.identity else device.name
    if growth.process:
        return (
            f"a process that the test started still holds {size_text(growth.grown)} of GPU memory on {name}:"
            f" {growth.process}; {size_text(growth.limit)} are allowed. {_levels(growth)}"
        )
    who = f"fixture {growth.fixture!r}, torn down after this test," if growth.fixture else "the test"
    kind = level_names["pinned"] if growth.level == "pinned" else medium(device)
    left, limit = size_text(growth.grown), size_text(growth.limit)
    if left == limit:
        left, limit = f"{growth.grown:,} bytes", f"{growth.limit:,}"
    return (
        f"{who} left behind {left} of {kind} on {name}; {limit} are allowed."
        f" {_levels(growth)}{_repeats(growth)}"
    )


def _levels(growth: Growth) -> str:
    """Every level, before and after; what cannot be had with the reason."""
    told, mute = [], []
    for level in LEVELS:
        after, before = growth.after.of(level), growth.before.of(level)
        if after is None:
            mute.append(f"{level_names[level]}: {growth.device.why_not(level) or 'not told'}")
        elif before is None or growth.process:
            told.append(f"{level_names[level]} {size_text(after)}")
        else:
            name = "heap" if growth.device.name == "cpu" else level_names[level]
            outside = _outside(growth.after) if level == "driver" else ""
            told.append(f"{name} {size_text(before)} to {size_text(after)}{outside}")
    if growth.device.name == "cpu":
        mute = []
    if growth.due:
        told.append(f"fixtures that were torn down with it gave back {size_text(growth.due)}")
    return "; ".join(told) + (f". Not measured: {'; '.join(mute)}" if mute else "")


def _outside(figures: Figures) -> str:
    """The driver counts what the allocator knows nothing of: contexts, NCCL, other libraries."""
    if figures.driver is None or figures.reserved is None or figures.driver <= figures.reserved:
        return ""
    return f", {size_text(figures.driver - figures.reserved)} of them outside of torch's allocator"


def _repeats(growth: Growth) -> str:
    if growth.slope is None:
        return ""
    grown = ", ".join(size_text(each) for each in growth.slope.growths)
    return f". Run {len(growth.slope.growths)} times it left {grown}: a slope, not a cache"


def _cause(growth: Growth) -> tuple[str, str]:
    if growth.process:
        return (
            "the process was not ended, or not waited for: an engine, a server, persistent workers of a DataLoader",
            "end it in a teardown (`terminate()`, then `wait()`), and drop what would start it again",
        )
    held = [re.sub(r"\s+", " ", f"{holder.kind}: {holder.path}") for holder in growth.holders]
    if not held or growth.holders[0].kind == "no Python owner":
        return NO_OWNER if growth.slope is None else EACH_TIME
    first = growth.holders[0].kind
    if "Function._instance" in held[0]:
        return held[0], OF_CLASS
    return (
        f"{size_text(growth.owned)} of it are held by: " + "; ".join(held),
        REMEDIES.get(first, "drop what holds it in a teardown"),
    )
