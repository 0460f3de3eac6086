"""A fine-tuning run from rows to a comparison with intervals, on a CPU, in minutes: `make finetune`.

    python examples/finetune/run.py [FOLDER]        default: build/finetune

Prepares a folder (the lab's base model, rows of GSM8K, the two configs) and then does what you would do by hand:

    python -m llmguard_core sft -c pretrain.yaml     all weights, plain text
    python -m llmguard_core sft -c config.yaml       LoRA, questions and answers
    python -m llmguard_core evaluate -c config.yaml

GSM8K is read from data/gsm8k in the folder that LLMGUARD_REAL_DATA names; where it is not, sums of the same form are generated.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from llmguard_core.compare import compare
from llmguard_core.lab import lab
from llmguard_core.training.monitoring import read_metrics

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TEXT, TRAIN, VALIDATION, TEST = 900, 480, 32, 120
LONGEST = 420
"""Characters of a row: short ones, so that the run takes minutes."""
Row = dict[str, str]


def main() -> int:
    """Prepare, train, evaluate, compare; gives the exit code of what failed first."""
    began = time.monotonic()
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "build" / "finetune").absolute()
    shutil.rmtree(folder, ignore_errors=True)
    source = prepare(folder)
    print(f"{TEXT + TRAIN} rows of {source} in {folder}")
    for command, config in (("sft", "pretrain"), ("sft", "config"), ("evaluate", "config")):
        print(f"\n{command} -c {config}.yaml", flush=True)
        call = [sys.executable, "-m", "llmguard_core", command, "-c", str(folder / f"{config}.yaml")]
        code = subprocess.run(call, check=False).returncode
        if code:
            return code
    tell(folder)
    print(f"\ndone in {time.monotonic() - began:.0f} s")
    return 0


def prepare(folder: Path) -> str:
    """Data, model and config in one folder; says where the rows are from."""
    real = Path(os.environ.get("LLMGUARD_REAL_DATA") or ROOT.parent / "shared") / "data" / "gsm8k"
    folder.mkdir(parents=True)
    if (real / "train.jsonl").is_file():
        rows, tests, source = short(read(real / "train.jsonl")), short(read(real / "test.jsonl")), "GSM8K"
    else:
        made = sums(TEXT + TRAIN + VALIDATION + TEST)
        rows, tests, source = made[:-TEST], made[-TEST:], "generated sums"
    rest = rows[TEXT:]
    splits = {
        "text": rows[:TEXT],
        "train": rest[:TRAIN],
        "validation": rest[TRAIN : TRAIN + VALIDATION],
        "test": tests[:TEST],
    }
    for name, some in splits.items():
        numbered = [{"id": f"{name}-{n}", **row} for n, row in enumerate(some)]
        (folder / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in numbered), "utf-8")
    (folder / "model").symlink_to(lab().base)
    for config in HERE.glob("*.yaml"):
        shutil.copy(config, folder)
    return source


def read(file: Path) -> Iterator[Row]:
    """The rows of a JSON Lines file."""
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def short(rows: Iterator[Row]) -> list[Row]:
    """Rows that the small model has room for."""
    return [row for row in rows if len(row["question"]) + len(row["answer"]) < LONGEST]


def sums(count: int) -> list[Row]:
    """Word problems in the form of GSM8K, all different, the same on every machine."""
    draw, seen = random.Random(7), dict[str, str]()
    while len(seen) < count:
        name, thing = (
            draw.choice(["Ida", "Tom", "Rosa", "Sam", "Nora"]),
            draw.choice(["coins", "shells", "books", "cups"]),
        )
        has, gets, gives = draw.randint(10, 60), draw.randint(2, 40), draw.randint(1, 9)
        asked = (
            f"{name} has {has} {thing}, gets {gets} more and gives {gives} away. How many {thing} are left?"
        )
        left = has + gets - gives
        seen[asked] = (
            f"{name} has {has}+{gets}={has + gets} {thing}, then {has + gets}-{gives}={left}.\n#### {left}"
        )
    return [{"question": asked, "answer": answer} for asked, answer in seen.items()]


def tell(folder: Path) -> None:
    """How the loss fell, how many answers the adapter changed, and the exact answers with their intervals."""
    for run in ("pretrained", "tuned"):
        losses = [
            record["loss"] for record in read_metrics(folder / run / "metrics.jsonl") if "loss" in record
        ]
        print(
            f"{run}: loss {losses[0]:.3f} at the start, {losses[-1]:.3f} at the end; curves in {folder / run / 'metrics.svg'}"
        )
    files = {name: folder / "evaluation" / f"{name}.jsonl" for name in ("base", "tuned")}
    base, tuned = ([row["output"] for row in read(file)] for file in files.values())
    print(
        f"answers that the adapter changed: {sum(a != b for a, b in zip(base, tuned, strict=True))} of {len(base)}"
    )
    print(f"\nexact answers:\n{compare(files, score='gsm8k', smallest_effect=0.05).table()}")


if __name__ == "__main__":
    sys.exit(main())
