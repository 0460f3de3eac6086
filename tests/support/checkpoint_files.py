"""Checkpoints made by hand, without torch: files of the right form whose every byte follows from the step."""

from __future__ import annotations

import io
import json
import random
import zipfile
from pathlib import Path

__all__ = ["contents", "is_exactly", "write_checkpoint"]

VALUES = 64


def _safetensors(draw: random.Random) -> bytes:
    names = ["model.embed_tokens.weight", "lm_head.weight"]
    table = {
        n: {"dtype": "F32", "shape": [VALUES], "data_offsets": [i * VALUES * 4, (i + 1) * VALUES * 4]}
        for i, n in enumerate(names)
    }
    header = json.dumps(table).encode()
    return len(header).to_bytes(8, "little") + header + draw.randbytes(2 * VALUES * 4)


def _archive(draw: random.Random) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr(zipfile.ZipInfo("archive/data/0"), draw.randbytes(200))
    return made.getvalue()


def contents(step: int) -> dict[str, bytes]:
    """The files of the checkpoint of a step."""
    draw = random.Random(step)
    return {
        "config.json": b'{"model_type": "llama"}',
        "model.safetensors": _safetensors(draw),
        "optimizer.pt": _archive(draw),
        "scheduler.pt": _archive(draw),
        "rng_state.pth": _archive(draw),
        "trainer_state.json": json.dumps({"global_step": step, "max_steps": 100}).encode(),
    }


def write_checkpoint(folder: Path, step: int) -> None:
    """Write them, unflushed, as transformers does."""
    for name, content in contents(step).items():
        with (folder / name).open("wb") as opened:
            opened.write(content)


def is_exactly(folder: Path, step: int) -> bool:
    """Whether every file is as it was written."""
    files = contents(step).items()
    return all(
        (folder / name).is_file() and (folder / name).read_bytes() == content for name, content in files
    )
