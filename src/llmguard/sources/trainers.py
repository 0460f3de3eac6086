"""Arguments of a Trainer's constructor that it no longer takes, by the signature of the installed class."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator

from llmguard.configs.library import folder_of
from llmguard.sources.calls import Call

__all__ = ["MOVED", "constructor_arguments", "unknown_arguments"]

_SNAKE = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
MOVED = {
    "tokenizer": "pass it as `processing_class=`",
    "max_seq_length": "set `max_length` of the SFTConfig",
    "dataset_text_field": "set it in the SFTConfig",
    "packing": "set it in the SFTConfig",
    "dataset_num_proc": "set it in the config",
    "dataset_kwargs": "set it in the SFTConfig",
    "model_init_kwargs": "set it in the config",
    "neftune_noise_alpha": "set it in the config",
    "beta": "set it in the DPOConfig",
    "max_length": "set it in the config",
    "max_prompt_length": "set it in the config, where the trainer has it",
    "loss_type": "set it in the config",
}


def unknown_arguments(call: Call) -> Iterator[ast.keyword]:
    """The keywords of a Trainer call that the installed class does not take; none where its signature cannot be told."""
    known = constructor_arguments(call.library, call.name) if call.name.endswith("Trainer") else None
    for keyword in call.node.keywords if known else ():
        if keyword.arg is not None and keyword.arg not in (known or ()):
            yield keyword


@functools.lru_cache(maxsize=64)
def constructor_arguments(library: str, name: str) -> frozenset[str] | None:
    """The arguments of a Trainer class, read from its sources; None where it is not installed or takes any keyword."""
    folder = folder_of(library)
    if folder is None:
        return None
    files = (
        ["trainer.py", "trainer_seq2seq.py"] if library == "transformers" else [f"trainer/{_module(name)}.py"]
    )
    for file in files:
        try:
            source = (folder / file).read_text("utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        head = re.search(
            rf"^class {name}\b(?:.|\n)*?^    def __init__(\((?:.|\n)*?\))(?: -> None)?:\s*\n",
            source,
            re.MULTILINE,
        )
        if head:
            return _arguments(head[1])
    return None


def _module(name: str) -> str:
    return "_".join(part.lower() for part in _SNAKE.split(name))


def _arguments(signature: str) -> frozenset[str] | None:
    try:
        function = ast.parse(f"def __init__{signature}: pass").body[0]
    except SyntaxError:
        return None
    if not isinstance(function, ast.FunctionDef) or function.args.kwarg is not None:
        return None
    arguments = function.args
    return frozenset(a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)) - {
        "self"
    }
