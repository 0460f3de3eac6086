"""Generation depends on the prompt alone: not on its batch, its neighbours, the model's generation_config, nor on global random state."""

from __future__ import annotations

import copy
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from support.tiny import byte_level, chat, sentencepiece
from tokenizers.processors import TemplateProcessing

from llmguard.errors import UsageError
from llmguard.formats import TextFormat, text_format
from llmguard_core import generation
from llmguard_core.errors import DataRefused, OutOfMemory
from llmguard_core.generation import batch_size_for, generate, prompt_ids, terminators_of

ARCHITECTURES = ("Llama", "Qwen2", "GPTNeoX", "Mistral", "Phi")
PROMPTS = [
    "what is",
    "how many apples are there in the garden of the question",
    "one",
    "a b c d e f",
    "the answer to",
]
NEW = 12


def made(architecture: str = "Llama", tokenizer: Any = None, **more: Any) -> Any:
    """A tiny random model whose outputs vary, with a tokenizer."""
    tokenizer = tokenizer or byte_level()
    torch.manual_seed(0)
    config = getattr(transformers, f"{architecture}Config")(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=96, initializer_range=0.3, bos_token_id=None,
        eos_token_id=None, pad_token_id=None, **more,
    )  # fmt: skip
    model = getattr(transformers, f"{architecture}ForCausalLM")(config)
    return SimpleNamespace(model=model.eval(), tokenizer=tokenizer, kind="base")


@pytest.fixture(scope="module")
def llama() -> Any:
    return made()


def by_hand(loaded: Any, prompt: str, new: int = NEW) -> list[int]:
    """Greedy decoding without cache, padding or generate(): one forward pass a token."""
    ids, ends = prompt_ids(loaded.tokenizer, prompt), {loaded.tokenizer.eos_token_id}
    start = len(ids)
    with torch.no_grad():
        while len(ids) < start + new:
            following = int(loaded.model(torch.tensor([ids])).logits[0, -1].argmax())
            if following in ends:
                break
            ids.append(following)
    return ids[start:]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_greedy_text_is_the_same_in_every_batch(architecture: str) -> None:
    """Alone, by twos, all at once, and token by token without any of our code: the same text."""
    loaded = made(architecture)
    texts = [generate(loaded, PROMPTS, max_new_tokens=NEW, batch_size=size) for size in (1, 2, 5)]
    assert texts[0] == texts[1] == texts[2]
    expected = [loaded.tokenizer.decode(by_hand(loaded, p)) for p in PROMPTS]
    assert texts[0] == expected
    assert len(set(texts[0])) == len(PROMPTS)


def test_padding_without_a_mask_changes_the_text(llama: Any) -> None:
    """The witness: what EV-01 did, on the same model and prompts."""
    ids = [prompt_ids(llama.tokenizer, p) for p in PROMPTS]
    width, pad = max(map(len, ids)), llama.tokenizer.pad_token_id
    filled = torch.tensor([[pad] * (width - len(i)) + i for i in ids])
    found = llama.model.generate(
        filled, attention_mask=torch.ones_like(filled), max_new_tokens=NEW, do_sample=False, pad_token_id=pad
    )
    naive = llama.tokenizer.batch_decode(found[:, width:])
    assert naive != generate(llama, PROMPTS, max_new_tokens=NEW)


def test_a_sample_depends_on_its_prompt_and_seed_alone(llama: Any) -> None:
    """Alone, in a batch, in another order, after other draws: the same sample; another seed gives another."""
    together = generate(llama, PROMPTS, max_new_tokens=NEW, temperature=1.0, seed=3)
    alone = [generate(llama, [p], max_new_tokens=NEW, temperature=1.0, seed=3)[0] for p in PROMPTS]
    torch.rand(100)
    turned = generate(llama, PROMPTS[::-1], max_new_tokens=NEW, temperature=1.0, seed=3, batch_size=2)[::-1]
    assert together == alone == turned
    assert together != generate(llama, PROMPTS, max_new_tokens=NEW, temperature=1.0, seed=4)
    assert together != generate(llama, PROMPTS, max_new_tokens=NEW)


def test_global_random_state_is_left_alone(llama: Any) -> None:
    """Neither read nor moved."""
    before = torch.get_rng_state()
    generate(llama, PROMPTS[:2], max_new_tokens=4, temperature=1.0)
    assert torch.equal(before, torch.get_rng_state())


def test_samples_are_distributed_as_softmax_says() -> None:
    """20,000 rows draw from the same logits: a chi-squared test finds no fault; at temperature 2 it does, against temperature 1."""
    stats = pytest.importorskip("scipy.stats")
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, 0.5])
    ids = [[i] for i in range(20_000)]
    draw = generation._Draw(ids, 1.0, 1.0, seed=0)
    counts = torch.bincount(draw(None, logits.expand(len(ids), -1)).argmax(-1), minlength=5).numpy()
    expected = logits.softmax(-1).double()
    assert stats.chisquare(counts, (expected / expected.sum() * len(ids)).numpy()).pvalue > 0.01
    flatter = (logits / 2).softmax(-1).double()
    assert stats.chisquare(counts, (flatter / flatter.sum() * len(ids)).numpy()).pvalue < 1e-6


def test_top_p_keeps_the_nucleus_and_at_least_one_token() -> None:
    """Shares 0.5, 0.3, 0.2: at 0.7 the first two are drawn, at 0.1 only the first."""
    logits = torch.tensor([[0.2, 0.5, 0.3]]).log().expand(400, -1)
    ids = [[i] for i in range(400)]
    for top_p, kept in ((0.7, {1, 2}), (0.1, {1}), (1.0, {0, 1, 2})):
        found = generation._Draw(ids, 1.0, top_p, seed=1)(None, logits).argmax(-1)
        assert set(found.tolist()) == kept


def test_what_the_generation_config_says_is_not_what_was_asked(llama: Any) -> None:
    """EV-08: a model that ships sampling, a penalty and a minimum length decodes greedily all the same; its config stays as it was."""
    plain = generate(llama, PROMPTS, max_new_tokens=NEW)
    before = llama.model.generation_config
    shipped = transformers.GenerationConfig(
        do_sample=True, temperature=1.7, top_k=3, repetition_penalty=3.0, min_new_tokens=3, max_length=7
    )
    llama.model.generation_config = shipped
    try:
        assert generate(llama, PROMPTS, max_new_tokens=NEW) == plain
        assert llama.model.generation_config is shipped
    finally:
        llama.model.generation_config = before


@pytest.mark.filterwarnings(
    "ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"
)  # PEFT asks by the old name
def test_an_adapter_generates_and_its_base_is_left_as_it_was() -> None:
    """A PEFT model: the adapter's own text, the same in every batch; the generation config of the model within it is as before."""
    peft = pytest.importorskip("peft")
    loaded = made()
    plain = generate(loaded, PROMPTS, max_new_tokens=NEW)
    inner = loaded.model
    shipped = transformers.GenerationConfig(do_sample=True, temperature=1.7)
    inner.generation_config = shipped
    torch.manual_seed(1)
    adapted = peft.get_peft_model(inner, peft.LoraConfig(task_type="CAUSAL_LM", r=4, init_lora_weights=False))
    loaded = SimpleNamespace(model=adapted.eval(), tokenizer=loaded.tokenizer, kind="base")
    texts = [generate(loaded, PROMPTS, max_new_tokens=NEW, batch_size=size) for size in (1, 5)]
    assert texts[0] == texts[1] == [loaded.tokenizer.decode(by_hand(loaded, p)) for p in PROMPTS]
    assert texts[0] != plain
    assert inner.generation_config.do_sample is True


def test_dropout_is_off_while_generating_and_the_mode_is_restored() -> None:
    """EV-10: a model in training mode gives the text of evaluation mode, and is in training mode afterwards."""
    loaded = made("Qwen2", attention_dropout=0.5)
    expected = generate(loaded, PROMPTS, max_new_tokens=NEW)
    loaded.model.train()
    assert generate(loaded, PROMPTS, max_new_tokens=NEW) == expected
    assert loaded.model.training


def test_text_ends_before_a_stop_text_and_so_does_the_work(
    llama: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut before the first stop text, in any batch; no token is made once every row has stopped."""
    whole = generate(llama, PROMPTS, max_new_tokens=NEW)
    stop = whole[0][2:4]
    expected = [t.partition(stop)[0] for t in whole]
    for size in (1, 5):
        assert generate(llama, PROMPTS, max_new_tokens=NEW, stop=[stop], batch_size=size) == expected
    steps = 0
    forward = llama.model.forward

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal steps
        steps += 1
        return forward(*args, **kwargs)

    monkeypatch.setattr(llama.model, "forward", counted)
    generate(llama, PROMPTS[:1], max_new_tokens=NEW, stop=[stop])
    assert steps < NEW


def test_a_response_ends_at_every_terminator_that_is_told() -> None:
    """By the tokenizer, the generation config (one id or several), the model's config, and the format: each cuts the text."""
    loaded = made()
    made_ids = by_hand(loaded, PROMPTS[0])
    cut_at = next(i for i in range(2, NEW) if made_ids.index(made_ids[i]) == i)
    expected = loaded.tokenizer.decode(made_ids[:cut_at])
    end = made_ids[cut_at]

    def found(fmt: Any = None) -> str:
        return generate(loaded, PROMPTS[:1], max_new_tokens=NEW, fmt=fmt)[0]

    assert found().startswith(expected)
    assert found() != expected
    for config in (loaded.model.generation_config, loaded.model.config):
        for told in (end, [1, end]):
            config.eos_token_id = told
            assert found() == expected
        config.eos_token_id = None
    text = loaded.tokenizer.decode([end])
    if len(loaded.tokenizer(text)["input_ids"]) == 1:
        assert found(TextFormat("own", {"assistant": ""}, {}, text)) == expected
    several = TextFormat("own", {"assistant": ""}, {}, expected[-2:] + text)
    assert found(several) == found().partition(several.end)[0]


def test_terminators_are_gathered_from_everywhere() -> None:
    """The chat template's end of turn is one, though neither tokenizer nor config says so."""
    loaded = made(tokenizer=chat())
    ids = loaded.tokenizer.convert_tokens_to_ids
    assert terminators_of(loaded) == sorted([ids("<|endoftext|>"), ids("<|im_end|>")])
    bare = made()
    assert terminators_of(bare) == [ids("<|endoftext|>")]
    assert ids("<|im_end|>") in terminators_of(bare, text_format("chatml", "<|endoftext|>"))


def test_no_prompts_and_empty_prompts() -> None:
    """Nothing asked, nothing answered; an empty prompt starts from BOS or EOS; blank and one-character prompts are prompts."""
    loaded = made()
    assert generate(loaded, []) == []
    found = generate(loaded, ["", " ", "a", []], max_new_tokens=3)
    assert len(found) == 4
    assert found[0] == found[3]
    assert prompt_ids(loaded.tokenizer, "") == [loaded.tokenizer.eos_token_id]


def test_ids_and_text_are_both_prompts(llama: Any) -> None:
    """Ids are taken as they are."""
    ids = prompt_ids(llama.tokenizer, PROMPTS[1])
    assert (
        generate(llama, [ids, PROMPTS[1]], max_new_tokens=NEW)[0]
        == generate(llama, PROMPTS[1:2], max_new_tokens=NEW)[0]
    )


def test_bos_is_put_before_a_text_once() -> None:
    """BO-03 and its counterpart: missing it ruins some models, two of it others."""
    tok = sentencepiece()
    assert prompt_ids(tok, "the answer")[:2].count(tok.bos_token_id) == 1
    assert prompt_ids(tok, "<s>the answer").count(tok.bos_token_id) == 1
    ending = copy.deepcopy(tok)
    ending.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    assert ending("the answer")["input_ids"][-1] == ending.eos_token_id
    assert prompt_ids(ending, "the answer") == prompt_ids(tok, "the answer")


def test_the_space_behind_a_prompt_is_kept() -> None:
    """A SentencePiece tokenizer drops the first space of a text: a completion is decoded behind its prompt."""
    loaded = made(tokenizer=sentencepiece())
    prompts = ["the answer to the", "what is the number", "one two three"]
    texts = generate(loaded, prompts, max_new_tokens=NEW)
    for prompt, text in zip(prompts, texts, strict=True):
        ids = prompt_ids(loaded.tokenizer, prompt)
        whole = loaded.tokenizer.decode(ids + by_hand(loaded, prompt))
        assert loaded.tokenizer.decode(ids) + text == whole
    spaced = [
        i for i, piece in enumerate(loaded.tokenizer.convert_ids_to_tokens(range(200))) if piece[:1] == "▁"
    ]
    behind = generation._text(loaded.tokenizer, prompt_ids(loaded.tokenizer, "one two"), spaced[:1], [], [])
    assert behind[:1] == " "


def test_a_prompt_without_room_for_an_answer_is_refused(llama: Any) -> None:
    """Positions beyond the context: which prompt, how many tokens, and nothing is generated."""
    with pytest.raises(
        DataRefused, match=r"1 of 2 prompts leave no room for 20 new tokens in a context of 96"
    ):
        generate(llama, ["short", list(range(5, 85))], max_new_tokens=20)


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_new_tokens": 0},
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"stop": "END"},
        {"stop": [""]},
    ],
)
def test_bad_arguments_are_named(llama: Any, wrong: dict[str, Any]) -> None:
    """Before anything runs."""
    with pytest.raises(UsageError, match=next(iter(wrong))):
        generate(llama, ["a"], **wrong)


def test_out_of_memory_halves_the_batch_and_changes_no_text(
    llama: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches above two do not fit: five prompts come out the same, by twos, and progress counts each once."""
    expected = generate(llama, PROMPTS, max_new_tokens=NEW)
    real, sizes, done = llama.model.generate, [], []

    def tight(*, input_ids: Any, **more: Any) -> Any:
        sizes.append(len(input_ids))
        if len(input_ids) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return real(input_ids=input_ids, **more)

    monkeypatch.setattr(llama.model, "generate", tight)
    assert generate(llama, PROMPTS, max_new_tokens=NEW, batch_size=5, progress=done.append) == expected
    assert Counter(sizes) == Counter({5: 1, 2: 2, 1: 1})
    assert done == [2, 2, 1]


def test_out_of_memory_with_a_single_prompt_is_told(llama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even one fits: the library's error, with what helps; the model is left as it was."""

    def never(**more: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    before = llama.model.generation_config
    monkeypatch.setattr(llama.model, "generate", never)
    with pytest.raises(OutOfMemory, match="not even one prompt at a time fits"):
        generate(llama, PROMPTS, max_new_tokens=NEW)
    assert llama.model.generation_config is before


def test_batches_are_sized_by_free_memory(llama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """More rows where there is room, one where there is none, never more than there are."""
    monkeypatch.setattr(generation.Device, "free", lambda device: 64 << 30)
    assert batch_size_for(llama.model, 64, 1000) == generation.LARGEST_BATCH
    assert batch_size_for(llama.model, 64, 3) == 3
    monkeypatch.setattr(generation.Device, "free", lambda device: 1 << 20)
    assert 1 <= batch_size_for(llama.model, 64, 1000) < generation.LARGEST_BATCH
    monkeypatch.setattr(generation.Device, "free", lambda device: 0)
    assert batch_size_for(llama.model, 64, 1000) == 1
