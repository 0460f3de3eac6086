"""Measurements of a run: lines that can be read while it goes on, a plot that is valid SVG, and no run lost to a full disk."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from support.runs import collate, model, rows, settings
from support.tiny import byte_level

from llmguard_core.training import Guards, Limits, Monitor, train
from llmguard_core.training.monitoring import png, read_metrics, series, svg

RECORDS = [
    {
        "step": s,
        "loss": 3.0 / s,
        "grad_norm": 1.0 + s % 2,
        "memory_mib": 100.0,
        "marker_rate": 0.5,
        "time": float(s),
    }
    for s in range(1, 9)
]
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A run of eight steps with validation and samples; its folder and result."""
    folder = tmp_path_factory.mktemp("run")
    told = settings(folder, max_steps=8, eval_steps=4, sample_steps=4)
    return folder, train(model(), byte_level(), rows(24), told, validation=rows(4), collator=collate)


def test_every_step_is_a_line_with_its_measurements(measured: tuple[Path, Any]) -> None:
    """Loss, rate, gradient norm, memory, tokens a second, rates of samples; monotonic time that only grows."""
    records = read_metrics(measured[0] / "metrics.jsonl")
    steps = [r for r in records if "loss" in r]
    assert [r["step"] for r in steps] == list(range(1, 9))
    wanted = {"time", "learning_rate", "grad_norm", "memory_mib", "tokens_per_second", "epoch"}
    assert all(wanted <= set(r) for r in steps)
    assert all(r["memory_mib"] > 1 and r["tokens_per_second"] > 0 for r in steps)
    times = [r["time"] for r in records]
    assert times == sorted(times)
    assert {"marker_rate", "empty_rate"} <= set(steps[-1])
    assert [r["step"] for r in records if "eval_loss" in r] == [4, 8]


def test_tokens_a_second_are_those_that_were_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Padding aside, over the time since the line before."""
    import types

    from llmguard_core.training import trainer

    clock = iter(float(i) for i in range(1000))
    monkeypatch.setattr(trainer, "time", types.SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr("llmguard_core.training.run.png", lambda records, path: None)
    data = rows(8)
    train(
        model(),
        byte_level(),
        data,
        settings(tmp_path, max_steps=1, batch_size=4, accumulation=2),
        collator=collate,
    )
    first = read_metrics(tmp_path / "metrics.jsonl")[0]
    assert first["tokens_per_second"] == sum(len(r["input_ids"]) for r in data)


def test_a_run_leaves_its_plots(measured: tuple[Path, Any]) -> None:
    """SVG always; PNG where matplotlib is installed."""
    assert ElementTree.parse(measured[0] / "metrics.svg").getroot().tag == f"{SVG}svg"
    pytest.importorskip("matplotlib")
    assert (measured[0] / "metrics.png").read_bytes().startswith(b"\x89PNG")


def test_the_plot_has_a_panel_for_what_was_measured_and_a_line_for_each_alarm() -> None:
    """Points lie within their panels; alarms are marked at their steps."""
    root = ElementTree.fromstring(svg([*RECORDS, {"step": 5, "alarm": "rise", "what": "<&>"}]))
    titles = [t.text for t in root.iter(f"{SVG}text") if t.get("font-weight")]
    assert titles == ["loss (nats a token)", "gradient norm", "memory (MiB)", "samples"]
    lines = list(root.iter(f"{SVG}polyline"))
    assert sum(line.get("stroke") == "#cf222e" for line in lines) == 4
    for line in lines:
        for point in str(line.get("points")).split():
            x, y = map(float, point.split(","))
            assert 0 <= x <= 420
            assert 0 <= y <= 180


@pytest.mark.parametrize(
    "records", [[], [{"step": 1, "loss": 2.0}], [{"step": 1, "loss": "nan"}], [{"loss": 2.0}]]
)
def test_plots_of_little_are_plots(records: Any, tmp_path: Path) -> None:
    """Nothing, one point, no number: no division by nought."""
    assert ElementTree.fromstring(svg(records)).tag == f"{SVG}svg"
    pytest.importorskip("matplotlib")
    assert png(records, tmp_path / "plot.png")


def test_without_matplotlib_there_is_no_png(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """And no error."""
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    assert png(RECORDS, tmp_path / "plot.png") is None


def test_lines_are_json_and_a_cut_last_line_is_left_out(tmp_path: Path) -> None:
    """NaN and infinity are text, for JSON has no number for them; they are no points of a plot."""
    monitor = Monitor(tmp_path / "deep" / "metrics.jsonl")
    monitor.write({"step": 1, "loss": math.nan})
    monitor.write({"step": 2, "loss": math.inf})
    monitor.write({"step": 3, "loss": 1.5})
    with monitor.path.open("a") as opened:
        opened.write('{"step": 4, "lo')
    for line in monitor.path.read_text().splitlines()[:3]:
        json.loads(line, parse_constant=pytest.fail)
    records = read_metrics(monitor.path)
    assert [r["loss"] for r in records] == ["nan", "inf", 1.5]
    assert series(records, "loss") == [(3.0, 1.5)]


def test_a_full_disk_costs_the_measurements_and_not_the_run(caplog: pytest.LogCaptureFixture) -> None:
    """Told once."""
    monitor = Monitor("/proc/nowhere/metrics.jsonl")
    caplog.set_level(logging.WARNING)
    monitor.write({"step": 1})
    monitor.write({"step": 2})
    assert caplog.text.count("measurements are lost") == 1


def test_alarms_are_lines_too(tmp_path: Path) -> None:
    """The step, the kind, the sentence and the numbers."""
    monitor = Monitor(tmp_path / "metrics.jsonl")
    guards = Guards(Limits(), on_alarm=monitor.alarm)
    guards.judge(["", ""], 3)
    (record,) = read_metrics(monitor.path)
    assert (record["step"], record["alarm"], record["stops"], record["rate"]) == (3, "empty", False, 1.0)
    assert "2 samples are empty" in record["what"]
