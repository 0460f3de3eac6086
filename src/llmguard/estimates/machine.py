"""How much memory this machine has for a run: its GPU's where it has one, else what the kernel and the control group leave."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmguard.estimates.interval import size_text
from llmguard.placement import visible

if TYPE_CHECKING:
    from llmguard.probe.host import Host
    from llmguard.probe.machine import Card

__all__ = ["Memory", "gpu_memory", "host_memory", "machine_memory"]

PATIENCE = 20.0
"""Seconds for nvidia-smi: on a healthy machine it answers within two."""


@dataclass(frozen=True)
class Memory:
    """Memory that a run may have, in bytes. `device` is `gpu` or `cpu`; `meant`: the run will surely have this memory and no other."""

    free: int
    total: int
    device: str
    source: str
    meant: bool = False

    @property
    def text(self) -> str:
        """`21.5 GiB free of 24.0 GiB (nvidia-smi, GPU 0)`."""
        return f"{size_text(self.free)} free of {size_text(self.total)} ({self.source})"


def machine_memory(environ: Mapping[str, str] | None = None) -> Memory | None:
    """The GPU's memory where nvidia-smi tells it, else the host's; None where nothing tells (no Linux)."""
    from llmguard.probe.host import Host

    return gpu_memory(os.environ if environ is None else environ) or host_memory(Host())


def host_memory(host: Host) -> Memory | None:
    """What the kernel could give, and no more than the control group allows: psutil and `free` know nothing of the latter."""
    told = host.numbers("/proc/meminfo")
    if "MemAvailable" not in told:
        return None
    free, total, source = told["MemAvailable"], told["MemTotal"], "/proc/meminfo"
    group = host.cgroup()
    if group.memory is not None and group.memory < total:
        source, total = "limit of the control group", group.memory
        free = min(free, max(0, group.memory - group.used))
    return Memory(free, total, "cpu", source)


def gpu_memory(environ: Mapping[str, str]) -> Memory | None:
    """The GPU with the least free memory of those that the run may see; None where there is none or nothing is told."""
    if shutil.which("nvidia-smi", path=environ.get("PATH")) is None:
        return None
    from llmguard.probe.driver import query_of, start_query

    cards = query_of(start_query({}, timeout=PATIENCE).wait()).cards
    readings = [
        Memory(card.total - card.used, card.total, "gpu", f"nvidia-smi, GPU {number}", meant=True)
        for number, card in _seen(cards, environ.get("CUDA_VISIBLE_DEVICES"))
        if card.total is not None and card.used is not None
    ]
    return min(readings, key=lambda memory: memory.free, default=None)


def _seen(cards: Sequence[Card], text: str | None) -> list[tuple[int, Card]]:
    """The cards that CUDA_VISIBLE_DEVICES leaves, by number or UUID; all where it is not set."""
    return [(number, cards[number]) for number in visible(text, [card.uuid for card in cards])]
