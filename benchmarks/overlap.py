"""Overlap of splits: ours, the usual Python script with a dict of 13-grams, and MinHash libraries where installed, on the same rows.

    python benchmarks/overlap.py [--train 200000] [--test 10000] [--plants 250]

The text is a word-bigram chain over the standard library's sources, so no rows are shared but those planted: exact copies, other case
and spaces, 20 and 40 percent of the words edited, 50 words inside of another document, and short texts of 5 to 12 words. Only
ratios of one run mean something: machines are noisy.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import re
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from llmguard.overlap import find_overlap
from llmguard.rows import Columns, Rows

CLASSES = ("exact", "case and spaces", "20 % edited", "40 % edited", "50 words inside", "short")
WORDS = 150
JUMPS = 0.15  # of the words are drawn by their frequency alone, so that the chain does not repeat whole lines of its source
LONGEST_SOURCE = 20_000_000  # characters of sources that the chain is made from
NAIVE = 13


def chain(documents: int, seed: int) -> list[list[str]]:
    """Documents of about WORDS words from a word-bigram chain."""
    words, follows, first = _bigrams()
    draw = np.random.default_rng(seed)
    lengths = draw.integers(WORDS // 2, WORDS * 3 // 2, documents)
    at = draw.integers(0, len(words), documents)
    columns = [at]
    for _ in range(int(lengths.max()) - 1):
        count = first[at + 1] - first[at]
        next_word = follows[first[at] + (draw.random(documents) * count).astype(np.int64)]
        at = np.where(
            draw.random(documents) < JUMPS, follows[draw.integers(0, len(follows), documents)], next_word
        )
        columns.append(at)
    table = np.stack(columns, axis=1)
    return [[words[w] for w in row[:n]] for row, n in zip(table.tolist(), lengths.tolist(), strict=True)]


def _bigrams() -> tuple[list[str], np.ndarray, np.ndarray]:
    text, size = [], 0
    for file in sorted(Path(sysconfig.get_paths()["stdlib"]).rglob("*.py")):
        if "site-packages" not in file.parts and size < LONGEST_SOURCE:
            text.append(file.read_text("utf-8", "ignore"))
            size += len(text[-1])
    tokens = re.findall(r"[A-Za-z]+[.,;:]?", " ".join(text))
    words = sorted(set(tokens))
    number = {w: i for i, w in enumerate(words)}
    ids = np.array([number[t] for t in tokens])
    order = np.argsort(ids[:-1], kind="stable")
    follows = ids[1:][order]
    first = np.searchsorted(ids[:-1][order], np.arange(len(words) + 1))
    first[-1] = len(follows)
    empty = first[1:] == first[:-1]
    follows = np.append(follows, ids[0])
    first[:-1][empty] = np.minimum(first[:-1][empty], len(follows) - 2)
    return words, follows, first


def edited(words: Sequence[str], share: float, draw: random.Random, other: Sequence[str]) -> list[str]:
    """A share of the words replaced, dropped, or followed by another one."""
    found: list[str] = []
    for word in words:
        kind = draw.choice("rrrdi") if draw.random() < share else ""
        found += {"": [word], "r": [draw.choice(other)], "d": [], "i": [word, draw.choice(other)]}[kind]
    return found


def data(train: int, test: int, plants: int) -> tuple[list[str], list[str], dict[str, list[int]]]:
    """Training texts, test texts, and for each class the test texts that were planted."""
    draw = random.Random(7)
    rows, tests = chain(train, 1), chain(test, 2)
    other = [w for row in rows[:2000] for w in row]
    planted: dict[str, list[int]] = {}
    places = iter(draw.sample(range(train), plants * len(CLASSES)))
    for n, kind in enumerate(CLASSES):
        planted[kind] = list(range(n * plants, (n + 1) * plants))
        for i in planted[kind]:
            if kind == "short":
                start = draw.randrange(len(tests[i]) - 12)
                tests[i] = tests[i][start : start + draw.randint(5, 12)]
            _plant(kind, tests[i], rows, next(places), draw, other)
    return [" ".join(r) for r in rows], [" ".join(t) for t in tests], planted


def _plant(
    kind: str, text: list[str], rows: list[list[str]], at: int, draw: random.Random, other: Sequence[str]
) -> None:
    middle = len(rows[at]) // 2
    if kind == "exact":
        rows[at] = text
    elif kind == "case and spaces":
        rows[at] = [w.upper() + draw.choice((" ", "  ", "\n", " - ")) for w in text]
    elif kind.endswith("edited"):
        rows[at] = edited(text, int(kind[:2]) / 100, draw, other)
    else:
        start = max(0, (len(text) - 50) // 2)
        rows[at] = [*rows[at][:middle], *text[start : start + 50], *rows[at][middle:]]


def ours(train: list[str], test: list[str], threads: int) -> set[int]:
    """The rows that `find_overlap` matches."""
    columns = Columns(prompt="text")
    found = find_overlap(
        Rows([{"text": t} for t in test], columns),
        Rows([{"text": t} for t in train], columns),
        threads=threads,
    )
    return {m.row for m in found.matches}


def naive(train: list[str], test: list[str]) -> set[int]:
    """The script that most people write: a dict of the test split's 13-grams, the training split streamed past it."""
    index: dict[tuple[str, ...], set[int]] = {}
    for row, text in enumerate(test):
        words = re.findall(r"\w+", text.lower())
        for i in range(len(words) - NAIVE + 1):
            index.setdefault(tuple(words[i : i + NAIVE]), set()).add(row)
    found: set[int] = set()
    for text in train:
        words = re.findall(r"\w+", text.lower())
        for gram in zip(*(words[k:] for k in range(NAIVE)), strict=False):
            if gram in index:
                found |= index[gram]
    return found


def datasketch(train: list[str], test: list[str]) -> set[int]:
    """MinHash with LSH at a Jaccard similarity of 0.5, 128 permutations, 3-word shingles."""
    from datasketch import MinHash, MinHashLSH

    def signature(text: str) -> MinHash:
        words = text.lower().split()
        made = MinHash(128)
        made.update_batch([" ".join(words[i : i + 3]).encode() for i in range(max(1, len(words) - 2))])
        return made

    lsh = MinHashLSH(threshold=0.5, num_perm=128)
    for row, text in enumerate(test):
        lsh.insert(row, signature(text))
    return {row for text in train for row in lsh.query(signature(text))}


def main() -> int:
    """Measure, and print one table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in (("train", 200_000), ("test", 10_000), ("plants", 250)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    train, test, planted = data(asked.train, asked.test, asked.plants)
    size = sum(map(len, train)) / 1e6
    print(
        f"{len(train):,} training rows ({size:.0f} MB), {len(test):,} test rows, {asked.plants} planted of each class"
    )
    print(
        f"{'':34}{'seconds':>9}{'CPU s':>8}{'ratio':>7}{'+MiB':>7}  recall: "
        + ", ".join(CLASSES)
        + "; others flagged"
    )
    ways: dict[str, Callable[[], set[int]]] = {
        "ours, 1 thread": lambda: ours(train, test, 1),
        "ours, 2 threads": lambda: ours(train, test, 2),
        "Python dict of 13-grams": lambda: naive(train, test),
    }
    if find_spec("datasketch"):
        ways["datasketch MinHashLSH"] = lambda: datasketch(train, test)
    results = {}
    for name, way in ways.items():
        results[name] = measured(name, way, planted, next(iter(results.values()), None))
    if asked.json:
        asked.json.write_text(json.dumps(results, indent=1), "utf-8")
    return 0


class Peak(threading.Thread):
    """The most memory that this process holds while the thread runs, in MiB above what it held at the start; 0 where there is no /proc."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.start_mib = self.most = self._held()
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(0.02):
            self.most = max(self.most, self._held())

    def end(self) -> float:
        self._over.set()
        self.join()
        return self.most - self.start_mib

    @staticmethod
    def _held() -> float:
        try:
            return (
                int(Path("/proc/self/statm").read_text("ascii").split()[1])
                * os.sysconf("SC_PAGE_SIZE")
                / 2**20
            )
        except OSError:
            return 0.0


def measured(
    name: str, way: Callable[[], set[int]], planted: dict[str, list[int]], first: dict[str, float] | None
) -> dict[str, float]:
    """Run one way once, and print its line; the ratio is of processor time, to the first way."""
    gc.collect()
    peak = Peak()
    peak.start()
    started, computed = time.perf_counter(), time.process_time()
    found = way()
    seconds, cpu = time.perf_counter() - started, time.process_time() - computed
    grown = peak.end()
    recall = {kind: sum(row in found for row in rows) / len(rows) for kind, rows in planted.items()}
    others = len(found - {row for rows in planted.values() for row in rows})
    ratio = cpu / first["cpu_seconds"] if first else 1.0
    print(
        f"{name:34}{seconds:9.2f}{cpu:8.2f}{ratio:7.1f}{grown:7.0f}  "
        + ", ".join(f"{r:.3f}" for r in recall.values())
        + f"; {others}"
    )
    return {"seconds": seconds, "cpu_seconds": cpu, "ratio": ratio, "mib": grown, "others": others, **recall}


if __name__ == "__main__":
    sys.exit(main())
