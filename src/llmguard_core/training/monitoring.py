"""What a run measures: JSON Lines while it trains, and a plot of them as SVG without further packages, or as PNG by matplotlib."""

from __future__ import annotations

import html
import json
import logging
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from transformers import TrainerCallback

from llmguard_core.memory import Device
from llmguard_core.training.alarms import Alarm
from llmguard_core.training.guards import Guards

__all__ = ["PANELS", "Monitor", "png", "read_metrics", "svg"]

_log = logging.getLogger(__name__)
PANELS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("loss (nats a token)", ("loss", "eval_loss")),
    ("gradient norm", ("grad_norm",)),
    ("memory (MiB)", ("memory_mib",)),
    ("samples", ("marker_rate", "empty_rate")),
)
COLOURS = ("#1f6feb", "#d1480f")
WIDTH, HEIGHT, LEFT, TOP = 420, 180, 56, 26  # of a panel and of its margins, in pixels


class Monitor(TrainerCallback):  # type: ignore[misc]  # transformers ships no types
    """Writes `metrics.jsonl`: a line for each log, evaluation and alarm, with step, monotonic time, memory, tokens per second and rates.

    A disk that is full costs the measurements, not the run.
    """

    def __init__(self, path: Path | str, guards: Guards | None = None) -> None:
        self.path, self.guards, self._lost = Path(path), guards, False

    def on_log(
        self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **more: Any
    ) -> None:
        """Write what is logged."""
        if not state.is_world_process_zero:
            return
        model = more.get("model")
        used = Device(next(model.parameters()).device).allocated() if model is not None else 0
        memory = {"memory_mib": round(used / 2**20, 2)}
        samples = self.guards.samples if self.guards else {}
        self.write({"step": state.global_step, **(logs or {}), **memory, **samples})

    def alarm(self, alarm: Alarm) -> None:
        """Write an alarm of the guards."""
        self.write(
            {
                "step": alarm.step,
                "alarm": alarm.kind,
                "stops": alarm.stops,
                "what": alarm.what,
                **alarm.numbers,
            }
        )

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one line; `time` is monotonic seconds. Numbers that are not finite are written as text, for JSON has none."""
        plain = {k: str(v) if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as opened:
                opened.write(json.dumps({"time": round(time.monotonic(), 3), **plain}, default=float) + "\n")
        except OSError as error:
            if not self._lost:
                _log.warning("%s: measurements are lost from here on: %s", self.path, error)
            self._lost = True


def read_metrics(path: Path | str) -> list[dict[str, Any]]:
    """The records of a metrics file; a last line that was cut off is left out."""
    records = []
    for line in Path(path).read_text("utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:
            continue
    return records


def series(records: Iterable[Mapping[str, Any]], name: str) -> list[tuple[float, float]]:
    """(step, value) of one measurement, where it is a finite number."""
    found = [(r.get("step"), r.get(name)) for r in records]
    return [(float(s), float(v)) for s, v in found if _is_number(s) and _is_number(v)]


def svg(records: Sequence[Mapping[str, Any]]) -> str:
    """The run as one inline SVG: loss, gradient norm, memory, rates of markers and of empty samples; alarms as red lines."""
    alarms = sorted({r["step"] for r in records if "alarm" in r})
    shown = [(title, [(n, series(records, n)) for n in names]) for title, names in PANELS]
    shown = [(title, lines) for title, lines in shown if any(points for _, points in lines)]
    panels = "".join(_panel(i, title, lines, alarms) for i, (title, lines) in enumerate(shown))
    rows = max(math.ceil(len(shown) / 2), 1)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * WIDTH} {rows * HEIGHT}" role="img"'
        f' font-family="sans-serif" font-size="11"><title>training run</title>{panels}</svg>'
    )


def _panel(
    place: int, title: str, lines: list[tuple[str, list[tuple[float, float]]]], alarms: list[int]
) -> str:
    points = [p for _, each in lines for p in each]
    (left, right), (low, high) = _span(x for x, _ in points), _span(y for _, y in points)
    wide, tall = WIDTH - LEFT - 16, HEIGHT - TOP - 24

    def at(x: float, y: float) -> str:
        return f"{LEFT + (x - left) / (right - left) * wide:.1f},{TOP + (high - y) / (high - low) * tall:.1f}"

    drawn = [f'<text x="{LEFT}" y="16" font-weight="bold">{html.escape(title)}</text>']
    drawn += [f'<rect x="{LEFT}" y="{TOP}" width="{wide}" height="{tall}" fill="none" stroke="#8884"/>']
    drawn += [
        f'<text x="{LEFT - 4}" y="{y}" text-anchor="end">{value:.3g}</text>'
        for value, y in ((high, TOP + 8), (low, TOP + tall))
    ]
    drawn += [
        f'<text x="{x}" y="{HEIGHT - 8}" text-anchor="end">{value:g}</text>'
        for value, x in ((right, WIDTH - 16),)
    ]
    for step in (s for s in alarms if left <= s <= right):
        drawn.append(
            f'<polyline points="{at(step, low)} {at(step, high)}" stroke="#cf222e" stroke-dasharray="3"/>'
        )
    for (name, each), colour in zip(lines, COLOURS, strict=False):
        path = " ".join(at(x, y) for x, y in each)
        drawn.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"><title>{name}</title></polyline>'
        )
    return f'<g transform="translate({place % 2 * WIDTH} {place // 2 * HEIGHT})">{"".join(drawn)}</g>'


def png(records: Sequence[Mapping[str, Any]], path: Path | str) -> Path | None:
    """The same by matplotlib; None where it is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return None
    figure = Figure(figsize=(9, 5))
    figure.subplots_adjust(hspace=0.35)
    for axes, (title, names) in zip(figure.subplots(2, 2).flat, PANELS, strict=True):
        for name, colour in zip(names, COLOURS, strict=False):
            points = series(records, name)
            axes.plot([x for x, _ in points], [y for _, y in points], color=colour, label=name)
        axes.set_title(title, fontsize=9)
        axes.legend(fontsize=7)
    figure.savefig(path, dpi=120)
    return Path(path)


def _span(values: Iterable[float]) -> tuple[float, float]:
    found = list(values)
    low, high = min(found), max(found)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
