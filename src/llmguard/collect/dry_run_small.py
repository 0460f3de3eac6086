"""What a trainer factory is given in a dry run: small models of random weights in place of those it loads, few rows, harmless arguments.

Nothing of the user's code is changed: what it calls in transformers, peft and torch is, in this process, before it is imported.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmguard.collect.dry_run_arguments import BATCH, harmless
from llmguard.collect.dry_run_rows import Few
from llmguard.collect.flash import is_flash
from llmguard.collect.shrinking import LAYERS, WIDTH, shrunken

__all__ = ["EVALUATED", "Given", "given"]

COLLATED, EVALUATED = 32, 2 * BATCH
"""Rows that become batches, and that are evaluated on."""
LOGITS = 1.2e8
"""Logits of a batch at most (0.5 GB in float32): what bounds the longest row of a large vocabulary."""
SMALL = 2 * WIDTH, 4
"""Width and layers up to which a model is small already."""
RANK = 32
GPUS = ("cuda", "xpu", "npu", "hpu", "mps", "musa", "mlu")


@dataclass
class Given:
    """What was given instead: `notes` by setting, as text; `few` the rows."""

    output: Path
    few: Few = field(default_factory=lambda: Few(512))
    notes: dict[str, str] = field(default_factory=dict)

    def note(self, name: str, was: Any, now: Any) -> None:
        """Say that a setting is another one here."""
        self.notes.setdefault(name, f"{was!r} -> {now!r}"[:120])


@contextlib.contextmanager
def given(output: Path) -> Iterator[Given]:
    """Everything that follows in this process loads small models, and trains few rows on the CPU into `output`."""
    told = Given(output)
    with contextlib.ExitStack() as undo:
        for owner, name, made in _replacements(told):
            before = owner.__dict__.get(name)
            setattr(owner, name, made)
            undo.callback(
                setattr if before is not None else delattr,
                owner,
                name,
                *([before] if before is not None else []),
            )
        yield told


def _replacements(told: Given) -> Iterator[tuple[Any, str, Any]]:
    """Owner, name, and what stands there instead."""
    import torch
    from transformers import PreTrainedModel, Trainer, TrainingArguments

    make = PreTrainedModel._from_config.__func__
    yield PreTrainedModel, "from_pretrained", _class_method(_loaded, told, make)
    yield PreTrainedModel, "_from_config", _class_method(_configured, told, make)
    yield (
        TrainingArguments,
        "__post_init__",
        harmless(told.output, told.note, TrainingArguments.__post_init__),
    )
    yield Trainer, "__init_subclass__", _class_method(_subclassed, told)
    yield Trainer, "__init__", _cut(told, Trainer.__init__)
    for owner in (torch.nn.Module, torch.Tensor):
        yield owner, "to", _to_cpu(told, owner.to)
        yield owner, "cuda", lambda self, *_, **__: self.cpu()
    yield from _of_peft(told)


def _class_method(function: Callable[..., Any], *first: Any) -> Any:
    return classmethod(lambda cls, *args, **more: function(*first, cls, *args, **more))


def _of_peft(told: Given) -> Iterator[tuple[Any, str, Any]]:
    try:
        from peft import LoraConfig, PeftModel
    except ImportError:
        return
    yield PeftModel, "from_pretrained", _class_method(_adapted, told)
    yield LoraConfig, "__post_init__", _fitting(told, LoraConfig.__post_init__)


def small_config(told: Given, config: Any) -> Any:
    """A copy of a config with two layers and a small width, its vocabulary and special ids kept; a small one as it is."""
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    width, layers = getattr(text, "hidden_size", 0), getattr(text, "num_hidden_layers", 0)
    told.few.tokens = int(LOGITS / BATCH / max(1, getattr(text, "vocab_size", None) or 1))
    if width <= SMALL[0] and layers <= SMALL[1]:
        small = copy.deepcopy(config)
    else:
        small = _shrunken(config, text)
        told.note(
            "model", f"{layers} layers of width {width}", f"{LAYERS} layers of width {WIDTH}, random weights"
        )
    if getattr(small, "quantization_config", None) is not None:
        told.note("quantization_config", "set", None)
        del small.quantization_config
    return small


def _shrunken(config: Any, text: Any) -> Any:
    small = shrunken(text, keep_ids=True)
    if hasattr(small, "initializer_range"):
        small.initializer_range = 1 / math.sqrt(WIDTH)
    if text is config:
        return small
    whole = copy.deepcopy(config)
    for name, each in vars(whole).items():
        if each.__class__ is text.__class__:
            setattr(whole, name, small)
        elif hasattr(each, "to_dict") and hasattr(each, "model_type"):
            for size in ("num_hidden_layers", "depth", "n_layer"):
                if isinstance(getattr(each, size, None), int):
                    setattr(each, size, LAYERS)
            for size in ("out_hidden_size", "projection_dim"):
                if hasattr(each, size):
                    setattr(each, size, WIDTH)
    return whole


LOADING = (
    "device_map", "max_memory", "low_cpu_mem_usage", "quantization_config", "load_in_8bit", "load_in_4bit", "offload_folder",
    "torch_dtype", "dtype", "use_safetensors", "weights_only", "ignore_mismatched_sizes", "state_dict", "variant", "tp_plan",
    "device_mesh", "from_tf", "from_flax", "adapter_kwargs", "_from_auto", "_commit_hash", "use_kernels", "key_mapping", "tp_size",
    "use_flash_attention_2",
)  # fmt: skip


def _loaded(
    told: Given, make: Callable[..., Any], cls: Any, path: Any, *_: Any, config: Any = None, **more: Any
) -> Any:
    """`from_pretrained` without weights: the config is read, a small model of random weights is made, the same for the same config."""
    from transformers import PretrainedConfig

    said = {n: more.pop(n) for n in LOADING if n in more}
    attention, info = more.pop("attn_implementation", None), more.pop("output_loading_info", False)
    for name in ("device_map", "quantization_config", "load_in_8bit", "load_in_4bit"):
        if said.get(name):
            told.note(
                name, said[name] if isinstance(said[name], (str, bool)) else type(said[name]).__name__, None
            )
    if not isinstance(config, PretrainedConfig):
        config, more = cls.config_class.from_pretrained(config or path, return_unused_kwargs=True, **more)
    model = _made(told, make, cls, config, attention)
    model.config._name_or_path = model.name_or_path = str(path)
    _generation_config(model, path)
    return (
        (model, {"missing_keys": [], "unexpected_keys": [], "mismatched_keys": [], "error_msgs": []})
        if info
        else model
    )


def _generation_config(model: Any, path: Any) -> None:
    from transformers import GenerationConfig

    with contextlib.suppress(Exception):  # a folder need not have one
        if model.can_generate():
            model.generation_config = GenerationConfig.from_pretrained(path)


def _configured(told: Given, make: Callable[..., Any], cls: Any, config: Any, **more: Any) -> Any:
    """`from_config` with the small config."""
    return _made(told, make, cls, config, more.pop("attn_implementation", None))


def _made(told: Given, make: Callable[..., Any], cls: Any, config: Any, attention: str | None) -> Any:
    import torch

    small = small_config(told, config)
    asked = attention or getattr(config, "_attn_implementation", None)
    if is_flash(asked) or asked == "flex_attention":
        told.note("attn_implementation", asked, "sdpa")
        asked = "sdpa"
    small._attn_implementation = asked if asked in ("sdpa", "eager") else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = make(cls, small)
    return model.float().eval()


def _adapted(
    told: Given, cls: Any, model: Any, path: Any, *args: Any, config: Any = None, **more: Any
) -> Any:
    """An adapter of the same config with weights of its own: those in its folder do not fit the small model."""
    from peft import PeftConfig, get_peft_model

    config = config or PeftConfig.from_pretrained(str(path))
    config.inference_mode = not more.get("is_trainable", False)
    told.note("adapter", str(path), "the same config, weights of its own")
    name = str(more.get("adapter_name") or (args[0] if args else "default"))
    return get_peft_model(model, config, adapter_name=name)


def _fitting(told: Given, original: Callable[..., None]) -> Callable[..., None]:
    """A LoRA config whose rank and layers the small model has."""

    def after(self: Any) -> None:
        if isinstance(self.r, int) and self.r > RANK and isinstance(self.lora_alpha, (int, float)):
            told.note("lora r", self.r, RANK)
            self.lora_alpha, self.r = max(1, round(self.lora_alpha * RANK / self.r)), RANK
        if getattr(self, "layers_to_transform", None) is not None:
            told.note("layers_to_transform", self.layers_to_transform, None)
            self.layers_to_transform = self.layers_pattern = None
        original(self)

    return after


def _subclassed(told: Given, cls: Any, **more: Any) -> None:
    """Trainers of libraries prepare their rows before they call Trainer's own constructor: theirs gets few rows, too."""
    object.__init_subclass__(**more)
    if "__init__" in cls.__dict__:
        cls.__init__ = _cut(told, cls.__dict__["__init__"])


def _cut(told: Given, original: Callable[..., None]) -> Callable[..., None]:
    signature = inspect.signature(original)

    @functools.wraps(original)
    def init(self: Any, *args: Any, **more: Any) -> None:
        try:
            bound = signature.bind(self, *args, **more)
        except TypeError:
            return original(self, *args, **more)
        named: Any = next(
            (
                bound.arguments.get(p.name, {})
                for p in signature.parameters.values()
                if p.kind is p.VAR_KEYWORD
            ),
            {},
        )
        for name, count in (("train_dataset", COLLATED), ("eval_dataset", EVALUATED)):
            for place in (bound.arguments, named):
                if place.get(name) is not None:
                    place[name] = told.few.of(place[name], count, name)
        return original(*bound.args, **bound.kwargs)

    return init


def _to_cpu(told: Given, original: Callable[..., Any]) -> Callable[..., Any]:
    def to(self: Any, *args: Any, **more: Any) -> Any:
        if any(map(_is_gpu, (*args, *more.values()))):
            told.note("device", "a GPU", "cpu")
            args = tuple("cpu" if _is_gpu(a) else a for a in args)
            more = {n: "cpu" if _is_gpu(v) else v for n, v in more.items()}
        return original(self, *args, **more)

    return to


def _is_gpu(value: Any) -> bool:
    """Whether an argument of `.to()` is a device that is not here; a number is the index of a GPU."""
    if type(value) is int:
        return True
    kind = value if isinstance(value, str) else getattr(value, "type", None)
    return isinstance(kind, str) and kind.partition(":")[0] in GPUS
