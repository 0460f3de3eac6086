"""What the driver counts for each process, asked of NVML by ctypes: no package, no child process, no context."""

from __future__ import annotations

import ctypes
import functools
import os
from typing import Any

from llmguard.memory.children import descendants

__all__ = ["of_processes"]

LIBRARY = "libnvidia-ml.so.1"
MORE = 7
"""NVML's code for a buffer that is too small."""
UNKNOWN = 2**64 - 1
"""What NVML says where a process' memory is not available: MIG, WSL, some containers."""


class _Process(ctypes.Structure):
    _fields_ = (
        ("pid", ctypes.c_uint),
        ("used", ctypes.c_ulonglong),
        ("gpu_instance", ctypes.c_uint),
        ("compute_instance", ctypes.c_uint),
    )


def of_processes(uuid: str) -> tuple[dict[int, int], int] | str:
    """Bytes by process id of this process and its children, and the sum of all others, on the device of that UUID; or why not."""
    library = _library()
    if isinstance(library, str):
        return library
    if not uuid.startswith("GPU-"):
        return (
            "no count per process on a slice of a GPU (MIG)"
            if uuid.startswith("MIG")
            else "no UUID to ask NVML by"
        )
    handle = ctypes.c_void_p()
    if library.nvmlDeviceGetHandleByUUID(uuid.encode(), ctypes.byref(handle)):
        return f"NVML does not know {uuid}"
    listed = _listed(library, handle)
    return listed if isinstance(listed, str) else _parted(listed)


def _parted(listed: list[tuple[int, int]]) -> tuple[dict[int, int], int] | str:
    if any(used == UNKNOWN for _, used in listed):
        return "the driver gives no memory per process here (MIG, WSL or a container)"
    family = {os.getpid(), *descendants()}
    ours = {pid: used for pid, used in listed if pid in family}
    if not ours:
        return "the driver lists no process of ours (a container with process ids of its own)"
    return ours, sum(used for pid, used in listed if pid not in family)


def _listed(library: Any, handle: ctypes.c_void_p) -> list[tuple[int, int]] | str:
    count = ctypes.c_uint(64)
    code = MORE
    for _ in range(3):  # processes may come between two calls
        room = (_Process * max(count.value, 1))()
        code = library.nvmlDeviceGetComputeRunningProcesses_v3(handle, ctypes.byref(count), room)
        if code != MORE:
            break
        count.value += 16
    if code:
        return f"NVML lists no processes here (code {code})"
    return [(room[n].pid, room[n].used) for n in range(count.value)]


@functools.cache
def _library() -> Any:
    """NVML, initialised; or why not."""
    try:
        library = ctypes.CDLL(LIBRARY)
        code = library.nvmlInit_v2()
        library.nvmlDeviceGetComputeRunningProcesses_v3  # noqa: B018  # absent from drivers before 510: said here, not later
    except (OSError, AttributeError) as missing:
        return f"no NVML here: {missing}"
    return f"NVML could not be started (code {code})" if code else library
