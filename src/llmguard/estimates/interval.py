"""An amount that is known to lie between two numbers."""

from __future__ import annotations

from dataclasses import dataclass

from llmguard.errors import UsageError

__all__ = ["Interval", "size_text"]

_UNITS = ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))


def size_text(size: float) -> str:
    """Bytes as `1.5 GiB`, three digits at most."""
    factor, unit = next(((f, u) for f, u in _UNITS if size >= f), (1, "B"))
    amount = size / factor
    return f"{amount:.0f} {unit}" if amount >= 99.5 or factor == 1 else f"{amount:.1f} {unit}"


@dataclass(frozen=True)
class Interval:
    """`low` to `high`, both included.

    Raises:
        UsageError: the two are exchanged, or one is negative.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high:
            raise UsageError("interval", (self.low, self.high), "0 <= low <= high")

    @classmethod
    def about(cls, value: float, spread: float) -> Interval:
        """A value that may be off by a share of itself."""
        return cls(value * (1 - spread), value * (1 + spread))

    def __add__(self, other: Interval) -> Interval:
        return Interval(self.low + other.low, self.high + other.high)

    def __mul__(self, factor: float) -> Interval:
        return Interval(self.low * factor, self.high * factor)

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high

    @property
    def text(self) -> str:
        """`1.2 GiB to 3.4 GiB`, or one size where both read the same."""
        low, high = size_text(self.low), size_text(self.high)
        return low if low == high else f"{low} to {high}"
