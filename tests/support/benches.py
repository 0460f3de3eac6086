"""What planted bugs and legitimate set-ups share: small projects by a tokenizer's name, rows with tools, and labels to change."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llmguard.findings import Finding
from support import real
from support.pipelines import CHATS, IGNORE, QA
from support.projects import audited

__all__ = [
    "BASE",
    "LLAMA2",
    "LLAMA3",
    "MISTRAL",
    "QWEN",
    "TOOLS",
    "Bench",
    "find",
    "packing",
    "pairs",
    "relabel",
    "starts",
]

Row = dict[str, Any]


class Bench:
    """A folder for a project, and tokenizers by name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on(
        self, name: str, rows: list[Row], encode: Callable[[Any, Row], Row] | None, **given: Any
    ) -> list[Finding]:
        """What is found where `encode(tokenizer, row)` encodes the rows; so are `build` and `collate` called."""
        tok = real.tokenizer(name)
        for key in ("build", "collate"):
            if key in given:
                given[key] = functools.partial(given[key], tok)
        return audited(self.folder, tok, rows, (lambda row: encode(tok, row)) if encode else None, **given)

    def chat(
        self, name: str, encode: Callable[[Any, Row], Row] | None, rows: list[Row] | None = None, **given: Any
    ) -> list[Finding]:
        """A chat model's project on conversations."""
        settings = {"model": {"kind": "chat"}, **given.pop("settings", {})}
        return self.on(name, rows or CHATS, encode, settings=settings, **given)

    def base(
        self,
        name: str,
        encode: Callable[[Any, Row], Row] | None,
        rows: list[Row] | None = None,
        form: Any = "alpaca",
        **given: Any,
    ) -> list[Finding]:
        """A base model's project on questions and answers in a format."""
        settings = {"model": {"kind": "base"}, "prompt": {"format": form}, **given.pop("settings", {})}
        return self.on(name, rows or QA, encode, settings=settings, **given)


QWEN, LLAMA3, MISTRAL, LLAMA2, BASE = (
    "qwen2.5-instruct",
    "llama-3-8b-instruct",
    "mistral-7b-instruct-v0.2",
    "llama-2-7b-chat",
    "pythia",
)


def relabel(row: Row, change: Callable[[list[int], list[int]], list[int]]) -> Row:
    """A row with other labels: `change(ids, labels)`."""
    return {**row, "labels": change(list(row["input_ids"]), list(row["labels"]))}


def starts(labels: list[int]) -> list[int]:
    """Where trained stretches start."""
    return [i for i, t in enumerate(labels) if t != IGNORE and (i == 0 or labels[i - 1] == IGNORE)]


def find(ids: list[int], wanted: list[int]) -> int:
    return next((i for i in range(len(ids) - len(wanted) + 1) if ids[i : i + len(wanted)] == wanted), -1)


TOOLS: list[Row] = [
    {
        "messages": [
            {"role": "user", "content": f"What is the weather in {town} today?"},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [
                    {"type": "function", "function": {"name": "weather", "arguments": {"town": town}}}
                ],
            },
            {
                "role": "tool",
                "name": "weather",
                "content": f'{{"degrees": {10 + i}, "sky": "clear over {town}"}}',
            },
            {"role": "assistant", "content": f"It is {10 + i} degrees in {town}, and the sky is clear."},
        ]
    }
    for i, town in enumerate(("Oslo", "Lima", "Rome", "Cairo", "Quito", "Kyoto", "Paris", "Delhi"))
]


def packing(rows: list[Row], positions: Callable[[list[int]], list[int]]) -> Row:
    lengths = [len(r["input_ids"]) for r in rows]
    batch = {k: [[t for r in rows for t in r[k]]] for k in ("input_ids", "labels")}
    return {**batch, "position_ids": [positions(lengths)]}


def pairs(change: Callable[[int, Row], Row] = lambda i, r: r) -> list[Row]:
    rows = [
        {"prompt": r["prompt"], "chosen": r["response"], "rejected": f"I think it is {i + 90}, more or less."}
        for i, r in enumerate(QA * 3)
    ]
    return [change(i, {**r, "prompt": f"{r['prompt']} ({i})"}) for i, r in enumerate(rows)]
