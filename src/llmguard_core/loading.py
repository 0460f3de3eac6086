"""Load a model for what it is: a base model without its chat template, a chat model with it; whatever does not fit is refused.

    loaded = load_base("Qwen/Qwen2.5-0.5B", adapter="out/adapter")
    loaded.route            # what was loaded from where, and how prompts become ids, line by line

A folder, or a hub id that lies in the local cache; nothing is asked over the network, no code of a model folder is run, nothing is
written into it. Weights are safetensors, or pickles that torch reads without running them.
"""

from __future__ import annotations

import logging
import os
import warnings
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from llmguard import (
    adapter_belongs_to_its_base,
    adapter_files_are_whole,
    adapter_is_trained,
    adapter_keeps_added_tokens,
    tokenizer_belongs_to_the_model,
    weights_are_complete,
)
from llmguard.evidence.adapter import read_adapter
from llmguard.evidence.model import ModelFolder
from llmguard_core.errors import LoadRefused, OutOfMemory
from llmguard_core.folders import first_line, model_folder, refuse, refuse_instruct
from llmguard_core.tokenizer import Kind, load_tokenizer, tokenisation, tokenizer_in

__all__ = ["Loaded", "load_base", "load_chat", "load_named", "load_tokenizer", "refuse_missing"]

MISSING = {"missing_keys": "missing", "mismatched_keys": "of another shape"}
"""What transformers calls tensors that it makes anew, with a warning only."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Loaded:
    """A model in evaluation mode with its tokenizer; `route`: from where, in what form, and how prompts become ids."""

    model: Any
    tokenizer: Any
    kind: Kind
    route: tuple[str, ...]


def load_base(
    path: str | Path | None = None,
    *,
    adapter: str | Path | None = None,
    tokenizer: str | Path | None = None,
    dtype: str = "auto",
    device: str | None = None,
    device_map: Any = None,
    allow_instruct: bool = False,
    environment: bool = True,
) -> Loaded:
    """A base model: its tokenizer's chat template is taken off, names and marks of instruct models are refused.

    `path`: a folder, or a hub id in the local cache; MODEL_PATH in the environment wins unless `environment=False` (for a model that
    is compared with the one of the environment). An adapter's folder stands for the base that it names and itself. `adapter`: a PEFT
    folder, verified against its base. `dtype`: float32, bfloat16, …; "auto" is as stored, and float32 on a CPU. `device`: the best
    there is by default; or `device_map` ("auto" spreads a model over all devices by accelerate).

    Raises:
        LoadRefused: nothing there, not whole, an instruct model, another tokenizer, another base's adapter: says which and why.
        OutOfMemory: it does not fit; nothing of it stays allocated.
    """
    told = (path, adapter, environment)
    return _load("base", told, tokenizer, (dtype, device, device_map), allow_instruct=allow_instruct)


def load_chat(
    path: str | Path | None = None,
    *,
    adapter: str | Path | None = None,
    tokenizer: str | Path | None = None,
    dtype: str = "auto",
    device: str | None = None,
    device_map: Any = None,
    environment: bool = True,
) -> Loaded:
    """A chat model with its own template, which has to render a conversation whole. Arguments as for `load_base`.

    Raises:
        LoadRefused: as `load_base`; or there is no chat template, or it drops or refuses messages.
        OutOfMemory: it does not fit; nothing of it stays allocated.
    """
    told = (path, adapter, environment)
    return _load("chat", told, tokenizer, (dtype, device, device_map), allow_instruct=True)


def load_named(named: Any, **changes: Any) -> Loaded:
    """The model that a `model` section names (path, kind, adapter, tokenizer, dtype, device, device_map), with `changes`.

    Raises:
        LoadRefused, OutOfMemory: as `load_base` and `load_chat`.
    """
    told = {n: getattr(named, n) for n in ("adapter", "tokenizer", "dtype", "device", "device_map")}
    return (load_chat if named.kind == "chat" else load_base)(named.path, **{**told, **changes})


def refuse_missing(named: Any, *, environment: bool = True) -> None:
    """Refuse what is not there at once, without loading anything.

    Raises:
        LoadRefused: no model, weights or adapter at the place that the section names.
    """
    path, adapter = _paths(named.path, named.adapter, environment)
    folder = model_folder(path)
    refuse(weights_are_complete(folder))
    if adapter is not None:
        found = read_adapter(adapter)
        refuse(adapter_files_are_whole(found))
        refuse(adapter_belongs_to_its_base(found, folder))


def _load(
    kind: Kind,
    told: tuple[Any, Any, bool],
    tokenizer_path: Any,
    how: tuple[str, Any, Any],
    *,
    allow_instruct: bool,
) -> Loaded:
    path, adapter = _paths(*told)
    folder = model_folder(path)
    refuse(weights_are_complete(folder))
    if not folder.has_weights:
        raise LoadRefused(
            "the folder holds no weights", where=folder.name, remedy="Download or copy the weights."
        )
    tokenizer, lines = tokenizer_in(model_folder(tokenizer_path) if tokenizer_path else folder, kind)
    if not allow_instruct:
        refuse_instruct(folder, tokenizer)
    refuse(tokenizer_belongs_to_the_model(tokenizer, folder))
    if adapter is not None:
        _refuse_foreign(adapter, folder, tokenizer)
    model, placed = _weights(folder, *how)
    if adapter is not None:
        model = _with_adapter(model, adapter)
        placed.append(f"adapter: {adapter} (verified against its base)")
    route = (f"model: {folder.name} at {folder.path}", *placed, *lines, *tokenisation(tokenizer, kind))
    for line in route:
        _log.info("%s", line)
    return Loaded(model.eval(), tokenizer, kind, route)


def _paths(path: Any, adapter: Any, environment: bool) -> tuple[str, Path | None]:
    """Where the base is, and the adapter: MODEL_PATH stands for the base."""
    if path is not None and (config := Path(path, "adapter_config.json")).is_file():
        if adapter is not None:
            raise LoadRefused("is an adapter, and another one was given to put on it", where=str(path))
        path, adapter = read_adapter(config.parent).base or None, path
    told = os.environ.get("MODEL_PATH") if environment else None
    if told and path is not None and str(path) != told:
        _log.warning("MODEL_PATH wins: %s is loaded in the place of %s", told, path)
    if not (told or path):
        raise LoadRefused(
            "no model is named", remedy="Give a folder or a cached hub id, or set MODEL_PATH to one."
        )
    return str(told or path), Path(adapter) if adapter is not None else None


def _refuse_foreign(path: Path, folder: ModelFolder, tokenizer: Any) -> None:
    adapter = read_adapter(path)
    refuse(adapter_files_are_whole(adapter))
    refuse(adapter_is_trained(adapter), adapter_belongs_to_its_base(adapter, folder))
    refuse(adapter_keeps_added_tokens(adapter, folder, tokenizer))


# the weights


def _weights(folder: ModelFolder, dtype: str, device: Any, device_map: Any) -> tuple[Any, list[str]]:
    import torch

    from llmguard_core.memory import pick_device
    from llmguard_core.training.oom import one_clear_error

    if device is not None and device_map is not None:
        told = "both device and device_map are given"
        raise LoadRefused(told, where=folder.name, remedy="Give one of them.")
    place = pick_device(device)
    wanted: Any = "auto" if dtype == "auto" else getattr(torch, dtype, None)
    if not isinstance(wanted, (str, torch.dtype)):
        told = f"there is no dtype {dtype!r}"
        raise LoadRefused(told, where=folder.name, remedy="Use auto, float32, bfloat16 or float16.")
    if wanted == "auto" and place.on_cpu and device_map is None:
        # half precision on a CPU is slow, and a batch of several differs from one by one
        wanted = torch.float32
    needed = _bytes(folder, wanted)
    if device_map is None and needed > (free := place.free()):
        raise OutOfMemory(
            f"its weights need {needed / 2**30:.2f} GiB, {free / 2**30:.2f} GiB are free on {place.device}; nothing was loaded",
            where=f"loading {folder.name}",
            remedy='Use dtype="bfloat16", device_map="auto" over several devices, or a smaller model.',
        )
    what = f"loading {folder.name} ({needed / 2**30:.2f} GiB of weights)"
    model = one_clear_error(what, lambda: _from_pretrained(folder, wanted, device_map, place.device))
    where = f"device map {device_map!r}" if device_map is not None else str(place.device)
    size = f"{model.num_parameters():,} parameters in {str(model.dtype).removeprefix('torch.')} on {where}"
    kind = "safetensors" if folder.tensors else "pickles that torch reads without running them (weights_only)"
    return model, [f"weights: {type(model).__name__}, {size}, from {kind}"]


def _bytes(folder: ModelFolder, dtype: Any) -> int:
    tensors = folder.tensors.values()
    if dtype == "auto":
        return sum(t.stop - t.start for t in tensors)
    return sum(prod(t.shape) for t in tensors) * int(dtype.itemsize)


def _from_pretrained(folder: ModelFolder, dtype: Any, device_map: Any, place: Any) -> Any:
    import transformers

    from llmguard_core.training.oom import classify

    new_name = tuple(map(int, transformers.__version__.split(".")[:2])) >= (4, 56)
    more = {"dtype" if new_name else "torch_dtype": dtype} | (
        {"device_map": device_map} if device_map is not None else {}
    )
    try:
        model, told = transformers.AutoModelForCausalLM.from_pretrained(
            str(folder.path),
            local_files_only=True,
            weights_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are told below, by name and shape
            **more,
        )
    except Exception as fault:  # whatever transformers raises for what lies in the folder
        if classify(fault) != "other":
            raise
        raise LoadRefused(
            f"it does not load: {type(fault).__name__}: {first_line(fault)}", where=folder.name
        ) from None
    for kind, how in MISSING.items():
        if lost := sorted(map(str, told.get(kind) or ())):
            raise LoadRefused(
                f"{len(lost)} tensors of the model are {how} in its files ({lost[0]} …): they would start at random",
                where=folder.name,
                remedy="Save the model again with save_pretrained, or copy the config that belongs to these weights.",
            )
    whole = device_map is None and not getattr(model, "is_quantized", False)
    return model.to(place) if whole else model


def _with_adapter(model: Any, adapter: Path) -> Any:
    from peft import PeftModel

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = PeftModel.from_pretrained(model, str(adapter))
    for warning in told:
        text = str(warning.message)
        if "missing adapter keys" in text:
            raise LoadRefused(
                f"PEFT loads it in part: {text[:300]}",
                where=str(adapter),
                remedy="Save it again from the PeftModel itself.",
            )
        warnings.warn_explicit(text, warning.category, warning.filename, warning.lineno)
    return found
