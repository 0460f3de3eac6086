"""Checks on memory before anything is loaded: from the model's config.json and the run's settings alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from llmguard.checks.config import AnyConfig
from llmguard.configs.base import Base, base_of
from llmguard.configs.config import Config, as_config
from llmguard.configs.runs import Run, runs_of
from llmguard.contract import Yields, check
from llmguard.estimates.architecture import Architecture
from llmguard.estimates.interval import size_text
from llmguard.estimates.machine import Memory
from llmguard.estimates.of_run import estimate_run, model_of, settings_of, ways_out
from llmguard.estimates.training import Estimate, Training
from llmguard.findings import Finding, Where, error, note, warning

__all__ = ["training_fits_in_memory"]

_BATCH = ("per_device_train_batch_size", "batch_size", "max_length")


@check
def training_fits_in_memory(config: AnyConfig, memory: Memory) -> Yields:
    """One training step fits into the memory there is: weights, gradients, optimizer states, activations and logits.

    An error only where even the lowest estimate does not fit, and where the memory is surely that of the run (the project file or a
    GPU tells it); on a machine without a GPU, which may not be the one that trains, a warning. Cannot see what other processes
    will take, nor a model that is spread over several devices.
    """
    found, looked_at = as_config(config), 0
    for run, base, model in _modelled(found):
        readings = settings_of(found, run, model, base.context)
        if readings:
            looked_at += 1
            told = _on_cpu(run, memory)
            estimate = estimate_run(model, readings, told.device)
            place = next(
                (run.settings[name].where for name in _BATCH if name in run.settings), Where(found.file)
            )
            yield from _judged(place, estimate, told, model, readings)
    return looked_at


def _modelled(config: Config) -> Iterator[tuple[Run, Base, Architecture]]:
    """The runs that make settings, with their base models, where their sizes are told here."""
    for run in runs_of(config):
        base = base_of(config, run) if run.settings else None
        model = model_of(base) if base else None
        if base and model:
            yield run, base, model


def _on_cpu(run: Run, memory: Memory) -> Memory:
    """The memory as the run will have it: a run that asks for the CPU means the host's."""
    asks = run.keys.get("use_cpu") is True or run.keys.get("no_cuda") is True
    return replace(memory, meant=True) if asks and memory.device == "cpu" else memory


def _judged(
    where: Where, estimate: Estimate, memory: Memory, model: Architecture, readings: list[Training]
) -> Iterator[Finding]:
    verdict = estimate.verdict(memory.free)
    told = f"a step takes {estimate.peak.text}, there is {memory.text}: {verdict}\n{estimate.table()}"
    evidence = {
        "verdict": verdict,
        "low": int(estimate.peak.low),
        "high": int(estimate.peak.high),
        "free": memory.free,
        "parts": {part.name: [int(part.size.low), int(part.size.high)] for part in estimate.parts},
    }
    if verdict == "fits":
        return
    ways = "; ".join(list(ways_out(model, readings, memory.device, memory.free))[:3])
    remedy = f"what would fit: {ways}" if ways else "use a smaller model, a larger device, or several"
    if verdict == "tight":
        yield note(where, what=told, remedy=remedy, evidence=evidence)
        return
    elsewhere = (
        ""
        if memory.meant
        else "; where the run has another machine, name its memory: `[environment] gpu_memory`"
    )
    make = error if memory.meant else warning
    yield make(
        where,
        what=told,
        why="the run dies of memory at its first step or at its longest row, after everything was loaded",
        cause=f"a batch, a length or a method meant for a larger device: {_largest(estimate)} takes most",
        remedy=f"{remedy}{elsewhere}",
        expected=f"up to {size_text(memory.free)}",
        actual=estimate.peak.text,
        evidence=evidence,
    )


def _largest(estimate: Estimate) -> str:
    """The part that takes most."""
    part = max(estimate.parts, key=lambda part: part.size.low)
    return f"{part.name} ({part.size.text}: {part.how})"
