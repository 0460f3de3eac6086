"""The folder that a model is loaded from: what is asked of it before anything is loaded."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from llmguard import model_path_exists, require
from llmguard.errors import CheckFailed
from llmguard.evidence.model import ModelFolder, read_model
from llmguard.findings import Finding
from llmguard_core.errors import LoadRefused

__all__ = ["first_line", "model_folder", "refuse", "refuse_instruct"]

INSTRUCT = re.compile(r"(?:^|[-_.])(instruct|chat|it|assistant)(?=$|[-_.])", re.IGNORECASE)
"""Words in a model's name that say that it was tuned to answer."""
TURN_ENDS = frozenset(
    "<|im_end|> <|eot_id|> <|eom_id|> <|end|> <|EOT|> <end_of_turn> <|END_OF_TURN_TOKEN|> <turn|> <|eot|>".split()
)
"""Tokens that end a turn: a model whose EOS is one of them was tuned on conversations."""


def model_folder(path: str | Path) -> ModelFolder:
    """What lies at a path, or in the local cache under a hub id.

    Raises:
        LoadRefused: there is nothing; says what lies near.
    """
    folder = read_model(str(Path(path).expanduser()) if str(path).startswith("~") else str(path))
    refuse(model_path_exists(folder))
    if folder.path is None:
        near = f" (near it: {', '.join(folder.near)})" if folder.near else ""
        raise LoadRefused(
            f"this hub id is not in the local cache{near}, and nothing is downloaded here",
            where=folder.name,
            remedy=f"Download it first (`hf download {folder.name}`), or give a folder (MODEL_PATH names one for every run).",
        )
    return folder


def refuse(*findings: Iterable[Finding]) -> None:
    """Pass when no check found an error.

    Raises:
        LoadRefused: with the findings.
    """
    try:
        require(*findings)
    except CheckFailed as bad:
        raise LoadRefused(str(bad)) from None


def refuse_instruct(folder: ModelFolder, tokenizer: Any) -> None:
    """Refuse names and marks of models that were taught to follow instructions.

    Raises:
        LoadRefused: with each mark, and how to load it nevertheless.
    """
    names = [Path(folder.name).name, Path(str(folder.config.get("_name_or_path", ""))).name]
    names += [part for part in (folder.path or Path()).parts if part.startswith("models--")]
    marks = [
        f"its name {name!r} says {found[1]!r}"
        for name in dict.fromkeys(names)
        if (found := INSTRUCT.search(name))
    ]
    told = folder.settings.get("eos_token_id")
    ids = [i for i in (told if isinstance(told, list) else [told]) if i is not None]
    ends = TURN_ENDS & {tokenizer.eos_token, *tokenizer.convert_ids_to_tokens(ids)}
    marks += [f"its EOS {token!r} ends a turn, not a text" for token in sorted(ends)]
    if marks:
        raise LoadRefused(
            f"this is no base model: {'; '.join(marks)}. A baseline measured on it is that of a model taught to follow instructions",
            where=folder.name,
            remedy="Name the base model, load it with load_chat, or say that you mean it: load_base(…, allow_instruct=True).",
        )


def first_line(fault: BaseException) -> str:
    """The first line of an error that says something."""
    return next((line for line in str(fault).splitlines() if line.strip()), "")
