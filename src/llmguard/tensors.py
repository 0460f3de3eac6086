"""What safetensors files hold, from their headers; values through a memory map. Nothing is unpickled, torch is not imported."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["BadFile", "Tensor", "read_header"]

BITS: dict[str, tuple[Any, int, int]] = {
    "F64": (np.uint64, 0x8000000000000000, 0x7FF0000000000000),
    "F32": (np.uint32, 0x80000000, 0x7F800000),
    "F16": (np.uint16, 0x8000, 0x7C00),
    "BF16": (np.uint16, 0x8000, 0x7F80),
}
"""Floating point types: the integer of their width, the bit of the sign, the bits of the exponent (all set: NaN or infinite)."""
ONE = {"F64": 0x3FF0000000000000, "F32": 0x3F800000, "F16": 0x3C00, "BF16": 0x3F80}
LINK = 300
"""Bytes under which a file that is plain text is a link stored as text: a header starts with its length as a number."""
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

    @property
    def is_float(self) -> bool:
        """Whether the values are floating point numbers of 16 bits or more, as weights that are not quantised are."""
        return self.dtype in BITS

    def is_zero(self) -> bool:
        """Whether every value is 0.0 or -0.0 (reads the values)."""
        if not self.is_float:
            return not self._raw().any()
        kind, sign, _ = BITS[self.dtype]
        return not bool((self._raw().view(kind) & ~kind(sign)).any())

    def is_one(self) -> bool:
        """Whether every value is 1.0 (reads the values)."""
        if not self.is_float:
            return False
        return bool((self._raw().view(BITS[self.dtype][0]) == ONE[self.dtype]).all())

    def is_finite(self) -> bool:
        """Whether no value is NaN or infinite (reads the values)."""
        if not self.is_float:
            return True
        kind, _, exponent = BITS[self.dtype]
        return not bool(((self._raw().view(kind) & kind(exponent)) == exponent).any())

    def rows(self, indices: np.ndarray[Any, np.dtype[np.int64]]) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Some rows of a matrix of 16 or 32 bits: float32 [len(indices), width] (reads these rows alone)."""
        kind = BITS[self.dtype][0]
        values = self._raw().view(kind).reshape(self.shape)[indices]
        if self.dtype == "BF16":
            return np.asarray((values.astype(np.uint32) << 16).view(np.float32))
        return np.asarray(values.view({"F16": np.float16}.get(self.dtype, np.float32)), dtype=np.float32)

    def sample(self, size: int = 4096) -> bytes:
        """The first bytes of the values, to tell two files apart."""
        return self._raw()[:size].tobytes()

    def _raw(self) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """The bytes of the values, through a memory map."""
        if self.stop == self.start:
            return np.zeros(0, dtype=np.uint8)
        length = self.stop - self.start
        return np.asarray(np.memmap(self.file, np.uint8, "r", self.start, (length,)))


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
        text = opened.read() if size < LINK else b""
        if text and head.isascii() and text.isascii() and b"\0" not in head:
            raise BadFile(
                f"holds only {(head + text).decode().strip()!r}: a link that was stored as text, or an error page"
            )
        opened.seek(8)
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
