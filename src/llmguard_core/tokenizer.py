"""Load a tokenizer for what its model is, and say how prompts become ids."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal

from llmguard import chat_model_has_a_template, template_keeps_every_message
from llmguard.checks.bos import prepended
from llmguard.evidence.model import ModelFolder
from llmguard.formats import ChatTemplate
from llmguard.rows import Turn, as_rows
from llmguard_core.errors import LoadRefused
from llmguard_core.folders import first_line, model_folder, refuse

__all__ = ["Kind", "load_tokenizer", "tokenisation", "tokenizer_in"]

Kind = Literal["base", "chat"]
PADS = ("<|finetune_right_pad_id|>", "<|pad|>", "<pad>", "<|padding|>", "[PAD]")
"""Tokens that some releases have for padding and do not name."""


def load_tokenizer(path: str | Path, kind: Kind) -> Any:
    """The tokenizer of a folder or cached hub id, with a pad token: without chat template for a base model, with it for a chat model.

    Raises:
        LoadRefused: it does not load, is a slow one, or a chat model's lacks a template that renders every message.
    """
    return tokenizer_in(model_folder(path), kind)[0]


def tokenizer_in(folder: ModelFolder, kind: Kind) -> tuple[Any, list[str]]:
    """The tokenizer of a folder as `load_tokenizer` gives it, and what was done to it.

    Raises:
        LoadRefused: as `load_tokenizer`.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(str(folder.path), local_files_only=True)
    except Exception as fault:  # whatever transformers raises for what lies in the folder
        told = f"the tokenizer does not load: {type(fault).__name__}: {first_line(fault)}"
        raise LoadRefused(
            told, where=folder.name, remedy="Copy tokenizer.json and tokenizer_config.json to it."
        ) from None
    if not tokenizer.is_fast:
        told = (
            f"{type(tokenizer).__name__} is a slow tokenizer: it tells no offsets, which labels are made from"
        )
        raise LoadRefused(
            told,
            where=folder.name,
            remedy="Convert it once: AutoTokenizer…save_pretrained with tokenizers installed.",
        )
    lines = [
        f"tokenizer: {type(tokenizer).__name__} of {len(tokenizer):,} tokens, from {folder.path}",
        *_template(tokenizer, kind),
    ]
    if tokenizer.pad_token_id is None:
        vocabulary = tokenizer.get_vocab()
        tokenizer.pad_token = next(
            (t for t in (*PADS, tokenizer.unk_token, tokenizer.eos_token) if t in vocabulary), None
        )
        lines.append(f"pad token: {tokenizer.pad_token!r}, because the release names none")
    return tokenizer, lines


def _template(tokenizer: Any, kind: Kind) -> list[str]:
    """Take the template off, or verify it; what was done, for the route."""
    text = tokenizer.chat_template
    if kind == "base":
        tokenizer.chat_template = None
        return [
            f"chat template: taken off ({len(str(text)):,} characters)"
            if text
            else "chat template: none, as it should be"
        ]
    refuse(chat_model_has_a_template(tokenizer, kind))
    talk = [
        {"role": "user", "content": "Which number comes after one?"},
        {"role": "assistant", "content": "Two, surely."},
    ]
    refuse(template_keeps_every_message(as_rows([{"messages": talk}]), ChatTemplate(tokenizer)))
    digest = hashlib.sha256(str(text).encode()).hexdigest()[:12]
    return [f"chat template: the tokenizer's own ({len(str(text)):,} characters, sha256 {digest}…)"]


def tokenisation(tokenizer: Any, kind: Kind) -> list[str]:
    """How a prompt becomes ids, exactly."""
    if kind == "chat":
        start = "none but those that the template writes"
        how = "rendered by the template with add_generation_prompt=True"
        shown = ChatTemplate(tokenizer).prompt((Turn("user", "Hello"),))
        ids = tokenizer(shown, add_special_tokens=False)["input_ids"]
    else:
        wanted = prepended(tokenizer)
        start = (
            f"{tokenizer.convert_ids_to_tokens(wanted)} {wanted}, since tokenizer(text) puts it there"
            if wanted
            else "none"
        )
        how, shown = "the text as it is", "Hello"
        ids = wanted + tokenizer(shown, add_special_tokens=False)["input_ids"]
    return [
        f"prompts: {how}, tokenised with add_special_tokens=False; special tokens before it: {start}; behind it: none",
        f"for example: {shown[-200:]!r} -> {ids[-24:]}",
    ]
