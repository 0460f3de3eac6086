"""Reports as one HTML page each: self-contained, readable without JavaScript, safe whatever the data hold."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmguard.errors import UsageError
from llmguard.reporting.text import clean
from llmguard.reporting.tokens import LEGEND, Token, folded, runs_of, tokens_from_json
from llmguard.reporting.view import view_of

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["render", "render_rows"]

ROOM = Path(__file__).parent / "templates"
LONGEST_EVIDENCE = 4000
"""Characters of one finding's evidence that the page holds; the JSON report holds all of it."""


def render(document: Mapping[str, Any], plots: Sequence[tuple[str, bytes]] = ()) -> str:
    """The JSON report as a page: what is wrong first, all that was looked at after it.

    `plots`: a caption and an SVG each. They are shown as images, in which nothing can run or be loaded.

    Raises:
        UsageError: no JSON report.
    """
    if not isinstance(document, Mapping) or not isinstance(document.get("checks"), Sequence):
        raise UsageError("document", document, "the JSON report of an audit, with its `checks`")
    images = [(clean(caption), base64.b64encode(svg).decode()) for caption, svg in plots]
    return _page("report.html.j2", "report.js", view=view_of(clean(document)), plots=images)


def render_rows(title: str, rows: Sequence[tuple[str, Sequence[Token]]], *, notes: Sequence[str] = ()) -> str:
    """Rows of tokens as a page, as `llmguard show --html` writes it: (heading, tokens) each."""
    shown = [
        {"heading": clean(heading), "tokens": tokens, "counts": _counts(tokens)} for heading, tokens in rows
    ]
    return _page("rows.html.j2", "", title=clean(title), rows=shown, notes=clean(list(notes)))


def _counts(tokens: Sequence[Token]) -> list[tuple[str, int]]:
    marks = [t.mark.value for t in tokens]
    return [(mark, marks.count(mark)) for mark in ("trained", "masked", "wrong", "pad") if mark in marks]


def _page(template: str, script: str, **values: Any) -> str:
    style = (ROOM / "page.css").read_text("utf-8")
    code = (ROOM / script).read_text("utf-8") if script else ""
    page = _environment().get_template(template)
    policy = _policy(style, code) + ("; img-src data:" if values.get("plots") else "")
    return page.render(style=style, script=code, policy=policy, legend=LEGEND, **values)


def _policy(style: str, code: str) -> str:
    """The content security policy: this one style and this one script, by their hashes, and nothing else."""
    script = _hash(code) if code else "'none'"
    closed = "default-src 'none'; base-uri 'none'; form-action 'none'"
    return f"{closed}; style-src {_hash(style)}; script-src {script}"


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(loader=FileSystemLoader(ROOM), autoescape=True, undefined=StrictUndefined)
    made.trim_blocks = made.lstrip_blocks = True
    made.filters["tokens"] = tokens_from_json
    made.filters["folded"] = folded
    made.filters["runs"] = runs_of
    made.filters["rest"] = _rest
    return made


def _rest(evidence: Any) -> str:
    """A finding's evidence beside its tokens as indented JSON, cut where it is long; '' for none."""
    if isinstance(evidence, Mapping):
        evidence = {
            key: value for key, value in evidence.items() if key != "tokens" or not tokens_from_json(value)
        }
    if not evidence:
        return ""
    text = json.dumps(evidence, ensure_ascii=False, indent=2, default=str)
    left = len(text) - LONGEST_EVIDENCE
    return f"{text[:LONGEST_EVIDENCE]}\n… {left:,} more characters" if left > 0 else text
