"""What the markers `gpu`, `gpu_memory(…)` and `llmguard(…)` ask for, before a test is set up."""

from __future__ import annotations

import pytest

from pytest_llmguard.ladder import marked, option

__all__ = ["NEEDS_GPU", "prepare"]

NEEDS_GPU = "needs a GPU: run pytest with --gpu"


def prepare(item: pytest.Item) -> None:
    """Skip a test that needs a GPU where none was asked for; fail one whose marker is wrong, in one line."""
    limits = item.get_closest_marker("gpu_memory")
    needs = item.get_closest_marker("gpu") or (limits and _has_gpu())
    if needs and not option(item.config, "gpu"):
        pytest.skip(NEEDS_GPU)
    wrong = marked(item)
    if wrong:
        pytest.fail(wrong, pytrace=False)
    if limits:
        from pytest_llmguard.limits import limits_of

        try:
            limits_of(limits)
        except ValueError as bad:
            pytest.fail(f"@pytest.mark.gpu_memory: {bad}", pytrace=False)


def _has_gpu() -> bool:
    """Whether a driver of this machine shows a GPU; without one, memory tests are held to host memory."""
    from llmguard.memory.accelerators import driver_is_here

    return driver_is_here()
