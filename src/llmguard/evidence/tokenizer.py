"""`tokenizer`: what AutoTokenizer makes of the project's tokenizer, in this process without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from llmguard.errors import MissingEvidence
from llmguard.evidence import Evidence

__all__ = ["load_dumped", "provide"]

SPECIAL = ("bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token", "mask_token")


def provide(evidence: Evidence, target: str) -> Any:
    """The tokenizer: same ids as the one that AutoTokenizer loads in a training script, loaded there and written down."""
    if not evidence.project.tokenizer_path:
        raise MissingEvidence("tokenizer", 'add `[model] path = "…"` (or `tokenizer = "…"`) to llmguard.toml')
    evidence.collected.start()
    evidence.collected.step("tokenizer")
    return load_dumped(evidence.collected.folder("tokenizer") / "tokenizer")


def load_dumped(folder: Path) -> Any:
    """The tokenizer that a child wrote down: a transformers fast tokenizer."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    facts = json.loads((folder / "facts.json").read_text("utf-8"))
    settings = {
        n: facts[n]
        for n in (*SPECIAL, "chat_template", "padding_side", "truncation_side", "model_max_length")
        if facts.get(n) is not None
    }
    backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, clean_up_tokenization_spaces=False, **settings
    )
    tokenizer.name_or_path = str(folder)
    return tokenizer
