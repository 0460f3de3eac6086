"""A window of tokens as a table: one column a token, with its text, id, label and attention under each other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from llmguard.reporting.tokens import Mark, Token, folded, runs_of

__all__ = ["SIGNS", "Block", "Cell", "blocks_of", "faults_of"]

SIGNS: dict[Mark, tuple[str, str]] = {
    Mark.TRAINED: ("[", "]"),
    Mark.MASKED: ("", ""),
    Mark.WRONG: (">>", "<<"),
    Mark.PAD: ("(", ")"),
}
"""What stands around a token's text where there are no colours."""
NAMES = ("token", "id", "label", "attention")
WIDEST = 32
"""Cells that one token's text may take."""
FAULTS = 4


@dataclass(frozen=True)
class Cell:
    """One field of the table, padded to its column's width, and the mark that colours it (None: no colour)."""

    text: str
    mark: Mark | None = None


@dataclass(frozen=True)
class Block:
    """Neighbouring tokens that fit beside each other: lines of cells, the first of each line its name."""

    lines: tuple[tuple[Cell, ...], ...]


def blocks_of(tokens: Sequence[Token], width: int, *, signs: bool) -> Iterator[Block]:
    """The table of a window in blocks of at most `width` cells; `signs` stand for colours.

    Lines of which nothing is known (no labels, no attention mask) are left out; the same token many times over is shown once.
    """
    columns = [_column(token, again, signs=signs) for token, again in folded(tokens)]
    shown = [i for i in range(len(NAMES)) if any(column[i] for _, column in columns)]
    room = width - max(map(len, NAMES)) - 2
    block: list[tuple[Mark, list[str]]] = []
    for mark, column in columns:
        padded = _padded([column[i] for i in shown])
        if block and sum(_cells(c[0]) + 1 for _, c in block) + _cells(padded[0]) > room:
            yield _block(shown, block)
            block = []
        block.append((mark, padded))
    if block:
        yield _block(shown, block)


def faults_of(tokens: Iterable[Token]) -> Iterator[str]:
    """What is wrong, a sentence for each run of tokens."""
    wrong = [run for run in runs_of(tokens) if run.fault]
    for run in wrong[:FAULTS]:
        first, last = run.tokens[0].position, run.tokens[-1].position
        if len(run.tokens) == 1:
            yield f"token {'' if first is None else f'{first} '}{run.text!r} {run.fault}"
        else:
            span = "" if first is None else f" {first} to {last}"
            yield f"tokens{span}: each {run.fault}"
    if len(wrong) > FAULTS:
        yield f"… and {len(wrong) - FAULTS} more places"


def _column(token: Token, again: int, *, signs: bool) -> tuple[Mark, list[str]]:
    before, after = SIGNS[token.mark] if signs else ("", "")
    text = token.shown.replace("\n", "")
    text = text if len(text) <= WIDEST else f"{text[: WIDEST - 1]}…"
    label = "" if token.label is None else str(token.label)
    attention = "" if token.attended is None else str(int(token.attended))
    return token.mark, [
        f"{before}{text}{after}" + (f" ×{again}" if again > 1 else ""),
        str(token.id),
        label,
        attention,
    ]


def _padded(column: list[str]) -> list[str]:
    widest = max(map(_cells, column))
    return [text + " " * (widest - _cells(text)) for text in column]


def _block(shown: Sequence[int], columns: Sequence[tuple[Mark, list[str]]]) -> Block:
    widest = max(map(len, NAMES)) + 1
    return Block(
        tuple(
            (Cell(f"{NAMES[name]:<{widest}}"), *(Cell(column[line], mark) for mark, column in columns))
            for line, name in enumerate(shown)
        )
    )


def _cells(text: str) -> int:
    """The width in a terminal: wide characters take two cells, combining marks none."""
    from rich.cells import cell_len

    return cell_len(text)
