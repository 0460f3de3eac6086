"""The generation side: each check seen to pass, to fail, and to leave legitimate practice alone."""

from __future__ import annotations

from typing import Any

import pytest

import llmguard
from llmguard.evidence.prompts import as_prompts
from llmguard.findings import Findings
from llmguard.formats import ChatTemplate, text_format

QUESTIONS = [f"What is {i} plus {i}?" for i in range(12)]


def names(found: Findings) -> list[str]:
    return [f.severity.value for f in found]


def test_chat_prompts_in_their_template_pass_and_plain_ones_fail(tiny: Any) -> None:
    """A chat model asked in plain text is found; base models and declared formats are not judged."""
    rendered = [f"<|im_start|>user\n{q}<|im_end|>\n<|im_start|>assistant\n" for q in QUESTIONS]
    check = llmguard.chat_prompts_use_the_template
    assert not check(rendered, tiny, "chat", ChatTemplate(tiny))
    assert names(check(QUESTIONS, tiny, "chat", ChatTemplate(tiny))) == ["error"]
    assert check(QUESTIONS, tiny, "base").looked_at == 0
    assert check(QUESTIONS, tiny, "chat", text_format("alpaca", tiny.eos_token)).looked_at == 0


def test_prompts_lack_bos_only_where_the_tokenizer_wants_one(tiny: Any) -> None:
    """A tokenizer with BOS in its post-processor and ids without it; none is asked for elsewhere."""
    from tokenizers import processors
    from transformers import PreTrainedTokenizerFast

    backend = type(tiny.backend_tokenizer).from_str(tiny.backend_tokenizer.to_str())
    bos = backend.token_to_id("<|bos|>")
    backend.post_processor = processors.TemplateProcessing(
        single="<|bos|> $A", special_tokens=[("<|bos|>", bos)]
    )
    with_bos = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<|bos|>", eos_token="<|endoftext|>"
    )
    check = llmguard.prompts_start_with_bos
    assert not check(QUESTIONS, with_bos)
    bare = [with_bos(q, add_special_tokens=False)["input_ids"] for q in QUESTIONS]
    assert names(check(bare, with_bos)) == ["error"]
    assert not check(bare, with_bos, add_special_tokens=False)
    assert not check(QUESTIONS, tiny)


def test_a_fixed_block_of_examples_warns_and_drawn_ones_do_not(tiny: Any) -> None:
    """The same examples for all is a warning; examples drawn for each, a shared instruction, and few prompts are not."""
    shots = [
        f"Question: How many apples are {i} and {i + 1} apples when they lie in one basket?\nAnswer: There are {2 * i + 1} apples.\n\n"
        for i in range(24)
    ]
    fixed = ["".join(shots[:4]) + f"Question: {q}\nAnswer:" for q in QUESTIONS]
    drawn = ["".join(shots[i : i + 4]) + f"Question: {q}\nAnswer:" for i, q in enumerate(QUESTIONS)]
    told = [
        "Answer the question of the user in one short sentence: "
        + "be kind, be brief, be right. " * 10
        + f"\n\nQuestion: {q}\nAnswer:"
        for q in QUESTIONS
    ]
    check = llmguard.few_shot_examples_vary
    assert names(check(fixed, tiny)) == ["warning"]
    assert not check(drawn, tiny)
    assert not check(told, tiny)
    assert not check(fixed[:5], tiny)


def test_stripped_thinking_is_a_note(tiny: Any) -> None:
    """A template that drops the thinking of earlier turns does so by design: it is told, and fails nothing."""
    turns = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "<think>\nlong thoughts\n</think>\nyes"},
    ]
    rows = [
        {
            "messages": [
                *turns,
                turns[0],
                {"role": "assistant", "content": "<think>\nother thoughts\n</think>\nno"},
            ]
        }
    ]
    keeping = ChatTemplate(tiny)
    stripping = ChatTemplate(
        tiny,
        "{% for m in messages %}[{{ m.role }}]{{ m.content.split('</think>')[-1] if not loop.last else m.content }}{% endfor %}",
    )
    assert not llmguard.thinking_is_kept_in_every_turn(rows, keeping)
    assert names(llmguard.thinking_is_kept_in_every_turn(rows, stripping)) == ["note"]


def test_merged_white_space_is_found(tiny: Any) -> None:
    """A normaliser that merges white space takes the indentation from code; a byte-level one keeps it."""
    from tokenizers import Regex, normalizers
    from transformers import PreTrainedTokenizerFast

    backend = type(tiny.backend_tokenizer).from_str(tiny.backend_tokenizer.to_str())
    backend.normalizer = normalizers.Replace(Regex(r"\s+"), " ")
    merging = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>")
    rows = [{"prompt": "write f", "response": "def f(x):\n    if x:\n\t\treturn  1\n"}]
    assert not llmguard.tokenizer_keeps_white_space(rows, tiny)
    assert names(llmguard.tokenizer_keeps_white_space(rows, merging)) == ["error"]


def test_prompts_come_as_text_or_as_ids(tiny: Any) -> None:
    """Builders may return either; ids are taken as they are."""
    prompts = as_prompts(["a b", tiny("a b")["input_ids"]], tiny)
    assert prompts.input_ids[0].tolist() == prompts.input_ids[1].tolist()
    assert prompts.texts == ["a b", None]
    with pytest.raises(llmguard.UsageError):
        llmguard.evidence.Evidence(None).get("nonsense")  # type: ignore[arg-type]  # never looked at
