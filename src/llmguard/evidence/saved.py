"""What a folder that a training library saved says of itself: its step, its weights, formats of other days. Nothing is unpickled."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from llmguard.evidence.weights import read_weights
from llmguard.tensors import BadFile, read_header

__all__ = ["NAME", "STATE", "Old", "old_formats", "state_problems", "weight_problems"]

NAME = re.compile(r"checkpoint-(\d+)$")
STATE = "trainer_state.json"
ADAPTERS = ("adapter_model.safetensors", "*/adapter_model.safetensors")
OTHER_WEIGHTS = ("adapter_model.bin", "*/adapter_model.bin", "pytorch_model_fsdp*", "global_step*")


@dataclass(frozen=True)
class Old:
    """A format of other days: the files of it, what they are, how to convert them, and whether transformers loads them as they are."""

    pattern: str
    what: str
    convert: str
    loads: bool = False


SAVED = "AutoModelForCausalLM.from_pretrained(old{}).save_pretrained(new)"
OLD = (
    Old("pytorch_model*.bin", "a pickle, as transformers saved before 4.35", f"{SAVED.format('')} (torch 2.6 or newer)", True),
    Old("adapter_model.bin", "a pickle, as PEFT saved before 0.7", "PeftModel.from_pretrained(base, old).save_pretrained(new)", True),
    Old("tf_model*.h5", "weights of TensorFlow", f"with transformers 4: {SAVED.format(', from_tf=True')}"),
    Old("*.ckpt.index", "a checkpoint of TensorFlow 1", f"with transformers 4: {SAVED.format(', from_tf=True')}"),
    Old("flax_model*.msgpack", "weights of Flax", f"with transformers 4: {SAVED.format(', from_flax=True')}"),
    Old("consolidated.*.pth", "weights in their maker's own layout", "with the convert_…_weights_to_hf.py of transformers"),
    Old("pytorch_model_fsdp_*", "shards of FSDP", "accelerate merge-weights old new"),
    Old("global_step*", "shards of DeepSpeed ZeRO", "with the zero_to_fp32.py that lies beside them"),
)  # fmt: skip
"""Sources: the release notes of transformers 4.35 and PEFT 0.7, transformers' guide of what version 5 left out, accelerate, DeepSpeed."""


def old_formats(folder: Path) -> list[tuple[str, Old]]:
    """The first file of each format of other days, where no safetensors weights lie beside it."""
    if any(any(folder.glob(pattern)) for pattern in ("*.safetensors", "*/adapter_model.safetensors")):
        return []
    found = ((min(folder.glob(old.pattern), default=None), old) for old in OLD)
    return [(file.name, old) for file, old in found if file is not None]


def weight_problems(folder: Path) -> list[str]:
    """What is wrong with the weights or adapters of a folder, as `file: what is wrong`; that there are none is one thing.

    Raises:
        OSError: the folder cannot be read.
    """
    problems: list[tuple[str, str]] = []
    tensors, others = read_weights(folder, problems)
    adapters = [file for pattern in ADAPTERS for file in folder.glob(pattern)]
    for file in adapters:
        try:
            tensors.update(read_header(file))
        except (BadFile, OSError) as bad:
            problems.append((file.name, str(bad)))
    if not (tensors or others or problems or any(any(folder.glob(p)) for p in OTHER_WEIGHTS)):
        return [f"{folder.name}: holds no weights"]
    return [f"{name}: {what}" for name, what in problems]


def state_problems(folder: Path) -> Iterator[str]:
    """What is wrong with trainer_state.json: there, JSON, and with a step that can be, as `file: what is wrong`.

    Raises:
        OSError: the file is there and cannot be read.
    """
    try:
        state = json.loads((folder / STATE).read_text("utf-8"))
        step = state["global_step"]
    except FileNotFoundError:
        yield f"{STATE}: is not there: the save was cut off before its last file"
    except (ValueError, KeyError, TypeError) as bad:
        yield f"{STATE}: cannot be read: {type(bad).__name__}: {bad}"
    else:
        if not isinstance(step, int) or isinstance(step, bool) or step < 0:
            yield f"{STATE}: global_step is {step!r}: the state is corrupt"
        elif (match := NAME.match(folder.name)) and step != int(match[1]):
            yield f"{STATE}: global_step is {step}, the folder says {match[1]}"
