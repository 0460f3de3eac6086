"""Control strings of the model families in use: what opens a turn, what ends one, and the plain words of role scaffolding."""

from __future__ import annotations

import re

__all__ = ["CONTROL", "ENDS", "ROLE_WORDS", "SPLIT_CANDIDATES"]

ENDS: tuple[str, ...] = (
    "<|endoftext|>", "<|end_of_text|>", "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<|EOT|>", "<end_of_turn>", "</s>", "<eos>",
    "<|eos|>", "<｜end▁of▁sentence｜>", "<|END_OF_TURN_TOKEN|>", "<|return|>", "<turn|>", "<|eot|>", "[EOS]",
)  # fmt: skip
"""Texts that end a turn or a document in some family."""

CONTROL: tuple[str, ...] = (
    "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|begin_of_text|>", "<start_of_turn>",
    "<end_of_turn>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>", "[INST]", "[/INST]", "<<SYS>>", "<|START_OF_TURN_TOKEN|>",
    "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>", "<｜User｜>", "<｜Assistant｜>", "<|start|>", "<|channel|>", "<|header_start|>", "<|turn>",
    "<|start_of_role|>", "<seed:bos>", "[|assistant|]",
)  # fmt: skip
"""Texts that only a chat template writes."""

SPLIT_CANDIDATES: tuple[str, ...] = tuple(
    dict.fromkeys(
        (
            *ENDS,
            "<|im_start|>",
            "<|start_header_id|>",
            "<|end_header_id|>",
            "<|begin_of_text|>",
            "<start_of_turn>",
            "<bos>",
            "<s>",
        )
    )
)
"""Texts that are one id wherever they mean something: as several pieces they are only letters."""

ROLE_WORDS = re.compile(
    r"(?:^|\n)[ \t]*(?:(?:###|\*\*|#)[ \t]*)?"
    r"(Assistant|ASSISTANT|Human|HUMAN|User|USER|System|SYSTEM|AI|Bot|GPT|Response|Instruction|Input)"
    r"[ \t]*(?:\*\*)?:(?:\*\*)?"
)
"""Role scaffolding in plain words at the start of a line: `Assistant:`, `### Response:`."""
