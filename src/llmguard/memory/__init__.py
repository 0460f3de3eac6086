"""Memory of devices: read without touching them, judged by numbers that are exact. Nothing here imports torch by itself."""

from __future__ import annotations

from llmguard.memory.interface import LEVELS, DeviceMemory, Figures, devices, read, use

__all__ = ["LEVELS", "DeviceMemory", "Figures", "devices", "read", "use"]
