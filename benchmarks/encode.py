"""What encoding rows with labels costs beside tokenising the same texts: `Encoder.rows` against `encode_batch`, in one run.

GSM8K questions from LLMGUARD_REAL_DATA where it is, else made-up ones; one thread, processor time, the best of several rounds. The
self-check of the encoder is left out: it looks at 64 rows whatever their number.

    TOKENIZERS_PARALLELISM=false python benchmarks/encode.py [--rows 2000] [--tokenizer llama-2-7b-chat]
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from support import real, tiny  # noqa: E402  # what the tests share

from llmguard.rows import as_rows  # noqa: E402  # beside what the tests share
from llmguard_core import Encoder, format_for  # noqa: E402  # beside what the tests share


def main() -> int:
    """Print both, and their ratio."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokenizer", default="llama-2-7b-chat")
    asked = parser.parse_args()
    there = Path(os.environ.get("LLMGUARD_REAL_DATA", ROOT.parent / "shared")).is_dir()
    tokenizer = real.tokenizer(asked.tokenizer) if there else tiny.byte_level()
    given = (
        real.gsm8k(asked.rows)
        if there
        else [{"question": f"What is {i} and {i}?", "response": str(2 * i)} for i in range(asked.rows)]
    )
    rows = as_rows([{**row, "prompt": row["question"]} for row in given])
    encoder = Encoder(tokenizer, format_for(tokenizer, "alpaca"), verify=0)
    texts = [encoder.row(row).text for row in rows.records]
    plain = best(
        lambda: [(e.ids, e.offsets) for e in tokenizer.backend_tokenizer.encode_batch(texts)], asked.rounds
    )
    ours = best(lambda: encoder.rows(rows), asked.rounds)
    print(
        f"{len(texts)} rows: encode_batch {plain:.2f} s, Encoder.rows {ours:.2f} s, ratio {ours / plain:.2f}"
    )
    return 0


def best(work: Callable[[], object], rounds: int) -> float:
    """The least processor time of several rounds, in seconds."""
    return min(seconds(work) for _ in range(rounds))


def seconds(work: Callable[[], object]) -> float:
    """Processor time of one round."""
    started = time.process_time()
    work()
    return time.process_time() - started


if __name__ == "__main__":
    sys.exit(main())
