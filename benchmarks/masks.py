"""Label rules and text equality over many rows, against a plain loop and against tokenising again, in one run.

    python benchmarks/masks.py [ROWS]

Synthetic rows through a byte-level tokenizer made in the process. Only the ratios mean something: machines are noisy.
"""

from __future__ import annotations

import itertools
import random
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from llmguard.alignment import align
from llmguard.checks.labels import every_row_has_a_supervised_token, labels_are_not_shifted
from llmguard.checks.masking import every_prompt_token_is_masked, every_response_token_is_trained
from llmguard.checks.text_of_ids import ids_match_their_text
from llmguard.encoded import Encoded
from llmguard.formats import text_format
from llmguard.ragged import Ragged
from llmguard.rows import as_rows
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


def tokenizer() -> Any:
    """A byte-level BPE tokenizer of about 2,000 tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=2000, initial_alphabet=alphabet, special_tokens=["<eos>"], show_progress=False
    )
    backend.train_from_iterator([" ".join(WORDS)] * 3, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>")


def data(count: int, tok: Any) -> tuple[Any, Any, Encoded, list[str]]:
    """Rows, their format, their correct encoding, and their texts."""
    draw = random.Random(7)
    records = [
        {"prompt": " ".join(draw.choices(WORDS, k=60)), "response": " ".join(draw.choices(WORDS, k=180))}
        for _ in range(count)
    ]
    rows, template = as_rows(records), text_format("alpaca", tok.eos_token)
    prompts = tok([template.prompt(t) for t in rows.turns if t])["input_ids"]
    answers = tok([t[-1].content + tok.eos_token for t in rows.turns if t])["input_ids"]
    ids = Ragged.of([p + a for p, a in zip(prompts, answers, strict=True)])
    labels = Ragged.of([[-100] * len(p) + a for p, a in zip(prompts, answers, strict=True)])
    texts = ["".join(p.text for p in template.pieces(t)) for t in rows.turns if t]
    return rows, template, Encoded({"input_ids": ids, "labels": labels}, np.arange(count)), texts


def timed(work: Callable[[], Any], repeat: int = 3) -> float:
    """The best of a few runs, in seconds."""
    best = float("inf")
    for _ in range(repeat):
        started = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - started)
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


def main(arguments: list[str]) -> None:
    """Print the table."""
    count = int(arguments[0]) if arguments else 20_000
    tok = tokenizer()
    rows, template, encoded, texts = data(count, tok)
    tokens = len(encoded.input_ids.values)
    vocabulary_of(tok)

    def fresh() -> Encoded:
        return Encoded(encoded.columns, encoded.source)

    aligned = fresh()
    align(aligned, rows, tok, template)
    rules = (every_prompt_token_is_masked, every_response_token_is_trained, ids_match_their_text)
    times = {
        "plain loop over tokens (two rules)": timed(lambda: loop(encoded), 1),
        "the two label rules, columnar": timed(
            lambda: (every_row_has_a_supervised_token(fresh()), labels_are_not_shifted(fresh()))
        ),
        "tokenise everything again (tokenizers)": timed(lambda: tok.backend_tokenizer.encode_batch(texts), 1),
        "align tokens with their text": timed(lambda: align(fresh(), rows, tok, template), 1),
        "prompt, response and text rules, once aligned": timed(
            lambda: [c(aligned, rows, tok, template) for c in rules]
        ),
    }
    sys.stdout.write(
        f"{count:,} rows, {tokens / 1e6:.1f} M tokens\n\n| what | s | M tokens/s | against the loop |\n|---|--:|--:|--:|\n"
    )
    slow = times["plain loop over tokens (two rules)"]
    for name, seconds in times.items():
        sys.stdout.write(
            f"| {name} | {seconds:.2f} | {tokens / seconds / 1e6:.1f} | {slow / seconds:.1f}x |\n"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
