"""Whether an adapter and a base model belong together: modules, shapes, the weights of the base that the adapter names."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from llmguard.evidence.adapter import Adapter, Module
from llmguard.evidence.model import ModelFolder, read_model

__all__ = ["Unlike", "unlike"]

LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks|block|layer)\.(\d+)\.")
TIED = ("lm_head", "embed_out", "output")
INPUT = (
    "q_proj",
    "k_proj",
    "v_proj",
    "qkv_proj",
    "c_attn",
    "query_key_value",
    "gate_proj",
    "up_proj",
    "gate_up_proj",
)
"""Modules whose input is as wide as the model."""
OTHER_VOCABULARY = 0.25
"""Share of its rows by which an embedding may have grown or shrunk: tokens were added, or a padded one was cut to its tokenizer."""
COMPARED = 4
"""Tensors of two bases that are compared, by the first bytes of their values."""


@dataclass(frozen=True)
class Unlike:
    """`wrong`: why the two do not belong together, empty where nothing says so. `renamed`: the base that the adapter names has another
    name. `same_weights`: it is here, and has the same weights."""

    wrong: str = ""
    why: str = ""
    renamed: bool = False
    same_weights: bool = False


def unlike(adapter: Adapter, model: ModelFolder) -> Unlike:
    """What tells an adapter's base and a model apart."""
    wrong = next(_wrong_shapes(adapter, model), "")
    if wrong:
        return Unlike(wrong)
    if not adapter.base or _same_place(adapter.base, model):
        return Unlike()
    named = _named_base(adapter, model)
    same = _same_weights(named, model) if named else None
    if same is False:
        what = f"the weights of {adapter.base!r}, which is here, are not those of this model, though their shapes agree"
        return Unlike(
            what, "an adapter is a difference to one set of weights: on others it runs, and means nothing"
        )
    return Unlike(renamed=not _same_name(adapter.base, model), same_weights=same is True)


def _wrong_shapes(adapter: Adapter, model: ModelFolder) -> Iterator[str]:
    modules = adapter.modules
    deep = [
        m
        for m in modules
        if model.layers is not None and (found := LAYER.search(m)) and int(found[1]) >= model.layers
    ]
    if deep:
        yield f"{len(deep)} of {len(modules)} adapted modules are in layers that this model of {model.layers} layers has not ({deep[0]} …)"
    if model.tensors:
        yield from _against_tensors(list(modules.values()), model)
    elif model.width:
        wide = {m.a[-1]: m.name for m in modules.values() if m.a and m.name.endswith(INPUT)}
        if wide and model.width not in wide:
            width, name = next(iter(wide.items()))
            yield f"{name} takes {width} numbers in the adapter, this model is {model.width} wide"
    for name, tensor in adapter.saved_whole.items():
        if len(tensor.shape) == 2 and any(p in name for p in ("embed_tokens", "lm_head", "wte")):
            rows, own = tensor.shape[0], model.embedding_rows
            if model.width and model.width not in tensor.shape:
                yield f"{name} is saved as {_times(tensor.shape)}, this model is {model.width} wide"
            elif own and abs(rows - own) > OTHER_VOCABULARY * own:
                yield f"{name} is saved with {rows:,} rows, a vocabulary of another size than this model's {own:,}"


def _against_tensors(modules: Sequence[Module], model: ModelFolder) -> Iterator[str]:
    shapes = _Shapes(model)
    unknown = [m for m in modules if not shapes.knows(m.name)]
    if unknown:
        yield f"{len(unknown)} of {len(modules)} adapted modules are not in this model ({unknown[0].name} …)"
    for module in modules:
        shape = shapes.of(module.name)
        if shape and ((module.a and module.a[-1] not in shape) or (module.b and module.b[0] not in shape)):
            both = f"A {_times(module.a)} and B {_times(module.b)}"
            yield f"{module.name} is {_times(shape)} in this model, and the adapter's matrices are {both}"


class _Shapes:
    """Modules of a model by name, or by what follows the number of their layer: prefixes change between versions of transformers."""

    def __init__(self, model: ModelFolder) -> None:
        self.model = model
        self._tails = {_tail(name): t for name, t in model.tensors.items()}
        self._modules = {part for name in self._tails for part in _parents(name)}
        self._tied = bool(model.settings.get("tie_word_embeddings", True))

    def knows(self, module: str) -> bool:
        """Whether the model has a module of this name (packed weights of quantised modules count, tied output layers too)."""
        return _tail(module) in self._modules or (self._tied and module.endswith(TIED))

    def of(self, module: str) -> tuple[int, ...] | None:
        """The shape of its weight; None where it is quantised, or not there."""
        tensor = self._tails.get(_tail(f"{module}.weight"))
        return tensor.shape if tensor is not None and tensor.is_float and len(tensor.shape) == 2 else None


def _tail(name: str) -> str:
    found = LAYER.search(name)
    return name[found.start() :].lstrip(".") if found else name.rpartition("model.")[2] or name


def _parents(name: str) -> Iterator[str]:
    while "." in name:
        name = name.rpartition(".")[0]
        yield name


def _times(shape: tuple[int, ...] | None) -> str:
    return " x ".join(map(str, shape)) if shape else "missing"


def _same_place(base: str, model: ModelFolder) -> bool:
    return model.path is not None and Path(base).exists() and Path(base).resolve() == model.path.resolve()


def _same_name(base: str, model: ModelFolder) -> bool:
    told = {PurePosixPath(base).name.lower(), base.lower()}
    here = {
        PurePosixPath(model.name).name.lower(),
        model.name.lower(),
        str(model.config.get("_name_or_path", "")).lower(),
    }
    return bool(told & (here - {""}))


def _named_base(adapter: Adapter, model: ModelFolder) -> ModelFolder | None:
    """The base that the adapter names, where it is on this machine and no other name for the project's model."""
    named = read_model(adapter.base, root=adapter.path.parent)
    if named.path is None or model.path is None or named.path.resolve() == model.path.resolve():
        return None
    return named


def _same_weights(first: ModelFolder, second: ModelFolder) -> bool | None:
    """Whether two folders hold the same weights, by the first bytes of some tensors; None where that cannot be told."""
    both = [n for n, t in first.tensors.items() if n in second.tensors and t.dtype == second.tensors[n].dtype]
    pairs = [
        (first.tensors[n], second.tensors[n])
        for n in both
        if first.tensors[n].shape == second.tensors[n].shape
    ]
    some = sorted(pairs, key=lambda p: p[0].start - p[0].stop)[:COMPARED]
    return all(a.sample() == b.sample() for a, b in some) if some else None
