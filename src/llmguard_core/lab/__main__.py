"""`python -m llmguard_core.lab`: build the lab and show what it holds."""

from __future__ import annotations

import json
import struct
import sys
import time
from math import prod
from pathlib import Path

from llmguard_core.lab.cache import LabError, lab

PURPOSE = {
    "tokenizer": "byte-level BPE, no chat template",
    "base": "continues text, obeys only in ChatML",
    "base-with-template": "the same weights, template on the tokenizer",
    "chat": "obeys, with and without its template",
    "adapter": "LoRA on base: obeys bare instructions",
    "broken-adapter": "the same with every B zero",
    "foreign-base": "another base, another vocabulary",
    "foreign-adapter": "LoRA on foreign-base",
}


def parameters(folder: Path) -> int:
    """How many numbers the safetensors files of a folder hold, read from their headers alone."""
    total = 0
    for file in folder.glob("*.safetensors"):
        with file.open("rb") as opened:
            header = json.loads(opened.read(struct.unpack("<Q", opened.read(8))[0]))
        total += sum(prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
    return total


def main() -> int:
    """Build everything and print a table; exit code 1 when the lab cannot be built."""
    started = time.monotonic()
    try:
        here = lab()
        built = here.build_all()
    except LabError as problem:
        sys.stderr.write(f"{problem}\n")
        return 1
    sys.stdout.write(f"{here.folder}\n{'artefact':<20}{'parameters':>12}{'bytes':>12}  what it is\n")
    for name, folder in built.items():
        size = sum(f.stat().st_size for f in folder.iterdir())
        sys.stdout.write(f"{name:<20}{parameters(folder) or '-':>12}{size:>12}  {PURPOSE[name]}\n")
    sys.stdout.write(f"ready in {time.monotonic() - started:.1f} s\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
