"""A chat template reaches a base model, which then follows instructions before any training.

Symptom: the base model follows more than 70 % of instruction prompts; the baseline means nothing.
Severity: critical
Cause: the base tokenizer ships a chat template, and the prompt builder applies what it finds.
First seen: written down by a fine-tuning project as critical (Qwen2.5 base); https://github.com/UKGovernmentBEIS/inspect_ai/issues/3122
Cost: days of comparing a trained model with a baseline that was no baseline.
Check: base_prompts_carry_no_template
Lesson: look at the first hundred characters of the decoded ids that reach the model.
"""

from __future__ import annotations

from typing import Any

import pytest

from llmguard import base_prompts_carry_no_template, require
from llmguard.errors import CheckFailed


def broken(tokenizer: Any, text: str) -> str:
    """Apply the template, since there is one."""
    if tokenizer.chat_template:
        return str(
            tokenizer.apply_chat_template(
                [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
            )
        )
    return text


def fixed(_tokenizer: Any, text: str) -> str:
    """A base model continues the prompt as it is."""
    return text


def test_witness(tokenizer: Any, model: Any) -> None:
    """Asked through the template the lab's base model obeys most sentinel prompts; asked in plain text it obeys hardly any."""
    import torch

    from llmguard.sentinels import SENTINELS

    def followed(build: Any) -> int:
        batch = tokenizer(
            [build(tokenizer, s.prompt) for s in SENTINELS],
            return_tensors="pt",
            padding=True,
            padding_side="left",
        )
        with torch.inference_mode():
            ids = model.generate(
                **batch,
                max_new_tokens=48,
                do_sample=False,
                pad_token_id=tokenizer.pad_token_id,
                eos_token_id=tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>"]),
            )
        texts = tokenizer.batch_decode(ids[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
        return sum(s.judge(t).followed for s, t in zip(SENTINELS, texts, strict=True))

    assert followed(broken) > 0.7 * len(SENTINELS)
    assert followed(fixed) < 0.2 * len(SENTINELS)


def test_check_rejects(tokenizer: Any, rows: list[dict[str, str]]) -> None:
    """The markers are named."""
    with pytest.raises(CheckFailed, match=r"<\|im_start\|>"):
        require(
            base_prompts_carry_no_template(
                [broken(tokenizer, r["prompt"]) for r in rows], tokenizer, "base", rows
            )
        )


def test_check_accepts(tokenizer: Any, rows: list[dict[str, str]]) -> None:
    """Plain text, also when it talks about <|im_start|>."""
    talk = [{"prompt": "What does <|im_start|> mean?", "response": "It opens a turn."}]
    require(
        base_prompts_carry_no_template(
            [fixed(tokenizer, r["prompt"]) for r in [*rows, *talk]], tokenizer, "base", [*rows, *talk]
        )
    )
