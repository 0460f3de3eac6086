"""What the fixture `gpu_memory` hands out: memory of all devices, read in the middle of a test."""

from __future__ import annotations

import gc
from dataclasses import dataclass, field

import pytest

from llmguard.memory import DeviceMemory, Figures, devices, read

__all__ = ["GpuMemory"]


@dataclass(frozen=True)
class GpuMemory:
    """Bytes on all devices together: those of torch's accelerators, or of this process' heap where there is none.

    `start`: what each held at the beginning, by name; a device that came later held nothing.
    """

    start: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of_this_process(cls) -> GpuMemory:
        """Start measuring, with a new peak."""
        found = devices()
        gc.collect()
        for device in found:
            device.settle()
            device.reset_peak()
        return cls({device.name: device.allocated() for device in found})

    @property
    def devices(self) -> tuple[DeviceMemory, ...]:
        """The devices, each to be asked by itself."""
        return devices()

    @property
    def allocated(self) -> int:
        """Bytes that tensors hold now (on the heap: all that malloc has handed out)."""
        return sum(device.allocated() for device in devices())

    @property
    def peak(self) -> int:
        """The most bytes that tensors held since the beginning; the test is skipped where no peak is kept (host memory, MPS)."""
        peaks = {device.name: device.peak() for device in devices()}
        mute = [name for name, peak in peaks.items() if peak is None]
        if mute:
            pytest.skip(f"no peak is kept on {', '.join(mute)}")
        return sum(peak for peak in peaks.values() if peak is not None)

    @property
    def grown(self) -> int:
        """Bytes held now beyond the beginning, once garbage is collected."""
        gc.collect()
        gc.collect()
        return sum(device.allocated() - self.start.get(device.name, 0) for device in devices())

    def settle(self) -> None:
        """Collect garbage, wait for the devices, drop workspaces, give back what the allocators keep unused."""
        gc.collect()
        for device in devices():
            device.settle()

    def figures(self) -> dict[str, Figures]:
        """Every level of every device: allocated, reserved, driver, device-wide, pinned; None where it cannot be had."""
        return {device.name: read(device) for device in devices()}
