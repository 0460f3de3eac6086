"""A short LoRA run with the core: its loss falls, its memory comes back, and its peak is where the preflight said."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from support.smoke import Smoke, in_a_child, smoke

MIB = 2**20
pytestmark = [
    pytest.mark.needs_torch,
    pytest.mark.filterwarnings(
        "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
    ),  # peft calls it
]
RUNS: dict[str, Callable[[], Smoke]] = {
    "tiny-cpu": smoke,
    "tiny-gpu": lambda: in_a_child("cuda", "tiny"),
    "half-billion-gpu": lambda: in_a_child(
        "cuda", "half-billion", steps=12, batch=8, length=512, rank=16, rate=1e-3
    ),
}


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=[pytest.mark.gpu] if name.endswith("gpu") else []) for name in RUNS],
)
def run(request: pytest.FixtureRequest) -> Smoke:
    """One run; the small one on a processor is the same function, and runs everywhere."""
    return RUNS[request.param]()


def test_the_loss_is_finite_and_falls(run: Smoke) -> None:
    """From its first step to its last, on rows that are easily learnt."""
    assert all(map(math.isfinite, run.losses))
    assert len(run.losses) >= 8
    assert min(run.losses[-3:]) < run.losses[0] - 0.2


def test_memory_comes_back_to_where_it_was(run: Smoke) -> None:
    """Once the run is released nothing of model, optimizer and activations is left, on any device."""
    assert abs(run.after - run.before) < MIB, f"{run.before} before, {run.after} after"


def test_the_peak_is_where_the_estimate_said(
    run: Smoke, record_property: Callable[[str, object], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """Within the interval, or not far off it; the error is told in the report and on the screen."""
    record_property("peak", run.peak)
    record_property("estimate", f"{run.low:.0f} to {run.high:.0f}")
    record_property("error of the estimate", f"{run.error:+.1%}")
    with capsys.disabled():
        print(f"\n{run.told}: error {run.error:+.1%}")
    assert -0.4 < run.error < 0.1, "far off: too low an estimate ends runs, too high a one forbids them"
