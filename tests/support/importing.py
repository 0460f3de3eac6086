"""Libraries that a test needs and a small installation lacks."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

__all__ = ["imported"]


def imported(name: str) -> Any:
    """The library, or a skip that says why it does not import.

    Also where it is installed and broken, which `pytest.importorskip` calls an error, unless told otherwise by an argument that
    pytest 8.0 and 8.1 do not know.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        pytest.skip(f"needs {name}: {error}")
