"""Real tokenizers, templates and data: where they lie, and how they are loaded without a copy in the repository."""

from __future__ import annotations

import atexit
import functools
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.importing import imported

__all__ = [
    "CHAT",
    "TOKENIZERS",
    "conversations",
    "folder",
    "gsm8k",
    "templates",
    "tokenizer",
    "tokenizer_folder",
]

TOKENIZERS = (
    "deepseek-coder-instruct", "deepseek-llm-7b-chat", "dialogpt-small", "falcon-7b-instruct", "gpt2", "llama-2-7b-chat",
    "llama-3-8b", "llama-3-8b-instruct", "llama-3.1-8b-instruct", "llama-3.2-1b-instruct", "mistral-7b-instruct-v0.2",
    "mistral-7b-instruct-v0.3", "olmo-2-instruct", "opt", "phi-2", "phi-3-mini-4k-instruct", "pythia", "qwen2-7b",
    "qwen2-7b-instruct", "qwen2.5-base", "qwen2.5-instruct", "qwen3", "starcoder2", "tinyllama-1.1b-chat", "vicuna-7b-v1.5",
    "zephyr-7b-beta",
)  # fmt: skip
CHAT = tuple(n for n in TOKENIZERS if n not in ("gpt2", "llama-3-8b", "opt", "phi-2", "pythia", "starcoder2"))
"""Those that carry a chat template."""


def folder() -> Path:
    """The folder that LLMGUARD_REAL_DATA names, or `shared` beside the checkout; skips the test where there is none."""
    found = Path(os.environ.get("LLMGUARD_REAL_DATA") or Path(__file__).resolve().parents[3] / "shared")
    if not (found / "tokenizers").is_dir():
        pytest.skip(f"no real tokenizers in {found}: name another folder with LLMGUARD_REAL_DATA")
    return found


@functools.cache
def _scratch() -> Path:
    made = tempfile.mkdtemp(prefix="llmguard-tokenizers-")
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return Path(made)


@functools.cache
def tokenizer_folder(name: str) -> Path:
    """A folder that AutoTokenizer can load; a `tokenizer.json` that is a link stored as text is followed."""
    source, made = folder() / "tokenizers" / name, _scratch() / name
    made.mkdir()
    for file in source.iterdir():
        target = file
        if file.name == "tokenizer.json" and file.stat().st_size < 200 and not file.is_symlink():
            target = (source / file.read_text("utf-8").strip()).resolve()
        (made / file.name).symlink_to(target.resolve())
    return made


@functools.lru_cache(maxsize=6)
def tokenizer(name: str) -> Any:
    """A tokenizer of `TOKENIZERS`; skips the test where transformers is not installed."""
    transformers = imported("transformers")
    return transformers.PreTrainedTokenizerFast.from_pretrained(tokenizer_folder(name))


@functools.cache
def gsm8k(count: int) -> list[dict[str, str]]:
    """Question and answer rows: the first of the test split."""
    with (folder() / "data/gsm8k/test.jsonl").open(encoding="utf-8") as file:
        return [json.loads(line) for line in itertools.islice(file, count)]


@functools.cache
def conversations(count: int) -> list[dict[str, Any]]:
    """Conversations of one, two and three answers in the ShareGPT shape: the first of the file."""
    rows = json.loads((folder() / "data/conversations/dummy_conversation.json").read_text("utf-8"))
    return list(rows[:count])


def templates() -> Iterator[tuple[str, str]]:
    """Name and text of every chat template."""
    for file in sorted((folder() / "templates").glob("*.jinja")):
        yield file.stem, file.read_text("utf-8")
