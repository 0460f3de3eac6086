"""The garbage collector, used so that looking costs little: what was there before is frozen, what is new is collected in microseconds.

What the user set stays as it is: a collector that is off stays off, objects that the user froze stay frozen.
"""

from __future__ import annotations

import gc
import time

__all__ = ["Collector"]

SHARE = 0.01
"""Part of the time that may go into the full collections that freezing puts off."""


class Collector:
    """Freezes at the beginning of a test, collects what the test made, and thaws."""

    def __init__(self) -> None:
        self._sign: object | None = None
        self._witness: list[object] = []
        self._next_full = 0.0

    @property
    def frozen(self) -> bool:
        """Whether what was there before the test is hidden from the collector by us."""
        return self._sign is not None

    def freeze(self) -> None:
        """Hide everything that is there. Where the user froze objects, nothing is done: thawing would thaw theirs."""
        if self._sign is None and not gc.get_freeze_count():
            gc.freeze()
            self._sign = object()
            self._witness = [self._sign]

    def thaw(self) -> None:
        """Show everything again, unless the user froze meanwhile."""
        sign, self._sign = self._sign, None
        if sign is not None and not self._frozen_by_user(sign):
            gc.unfreeze()
        self._witness = []

    def collect(self) -> None:
        """Two passes, for what the first one's finalizers set free; over everything where nothing is frozen by us."""
        gc.collect()
        gc.collect()

    def collect_all(self) -> None:
        """Thaw, then collect everything: tens to hundreds of milliseconds."""
        self.thaw()
        self._full()
        gc.collect()

    def catch_up(self) -> None:
        """Now and then: the full collection that the collector would have made by itself, had nothing been frozen."""
        if gc.isenabled() and time.perf_counter() > self._next_full:
            self.thaw()
            self._full()

    def _full(self) -> None:
        began = time.perf_counter()
        gc.collect()
        ended = time.perf_counter()
        self._next_full = ended + (ended - began) / SHARE

    def _frozen_by_user(self, sign: object) -> bool:
        """A list made after our freezing is seen by the collector, unless somebody froze again."""
        return not any(holder is self._witness for holder in gc.get_referrers(sign))
