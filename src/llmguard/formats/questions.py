"""What a chat template asks contents about: the texts that it compares, searches, splits at or replaces."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

__all__ = ["Questions", "questions_in"]

GENERATION = re.compile(r"\{%[-+]?\s*(?:end)?generation\s*[-+]?%\}")
"""The tag of transformers that marks responses: no part of Jinja, and no question."""
EDGES = ("strip", "lstrip", "rstrip")
"""Methods that change nothing of a content without blanks at its edges, as long as they are asked for blanks."""

LISTS = (
    "attr",
    "default",
    "groupby",
    "join",
    "map",
    "reject",
    "rejectattr",
    "select",
    "selectattr",
    "sort",
    "tojson",
)
"""Filters whose arguments are about lists of messages and tools, or stand in for what is not there."""


@dataclass(frozen=True)
class Questions:
    """`within`: texts that may be looked for in a content. `equal`: texts that it may be compared with as a whole."""

    within: tuple[str, ...] = ()
    equal: frozenset[str] = frozenset()


def questions_in(template: str) -> Questions | None:
    """The questions of a template; None where it cannot be read, or iterates over characters."""
    import jinja2
    from jinja2 import nodes

    try:
        environment = jinja2.Environment(extensions=["jinja2.ext.loopcontrols", "jinja2.ext.do"])
        tree = environment.parse(GENERATION.sub("", template))
    except jinja2.TemplateError:
        return None
    within: list[str] = []
    equal: list[str] = []
    for compare in tree.find_all(nodes.Compare):
        lists = (nodes.List, nodes.Tuple)
        alike = all(o.op in ("eq", "ne") or isinstance(o.expr, lists) for o in compare.ops)
        (equal if alike else within).extend(_texts(compare))
    for call in tree.find_all((nodes.Call, nodes.Filter, nodes.Test)):
        within += _asked_by(call)
    return Questions(tuple(dict.fromkeys(t for t in within if t)), frozenset(equal))


def _asked_by(call: Any) -> Iterator[str]:
    """The texts that a method, filter or test is called with; calls of plain functions ask nothing of a content."""
    method = getattr(getattr(call, "node", None), "attr", None)
    plain = type(call).__name__ == "Call" and method is None
    if plain or getattr(call, "name", None) in LISTS:
        return
    for argument in (*call.args, *(k.value for k in call.kwargs)):
        yield from (t for t in _texts(argument) if t.strip() or method not in EDGES)


def _texts(node: Any) -> Iterator[str]:
    from jinja2 import nodes

    if isinstance(node, nodes.Const) and isinstance(node.value, str):
        yield node.value
    keys = [node.arg] if isinstance(node, nodes.Getitem) else []  # `message["role"]` names a key
    for child in node.iter_child_nodes():
        if child not in keys:
            yield from _texts(child)
