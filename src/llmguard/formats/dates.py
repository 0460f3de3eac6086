"""Templates that write today's date: which formats they ask for, and on which day a row was rendered."""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Iterator, Sequence

__all__ = ["at_moment", "formats_in", "moments_in", "pattern_of"]

PARTS = {
    "%d": r"\d{2}", "%-d": r"\d{1,2}", "%m": r"\d{2}", "%-m": r"\d{1,2}", "%Y": r"\d{4}", "%y": r"\d{2}", "%H": r"\d{2}",
    "%I": r"\d{2}", "%M": r"\d{2}", "%S": r"\d{2}", "%p": "[AP]M", "%b": "[A-Z][a-z]{2}", "%B": "[A-Z][a-z]{2,8}",
    "%a": "[A-Z][a-z]{2}", "%A": "[A-Z][a-z]{5,8}",
}  # fmt: skip
"""Directives of strftime -> what they write in English."""
DAYS = 6
"""Days of a row that are tried: a template may name a cutoff date before today's."""


def formats_in(template: str) -> tuple[str, ...]:
    """The formats that a template asks `strftime_now` for."""
    return tuple(dict.fromkeys(f for _, f in re.findall(r"""strftime_now\(\s*(["'])(.*?)\1""", template)))


def at_moment(formats: Sequence[str], moment: dt.datetime) -> str:
    """What to put before a template, so that it writes another day: a macro in the place of `strftime_now`."""
    written = json.dumps({f: moment.strftime(f) for f in formats})
    return f'{{% macro strftime_now(form) %}}{{{{ {written}[form] }}}}{{% endmacro %}}{{{{ "" }}}}'


def pattern_of(formats: Sequence[str]) -> re.Pattern[bytes] | None:
    """What any of some strftime formats writes, without spaces (see vocabulary); None where one of them is not known."""
    found = []
    for each in formats:
        parts = re.split(r"(%-?[A-Za-z%])", each.replace(" ", ""))
        if any(p.startswith("%") and p not in PARTS for p in parts):
            return None
        found.append("".join(PARTS[p] if p.startswith("%") else re.escape(p) for p in parts))
    return re.compile("|".join(f"(?:{f})" for f in found).encode()) if found else None


def moments_in(row: bytes, formats: Sequence[str]) -> list[dt.datetime]:
    """When a row may have been rendered: the days that its bytes (without spaces) name in these formats, at the first time."""
    days: dict[dt.date, None] = {}
    time = dt.time()
    for form in formats:
        for read in _read(row, form):
            if "%d" in form or "%Y" in form:
                days[read.date()] = None
            elif time == dt.time():
                time = read.time()
    return [dt.datetime.combine(day, time) for day in list(days)[:DAYS]]


def _read(row: bytes, form: str) -> Iterator[dt.datetime]:
    pattern = pattern_of([form])
    for found in pattern.findall(row) if pattern else ():
        try:
            yield dt.datetime.strptime(found.decode(), form.replace(" ", "").replace("%-", "%"))
        except ValueError:
            continue
