"""Text formats: turns to text by fixed strings around the content."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from llmguard.errors import UsageError
from llmguard.formats.pieces import Kind, Piece, join
from llmguard.rows.turns import Turn

__all__ = ["TEXT_FORMATS", "TextFormat", "table_format", "text_format"]


@dataclass(frozen=True)
class TextFormat:
    """A format of fixed strings.

    `before[role]`, `after[role]`: the text around a turn's content; a role without an entry is written as a user turn.
    `opening` starts a response and `end` ends it; both are trained. `between` separates an answered turn from the next.
    Text is encoded as `tokenizer(text)` does.
    """

    name: str
    before: Mapping[str, str]
    after: Mapping[str, str]
    end: str
    between: str = ""
    declared: bool = True
    control: Sequence[str] = field(default=())
    add_special_tokens: bool = True
    opening: str = ""

    @property
    def terminator(self) -> str:
        """What ends a response."""
        return self.end

    def pieces(self, turns: Sequence[Turn]) -> list[Piece]:
        """The training text of a conversation in pieces."""
        found: list[Piece] = []
        for position, turn in enumerate(turns):
            if position and turns[position - 1].role == "assistant" and turn.role != "assistant":
                found.append(Piece(Kind.PROMPT, self.between))
            found += self._turn(turn, sum(t.answers for t in turns[:position]))
        return join(found)

    def _turn(self, turn: Turn, answered: int) -> list[Piece]:
        if turn.role != "assistant":
            role = turn.role if turn.role in self.before else "user"
            return [Piece(Kind.PROMPT, self.before[role] + turn.content + self.after.get(role, ""))]
        if not turn.wanted:
            return [Piece(Kind.PROMPT, self.before["assistant"] + self.opening + turn.content + self.end)]
        return [
            Piece(Kind.PROMPT, self.before["assistant"]),
            Piece(Kind.RESPONSE, self.opening + turn.content, answered),
            Piece(Kind.TERMINATOR, self.end, answered),
        ]

    def prompt(self, turns: Sequence[Turn]) -> str:
        """The generation prompt: everything up to where the last response starts (after the last turn where it is not one)."""
        asked = list(turns[:-1]) if turns and turns[-1].role == "assistant" else list(turns)
        return "".join(p.text for p in self.pieces(asked)) + self.before["assistant"]


def _zephyr(eos: str) -> TextFormat:
    roles = ("system", "user", "tool", "assistant")
    return TextFormat(
        "zephyr",
        {r: f"<|{r}|>\n" for r in roles},
        dict.fromkeys(roles[:3], f"{eos}\n"),
        eos,
        "\n",
        control=(eos,),
    )


def _chatml(_eos: str) -> TextFormat:
    roles = ("system", "user", "tool", "assistant")
    before = {r: f"<|im_start|>{r}\n" for r in roles}
    return TextFormat(
        "chatml",
        before,
        dict.fromkeys(roles[:3], "<|im_end|>\n"),
        "<|im_end|>",
        "\n",
        control=("<|im_start|>", "<|im_end|>"),
    )


def _llama3(_eos: str) -> TextFormat:
    roles = ("system", "user", "tool", "assistant")
    before = {r: f"<|start_header_id|>{r}<|end_header_id|>\n\n" for r in roles}
    control = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
    return TextFormat("llama3", before, dict.fromkeys(roles[:3], "<|eot_id|>"), "<|eot_id|>", control=control)


def _alpaca(eos: str) -> TextFormat:
    before = {"system": "", "user": "### Instruction:\n", "assistant": "### Response:\n"}
    return TextFormat("alpaca", before, {"system": "\n\n", "user": "\n\n"}, eos, "\n", control=(eos,))


def _instruction_response_end(_eos: str) -> TextFormat:
    before = {"system": "", "user": "Instruction: ", "assistant": "Response: "}
    return TextFormat("instruction-response-end", before, {"system": "\n", "user": "\n"}, "\nEND", "\n")


def _completion(eos: str) -> TextFormat:
    return TextFormat(
        "completion", {"user": "", "assistant": ""}, {"system": "\n"}, eos, "\n", control=(eos,)
    )


TEXT_FORMATS: dict[str, Callable[[str], TextFormat]] = {
    "alpaca": _alpaca,
    "chatml": _chatml,
    "completion": _completion,
    "instruction-response-end": _instruction_response_end,
    "llama3": _llama3,
    "zephyr": _zephyr,
}
"""Format name -> the format for a tokenizer's EOS text."""


def text_format(name: str, eos: str) -> TextFormat:
    """A text format by name; `eos` is the tokenizer's EOS text.

    Raises:
        UsageError: no format of that name.
    """
    if name not in TEXT_FORMATS:
        raise UsageError("format", name, f"one of {', '.join(TEXT_FORMATS)}")
    return TEXT_FORMATS[name](eos)


def table_format(prompt: str, response: str, end: str) -> TextFormat:
    """A format of the user's own: nothing is added to `prompt`, `response` and `end`."""
    before, _, after = prompt.partition("{prompt}")
    opening, _, closing = response.partition("{response}")
    return TextFormat(
        "table", {"user": before, "assistant": ""}, {"user": after}, closing + end, opening=opening
    )
