"""Started early, asked late: which parts of the environment a check will ask for, and work that goes on meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

__all__ = ["EARLY", "GPU_PARTS", "Later"]

EARLY: dict[str, tuple[str, ...]] = {
    "torch_imports_in_time": ("torch",),
    "cuda_driver_starts": ("driver",),
    "nvidia_smi_answers": ("query",),
    "torch_build_fits_the_gpu": ("torch", "driver"),
    "visible_devices_exist": ("driver",),
    "gpu_is_available": ("torch", "uses_gpu"),
    "gpu_computes_right": ("uses_gpu", "computes"),
    "gpu_is_the_one_asked_for": ("driver", "query"),
    "gpu_memory_is_free": ("query",),
    "gpu_is_healthy": ("query",),
    "temporary_folder_takes_files": ("places",),
    "kernels_can_be_compiled": ("places",),
    "clock_is_right": ("places",),
    "processes_can_meet": ("meeting",),
    "output_dir_takes_a_checkpoint": ("writings",),
}
"""Which parts a check will ask for: `begin` starts them."""
GPU_PARTS = frozenset({"driver", "query", "uses_gpu", "computes"})


class Later:
    """Work that goes on in a thread of its own; `result` waits for it, and raises what it raised."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._work = work
        self._value: Any = None
        self._why: BaseException | None = None
        self._done = threading.Event()
        threading.Thread(target=self._run, name="llmguard-later", daemon=True).start()

    def _run(self) -> None:
        try:
            self._value = self._work()
        except BaseException as why:
            self._why = why
        finally:
            self._done.set()

    def result(self) -> Any:
        """What the work returned."""
        self._done.wait()
        if self._why is not None:
            raise self._why
        return self._value
