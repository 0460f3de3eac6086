"""Turns of a conversation from any row shape: prompt/response, messages (OpenAI or ShareGPT), preference pairs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from llmguard.rows.columns import Columns

__all__ = ["ROLES", "Turn", "turns_of"]

ROLES: dict[str, str] = {
    "system": "system",
    "developer": "developer",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "tool": "tool",
    "function": "tool",
    "ipython": "tool",
    "observation": "tool",
    "tool_response": "tool",
    "function_response": "tool",
    "function_call": "assistant",
    "tool_call": "assistant",
}
"""Role names in use -> the role they mean."""


SAID = ("tool_calls", "function_call", "reasoning_content", "reasoning", "thinking")
"""Keys of a message that a template writes out as part of the response."""
WANTED = ("train", "weight")
"""Keys that say whether a message is trained (axolotl, OpenAI)."""


@dataclass(frozen=True)
class Turn:
    """One turn. `role` is canonical where it is known, `written` is what the data say; `extra` keeps other keys (tool calls, thinking).

    `wanted` is false where the data say that it is not to be trained (`"train": false`, `"weight": 0`).
    """

    role: str
    content: str
    written: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)
    wanted: bool = True

    @property
    def answers(self) -> bool:
        """Whether it is a response that is to be trained."""
        return self.role == "assistant" and self.wanted

    @property
    def said(self) -> tuple[str, ...]:
        """The keys of `extra` that hold what the turn says beside its content."""
        return tuple(k for k in SAID if self.extra.get(k))

    def message(self) -> dict[str, Any]:
        """As `apply_chat_template` takes it."""
        return {"role": self.role, "content": self.content, **self.extra}


def turns_of(row: Mapping[str, Any], columns: Columns, side: str = "chosen") -> tuple[Turn, ...] | None:
    """The turns of a row; None where it does not have its columns or a content is no text (a data check says so)."""
    if columns.messages:
        return _conversation(row.get(columns.messages))
    if columns.preference:
        return _pair(row, columns, side)
    if not (columns.prompt and columns.response):
        return None
    prompt = _side(row.get(columns.prompt), "user")
    response = _side(row.get(columns.response), "assistant")
    return None if prompt is None or response is None else (*prompt, *response)


def _pair(row: Mapping[str, Any], columns: Columns, side: str) -> tuple[Turn, ...] | None:
    answer = _side(row.get(str(getattr(columns, side))), "assistant")
    prompt = _side(row.get(columns.prompt), "user") if columns.prompt and columns.prompt in row else ()
    return None if answer is None or prompt is None else (*prompt, *answer)


def _side(value: Any, role: str) -> tuple[Turn, ...] | None:
    if isinstance(value, str):
        return (Turn(role, value, role),)
    return _conversation(value)


def _conversation(messages: Any) -> tuple[Turn, ...] | None:
    if not isinstance(messages, (list, tuple)) or not messages:
        return None
    found = [_turn(m) for m in messages]
    return None if any(t is None for t in found) else tuple(t for t in found if t)


def _turn(message: Any) -> Turn | None:
    if not isinstance(message, Mapping):
        return None
    role = message.get("role", message.get("from"))
    content = _text(message.get("content", message.get("value")), message)
    if not isinstance(role, str) or content is None:
        return None
    known = ("role", "from", "content", "value", *WANTED)
    extra = {k: v for k, v in message.items() if k not in known and v is not None}
    wanted = not any(message.get(k) is False or message.get(k) == 0 for k in WANTED if k in message)
    return Turn(ROLES.get(role.strip().lower(), role), content, role, extra, wanted)


def _text(content: Any, message: Mapping[str, Any]) -> str | None:
    if isinstance(content, str):
        return content
    if content is None and message.get("tool_calls"):
        return ""
    if (
        isinstance(content, (list, tuple))
        and content
        and all(isinstance(p, Mapping) and isinstance(p.get("text"), str) for p in content)
    ):
        return "".join(p["text"] for p in content)
    return None
