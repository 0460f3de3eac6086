"""What kind of keeping a chain of references is: the classes of leaks that are known, the most telling first."""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable
from types import (
    AsyncGeneratorType,
    CellType,
    CoroutineType,
    FrameType,
    FunctionType,
    GeneratorType,
    TracebackType,
)
from typing import Any

from llmguard.memory.links import attribute, is_parameter, key_of
from llmguard.memory.search import Chain, is_namespace
from llmguard.memory.tensors import is_tensor

__all__ = ["KINDS", "kind_of"]

Pair = tuple[Any, Any]
"""A holder and what it holds."""
_NOTEBOOK = re.compile(r"Out|_oh|_{1,3}|_\d+")
_HOOKS = ("_hf_hook", "_old_forward")
_TRAINERS = (
    "Trainer", "TrainerCallback", "CallbackHandler", "TrainerControl", "TrainerState", "Accelerator", "AcceleratedOptimizer",
    "AcceleratedScheduler", "LightningModule", "Callback",
)  # fmt: skip
_TRAINING = ("transformers", "trl", "accelerate", "lightning", "pytorch_lightning", "llmguard_core")
_COMPILERS = (
    "torch._dynamo",
    "torch._inductor",
    "torch._functorch",
    "torch.cuda.graphs",
    "torch._guards",
    "torch.fx",
)


def kind_of(chain: Chain) -> str:
    """The kind of a chain, one of `KINDS`."""
    pairs = [(chain.objects[at + 1], chain.objects[at]) for at in range(len(chain.objects) - 1)]
    for kind, belongs in _RULES:
        if any(belongs(pair) for pair in pairs):
            return kind
    return _plain(chain)


def _plain(chain: Chain) -> str:
    """Nothing of the known kinds lies between: the root decides; a result with its graph keeps more than itself."""
    if any(is_tensor(each) and _has_graph(each) for each in chain.objects):
        return "autograd graph"
    if any(
        issubclass(type(each), (GeneratorType, CoroutineType, AsyncGeneratorType)) for each in chain.objects
    ):
        return "generator"
    if any(type(each) is CellType for each in chain.objects):
        return "closure"
    if chain.ended == "frame":
        return "running frame"
    if chain.ended in ("none", "budget"):
        return "no Python owner" if chain.ended == "none" else "not found"
    root = chain.objects[-1]
    return "running frame" if type(root) is FrameType else "module global"


def _traceback(pair: Pair) -> bool:
    holder, held = pair
    if type(holder) is TracebackType or issubclass(type(holder), BaseException):
        return True
    return type(held).__name__ == "ExceptionInfo" or (
        is_namespace(holder)
        and holder.get("__name__") == "sys"
        and str(key_of(holder, held)).startswith("last_")
    )


def _notebook(pair: Pair) -> bool:
    holder, held = pair
    if not is_namespace(holder):
        return False
    name = str(key_of(holder, held))
    interactive = "In" in holder or "_ih" in holder or holder.get("__name__") == "builtins"
    return bool(interactive and _NOTEBOOK.fullmatch(name))


def _fixture(pair: Pair) -> bool:
    kind = type(pair[0])
    return kind.__module__.startswith("_pytest.") and kind.__name__ in (
        "FixtureDef",
        "PseudoFixtureDef",
        "Function",
    )


def _parametrize(pair: Pair) -> bool:
    kind = type(pair[0])
    if not kind.__module__.startswith("_pytest."):
        return False
    return kind.__name__ in ("CallSpec2", "ParameterSet", "Mark") or is_parameter(pair[0])


def _lru_cache(pair: Pair) -> bool:
    return type(pair[0]).__name__ == "_lru_cache_wrapper" and type(pair[0]).__module__ == "functools"


def _hook(pair: Pair) -> bool:
    holder, held = pair
    if type(holder).__module__.startswith("accelerate.hooks"):
        return True
    function = holder.func if issubclass(type(holder), functools.partial) else holder
    if type(function) is FunctionType and function.__module__ == "accelerate.hooks":
        return True
    named = key_of(holder, held) if type(holder) is dict else attribute(holder, held)
    return named in _HOOKS


def _adapter(pair: Pair) -> bool:
    """A container of adapters, by adapter name, that stands in a layer of PEFT."""
    holder, held = pair
    if not type(held).__module__.startswith(("torch.nn.modules.container", "peft.")):
        return False
    if type(held).__name__ not in ("ModuleDict", "ParameterDict", "BufferDict"):
        return False
    return type(holder) is dict or type(holder).__module__.startswith("peft.")


def _loader(pair: Pair) -> bool:
    return type(pair[0]).__module__.startswith("torch.utils.data.dataloader")


def _optimizer(pair: Pair) -> bool:
    return _inherits(pair[0], ("Optimizer",), ("torch.optim", "accelerate", "bitsandbytes"))


def _trainer(pair: Pair) -> bool:
    return _inherits(pair[0], _TRAINERS, _TRAINING)


def _compiled(pair: Pair) -> bool:
    holder = pair[0]
    if is_namespace(holder):
        return str(holder.get("__name__", "")).startswith(_COMPILERS)
    return type(holder).__module__.startswith(_COMPILERS) or type(holder).__name__ == "CUDAGraph"


def _graph(pair: Pair) -> bool:
    """A tensor holds another by its graph or as its gradient; or a node of a graph does."""
    holder, held = pair
    if is_tensor(holder) and is_tensor(held):
        return not holder.is_leaf or holder.grad is not held  # a gradient is kept with its parameter
    return _is_node(holder)


_RULES: tuple[tuple[str, Callable[[Pair], bool]], ...] = (
    ("traceback", _traceback),
    ("notebook", _notebook),
    ("parametrize", _parametrize),
    ("fixture", _fixture),
    ("lru_cache", _lru_cache),
    ("accelerate hook", _hook),
    ("PEFT adapter", _adapter),
    ("DataLoader", _loader),
    ("optimizer", _optimizer),
    ("Trainer or callback", _trainer),
    ("compile cache", _compiled),
    ("autograd graph", _graph),
)
KINDS = (
    *(kind for kind, _ in _RULES), "generator", "closure", "running frame", "module global", "no Python owner", "not found",
)  # fmt: skip


def _inherits(found: Any, names: tuple[str, ...], packages: tuple[str, ...]) -> bool:
    return any(k.__name__ in names and k.__module__.startswith(packages) for k in type(found).__mro__)


def _is_node(found: Any) -> bool:
    autograd = getattr(sys.modules.get("torch"), "autograd", None)
    node = getattr(getattr(autograd, "graph", None), "Node", None)
    return (
        node is not None and type(found).__module__ != "builtins" and hasattr(type(found), "next_functions")
    )


def _has_graph(tensor: Any) -> bool:
    try:
        return tensor.grad_fn is not None
    except (RuntimeError, AttributeError):
        return False
