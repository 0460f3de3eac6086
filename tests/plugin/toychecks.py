"""Toy checks, one for each way to end; copied into the folders in which pytest is run."""

from __future__ import annotations

import os
import pathlib
import time
from typing import Any

from llmguard.catalogue import Entry
from llmguard.contract import Yields, check
from llmguard.findings import Where, error, note, warning

REST = {"why": "the model never stops", "cause": "the template writes none", "remedy": "append the EOS token"}
WINDOW = [
    {"text": "Hello", "id": 1, "label": -100, "kind": "prompt"},
    {"text": " world", "id": 2, "label": 2, "kind": "response"},
    {"text": "<eos>", "id": 3, "label": -100, "kind": "terminator"},
]


@check
def toy_holds() -> Yields:
    """The toy holds."""
    return 7
    yield


@check
def toy_fails() -> Yields:
    """The toy does not hold."""
    yield error(
        Where(file="train.jsonl", line=3),
        what="14 of 200 rows (7.0 %) have no terminator",
        **REST,
        expected="EOS",
        actual="none",
        evidence={"rows": [{"row": 2, "tokens": WINDOW}]},
    )
    yield error(Where(file="train.jsonl", line=9), what="3 of 200 rows are empty", **REST)
    yield warning(Where(file="train.jsonl", line=5), what="2 rows are long", **REST)
    return 200


@check
def toy_warns() -> Yields:
    """The toy holds, with a warning."""
    yield warning(Where(key="lr"), what="lr = 0.3 is high", **REST)
    return 1


@check
def toy_notes() -> Yields:
    """The toy holds, with a note."""
    yield note(Where(key="seed"), what="no seed is set")
    return 1


@check
def toy_needs(rows: Any) -> Yields:
    """The toy wants rows."""
    return len(rows)
    yield


@check
def toy_needs_too(rows: Any) -> Yields:
    """The toy wants rows, too."""
    return len(rows)
    yield


@check
def toy_is_accepted() -> Yields:
    """The toy does not hold, and somebody lives with it."""
    yield error(Where(key="mask"), what="96 of 96 rows train the prompt", **REST)
    return 96


@check
def toy_breaks() -> Yields:
    """The toy is broken itself."""
    raise RuntimeError("boom")
    yield


@check
def toy_sleeps() -> Yields:
    """The toy does not come back."""
    time.sleep(60)
    return 1
    yield


@check
def toy_dies() -> Yields:
    """The toy takes its process down."""
    os._exit(3)
    yield


@check
def toy_runs_a_model() -> Yields:
    """The toy wants a model."""
    return 1
    yield


@check
def toy_runs_on_a_gpu() -> Yields:
    """The toy wants a GPU."""
    return 1
    yield


@check
def toy_is_odd() -> Yields:
    """The toy's evidence is not what JSON can hold."""
    import numpy as np

    held: list[Any] = []
    held.append(held)
    yield error(
        Where(),
        what="odd",
        **REST,
        evidence={
            "nan": float("nan"),
            "array": np.arange(3),
            "path": pathlib.Path("x"),
            "set": {2, 1},
            1: "\ud800 lone",
            "bytes": b"\xff",
            "esc": "\x1b[31mred",
            "held": held,
        },
    )
    return 1


@check
def toy_tells(project: Any) -> Yields:
    """The toy tells which project it sees."""
    found = {"model": project.model_path, "adapter": project.adapter_path, "kind": project.schema.model.kind}
    yield note(Where(), what="seen", evidence=found)
    return 1


FAMILIES = {
    "toy_holds": "config",
    "toy_fails": "tokens",
    "toy_warns": "config",
    "toy_notes": "config",
    "toy_needs": "data",
    "toy_needs_too": "data",
    "toy_is_accepted": "masking",
    "toy_breaks": "source",
    "toy_sleeps": "training",
    "toy_dies": "queue",
    "toy_runs_a_model": "sentinel",
    "toy_runs_on_a_gpu": "memory",
    "toy_is_odd": "statistics",
    "toy_tells": "model",
}
TIERS = {"toy_runs_a_model": "sentinel", "toy_runs_on_a_gpu": "gpu"}
BUGS = {"toy_fails": ("eos_is_never_learnt",)}


def entry(name: str) -> Entry:
    """What a conftest hands in for a toy."""
    needs = ("rows",) if "needs" in name else ()
    over = "rows" if "needs" in name else ""
    return Entry(
        name, __name__, FAMILIES[name], TIERS.get(name, "preflight"), needs, over, BUGS.get(name, ())
    )
