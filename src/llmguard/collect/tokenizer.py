"""Load the tokenizer as training code does (AutoTokenizer), and write down exactly what came out of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from llmguard.collect.user import UserError
from llmguard.project import Project

__all__ = ["dump_tokenizer"]

SPECIAL = ("bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token", "mask_token")


def dump_tokenizer(project: Project, out: Path) -> dict[str, Any]:
    """The tokenizer of a project into a folder: `tokenizer.json` as AutoTokenizer made it, and its settings as facts.

    Raises:
        UserError: it does not load.
    """
    from transformers import AutoTokenizer

    path = str(project.tokenizer_path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            path, local_files_only=True, trust_remote_code=project.schema.model.trust_remote_code
        )
    except Exception as fault:
        raise UserError(
            {"what": f"tokenizer {path}", "type": type(fault).__name__, "message": _first(fault)}
        ) from None
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise UserError(
            {
                "what": f"tokenizer {path}",
                "type": type(tokenizer).__name__,
                "message": "is a slow tokenizer without a tokenizer.json",
            }
        )
    out.mkdir(parents=True, exist_ok=True)
    (out / "tokenizer.json").write_text(backend.to_str(), "utf-8")
    facts = {
        name: _plain(getattr(tokenizer, name, None))
        for name in (*SPECIAL, "chat_template", "padding_side", "truncation_side")
    }
    facts["model_max_length"] = min(int(tokenizer.model_max_length), 10**9)
    facts["class"], facts["length"] = type(tokenizer).__name__, len(tokenizer)
    facts["extra_special_tokens"] = [
        str(t) for t in tokenizer.all_special_tokens if str(t) not in {facts[n] for n in SPECIAL}
    ]
    (out / "facts.json").write_text(json.dumps(facts), "utf-8")
    return facts


def _plain(value: Any) -> Any:
    return value if isinstance(value, (dict, list)) or value is None else str(value)


def _first(fault: Exception) -> str:
    lines = [line for line in str(fault).splitlines() if line.strip()]
    return lines[0] if lines else ""
