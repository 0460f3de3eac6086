"""One tokenizer at a time: all tests of a tokenizer run one behind the other, so that it is loaded and its rows encoded once."""

from __future__ import annotations

import pytest
from support import real
from support.cases import Case


@pytest.fixture(scope="session", params=real.TOKENIZERS)
def case(request: pytest.FixtureRequest) -> Case:
    """A real tokenizer with its encodings."""
    return Case(request.param)
