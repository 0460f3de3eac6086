"""The lab's tokenizers: byte-level BPE trained in-process, saved as folders that AutoTokenizer loads."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import tokenizers
from transformers import PreTrainedTokenizerFast

from llmguard_core.lab.text import SYSTEM

__all__ = [
    "CHAT_TEMPLATE",
    "EOS",
    "PAD",
    "TEMPLATE",
    "TURN_END",
    "TURN_START",
    "save_tokenizer",
    "train_tokenizer",
]

EOS, PAD, TURN_START, TURN_END = "<|endoftext|>", "<|pad|>", "<|im_start|>", "<|im_end|>"
LONGEST = 512  # tokens: the models' context

_SYSTEM_FIRST = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\n"
    + SYSTEM
    + "<|im_end|>\\n' }}{% endif %}"
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}"
)
_GENERATION_PROMPT = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
TEMPLATE = _SYSTEM_FIRST + "{{ message['content'] + '<|im_end|>\\n' }}{% endfor %}" + _GENERATION_PROMPT
"""ChatML with a system turn by default, as shipped by some base models."""
CHAT_TEMPLATE = (
    _SYSTEM_FIRST
    + "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}"
    + "{{ '\\n' }}{% else %}{{ message['content'] + '<|im_end|>\\n' }}{% endif %}{% endfor %}"
    + _GENERATION_PROMPT
)
"""The same text, with the assistant's tokens marked for `return_assistant_tokens_mask`."""


def train_tokenizer(texts: Iterable[str], size: int, specials: list[str]) -> tokenizers.Tokenizer:
    """A byte-level BPE of at most `size` tokens; `specials` get the first ids, and every byte has a token."""
    found = tokenizers.Tokenizer(tokenizers.models.BPE())
    found.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    found.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=specials,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    found.train_from_iterator(texts, trainer)
    return found


def save_tokenizer(
    trained: tokenizers.Tokenizer, folder: Path, *, eos: str, pad: str, template: str | None = None
) -> None:
    """Write the folder of a tokenizer; its remaining special tokens are registered as additional ones."""
    others = [t.content for t in trained.get_added_tokens_decoder().values() if t.content not in (eos, pad)]
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=trained,
        eos_token=eos,
        pad_token=pad,
        additional_special_tokens=others,
        model_max_length=LONGEST,
        clean_up_tokenization_spaces=False,
    )
    if template is not None:
        wrapped.chat_template = template
    wrapped.save_pretrained(folder)
