"""Mistakes of the person at the command line: one message, exit code 2."""

from __future__ import annotations

from llmguard.errors import LLMGuardError

__all__ = ["Mistake"]


class Mistake(LLMGuardError):
    """Something was asked for that is not there; the message says what to do instead."""
