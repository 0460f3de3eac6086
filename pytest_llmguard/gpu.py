"""Is there a GPU? Asked in a supervised child process: the session itself never imports torch for it, and never hangs on a driver."""

from __future__ import annotations

from typing import Any

import pytest

__all__ = ["ask", "require_gpu"]

DEADLINE = 180.0
"""Seconds; the first import of torch from a cold network disk takes most of them."""

ASK = """
import ctypes, importlib.util, os, sys
DRIVERS = (
    ("libcuda.so.1", "cuInit", "cuDeviceGetCount"), ("libamdhip64.so", "hipInit", "hipGetDeviceCount"),
    ("libze_loader.so.1", "zeInit", "zeDriverGet"),
)
TRACES = ("/dev/kfd", "/dev/dri")
uuids = []
def uuid(library, number):
    device, raw = ctypes.c_int(0), ctypes.create_string_buffer(16)
    if library.cuDeviceGet(ctypes.byref(device), number) or library.cuDeviceGetUuid(raw, device):
        return ""
    text = raw.raw.hex()
    return "GPU-" + "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))
def driver():
    said = []
    for name, start, count in DRIVERS:
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        found = ctypes.c_uint32(0)
        rest = (None,) if count == "zeDriverGet" else ()
        code = getattr(library, start)(0) or getattr(library, count)(ctypes.byref(found), *rest)
        if found.value:
            if name == DRIVERS[0][0]:
                uuids.extend(filter(None, (uuid(library, number) for number in range(found.value))))
            return found.value, ""
        said.append(f"the driver ({name}) sees no device (code {code})")
    if sys.platform == "darwin" or any(os.path.exists(trace) for trace in TRACES):
        return 1, ""
    return 0, "; ".join(said) or f"no GPU driver is installed (none of {', '.join(name for name, *_ in DRIVERS)})"
def torch_sees():
    if importlib.util.find_spec("torch") is None:
        return 0, "torch is not installed in this environment", ""
    import torch
    if torch.cuda.is_available():
        return torch.cuda.device_count(), "", "rocm" if torch.version.hip else "cuda"
    if hasattr(torch, "xpu") and torch.xpu.is_available():
        return torch.xpu.device_count(), "", "xpu"
    if torch.backends.mps.is_available():
        return 1, "", "mps"
    if hasattr(torch, "accelerator") and torch.accelerator.is_available():
        return torch.accelerator.device_count(), "", torch.accelerator.current_accelerator().type
    if not (torch.version.cuda or torch.version.hip or getattr(torch.version, "xpu", None)):
        return 0, f"torch {torch.__version__} was built without GPU support", ""
    try:
        torch.cuda.init()
        why = "it finds no device that it can use"
    except Exception as error:
        why = str(error).strip().partition(chr(10))[0]
    return 0, f"torch {torch.__version__} cannot use the driver: {why}", ""
kind = ""
devices, reason = driver()
if devices:
    devices, reason, kind = torch_sees()
report({"devices": devices, "reason": reason, "kind": kind, "uuids": uuids if kind == "cuda" else []})
"""
"""The driver first: without one the answer takes no import of torch. AMD's and Intel's libraries may come with torch: a file counts."""


def require_gpu() -> dict[str, Any]:
    """Refuse to start a session that asked for a GPU where there is none; what `ask` said, where there is one.

    Raises:
        pytest.UsageError: no GPU that torch can use, with the reason.
    """
    answer = ask()
    if not answer["devices"]:
        raise pytest.UsageError(f"--gpu was given and there is no GPU to use: {answer['reason']}")
    return answer


def ask(code: str = ASK, deadline: float = DEADLINE) -> dict[str, Any]:
    """How many GPUs torch can use, of which kind (cuda, rocm, xpu, mps), and why none: `{"devices", "kind", "reason", "uuids"}`."""
    from llmguard.probe import python

    result = python(code, timeout=deadline, no_progress=None, what="asking for a GPU")
    if not result.ok or not isinstance(result.payload, dict):
        return {"devices": 0, "kind": "", "uuids": [], "reason": result.explain()}
    return dict(result.payload)
