"""The audit of encoded rows: label rules, the proof that ids hold their text, and all checks that read rows, beside what users run.

    python benchmarks/masks.py [--rows 20000] [--peers 2000] [--format alpaca|chatml]

Synthetic rows of about 350 tokens through a byte-level tokenizer made in the process. One core, processor time, all in one run: only
the ratios mean something. Memory is the peak beside the data, at once and in shards of 8,192 rows.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import sys
import time
import tracemalloc
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

os.environ["TOKENIZERS_PARALLELISM"] = (
    "false"  # before tokenizers is imported: peers are measured on one core too
)

import numpy as np

from llmguard.alignment import align
from llmguard.checks.labels import every_row_has_a_supervised_token, labels_are_not_shifted
from llmguard.contract import Check, RowCheck
from llmguard.encoded import Encoded
from llmguard.formats import text_format
from llmguard.ragged import Ragged
from llmguard.registry import Registry
from llmguard.rows import Rows
from llmguard.rows.columns import Columns
from llmguard.vocabulary import vocabulary_of

STARTS = (
    "ba",
    "co",
    "di",
    "fu",
    "ge",
    "hi",
    "jo",
    "ku",
    "la",
    "me",
    "no",
    "pa",
    "qui",
    "ro",
    "su",
    "ta",
    "ve",
    "xi",
)
ENDS = ("n", "ral", "st", "ting", "o", "mer", "der", "vis")
WORDS = ["".join(parts) for parts in itertools.product(STARTS, ENDS)]
SPECIAL = ("<eos>", "<|im_start|>", "<|im_end|>")
POOL = 10_000
"""Prompts and responses that are tokenised; rows pair them anew each time they are used up."""


def tokenizer() -> Any:
    """A byte-level BPE tokenizer of about 2,000 tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=2000, initial_alphabet=alphabet, special_tokens=list(SPECIAL), show_progress=False
    )
    backend.train_from_iterator([" ".join(WORDS)] * 3, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>")


def data(count: int, tok: Any, name: str) -> tuple[Rows, Any, Encoded]:
    """Rows, their format, and their correct encoding: prompt and response tokenised apart."""
    draw, template = random.Random(7), text_format(name, tok.eos_token)
    pool = min(count, POOL)
    said = [[" ".join(draw.choices(WORDS, k=k)) for _ in range(pool)] for k in (76, 228)]
    records = [
        {"prompt": said[0][i % pool], "response": said[1][(i + i // pool) % pool]} for i in range(count)
    ]
    rows = Rows(records, Columns(prompt="prompt", response="response"), "train")
    first = Rows(records[:pool], rows.columns)
    prompts = [np.array(i) for i in tok([template.prompt(t) for t in first.turns if t])["input_ids"]]
    answers = [np.array(i) for i in tok([text + template.end for text in said[1]])["input_ids"]]
    pairs = [(prompts[i % pool], answers[(i + i // pool) % pool]) for i in range(count)]
    ids = Ragged.of([np.concatenate(pair) for pair in pairs])
    labels = Ragged.of([np.concatenate((np.full(len(p), -100), a)) for p, a in pairs])
    return rows, template, Encoded({"input_ids": ids, "labels": labels}, np.arange(count), "train")


def timed(work: Callable[[], Any], repeat: int = 3) -> float:
    """The best of a few runs, in seconds of processor time."""
    best = float("inf")
    for _ in range(repeat):
        started = time.process_time()
        work()
        best = min(best, time.process_time() - started)
    return best


def loop(encoded: Encoded) -> int:
    """What a script does: row by row, token by token."""
    bad = 0
    for ids, labels in zip(encoded.input_ids, encoded.labels, strict=True):
        trained = 0
        for token, label in zip(ids.tolist(), labels.tolist(), strict=True):
            if label != -100:
                trained += 1
                bad += label != token
        bad += trained == 0
    return bad


def checks(given: dict[str, Any]) -> list[tuple[Check[Any] | RowCheck[Any], list[str]]]:
    """Every check over encoded rows that has all it needs here, with the evidence that it takes."""
    loaded = [entry.load() for entry in Registry() if entry.over == "encoded"]
    return [
        (c, [p for p in c.parameters if p in given])
        for c in loaded
        if all(p in given or optional for p, optional in c.parameters.items())
    ]


def audit(given: dict[str, Any], shards: int | None = None) -> int:
    """All checks, at once or over shards whose tallies are merged; how many findings."""
    if shards is None:
        return sum(len(c(**{p: given[p] for p in names})) for c, names in checks(given))
    row_checks = [(c, names) for c, names in checks(given) if isinstance(c, RowCheck)]
    tallies: list[list[Any]] = [[] for _ in row_checks]
    for start in range(0, len(given["encoded"]), shards):
        here = {**given, "encoded": given["encoded"].shard(start, min(start + shards, len(given["encoded"])))}
        for found, (c, names) in zip(tallies, row_checks, strict=True):
            found.append(c.map(**{p: here[p] for p in names}))
    return sum(len(c.merge(found)) for found, (c, _) in zip(tallies, row_checks, strict=True))


def peak(work: Callable[[], Any]) -> float:
    """How much memory a piece of work takes beside what is there, at its highest, in MiB."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1] / (1 << 20)
    finally:
        tracemalloc.stop()


def trl_preparation(rows: Rows, template: Any, tok: Any, count: int) -> Callable[[], Any] | None:
    """TRL's own preparation of prompt-completion rows, without a model; None where it is not installed."""
    try:
        from datasets import Dataset, disable_caching, disable_progress_bars
        from trl import SFTConfig, SFTTrainer
    except ImportError:
        return None
    disable_caching()
    disable_progress_bars()
    turns = [t for t in rows.turns[:count] if t]
    given = [{"prompt": template.prompt(t), "completion": t[-1].content + template.end} for t in turns]
    config = SFTConfig(
        output_dir="build/bench-trl", max_length=None, report_to="none", use_cpu=True, bf16=False
    )
    self = SimpleNamespace(_tokenizer=tok, chat_template=None, completion_only_loss=True)
    prepare = SFTTrainer._prepare_dataset
    return lambda: prepare(self, Dataset.from_list(given), tok, config, False, None, "train")


def measured(arguments: argparse.Namespace) -> tuple[dict[str, tuple[float, int]], dict[str, float]]:
    """Seconds and tokens of each way, and memory in MiB."""
    tok = tokenizer()
    rows, template, encoded = data(arguments.rows, tok, arguments.format)
    some = min(arguments.peers, arguments.rows)
    vocabulary_of(tok)
    tokens, few = len(encoded.input_ids.values), int(encoded.input_ids.offsets[some])
    texts = ["".join(p.text for p in template.pieces(t)) for t in rows.turns[:some] if t]
    part = encoded.shard(0, some)
    given = {"rows": rows, "tokenizer": tok, "template": template, "train_on": "responses", "kind": "base"}

    def fresh() -> dict[str, Any]:
        return {**given, "encoded": Encoded(encoded.columns, encoded.source, encoded.name)}

    aligned = fresh()
    rows.turns  # noqa: B018  # made before anything is measured: they are data
    memory = {"proof at once": peak(lambda: align(aligned["encoded"], rows, tok, template))}
    if not align(aligned["encoded"], rows, tok, template).proved.all() or audit(aligned):
        sys.exit("the rows are right and were not found so: nothing to measure")
    memory["whole audit at once"] = peak(lambda: audit(fresh()))
    memory["whole audit in shards"] = peak(lambda: audit(fresh(), 8192))
    labels = (every_row_has_a_supervised_token, labels_are_not_shifted)
    times = {
        "turns of the rows": (timed(lambda: Rows(rows.records, rows.columns).turns), tokens),
        "two label rules": (timed(lambda: [rule(fresh()["encoded"]) for rule in labels]), tokens),
        "ids hold exactly their text": (
            timed(lambda: align(fresh()["encoded"], rows, tok, template)),
            tokens,
        ),
        "all checks, once that is known": (timed(lambda: audit(aligned)), tokens),
        "whole audit, at once": (timed(lambda: audit(fresh())), tokens),
        "whole audit, in shards": (timed(lambda: audit(fresh(), 8192), 1), tokens),
        "a loop over tokens, two label rules": (timed(lambda: loop(part)), few),
        "tokenizers, encode_batch": (timed(lambda: tok.backend_tokenizer.encode_batch(texts)), few),
    }
    trl = trl_preparation(rows, template, tok, some)
    if trl is not None:
        times["TRL's preparation"] = (timed(trl, 1), few)
    return times, memory


def main(given: Sequence[str]) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="The audit of encoded rows beside what users run.")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--peers", type=int, default=2_000)
    parser.add_argument("--format", default="alpaca", choices=("alpaca", "chatml"))
    arguments = parser.parse_args(given)
    times, memory = measured(arguments)
    rates = {name: tokens / seconds / 1e6 for name, (seconds, tokens) in times.items()}
    out = [
        f"{arguments.rows:,} rows, {times['turns of the rows'][1] / 1e6:.1f} M tokens; peers on {arguments.peers:,} rows",
        "",
    ]
    out += [
        "| what | M tokens/s | 200,000 rows of 353 tokens, s | against encode_batch |",
        "|---|--:|--:|--:|",
    ]
    for name, rate in rates.items():
        out.append(
            f"| {name} | {rate:.1f} | {70.6 / rate:.1f} | {rate / rates['tokenizers, encode_batch']:.1f}x |"
        )
    out += ["", "| memory beside the data | MiB |", "|---|--:|"]
    out += [f"| {name} | {used:.0f} |" for name, used in memory.items()]
    sys.stdout.write("\n".join(out) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
