"""What planted bugs taught the checks of rows: each fault by the words that it is told in, and what looks like it and is sound."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import llmguard
from llmguard.encoded import Batches, as_batches, as_encoded
from llmguard.evidence.batches import in_order
from llmguard.evidence.prompts import as_prompts
from llmguard.formats import ChatTemplate, text_format
from llmguard.rows import as_rows

Row = dict[str, Any]
FRUITS = ("apples", "pears", "plums", "figs", "limes", "dates", "nuts", "kiwis")
QA: list[Row] = [
    {"prompt": f"What is the number of {f}?", "response": f"The number  of {f}\n  is {i}, I am sure."}
    for i, f in enumerate(FRUITS)
]
CHATS: list[Row] = [
    {
        "messages": [
            {"role": "user", "content": r["prompt"]},
            {"role": "assistant", "content": r["response"]},
            {"role": "user", "content": "And what is it tomorrow?"},
            {"role": "assistant", "content": f"The same number as today: {i}."},
        ]
    }
    for i, r in enumerate(QA)
]


def made(tok: Any, row: Row, response: str | None = None) -> Row:
    """A row in the alpaca format, prompt and response tokenised apart."""
    said = row["response"] if response is None else response
    prompt = tok(f"### Instruction:\n{row['prompt']}\n\n### Response:\n")["input_ids"]
    answer = tok(said + tok.eos_token, add_special_tokens=False)["input_ids"]
    return {"input_ids": prompt + answer, "labels": [-100] * len(prompt) + answer}


def told(check: str, **evidence: Any) -> str:
    """What a check says, in one string; what it does not take is left out."""
    function = getattr(llmguard, check)
    return "\n".join(
        f.message for f in function(**{k: v for k, v in evidence.items() if k in function.parameters})
    )


@pytest.fixture
def on(tiny: Any) -> Any:
    """A check on alpaca rows."""

    def run(check: str, encoded: list[Row], **more: Any) -> str:
        evidence = {"rows": as_rows(QA), "tokenizer": tiny, "template": text_format("alpaca", tiny.eos_token)}
        return told(check, encoded=as_encoded(encoded), **{**evidence, **more})

    return run


@pytest.mark.parametrize("value", [-1, 0, 3, 65436])
def test_a_mask_of_another_number_is_named(value: int, tiny: Any, on: Any) -> None:
    """No shift is claimed, and no copy of input_ids; the mask of -100 is sound."""
    rows = [made(tiny, r) for r in QA]
    wrong = [{**r, "labels": [value if t == -100 else t for t in r["labels"]]} for r in rows]
    assert not on("labels_are_not_shifted", rows)
    said = on("labels_are_not_shifted", wrong)
    assert f"have the label {value} where" in said
    assert "moved by one" not in said
    assert "see labels_are_not_shifted" in on("every_prompt_token_is_masked", wrong)


def test_a_loss_mask_is_no_shift(tiny: Any, on: Any) -> None:
    """Zeros and ones in the place of labels."""
    wrong = [{**r, "labels": [int(t != -100) for t in r["labels"]]} for r in (made(tiny, q) for q in QA)]
    assert "zeros and ones" in on("labels_are_not_shifted", wrong)


def test_labels_of_another_row_are_not_taken_for_a_mask(tiny: Any, on: Any) -> None:
    """Many wrong labels of many numbers: they were no shift before, and were not told at all."""
    rows = [made(tiny, r) for r in QA]
    wrong = [{**r, "labels": [t if t == -100 else 5 + (t * 7) % 200 for t in r["labels"]]} for r in rows]
    assert "not the one in their ids" in on("labels_are_not_shifted", wrong)


def test_a_mask_upside_down_is_named(tiny: Any, on: Any) -> None:
    """Prompts trained, answers masked; a boundary that is off is called so."""
    rows = [made(tiny, r) for r in QA]
    turned = [
        {**r, "labels": [i if t == -100 else -100 for i, t in zip(r["input_ids"], r["labels"], strict=True)]}
        for r in rows
    ]
    early = [{**r, "labels": [-100] * 4 + r["input_ids"][4:]} for r in rows]
    assert "upside down" in on("every_prompt_token_is_masked", turned)
    assert "the boundary is off" in on("every_prompt_token_is_masked", early)


def test_padding_in_encode_is_no_bos_and_no_other_prompt(tiny: Any, on: Any) -> None:
    """Rows padded on the left by encode itself, the pad token being BOS; a BOS too many is told all the same."""
    tok, bos = tiny, tiny.convert_tokens_to_ids("<|bos|>")
    tok = type(tok)(
        tokenizer_object=tok._tokenizer, bos_token="<|bos|>", eos_token="<|endoftext|>", pad_token="<|bos|>"
    )

    def row(r: Row, starts: int) -> Row:
        ids = [bos] * starts + made(tok, r)["input_ids"]
        return {
            "input_ids": [bos] * 9 + ids,
            "labels": [-100] * 9 + ids,
            "attention_mask": [0] * 9 + [1] * len(ids),
        }

    assert not on("every_row_has_one_bos", [row(r, 1) for r in QA], tokenizer=tok)
    assert "two BOS" in on("every_row_has_one_bos", [row(r, 2) for r in QA], tokenizer=tok)
    prompts = as_prompts(
        [[bos, *tok(f"### Instruction:\n{r['prompt']}\n\n### Response:\n")["input_ids"]] for r in QA], tok
    )
    assert not on("training_starts_with_the_generation_prompt", [row(r, 1) for r in QA], prompts=prompts)


def batches(rows: list[Row], *, size: int, **columns: Any) -> Batches:
    """Batches of whole columns, with the rows that went in."""
    found = as_batches(
        [{k: v[i : i + size] for k, v in columns.items()} for i in range(0, len(columns["input_ids"]), size)]
    )
    return Batches(
        found.padded, found.batch, in_order(as_encoded(rows), found.padded), {"rows_in": len(rows)}
    )


def test_a_collator_may_sort_its_rows(tiny: Any) -> None:
    """Rows that come out in another order are compared with themselves; with the labels of others they are told."""
    rows = [{**made(tiny, r), "attention_mask": [1] * len(made(tiny, r)["input_ids"])} for r in QA]
    width = max(len(r["input_ids"]) for r in rows)
    fill = {"input_ids": tiny.pad_token_id, "labels": -100, "attention_mask": 0}
    turned = {k: [r[k] + [v] * (width - len(r[k])) for r in rows[::-1]] for k, v in fill.items()}
    sound = batches(rows, size=8, **turned)
    assert sound.before is not None
    assert sound.before.source.tolist() == [7, 6, 5, 4, 3, 2, 1, 0]
    for check in ("collator_keeps_labels", "collator_attends_to_content"):
        assert not told(check, encoded=sound.before, batches=sound)
    wrong = batches(rows, size=8, **{**turned, "labels": turned["labels"][::-1]})
    assert told("collator_keeps_labels", encoded=wrong.before, batches=wrong)


def test_joined_rows_are_not_padded_ones(tiny: Any) -> None:
    """Padding-free batches need no mask; padded ones without it are told."""
    rows = [made(tiny, r) for r in QA]
    joined = {k: [[t for r in rows for t in r[k]]] for k in ("input_ids", "labels")}
    packed = batches(rows, size=1, **joined)
    assert not told("collator_attends_to_content", encoded=as_encoded(rows), batches=packed)
    width = max(len(r["input_ids"]) for r in rows) + 1
    wide = {
        k: [r[k] + [v] * (width - len(r[k])) for r in rows]
        for k, v in (("input_ids", tiny.pad_token_id), ("labels", -100))
    }
    assert "no attention_mask" in told(
        "collator_attends_to_content", encoded=as_encoded(rows), batches=batches(rows, size=8, **wide)
    )


@pytest.mark.parametrize(("by", "word"), [(0, ""), (1, "late"), (-1, "early")])
def test_boundaries_beside_documents_are_told(by: int, word: str, tiny: Any) -> None:
    """Positions that restart one token beside the token that all documents start with."""
    documents = [made(tiny, r)["input_ids"] for r in QA]
    ids = [t for d in documents for t in d]
    starts = {0, *(n + by for n in np.cumsum([len(d) for d in documents])[:-1].tolist())}
    positions, at = [], 0
    for i in range(len(ids)):
        at = 0 if i in starts else at + 1
        positions.append(at)
    said = told(
        "position_ids_restart_with_each_document",
        batches=as_batches([{"input_ids": [ids], "position_ids": [positions]}]),
    )
    assert (f"one token {word}" in said) if word else not said


def test_a_token_that_both_starts_and_ends_is_no_boundary_missed() -> None:
    """EOS before the first document and behind each: documents start behind it, not beside their start."""
    ids = [0, *[t for n in range(5) for t in (7 + n, 8, 9, 0)]]
    positions = [0, *[p for n in range(5) for p in ((1, 2, 3, 4) if n == 0 else (0, 1, 2, 3))]]
    batch = as_batches([{"input_ids": [ids], "position_ids": [positions]}])
    assert not told("position_ids_restart_with_each_document", batches=batch)


def test_prepared_rows_of_other_ids_are_told(tiny: Any) -> None:
    """As many rows as the split has, and the text of none: a cache of another tokenizer."""
    encoded = as_encoded([made(tiny, r) for r in QA], "prepared")
    strange = replace(encoded, source=np.full(len(QA), -1))
    assert not told("encoded_rows_match_the_split", encoded=encoded, rows=as_rows(QA))
    assert "only 0 hold the text" in told("encoded_rows_match_the_split", encoded=strange, rows=as_rows(QA))
    plain = as_rows([{"text": "no turns to look for"}] * len(QA))
    assert not told("encoded_rows_match_the_split", encoded=strange, rows=plain)


def test_an_opened_end_is_told(tiny: Any) -> None:
    """add_generation_prompt=True on training rows; without it, and on rows whose last turn is a question, nothing is said."""
    own = ChatTemplate(tiny)
    evidence: dict[str, Any] = {"tokenizer": tiny, "template": own}
    for opened in (False, True):
        ids = [
            tiny.apply_chat_template(r["messages"], add_generation_prompt=opened, return_dict=False)
            for r in CHATS
        ]
        said = told(
            "training_text_follows_its_format",
            encoded=as_encoded([{"input_ids": i} for i in ids]),
            rows=as_rows(CHATS),
            **evidence,
        )
        assert ("end with an opened response" in said) is opened
        assert "not written in" not in said
    asked = [{"messages": r["messages"][:3]} for r in CHATS]
    ids = [
        tiny.apply_chat_template(r["messages"], add_generation_prompt=True, return_dict=False) for r in asked
    ]
    assert "opened" not in told(
        "training_text_follows_its_format",
        encoded=as_encoded([{"input_ids": i} for i in ids]),
        rows=as_rows(asked),
        **evidence,
    )


def test_bos_between_turns_is_told(tiny: Any) -> None:
    """Conversations rendered turn by turn with a template that writes BOS once."""
    tok = type(tiny)(
        tokenizer_object=tiny._tokenizer,
        bos_token="<|bos|>",
        eos_token="<|endoftext|>",
        chat_template="{{ bos_token }}" + tiny.chat_template,
    )
    given = {"rows": as_rows(CHATS), "tokenizer": tok, "template": ChatTemplate(tok)}
    whole = [{"input_ids": tok.apply_chat_template(r["messages"], return_dict=False)} for r in CHATS]
    apart = [
        {"input_ids": [t for m in r["messages"] for t in tok.apply_chat_template([m], return_dict=False)]}
        for r in CHATS
    ]
    assert not told("every_row_has_one_bos", encoded=as_encoded(whole), **given)
    assert "BOS in their middle" in told("every_row_has_one_bos", encoded=as_encoded(apart), **given)


def test_other_spaces_are_told(tiny: Any, on: Any) -> None:
    """Runs of spaces collapsed in encode: a warning; edges and one row in many are not."""
    assert not on("ids_match_their_text", [made(tiny, r) for r in QA])
    assert not on("ids_match_their_text", [made(tiny, r, " " + r["response"] + " ") for r in QA])
    collapsed = [made(tiny, r, r["response"].replace("  ", " ")) for r in QA]
    assert "other spaces" in on("ids_match_their_text", collapsed)


def test_a_response_that_stands_twice_is_told(tiny: Any, on: Any) -> None:
    """Also where every row is so; a response that quotes itself is not."""
    twice = [made(tiny, r, f"{r['response']}\n{r['response']}") for r in QA]
    assert "hold their last response twice" in on("ids_match_their_text", twice)
    quoting = [{**r, "response": f"{r['response']} {r['response']}"} for r in QA]
    assert not on("ids_match_their_text", [made(tiny, r) for r in quoting], rows=as_rows(quoting))


def test_rows_cut_at_many_lengths_are_not_laid_to_max_length(tiny: Any, on: Any) -> None:
    """Cut by characters, or at one length."""
    whole = [made(tiny, r) for r in QA]
    one = [{k: v[:60] for k, v in r.items()} for r in whole]
    many = [{k: v[: len(v) - 8 - i] for k, v in r.items()} for i, r in enumerate(whole)]
    assert "max_length is below" in on("responses_are_not_cut", one)
    assert "so it is not max_length" in on("responses_are_not_cut", many)


def test_missing_terminators_say_what_follows(tiny: Any, on: Any) -> None:
    """Letters behind the response are another cause than nothing behind it."""
    bare = [{"input_ids": made(tiny, r)["input_ids"][:-1]} for r in QA]
    more = [
        {"input_ids": b["input_ids"] + tiny(f" [{i}] and so on")["input_ids"]} for i, b in enumerate(bare)
    ]
    assert "the text has no EOS" in on("response_ends_with_its_terminator", bare)
    assert "text that is appended behind the response" in on("response_ends_with_its_terminator", more)


def test_prompts_are_shown_where_they_differ(tiny: Any) -> None:
    """A generation prompt that lacks its header differs at its end alone."""
    texts = [tiny.apply_chat_template(r["messages"][:-1], tokenize=False) for r in CHATS]
    prompts = replace(as_prompts(texts, tiny), built=True)
    said = told(
        "built_prompt_holds_the_stored_one",
        prompts=prompts,
        rows=as_rows(CHATS),
        tokenizer=tiny,
        template=ChatTemplate(tiny),
    )
    assert "(and ends)" in said
    assert "<|im_start|>assistant" in said


PAIR = {
    "prompt": "What is the number of apples?",
    "chosen": "There are four of them.",
    "rejected": "I do not know it.",
}


@pytest.mark.parametrize(
    ("check", "change", "bad"),
    [
        ("chosen_differs_from_rejected", {"rejected": "There are four of them.<|im_end|>"}, True),
        ("chosen_differs_from_rejected", {"rejected": "There are four of them.</s>\n"}, True),
        ("chosen_differs_from_rejected", {"rejected": "There are four of them. Or five."}, False),
        (
            "pairs_do_not_repeat_their_prompt",
            {"chosen": "Human: What is the number of apples?\n\nAssistant: four"},
            True,
        ),
        (
            "pairs_do_not_repeat_their_prompt",
            {"prompt": "Instruction:", "chosen": "Response: anything at all"},
            False,
        ),
        ("pairs_do_not_repeat_their_prompt", {"chosen": "Human: beings eat four."}, False),
    ],
)
def test_pairs_are_compared_without_markers(check: str, change: Row, bad: bool) -> None:
    """End markers make no other response, and a role word hides no prompt."""
    assert bool(told(check, rows=as_rows([{**PAIR, **change}] * 6))) is bad
