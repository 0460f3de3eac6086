"""How much memory a training step needs: every part as an interval, from a model's sizes and a run's settings alone. No torch.

A step holds weights and optimizer states throughout; activations grow until the loss is taken, where the logits and their
gradient come on top, and shrink while gradients grow. So the peak lies between the larger and the sum of the two. What depends
on kernels (which tensors attention and activation functions keep, whether keys are repeated for their query heads) is what makes
the intervals wide; `tests/estimates` holds them against what the CPU allocator gives out for small models of seven kinds.
Sources: Korthikanti et al. 2022 (arXiv:2205.05198) for activations by layer; torch's own optimizers for their states.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from llmguard.estimates.architecture import Architecture
from llmguard.estimates.interval import Interval

__all__ = ["Estimate", "Part", "Training", "estimate_training"]

BYTES: Mapping[str, float] = MappingProxyType(
    {"float32": 4, "float16": 2, "bfloat16": 2, "float64": 8, "int8": 1.06, "int4": 0.56}
)
"""Bytes a value; 8 and 4 bits with their scales (bitsandbytes: one 32-bit scale in 64 values, quantised once more or not)."""
STATES: Mapping[str, tuple[float, float]] = MappingProxyType(
    {"adamw": (2, 2), "sgd": (0, 1), "adafactor": (0, 0.1), "lion": (1, 1), "other": (0, 3)}
)
"""Optimizer states in values of the weights' own format, fewest and most."""
EIGHT_BIT = 1.03
MIB, GIB = 2**20, 2**30
RUNTIME = {"cpu": Interval(250 * MIB, 1.2 * GIB), "gpu": Interval(300 * MIB, 1.5 * GIB)}
"""What libraries (or the context and the workspaces of a GPU) take whatever the model: measured here for the CPU, NVIDIA's usual."""
FRAGMENTS = 1.15
"""A GPU allocator hands out more than is asked for; this much is usual with rows of unequal length."""


@dataclass(frozen=True)
class Training:
    """What of a run's settings decides about memory.

    `length`: tokens of the longest row, shortest and longest guess. `weights`: format that weights are loaded in; `compute`: that of
    autocast, where there is one; `bits`: quantised to 4 or 8. `targets`: names of the matrices that adapters go to, `all-linear` for all.
    `fused_loss`: logits never exist as a whole; `pairs`: preference training, two responses a row.
    """

    batch: int
    length: Interval
    method: str = "full"
    rank: int = 16
    targets: tuple[str, ...] = ("all-linear",)
    weights: str = "float32"
    compute: str = ""
    bits: int | None = None
    optimizer: str = "adamw"
    accumulation: int = 1
    checkpointing: bool = False
    fused_loss: bool = False
    eager_attention: bool = False
    pairs: bool = False
    device: str = "gpu"


@dataclass(frozen=True)
class Part:
    """One part of the memory of a step, in bytes, and how it comes about."""

    name: str
    size: Interval
    how: str


@dataclass(frozen=True)
class Estimate:
    """The peak of a training step in bytes, and the parts it is made of (which do not all peak at the same moment)."""

    parts: tuple[Part, ...]
    peak: Interval

    def part(self, name: str) -> Interval:
        """The size of a part; nothing where there is none of that name."""
        return next((part.size for part in self.parts if part.name == name), Interval(0, 0))

    def verdict(self, free: float) -> str:
        """`fits`, `tight` or `will not fit` in so many bytes: only certain where the whole interval is."""
        return "fits" if self.peak.high <= free else "will not fit" if self.peak.low > free else "tight"

    def table(self) -> str:
        """One line a part, and the peak."""
        lines = [f"{part.name:<17} {part.size.text:>21}  {part.how}" for part in self.parts]
        return "\n".join(
            [
                *lines,
                f"{'peak':<17} {self.peak.text:>21}  at the largest: gradients grow while activations shrink",
            ]
        )


def estimate_training(model: Architecture, run: Training) -> Estimate:
    """The memory of one optimizer step on one device that holds the whole model."""
    trained = _trained(model, run)
    loaded = Interval.about(model.parameters, model.spread) * _loaded(run)
    adapter = trained * 4 if run.method == "lora" else Interval(0, 0)
    copies = Interval(0, loaded.high / BYTES[run.weights] * 2) if run.compute else Interval(0, 0)
    reference = loaded if run.pairs and run.method == "full" else Interval(0, 0)
    weights = loaded + adapter + copies + reference
    gradients = trained * (4 if run.method == "lora" else BYTES[run.weights])
    states = _states(run, trained)
    tokens = run.length * (run.batch * (2 if run.pairs else 1))
    activations, logits = _activations(model, run, tokens), _logits(model, run, tokens)
    moving = Interval(
        max(activations.low + logits.low + (gradients.low if run.accumulation > 1 else 0), gradients.low),
        activations.high + logits.high + gradients.high,
    )
    if run.device == "gpu":
        moving = Interval(moving.low, moving.high * FRAGMENTS)
    runtime = RUNTIME[run.device]
    parts = (
        Part("weights", weights, _how_weights(model, run)),
        Part("gradients", gradients, f"{trained.high:,.0f} trained values"),
        Part("optimizer states", states, run.optimizer),
        Part("activations", activations, f"{run.batch} rows x {run.length.high:,.0f} tokens, {model.layers} layers{_how_activations(run)}"),
        Part("logits", logits, f"{tokens.high:,.0f} tokens x {model.vocab:,} of the vocabulary"),
        Part("runtime", runtime, "libraries and workspaces"),
    )  # fmt: skip
    return Estimate(parts, weights + states + moving + runtime)


def _loaded(run: Training) -> float:
    return BYTES[f"int{run.bits}"] if run.bits in (4, 8) else BYTES[run.weights]


def _trained(model: Architecture, run: Training) -> Interval:
    """Values that are trained: all, or those of the adapters' two matrices."""
    if run.method != "lora":
        return Interval.about(model.parameters, model.spread)
    everything = sum(run.rank * (m.inputs + m.outputs) * m.count for m in model.linears) * model.layers
    if "all-linear" in run.targets:
        return Interval.about(everything, 0.1)
    named = [m for m in model.linears if any(m.name.endswith(t) or t.endswith(m.name) for t in run.targets)]
    if not named:  # names of another family: fused projections, say
        return Interval(0, everything)
    return Interval.about(sum(run.rank * (m.inputs + m.outputs) * m.count for m in named) * model.layers, 0.1)


def _states(run: Training, trained: Interval) -> Interval:
    name = run.optimizer.lower()
    kind = next((kind for kind in STATES if kind in name), "adamw" if name.startswith("adam_") else "other")
    low, high = STATES[kind]
    size = (
        EIGHT_BIT if "8bit" in name or "4bit" in name else 4 if run.method == "lora" else BYTES[run.weights]
    )
    low = 0 if "paged" in name or "4bit" in name else low  # paged states may leave the GPU
    return Interval(trained.low * low * size, trained.high * high * size)


def _activations(model: Architecture, run: Training, tokens: Interval) -> Interval:
    """What the backward pass keeps from the forward pass."""
    low, high = _layer(model, run)
    layer = Interval(tokens.low * low, tokens.high * high)
    if run.eager_attention or model.keeps_scores:
        scores = 5 * 4 * model.heads * run.length.high * tokens.high
        layer += Interval(
            2 * 2 * model.heads * run.length.low * tokens.low if run.eager_attention else 0, scores
        )
    stream = (
        Interval(2, 4) * (model.hidden * 1.0)
        if run.compute
        else Interval(1, 1) * (model.hidden * BYTES[run.weights])
    )
    if run.checkpointing:
        kept = Interval(tokens.low * stream.low, tokens.high * stream.high) * model.layers
        return kept + Interval(0, 1.5 * layer.high)
    ends = Interval(tokens.low * stream.low, 8 * tokens.high * stream.high)
    return layer * model.layers + ends


def _layer(model: Architecture, run: Training) -> tuple[float, float]:
    """Bytes a token and layer, fewest and most."""
    small = 2.0 if run.compute or run.bits else BYTES[run.weights]
    h, f, q, kv = model.hidden, model.inner * model.active, model.query, model.kv
    routed = 4 * h * model.active if model.experts > 1 else 0
    feed = (3 * f, 5 * f) if model.gated else (5 * f, 8 * f) if model.python_gelu else (1.5 * f, 3 * f)
    low = (3 * h + 2 * q + 2 * kv + feed[0]) * small
    norms = 3 * model.norms * h * 4 + (2 * h * small if small < 4 else 0)
    high = norms + (2 * h + 7 * q + 2 * kv + feed[1] + routed) * small
    if run.compute:  # norms and residuals stay in 32 bits, and are cast for every matrix
        high += (4 * h + 2 * q) * 4
    if run.method == "lora":
        cast = 1.0 if small < 4 else 0.0  # adapters are in 32 bits: what goes in is copied for each of them
        high += sum(cast * m.inputs + 4 * run.rank for m in model.linears) * 4 + (f + h) * small
        low = (2 * h + 2 * q + 2 * kv + 0.8 * feed[0]) * small
    return low, high


def _logits(model: Architecture, run: Training, tokens: Interval) -> Interval:
    """Logits, their log-probabilities in 32 bits, and the gradients of both, at the moment the loss is taken."""
    values = tokens * model.vocab
    if run.fused_loss:
        return Interval(0, values.high * 4)
    small = 2.0 if run.compute or run.bits else BYTES[run.weights]
    low, high = (12.0, 20.0) if small == 4 else (10.0, 22.0)
    if run.pairs:
        low, high = 2 * small, high + 12
    return Interval(values.low * low, values.high * high)


def _how_weights(model: Architecture, run: Training) -> str:
    source = "by their headers" if model.counted is not None else "by config.json"
    kind = f"{run.bits} bits" if run.bits else run.weights
    more = ", copies for autocast" if run.compute else ""
    more += ", an adapter" if run.method == "lora" else ", a reference model" if run.pairs else ""
    return f"{model.parameters:,} parameters {source}, {kind}{more}"


def _how_activations(run: Training) -> str:
    return ", recomputed (gradient checkpointing)" if run.checkpointing else ""
