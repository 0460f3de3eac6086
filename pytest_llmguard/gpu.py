"""Is there a GPU? Asked in a supervised child process: the session itself never imports torch for it, and never hangs on a driver."""

from __future__ import annotations

from typing import Any

import pytest

__all__ = ["ask", "require_gpu"]

DEADLINE = 180.0
"""Seconds; the first import of torch from a cold network disk takes most of them."""

ASK = """
import ctypes, importlib.util
DRIVERS = (("libcuda.so.1", "cuInit", "cuDeviceGetCount"), ("libamdhip64.so", "hipInit", "hipGetDeviceCount"))
def driver():
    for name, start, count in DRIVERS:
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        found = ctypes.c_int(0)
        code = getattr(library, start)(0) or getattr(library, count)(ctypes.byref(found))
        return found.value, "" if found.value else f"the driver ({name}) sees no device (code {code})"
    return 0, f"no GPU driver is installed (neither {DRIVERS[0][0]} nor {DRIVERS[1][0]})"
def torch_sees():
    if importlib.util.find_spec("torch") is None:
        return 0, "torch is not installed in this environment"
    import torch
    if torch.cuda.is_available():
        return torch.cuda.device_count(), ""
    why = "cannot use the driver" if torch.version.cuda or torch.version.hip else "was built without GPU support"
    return 0, f"torch {torch.__version__} {why}"
devices, reason = driver()
if devices:
    devices, reason = torch_sees()
report({"devices": devices, "reason": reason})
"""
"""The driver first: without one, the answer takes no import of torch."""


def require_gpu() -> None:
    """Refuse to start a session that asked for a GPU where there is none.

    Raises:
        pytest.UsageError: no GPU that torch can use, with the reason.
    """
    answer = ask()
    if not answer["devices"]:
        raise pytest.UsageError(f"--gpu was given and there is no GPU to use: {answer['reason']}")


def ask(code: str = ASK, deadline: float = DEADLINE) -> dict[str, Any]:
    """How many GPUs torch can use, and why none: `{"devices": int, "reason": str}`."""
    from llmguard.probe import python

    result = python(code, timeout=deadline, no_progress=None, what="asking for a GPU")
    if not result.ok or not isinstance(result.payload, dict):
        return {"devices": 0, "reason": result.explain()}
    return dict(result.payload)
