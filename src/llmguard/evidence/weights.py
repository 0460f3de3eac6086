"""Weights of a model folder, shard by shard: what an index names, what is there, what is no weights file at all."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from llmguard.tensors import BadFile, Tensor, read_header

__all__ = ["read_weights"]

INDEX = "model.safetensors.index.json"
OTHER = (".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack")
NOT_WEIGHTS = re.compile(r"training_args|optimizer|scheduler|rng_state|adapter_model|random_states|scaler")
SHARD = re.compile(r"(.*)-(\d{5})-of-(\d{5})(\.\w+)$")
POINTER = b"version https://git-lfs"
LINK = 300
"""Bytes under which a file that is plain text is a link stored as text."""


def read_weights(folder: Path, problems: list[tuple[str, str]]) -> tuple[dict[str, Tensor], list[str]]:
    """Every tensor of the safetensors files, and the names of weights in other formats; what is wrong is added to `problems`."""
    tensors: dict[str, Tensor] = {}
    wanted = _index(folder / INDEX, problems) if (folder / INDEX).exists() else {}
    here = sorted(p.name for p in folder.glob("*.safetensors") if not p.name.startswith("adapter"))
    names = sorted({*wanted.values()} or here)
    for name in names:
        try:
            tensors.update(read_header(folder / name))
        except FileNotFoundError:
            problems.append((name, _gone(folder / name)))
        except BadFile as bad:
            problems.append((name, str(bad)))
        except OSError as bad:
            problems.append((name, f"cannot be read: {bad.strerror}"))
    broken = {name for name, _ in problems}
    lost = [t for t, shard in wanted.items() if t not in tensors and shard not in broken]
    if lost:
        problems.append((INDEX, f"names {len(lost)} tensors that no shard holds ({lost[0]} …)"))
    others = _others(folder, problems)
    for name in (
        *_lost_shards([*names, *others]),
        *_lost_of_index(folder / "pytorch_model.bin.index.json", folder, problems),
    ):
        if name not in broken:
            problems.append((name, "is not there, the other shards are"))
    return tensors, others


def _gone(file: Path) -> str:
    if file.is_symlink():
        return f"is a link to {file.readlink()}, which is not there"
    return "is named by the index and not there"


def _others(folder: Path, problems: list[tuple[str, str]]) -> list[str]:
    """Weights in other formats; nothing in them is read but their first bytes."""
    found = sorted(p for p in folder.iterdir() if p.suffix in OTHER and not NOT_WEIGHTS.search(p.name))
    for file in found:
        what = _stands_for(file)
        if what:
            problems.append((file.name, what))
    return [p.name for p in found]


def _stands_for(file: Path) -> str:
    """What a file is instead of weights; empty where it may be weights."""
    try:
        size = file.stat().st_size
        with file.open("rb") as opened:
            head = opened.read(LINK)
    except OSError as bad:
        return _gone(file) if file.is_symlink() else f"cannot be read: {bad.strerror}"
    if head.startswith(POINTER):
        return "is a Git LFS pointer, not the file: run `git lfs pull`"
    if not size:
        return "is empty"
    if size < LINK and head.isascii() and b"\0" not in head:
        return f"holds only {head.decode().strip()!r}: a link that was stored as text, or an error page"
    return ""


def _lost_shards(names: Sequence[str]) -> list[str]:
    """Shards of numbered series that are not there."""
    series: dict[tuple[str, str, str], set[int]] = {}
    for match in filter(None, map(SHARD.match, names)):
        series.setdefault((match[1], match[3], match[4]), set()).add(int(match[2]))
    return [
        f"{stem}-{n:05d}-of-{count}{suffix}"
        for (stem, count, suffix), there in series.items()
        for n in range(1, int(count) + 1)
        if n not in there
    ]


def _lost_of_index(file: Path, folder: Path, problems: list[tuple[str, str]]) -> list[str]:
    wanted = set(_index(file, problems).values()) if file.exists() else set()
    told = {name for name, _ in problems}
    shards = set(_lost_shards([p.name for p in folder.iterdir()]))
    return sorted(n for n in wanted if not (folder / n).exists() and n not in told | shards)


def _index(file: Path, problems: list[tuple[str, str]]) -> dict[str, str]:
    try:
        return {str(k): str(v) for k, v in json.loads(file.read_text("utf-8"))["weight_map"].items()}
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as bad:
        problems.append((file.name, f"cannot be read: {type(bad).__name__}: {bad}"))
        return {}
