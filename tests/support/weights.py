"""Model and adapter folders written by the formats' own descriptions: no torch, a few hundred bytes each."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

WIDTH, ROWS, LAYERS, RANK = 8, 40, 2, 2
Q = "model.layers.{}.self_attn.q_proj"
Tensors = Mapping[str, NDArray[Any]]


def write(file: Path, tensors: Tensors, kind: str = "F32") -> Path:
    """A safetensors file: the length of its header, the header, the values."""
    header, at = {}, 0
    for name, values in tensors.items():
        header[name] = {"dtype": kind, "shape": list(values.shape), "data_offsets": [at, at + values.nbytes]}
        at += values.nbytes
    text = json.dumps(header).encode()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(v.tobytes() for v in tensors.values()))
    return file


def model(
    folder: Path, width: int = WIDTH, value: float = 1.0, weights: Tensors | None = None, **config: Any
) -> Path:
    """A base model's folder: an embedding and one attention module a layer."""
    made: dict[str, NDArray[Any]] = {"model.embed_tokens.weight": np.full((ROWS, width), value, np.float32)}
    made |= {f"{Q.format(n)}.weight": np.full((width, width), value, np.float32) for n in range(LAYERS)}
    write(folder / "model.safetensors", made if weights is None else weights)
    told = {"hidden_size": width, "vocab_size": ROWS, "num_hidden_layers": LAYERS, **config}
    (folder / "config.json").write_text(json.dumps(told), "utf-8")
    return folder


def lora(module: str, width: int = WIDTH, b: float = 0.5) -> dict[str, NDArray[Any]]:
    """The two matrices of a module."""
    return {
        f"base_model.model.{module}.lora_A.weight": np.ones((RANK, width), np.float32),
        f"base_model.model.{module}.lora_B.weight": np.full((width, RANK), b, np.float32),
    }


def adapter(
    folder: Path,
    base: str = "base",
    width: int = WIDTH,
    b: float = 0.5,
    more: Tensors | None = None,
    **config: Any,
) -> Path:
    """A LoRA adapter on every attention module of `model`, and `more` tensors."""
    tensors: dict[str, NDArray[Any]] = {}
    for n in range(LAYERS):
        tensors |= lora(Q.format(n), width, b)
    write(folder / "adapter_model.safetensors", {**tensors, **(more or {})})
    told = {"peft_type": "LORA", "base_model_name_or_path": base, "r": RANK, **config}
    (folder / "adapter_config.json").write_text(json.dumps(told), "utf-8")
    return folder
