"""`template`: how a row becomes training text: the format that the project declares, else the default for its kind of model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from llmguard.evidence import Evidence
from llmguard.formats import ChatTemplate, TextFormat, text_format
from llmguard.formats.text import table_format
from llmguard.project.schema import FormatTable

__all__ = ["default_template", "provide"]


def provide(evidence: Evidence, target: str) -> ChatTemplate | TextFormat | None:
    """A format object; None for a chat model whose tokenizer has no template (which a check says)."""
    tokenizer = evidence.get("tokenizer")
    schema = evidence.project.schema
    told = schema.prompt.format
    if isinstance(told, FormatTable):
        return _encoded_as_told(table_format(told.prompt, told.response, told.end), evidence)
    if told is None:
        return _encoded_as_told(default_template(tokenizer, schema.model.kind), evidence)
    if told == "chat-template":
        return ChatTemplate(tokenizer) if tokenizer.chat_template else None
    return _encoded_as_told(text_format(told, tokenizer.eos_token or ""), evidence)


def default_template(tokenizer: Any, kind: str | None) -> ChatTemplate | TextFormat | None:
    """What is not declared: a chat model uses its own template, a base model the prompt as it is."""
    if kind == "chat" or (kind is None and tokenizer.chat_template):
        return ChatTemplate(tokenizer, declared=kind == "chat") if tokenizer.chat_template else None
    return replace(text_format("completion", tokenizer.eos_token or ""), declared=False)


def _encoded_as_told(
    template: ChatTemplate | TextFormat | None, evidence: Evidence
) -> ChatTemplate | TextFormat | None:
    if isinstance(template, TextFormat):
        return replace(template, add_special_tokens=evidence.project.schema.prompt.add_special_tokens)
    return template
