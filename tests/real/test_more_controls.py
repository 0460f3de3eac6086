"""Legitimate set-ups of the row families, as the field's frameworks make them, each as a small project: no error and no warning."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.benches import BASE, LLAMA2, LLAMA3, MISTRAL, QWEN, TOOLS, Bench, packing, pairs, relabel, starts
from support.pipelines import (
    CHATS,
    IGNORE,
    QA,
    SYSTEM,
    alpaca,
    chat,
    generation,
    labelled,
    messages,
    padded,
    qa,
    said_of,
)
from support.projects import alarms

from llmguard.findings import Finding

Row = dict[str, Any]
CASES: dict[str, Any] = {}


class Case:
    def __init__(self, run: Callable[[Bench], list[Finding]]) -> None:
        self.run = run


def sound(run: Callable[[Bench], list[Finding]]) -> Callable[[Bench], list[Finding]]:
    """Register a case."""
    CASES[run.__name__] = Case(run)
    return run


def plain(tok: Any, row: Row) -> Row:
    return chat(tok, row["messages"])


def marked(tok: Any, row: Row) -> Row:
    """Labels between the header of each answer and its end, both found as ids: right where templates preserve no prefixes."""
    ids = list(tok.apply_chat_template(row["messages"], tokenize=True, return_dict=False))
    opened, end = (
        tok("<|im_start|>assistant\n", add_special_tokens=False)["input_ids"],
        tok.convert_tokens_to_ids("<|im_end|>"),
    )
    trained: list[int] = []
    for i in range(len(opened), len(ids)):
        if ids[i - len(opened) : i] == opened:
            trained += range(i, ids.index(end, i) + 1)
    return labelled(ids, trained)


def prompted(tok: Any, row: Row) -> list[int]:
    return generation(tok, row["messages"])


def answered(tok: Any, row: Row) -> Row:
    return qa(tok, alpaca(row), row["response"])


def fixed(length: int, row: Row, pad: int, left: bool = False) -> Row:
    """padding="max_length" in encode."""
    return {k: v[0] for k, v in padded([row], pad, multiple=length, left=left).items()}


# chat


@sound
def chatml_with_its_prompts(bench: Bench) -> list[Finding]:
    return bench.chat(QWEN, plain, build=prompted)


@sound
def llama3_with_its_prompts(bench: Bench) -> list[Finding]:
    return bench.chat(LLAMA3, plain, build=prompted)


@sound
def llama2_with_bos_in_every_exchange(bench: Bench) -> list[Finding]:
    return bench.chat(LLAMA2, plain, messages(True))


@sound
def mistral_with_spaces_of_its_own(bench: Bench) -> list[Finding]:
    return bench.chat(MISTRAL, plain, build=prompted)


@sound
def system_turns_on_some_rows(bench: Bench) -> list[Finding]:
    return bench.chat(QWEN, plain, messages(lambda i: i % 2 == 0), build=prompted)


@sound
def the_same_system_turn_everywhere(bench: Bench) -> list[Finding]:
    return bench.chat(LLAMA3, plain, messages(True), build=prompted)


@sound
def tools_with_calls_and_results(bench: Bench) -> list[Finding]:
    return bench.chat(QWEN, plain, TOOLS)


@sound
def tools_beside_plain_conversations(bench: Bench) -> list[Finding]:
    return bench.chat(QWEN, plain, [*TOOLS, *CHATS])


@sound
def tools_of_llama3_1(bench: Bench) -> list[Finding]:
    return bench.chat("llama-3.1-8b-instruct", plain, [*CHATS, *messages(True)[:4]][:12])


@sound
def tools_of_qwen3(bench: Bench) -> list[Finding]:
    return bench.chat("qwen3", marked, TOOLS)


THOUGHT: list[Row] = [
    {
        "messages": [
            r["messages"][0],
            {
                "role": "assistant",
                "content": f"<think>\nFirst I add {i} to what he had, and then the rest.\n</think>\n\n{r['messages'][1]['content']}",
            },
        ]
    }
    for i, r in enumerate(CHATS)
]


@sound
def thinking_of_one_turn(bench: Bench) -> list[Finding]:
    return bench.chat("qwen3", plain, THOUGHT, build=prompted)


@sound
def thinking_as_a_key_of_the_message(bench: Bench) -> list[Finding]:
    rows = [
        {
            "messages": [
                r["messages"][0],
                {
                    "role": "assistant",
                    "content": r["messages"][1]["content"],
                    "reasoning_content": f"He has {i} and more, so I add.",
                },
            ]
        }
        for i, r in enumerate(CHATS)
    ]
    return bench.chat("qwen3", plain, rows, build=prompted)


@sound
def thinking_switched_off_on_both_sides(bench: Bench) -> list[Finding]:
    """Qwen3 without thinking: the empty block belongs to the prompt, in training as in generation."""

    def encode(tok: Any, row: Row) -> Row:
        talk = row["messages"][:2]
        prompt, said = (
            generation(tok, talk, enable_thinking=False),
            tok(talk[1]["content"] + "<|im_end|>", add_special_tokens=False)["input_ids"],
        )
        return labelled([*prompt, *said], range(len(prompt), len(prompt) + len(said)))

    rows = [{"messages": r["messages"][:2]} for r in CHATS]
    return bench.chat(
        "qwen3", encode, rows, build=lambda tok, row: generation(tok, row["messages"], enable_thinking=False)
    )


@sound
def thinking_stripped_from_earlier_turns(bench: Bench) -> list[Finding]:
    rows = copy.deepcopy(CHATS)
    for i, row in enumerate(rows):
        for m in row["messages"][1::2]:
            m["content"] = f"<think>\nI count {i} once more.\n</think>\n\n{m['content']}"
    return bench.chat("qwen3", marked, rows)


@sound
def every_turn_split_into_rows(bench: Bench) -> list[Finding]:
    """One row for each answer, as axolotl and LLaMA-Factory do with mask_history: only the last one is trained."""
    rows = [{"messages": r["messages"][:n]} for r in CHATS for n in (2, 4)]

    def encode(tok: Any, row: Row) -> Row:
        return relabel(
            plain(tok, row), lambda ids, labels: [IGNORE] * starts(labels)[-1] + labels[starts(labels)[-1] :]
        )

    return bench.chat(QWEN, encode, rows, settings={"pipeline": {"train_on": "last"}})


@sound
def axolotl_train_flags(bench: Bench) -> list[Finding]:
    """`train: false` on some turns."""
    rows = copy.deepcopy(CHATS)
    for row in rows[::2]:
        row["messages"][1]["train"] = False

    def encode(tok: Any, row: Row) -> Row:
        talk = [{k: v for k, v in m.items() if k != "train"} for m in row["messages"]]
        made = chat(tok, talk)
        skipped = row["messages"][1].get("train") is False
        return (
            relabel(made, lambda ids, labels: [IGNORE] * starts(labels)[1] + labels[starts(labels)[1] :])
            if skipped
            else made
        )

    return bench.chat(QWEN, encode, rows)


@sound
def newline_behind_the_end_of_turn_trained(bench: Bench) -> list[Finding]:
    def encode(tok: Any, row: Row) -> Row:
        def change(ids: list[int], labels: list[int]) -> list[int]:
            return [
                ids[i] if i and t == IGNORE and labels[i - 1] != IGNORE else t for i, t in enumerate(labels)
            ]

        return relabel(plain(tok, row), change)

    return bench.chat(QWEN, encode)


@sound
def last_newline_cut_off(bench: Bench) -> list[Finding]:
    """The row ends with its end of turn, not with the template's newline."""

    def encode(tok: Any, row: Row) -> Row:
        return {k: v[:-1] for k, v in plain(tok, row).items()}

    return bench.chat(QWEN, encode)


@sound
def sharegpt_roles(bench: Bench) -> list[Finding]:
    role = {"user": "human", "assistant": "gpt", "system": "system"}
    rows = [
        {
            "id": f"x{i}",
            "conversations": [{"from": role[m["role"]], "value": m["content"]} for m in r["messages"]],
        }
        for i, r in enumerate(messages(lambda i: i % 3 == 0))
    ]
    back = {v: k for k, v in role.items()}
    return bench.chat(
        QWEN,
        lambda tok, row: chat(
            tok, [{"role": back[m["from"]], "content": m["value"]} for m in row["conversations"]]
        ),
        rows,
    )


@sound
def columns_of_metadata(bench: Bench) -> list[Finding]:
    rows = [
        {**r, "source": "made up", "score": 0.5 + i, "tags": ["a", "b"], "text": "unused", "id": i}
        for i, r in enumerate(CHATS)
    ]
    return bench.chat(QWEN, plain, rows, build=prompted)


@sound
def text_about_control_tokens(bench: Bench) -> list[Finding]:
    rows = copy.deepcopy(CHATS)
    for row in rows[::4]:
        row["messages"][0]["content"] += (
            " Explain how <|im_start|> and </s> are used, and what ### Response: is."
        )
    return bench.chat(LLAMA3, plain, rows)


@sound
def many_languages(bench: Bench) -> list[Finding]:
    texts = [
        "ما هي عاصمة مصر؟ القاهرة هي العاصمة.",
        "東京はどこですか。日本の首都です。",
        "Где живут медведи? Они живут в лесу.",
        "🎉👩‍👩‍👧 emoji 🇧🇷 and ½ ² ﬁ",
        "def f(x):\n\treturn x**2  # squared\n\n\nprint(f(3))",
        "שלום עולם, מה שלומך?",
        "สวัสดีชาวโลก",
        "हिन्दी में उत्तर दीजिए।",
    ]
    return bench.chat(LLAMA3, plain, said_of(texts), build=prompted)


@sound
def many_languages_for_sentencepiece(bench: Bench) -> list[Finding]:
    texts = [
        "ما هي عاصمة مصر؟",
        "東京はどこですか。",
        "Где живут медведи?",
        "🎉👩‍👩‍👧 🇧🇷",
        "def f(x):\n\treturn x**2\n\n\nprint(f(3))",
        "שלום עולם",
        "สวัสดี",
        "हिन्दी",
    ]
    return bench.chat(MISTRAL, plain, said_of(texts), build=prompted)


@sound
def answers_with_edges_of_white_space(bench: Bench) -> list[Finding]:
    rows = [
        {"messages": [r["messages"][0], {"role": "assistant", "content": " " + r["messages"][1]["content"]}]}
        for r in CHATS
    ]
    return bench.chat(QWEN, plain, rows)


@sound
def very_short_answers(bench: Bench) -> list[Finding]:
    rows = [
        {"messages": [r["messages"][0], {"role": "assistant", "content": str(i % 5)}]}
        for i, r in enumerate(CHATS)
    ]
    return bench.chat(QWEN, plain, rows, build=prompted)


@sound
def answers_that_quote_their_question(bench: Bench) -> list[Finding]:
    rows = [
        {
            "messages": [
                r["messages"][0],
                {
                    "role": "assistant",
                    "content": f"You ask: {r['messages'][0]['content']}\n{r['messages'][1]['content']}",
                },
            ]
        }
        for r in CHATS
    ]
    return bench.chat(QWEN, plain, rows, build=prompted)


@sound
def yes_and_no(bench: Bench) -> list[Finding]:
    """The answer's word stands in the question too."""
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"Answer yes or no: is {i} more than {f}?"},
                {"role": "assistant", "content": "no" if i % 2 else "yes"},
            ]
        }
        for i, f in enumerate(range(12))
    ]
    return bench.chat(LLAMA3, plain, rows, build=prompted)


@sound
def prompts_as_text_without_special_tokens(bench: Bench) -> list[Finding]:
    def build(tok: Any, row: Row) -> str:
        return str(tok.apply_chat_template(row["messages"][:-1], tokenize=False, add_generation_prompt=True))

    return bench.chat(LLAMA3, plain, build=build, settings={"prompt": {"add_special_tokens": False}})


@sound
def several_answers_in_a_row(bench: Bench) -> list[Finding]:
    rows = copy.deepcopy(CHATS)
    rows[2]["messages"].insert(
        2, {"role": "assistant", "content": "And let me say it again: that is all of them."}
    )
    return bench.chat(QWEN, plain, rows)


@sound
def prepared_by_trl_with_assistant_masks(bench: Bench) -> list[Finding]:
    from support import real

    tok = real.tokenizer(QWEN)
    made = [plain(tok, r) for r in CHATS]
    return bench.chat(
        QWEN,
        None,
        prepared=[
            {"input_ids": m["input_ids"], "assistant_masks": [int(t != IGNORE) for t in m["labels"]]}
            for m in made
        ],
    )


@sound
def prepared_and_shuffled(bench: Bench) -> list[Finding]:
    from support import real

    tok = real.tokenizer(QWEN)
    return bench.chat(
        QWEN, None, prepared=[plain(tok, CHATS[(i * 5) % len(CHATS)]) for i in range(len(CHATS))]
    )


@sound
def prepared_with_padding(bench: Bench) -> list[Finding]:
    from support import real

    tok = real.tokenizer(QWEN)
    return bench.chat(QWEN, None, prepared=[fixed(160, plain(tok, r), tok.pad_token_id) for r in CHATS])


# base


@sound
def alpaca_on_a_base_model(bench: Bench) -> list[Finding]:
    return bench.base(BASE, answered, build=lambda tok, row: alpaca(row))


@sound
def alpaca_on_llama3_base(bench: Bench) -> list[Finding]:
    return bench.base("llama-3-8b", answered, build=lambda tok, row: alpaca(row))


@sound
def padded_to_max_length_on_the_right(bench: Bench) -> list[Finding]:
    return bench.base(BASE, lambda tok, row: fixed(96, answered(tok, row), tok.eos_token_id))


@sound
def padded_to_max_length_on_the_left(bench: Bench) -> list[Finding]:
    return bench.base(
        BASE,
        lambda tok, row: fixed(96, answered(tok, row), tok.eos_token_id, left=True),
        build=lambda tok, row: alpaca(row),
    )


@sound
def chat_padded_on_the_left_in_encode(bench: Bench) -> list[Finding]:
    return bench.chat(
        QWEN, lambda tok, row: fixed(160, plain(tok, row), tok.pad_token_id, left=True), build=prompted
    )


@sound
def mistral_padded_with_its_eos(bench: Bench) -> list[Finding]:
    return bench.chat(MISTRAL, lambda tok, row: fixed(160, plain(tok, row), tok.eos_token_id), build=prompted)


@sound
def llama3_padded_with_eot_on_the_left(bench: Bench) -> list[Finding]:
    return bench.chat(
        LLAMA3,
        lambda tok, row: fixed(160, plain(tok, row), tok.convert_tokens_to_ids("<|eot_id|>"), left=True),
        build=prompted,
    )


@sound
def full_sequence_training(bench: Bench) -> list[Finding]:
    def encode(tok: Any, row: Row) -> Row:
        return relabel(answered(tok, row), lambda ids, labels: list(ids))

    return bench.base(BASE, encode, settings={"pipeline": {"train_on": "all"}})


@sound
def completion_of_plain_text(bench: Bench) -> list[Finding]:
    """Prompt and completion with a space between, tokenised apart."""
    return bench.base(
        BASE,
        lambda tok, row: qa(tok, row["prompt"], " " + row["response"]),
        form="completion",
        build=lambda tok, row: row["prompt"],
    )


@sound
def table_format(bench: Bench) -> list[Finding]:
    form = {"prompt": "Q: {prompt}\nA:", "response": " {response}", "end": "<|endoftext|>"}
    return bench.base(
        BASE,
        lambda tok, row: qa(tok, f"Q: {row['prompt']}\nA:", " " + row["response"]),
        form=form,
        build=lambda tok, row: f"Q: {row['prompt']}\nA:",
    )


@sound
def two_eos_where_one_is_masked(bench: Bench) -> list[Finding]:
    def encode(tok: Any, row: Row) -> Row:
        made = answered(tok, row)
        return {
            "input_ids": [*made["input_ids"], tok.eos_token_id],
            "labels": [*made["labels"], IGNORE],
            "attention_mask": [*made["attention_mask"], 1],
        }

    return bench.base(BASE, encode)


@sound
def few_rows_cut_on_purpose(bench: Bench) -> list[Finding]:
    """Left truncation of a long prompt: the answer is whole."""
    rows = copy.deepcopy(QA)
    rows[4]["prompt"] = "Think well. " * 40 + rows[4]["prompt"]

    def encode(tok: Any, row: Row) -> Row:
        return {k: v[-128:] for k, v in answered(tok, row).items()}

    return bench.base(BASE, encode, rows)


@sound
def optional_input_in_the_prompt(bench: Bench) -> list[Finding]:
    """Stanford's alpaca: instruction, input, output; the input only where there is one."""
    rows = [
        {
            "instruction": r["prompt"],
            "input": f"Tom is {i} years old." if i % 2 else "",
            "output": r["response"],
        }
        for i, r in enumerate(QA)
    ]

    def prompt(row: Row) -> str:
        more = f"\n\n### Input:\n{row['input']}" if row["input"] else ""
        return f"Below is an instruction that describes a task.\n\n### Instruction:\n{row['instruction']}{more}\n\n### Response:\n"

    return bench.on(
        BASE,
        rows,
        lambda tok, row: qa(tok, prompt(row), row["output"]),
        build=lambda tok, row: prompt(row),
        settings={"model": {"kind": "base"}},
    )


@sound
def base_model_without_a_declared_format(bench: Bench) -> list[Finding]:
    return bench.on(
        BASE,
        QA,
        lambda tok, row: qa(tok, f"Question: {row['prompt']}\nAnswer: ", row["response"]),
        build=lambda tok, row: f"Question: {row['prompt']}\nAnswer: ",
        settings={"model": {"kind": "base"}},
    )


@sound
def eos_as_text_behind_the_answer(bench: Bench) -> list[Finding]:
    """unsloth: text + EOS_TOKEN, tokenised at once, everything trained."""

    def encode(tok: Any, row: Row) -> Row:
        ids = tok(alpaca(row) + row["response"] + tok.eos_token)["input_ids"]
        return labelled(ids, range(len(ids)))

    return bench.base(BASE, encode, settings={"pipeline": {"train_on": "all"}})


# collation and packing


def collated(bench: Bench, collate: Callable[[Any, list[Row]], Row], size: int = 4) -> list[Finding]:
    return bench.base(BASE, answered, collate=collate, size=size)


@sound
def padded_to_a_multiple_of_64(bench: Bench) -> list[Finding]:
    return collated(bench, lambda tok, rows: padded(rows, tok.eos_token_id, multiple=64))


@sound
def batches_padded_on_the_left(bench: Bench) -> list[Finding]:
    return collated(bench, lambda tok, rows: padded(rows, tok.eos_token_id, left=True))


@sound
def batches_of_one_row_without_a_mask(bench: Bench) -> list[Finding]:
    return collated(
        bench, lambda tok, rows: {k: [r[k] for r in rows] for k in ("input_ids", "labels")}, size=1
    )


@sound
def rows_sorted_by_length_with_their_labels(bench: Bench) -> list[Finding]:
    return collated(
        bench, lambda tok, rows: padded(sorted(rows, key=lambda r: -len(r["input_ids"])), tok.eos_token_id)
    )


@sound
def chat_batches(bench: Bench) -> list[Finding]:
    return bench.chat(QWEN, plain, collate=lambda tok, rows: padded(rows, tok.pad_token_id, multiple=8))


@sound
def batches_with_more_columns(bench: Bench) -> list[Finding]:
    def collate(tok: Any, rows: list[Row]) -> Row:
        batch = padded(rows, tok.eos_token_id)
        return {**batch, "position_ids": [list(range(len(r))) for r in batch["input_ids"]]}

    return collated(bench, collate)


@sound
def padding_free(bench: Bench) -> list[Finding]:
    def collate(tok: Any, rows: list[Row]) -> Row:
        batch = packing(rows, lambda n: [i for k in n for i in range(k)])
        first = {sum(len(r["input_ids"]) for r in rows[:k]) for k in range(len(rows))}
        return {**batch, "labels": [[IGNORE if i in first else t for i, t in enumerate(batch["labels"][0])]]}

    return collated(bench, collate)


@sound
def chat_padding_free(bench: Bench) -> list[Finding]:
    return bench.chat(
        LLAMA3, plain, collate=lambda tok, rows: packing(rows, lambda n: [i for k in n for i in range(k)])
    )


@sound
def prepared_and_packed(bench: Bench) -> list[Finding]:
    from support import real

    tok = real.tokenizer(BASE)
    made = [answered(tok, r) for r in QA]
    packed = [
        {k: v[0] for k, v in packing(made[i : i + 3], lambda n: [i for k in n for i in range(k)]).items()}
        for i in range(0, len(made), 3)
    ]
    return bench.base(BASE, None, prepared=packed)


# preference


@sound
def pairs_of_texts(bench: Bench) -> list[Finding]:
    return bench.chat(QWEN, None, pairs(), settings={"pipeline": {"max_length": 512}})


@sound
def pairs_of_messages_that_share_their_prompt(bench: Bench) -> list[Finding]:
    def talk(row: Row, said: str) -> list[Row]:
        return [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": said}]

    return bench.chat(
        QWEN, None, [{"chosen": talk(r, r["chosen"]), "rejected": talk(r, r["rejected"])} for r in pairs()]
    )


@sound
def pairs_with_a_prompt_of_messages(bench: Bench) -> list[Finding]:
    rows = [
        {
            "prompt": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": r["prompt"]}],
            "chosen": [{"role": "assistant", "content": r["chosen"]}],
            "rejected": [{"role": "assistant", "content": r["rejected"]}],
        }
        for r in pairs()
    ]
    return bench.chat(QWEN, None, rows)


@sound
def pairs_that_share_their_start(bench: Bench) -> list[Finding]:
    """Chosen and rejected start alike, and the prompt is asked several times with other answers."""
    rows = [
        {
            **r,
            "prompt": QA[i % 6]["prompt"],
            "chosen": f"Let us see. {r['chosen']} ({i})",
            "rejected": f"Let us see. {r['rejected']}",
        }
        for i, r in enumerate(pairs())
    ]
    return bench.chat(QWEN, None, rows)


@sound
def scored_pairs_with_few_ties(bench: Bench) -> list[Finding]:
    return bench.chat(
        QWEN,
        None,
        [{**r, "score_chosen": 8.0, "score_rejected": 3.0 + (i % 2) * 5} for i, r in enumerate(pairs())],
    )


@sound
def refusals_chosen_for_harmful_questions(bench: Bench) -> list[Finding]:
    rows = pairs()
    rows[3]["chosen"] = "I can't help with that."
    rows[9]["chosen"] = "I cannot say."
    return bench.chat(QWEN, None, rows)


@pytest.mark.parametrize("name", CASES)
def test_a_legitimate_set_up_raises_no_alarm(name: str, tmp_path: Path) -> None:
    """Nothing more than notes."""
    assert not {k: f.message for k, f in alarms(CASES[name].run(Bench(tmp_path))).items()}
