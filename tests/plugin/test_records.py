"""Records: whatever a check puts into its evidence becomes JSON that every transport can carry."""

from __future__ import annotations

import datetime as dt
import enum
import json
import pathlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_llmguard.records import json_safe


class Colour(enum.Enum):
    """An enumeration."""

    RED = "red"


class Rude:
    """An object that cannot even be shown."""

    def __str__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("value", "safe"),
    [
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
        (np.float32(0.5), 0.5),
        (np.float64("nan"), "nan"),
        (np.int64(7), 7),
        (np.bool_(True), True),
        (np.arange(3), [0, 1, 2]),
        (np.array([[1.0, float("nan")]]), [[1.0, "nan"]]),
        (pathlib.PurePosixPath("a/b"), "a/b"),
        (dt.date(2999, 1, 31), "2999-01-31"),
        (Colour.RED, "red"),
        (b"a\xff", "a\\xff"),
        ({3, 1, 2}, [1, 2, 3]),
        ({1: (2, [3])}, {"1": [2, [3]]}),
        ({None: 1, (1, 2): 2}, {"None": 1, "(1, 2)": 2}),
        (Rude(), "<Rude>"),
        (2**70, 2**70),
        (True, True),
        (None, None),
    ],
)
def test_what_foreign_evidence_becomes(value: Any, safe: Any) -> None:
    """Numbers stay numbers, containers stay containers, the rest becomes text."""
    assert json_safe(value) == safe
    assert type(json_safe(value)) is type(safe)


def test_what_holds_itself_ends() -> None:
    """A list that holds itself is no endless descent."""
    held: list[Any] = []
    held.append(held)
    assert json_safe({"a": held, "b": 1}) == {"a": ["<list that holds itself>"], "b": 1}
    assert json_safe([[1], [1]]) == [[1], [1]]


def test_what_is_too_deep_ends() -> None:
    """So is a list of a thousand levels."""
    deep: list[Any] = []
    for _ in range(1000):
        deep = [deep]
    text = json.dumps(json_safe(deep))
    assert "<list too deep to show>" in text
    assert len(text) < 200


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters())
    | st.binary()
    | st.dates(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.text(st.characters()) | st.integers(), inner)
        | st.tuples(inner, inner)
    ),
    max_leaves=20,
)


@given(ANYTHING)
def test_it_is_strict_ascii_json_and_stays_as_it_is(value: Any) -> None:
    """Strict JSON, lone surrogates and all; making a safe value safe again changes nothing."""
    safe = json_safe(value)
    text = json.dumps(safe, allow_nan=False)
    assert text.isascii()
    assert json.loads(text) == safe
    assert json_safe(safe) == safe
