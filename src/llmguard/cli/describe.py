"""What there is to say about a check: from the catalogue, its docstring, its parameters, and the providers of its evidence."""

from __future__ import annotations

import inspect
import json
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from llmguard.catalogue import Entry
from llmguard.errors import LLMGuardError, MissingEvidence
from llmguard.evidence import KINDS, SETTINGS, Evidence
from llmguard.project import Project

__all__ = ["Description", "Need", "describe", "sentence"]

ALWAYS = frozenset({"environment", "hub_cache", "memory", "mounts", "project", "repository"})
"""Evidence that every project has; some of it would be gathered for real if it were asked for."""


@dataclass(frozen=True)
class Need:
    """A kind of evidence that a check takes, and the line of the project file that gives it ('' where none is needed)."""

    evidence: str
    line: str
    optional: bool = False


@dataclass(frozen=True)
class Description:
    """A check in words."""

    name: str
    sentence: str
    promise: str
    details: str
    family: str
    tier: str
    over: str
    needs: Sequence[Need]
    bugs: Sequence[str]
    module: str
    trouble: str = ""

    def to_json(self) -> dict[str, Any]:
        """As `llmguard explain --json` prints it."""
        needs = [{"evidence": n.evidence, "optional": n.optional, "line": n.line} for n in self.needs]
        return {**self.__dict__, "needs": needs, "bugs": list(self.bugs)}


def sentence(name: str) -> str:
    """The name of a check as the sentence that it is."""
    words = name.replace("_", " ")
    return f"{words[:1].upper()}{words[1:]}."


def describe(entry: Entry) -> Description:
    """Everything about a check; one that cannot be imported is described by why it cannot."""
    parameters: dict[str, bool] = {}
    doc, trouble = "", ""
    try:
        check = entry.load()
        parameters, doc = check.parameters, inspect.cleandoc(check.__doc__ or "")
    except Exception as fault:  # a third-party check may fail in any way, and that is worth saying
        trouble = f"cannot be imported: {type(fault).__name__}: {fault}"
    promise, _, details = doc.partition("\n\n")
    return Description(
        name=entry.name,
        sentence=sentence(entry.name),
        promise=" ".join(promise.split()),
        details=details,
        family=entry.family,
        tier=entry.tier,
        over=entry.over,
        needs=list(_needs(entry.needs, parameters)),
        bugs=entry.bugs,
        module=entry.module,
        trouble=trouble,
    )


def _needs(told: Iterable[str], parameters: dict[str, bool]) -> Iterable[Need]:
    """What it cannot do without, in the catalogue's order, then what it takes if it is there."""
    required = dict.fromkeys([*told, *(name for name, optional in parameters.items() if not optional)])
    for name in required:
        yield Need(name, line_for(name))
    for name, optional in parameters.items():
        if optional and name not in required and name not in ALWAYS:
            yield Need(name, line_for(name), optional=True)


@cache
def line_for(evidence: str) -> str:
    """What a project that says nothing is told to add for some evidence: the provider's own words."""
    if evidence in ALWAYS or evidence not in {*KINDS, *SETTINGS}:
        return ""
    if evidence in SETTINGS and SETTINGS[evidence](Project.empty(Path())) is not None:
        return _setting(evidence)
    with tempfile.TemporaryDirectory(prefix="llmguard-") as folder:
        asked = Evidence(Project.empty(Path(folder)))
        try:
            asked.get(evidence)
        except MissingEvidence as missing:
            return missing.remedy
        except LLMGuardError:
            return ""
        finally:
            asked.close()
    return ""


def _setting(name: str) -> str:
    """A setting that has a default: where it is written, and the default."""
    from llmguard.project.schema import Schema

    default = SETTINGS[name](Project.empty(Path()))
    tables = [
        t for t, info in Schema.model_fields.items() if name in getattr(info.annotation, "model_fields", {})
    ]
    return f"`[{tables[0]}] {name}` (default {json.dumps(default)})" if tables else ""
