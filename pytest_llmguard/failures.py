"""Findings as text for people: five parts each, and the tokens around a boundary in the colours of their labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from llmguard.reporting.text import visible
from llmguard.reporting.token_table import SIGNS, blocks_of, faults_of
from llmguard.reporting.tokens import Mark, Token, tokens_from_json

if TYPE_CHECKING:
    from pytest_llmguard.records import Record

__all__ = ["Failure", "Headline", "headline", "others"]

COLOURS: dict[str, dict[str, bool]] = {
    "error": {"red": True},
    "warning": {"yellow": True},
    "note": {"cyan": True},
}
MARKS: dict[Mark, dict[str, bool]] = {
    Mark.TRAINED: {"green": True},
    Mark.MASKED: {"light": True},
    Mark.WRONG: {"red": True, "bold": True},
    Mark.PAD: {"light": True},
}
"""Mark of a token -> its colour."""
WIDTH = 110
"""Cells of a line where no terminal says its own."""
LEGEND = {
    Mark.TRAINED: "trained",
    Mark.MASKED: "masked",
    Mark.WRONG: "wrong",
    Mark.PAD: "padding",
}
TITLES = ("Why it matters", "Likely cause", "Remedy")
SHOWN = 3
"""Windows of tokens shown for one finding."""
DEEP = 4


class Writer(Protocol):
    """What is used of pytest's terminal writer."""

    hasmarkup: bool

    def write(self, text: str, **markup: bool) -> None: ...  # pytest's own
    def line(self, text: str = "", **markup: bool) -> None: ...  # pytest's own
    def markup(self, text: str, **markup: bool) -> str: ...  # pytest's own


class Plain:
    """A writer into a text, without colours."""

    hasmarkup = False

    def __init__(self) -> None:
        self.parts: list[str] = []

    def write(self, text: str, **markup: bool) -> None:
        """Take a piece of a line."""
        self.parts.append(text)

    def line(self, text: str = "", **markup: bool) -> None:
        """Take a piece and end the line."""
        self.parts.append(f"{text}\n")

    def markup(self, text: str, **markup: bool) -> str:
        """The text as it is."""
        return text

    def __str__(self) -> str:
        return "".join(self.parts).strip("\n")


class Headline(NamedTuple):
    """What pytest's short summary and JUnit show of a failure."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


class Failure:
    """The failure text of one check, printed by pytest through `toterminal`."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self.reprcrash = Headline(record["project"], headline(record))

    def toterminal(self, tw: Writer) -> None:
        """Write the reason, then the errors, then how many other findings there are."""
        record = self.record
        if record["reason"]:
            tw.line(visible(record["reason"]), red=record["outcome"] == "error")
        errors = _of(record, "error") or _of(record, "warning")
        if not errors and not record["reason"]:
            tw.line(
                f"the policy of this session (pytest_llmguard_outcome) fails a check that {record['outcome']}"
            )
        for number, finding in enumerate(errors):
            if number:
                tw.line("")
            write_finding(tw, finding)
        if record["bugs"] and errors:
            tw.line(f"Documented bugs: {', '.join(record['bugs'])}", light=True)

    def __str__(self) -> str:
        plain = Plain()
        self.toterminal(plain)
        return str(plain)


def headline(record: Record) -> str:
    """One line: what the first error says, and how many more there are."""
    found = _of(record, "error") or _of(record, "warning")
    if not found:
        return visible((record["reason"] or record["outcome"]).splitlines()[0])
    first = str(found[0]["message"]).splitlines()[0]
    return visible(first) + (f" (and {len(found) - 1} more)" if len(found) > 1 else "")


def others(record: Record) -> str:
    """The findings that do not fail the check, as plain text; empty where there are none."""
    failing = record["outcome"] == "failed"
    beside = [f for f in record["findings"] if not failing or f["severity"] != "error"]
    if failing and not _of(record, "error"):
        beside = _of(record, "note")
    plain = Plain()
    for finding in beside:
        write_finding(plain, finding)
    return str(plain)


def _of(record: Record, severity: str) -> list[dict[str, Any]]:
    return [f for f in record["findings"] if f["severity"] == severity]


def write_finding(tw: Writer, finding: Mapping[str, Any]) -> None:
    """Write a finding: severity, its message in parts, expected and actual where the message lacks them, tokens."""
    colour = COLOURS.get(str(finding["severity"]), {})
    tw.write(f"{finding['severity']}: ", bold=True, **colour)
    for number, line in enumerate(visible(str(finding["message"])).split("\n")):
        title, colon, rest = line.partition(":")
        if number and colon and title in TITLES:
            tw.write(f"{title}:", bold=True)
            tw.line(rest)
        else:
            tw.line(line, **({} if number else colour))
    for name in ("expected", "actual"):
        if finding.get(name):
            tw.line(f"{name.capitalize() + ':':<10}{visible(str(finding[name]))}")
    write_tokens(tw, finding.get("evidence") or {})


def write_tokens(tw: Writer, evidence: Mapping[str, Any]) -> None:
    """Write the windows of tokens that a finding carries as tables, the first few of them, and what is wrong in them."""
    seen: dict[Mark, None] = {}
    for caption, window in list(_windows(evidence, "", 0))[:SHOWN]:
        tokens = tokens_from_json(window)
        seen.update(dict.fromkeys(token.mark for token in tokens))
        tw.line(f"Tokens{caption}:", bold=True)
        _write_table(tw, tokens)
        for fault in faults_of(tokens):
            tw.line(f"  {visible(fault)}")
    if seen:
        tw.line(f"  ({', '.join(_sign(tw, mark) for mark in MARKS if mark in seen)})")


def _write_table(tw: Writer, tokens: list[Token]) -> None:
    width = min(getattr(tw, "fullwidth", WIDTH), WIDTH)
    for block in blocks_of(tokens, width, signs=not tw.hasmarkup):
        for name, *cells in block.lines:
            tw.write(f"  {name.text}", light=True)
            for number, cell in enumerate(cells):
                last = number == len(cells) - 1
                tw.write(
                    cell.text.rstrip() if last else f"{cell.text} ", **(MARKS[cell.mark] if cell.mark else {})
                )
            tw.line("")


def _sign(tw: Writer, mark: Mark) -> str:
    before, after = SIGNS[mark]
    return tw.markup(LEGEND[mark], **MARKS[mark]) if tw.hasmarkup else f"{before}{LEGEND[mark]}{after}"


def _windows(value: Any, caption: str, depth: int) -> Iterator[tuple[str, Any]]:
    """Every list of tokens in a finding's evidence, under the key "tokens", with the row it belongs to."""
    if depth > DEEP:
        return
    if isinstance(value, Mapping):
        row = f" of row {value['row']}" if "row" in value else caption
        for key, inner in value.items():
            if key == "tokens" and tokens_from_json(inner):
                yield row, inner
            else:
                yield from _windows(inner, row, depth + 1)
    elif isinstance(value, list):
        for inner in value:
            if tokens_from_json(inner) and not caption:
                yield caption, inner
            else:
                yield from _windows(inner, caption, depth + 1)
