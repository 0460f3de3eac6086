"""Reports as SARIF 2.1.0 (OASIS), for code scanning and editors: rules from checks, results from findings."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any
from urllib.parse import quote

from llmguard.errors import UsageError
from llmguard.reporting.text import clean

__all__ = ["SCHEMA", "render"]

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
LEVELS = {"error": "error", "warning": "warning", "note": "note"}
ROOT = "PROJECTROOT"


def render(document: Mapping[str, Any]) -> str:
    """The JSON report (`llmguard.report.document`) as SARIF text.

    Findings of accepted checks are suppressed results; broken checks and a broken session are notifications
    of the invocation. Tokens, rows and keys, for which SARIF has no region, are logical locations.

    Raises:
        UsageError: no JSON report.
    """
    if not isinstance(document, Mapping) or not isinstance(document.get("checks"), Sequence):
        raise UsageError("document", document, "the JSON report of an audit, with its `checks`")
    return json.dumps(
        {"$schema": SCHEMA, "version": "2.1.0", "runs": [_run(clean(document))]},
        indent=1,
        allow_nan=False,
        default=str,
    )


def _run(document: Mapping[str, Any]) -> dict[str, Any]:
    checks = [c for c in document["checks"] if isinstance(c, Mapping)]
    names = list(dict.fromkeys(str(c.get("check")) for c in checks))
    index = {name: i for i, name in enumerate(names)}
    records = {str(c.get("check")): c for c in reversed(checks)}
    return {
        "tool": {"driver": _driver([_rule(records[name]) for name in names])},
        "originalUriBaseIds": {ROOT: {"description": {"text": "The folder of the project file."}}},
        "invocations": [_invocation(document, checks, index)],
        "results": list(_results(checks, index)),
        "columnKind": "unicodeCodePoints",
        "properties": {"project": str(document.get("project", "")), "totals": document.get("totals", {})},
    }


def _driver(rules: list[dict[str, Any]]) -> dict[str, Any]:
    from llmguard import __version__

    return {"name": "pytest-llmguard", "version": __version__, "semanticVersion": __version__, "rules": rules}


def _rule(check: Mapping[str, Any]) -> dict[str, Any]:
    name = str(check.get("check"))
    told = _docstring(name) or _sentence(name)
    bugs = {str(b) for f in check.get("findings") or () for b in f.get("bugs") or ()}
    return {
        "id": name,
        "name": "".join(word.capitalize() for word in name.split("_")),
        "shortDescription": {"text": _sentence(name)},
        "fullDescription": {"text": told},
        "help": {"text": f"{told}\n\nMore: llmguard explain {name}"},
        "defaultConfiguration": {"level": "error"},
        "properties": {
            "family": str(check.get("family", "")),
            "tier": str(check.get("tier", "")),
            "tags": sorted({str(check.get("family", "")), *bugs} - {""}),
        },
    }


def _sentence(name: str) -> str:
    words = name.replace("_", " ")
    return f"{words[:1].upper()}{words[1:]}."


def _docstring(name: str) -> str:
    """What the check promises, from its docstring; '' for checks that are not this library's."""
    from llmguard.catalogue import CHECKS

    entry = next((e for e in CHECKS if e.name == name), None)
    try:
        return inspect.cleandoc(entry.load().__doc__ or "") if entry else ""
    except (ImportError, AttributeError):  # a report of another version
        return ""


def _results(checks: Sequence[Mapping[str, Any]], index: Mapping[str, int]) -> Iterator[dict[str, Any]]:
    for check in checks:
        for finding in check.get("findings") or ():
            if isinstance(finding, Mapping):
                yield _result(check, finding, index)


def _result(check: Mapping[str, Any], finding: Mapping[str, Any], index: Mapping[str, int]) -> dict[str, Any]:
    name = str(check.get("check"))
    found: dict[str, Any] = {
        "ruleId": name,
        "ruleIndex": index[name],
        "level": LEVELS.get(str(finding.get("severity")), "warning"),
        "message": {"text": str(finding.get("message") or name)},
        "locations": [_location(finding)],
        "partialFingerprints": {"llmguard/v1": _fingerprint(check, finding)},
        "properties": {
            **{k: check[k] for k in ("project", "target") if check.get(k)},
            **{k: finding[k] for k in ("expected", "actual", "remedy", "evidence", "bugs") if finding.get(k)},
        },
    }
    if check.get("outcome") == "accepted":
        found["suppressions"] = [
            {
                "kind": "external",
                "status": "accepted",
                "justification": str(check.get("reason") or "accepted"),
            }
        ]
    return found


def _fingerprint(check: Mapping[str, Any], finding: Mapping[str, Any]) -> str:
    """The same for the same problem at the same place, whatever its numbers are today."""
    place = finding.get("location") or {}
    whose = (str(check.get(key) or "") for key in ("project", "check", "target"))
    parts = [*whose, *(str(place.get(key, "")) for key in ("file", "key", "column", "what"))]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def _location(finding: Mapping[str, Any]) -> dict[str, Any]:
    place = finding.get("location") or {}
    found: dict[str, Any] = {}
    if place.get("file"):
        found["physicalLocation"] = {"artifactLocation": _artifact(str(place["file"])), **_region(place)}
    logical = [{"name": name, "fullyQualifiedName": name, "kind": kind} for name, kind in _logical(place)]
    if logical or not found:
        found["logicalLocations"] = logical or [
            {"name": str(finding.get("where") or "project"), "kind": "module"}
        ]
    return found


def _artifact(file: str) -> dict[str, str]:
    path = file.replace("\\", "/")
    if PurePath(file).is_absolute() or path[1:3] == ":/":
        return {"uri": f"file:///{quote(path.lstrip('/'), safe='/:')}"}
    return {"uri": quote(path, safe="/"), "uriBaseId": ROOT}


def _region(place: Mapping[str, Any]) -> dict[str, Any]:
    line, column = place.get("line"), place.get("column")
    if not isinstance(line, int) or line < 1:
        return {}
    start = {"startColumn": column} if isinstance(column, int) and column >= 1 else {}
    return {"region": {"startLine": line, **start}}


def _logical(place: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if place.get("what"):
        yield str(place["what"]), "module"
    if place.get("row") is not None:
        yield f"row {place['row']}", "element"
    if isinstance(place.get("column"), str):
        yield f"column {place['column']}", "member"
    if place.get("key") is not None:
        yield str(place["key"]), "property"
    if place.get("tokens"):
        yield "tokens {}-{}".format(*place["tokens"]), "element"


def _invocation(
    document: Mapping[str, Any], checks: Sequence[Mapping[str, Any]], index: Mapping[str, int]
) -> dict[str, Any]:
    broken = [_notification(c, "error", index) for c in checks if c.get("outcome") == "error"]
    if document.get("error"):
        broken.append({"level": "error", "message": {"text": str(document["error"])}})
    waiting = [_notification(c, "note", index) for c in checks if c.get("outcome") == "skipped"]
    return {
        "executionSuccessful": not broken,
        "toolExecutionNotifications": broken,
        "toolConfigurationNotifications": waiting,
    }


def _notification(check: Mapping[str, Any], level: str, index: Mapping[str, int]) -> dict[str, Any]:
    name, target = str(check.get("check")), check.get("target")
    end = "broke" if level == "error" else "was skipped"
    text = f"{name}{f'[{target}]' if target else ''} {end}: {check.get('reason') or 'no reason was given'}"
    return {"level": level, "message": {"text": text}, "associatedRule": {"id": name, "index": index[name]}}
