"""The report as SARIF 2.1.0: the fields that the standard requires, and everything that the report says."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from llmguard.errors import UsageError
from llmguard.reporting.sarif import render

REQUIRED = {
    "log": {"version", "runs"},
    "run": {"tool"},
    "driver": {"name"},
    "rule": {"id"},
    "result": {"message"},
    "notification": {"message"},
    "invocation": {"executionSuccessful"},
    "suppression": {"kind"},
    "reference": set(),
    "location": set(),
    "logical": set(),
}
"""Object -> what SARIF 2.1.0 requires of it (section 3 of the standard)."""
KNOWN = {
    "log": {"$schema", "version", "runs"},
    "run": {"tool", "originalUriBaseIds", "invocations", "results", "columnKind", "properties"},
    "driver": {"name", "version", "semanticVersion", "rules"},
    "rule": {
        "id",
        "name",
        "shortDescription",
        "fullDescription",
        "help",
        "defaultConfiguration",
        "properties",
    },
    "result": {
        "ruleId",
        "ruleIndex",
        "level",
        "message",
        "locations",
        "partialFingerprints",
        "properties",
        "suppressions",
    },
    "notification": {"level", "message", "associatedRule"},
    "invocation": {"executionSuccessful", "toolExecutionNotifications", "toolConfigurationNotifications"},
    "suppression": {"kind", "status", "justification"},
    "reference": {"id", "index"},
    "location": {"physicalLocation", "logicalLocations"},
    "logical": {"name", "fullyQualifiedName", "kind"},
}
"""Object -> the properties of it that we use, each of them the standard's: nothing else may appear."""


def objects(log: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every object of a log that the standard has rules for."""
    yield "log", log
    for run in log["runs"]:
        yield "run", run
        yield "driver", run["tool"]["driver"]
        yield from (("rule", rule) for rule in run["tool"]["driver"]["rules"])
        for invocation in run["invocations"]:
            yield "invocation", invocation
            for note in (
                invocation["toolExecutionNotifications"] + invocation["toolConfigurationNotifications"]
            ):
                yield "notification", note
                yield "reference", note.get("associatedRule", {})
        for result in run["results"]:
            yield "result", result
            yield from (("suppression", s) for s in result.get("suppressions", []))
            for location in result["locations"]:
                yield "location", location
                yield from (("logical", place) for place in location.get("logicalLocations", []))


@pytest.fixture(scope="module")
def run(document: dict[str, Any]) -> dict[str, Any]:
    """The one run of the report's log."""
    [found] = json.loads(render(document))["runs"]
    return found


@pytest.mark.parametrize("name", ["document", "hostile"])
def test_the_log_has_what_the_standard_requires_and_nothing_it_does_not_know(
    name: str, request: pytest.FixtureRequest
) -> None:
    """Every object carries its required properties, and only properties of the standard."""
    log = json.loads(render(request.getfixturevalue(name)))
    assert log["version"] == "2.1.0"
    for kind, found in objects(log):
        assert found.keys() >= REQUIRED[kind], kind
        assert found.keys() <= KNOWN[kind], kind
    for run in log["runs"]:
        levels = {r["level"] for r in run["results"]}
        assert levels <= {"none", "note", "warning", "error"}
        assert run["columnKind"] in ("utf16CodeUnits", "unicodeCodePoints")


def test_every_result_points_at_its_rule(run: dict[str, Any]) -> None:
    """Ids and indices of rules agree; rules are unique and described by their check's sentence."""
    rules = run["tool"]["driver"]["rules"]
    assert len({r["id"] for r in rules}) == len(rules) == 8
    for result in run["results"]:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
    assert rules[1]["shortDescription"]["text"] == "Prompt is masked."
    assert set(rules[1]["properties"]["tags"]) == {"masking", "mask_ends_early"}


def test_every_finding_is_a_result_with_its_level_and_place(
    run: dict[str, Any], document: dict[str, Any]
) -> None:
    """Severity becomes level; file, line, row, key and tokens become locations."""
    assert len(run["results"]) == sum(len(c["findings"]) for c in document["checks"])
    told, failed, mild, accepted = run["results"]
    assert [r["level"] for r in run["results"]] == ["note", "error", "warning", "error"]
    place = failed["locations"][0]["physicalLocation"]
    assert place["artifactLocation"] == {"uri": "data/train%20set.jsonl", "uriBaseId": "PROJECTROOT"}
    assert place["region"] == {"startLine": 14}
    assert [p["name"] for p in failed["locations"][0]["logicalLocations"]] == ["row 13", "tokens 8-10"]
    assert mild["locations"][0]["logicalLocations"][0] == {
        "name": "lr",
        "fullyQualifiedName": "lr",
        "kind": "property",
    }
    assert "physicalLocation" not in told["locations"][0]
    assert failed["properties"]["remedy"].startswith("mask the whole prompt")
    assert accepted["suppressions"] == [
        {"kind": "external", "status": "accepted", "justification": "known (until 2030-01-01)"}
    ]
    assert "suppressions" not in failed


def test_broken_and_skipped_checks_are_notifications(run: dict[str, Any]) -> None:
    """A check that broke makes the execution unsuccessful; skipped ones say what is missing."""
    [invocation] = run["invocations"]
    assert invocation["executionSuccessful"] is False
    assert (
        "foreign_check[train] broke: ZeroDivisionError"
        in invocation["toolExecutionNotifications"][0]["message"]["text"]
    )
    assert len(invocation["toolConfigurationNotifications"]) == 3


def test_a_session_that_broke_is_no_success() -> None:
    """The error of the session is told."""
    [run] = json.loads(render({"checks": [], "error": "INTERNALERROR"}))["runs"]
    assert run["invocations"][0]["executionSuccessful"] is False
    assert run["invocations"][0]["toolExecutionNotifications"][0]["message"]["text"] == "INTERNALERROR"


def test_a_clean_run_is_a_success() -> None:
    """With nothing broken, the execution was successful, also when checks failed."""
    [run] = json.loads(
        render({"checks": [{"check": "c", "outcome": "failed", "findings": [{"message": "m"}]}]})
    )["runs"]
    assert run["invocations"][0]["executionSuccessful"] is True


def test_the_fingerprint_outlives_numbers_and_lines() -> None:
    """The same problem at another line keeps its fingerprint; in another file or check it does not."""

    def fingerprint(check: str = "c", **place: Any) -> str:
        finding = {"message": "m", "severity": "error", "location": place}
        [run] = json.loads(
            render({"checks": [{"check": check, "outcome": "failed", "findings": [finding]}]})
        )["runs"]
        return str(run["results"][0]["partialFingerprints"]["llmguard/v1"])

    first = fingerprint(file="a.jsonl", line=3, row=2)
    assert fingerprint(file="a.jsonl", line=9, row=8) == first
    assert len({first, fingerprint(file="b.jsonl", line=3), fingerprint("d", file="a.jsonl", line=3)}) == 3


def test_a_report_of_several_projects_keeps_them_apart() -> None:
    """The same problem in two projects is two results, each with its project."""
    one = {"check": "c", "outcome": "failed", "findings": [{"message": "m"}]}
    [run] = json.loads(render({"checks": [{**one, "project": "a.toml"}, {**one, "project": "b.toml"}]}))[
        "runs"
    ]
    assert [r["properties"]["project"] for r in run["results"]] == ["a.toml", "b.toml"]
    assert len({r["partialFingerprints"]["llmguard/v1"] for r in run["results"]}) == 2
    assert len(run["tool"]["driver"]["rules"]) == 1


def test_rules_of_this_library_carry_their_docstring() -> None:
    """The full description of a check is its docstring; a check of others has its sentence."""
    own = {"check": "terminator_is_trained", "outcome": "failed", "findings": []}
    [run] = json.loads(render({"checks": [own, {"check": "no_such_check", "outcome": "passed"}]}))["runs"]
    texts = [rule["fullDescription"]["text"] for rule in run["tool"]["driver"]["rules"]]
    assert "so that the model learns to stop" in texts[0]
    assert texts[1] == "No such check."


@pytest.mark.parametrize(
    ("file", "uri"),
    [
        ("data/ü #1.jsonl", "data/%C3%BC%20%231.jsonl"),
        ("sub\\train.jsonl", "sub/train.jsonl"),
        ("/abs/a b.jsonl", "file:///abs/a%20b.jsonl"),
        ("C:\\data\\x.jsonl", "file:///C:/data/x.jsonl"),
    ],
)
def test_places_are_uris(file: str, uri: str) -> None:
    """Relative paths are relative to the project, absolute ones are file URIs; both are percent-encoded."""
    finding = {"message": "m", "location": {"file": file, "line": 0, "column": "text"}}
    [run] = json.loads(render({"checks": [{"check": "c", "outcome": "failed", "findings": [finding]}]}))[
        "runs"
    ]
    place = run["results"][0]["locations"][0]["physicalLocation"]
    assert place["artifactLocation"]["uri"] == uri
    assert "region" not in place, "line 0 is none"


def test_hostile_text_leaves_strict_json(hostile: dict[str, Any]) -> None:
    """Neither NaN nor lone surrogates nor control characters are in the text."""
    text = render({**hostile, "totals": {"x": 1}})
    text.encode("ascii")
    assert not re.search("[\ud800-\udfff]", str(json.loads(text)))
    assert "\\u001b" not in text
    assert "⟨U+001B⟩" in json.loads(text)["runs"][0]["results"][3]["message"]["text"]


def test_what_is_no_report_is_refused() -> None:
    """Only the JSON report is rendered."""
    with pytest.raises(UsageError, match="document="):
        render({"rows": []})
