"""The estimate against reality: the interval holds what the CPU allocator gives out for real steps of seven kinds of models."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llmguard.estimates import Interval, Training, architecture_of, estimate_training

pytestmark = pytest.mark.needs_torch
WIDEST = 4.5
"""How far the ends may be apart: an interval that holds everything says nothing (LoRA on bfloat16 weights is the widest)."""

PLAIN = {"batch": 4, "length": 192}
CASES: list[dict[str, Any]] = [
    *({"kind": kind, **PLAIN} for kind in ("llama", "qwen2", "mistral", "gpt_neox", "phi", "gpt2", "gemma")),
    {"kind": "llama", **PLAIN, "accumulation": 2},
    {"kind": "llama", **PLAIN, "weights": "bfloat16"},
    {"kind": "qwen2", **PLAIN, "compute": "bfloat16"},
    {"kind": "mistral", **PLAIN, "method": "lora", "rank": 8},
    {"kind": "gpt_neox", **PLAIN, "method": "lora", "rank": 8, "weights": "bfloat16"},
    {"kind": "phi", **PLAIN, "checkpointing": True},
    {"kind": "llama", "batch": 16, "length": 12},
    {"kind": "qwen2", "batch": 1, "length": 512},
]


def name(case: dict[str, Any]) -> str:
    return "-".join(str(value) for key, value in case.items() if key not in ("rank", "config"))


@pytest.fixture(scope="module")
def measured() -> dict[str, dict[str, Any]]:
    """Every case, measured in one child process."""
    script = Path(__file__).with_name("peaks.py")
    ran = subprocess.run(
        [sys.executable, str(script), json.dumps(CASES)],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    found = [json.loads(line) for line in ran.stdout.splitlines() if line.startswith("{")]
    return {name({k: v for k, v in case.items() if k in CASES[n]}): case for n, case in enumerate(found)}


def training(case: dict[str, Any]) -> Training:
    """The case as the estimate takes it."""
    known = {k: v for k, v in case.items() if k not in ("kind", "length", "peak", "parameters", "config")}
    return Training(**known, length=Interval(case["length"], case["length"]), device="cpu")


@pytest.mark.parametrize("case", CASES, ids=name)
def test_the_peak_lies_in_the_interval(case: dict[str, Any], measured: dict[str, dict[str, Any]]) -> None:
    """And the interval is narrow enough to mean something. The runtime's share is no tensor's, and left out."""
    real = measured[name(case)]
    model = architecture_of(real["config"])
    assert model is not None
    assert real["parameters"] in Interval.about(model.parameters, model.spread)
    estimate = estimate_training(model, training(case))
    runtime = estimate.part("runtime")
    low, high = estimate.peak.low - runtime.low, estimate.peak.high - runtime.high
    assert low <= real["peak"] <= high, f"{low:,.0f} <= {real['peak']:,} <= {high:,.0f}"
    assert high < WIDEST * low


@pytest.mark.parametrize(
    ("cheap", "dear"),
    [(8, 0), (10, 2), (12, 4), (13, 0)],
    ids=["bfloat16", "lora", "checkpointing", "shorter"],
)
def test_what_saves_memory_saves_it_in_the_estimate_and_in_reality(
    cheap: int, dear: int, measured: dict[str, dict[str, Any]]
) -> None:
    """The remedies that the check names are ones: both ends of the interval, and the measured peak, go down."""
    peaks = []
    for case in (CASES[cheap], CASES[dear]):
        real = measured[name(case)]
        model = architecture_of(real["config"])
        assert model is not None
        estimate = estimate_training(model, training({"kind": real["kind"], **case}))
        peaks.append((real["peak"], estimate.peak.low))
    assert peaks[0][0] < peaks[1][0]
    assert peaks[0][1] < peaks[1][1]
