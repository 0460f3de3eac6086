"""Memory that this process' allocator knows nothing of: children that live on with a device's memory in their hands."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llmguard.memory.children import count_of_children, names_of
from llmguard.memory.interface import DeviceMemory, read
from llmguard.memory.verdict import Kind, is_falling

if TYPE_CHECKING:
    from llmguard.memory.guard import Growth

__all__ = ["Outside"]

WAITS = (0.2, 0.6, 1.2)


class Outside:
    """Knows which children hold memory; new ones after a test are the test's. Asked only when the number of children changed."""

    def __init__(self, sleep: Callable[[float], None]) -> None:
        self._sleep = sleep
        self._known: dict[str, dict[int, int]] = {}
        self._count = 0
        self.late: dict[str, dict[int, int]] = {}

    def learn(self, devices: Sequence[DeviceMemory]) -> None:
        """What children hold now is known, and nobody's."""
        self._count = self._counted(devices)
        self._known = {device.name: _children(device) for device in devices} if self._count else {}

    def judge(self, devices: Sequence[DeviceMemory], limit: int, *, closely: bool) -> list[Growth]:
        """Children that hold more than the limit and were not known: those that live are a leak, the dead are late."""
        count = self._counted(devices)
        if count == self._count and not (closely and count):
            return []
        found = [growth for device in devices if (growth := self._look(device, limit)) is not None]
        self.learn(devices)
        return found

    def still_late(self, devices: Sequence[DeviceMemory]) -> dict[str, int]:
        """Bytes on each device of processes that had ended by the end of their test, and that still stand with the driver."""
        left = self._late(devices)
        for wait in WAITS if left else ():
            self._sleep(wait)
            left = self._late(devices)
            if not left:
                break
        return left

    def _late(self, devices: Sequence[DeviceMemory]) -> dict[str, int]:
        left = {}
        for device in devices:
            dead = [pid for pid in self.late.get(device.name, {}) if not _lives(pid)]
            now = _children(device) if dead else {}
            left[device.name] = sum(now.get(pid, 0) for pid in dead)
        return {name: size for name, size in left.items() if size}

    def _look(self, device: DeviceMemory, limit: int) -> Growth | None:
        from llmguard.memory.guard import Growth

        readings = [sum(self._new(device).values())]
        for wait in WAITS:
            if readings[-1] <= limit:
                return None
            self._sleep(wait)
            readings.append(sum(self._new(device).values()))
        if readings[-1] <= limit:
            return None
        held = self._new(device)
        living = {pid: size for pid, size in held.items() if _lives(pid)}
        left = sum(living.values())
        leak = left > limit and not is_falling(readings, device.resolution)
        if not leak:
            self.late.setdefault(device.name, {}).update(held)
        kind, now = Kind.LEAK if leak else Kind.FALLING, read(device)
        who = ", ".join(names_of(list(living)))
        return Growth(device, "driver", left if leak else readings[-1], limit, kind, now, now, process=who)

    def _new(self, device: DeviceMemory) -> dict[int, int]:
        known = self._known.get(device.name, {})
        return {
            pid: size - known.get(pid, 0)
            for pid, size in _children(device).items()
            if size > known.get(pid, 0)
        }

    def _counted(self, devices: Sequence[DeviceMemory]) -> int:
        return 0 if all(device.name == "cpu" for device in devices) else count_of_children()


def _children(device: DeviceMemory) -> dict[int, int]:
    return {pid: size for pid, size in (device.processes() or {}).items() if pid != os.getpid()}


def _lives(pid: int) -> bool:
    """Whether a process runs; a zombie has given everything back."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[0] not in "ZX"
    except (OSError, IndexError):
        return False
