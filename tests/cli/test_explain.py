"""`llmguard explain`: every check can be asked about, by people and by programs."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from llmguard.catalogue import CHECKS, Entry
from llmguard.cli.describe import ALWAYS, describe, line_for, sentence
from llmguard.contract import Yields, check
from llmguard.evidence import KINDS, SETTINGS
from llmguard.registry import Registry

Run = Callable[..., Any]


@check
def ids_are_even(encoded: Any, kind: str, tokenizer: Any = None, train_on: str = "responses") -> Yields:
    """Every id is even,
    which is a property of no tokenizer.

    Looks at `input_ids` alone.
    """
    yield from ()
    return 0


OWN = Entry(
    "ids_are_even", __name__, "tokens", "sentinel", ("encoded",), over="encoded", bugs=("odd_ids_everywhere",)
)
BROKEN = Entry("nothing_is_there", "no_such_module_anywhere", "data")


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    """The registry with two checks of somebody else's, of which one cannot be imported."""
    monkeypatch.setitem(
        __import__("sys").modules, __name__, __import__("types").SimpleNamespace(ids_are_even=ids_are_even)
    )
    found = Registry([OWN, BROKEN], installed=False)
    monkeypatch.setattr("llmguard.cli.explain.Registry", lambda: found)
    return found


@pytest.mark.parametrize("entry", CHECKS, ids=lambda e: e.name)
def test_every_check_can_be_explained(entry: Entry) -> None:
    """Each has a promise, and for all it cannot do without there is a line to add, or every project has it."""
    found = describe(entry)
    assert found.trouble == ""
    assert found.promise
    assert found.sentence.endswith(".")
    assert all(n.line or n.evidence in (*ALWAYS, "sources") for n in found.needs if not n.optional)
    assert [n.evidence for n in found.needs if not n.optional][: len(entry.needs)] == list(entry.needs)
    json.dumps(found.to_json())


@pytest.mark.parametrize(
    "evidence", sorted({n for e in CHECKS for n in e.load().parameters} & {*KINDS, *SETTINGS})
)
def test_the_lines_to_add_name_a_key_of_the_project_file(evidence: str) -> None:
    """What is said to add is a table and a key that the project file knows."""
    from llmguard.project.schema import Schema

    for table, key in re.findall(r"`\[(\w+)\] (\w+)", line_for(evidence)):
        assert key in Schema.model_fields[table].annotation.model_fields  # type: ignore[union-attr]  # a table is a model


def test_a_check_is_explained(registry: Registry, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sentence, family, tier, promise, details, needs with their lines, bugs, and how to run it alone."""
    monkeypatch.setenv("COLUMNS", "160")
    said = run("explain", "ids_are_even")
    assert said.code == 0
    for part in (
        "Ids are even.",
        "tokens · sentinel",
        "Every id is even, which is a property of no tokenizer.",
        "Looks at `input_ids` alone.",
        '[pipeline] encode = "module:function"',
        '[model] kind = "base"',
        'optional; `[pipeline] train_on` (default "responses")',
        "once for each target of `encoded`",
        "odd ids everywhere",
        "pytest -k ids_are_even",
    ):
        assert part in said.out


@pytest.mark.parametrize("asked", ["Ids are even.", "ids-are-even", " IDS_ARE_EVEN "])
def test_the_sentence_itself_is_understood(registry: Registry, run: Run, asked: str) -> None:
    """A check may be named as the sentence that it is."""
    assert "Ids are even." in run("explain", asked).out


def test_programs_get_json(registry: Registry, run: Run) -> None:
    """One check is an object, a family or all of them a list."""
    one = json.loads(run("explain", "ids_are_even", "--json").out)
    assert one["needs"][0]["evidence"] == "encoded"
    assert one["needs"][-1] == {
        "evidence": "train_on",
        "optional": True,
        "line": '`[pipeline] train_on` (default "responses")',
    }
    assert one["bugs"] == ["odd_ids_everywhere"]
    everything = json.loads(run("explain", "--json").out)
    assert [c["name"] for c in everything] == [e.name for e in registry]


def test_a_check_that_cannot_be_imported_says_why(registry: Registry, run: Run) -> None:
    """A broken check of others is explained by what is wrong with it."""
    said = run("explain", "nothing_is_there")
    assert said.code == 0
    assert "cannot be imported: ModuleNotFoundError" in said.out


def test_without_a_name_all_checks_are_listed_by_family(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every check is in the table, whole; a family lists its own."""
    monkeypatch.setenv("COLUMNS", "200")
    said = run("explain").out
    assert all(re.search(rf"\b{e.name}\b", said) for e in CHECKS)
    assert f"{len(Registry())} checks" in said
    masking = run("explain", "masking").out
    names = {e.name for e in CHECKS if re.search(rf"\b{e.name}\b", masking)}
    assert names == {e.name for e in CHECKS if e.family == "masking"}


@pytest.mark.parametrize(
    ("asked", "near"),
    [
        ("terminator_is_traned", "terminator_is_trained"),
        ("trained_terminator", "terminator_is_trained"),
        ("maskin", "masking"),
    ],
)
def test_a_misspelt_name_is_told_the_nearest(run: Run, asked: str, near: str) -> None:
    """One message with the names that were probably meant, exit code 2."""
    said = run("explain", asked)
    assert (said.code, said.out) == (2, "")
    assert f"`{asked}`" in said.err
    assert near in said.err


def test_a_name_like_no_other_is_told_where_to_look(run: Run) -> None:
    """Nothing is guessed where nothing is near."""
    said = run("explain", "\x1b[31mqqq")
    assert said.code == 2
    assert "did you mean" not in said.err
    assert "lists all" in said.err
    assert "\x1b" not in said.err


def test_a_name_becomes_a_sentence() -> None:
    """Words for underscores, a capital, a full stop."""
    assert sentence("prompts_have_one_bos") == "Prompts have one bos."
