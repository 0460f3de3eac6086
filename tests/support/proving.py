"""One alignment made twice: rows proved many at once where that is possible, and every row placed by itself."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np

from llmguard.alignment import Alignment, align
from llmguard.encoded import Encoded
from llmguard.ragged import Ragged
from llmguard.rows import Rows

__all__ = ["DAMAGES", "both_ways", "damaged", "differences"]

FEWEST = "llmguard.alignment.proof.FEWEST"
FIELDS = ("kind", "turn", "status", "responses", "runs_on", "ended_otherwise", "matched")


def both_ways(encoded: Encoded, rows: Rows, tok: Any, template: Any) -> tuple[Alignment, Alignment]:
    """The alignment with a recipe for every shape, and that with none."""
    found = []
    for fewest in (1, len(encoded) + 1):
        with mock.patch(FEWEST, fewest):
            found.append(align(Encoded(encoded.columns, encoded.source), rows, tok, template))
    return found[0], found[1]


def differences(fast: Alignment, slow: Alignment) -> list[str]:
    """What two alignments say otherwise."""
    found = [n for n in FIELDS if getattr(fast, n).tolist() != getattr(slow, n).tolist()]
    found += ["lost"] if [*map(tuple, fast.lost)] != [*map(tuple, slow.lost)] else []
    return found + (["terminator"] if fast.terminator != slow.terminator else [])


Damage = Callable[[list[int], random.Random], list[int]]
DAMAGES: dict[str, Damage] = {
    "none": lambda ids, draw: ids,
    "a token left out": lambda ids, draw: _without(ids, draw.randrange(len(ids))),
    "a token doubled": lambda ids, draw: _doubled(ids, draw.randrange(len(ids))),
    "another token": lambda ids, draw: _other(ids, draw.randrange(len(ids)), draw.choice(ids)),
    "no such token": lambda ids, draw: _other(ids, draw.randrange(len(ids)), draw.choice((-1, 10**6))),
    "cut at the end": lambda ids, draw: ids[: draw.randrange(1, len(ids) + 1)],
    "cut at the start": lambda ids, draw: ids[draw.randrange(len(ids)) :],
    "started twice": lambda ids, draw: [ids[0], *ids],
    "ended twice": lambda ids, draw: [*ids, ids[-1]],
    "padded": lambda ids, draw: [*ids, *[ids[-1]] * draw.randrange(1, 4)],
}


def damaged(encoded: Encoded, name: str, seed: str) -> Encoded:
    """Every other row damaged in one way."""
    draw = random.Random(f"{name}{seed}")
    ids = [
        DAMAGES[name](row.tolist(), draw) if i % 2 and len(row) else row.tolist()
        for i, row in enumerate(encoded.input_ids)
    ]
    return Encoded({"input_ids": Ragged.of(ids)}, np.array(encoded.source))


def _without(ids: list[int], at: int) -> list[int]:
    return [*ids[:at], *ids[at + 1 :]]


def _doubled(ids: list[int], at: int) -> list[int]:
    return [*ids[:at], ids[at], *ids[at:]]


def _other(ids: list[int], at: int, token: int) -> list[int]:
    return [*ids[:at], token, *ids[at + 1 :]]
