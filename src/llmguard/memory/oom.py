"""Out of memory, told from what only looks like it. Standard library alone: torch's types are known where torch is loaded."""

from __future__ import annotations

import errno
import re
import signal
import sys
from typing import Literal

__all__ = ["Kind", "classify", "classify_exit", "is_oom"]

Kind = Literal["out of memory", "poisoned", "other"]

_POISONED = re.compile(
    r"device-side assert|illegal (?:memory access|address|instruction)|misaligned address|unspecified launch failure"
    r"|uncorrectable ECC|hardware stack error|device kernel image is invalid",
    re.IGNORECASE,
)
"""After these the process can do nothing more on that device: every later call fails, `empty_cache` too."""
_BACKEND = r"\b(?:CUDA|HIP|ROCm|XPU|MPS|NPU|HPU|TPU|SYCL|GPU|device)\b"
_BETWEEN = r"(?:[\s:,'\"(]|\d|\b(?:error|failure|driver|backend|runtime|code|is|ran|has run)\b)*"
_SAID = (
    rf"{_BACKEND}{_BETWEEN}\bout of memory\b",  # torch's allocators, what CUDA and HIP call return code 2, NCCL
    r"(?:^|[:('\"\n])\s*out of memory(?=\s*(?:$|[.,:;!)'\"\n(]|allocating|trying|while trying))",  # whole, quoted, in brackets
    r"_(?:ERROR|RESULT)_OUT_OF_(?:DEVICE_|HOST_)?MEMORY\b|\w*ErrorOutOfMemory\b",
    r"\bcudaErrorMemoryAllocation\b",
    r"\b(?:CUBLAS|CUDNN|CUSOLVER|CUSPARSE|HIPBLAS|ROCBLAS|MIOPEN)_STATUS_ALLOC_FAILED\b|\bCUFFT_ALLOC_FAILED\b",
    r"\bCUBLAS_STATUS_NOT_INITIALIZED\b",  # cuBLAS found no room for its workspace
    r"DefaultCPUAllocator|you tried to allocate \d+ bytes|(?:can'?t|cannot) allocate memory\b",
    r"\bwould exceed allowed memory\b",  # the share of set_per_process_memory_fraction
    r"\bstd::bad_alloc\b",
)
_MEMORY = re.compile("|".join(f"(?:{text})" for text in _SAID), re.IGNORECASE)
"""What allocators, libraries and drivers write. "Out of memory" in running prose is nobody's message: see the tests. Nor is Triton's
"out of resource" among them: a kernel wants more shared memory than a multiprocessor has, and no smaller batch helps."""


def classify(error: BaseException) -> Kind:
    """What an error means for the process: by its type, then, for runtime errors alone, by its text.

    `poisoned`: the device context is lost, no further step is possible in this process. Causes that were named (`raise … from …`)
    count as the error itself.
    """
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        if (found := _of(cause)) is not None:
            return found
        cause = cause.__cause__
    return "other"


def is_oom(error: BaseException) -> bool:
    """Whether less work at once could have helped."""
    return classify(error) == "out of memory"


def classify_exit(returncode: int, oom_kills: int) -> Literal["host memory", "killed", "other"]:
    """What the end of a child says: SIGKILL while the kernel's counter of OOM kills rose by `oom_kills` is the host's memory.

    `returncode`: as `subprocess` gives it (-9), or as a shell and a container do (137). Without a rise the killer is not known.
    """
    if returncode not in (-signal.SIGKILL, 128 + signal.SIGKILL):
        return "other"
    return "host memory" if oom_kills > 0 else "killed"


def _of(error: BaseException) -> Kind | None:
    """The kind of one error; None where its cause decides."""
    text = " ".join(str(arg) for arg in error.args)
    at_run_time = isinstance(error, RuntimeError)
    if at_run_time and _POISONED.search(text):
        return "poisoned"
    if isinstance(error, (MemoryError, *_torch_types())):
        return "out of memory"
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return "out of memory"
    return "out of memory" if at_run_time and _MEMORY.search(text) else None


def _torch_types() -> tuple[type[BaseException], ...]:
    """`torch.OutOfMemoryError`, where torch is loaded: an error of its cannot be raised where it is not."""
    found = getattr(sys.modules.get("torch"), "OutOfMemoryError", None)
    return (found,) if isinstance(found, type) and issubclass(found, BaseException) else ()
