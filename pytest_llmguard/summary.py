"""The section of the terminal summary: what ran, what failed, what was skipped and for want of what, what is accepted until when."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from llmguard.report import totals
from llmguard.reporting.text import visible
from pytest_llmguard.failures import headline

if TYPE_CHECKING:
    import pytest

    from pytest_llmguard.manager import Manager
    from pytest_llmguard.records import Record

__all__ = ["print_summary"]

COLOURS: dict[str, dict[str, bool]] = {
    "failed": {"red": True},
    "error": {"red": True},
    "warned": {"yellow": True},
    "accepted": {"yellow": True},
    "skipped": {"yellow": True},
    "passed": {"green": True},
}
"""Outcome -> colour, worst first: the order of the lines."""
NAMED = 4
"""Names shown in one line; the rest is counted."""
LONGEST = 240
"""Characters of a finding shown in its line; the whole of it stands under FAILURES."""
HOW_TO_GO_ON = "no llmguard.toml here: only what needs none was checked; `llmguard init` writes one from what lies in this folder"
EMBEDDED = "the sentinel ran on the built-in base model, for want of one of yours"


def print_summary(manager: Manager, reporter: pytest.TerminalReporter) -> None:
    """Print the section: results, how to go on without a project file, where the reports are."""
    records = list(manager.records.values())
    projects = dict.fromkeys(str(r["project"]) for r in records)
    reporter.section(f"llmguard: {visible(', '.join(projects))}" if projects else "llmguard", sep="=")
    if records:
        _print_records(records, reporter)
    from pytest_llmguard.projects import NO_PROJECT

    if NO_PROJECT in projects:
        reporter.write_line(HOW_TO_GO_ON)
        if any(r["tier"] == "sentinel" and r["outcome"] != "skipped" for r in records):
            from pytest_llmguard.embedded import named_model

            model = named_model(manager.config)
            reporter.write_line(
                f"the sentinel ran on {visible(model)}, taken for a base model" if model else EMBEDDED
            )
    for line in manager.written:
        reporter.write_line(line, red="could not be written" in line)


def _print_records(records: list[Record], reporter: pytest.TerminalReporter) -> None:
    _print_totals(records, reporter)
    by_outcome = {name: [r for r in records if r["outcome"] == name] for name in COLOURS}
    for name in ("failed", "error", "warned"):
        for record in by_outcome[name]:
            reporter.write_line(f"{name}: {_id(record)}: {_cut(headline(record))}", **COLOURS[name])
    for record in by_outcome["accepted"]:
        reporter.write_line(f"accepted: {_id(record)}: {visible(record['reason'])}", **COLOURS["accepted"])
    for reason, group in _grouped(by_outcome["skipped"], "reason"):
        reporter.write_line(
            f"skipped {len(group)}: {visible(reason)}: {_names(group, reporter)}", **COLOURS["skipped"]
        )
    for family, group in _grouped(by_outcome["passed"], "family"):
        reporter.write_line(f"passed {len(group)} {family}: {_names(group, reporter)}", **COLOURS["passed"])


def _print_totals(records: list[Record], reporter: pytest.TerminalReporter) -> None:
    counts = totals(r["outcome"] for r in records)
    parts = [f"{counts[name]} {name}" for name in COLOURS if counts[name]]
    seconds = sum(float(r["seconds"]) for r in records)
    worst = next(name for name in COLOURS if counts[name])
    plural = "" if len(records) == 1 else "s"
    reporter.write_line(
        f"{len(records)} check{plural} in {seconds:.1f} s: {', '.join(parts)}", bold=True, **COLOURS[worst]
    )


def _grouped(records: Iterable[Record], key: str) -> list[tuple[str, list[Record]]]:
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(str(record[key]), []).append(record)
    return sorted(groups.items(), key=lambda group: (-len(group[1]), group[0]))


def _names(group: list[Record], reporter: pytest.TerminalReporter) -> str:
    names = sorted(_id(record) for record in group)
    shown = names if reporter.config.get_verbosity() > 0 else names[:NAMED]
    rest = len(names) - len(shown)
    return ", ".join(shown) + (f" and {rest} more (-v names them)" if rest else "")


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 2]} …"


def _id(record: Mapping[str, Any]) -> str:
    return visible(f"{record['check']}[{record['target']}]" if record["target"] else str(record["check"]))
