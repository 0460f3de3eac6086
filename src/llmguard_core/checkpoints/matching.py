"""Whether a checkpoint belongs to a model: by the names and shapes of its tensors, before any value is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from llmguard.evidence.weights import read_weights
from llmguard.tensors import read_header
from llmguard_core.errors import CheckpointError

__all__ = ["as_saved", "describe_mismatch", "refuse_another_model", "saved_otherwise"]

SHOWN = 4  # tensors named in a message


def describe_mismatch(checkpoint: Path | str, model: torch.nn.Module) -> list[str]:
    """Every tensor that differs in name or shape between a checkpoint and a model (PEFT models: the adapter's tensors).

    Loading with transformers is not strict: what differs in name would silently keep its random or base values. Checkpoints
    in other formats than safetensors give an empty list: torch says what differs when it loads them.
    """
    checkpoint = Path(checkpoint)
    adapter = checkpoint / "adapter_model.safetensors"
    if hasattr(model, "peft_config"):
        saved = _shapes(read_header(adapter)) if adapter.is_file() else {}
        return [*_differences(saved, _adapter(model), {})] if saved else []
    saved = _shapes(read_weights(checkpoint, [])[0])
    return [*_differences(saved, _named(as_saved(model)), _shared(model))] if saved else []


def as_saved(model: torch.nn.Module) -> dict[str, Any]:
    """The model's tensors, without values, under the names that saving gives them.

    transformers 5 holds some models (mixtures of experts) in another layout than it saves them in.
    """
    state = {n: t.to("meta") for n, t in model.state_dict().items() if isinstance(t, torch.Tensor)}
    try:
        from transformers.core_model_loading import revert_weight_conversion
    except ImportError:  # transformers 4 saves what it holds
        return state
    return dict(revert_weight_conversion(model, state)) if hasattr(model, "save_pretrained") else state


def saved_otherwise(model: torch.nn.Module) -> bool:
    """Whether the model's tensors have other names on disk than in memory (an adapter's PEFT translates itself)."""
    return not hasattr(model, "peft_config") and as_saved(model).keys() != model.state_dict().keys()


def refuse_another_model(checkpoint: Path | str, model: torch.nn.Module) -> None:
    """Go on only if the checkpoint's tensors are the model's.

    Raises:
        CheckpointError: names the tensors that differ.
    """
    found = describe_mismatch(checkpoint, model)
    if found:
        shown = "; ".join(found[:SHOWN]) + (f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else "")
        raise CheckpointError(
            f"is of a different model: {len(found)} tensors differ: {shown}. Loading it would leave these at other values, silently.",
            where=str(checkpoint),
            remedy="Resume with the model (and adapter settings) that it was saved with, or use another output_dir.",
        )


def _differences(
    saved: dict[str, tuple[int, ...]], wanted: dict[str, tuple[int, ...]], shared: dict[str, set[str]]
) -> Iterator[str]:
    for name, shape in wanted.items():
        if name not in saved and not shared.get(name, set()) & saved.keys():
            yield f"{name} {list(shape)} is not in the checkpoint"
        elif name in saved and saved[name] != shape:
            yield f"{name} is {list(saved[name])} in the checkpoint, {list(shape)} in the model"
    for name in saved.keys() - wanted.keys():
        yield f"{name} {list(saved[name])} is not in the model"


def _shapes(tensors: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _named(state: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in state.items() if isinstance(value, torch.Tensor)}


def _adapter(model: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    from peft import get_peft_model_state_dict

    return _named(get_peft_model_state_dict(model))


def _shared(model: torch.nn.Module) -> dict[str, set[str]]:
    """For each tensor the other names of the same memory: tied weights are saved once."""
    places: dict[tuple[int, int], set[str]] = {}
    tensors = {n: t for n, t in model.state_dict(keep_vars=True).items() if isinstance(t, torch.Tensor)}
    for name, tensor in tensors.items():
        if tensor.device.type != "meta":
            places.setdefault((tensor.data_ptr(), tensor.numel()), set()).add(name)
    return {name: names - {name} for names in places.values() for name in names}
