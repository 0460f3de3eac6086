"""Drawn examples, the strategies over them, and the proof of an encode function."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, find, given, settings

from llmguard import examples, strategies
from llmguard.errors import CheckFailed, UsageError
from llmguard.formats import ChatTemplate, Kind, text_format
from llmguard.prove import prove_encoder
from llmguard.rows import Turn

REAL = Path(os.environ.get("LLMGUARD_REAL_DATA", Path(__file__).parents[2] / "shared"))
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
Encode = Callable[[dict[str, Any]], Any]
Change = Callable[[list[int], list[int]], tuple[list[int], list[int]]]


# examples


@pytest.mark.parametrize(
    "expand",
    [
        examples.conversation,
        examples.sft_row,
        examples.awkward_text,
        examples.chat_template,
        examples.training_config,
    ],
)
def test_a_seed_always_gives_the_same_example(expand: Callable[[int], Any]) -> None:
    """Examples depend on their seed alone, whatever other random numbers were drawn; seeds give many different ones."""
    seeds = range(0, examples.SEEDS, examples.SEEDS // 500 + 1)
    first = [json.dumps(expand(seed)) for seed in seeds]
    assert first == [json.dumps(expand(seed)) for seed in seeds]
    assert len(set(first)) > 20


def test_conversations_are_whole_and_utf8() -> None:
    """Turns alternate and end with the assistant; no content is empty, white space alone, or beyond UTF-8."""
    for seed in range(0, examples.SEEDS, 8191):
        messages = examples.conversation(seed)
        roles = [m["role"] for m in messages if m["role"] != "system"]
        assert roles == ["user", "assistant"] * (len(roles) // 2)
        assert 1 <= len(roles) // 2 <= 4
        assert all(m["content"].strip() for m in messages)
        assert all(m["content"].encode() for m in messages)


def test_less_size_is_a_smaller_conversation() -> None:
    """With the content kept, a smaller size has no more turns, and the smallest is one plain word each way."""
    for content in range(200):
        lengths = [
            len(examples.conversation(content << 8 | size, system=False)) for size in range(0, 256, 15)
        ]
        assert lengths == sorted(lengths)
        smallest = examples.conversation(content << 8)
        assert [len(m["content"].split()) for m in smallest] == [1, 1]


def test_conversations_cover_what_encoders_trip_over() -> None:
    """Among some thousand conversations there are several turns, system messages, newlines, right-to-left, emoji, combining marks."""
    texts = [examples.conversation(seed) for seed in range(0, examples.SEEDS, 4099)]
    together = "".join(m["content"] for t in texts for m in t)
    assert {len(t) // 2 for t in texts} >= {1, 2, 3, 4}
    assert any(t[0]["role"] == "system" for t in texts)
    found = {unicodedata.bidirectional(c) for c in set(together)}
    assert {"R", "AL", "NSM", "B"} <= found
    assert any(ord(c) > 0xFFFF for c in together)
    assert not any(mark in together for mark in ("<|im_end|>", "</s>"))


def test_lookalikes_come_only_when_asked_for_and_only_from_users() -> None:
    """Texts that look like control tokens stand in user turns, never in the responses that a model is to learn."""
    drawn = [examples.conversation(seed, lookalikes=True) for seed in range(255, examples.SEEDS, 65536)]
    said = [m["content"] for t in drawn for m in t if m["role"] == "user"]
    assert any(text.endswith(examples.LOOKALIKES) for text in said)
    answers = "".join(m["content"] for t in drawn for m in t if m["role"] == "assistant")
    assert "<|im_end|>" not in answers


def test_the_awkward_pool_is_valid_and_has_no_doubles() -> None:
    """Every text of the fixed pool is UTF-8, not blank, and there once."""
    texts = list(examples.AWKWARD.values())
    assert len(set(texts)) == len(texts) >= 40
    assert all(t.encode() and t.strip() for t in texts)


def test_chat_templates_render() -> None:
    """Every drawn template renders a conversation with its contents in order and adds to it for generation."""
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    messages = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}]
    for seed in range(0, examples.SEEDS, 65521):
        template = ImmutableSandboxedEnvironment().from_string(examples.chat_template(seed))
        plain, asking = (
            template.render(messages=messages, bos_token="<s>", add_generation_prompt=ask)
            for ask in (False, True)
        )
        assert plain.index("one") < plain.index("two")
        assert asking.startswith(plain)
        assert len(asking) > len(plain)


def test_configs_are_sound_and_broken_ones_differ_in_one_key() -> None:
    """A broken configuration differs from a sound one in exactly the key that it names."""
    for seed in range(0, examples.SEEDS, 65521):
        sound = examples.training_config(seed)
        broken, key, fault = examples.broken_config(seed)
        assert 1e-6 <= sound["learning_rate"] <= 1e-2
        assert {k for k in sound if repr(sound[k]) != repr(broken[k])} == {key}
        assert fault in examples.FAULTS
        assert sound.keys() == broken.keys()


# strategies


@pytest.mark.parametrize(
    "strategy",
    [
        strategies.conversations(), strategies.sft_rows(), strategies.awkward_texts(), strategies.chat_templates(),
        strategies.format_names(), strategies.training_configs(), strategies.broken_configs(),
        strategies.batches(examples.conversation, size=4),
    ],
)  # fmt: skip
def test_strategies_draw(strategy: Any) -> None:
    """Every strategy gives values to a property."""
    seen = []

    @settings(max_examples=20, database=None, deadline=None, derandomize=True)
    @given(strategy)
    def collect(value: Any) -> None:
        seen.append(value)

    collect()
    assert len({repr(v) for v in seen}) > 3


def test_conversations_shrink_to_the_smallest_that_fails() -> None:
    """A property about turns fails with the fewest turns that break it, in plain words."""
    quick = settings(
        max_examples=2000, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    smallest = find(strategies.conversations(system=False), lambda m: len(m) >= 6, settings=quick)
    assert len(smallest) == 6
    assert sum(len(m["content"]) for m in smallest) < 400


def test_batches_shrink_to_the_one_that_fails() -> None:
    """Of a batch, only the example that breaks the property is left."""
    quick = settings(
        max_examples=500, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    found = find(
        strategies.batches(examples.sft_row),
        lambda rows: any("\n" in r["response"] for r in rows),
        settings=quick,
    )
    assert len(found) == 1


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: strategies.conversations(pairs=0), "pairs=0"),
        (lambda: strategies.batches(examples.sft_row, size=0), "size=0"),
        (lambda: prove_encoder(dict, None, max_examples=0), "max_examples=0"),
        (lambda: prove_encoder(dict, None, prompt="q"), "prompt, response"),
        (lambda: prove_encoder(dict, SimpleNamespace(eos_token=""), format="chatlm"), "format='chatlm'"),
    ],
)
def test_bad_arguments_name_themselves(make: Callable[[], Any], said: str) -> None:
    """A bad argument is told with its value and what is allowed."""
    with pytest.raises(UsageError, match=said):
        make()


def test_without_hypothesis_the_message_names_what_to_install() -> None:
    """The module imports without hypothesis, and a strategy says what is missing; the proof does not need it."""
    code = (
        "import sys; sys.modules['hypothesis'] = None\n"
        "from llmguard import strategies\n"
        "print(len(strategies.AWKWARD) > 0, callable(strategies.prove_encoder))\n"
        "try: strategies.conversations()\n"
        "except ImportError as missing: print(type(missing).__mro__[1].__name__, missing)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "True True" in done.stdout
    assert "UsageError" in done.stdout
    assert "pip install 'pytest-llmguard[test]'" in done.stdout


# the proof


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """A byte-level tokenizer without merges, so that every byte is a token, with the control tokens of ChatML."""
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<pad>"
    )
    made.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    made.chat_template = CHATML
    return made


def turns_of(row: dict[str, Any]) -> list[Turn]:
    """The turns of a drawn row of either shape."""
    messages = row.get("messages") or [
        {"role": r, "content": row[c]} for r, c in (("user", "prompt"), ("assistant", "response"))
    ]
    return [Turn(m["role"], m["content"]) for m in messages]


def by_pieces(
    tokenizer: Any, template: Any, *, trained: tuple[Kind, ...] = (Kind.RESPONSE, Kind.TERMINATOR)
) -> Encode:
    """A correct encoder: every piece is tokenised on its own, and its kind decides its labels."""

    def encode(row: dict[str, Any]) -> dict[str, list[int]]:
        ids: list[int] = []
        labels: list[int] = []
        for piece in template.pieces(turns_of(row)):
            new = tokenizer(piece.text, add_special_tokens=False)["input_ids"]
            ids += new
            labels += new if piece.kind in trained else [-100] * len(new)
        return {"input_ids": ids, "labels": labels, "attention_mask": [1] * len(ids)}

    return encode


def changed(encode: Encode, change: Change) -> Encode:
    """The encoder with something done to its ids and labels afterwards."""

    def broken(row: dict[str, Any]) -> dict[str, list[int]]:
        ids, labels = change(*(list(encode(row)[name]) for name in ("input_ids", "labels")))
        return {"input_ids": ids, "labels": labels}

    return broken


def moved(by: int) -> Change:
    """The mask moved by some tokens, labels still those of their own ids."""

    def change(ids: list[int], labels: list[int]) -> tuple[list[int], list[int]]:
        trained = [label != -100 for label in labels]
        shifted = [trained[i - by] if 0 <= i - by < len(trained) else by < 0 for i in range(len(ids))]
        return ids, [i if t else -100 for i, t in zip(ids, shifted, strict=True)]

    return change


@pytest.mark.parametrize("format", ["chat-template", "chatml", "alpaca", "zephyr", None])
@pytest.mark.parametrize("columns", [{}, {"prompt": "prompt", "response": "response"}])
def test_a_correct_encoder_is_proved(tokenizer: Any, format: str | None, columns: dict[str, str]) -> None:
    """Every format, messages and pairs, with and without telling the format: no row is a false alarm."""
    template = (
        text_format(format, tokenizer.eos_token)
        if format not in ("chat-template", None)
        else ChatTemplate(tokenizer)
    )
    judged = prove_encoder(
        by_pieces(tokenizer, template), tokenizer, format=format, max_examples=100, **columns
    )
    assert judged == 100 + len(examples.AWKWARD)


def test_white_space_at_edges_and_system_messages_are_proved_when_asked_for(tokenizer: Any) -> None:
    """A correct encoder passes the harder rows too."""
    encode = by_pieces(tokenizer, ChatTemplate(tokenizer))
    assert (
        prove_encoder(encode, tokenizer, format="chat-template", edges=True, system=True, max_examples=60)
        > 60
    )


def test_full_sequence_training_is_right_where_it_is_meant(tokenizer: Any) -> None:
    """`train_on = "all"` proves an encoder that trains prompts; without it, the same encoder is broken."""
    encode = by_pieces(tokenizer, ChatTemplate(tokenizer), trained=tuple(Kind))
    prove_encoder(encode, tokenizer, format="chat-template", train_on="all", max_examples=20)
    with pytest.raises(CheckFailed, match="train tokens of their prompt"):
        prove_encoder(encode, tokenizer, format="chat-template", max_examples=20)


def failure(encode: Encode, tokenizer: Any, **options: Any) -> tuple[set[str], dict[str, Any], str]:
    """The checks that fail on the smallest row, that row, and the whole message."""
    with pytest.raises(CheckFailed) as caught:
        prove_encoder(encode, tokenizer, **{"format": "chat-template", "max_examples": 40, **options})
    rows = [f.evidence["row"] for f in caught.value.findings]
    return {f.check for f in caught.value.findings}, rows[0], str(caught.value)


def without_terminators(ids: list[int], labels: list[int]) -> tuple[list[int], list[int]]:
    """Labels without control tokens, as when padding is masked by id and the pad token is EOS."""
    return ids, [-100 if i > 255 else n for i, n in zip(ids, labels, strict=True)]


BROKEN: dict[str, tuple[Change, str, list[int]]] = {
    "mask one token late": (moved(1), "every_response_token_is_trained", [1, 2]),
    "mask one token early": (moved(-1), "terminator_is_trained", [1, 1]),
    "mask three tokens early": (moved(-3), "every_prompt_token_is_masked", [1, 1]),
    "terminator masked": (without_terminators, "terminator_is_trained", [1, 1]),
    "everything trained": (lambda ids, labels: (ids, list(ids)), "every_prompt_token_is_masked", [1, 1]),
    "nothing trained": (
        lambda ids, labels: (ids, [-100] * len(ids)),
        "every_row_has_a_supervised_token",
        [1, 1],
    ),
    "labels shifted": (lambda ids, labels: (ids, [*labels[1:], -100]), "labels_are_not_shifted", [1, 1]),
}
"""Way to get labels wrong -> how, the check that says so, and the characters of prompt and response that it takes."""


@pytest.mark.parametrize("name", BROKEN)
def test_broken_labels_are_found_and_shrunk(tokenizer: Any, name: str) -> None:
    """Each way to get labels wrong is told by its check, on the shortest prompt and response that show it."""
    change, check, lengths = BROKEN[name]
    checks, row, message = failure(changed(by_pieces(tokenizer, ChatTemplate(tokenizer)), change), tokenizer)
    assert check in checks
    assert [len(m["content"]) for m in row["messages"]] == lengths
    assert json.dumps(row, ensure_ascii=False) in message
    assert f"the smallest of {40 + len(examples.AWKWARD)}" in message


def test_a_boundary_found_by_searching_breaks_where_the_answer_stands_in_the_prompt(tokenizer: Any) -> None:
    """`text.index(response)` is right until a prompt holds its answer: the smallest such row is found."""

    def encode(row: dict[str, Any]) -> dict[str, list[int]]:
        text = tokenizer.apply_chat_template(row["messages"], tokenize=False)
        start = len(text[: text.index(row["messages"][-1]["content"])].encode())
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        at, labels = 0, []
        for i in ids:
            labels.append(i if at >= start else -100)
            at += 1 if i < 256 else len(tokenizer.convert_ids_to_tokens(i))
        return {"input_ids": ids[:-1], "labels": labels[:-1]}

    checks, row, _ = failure(encode, tokenizer, pairs=1)
    assert "every_prompt_token_is_masked" in checks
    asked, answered = (m["content"] for m in row["messages"])
    assert answered in f"user {asked} assistant"


def test_only_the_first_turn_trained_is_found_with_two_turns(tokenizer: Any) -> None:
    """A mask that stops at the first response needs two of them to show, and no more."""
    encode = by_pieces(tokenizer, ChatTemplate(tokenizer))

    def change(ids: list[int], labels: list[int]) -> tuple[list[int], list[int]]:
        first = next(
            i
            for i, (n, m) in enumerate(zip(labels, [*labels[1:], -100], strict=True))
            if n != -100 and m == -100
        )
        return ids, [n if i <= first else -100 for i, n in enumerate(labels)]

    checks, row, _ = failure(changed(encode, change), tokenizer)
    assert "every_wanted_turn_is_trained" in checks
    assert len(row["messages"]) == 4
    assert (
        prove_encoder(changed(encode, change), tokenizer, format="chat-template", pairs=1, max_examples=20)
        > 20
    )


def test_another_prompt_at_generation_time_is_found(tokenizer: Any) -> None:
    """The prompt that `build` makes has to be a prefix of the row's ids, given as text or as ids."""
    encode = by_pieces(tokenizer, ChatTemplate(tokenizer))

    def right(row: dict[str, Any]) -> str:
        return ChatTemplate(tokenizer).prompt(turns_of(row))

    def as_ids(row: dict[str, Any]) -> Any:
        return tokenizer(right(row), add_special_tokens=False)["input_ids"]

    def wrong(row: dict[str, Any]) -> str:
        return right(row) + "Answer: "

    for build in (right, as_ids):
        prove_encoder(encode, tokenizer, build=build, max_examples=20)
    checks, _, _ = failure(encode, tokenizer, format=None, build=wrong)
    assert checks == {"training_starts_with_the_generation_prompt"}


def test_an_encoder_that_raises_is_told_with_its_line_and_the_smallest_row(tokenizer: Any) -> None:
    """An exception is a finding at the user's own line, on the one character that it takes (and no space to strip)."""
    correct = by_pieces(tokenizer, ChatTemplate(tokenizer))

    def encode(row: dict[str, Any]) -> Any:
        for message in row["messages"]:
            message["content"].encode("cp1252")
        return correct(row)

    checks, row, message = failure(encode, tokenizer)
    assert checks == {"prove_encoder"}
    assert sum(len(m["content"]) for m in row["messages"]) <= 4
    assert "encode raises UnicodeEncodeError" in message
    assert "test_strategies.py:" in message


@pytest.mark.parametrize("returned", [{"ids": [1]}, "text", {"input_ids": [1.5]}, {"input_ids": [None]}])
def test_what_is_no_encoded_row_is_told(tokenizer: Any, returned: Any) -> None:
    """A function that returns something else fails on the plainest row, with what it returned."""
    _, row, message = failure(lambda row: returned, tokenizer)
    assert "expected" in message
    assert [len(m["content"]) for m in row["messages"]] == [1, 1]


def test_dropped_rows_are_left_out_and_an_encoder_that_drops_all_proves_nothing(tokenizer: Any) -> None:
    """Rows for which None is returned are not counted; if none is left, that is no proof."""
    correct = by_pieces(tokenizer, ChatTemplate(tokenizer))
    some = prove_encoder(
        lambda row: correct(row) if len(row["messages"]) == 2 else None, tokenizer, max_examples=50
    )
    assert 0 < some < 50 + len(examples.AWKWARD)
    with pytest.raises(UsageError, match="at least one of the drawn rows"):
        prove_encoder(lambda row: None, tokenizer, max_examples=5)


def test_two_hundred_examples_take_no_time_worth_naming(tokenizer: Any) -> None:
    """Drawing costs next to nothing beside the encoder: the whole proof calls it about once a row."""
    calls = []
    correct = by_pieces(tokenizer, ChatTemplate(tokenizer))
    prove_encoder(
        lambda row: calls.append(1) or correct(row), tokenizer, format="chat-template", max_examples=200
    )
    assert len(calls) == 200 + len(examples.AWKWARD)


@pytest.mark.parametrize("name", ["gpt2", "llama-2-7b-chat", "qwen2.5-instruct", "phi-3-mini-4k-instruct"])
def test_a_correct_encoder_is_proved_on_real_tokenizers(name: str) -> None:
    """Byte-level and SentencePiece vocabularies of models in use: a correct encoder passes, a mask off by one does not."""
    folder = REAL / "tokenizers" / name
    if not folder.is_dir():
        pytest.skip(f"no real tokenizers: {folder} is not there (LLMGUARD_REAL_DATA)")
    transformers = pytest.importorskip("transformers")
    real = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    encode = by_pieces(real, text_format("zephyr", real.eos_token))
    assert prove_encoder(encode, real, max_examples=60) > 60
    with pytest.raises(CheckFailed):
        prove_encoder(changed(encode, moved(1)), real, max_examples=10)
