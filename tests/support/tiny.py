"""Tiny tokenizers made in the process, for tests that need one and nothing real: byte-level, and SentencePiece's ways."""

from __future__ import annotations

import copy
import functools
import json
from typing import Any

from support.importing import imported

__all__ = ["CHATML", "byte_level", "chat", "sentencepiece"]

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXT = [
    "the answer to the question is the number of apples in the garden",
    "user assistant system what is how many are there",
    "Instruction: Response: one two three four five six seven eight nine ten",
]
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>"]


def _made(backend: Any, **settings: Any) -> Any:
    transformers = imported("transformers")
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, clean_up_tokenization_spaces=False, **settings
    )


@functools.cache
def byte_level() -> Any:
    """Byte-level BPE as GPT-2 and Qwen have it: no BOS, EOS `<|endoftext|>`, a pad token of its own, ChatML tokens."""
    imported("tokenizers")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=420, initial_alphabet=alphabet, special_tokens=SPECIAL, show_progress=False
    )
    backend.train_from_iterator(TEXT * 4, trainer)
    return _made(backend, eos_token=SPECIAL[0], pad_token=SPECIAL[3], additional_special_tokens=SPECIAL[1:3])


@functools.cache
def chat() -> Any:
    """The same with a ChatML template."""
    tok = copy.deepcopy(byte_level())
    tok.chat_template = CHATML
    return tok


@functools.cache
def sentencepiece() -> Any:
    """A space before every text, `▁` for spaces, bytes for what it does not know, BOS `<s>` put before texts, pad == EOS."""
    imported("tokenizers")
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors, trainers

    normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    learnt = Tokenizer(models.BPE())
    learnt.normalizer = normalizer
    special = ["<unk>", "<s>", "</s>"]
    learnt.train_from_iterator(
        TEXT * 4, trainers.BpeTrainer(vocab_size=200, special_tokens=special, show_progress=False)
    )
    model = json.loads(learnt.to_str())["model"]
    vocabulary = {**model["vocab"], **{f"<0x{i:02X}>": len(model["vocab"]) + i for i in range(256)}}
    merges = [tuple(m) for m in model["merges"]]
    backend = Tokenizer(models.BPE(vocabulary, merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    backend.normalizer = normalizer
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    backend.decoder = decoders.Sequence(steps)
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    swallowing = AddedToken("<|assistant|>", special=True, rstrip=True)
    backend.add_special_tokens([*special, AddedToken("<|user|>", special=True), swallowing])
    return _made(backend, bos_token="<s>", eos_token="</s>", pad_token="</s>", unk_token="<unk>")
