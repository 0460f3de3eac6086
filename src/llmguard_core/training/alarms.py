"""What the guards of a run look for, when they speak, and what they say."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["MARKERS", "Alarm", "Limits"]

MARKERS = (
    r"</?think(?:ing)?>",
    r"<\|[a-z_]+\|>",
    r"\[/?INST\]",
    r"###\s*(?:Instruction|Response)",
    r"\{\w+\}",
)
"""Patterns that a reader should not see in every output: thinking tags, turn tokens, scaffolding, placeholders."""


@dataclass(frozen=True)
class Limits:
    """When the guards speak. Steps are optimizer steps."""

    zero_steps: int = 3
    """Steps with a gradient of exactly zero everywhere, one after another, that stop the run."""
    overflows: int = 25
    """Steps of fp16 whose scaled gradients overflow, one after another (the scaler skips those steps)."""
    window: int = 20
    """Steps whose median is "the loss now", and that pass before anything is compared with it."""
    diverged: float = 1.5
    """The loss now over the loss at the beginning: more stops the run."""
    trend_steps: int = 100
    """After so many steps, and at each doubling, the loss must have a falling trend."""
    significance: float = 0.05
    gradient: float = 10.0
    """A gradient norm over the largest of the fifty logged before."""
    growth: int = 1 << 20
    """Bytes a step by which memory may grow, over `trend_steps` steps."""
    patience: int | None = None
    """Evaluations without a better validation loss that end the run; None: only an alarm, at the second."""
    sample_steps: int | None = None
    """Steps between samples; None: none are drawn."""
    marker_warmup: int = 1
    """Rounds of samples before markers in all of them are an alarm."""
    empty_rate: float = 0.5


@dataclass(frozen=True)
class Alarm:
    """What a guard saw: the step, its kind, whether it stopped the run, a sentence with the numbers, and the numbers."""

    step: int
    kind: str
    stops: bool
    what: str
    numbers: dict[str, float] = field(default_factory=dict)
