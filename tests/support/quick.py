"""Models this small spend their time waiting for a second thread, and collecting others' garbage."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

__all__ = ["one_thread"]


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
