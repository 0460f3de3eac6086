"""The assistant mask of transformers 5 runs on over the user's turns.

Symptom: with `return_assistant_tokens_mask=True` some conversations train user turns; the loss looks plausible.
Severity: high
Cause: the mask of a span is written up to `end_token + 1 if end_token else len(input_ids)`. Where the span ends at token 0 (an assistant
    who speaks first, in one token) the condition is false, where its last character belongs to no token it is None: either way
    the mask runs to the end of the conversation.
First seen: transformers 5.23, `PreTrainedTokenizerBase.apply_chat_template`; read and measured there.
Cost: every turn behind such a span is trained, the user's too.
Check: every_prompt_token_is_masked
Lesson: a mask that a library makes is data like any other: compare it with the text that it is said to cover.
"""

from __future__ import annotations

from typing import Any

import pytest

from llmguard import every_prompt_token_is_masked, require
from llmguard.errors import CheckFailed
from llmguard.formats import ChatTemplate

TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}{{ '<|im_end|>' }}"
    "{% else %}{{ '<|im_start|>' + m.content + '<|im_end|>' }}{% endif %}{% endfor %}"
)
CONVERSATION = [
    {"role": "assistant", "content": "a"},
    {"role": "user", "content": "And which month follows May?"},
    {"role": "assistant", "content": "June follows May."},
]


@pytest.fixture(scope="module")
def greeter(tokenizer: Any) -> Any:
    """The lab's tokenizer with a template in which the assistant may speak first, without a header."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    special = {"eos_token": "<|endoftext|>", "additional_special_tokens": ["<|im_start|>", "<|im_end|>"]}
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    return PreTrainedTokenizerFast(tokenizer_object=backend, chat_template=TEMPLATE, **special)


def broken(tokenizer: Any) -> dict[str, list[int]]:
    """Labels from the library's mask."""
    encoded = tokenizer.apply_chat_template(
        CONVERSATION, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    labels = [i if m else -100 for i, m in zip(encoded["input_ids"], encoded["assistant_masks"], strict=True)]
    return {"input_ids": list(encoded["input_ids"]), "labels": labels}


def fixed(tokenizer: Any) -> dict[str, list[int]]:
    """Labels turn by turn: the response's own ids and its end of turn."""
    ids: list[int] = []
    labels: list[int] = []
    for message in CONVERSATION:
        answer = message["role"] == "assistant"
        turn = tokenizer(
            ("" if answer else "<|im_start|>") + message["content"] + "<|im_end|>", add_special_tokens=False
        )["input_ids"]
        ids += turn
        labels += turn if answer else [-100] * len(turn)
    return {"input_ids": ids, "labels": labels}


def test_witness(greeter: Any) -> None:
    """The words of the user's turn are among the trained tokens of the broken labels, and not of the fixed ones."""
    trained = {
        name: greeter.decode([t for t in made(greeter)["labels"] if t != -100])
        for name, made in (("broken", broken), ("fixed", fixed))
    }
    assert "which month follows" in trained["broken"]
    assert "which month follows" not in trained["fixed"]
    assert broken(greeter)["input_ids"] == fixed(greeter)["input_ids"]


def test_check_rejects(greeter: Any) -> None:
    """The user's turn is found in the trained tokens."""
    with pytest.raises(CheckFailed, match="train tokens of their prompt"):
        require(
            every_prompt_token_is_masked(
                [broken(greeter)], [{"messages": CONVERSATION}], greeter, ChatTemplate(greeter)
            )
        )


def test_check_accepts(greeter: Any) -> None:
    """Labels made turn by turn are left alone."""
    require(
        every_prompt_token_is_masked(
            [fixed(greeter)], [{"messages": CONVERSATION}], greeter, ChatTemplate(greeter)
        )
    )
