"""GPU, from torch: it starts CUDA and finds its devices, and computes right on each of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmguard.checks.gpu_driver import FALLS_BACK
from llmguard.contract import Yields, check
from llmguard.errors import EvidenceError, MissingEvidence
from llmguard.findings import Finding, Where, error

if TYPE_CHECKING:
    from llmguard.probe.environment import Environment
    from llmguard.probe.machine import Computing, Gpu
    from llmguard.probe.result import ProbeResult

__all__ = ["gpu_computes_right", "gpu_is_available"]

PRODUCT = 64.0
"""Each element of a product of two 64 x 64 matrices of ones."""


@check
def gpu_is_available(environment: Environment) -> Yields:
    """Where the project asks for a GPU, torch starts CUDA (or ROCm) in time and finds a device.

    Raises:
        MissingEvidence: the project does not ask for a GPU.
        EvidenceError: torch does not import, or is built for the processor; another check says so.
    """
    _asked(environment)
    found = environment.uses_gpu
    if not found.result.ok:
        yield _hangs(found.result)
    elif found.why or not found.count:
        yield _none(environment, found)
    return max(1, found.count)


def _asked(environment: Environment) -> None:
    if not environment.gpu:
        raise MissingEvidence(
            "gpu", "add `[environment] gpu = true` to llmguard.toml to have the GPU checked"
        )
    if not environment.torch.result.ok:
        raise EvidenceError("gpu", "torch does not import", told_by="torch_imports_in_time")
    if not (environment.torch.cuda or environment.torch.hip):
        raise EvidenceError("gpu", "torch is built for the processor", told_by="torch_build_fits_the_gpu")


def _hangs(result: ProbeResult) -> Finding:
    return error(
        Where(what="GPU"),
        what=result.explain(),
        why="the run would hang or crash at its first use of the GPU, for hours and without a message",
        cause="a driver that is stuck (nvidia-smi may look healthy all the same), or another process that holds the device",
        remedy="look at `dmesg | grep -i xid`; restart the container or the machine, then check again",
        expected="an answer",
        actual=result.verdict.value,
        evidence=result.to_json(),
    )


def _none(environment: Environment, found: Gpu) -> Finding:
    devices = environment.driver.devices if environment.driver.works else ()
    below = f", although the driver shows {len(devices)} ({devices[0].name})" if devices else ""
    return error(
        Where(what="GPU"),
        what=f"torch finds no GPU that it can use: {found.why or 'device count 0'}{below}",
        why=FALLS_BACK,
        cause=_why_none(found.why, environment.variable("CUDA_VISIBLE_DEVICES"), bool(devices)),
        remedy="compare `nvidia-smi` with the CUDA version of torch, and look at CUDA_VISIBLE_DEVICES",
        expected="a GPU",
        actual=f"available {found.available}, count {found.count}, of the driver {len(devices)}",
    )


def _why_none(text: str, visible: str, seen: bool) -> str:
    lower = text.lower()
    if "driver" in lower and "old" in lower:
        return "the driver is older than the CUDA version that torch was built for"
    if "no nvidia driver" in lower or "libcuda" in lower:
        return "no driver in this container: it was started without `--gpus`, or the machine has no GPU"
    if "out of memory" in lower:
        return "another process holds the memory of the GPU"
    if "no kernel image" in lower:
        return "this build of torch has no code for this generation of GPUs"
    if seen:
        shown = (
            f"CUDA_VISIBLE_DEVICES={visible!r} hides the devices"
            if visible
            else "the driver works without torch"
        )
        return f"{shown}: a build of torch for other hardware, or libraries of CUDA that are mixed (LD_LIBRARY_PATH)"
    return "no GPU in this machine, a container without it, or a CUDA_VISIBLE_DEVICES that hides it"


@check
def gpu_computes_right(environment: Environment) -> Yields:
    """On each GPU that the run will see, a small product of matrices comes back, in time, and is right.

    Raises:
        MissingEvidence: the project does not ask for a GPU.
        EvidenceError: torch finds none that it can use; another check says why.
    """
    _asked(environment)
    gpu, found = environment.uses_gpu, environment.computes
    if not gpu.result.ok or gpu.why or not gpu.count:
        raise EvidenceError("gpu", "torch finds no GPU that it can use", told_by="gpu_is_available")
    number = len(found.products)
    name = found.names[number] if number < len(found.names) else "the GPU"
    if not found.result.ok:
        yield _stuck(found, name, number)
    elif found.why:
        yield _breaks(found, name, number)
    for which, product in enumerate(found.products):
        if product != PRODUCT:
            yield _wrong(found.names[which], which, product)
    if found.result.ok and not found.why and len(found.products) < gpu.count:
        raise EvidenceError("gpu", f"only {len(found.products)} of {gpu.count} GPUs were tried")
    return gpu.count


def _stuck(found: Computing, name: str, number: int) -> Finding:
    base = _hangs(found.result)
    return error(
        Where(what=f"GPU {number}"),
        what=f"{name} does not come back from its first computation: {found.result.explain()}",
        why="torch starts, finds the GPU and names it, and hangs at the first step",
        cause="a driver or a GPU that is stuck, a link between GPUs that is down, or kernels compiled anew into a slow ~/.nv/ComputeCache",
        remedy=base.remedy,
        expected=str(PRODUCT),
        actual=base.actual,
        evidence=base.evidence,
    )


def _breaks(found: Computing, name: str, number: int) -> Finding:
    return error(
        Where(what=f"GPU {number}"),
        what=f"{name} fails at its first computation: {found.why}",
        why="the run ends at its first step",
        cause=_why_none(found.why, "", seen=False)
        if "no kernel image" in found.why or "out of memory" in found.why.lower()
        else "libraries of CUDA (cuBLAS) that do not fit the driver, or a defective GPU",
        remedy="reinstall torch with the command of pytorch.org; look at `dmesg | grep -i xid`",
        expected=str(PRODUCT),
        actual=found.why,
    )


def _wrong(name: str, number: int, product: float) -> Finding:
    return error(
        Where(what=f"GPU {number}"),
        what=f"{name} gives {product} for an element of a product that is {PRODUCT}",
        why="whatever is trained or evaluated on it is wrong, without a message",
        cause="a defective GPU or memory",
        remedy="take the machine back; run the vendor's diagnosis (`dcgmi diag -r 3`)",
        expected=str(PRODUCT),
        actual=str(product),
    )


gpu_is_available.unit = gpu_computes_right.unit = "devices"
