"""Checks, findings, tallies, reports: the contracts that everything else stands on."""

from __future__ import annotations

import itertools
import json
import pickle
from collections.abc import Iterator

import hypothesis.strategies as st
import pytest
from hypothesis import given

import llmguard
from llmguard.contract import Yields, check, row_check
from llmguard.errors import CheckFailed, UsageError
from llmguard.findings import Finding, Severity, Where, error, note, require, warning
from llmguard.report import CheckResult, Outcome, Report, dumps
from llmguard.tally import Hits, Tally

PARTS = {"what": "3 of 4 rows are odd", "why": "odd rows break", "cause": "a typo", "remedy": "mend it"}


@check
def numbers_are_even(numbers: list[int]) -> Yields:
    """Every number is even."""
    for row, number in enumerate(numbers):
        if number % 2:
            yield error(Where(row=row), **PARTS, expected="even", actual=str(number))
    return len(numbers)


@row_check
def rows_are_even(numbers: list[tuple[int, int]]) -> Tally:
    """Every (row, number) has an even number."""
    odd = [{"row": row, "number": n} for row, n in numbers if n % 2]
    return Tally(len(numbers), {"odd": Hits(len(odd), len(odd), tuple(odd[:5]))})


@rows_are_even.explain
def _odd(tally: Tally) -> Iterator[Finding]:
    if tally["odd"].rows:
        yield error(
            Where(row=tally["odd"].examples[0]["row"]), **{**PARTS, "what": f"{tally.rate('odd')} are odd"}
        )


def test_a_check_yields_findings_and_says_how_much_it_looked_at() -> None:
    """The name of the function is the check's id on every finding; findings are falsy when the sentence holds."""
    found = numbers_are_even([2, 3, 4, 5])
    assert [f.check for f in found] == ["numbers_are_even", "numbers_are_even"]
    assert (found.looked_at, bool(numbers_are_even([2, 4]))) == (4, False)


def test_a_message_has_its_five_parts_in_order() -> None:
    """Where, what, why, cause, remedy."""
    message = numbers_are_even([1])[0].message
    order = [message.index(part) for part in ("row 0", "3 of 4", "odd rows break", "a typo", "mend it")]
    assert order == sorted(order)
    assert message.splitlines()[0] == "row 0: 3 of 4 rows are odd."


def test_findings_are_frozen() -> None:
    """A verdict does not change after it was given."""
    with pytest.raises(AttributeError):
        numbers_are_even([1])[0].check = "other"  # type: ignore[misc]  # that is what is tested


def test_require_raises_all_errors_at_once() -> None:
    """One CheckFailed carries the errors of every check; it is an AssertionError, so that pytest shows it as a failure."""
    with pytest.raises(CheckFailed) as caught:
        require(numbers_are_even([1, 3]), [warning(Where(), **PARTS)])
    assert len(caught.value.findings) == 2
    assert isinstance(caught.value, AssertionError)
    require(numbers_are_even([2]), [warning(Where(), **PARTS), note(Where(), what="so it is")])
    with pytest.raises(CheckFailed):
        require([warning(Where(), **PARTS)], strict=True)


@given(
    st.lists(st.integers(0, 9), max_size=40),
    st.lists(st.integers(0, 40), max_size=4),
    st.randoms(use_true_random=False),
)
def test_map_and_merge_give_the_same_answer_however_the_rows_are_cut(
    numbers: list[int], cuts: list[int], order: object
) -> None:
    """One shard, many, in any order, and through pickle: the findings are equal."""
    rows = list(enumerate(numbers))
    edges = [0, *sorted(min(c, len(rows)) for c in cuts), len(rows)]
    shards = [rows[a:b] for a, b in itertools.pairwise(edges)]
    order.shuffle(shards)  # type: ignore[attr-defined]  # hypothesis gives a random.Random
    partials = [pickle.loads(pickle.dumps(rows_are_even.map(s))) for s in shards]  # noqa: S301  # our own bytes, as between processes
    whole, merged = rows_are_even(rows), rows_are_even.merge(partials)
    assert list(whole) == list(merged)
    assert whole.looked_at == merged.looked_at == len(rows)


def test_a_row_check_without_words_is_a_usage_error() -> None:
    """A check that cannot explain itself is not silently green."""
    silent = row_check(lambda rows: Tally(1))
    with pytest.raises(UsageError, match="explain"):
        silent([])


def test_parameters_say_what_is_needed_and_what_is_optional() -> None:
    """Evidence is bound by parameter name; a default makes it optional."""
    assert numbers_are_even.parameters == {"numbers": False}
    assert llmguard.every_prompt_token_is_masked.parameters == {
        "encoded": False,
        "rows": False,
        "tokenizer": False,
        "template": True,
        "train_on": True,
    }


@pytest.mark.parametrize(
    ("where", "text"),
    [
        (Where(file="a.yaml", line=3, column=7, key="lr"), "a.yaml:3:7, key 'lr'"),
        (Where(file="t.jsonl", line=3, row=2, tokens=(4, 6)), "t.jsonl:3, row 2, tokens 4-6"),
        (Where(what="batches", row=0), "batches, row 0"),
        (Where(), "project"),
    ],
)
def test_places_read_as_editors_understand_them(where: Where, text: str) -> None:
    """file:line:column first, then row, key, tokens."""
    assert str(where) == text


def test_the_report_is_strict_json_whatever_the_data_hold() -> None:
    """Lone surrogates, NUL and odd objects in evidence do not break the contract; totals name every outcome."""
    finding = error(Where(file="a"), **PARTS, evidence={"text": "\ud800\x00", "path": object})
    result = CheckResult("c", "data", "preflight", "train", Outcome.FAILED, findings=(finding,), bugs=("b",))
    report = json.loads(dumps(Report("llmguard.toml", [result]).to_json()))
    assert report["version"] == 1
    assert set(report["totals"]) == {"passed", "failed", "warned", "skipped", "accepted", "error"}
    assert report["checks"][0]["findings"][0]["bugs"] == ["b"]
    assert set(report["checks"][0]) >= {
        "check",
        "family",
        "tier",
        "target",
        "outcome",
        "reason",
        "looked_at",
        "seconds",
        "findings",
    }
    assert set(report["checks"][0]["findings"][0]) >= {
        "severity",
        "message",
        "where",
        "expected",
        "actual",
        "remedy",
        "evidence",
        "bugs",
    }


def test_every_public_name_can_be_imported_and_every_check_by_its_name() -> None:
    """`__all__` is true, and `from llmguard import <check>` works for the whole catalogue."""
    from llmguard.catalogue import CHECKS

    for name in llmguard.__all__:
        assert getattr(llmguard, name) is not None
    for entry in CHECKS:
        assert getattr(llmguard, entry.name).name == entry.name
    with pytest.raises(AttributeError, match="no_such_check"):
        llmguard.no_such_check  # noqa: B018  # the access is the test


def test_the_catalogue_tells_the_truth_about_each_check() -> None:
    """What a line of the catalogue says is needed is what the function cannot do without; docstrings are sentences."""
    from llmguard.catalogue import CHECKS
    from llmguard.evidence import KINDS, SETTINGS

    for entry in CHECKS:
        loaded = entry.load()
        assert loaded.name == entry.name
        assert (loaded.__doc__ or "").strip(), entry.name
        required = {n for n, optional in loaded.parameters.items() if not optional}
        assert required == set(entry.needs), (
            f"{entry.name}: the catalogue says {entry.needs}, the function needs {sorted(required)}"
        )
        unknown = set(loaded.parameters) - set(KINDS) - set(SETTINGS)
        assert not unknown, f"{entry.name} takes {unknown}, which is neither evidence nor a setting"


def test_severity_is_text_in_json() -> None:
    """Severities and outcomes are plain words for other programs."""
    assert (
        json.dumps({"s": Severity.ERROR.value, "o": Outcome.PASSED.value}) == '{"s": "error", "o": "passed"}'
    )
