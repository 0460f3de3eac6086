"""Whether the machine swaps while it is looked at."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from llmguard.contract import Yields, check
from llmguard.estimates.interval import size_text
from llmguard.findings import Finding, Where, warning

if TYPE_CHECKING:
    from llmguard.probe.environment import Environment

__all__ = ["machine_is_not_swapping"]

SPAN, THRASHING = 0.3, 4 * 2**20
"""Seconds between two readings at least, and bytes a second that are read back from swap on a machine that does little else."""


@check
def machine_is_not_swapping(environment: Environment) -> Yields:
    """Memory is not read back from swap: between two readings of the kernel's counter at most 4 MiB a second."""
    if "pswpin" not in environment.host.numbers("/proc/vmstat"):
        return 0
    if environment.host.numbers("/proc/meminfo").get("SwapTotal", 0):
        began, before = environment.swapped_in
        time.sleep(max(0.0, SPAN - (time.monotonic() - began)))
        pages = environment.host.numbers("/proc/vmstat")["pswpin"] - before
        seconds = time.monotonic() - began
        rate = pages * os.sysconf("SC_PAGE_SIZE") / seconds
        if rate > THRASHING:
            yield _swaps(rate, pages, seconds)
    return 1


def _swaps(rate: float, pages: int, seconds: float) -> Finding:
    return warning(
        Where(what="memory"),
        what=f"{size_text(rate)} a second are read back from swap ({pages:,} pages in {seconds:.1f} s): the machine is thrashing",
        why="every access waits for the disk: a step takes many times as long, and hangs are reported that are none",
        cause="more is in use than there is memory: another run, a loader with too many workers, a model loaded twice",
        remedy="end what uses the memory (`ps aux --sort -rss | head`), or switch swap off, so that what is too large fails at once",
        expected=f"up to {size_text(THRASHING)} a second",
        actual=f"{size_text(rate)} a second",
        evidence={"bytes_per_second": round(rate), "pages": pages, "seconds": round(seconds, 2)},
    )
