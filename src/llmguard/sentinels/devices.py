"""Where a model of the local disk goes, in which format, and how its prompts are cut into batches; runs in the child.

On a processor nothing is decided here: the model comes in 32 bits, its prompts in one batch. On a GPU it is loaded in bfloat16 (float16
where the GPU has none), on one device or spread over the fewest that hold it, and batches are sized by what is free then.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmguard.estimates import Architecture, architecture_of, size_text
from llmguard.estimates.generation import rows_that_fit, smallest_set, weight_bytes
from llmguard.memory.oom import is_oom

__all__ = ["NoRoom", "Plan", "accelerator", "config_of", "in_batches", "plan_for", "rows_at_once"]

WIDTH = 2
"""Bytes of a value in both formats of a GPU."""


class NoRoom(RuntimeError):
    """A model that does not fit on the GPUs, or not even one prompt beside it; says what is needed and what is free."""


@dataclass(frozen=True)
class Plan:
    """How a model is loaded: `kind` of device (cpu, cuda, xpu, mps), its `devices`, the name of its format ("" as it is stored)."""

    kind: str = "cpu"
    devices: tuple[int, ...] = ()
    dtype: str = ""
    room: Mapping[int, int] = field(default_factory=dict)

    def arguments(self, torch: Any, version: str) -> dict[str, Any]:
        """What `from_pretrained` is to be given; nothing on a processor. The name of the format changed with transformers 4.56."""
        if self.kind == "cpu":
            return {}
        named = "dtype" if tuple(map(int, version.split(".")[:2])) >= (4, 56) else "torch_dtype"
        dtype = getattr(torch, self.dtype) if self.dtype else "auto"
        if len(self.devices) > 1:
            return {named: dtype, "device_map": "auto", "max_memory": dict(self.room)}
        return {named: dtype, "device_map": {"": self.first}}

    @property
    def first(self) -> str:
        """The device of a model that lies on one."""
        return self.kind if self.kind in ("cpu", "mps") else f"{self.kind}:{self.devices[0]}"


def accelerator(torch: Any) -> str:
    """The kind of device that torch can use here: cuda (ROCm, too), xpu, mps, else cpu."""
    if torch.cuda.is_available():
        return "cuda"
    if hasattr(torch, "xpu") and torch.xpu.is_available():
        return "xpu"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def plan_for(torch: Any, wanted: str, config: Mapping[str, Any], model: Architecture | None) -> Plan:
    """The plan for a model on the device that was asked for (`auto`: the accelerator that there is, else the processor).

    `config`: its config.json; quantised weights stay as they are.

    Raises:
        NoRoom: its weights do not fit on all visible devices together.
    """
    kind, _, number = (accelerator(torch) if wanted == "auto" else wanted).partition(":")
    if kind == "cpu":
        return Plan()
    dtype = "" if "quantization_config" in config else _format(torch, kind)
    if kind == "mps" or number:
        return Plan(kind, (int(number or 0),), dtype)
    module = getattr(torch, kind)
    # asking a device what is free starts a context on it: the others are asked only where the first is too small
    free = [float(module.mem_get_info(0)[0])]
    needed = weight_bytes(model, WIDTH if dtype else 1) if model is not None else 0.0
    if not smallest_set(needed, free):
        free += [float(module.mem_get_info(each)[0]) for each in range(1, module.device_count())]
    chosen = smallest_set(needed, free)
    if not chosen:
        raise NoRoom(
            f"its weights need {size_text(needed)} in {dtype or 'the format they are stored in'}, and {len(free)} visible"
            f" device{'s have' if len(free) > 1 else ' has'} {size_text(sum(free))} free"
        )
    return Plan(kind, tuple(chosen), dtype, {each: int(0.8 * free[each]) for each in chosen})


def _format(torch: Any, kind: str) -> str:
    """bfloat16 where every visible device computes in it, else float16."""
    if kind == "mps":
        return "float16"
    if kind != "cuda" or torch.version.hip:
        return "bfloat16"
    devices = range(torch.cuda.device_count())
    return (
        "bfloat16" if all(torch.cuda.get_device_capability(each)[0] >= 8 for each in devices) else "float16"
    )


def rows_at_once(
    torch: Any, plan: Plan, config: Mapping[str, Any], prompts: Sequence[Sequence[int]], new: int
) -> int:
    """How many prompts go into one batch: all of them on a processor, else by what is free on the fullest of the devices."""
    if plan.kind == "cpu":
        return len(prompts)
    module = getattr(torch, plan.kind)
    if plan.kind == "mps":
        free = float(module.recommended_max_memory() - module.driver_allocated_memory())
    else:
        each = [
            module.mem_get_info(number)[0] + module.memory_reserved(number) - module.memory_allocated(number)
            for number in plan.devices
        ]
        free = float(min(each) * len(each))
    longest = max(map(len, prompts), default=1)
    return rows_that_fit(architecture_of(config), free, longest, new, len(prompts), WIDTH)


def in_batches(
    generate: Callable[[Sequence[Sequence[int]]], list[list[int]]],
    prompts: Sequence[Sequence[int]],
    size: int,
    *,
    release: Callable[[], object] = gc.collect,
) -> tuple[list[list[int]], int]:
    """What `generate` gives for all prompts, `size` at a time, the longest first; half of that where memory runs out. And the size.

    Raises:
        NoRoom: not even one prompt fits.
    """
    order = (
        sorted(range(len(prompts)), key=lambda number: -len(prompts[number]))
        if size < len(prompts)
        else range(len(prompts))
    )
    found: list[list[int]] = [[] for _ in prompts]
    at = 0
    while at < len(prompts):
        chosen = order[at : at + size]
        rows, failure = _tried(generate, [prompts[number] for number in chosen])
        if failure:  # outside of the except block: nothing of the failed attempt is held any more
            release()
            if size == 1:
                raise NoRoom(f"not even one prompt at a time fits beside the model: {failure}")
            size = max(1, min(size, len(chosen)) // 2)
            continue
        for number, row in zip(chosen, rows, strict=True):
            found[number] = row
        at += len(chosen)
    return found, size


def _tried(
    generate: Callable[[Sequence[Sequence[int]]], list[list[int]]], prompts: Sequence[Sequence[int]]
) -> tuple[list[list[int]], str]:
    try:
        return generate(prompts), ""
    except Exception as error:
        if not is_oom(error):
            raise
        return [], f"{type(error).__name__}: {error}".partition("\n")[0]


def config_of(path: str, trusted: Mapping[str, Any]) -> dict[str, Any]:
    """The config.json of a model folder or of a name in the local cache, as transformers reads it."""
    import json

    file = Path(path, "config.json")
    if file.is_file():
        return dict(json.loads(file.read_text("utf-8")))
    from transformers import AutoConfig

    return dict(AutoConfig.from_pretrained(path, **trusted).to_dict())
