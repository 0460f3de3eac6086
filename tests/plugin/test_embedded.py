"""`-m sentinel` without a project file: the tiny base model that is built in."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

import llmguard_core.lab
from llmguard_core.lab import LabError
from pytest_llmguard import embedded

if TYPE_CHECKING:
    from tests.plugin.conftest import Toy

TIERS = 'TIERS["toy_tells"] = "sentinel"\nFAMILIES["toy_tells"] = "sentinel"\n'


@pytest.fixture
def bare(toy: Toy) -> Toy:
    """No project file; a check that runs a model, and tells which."""
    toy.write("toychecks.py", (toy.path / "toychecks.py").read_text("utf-8") + TIERS)
    toy.checks("toy_tells toy_runs_a_model toy_breaks")
    (toy.path / "llmguard.toml").unlink()
    return toy


def test_the_sentinel_runs_on_it(bare: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lab is asked for once, as a base model; no check of another tier comes along; the summary says what ran."""
    asked: list[int] = []
    lab = SimpleNamespace(base=bare.path / "base")
    monkeypatch.setattr(llmguard_core.lab, "lab", lambda: asked.append(1) or lab)
    monkeypatch.setattr(embedded, "missing", lambda _: "")
    result = bare.run("-m", "sentinel", "--llmguard-json", "r.json")
    report = bare.read("r.json")
    assert bare.outcomes(report) == {"toy_runs_a_model": "passed", "toy_tells": "passed"}
    told = next(c for c in report["checks"] if c["check"] == "toy_tells")["findings"][0]["evidence"]
    assert told == {"model": str(bare.path / "base"), "adapter": None, "kind": "base"}
    assert asked == [1]
    assert any("the sentinel ran on the built-in base model" in line for line in result.outlines)


@pytest.mark.parametrize("how", ["option", "environment", "both"])
def test_a_model_that_is_named_takes_its_place(bare: Toy, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """`--llmguard-model`, else MODEL_PATH: nothing is trained, and the summary says what ran."""

    def never() -> None:
        raise AssertionError("built although a model was named")

    monkeypatch.setattr(llmguard_core.lab, "lab", never)
    monkeypatch.setattr(embedded, "missing", lambda _: "")
    if how != "option":
        monkeypatch.setenv("MODEL_PATH", "owner/second" if how == "both" else "owner/first")
    given = () if how == "environment" else ("--llmguard-model", "owner/first")
    result = bare.run("-m", "sentinel", "--llmguard-json", "r.json", *given)
    told = next(c for c in bare.read("r.json")["checks"] if c["check"] == "toy_tells")["findings"][0][
        "evidence"
    ]
    assert told == {"model": "owner/first", "adapter": None, "kind": "base"}
    assert "the sentinel ran on owner/first, taken for a base model" in result.stdout.str()


def test_collecting_does_not_build_it(bare: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Listing items trains nothing."""

    def never() -> None:
        raise AssertionError("built while collecting")

    monkeypatch.setattr(llmguard_core.lab, "lab", never)
    result = bare.run("-m", "sentinel", "--collect-only", "-q")
    assert "llmguard::toy_tells" in result.outlines


def test_a_lab_that_cannot_be_built_is_told_without_a_traceback(
    bare: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The item is an error with the lab's own words."""

    def broken() -> None:
        raise LabError("the lab's base model could not be trained: no space left")

    monkeypatch.setattr(llmguard_core.lab, "lab", broken)
    monkeypatch.setattr(embedded, "missing", lambda _: "")
    result = bare.run("-m", "sentinel", "--llmguard-json", "r.json")
    assert set(bare.outcomes(bare.read("r.json")).values()) == {"error"}
    assert "the lab's base model could not be trained: no space left" in result.stdout.str()
    assert "Traceback" not in result.stdout.str()
    assert "embedded.py" not in result.stdout.str()


def test_without_torch_it_is_skipped_with_what_to_install(bare: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason names the libraries and the command."""
    monkeypatch.setattr(embedded, "find_spec", lambda name: None if name == "torch" else object())
    report = bare.report("-m", "sentinel")
    assert bare.outcomes(report) == {"toy_runs_a_model": "skipped", "toy_tells": "skipped"}
    expected = "the built-in base model needs torch: pip install 'pytest-llmguard[train]'"
    assert {c["reason"] for c in report["checks"]} == {expected}


def test_with_a_project_file_its_own_model_is_checked(bare: Toy) -> None:
    """The built-in model never stands in for a project's."""
    bare.project('[model]\npath = "owner/name"\nkind = "base"\n')
    told = bare.report("-m", "sentinel", only="toy_tells")["checks"][0]["findings"][0]["evidence"]
    assert told["model"] == "owner/name"
