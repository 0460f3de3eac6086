"""What the marker `gpu_memory(leak=, peak=, repeat=)` allows a test."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import pytest

__all__ = ["Limits", "limits_of"]

TAKES = ("leak", "peak", "repeat")


@dataclass(frozen=True)
class Limits:
    """Bytes that a test may leave, bytes that it may use at most, and how often its body is run again; None: not asked."""

    leak: int | None = None
    peak: int | None = None
    repeat: int = 0


def limits_of(marker: pytest.Mark) -> Limits:
    """What a marker says.

    Raises:
        ValueError: a name or a value that is not allowed.
    """
    unknown = [*map(repr, marker.args), *(name for name in marker.kwargs if name not in TAKES)]
    if unknown or not marker.kwargs:
        raise ValueError(
            "it takes leak= and peak= by keyword, each a size such as '2 GiB', and repeat=, a number of times;"
            f" got {', '.join(unknown) or 'neither'}"
        )
    sizes = {name: _size(name, value) for name, value in marker.kwargs.items() if name != "repeat"}
    repeat = _times(marker.kwargs.get("repeat", 0))
    if repeat and "leak" not in sizes:
        raise ValueError("repeat= tells a leak from a cache: it needs leak=")
    return Limits(sizes.get("leak"), sizes.get("peak"), repeat)


def _times(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 100:
        return value
    raise ValueError(f"repeat={value!r} is not allowed: expected how often the test is run again, 0 to 100")


def _size(name: str, value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if isinstance(value, str):
        from llmguard.project.schema import parse_size

        with contextlib.suppress(ValueError):
            return parse_size(value)
    raise ValueError(f"{name}={value!r} is not allowed: expected bytes, or a size such as '512 MiB'")
