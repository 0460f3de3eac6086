"""Attributes that are asked for in the user's own Python files, and that nothing has."""

from __future__ import annotations

from llmguard.checks.source import AnySources
from llmguard.contract import Yields, check
from llmguard.errors import MissingEvidence
from llmguard.findings import Finding, Where, error, warning
from llmguard.sources.attributes import Absent, absent_attributes, find_mypy
from llmguard.sources.read import as_sources

__all__ = ["attributes_exist"]


@check
def attributes_exist(sources: AnySources) -> Yields:
    """No attribute is asked for that its module, or its class of these sources, does not have: found by mypy (attr-defined).

    Cannot see: attributes of what other packages bring (models, tokenizers, trainers): there the dry run tells. Attributes that
    are set from outside, named in a text (`getattr`), waited for in a `try`, or used by a class that others inherit are left alone.

    Raises:
        MissingEvidence: mypy is not installed.
    """
    found, mypy = as_sources(sources), find_mypy()
    if mypy is None:
        raise MissingEvidence("mypy", "install mypy to have attributes checked: pip install mypy")
    for absent in absent_attributes(found, mypy):
        yield _absent(absent)
    return len(found.parsed)


def _absent(absent: Absent) -> Finding:
    kind, raised = ("module", "ImportError or AttributeError") if absent.of_module else ("class", "AttributeError")  # fmt: skip
    make = error if absent.of_module else warning  # an object may be given attributes where nobody sees it
    return make(
        Where(absent.file, line=absent.line, column=absent.column),
        what=f"the {kind} `{absent.owner}` has no attribute `{absent.name}` (mypy attr-defined)",
        why=f"the line ends the run with an {raised} when it is reached, which may be after hours",
        cause="a misspelt name, or code written for another version",
        remedy=f"did you mean `{absent.near}`" if absent.near else f"look at what `{absent.owner}` has",
        expected=absent.near or f"an attribute of {absent.owner}",
        actual=absent.name,
    )
