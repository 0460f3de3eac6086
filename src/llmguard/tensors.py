"""What safetensors files hold, from their headers; values through a memory map. Nothing is unpickled, torch is not imported."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["BadFile", "Tensor", "read_header"]

SIZES = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
}
LARGEST_HEADER = 100 * 2**20
"""Bytes; the format's own limit (huggingface/safetensors, `MAX_HEADER_SIZE`)."""


class BadFile(Exception):
    """A file that is no whole safetensors file; the message says what it is instead."""


@dataclass(frozen=True)
class Tensor:
    """One tensor of a file. `start`, `stop`: its bytes in the file."""

    file: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def empty(self) -> bool:
        """Whether a dimension is 0, as partitioned parameters are saved (peft#453)."""
        return 0 in self.shape

    def is_zero(self) -> bool:
        """Whether every value is +0.0 (reads the values)."""
        return not self._raw().any()

    def is_finite(self) -> bool:
        """Whether no value is NaN or infinite (reads the values)."""
        raw = self._raw()
        if self.dtype == "BF16":
            return not bool(((raw.view(np.uint16) & 0x7F80) == 0x7F80).any())
        kinds = {"F64": np.float64, "F32": np.float32, "F16": np.float16}
        return bool(np.isfinite(raw.view(kinds[self.dtype])).all()) if self.dtype in kinds else True

    def _raw(self) -> np.ndarray[Any, np.dtype[np.uint8]]:
        if self.stop == self.start:
            return np.zeros(0, dtype=np.uint8)
        return np.fromfile(self.file, dtype=np.uint8, count=self.stop - self.start, offset=self.start)


def read_header(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name.

    Raises:
        BadFile: a pointer, a link stored as text, another format, or a file cut off.
    """
    size = file.stat().st_size
    with file.open("rb") as opened:
        head = opened.read(8)
        if head.startswith(b"version "):
            raise BadFile("is a Git LFS pointer, not the file: run `git lfs pull`")
        length = int.from_bytes(head, "little")
        if len(head) < 8 or length > min(LARGEST_HEADER, size):
            raise BadFile(f"is no safetensors file, or cut off in its header ({size:,} bytes)")
        try:
            header = json.loads(opened.read(length))
        except ValueError:
            raise BadFile("has a header that is no JSON") from None
    found = {n: _tensor(file, n, t, 8 + length) for n, t in header.items() if n != "__metadata__"}
    end = max((t.stop for t in found.values()), default=8 + length)
    if end != size:
        raise BadFile(f"has {size:,} bytes, its header speaks of {end:,}: it was not copied or saved whole")
    return found


def _tensor(file: Path, name: str, told: Mapping[str, Any], base: int) -> Tensor:
    try:
        start, stop = told["data_offsets"]
        return Tensor(
            file, name, str(told["dtype"]), tuple(told["shape"]), base + int(start), base + int(stop)
        )
    except (KeyError, TypeError, ValueError):
        raise BadFile(f"has a header without dtype, shape or offsets for {name!r}") from None
