"""Markers: all registered with a help sentence, the families those of the catalogue."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmguard.catalogue import FAMILIES, TIERS
from pytest_llmguard import markers

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    from tests.plugin.conftest import Toy


def test_there_is_one_for_each_family() -> None:
    """The copied list is that of the catalogue, in its order."""
    assert tuple(markers.FAMILIES) == FAMILIES


def test_there_is_one_for_each_tier() -> None:
    """Every tier can be selected."""
    assert {"preflight", "sentinel", "gpu"} == set(TIERS) <= set(markers.MARKERS)


def test_each_has_a_help_sentence(inner: Callable[..., pytest.RunResult]) -> None:
    """`pytest --markers` shows each of them with more than its name; no `None`, none twice."""
    shown = [line for line in inner("--markers").outlines if line.startswith("@pytest.mark.")]
    for marker, sentence in markers.MARKERS.items():
        assert len(sentence.split()) >= 3
        assert shown.count(f"@pytest.mark.{marker}: {sentence}") == 1
    assert not any(line.endswith("None") for line in shown)


def test_strict_markers_know_them(toy: Toy) -> None:
    """A user's own tests may carry every one of them."""
    plain = [marker for marker in markers.MARKERS if "(" not in marker]
    own = "".join(f"@pytest.mark.{name}\n" for name in [*plain, "bug('x')"])
    two = "@pytest.mark.llmguard(sample=3)\ndef test_toy_too(): pass\n"
    toy.write("test_toy.py", f"import pytest\n{own}def test_toy(): pass\n{two}")
    toy.run("--strict-markers", "-W", "error", "test_toy.py").assert_outcomes(passed=1, skipped=1)


SHOWS = """

def pytest_collection_finish(session):
    print("MARKS", [(m.name, m.args) for item in session.items for m in item.iter_markers()])
"""


def test_items_carry_tier_family_and_bugs(toy: Toy) -> None:
    """What an item can be selected by."""
    toy.checks("toy_fails", SHOWS)
    expected = "MARKS [('preflight', ()), ('tokens', ()), ('bug', ('eos_is_never_learnt',))]"
    assert expected in toy.run("--co").outlines
