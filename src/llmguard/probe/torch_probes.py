"""The staged probes of torch: its import, its start of CUDA, a small kernel; each a process and a deadline of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmguard.probe.launch import Probe, start
from llmguard.probe.limits import Limits
from llmguard.probe.machine import Computing, Gpu, Torch
from llmguard.probe.result import ProbeResult

__all__ = ["computing_of", "gpu_of", "start_computing", "start_cuda", "start_import", "torch_of"]

GRACE = 0.5
"""Seconds between asking a probe that holds a driver to end, and ending it."""

_IMPORT = """
import sys
folder = sys.argv[1]
def beside(trace=None, *files):
    homes = {folder, f"{folder}/torch", *(f"{folder}/{name}" for name in list(sys.modules) if "." not in name)}
    files = [*files, *(getattr(module, "__file__", None) or "" for module in list(sys.modules.values()))]
    while trace:
        files.append(trace.tb_frame.f_code.co_filename)
        trace = trace.tb_next
    return sorted({file for file in files if file.rpartition("/")[0] in homes})
def arch():
    try:
        return torch._C._cuda_getArchFlags().split()
    except Exception:
        return []
try:
    import torch
except BaseException as why:
    report({"beside": beside(why.__traceback__, getattr(why, "filename", None) or "")})
    raise
built = getattr(torch, "version", None)
report({
    "version": str(getattr(torch, "__version__", "")), "file": getattr(torch, "__file__", None) or "",
    "path": [str(part) for part in getattr(torch, "__path__", [])], "beside": beside(), "tensor": hasattr(torch, "Tensor"),
    "cuda": getattr(built, "cuda", None) or "", "hip": getattr(built, "hip", None) or "", "arch": arch(),
})
"""

_CUDA = """
def started():
    import torch
    found = {"available": False, "count": 0, "names": [], "why": ""}
    try:
        found["available"] = torch.cuda.is_available()
        torch.cuda.init()
        found["count"] = torch.cuda.device_count()
        found["names"] = [torch.cuda.get_device_name(number) for number in range(found["count"])]
    except BaseException as why:
        found["why"] = f"{type(why).__name__}: {why}"
    return found
report(started())
"""

_COMPUTE = """
def computed():
    import torch
    found = {"names": [], "products": [], "why": ""}
    try:
        for number in range(torch.cuda.device_count()):
            found["names"].append(torch.cuda.get_device_name(number))
            report(found)
            one = torch.ones(64, 64, device=f"cuda:{number}")
            product = one @ one
            torch.cuda.synchronize(number)
            found["products"].append(float(product[0, 0].item()))
    except BaseException as why:
        found["why"] = f"{type(why).__name__}: {why}"
    return found
report(computed())
"""

Environ = Mapping[str, "str | None"]


def start_import(folder: str, environ: Environ, *, no_progress: float, timeout: float) -> Probe:
    """Import torch as the user's own code does, with the project's folder first on the path and GPUs out of sight."""
    return start(
        _IMPORT, [folder], timeout=timeout, no_progress=no_progress, computing_is_progress=False,
        limits=Limits.for_import(), sys_path=[folder], env=environ, hide_gpus=True, what="import of torch",
    )  # fmt: skip


def start_cuda(environ: Environ, *, no_progress: float, timeout: float) -> Probe:
    """Let torch start CUDA and name its devices; it is asked to end before it is killed."""
    return start(
        _CUDA, timeout=timeout, no_progress=no_progress, computing_is_progress=False, kill_grace=GRACE,
        env=environ, what="start of CUDA by torch",
    )  # fmt: skip


def start_computing(environ: Environ, *, no_progress: float, timeout: float) -> Probe:
    """Multiply two small matrices on each visible device and wait for the result."""
    return start(
        _COMPUTE, timeout=timeout, no_progress=no_progress, computing_is_progress=False, kill_grace=GRACE,
        env=environ, what="first computation on the GPU",
    )  # fmt: skip


def torch_of(result: ProbeResult) -> Torch:
    """What the import said."""
    return Torch(result, **_frozen(result.payload))


def gpu_of(result: ProbeResult) -> Gpu:
    """What the start of CUDA said."""
    return Gpu(result, **_frozen(result.payload))


def computing_of(result: ProbeResult) -> Computing:
    """What the kernels said; those before a hang are kept."""
    return Computing(result, **_frozen(result.payload))


def _frozen(told: Any) -> dict[str, Any]:
    pairs = told.items() if isinstance(told, dict) else ()
    return {str(name): tuple(value) if isinstance(value, list) else value for name, value in pairs}
