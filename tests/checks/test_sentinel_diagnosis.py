"""Why a base model obeyed: each reason from plain facts, and none where there is none."""

from __future__ import annotations

import pytest

from llmguard.sentinels import SENTINELS, Facts
from llmguard.sentinels.diagnose import diagnose, is_instruct_name

BARE = tuple(s.prompt for s in SENTINELS)
CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
RENDERED = tuple(f"<|im_start|>user\n{p}<|im_end|>\n<|im_start|>assistant\n" for p in BARE)


def codes(facts: Facts) -> list[str]:
    """The codes of the reasons, in order."""
    return [r.code for r in diagnose(facts)]


def test_bare_prompts_of_a_base_model_give_no_reason() -> None:
    """Nothing to see is said, and where to look next; the sentinel prompts themselves look like no scaffolding."""
    (reason,) = diagnose(Facts(prompts=BARE, names=("models/base-1b",), terminators=("<|endoftext|>",)))
    assert reason.code == "unknown"
    assert "no role token" in reason.sentence
    assert "tokenizer(text)" in reason.remedy


def test_role_tokens_that_the_template_writes_name_the_template() -> None:
    """Which tokens, in how many prompts, and whose template."""
    (reason,) = diagnose(Facts(prompts=RENDERED, tokenizer="models/tok", chat_template=CHATML))
    assert reason.code == "chat-template"
    assert "<|im_start|> in 32 of 32" in reason.sentence
    assert "the chat template of the tokenizer models/tok" in reason.sentence
    assert "chat_template = None" in reason.remedy
    assert reason.evidence["first prompt"] == RENDERED[0]


@pytest.mark.parametrize(
    ("prompt", "token"),
    [
        ("[INST] List three prime numbers. [/INST]", "[INST]"),
        ("<|user|>\nList three prime numbers.</s>\n<|assistant|>\n", "<|assistant|>"),
        ("Human: List three prime numbers.\nAssistant:", "Assistant:"),
        ("### Instruction:\nList three prime numbers.\n\n### Response:\n", "Response:"),
    ],
)
def test_scaffolding_without_a_template_is_named_as_such(prompt: str, token: str) -> None:
    """Role tokens and role words that no shipped template explains."""
    (reason,) = diagnose(Facts(prompts=(prompt, *BARE)))
    assert reason.code == "role-tokens"
    assert f"{token} in 1 of 33" in reason.sentence
    assert "bare text" in reason.remedy


def test_a_bos_is_no_role_token() -> None:
    """Every text of a Llama model begins with it."""
    assert codes(Facts(prompts=tuple(f"<|begin_of_text|>{p}" for p in BARE))) == ["unknown"]


def test_a_shipped_template_is_no_reason_when_the_prompts_are_seen_to_be_bare() -> None:
    """What was not applied cannot be the cause."""
    assert codes(Facts(prompts=BARE, chat_template=CHATML)) == ["unknown"]


def test_a_shipped_template_is_a_suspect_where_prompts_cannot_be_seen() -> None:
    """The user's own generate function, without anything to compare with."""
    (reason,) = diagnose(Facts(chat_template=CHATML, tokenizer="tok"))
    assert reason.code == "chat-template"
    assert "may have gone through it" in reason.sentence


@pytest.mark.parametrize(("alike", "expected"), [(0.97, "chat-template"), (0.1, "unknown")])
def test_completions_equal_to_the_templated_ones_convict_the_template(alike: float, expected: str) -> None:
    """A second source: what the same model says with its template applied."""
    facts = Facts(chat_template=CHATML, same_as={"chat-template": alike, "adapter": 0.0})
    assert codes(facts) == [expected]
    assert ("97%" in diagnose(facts)[0].sentence) is (expected == "chat-template")


def test_of_two_suspects_the_closer_one_is_convicted() -> None:
    """Two paths that obey say much the same; the one that was taken says exactly the same."""
    assert codes(Facts(chat_template=CHATML, same_as={"chat-template": 1.0, "adapter": 0.97})) == [
        "chat-template"
    ]
    assert codes(Facts(chat_template=CHATML, same_as={"chat-template": 0.97, "adapter": 1.0})) == ["adapter"]
    assert codes(Facts(chat_template=CHATML, same_as={"chat-template": 1.0, "adapter": 1.0})) == [
        "chat-template",
        "adapter",
    ]


def test_an_active_adapter_is_named() -> None:
    """Its folder, and how to switch it off."""
    (reason,) = diagnose(Facts(prompts=BARE, adapter="out/adapter"))
    assert reason.code == "adapter"
    assert "out/adapter was active" in reason.sentence
    assert "disable_adapter" in reason.remedy


def test_completions_equal_to_the_adapters_convict_the_adapter() -> None:
    """The user's own function left it on."""
    facts = Facts(chat_template=CHATML, same_as={"chat-template": 0.2, "adapter": 1.0})
    assert codes(facts) == ["adapter"]
    assert "100% of the completions" in diagnose(facts)[0].sentence


@pytest.mark.parametrize(
    "name",
    [
        "Qwen/Qwen2.5-0.5B-Instruct",
        "google/gemma-2-2b-it",
        "meta-llama/Llama-2-7b-chat-hf",
        "out/sft",
        "C:\\m\\x-DPO",
        "zephyr-7b-sft-full/",
    ],
)
def test_names_of_instruct_checkpoints(name: str) -> None:
    """As their authors name them."""
    assert is_instruct_name(name)
    (reason,) = diagnose(Facts(prompts=BARE, names=("x", name)))
    assert reason.code == "instruct-checkpoint"
    assert 'kind = "chat"' in reason.remedy


@pytest.mark.parametrize(
    "name",
    [
        "Qwen/Qwen2.5-0.5B",
        "EleutherAI/pythia-160m",
        "chat-data/llama-base",
        "gpt2",
        "italian-llm",
        "bitnet-b1.58",
        "",
        "chatter-base",
        "HuggingFaceTB/SmolLM2-135M",
    ],
)
def test_names_of_base_checkpoints(name: str) -> None:
    """Words that merely contain `it` or `chat`, and folders above the checkpoint, say nothing."""
    assert not is_instruct_name(name)


def test_a_checkpoint_that_ends_at_a_turn_end_is_an_instruct_model() -> None:
    """By its generation config."""
    (reason,) = diagnose(Facts(prompts=BARE, terminators=("<|im_end|>", "<|endoftext|>")))
    assert reason.code == "instruct-checkpoint"
    assert "<|im_end|>" in reason.sentence
    assert "<|endoftext|>" not in reason.sentence


def test_several_reasons_stand_together() -> None:
    """What is certain comes first."""
    facts = Facts(prompts=RENDERED, chat_template=CHATML, adapter="a", names=("m-instruct",))
    assert codes(facts) == ["chat-template", "adapter", "instruct-checkpoint"]
