"""The text of a failure: five parts, the tokens in the colours of their labels, nothing that can steer a terminal."""

from __future__ import annotations

import io
from typing import Any

import pytest
from _pytest._io import TerminalWriter

from pytest_llmguard.failures import Failure, headline, others

RED, BOLD, GREEN, DIM = "\x1b[31m", "\x1b[1m", "\x1b[32m", "\x1b[2m"
WINDOW = [
    {"text": "Question", "id": 1, "label": -100, "kind": "prompt"},
    {"text": " one\n", "id": 2, "label": -100, "kind": "prompt"},
    {"text": "Answer", "id": 3, "label": 3, "kind": "response"},
    {"text": "<eos>", "id": 4, "label": -100, "kind": "terminator"},
    {"text": "<pad>", "id": 0, "label": -100, "kind": "pad"},
]


def finding(severity: str = "error", **rest: Any) -> dict[str, Any]:
    message = "data.jsonl:3: 4 of 9 rows.\nWhy it matters: w.\nLikely cause: c.\nRemedy: r."
    return {"severity": severity, "message": message, "expected": "", "actual": "", "evidence": {}, **rest}


def record(*findings: dict[str, Any], **rest: Any) -> dict[str, Any]:
    known = {"check": "toy", "project": "llmguard.toml", "outcome": "failed", "reason": "", "bugs": []}
    return {**known, "findings": list(findings), **rest}


def shown(given: dict[str, Any], colours: bool = True) -> str:
    file = io.StringIO()
    tw = TerminalWriter(file)
    tw.hasmarkup = colours
    Failure(given).toterminal(tw)
    return file.getvalue()


def test_without_colours_it_is_the_plain_text() -> None:
    """What JUnit, xdist and a file get is what the terminal shows, without colours."""
    given = record(finding(evidence={"tokens": WINDOW}), bugs=["a_bug"])
    assert shown(given, colours=False).strip() == str(Failure(given))


def test_the_tokens_have_the_colours_of_their_labels() -> None:
    """Trained green, masked grey, wrong red; a legend says so."""
    text = shown(record(finding(evidence={"tokens": WINDOW})))
    assert f"{DIM}Question \x1b[0m" in text
    assert f"{GREEN}Answer \x1b[0m" in text
    assert f"{RED}{BOLD}<eos> \x1b[0m" in text or f"{BOLD}{RED}<eos> \x1b[0m" in text
    assert "trained" in text.splitlines()[-1]


def test_without_colours_the_tokens_have_signs() -> None:
    """Brackets for trained, arrows for wrong, parentheses for padding; the legend explains those that occur."""
    lines = shown(record(finding(evidence={"tokens": WINDOW})), colours=False).splitlines()
    assert lines[-6:] == [
        "Tokens:",
        "  token     Question  one↵ [Answer] >><eos><< (<pad>)",
        "  id        1        2     3        4         0",
        "  label     -100     -100  3        -100      -100",
        "  token '<eos>' ends the response and is not trained",
        "  ([trained], masked, >>wrong<<, (padding))",
    ]


@pytest.mark.parametrize(
    ("evidence", "captions"),
    [
        ({"tokens": WINDOW}, ["Tokens:"]),
        ({"tokens": [WINDOW, WINDOW]}, ["Tokens:", "Tokens:"]),
        (
            {"rows": [{"row": 3, "tokens": WINDOW}, {"row": 7, "tokens": WINDOW}]},
            ["Tokens of row 3:", "Tokens of row 7:"],
        ),
        ({"first": {"row": 3, "tokens": WINDOW}}, ["Tokens of row 3:"]),
        (
            {"rows": [{"row": i, "tokens": WINDOW} for i in range(9)]},
            [f"Tokens of row {i}:" for i in range(3)],
        ),
        ({"tokens": []}, []),
        ({"tokens": "none"}, []),
        ({"tokens": 7, "rows": [1, {"tokens": [1, 2]}]}, []),
        ({}, []),
    ],
)
def test_windows_are_found_where_checks_put_them(evidence: dict[str, Any], captions: list[str]) -> None:
    """One window, several, or one a row; the first few of many; foreign evidence is no error."""
    lines = shown(record(finding(evidence=evidence)), colours=False).splitlines()
    found = [line for line in lines if line.startswith("Tokens")]
    assert found == captions


def test_the_parts_have_their_titles() -> None:
    """Severity and titles stand out; expected and actual follow where they are given."""
    text = shown(record(finding(expected="EOS", actual="none")))
    assert f"{BOLD}{RED}error: \x1b[0m" in text or f"{RED}{BOLD}error: \x1b[0m" in text
    assert f"{BOLD}Remedy:\x1b[0m r." in text
    assert text.splitlines()[-2:] == ["Expected: EOS", "Actual:   none"]


def test_only_the_failing_findings_are_in_it() -> None:
    """Errors fail; what stands beside them is a section of its own. In a strict run warnings fail and are the text."""
    both = record(
        finding(), finding("warning", message="key 'a': odd."), finding("note", message="key 'b': noted.")
    )
    assert "odd" not in str(Failure(both))
    assert "4 of 9" not in others(both)
    assert "warning: key 'a': odd.\nnote: key 'b': noted." in others(both)
    strict = record(finding("warning", message="key 'a': odd."), finding("note", message="key 'b': noted."))
    assert "warning: key 'a': odd." in str(Failure(strict))
    assert others(strict) == "note: key 'b': noted."


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (record(finding()), "data.jsonl:3: 4 of 9 rows."),
        (record(finding(), finding(), finding()), "data.jsonl:3: 4 of 9 rows. (and 2 more)"),
        (record(outcome="error", reason="the check itself broke\nmore"), "the check itself broke"),
        (record(outcome="passed"), "passed"),
    ],
)
def test_the_headline_is_one_line(given: dict[str, Any], line: str) -> None:
    """What the short summary shows."""
    assert headline(given) == line
    assert str(Failure(given).reprcrash) == f"llmguard.toml: {line}"


def test_data_cannot_steer_the_terminal() -> None:
    """Escape sequences, carriage returns and bidirectional marks of the data are shown, not obeyed."""
    evil = "\x1b[2Jgone\r\u202eevil\ud800"
    window = [{"text": evil, "id": 1, "label": 1, "kind": "response"}]
    given = record(finding(message=f"{evil}: what.", expected=evil, evidence={"tokens": window}), reason=evil)
    for text in (shown(given), str(Failure(given)), headline(given), others({**given, "outcome": "warned"})):
        assert "\x1b[2J" not in text
        assert not {"\r", "\u202e", "\ud800"} & set(text)
        assert "⟨U+001B⟩" in text
