"""The one format of a run: training text, generation prompt and terminator come from it, so that they cannot drift apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmguard.evidence.template import default_template
from llmguard.formats import TEXT_FORMATS, ChatTemplate, TextFormat, text_format
from llmguard.formats.text import table_format
from llmguard_core.errors import LoadRefused

__all__ = ["Format", "format_for"]

Format = TextFormat | ChatTemplate
"""`pieces(turns)` is the training text, `prompt(turns)` the generation prompt, `terminator` what ends a response."""


def format_for(
    tokenizer: Any, told: str | Mapping[str, str] | Format | None = None, kind: str = "base"
) -> Format:
    """The format that is `told` by name, as a table `{prompt, response, end}`, or as it is; by default a chat model's own template,
    and for a base model the prompt as it is.

    Raises:
        LoadRefused: no such format, no template, or a terminator or role token that this tokenizer would split into letters.
    """
    found = _named(tokenizer, told, kind)
    if isinstance(found, TextFormat):
        _refuse_split_tokens(tokenizer, found)
    return found


def _named(tokenizer: Any, told: str | Mapping[str, str] | Format | None, kind: str) -> Format:
    if isinstance(told, (TextFormat, ChatTemplate)):
        return told
    if isinstance(told, Mapping):
        return _table(told)
    if told in TEXT_FORMATS:
        return text_format(str(told), tokenizer.eos_token or "")
    if told not in (None, "chat-template"):
        known = ", ".join([*TEXT_FORMATS, "chat-template"])
        raise LoadRefused(
            f"there is no format {told!r}",
            remedy=f"Use one of {known}, or a table {{prompt, response, end}}.",
        )
    found = default_template(tokenizer, kind) if told is None else None
    if told and tokenizer.chat_template:
        found = ChatTemplate(tokenizer)
    if found is None:
        raise LoadRefused(
            "the tokenizer has no chat template (base models are loaded without theirs)",
            remedy=f"Name a format: {', '.join(TEXT_FORMATS)}; or copy chat_template.jinja to the model.",
        )
    return found


def _table(told: Mapping[str, str]) -> TextFormat:
    missing = [part for part in ("prompt", "response") if f"{{{part}}}" not in told.get(part, "")]
    if missing or set(told) - {"prompt", "response", "end"}:
        raise LoadRefused(
            f"the format table {dict(told)!r} cannot be used: it needs prompt with {{prompt}} and response with {{response}} in it",
            remedy='Write it as {prompt = "Question: {prompt}\\n", response = "Answer: {response}", end = "\\n\\n"}.',
        )
    return table_format(told["prompt"], told["response"], told.get("end", ""))


def _refuse_split_tokens(tokenizer: Any, found: TextFormat) -> None:
    """Control tokens that are no single ids are only letters to the model: it would never learn where a response ends."""
    vocabulary = tokenizer.get_vocab()
    split = [token or "EOS" for token in found.control if token not in vocabulary]
    if split:
        raise LoadRefused(
            f"format {found.name!r} needs {', '.join(map(repr, split))}, which this tokenizer has not as one token",
            remedy="Choose a format of tokens that it has (alpaca and completion need its EOS alone), or add the tokens and train them.",
        )
