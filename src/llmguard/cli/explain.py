"""`llmguard explain`: what a check promises, what it needs, which bugs it guards; or all checks by family."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from llmguard.catalogue import FAMILIES, Entry
from llmguard.cli.describe import Description, describe
from llmguard.cli.mistakes import Mistake
from llmguard.registry import Registry

__all__ = ["explain"]


def explain(name: str | None, *, as_json: bool = False) -> None:
    """Print what there is to say about a check, a family, or all checks.

    Raises:
        Mistake: no check and no family of that name; says the nearest ones.
    """
    entries = _chosen(name, list(Registry()))
    one = len(entries) == 1 and name is not None and entries[0].name == _plain(name)
    if as_json:
        found = [describe(e).to_json() for e in entries]
        print(json.dumps(found[0] if one else found, indent=1))
        return
    Console(highlight=False).print(_one(describe(entries[0])) if one else _all(entries))


def _plain(name: str) -> str:
    """The name of a check from the name, or from the sentence."""
    return name.strip().lower().rstrip(".").replace(" ", "_").replace("-", "_")


def _chosen(name: str | None, entries: Sequence[Entry]) -> Sequence[Entry]:
    if name is None:
        return entries
    plain = _plain(name)
    found = [e for e in entries if e.name == plain] or [e for e in entries if e.family == plain]
    if not found:
        raise Mistake(
            f"no check is called `{name}`{_near(plain, entries)}; `llmguard explain` lists all {len(entries)}"
        )
    return found


def _near(name: str, entries: Sequence[Entry]) -> str:
    """The names that were probably meant: alike as a whole, or sharing words."""
    names = [e.name for e in entries]
    alike = difflib.get_close_matches(name, [*names, *FAMILIES], n=3, cutoff=0.6)
    words = {w for w in name.split("_") if len(w) > 3}  # shorter words are in every sentence
    sharing = sorted(names, key=lambda n: -len(words & set(n.split("_"))))
    alike += [n for n in sharing[:3] if words & set(n.split("_")) and n not in alike]
    return f": did you mean {', '.join(alike[:4])}?" if alike else ""


def _one(found: Description) -> RenderableType:
    title = Text(found.sentence, style="bold")
    place = Text.assemble((found.name, "cyan"), "  ", (f"{found.family} · {found.tier}", "dim"))
    parts: list[RenderableType] = [title, place, Text()]
    if found.trouble:
        parts.append(Text(found.trouble, style="red"))
    parts += [Text(text) for text in (found.promise, found.details) if text]
    if found.needs:
        parts += [Text(), Text("Needs", style="bold"), Padding(_needs(found), (0, 0, 0, 2))]
    if found.over:
        each = Text(f"Runs once for each target of `{found.over}` that the project has.", style="dim")
        parts += [Text(), each]
    if found.bugs:
        parts += [Text(), Text("Guards against", style="bold")]
        parts += [Text(f"  {bug.replace('_', ' ')}") for bug in found.bugs]
    parts += [Text(), Text("Run it alone", style="bold"), Text(f"  pytest -k {found.name}", style="green")]
    return Group(*parts)


def _needs(found: Description) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column()
    for need in found.needs:
        style = "dim" if need.optional else ""
        line = f"{'optional; ' if need.optional else ''}{need.line or 'every project has it'}"
        table.add_row(Text(need.evidence, style=style), Text(line, style=style))
    return table


def _all(entries: Sequence[Entry]) -> RenderableType:
    families = [f for f in FAMILIES if any(e.family == f for e in entries)]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for heading in ("family", "check", "tier", "needs"):
        table.add_column(heading, overflow="fold", no_wrap=heading != "needs")
    for family in families:
        if family != families[0]:
            table.add_row()
        for number, entry in enumerate(e for e in entries if e.family == family):
            shown = Text(family, style="bold") if number == 0 else Text()
            rest = (Text(entry.tier, style="dim"), Text(", ".join(entry.needs), style="dim"))
            table.add_row(shown, Text(entry.name), *rest)
    checks, kinds = "check" if len(entries) == 1 else "checks", "family" if len(families) == 1 else "families"
    count = f"{len(entries)} {checks} in {len(families)} {kinds}."
    told = Text(f"{count} `llmguard explain CHECK` says what one of them promises and needs.", style="dim")
    return Group(table, Text(), told)
