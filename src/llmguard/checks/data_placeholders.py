"""Placeholders of prompt templates that were never filled."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from llmguard.checks.data_tally import place, shortened, tallied
from llmguard.contract import row_check
from llmguard.findings import Finding, error, warning
from llmguard.rows import as_rows, texts_in
from llmguard.tally import Tally

__all__ = ["no_placeholder_is_left"]

SLOTS = frozenset(
    "instruction input output response prompt question answer context query completion system system_prompt user_prompt user_input"
    " user_message user assistant text content message messages examples document passage".split()
)
"""Names of slots in the prompt templates of the field."""
CORE = frozenset("instruction input output response prompt question completion".split())
BRACES = re.compile(r"\{\{\s*(\w+)\s*\}\}|(?<![\\$#%@\w{}\]^])\{\s*(\w+)\s*\}(?![\w{}])")
TAGS = re.compile(r"<([A-Z][A-Z_ ]{2,30})>|\[((?:[A-Z]+[ _]){0,3}[A-Z]{4,})\]")
HERE = re.compile(r"(?:INSERT|YOUR|ENTER|ADD)[ _].*|.*[ _](?:HERE|GOES HERE)")
FENCED = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`", re.DOTALL)
LABEL = re.compile(r"^[\W_]*[A-Za-z][\w ]{0,30}:\s*$")
ABOUT = re.compile(
    r"\b(?:templates?|templating|placeholders?|f-?strings?|format strings?|string formatting|jinja2?|mustache|handlebars|curly|braces"
    r"|variables?|brackets|regex|langchain|latex)\b",
    re.IGNORECASE,
)
CODE_LINE = re.compile(
    r"[;{}>)\]]\s*$|^\s*(?:[<@]|#include|#!)|\w\s*=\s*\S|\b(?:def|return|import|const|let|var|class|function|print)\b|\\[a-z]+"
)
QUOTED = re.compile(r"""^[^"]*(?:"[^"]*"[^"]*)*"[^"]*$|(?:^|[\s(,=f])'[^']*$|[=(]\s*$""")
"""The start of a line that ends inside of quotes, or right behind an assignment or a parenthesis."""
SYSTEMATIC = 0.1


class _Slot(NamedTuple):
    """A placeholder in a text: its name, its place, and whether it stands alone (as a whole field, a line, or behind a label)."""

    name: str
    start: int
    stop: int
    alone: bool


@row_check
def no_placeholder_is_left(rows: Any) -> Tally:
    """No placeholder of a prompt template is left in prompts and responses: `{instruction}`, `{{ prompt }}`, `<INPUT>`, `[RESPONSE HERE]`.

    One that stands alone (a whole field, a line, behind a label) is an error, one in running text a warning. Code, LaTeX and text about
    templates are left alone, and so is what letters leave open, such as `[Your Name]`.
    """
    source = as_rows(rows)

    def look(record: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
        names = SLOTS | {str(k).lower() for k in record}
        for name, _, text in texts_in(record, source.columns):
            for slot in _slots(text, names) if any(c in text for c in "{<[") else ():
                found = {
                    "column": name,
                    "placeholder": text[slot.start : slot.stop],
                    "text": shortened(text, slot.start, slot.stop),
                }
                yield ("alone" if slot.alone else "inside"), found

    return tallied(source, look)


def _slots(text: str, names: frozenset[str] | set[str]) -> Iterator[_Slot]:
    plain = FENCED.sub(lambda m: " " * len(m[0]), text)
    about = ABOUT.search(text) is not None or _is_code(plain)
    for match in (*BRACES.finditer(plain), *TAGS.finditer(plain)):
        name = next(g for g in match.groups() if g is not None)
        whole = match[0] == text.strip()
        if whole and _is_slot(match[0], name, names):
            yield _Slot(name, *match.span(), True)
        elif not about and _is_slot(match[0], name, names):
            yield from _in_text(plain, match, name)


def _is_slot(written: str, name: str, names: frozenset[str] | set[str]) -> bool:
    if written[0] == "{":
        return name.lower() in names
    words = {w.lower() for w in re.split(r"[ _]", name)}
    return bool(words & SLOTS) and (len(words) == 1 or HERE.fullmatch(name) is not None)


def _in_text(text: str, match: re.Match[str], name: str) -> Iterator[_Slot]:
    """A slot inside of a longer text: certain where it fills a line or follows a label, likely for names that only templates have."""
    start, stop = text.rfind("\n", 0, match.start()) + 1, text.find("\n", match.end())
    before, after = text[start : match.start()], text[match.end() : stop if stop >= 0 else len(text)]
    braces = match[0][0] == "{"
    filled = not after.strip(" \t.,:;!?*_\"'") and (
        LABEL.match(before) is not None or (braces and not before.strip())
    )
    if filled or (not braces and HERE.fullmatch(name)):
        yield _Slot(name, *match.span(), True)
    elif braces and name.lower() in CORE and not QUOTED.search(before) and f"</{name}>" not in text:
        yield _Slot(name, *match.span(), False)


def _is_code(text: str) -> bool:
    lines = [line for line in text.splitlines() if line.strip() and not BRACES.fullmatch(line.strip())]
    return len(lines) > 2 and sum(CODE_LINE.search(line) is not None for line in lines) * 3 >= len(lines)


@no_placeholder_is_left.explain
def _(tally: Tally) -> Iterator[Finding]:
    for kind, hits in tally.hits.items():
        first = hits.examples[0]
        certain = kind == "alone" or hits.rows > SYSTEMATIC * tally.looked_at
        yield (error if certain else warning)(
            place(first),
            what=f"{tally.rate(kind)} hold a placeholder that was never filled: {first['placeholder']!r}"
            f" in {first['column']}: {first['text']!r}",
            why="the model is trained on the template instead of the text, and learns to write the placeholder",
            cause="a format string whose .format() was not called, was called twice, or lacked this name",
            remedy="fill it from the row's column, or drop these rows",
            evidence={"rows": list(hits.examples)},
        )
