"""Models this small spend their time waiting for a second thread, and collecting others' garbage."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

__all__ = ["frozen", "one_thread"]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """One thread, and collections that look at what the test made, not at the libraries' hundred thousand objects."""
    try:
        import torch
    except ImportError:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
    torch.set_num_threads(before)


@pytest.fixture
def frozen() -> Iterator[None]:
    """What is there already is no garbage and is not looked through: collecting after each of many small runs takes no time."""
    gc.freeze()
    yield
    gc.unfreeze()
