"""What the markers `gpu`, `gpu_memory(…)` and `llmguard(…)` ask for, before a test is set up."""

from __future__ import annotations

import pytest

from pytest_llmguard.ladder import marked, option

__all__ = ["NEEDS_GPU", "prepare"]

NEEDS_GPU = "needs a GPU: run pytest with --gpu"


def prepare(item: pytest.Item) -> None:
    """Skip a test that needs a GPU where none was asked for; fail one whose marker is wrong, in one line."""
    limits = item.get_closest_marker("gpu_memory")
    if (limits or item.get_closest_marker("gpu")) and not option(item.config, "gpu"):
        pytest.skip(NEEDS_GPU)
    wrong = marked(item)
    if wrong:
        pytest.fail(wrong, pytrace=False)
    if limits:
        from pytest_llmguard.memory import watch

        watch(item, limits)
