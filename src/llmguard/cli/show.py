"""`llmguard show`: rows of the project as the model will see them, token by token, with what is done with each."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from llmguard.cli.mistakes import Mistake
from llmguard.errors import LLMGuardError
from llmguard.evidence import Evidence, Options
from llmguard.project import Project, find_project, load_project
from llmguard.reporting.text import visible
from llmguard.reporting.tokens import LEGEND, MANY, Mark, Run, Token, folded, runs_of, tokens_of_row

if TYPE_CHECKING:
    from llmguard.encoded import Encoded

__all__ = ["show"]

STYLES = {
    Mark.TRAINED: "black on #9be3b0",
    Mark.MASKED: "grey58",
    Mark.WRONG: "bold white on #c62f3b",
    Mark.PAD: "grey37",
}
SHADES = {Mark.TRAINED: "black on #86d39d", Mark.MASKED: "grey50"}
"""The same colours for every other token, so that neighbours can be told apart."""
LONGEST = 110
"""Characters of a run's text that a line shows."""


@dataclass(frozen=True)
class Shown:
    """A row ready to be shown: its place, its tokens, and what is said about it."""

    heading: str
    tokens: Sequence[Token]
    about: Sequence[str] = ()


def show(path: Path | None, *, split: str | None, rows: int, row: int | None, html: Path | None) -> None:
    """Print rows, or write them as a page.

    Raises:
        Mistake: no project file, no such split or row.
        ProjectError: the project file cannot be used.
        MissingEvidence, EvidenceError: there are no encoded rows, or they cannot be had.
    """
    project = _project(path)
    options = Options(sample=max(rows, 16) if row is None else 10**9)
    with closing(Evidence(project, options)) as evidence:
        target = _target(evidence, split)
        found, notes = _gathered(evidence, target, rows, row)
    if html is not None:
        from llmguard.reporting.html import render_rows

        pages = [(" · ".join([s.heading, *s.about]), s.tokens) for s in found]
        html.write_text(
            render_rows(f"{project.name} · {target}", pages, notes=notes),
            "utf-8",
        )
        print(f"{html}: {len(found)} {'row' if len(found) == 1 else 'rows'} of {target}")
        return
    _print(found, notes, each_token=row is not None)


def _project(path: Path | None) -> Project:
    where = path or Path()
    file = find_project(where) if where.is_dir() else where
    if file is None:
        raise Mistake(
            f"no llmguard.toml in {where.resolve()}: `llmguard init` writes one, `--project FILE` names another"
        )
    return load_project(file)


def _target(evidence: Evidence, split: str | None) -> str:
    """The source of encoded rows: the one asked for, else the first."""
    targets = evidence.targets("encoded")
    if not targets:
        evidence.get("encoded", "", over="encoded")
    if split is not None and split not in targets:
        raise Mistake(f"no encoded rows of `{split}`: this project has them for {', '.join(targets)}")
    return split if split is not None else targets[0]


def _gathered(evidence: Evidence, target: str, rows: int, row: int | None) -> tuple[list[Shown], list[str]]:
    encoded: Encoded = evidence.get("encoded", target, over="encoded")
    tokenizer = evidence.get("tokenizer")
    source, template = _optional(evidence, "rows", target), _optional(evidence, "template", "")
    alignment = _alignment(encoded, source, tokenizer, template)
    train_on = evidence.project.schema.pipeline.train_on
    chosen = list(_chosen(encoded, target, rows, row))
    found = []
    for index in chosen:
        tokens = tokens_of_row(encoded, index, tokenizer, alignment, train_on=train_on)
        found.append(Shown(_heading(encoded, index, source), tokens, list(_about(alignment, index))))
    return found, list(_notes(encoded, target, source, template))


def _optional(evidence: Evidence, kind: str, target: str) -> Any:
    try:
        return evidence.get(kind, target, over="encoded")
    except LLMGuardError:  # rows can be shown without it; whether it should be there is a check's business
        return None


def _alignment(encoded: Encoded, rows: Any, tokenizer: Any, template: Any) -> Any:
    from llmguard.alignment import align

    return align(encoded, rows, tokenizer, template) if rows is not None else None


def _chosen(encoded: Encoded, target: str, rows: int, row: int | None) -> Iterator[int]:
    if row is None:
        yield from range(min(rows, len(encoded)))
        return
    sources = encoded.source.tolist()
    if row not in sources and (row >= len(encoded) or any(s >= 0 for s in sources)):
        known = sorted(s for s in sources if s >= 0) or range(len(encoded))
        raise Mistake(f"no encoded row {row} in {target}: its {len(encoded):,} rows are {_ranges(known)}")
    yield sources.index(row) if row in sources else row


def _ranges(numbers: Sequence[int]) -> str:
    """`0 to 41`, or the first few where there are gaps."""
    whole = len(numbers) and numbers[-1] - numbers[0] + 1 == len(numbers)
    return f"{numbers[0]} to {numbers[-1]}" if whole else f"{', '.join(map(str, numbers[:5]))}, …"


def _heading(encoded: Encoded, index: int, rows: Any) -> str:
    source = int(encoded.source[index])
    if rows is not None and 0 <= source < len(rows):
        return str(rows.where(source))
    return f"{encoded.name}, row {index}"


def _about(alignment: Any, index: int) -> Iterator[str]:
    from llmguard.alignment import Status

    told = {
        Status.CUT_RIGHT: "cut off at the end: the response, or its terminator, is not all there",
        Status.CUT_LEFT: "cut off at the start",
        Status.UNMATCHED: "its response is not in these ids: no telling prompt from response",
        Status.NO_TURNS: "its source row has no prompt and response: no telling them apart",
    }
    status = Status(int(alignment.status[index])) if alignment is not None else None
    if status in told:
        yield told[status]


def _notes(encoded: Encoded, target: str, rows: Any, template: Any) -> Iterator[str]:
    of = f" of {len(rows):,}" if rows is not None and len(rows) > len(encoded) else ""
    yield f"{target}: {len(encoded):,}{of} rows, {len(encoded.input_ids.values):,} tokens, {_share(encoded)}"
    if template is not None:
        name = "the table of the project file" if template.name == "table" else template.name
        yield f"format: {name}{'' if template.declared else ' (not declared: add `[prompt] format = …` if it is another)'}"
    if not encoded.has_labels:
        yield "These rows have no labels: what is trained is up to the collator, and nothing is coloured as trained."
    elif not encoded.labels.same_shape(encoded.input_ids):
        yield "Labels and ids have unequal lengths: no telling which label belongs to which token."
    if rows is None:
        yield 'Prompt and response cannot be told apart: add `[data] train = ["data/train.jsonl"]` to llmguard.toml.'


def _share(encoded: Encoded) -> str:
    total = len(encoded.input_ids.values)
    trained = int(encoded.trained.sum()) if encoded.has_labels else 0
    return f"{trained:,} of them trained ({100 * trained / max(total, 1):.1f} %)"


def _print(found: Sequence[Shown], notes: Sequence[str], *, each_token: bool) -> None:
    console = Console(highlight=False)
    for note in notes:
        console.print(Text(visible(note), style="dim"))
    if console.color_system:
        console.print(_legend())
    for shown in found:
        console.print()
        console.print(Text(visible(shown.heading), style="bold"))
        for text in shown.about:
            console.print(Text(text, style="yellow"))
        if console.color_system:
            console.print(_line(shown.tokens))
            console.print()
        console.print(_each(shown.tokens) if each_token else _runs(runs_of(shown.tokens)))


def _legend() -> Text:
    text = Text()
    for name, meaning in LEGEND:
        text.append(f" {name} ", style=_style_of(name)).append(f" {meaning}   ", style="dim")
    return text


def _style_of(name: str) -> str:
    if name in ("terminator", "straddle"):
        return f"{STYLES[Mark.TRAINED]} {'underline' if name == 'terminator' else 'reverse'}"
    return STYLES[Mark(name)]


def _line(tokens: Sequence[Token]) -> Text:
    """The row in colours, its own line breaks kept."""
    text = Text(overflow="fold")
    for number, (token, again) in enumerate(folded(tokens)):
        style = SHADES.get(token.mark, STYLES[token.mark]) if number % 2 else STYLES[token.mark]
        extra = {"terminator": " underline", "straddle": " reverse"}.get(token.kind, "")
        shown = token.shown
        text.append(shown.replace("\n", ""), style=style + extra).append("\n" if "\n" in shown else "")
        text.append(f" ×{again} " if again > 1 else "", style="dim")
    return text


def _runs(runs: Sequence[Run]) -> Table:
    """Stretches of the row, a line each: where, what is done, what for, the text, and what is wrong with it."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for run in runs:
        style = STYLES[run.mark] if run.mark is Mark.WRONG else ""
        what = Text(_short(run)).append(f"  ← {run.fault}" if run.fault else "", style="red")
        span = f"{run.start}-{run.stop - 1}" if len(run.tokens) > 1 else str(run.start)
        table.add_row(
            Text(span, style="dim"),
            Text(run.mark.value, style=style),
            Text(_named(run.kind), style="dim"),
            what,
        )
    return table


def _short(run: Run) -> str:
    """The text as a quoted string, its middle left out where it is long."""
    if len(run.tokens) >= MANY and len({t.id for t in run.tokens}) == 1:
        return f"{json.dumps(run.tokens[0].shown, ensure_ascii=False)} ×{len(run.tokens)}"
    half, text = LONGEST // 2, run.text
    shown = text if len(text) <= LONGEST else f"{text[:half]} … {text[-half:]}"
    return json.dumps(shown, ensure_ascii=False)


def _named(kind: str) -> str:
    return {"unknown": "", "blank_before": "white space", "blank_within": "white space"}.get(kind, kind)


def _each(tokens: Sequence[Token]) -> Table:
    """Every token on a line of its own."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for heading, justify in (
        ("position", "right"),
        ("id", "right"),
        ("label", "right"),
        ("", "left"),
        ("kind", "left"),
        ("text", "left"),
    ):
        table.add_column(
            heading, justify="right" if justify == "right" else "left", no_wrap=heading != "text"
        )
    for token in tokens:
        label = "none" if token.label is None else str(token.label)
        text = Text(json.dumps(token.shown.replace("↵\n", "↵"), ensure_ascii=False), style=STYLES[token.mark])
        text.append(f"  ← {token.fault}" if token.fault else "", style="red")
        table.add_row(
            str(token.position),
            str(token.id),
            label,
            Text(token.mark.value, style="dim"),
            Text(_named(token.kind), style="dim"),
            text,
        )
    return table
