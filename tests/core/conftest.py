"""What all tests of the core share."""

from __future__ import annotations

from support.quick import one_thread

__all__ = ["one_thread"]
