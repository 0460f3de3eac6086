"""Bugs of the row families that users write, each planted into a small project on a real tokenizer: found, by the right check.

Each case names the checks of which at least one must find it, and the others that may speak of it too: every other error or
warning would send the user the wrong way.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support import real
from support.benches import (
    BASE,
    LLAMA2,
    LLAMA3,
    MISTRAL,
    QWEN,
    TOOLS,
    Bench,
    find,
    packing,
    pairs,
    relabel,
    starts,
)
from support.pipelines import (
    CHATS,
    FRUITS,
    IGNORE,
    QA,
    SYSTEM,
    THOUGHTS,
    alpaca,
    chat,
    generation,
    labelled,
    messages,
    padded,
    qa,
    spans,
)
from support.projects import alarms

from llmguard.findings import Finding

Row = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """A planted bug."""

    run: Callable[[Bench], list[Finding]]
    found_by: tuple[str, ...]
    also: tuple[str, ...] = ()


CASES: dict[str, Case] = {}


def bug(*found_by: str, also: tuple[str, ...] = ()) -> Callable[[Callable[[Bench], list[Finding]]], Any]:
    """Register a case."""

    def register(run: Callable[[Bench], list[Finding]]) -> Any:
        CASES[run.__name__] = Case(run, found_by, also)
        return run

    return register


# masking


@bug("every_prompt_token_is_masked")
def response_marker_in_the_users_text(bench: Bench) -> list[Finding]:
    """The search for the response marker stops at the user's own words."""
    rows = [
        {**r, "prompt": r["prompt"] + "\nWrite it as:\n### Response:\nnumber, fruit"} if i % 3 == 0 else r
        for i, r in enumerate(QA)
    ]

    def encode(tok: Any, row: Row) -> Row:
        made, marker = qa(tok, alpaca(row), row["response"]), tok("### Response:\n")["input_ids"]
        at = find(made["input_ids"], marker[-2:]) + 2
        return labelled(made["input_ids"], range(at, len(made["input_ids"])))

    return bench.base(BASE, encode, rows)


@bug("every_response_token_is_trained")
def bos_counted_twice_in_the_prompt(bench: Bench) -> list[Finding]:
    """len(tokenizer(rendered prompt)) counts a BOS that the row has once."""

    def encode(tok: Any, row: Row) -> Row:
        talk = row["messages"][:2]
        made = chat(tok, talk)
        prompt = tok.apply_chat_template(talk[:1], tokenize=False, add_generation_prompt=True)
        return labelled(made["input_ids"], range(len(tok(prompt)["input_ids"]), len(made["input_ids"])))

    rows = [{"messages": r["messages"][:2]} for r in CHATS]
    return bench.chat(LLAMA3, encode, rows)


@bug("every_prompt_token_is_masked")
def off_by_one_on_rows_with_a_system_turn(bench: Bench) -> list[Finding]:
    def encode(tok: Any, row: Row) -> Row:
        made = chat(tok, row["messages"])
        if row["messages"][0]["role"] != "system":
            return made
        return relabel(
            made,
            lambda ids, labels: [
                t if n == IGNORE and t != IGNORE else (ids[i] if n != IGNORE else t)
                for i, (t, n) in enumerate(zip(labels, [*labels[1:], IGNORE], strict=True))
            ],
        )

    return bench.chat(QWEN, encode, messages(lambda i: i % 3 == 0))


@bug("every_prompt_token_is_masked")
def tool_results_trained(bench: Bench) -> list[Finding]:
    """Everything behind the first answer is trained, what the tool returned too."""

    def encode(tok: Any, row: Row) -> Row:
        made = chat(tok, row["messages"])
        return relabel(made, lambda ids, labels: [IGNORE] * starts(labels)[0] + ids[starts(labels)[0] :])

    return bench.chat(QWEN, encode, TOOLS)


@bug("every_wanted_turn_is_trained")
def tool_calls_left_untrained(bench: Bench) -> list[Finding]:
    """Turns without content are skipped, though they hold the call."""

    def encode(tok: Any, row: Row) -> Row:
        made = chat(tok, row["messages"])
        return relabel(made, lambda ids, labels: [IGNORE] * starts(labels)[1] + labels[starts(labels)[1] :])

    rows = [*TOOLS, *CHATS]
    return bench.chat(
        QWEN, lambda tok, row: encode(tok, row) if row in TOOLS else chat(tok, row["messages"]), rows
    )


@bug("every_prompt_token_is_masked")
def headers_trained(bench: Bench) -> list[Finding]:
    """The role header of each answer is trained with it."""

    def encode(tok: Any, row: Row) -> Row:
        made = chat(tok, row["messages"])
        inside = {j for s in starts(made["labels"]) for j in range(s - 3, s)}
        return relabel(made, lambda ids, labels: [ids[i] if i in inside else t for i, t in enumerate(labels)])

    return bench.chat(QWEN, encode)


@bug("every_prompt_token_is_masked")
def end_of_the_users_turns_trained(bench: Bench) -> list[Finding]:
    """Every end-of-turn token is trained, the user's too."""

    def encode(tok: Any, row: Row) -> Row:
        end = tok.convert_tokens_to_ids("<|im_end|>")
        return relabel(
            chat(tok, row["messages"]),
            lambda ids, labels: [i if i == end else t for i, t in zip(ids, labels, strict=True)],
        )

    return bench.chat(QWEN, encode)


@bug("every_prompt_token_is_masked", also=("every_wanted_turn_is_trained",))
def mask_upside_down(bench: Bench) -> list[Finding]:
    """Prompts are trained and answers masked."""

    def encode(tok: Any, row: Row) -> Row:
        return relabel(
            chat(tok, row["messages"]),
            lambda ids, labels: [i if t == IGNORE else IGNORE for i, t in zip(ids, labels, strict=True)],
        )

    return bench.chat(QWEN, encode, None)


@bug("labels_are_not_shifted", also=("every_prompt_token_is_masked",))
def masked_with_the_pad_id(bench: Bench) -> list[Finding]:
    """The mask's value is the pad id, which the loss does not leave out."""

    def encode(tok: Any, row: Row) -> Row:
        return relabel(
            qa(tok, alpaca(row), row["response"]),
            lambda ids, labels: [0 if t == IGNORE else t for t in labels],
        )

    return bench.base(BASE, encode)


@bug("labels_are_not_shifted", also=("every_prompt_token_is_masked",))
def masked_with_minus_one(bench: Bench) -> list[Finding]:
    def encode(tok: Any, row: Row) -> Row:
        return relabel(
            chat(tok, row["messages"]), lambda ids, labels: [-1 if t == IGNORE else t for t in labels]
        )

    return bench.chat(QWEN, encode)


@bug("labels_are_not_shifted", also=("every_prompt_token_is_masked",))
def loss_mask_as_labels(bench: Bench) -> list[Finding]:
    """Zeros and ones, as a loss mask, in the place of labels."""

    def encode(tok: Any, row: Row) -> Row:
        return relabel(chat(tok, row["messages"]), lambda ids, labels: [int(t != IGNORE) for t in labels])

    return bench.chat(QWEN, encode)


@bug(
    "labels_are_not_shifted",
    also=(
        "every_prompt_token_is_masked",
        "every_wanted_turn_is_trained",
        "padding_is_never_trained",
    ),
)
def padded_on_the_left_labels_on_the_right(bench: Bench) -> list[Finding]:
    """The ids are padded to one length on the left, the labels of before on the right."""

    def encode(tok: Any, row: Row) -> Row:
        made = qa(tok, alpaca(row), row["response"])
        more = 96 - len(made["input_ids"])
        return {
            "input_ids": [0] * more + made["input_ids"],
            "labels": made["labels"] + [IGNORE] * more,
            "attention_mask": [0] * more + made["attention_mask"],
        }

    return bench.base(BASE, encode)


@bug(
    "labels_are_not_shifted",
    "columns_are_as_long_as_their_ids",
    also=(
        "every_prompt_token_is_masked",
        "every_response_token_is_trained",
        "terminator_is_trained",
    ),
)
def labels_of_another_row(bench: Bench) -> list[Finding]:
    """A shuffle that moved ids and not labels."""
    kept: list[Row] = []

    def encode(tok: Any, row: Row) -> Row:
        made = qa(tok, alpaca(row), row["response"])
        kept.append(made)
        other = kept[-2]["labels"] if len(kept) > 1 else made["labels"]
        return {**made, "labels": (other + [IGNORE] * 99)[: len(made["labels"])]}

    return bench.base(BASE, encode)


@bug("every_response_token_is_trained")
def thinking_masked_by_a_search_for_its_end(bench: Bench) -> list[Finding]:
    """The mask runs to </think>, so that thinking is never learnt."""

    def encode(tok: Any, row: Row) -> Row:
        made = chat(tok, row["messages"])
        end = made["input_ids"].index(tok.convert_tokens_to_ids("</think>"))
        return relabel(made, lambda ids, labels: [IGNORE] * (end + 1) + labels[end + 1 :])

    return bench.chat("qwen3", encode, THOUGHTS)


@bug("every_response_token_is_trained")
def first_word_lost_in_later_turns(bench: Bench) -> list[Finding]:
    def encode(tok: Any, row: Row) -> Row:
        made = chat(tok, row["messages"])
        late = set(starts(made["labels"])[1:])
        return relabel(made, lambda ids, labels: [IGNORE if i in late else t for i, t in enumerate(labels)])

    return bench.chat(MISTRAL, encode)


@bug("every_prompt_token_is_masked")
def labels_never_closed(bench: Bench) -> list[Finding]:
    """The mask opens at the first answer and never closes: later questions are trained."""

    def encode(tok: Any, row: Row) -> Row:
        made = chat(tok, row["messages"])
        return relabel(made, lambda ids, labels: [IGNORE] * starts(labels)[0] + ids[starts(labels)[0] :])

    return bench.chat(LLAMA2, encode)


@bug("terminator_is_trained")
def end_of_turn_masked_in_earlier_turns(bench: Bench) -> list[Finding]:
    """Only the last answer's end is trained."""

    def encode(tok: Any, row: Row) -> Row:
        end = tok.convert_tokens_to_ids("<|eot_id|>")
        made = chat(tok, row["messages"])
        return relabel(
            made,
            lambda ids, labels: [
                IGNORE if t == end and i < len(ids) - 2 else t for i, t in enumerate(labels)
            ],
        )

    return bench.chat(LLAMA3, encode)


@bug("every_response_token_is_trained")
def padding_id_masked_inside_the_answer(bench: Bench) -> list[Finding]:
    """labels[labels == pad_id] = -100, where the pad token is a frequent one (id of `.` here)."""

    def encode(tok: Any, row: Row) -> Row:
        pad = tok(".", add_special_tokens=False)["input_ids"][0]
        return relabel(
            qa(tok, alpaca(row), row["response"]),
            lambda ids, labels: [IGNORE if t == pad else t for t in labels],
        )

    return bench.base(BASE, encode)


# tokens


@bug(
    "response_ends_with_its_terminator",
    "training_text_follows_its_format",
    "ids_match_their_text",
    also=("training_starts_with_the_generation_prompt",),
)
def eos_before_the_end_of_turn(bench: Bench) -> list[Finding]:
    """The answer gets EOS, and the template its end of turn behind it."""

    def encode(tok: Any, row: Row) -> Row:
        talk = [
            {**m, "content": m["content"] + "<|endoftext|>"} if m["role"] == "assistant" else m
            for m in row["messages"]
        ]
        return chat(tok, talk)

    return bench.chat(QWEN, encode)


@bug("control_tokens_are_single_ids", also=("training_starts_with_the_generation_prompt",))
def special_tokens_split_into_letters(bench: Bench) -> list[Finding]:
    """Rendered text tokenised with split_special_tokens=True."""

    def encode(tok: Any, row: Row) -> Row:
        text, turns = spans(tok, row["messages"])
        ids: list[int] = []
        trained: list[int] = []
        at = 0
        for part in re.split(r"(<\|)", text):
            whole = tok(part, add_special_tokens=False, return_offsets_mapping=True)
            trained += [
                len(ids) + i
                for i, (a, _) in enumerate(whole["offset_mapping"])
                if any(s <= at + a < e for s, e in turns)
            ]
            ids, at = ids + whole["input_ids"], at + len(part)
        return labelled(ids, trained)

    return bench.chat(QWEN, encode)


@bug(
    "every_row_has_one_bos",
    also=(
        "training_text_follows_its_format",
        "training_starts_with_the_generation_prompt",
    ),
)
def bos_before_every_turn(bench: Bench) -> list[Finding]:
    """The template is applied turn by turn, and writes BOS each time."""

    def encode(tok: Any, row: Row) -> Row:
        ids: list[int] = []
        trained: list[int] = []
        for m in row["messages"]:
            more = tok.apply_chat_template([m], tokenize=True, return_dict=False)
            if m["role"] == "assistant":
                trained += range(len(ids) + 5, len(ids) + len(more))
            ids += more
        return labelled(ids, trained)

    return bench.chat(LLAMA3, encode)


@bug("nothing_is_trained_after_the_terminator")
def eos_twice(bench: Bench) -> list[Finding]:
    """The text has EOS, and the tokenizer (add_eos_token) adds another: a note."""

    def encode(tok: Any, row: Row) -> Row:
        made = qa(tok, alpaca(row), row["response"])
        ids = [*made["input_ids"], tok.eos_token_id]
        return labelled(ids, [i for i, t in enumerate([*made["labels"], 0]) if t != IGNORE])

    return bench.base(BASE, encode)


@bug("encoded_rows_match_the_split")
def prepared_by_another_tokenizer(bench: Bench) -> list[Finding]:
    other = real.tokenizer("gpt2")
    return bench.base(BASE, None, prepared=[qa(other, alpaca(r), r["response"]) for r in QA])


@bug("ids_match_their_text", "tokenizer_is_lossless", also=("training_starts_with_the_generation_prompt",))
def text_lower_cased(bench: Bench) -> list[Finding]:
    return bench.base(BASE, lambda tok, row: qa(tok, alpaca(row).lower(), row["response"].lower()))


@bug("ids_match_their_text")
def line_breaks_collapsed(bench: Bench) -> list[Finding]:
    return bench.base(BASE, lambda tok, row: qa(tok, alpaca(row), " ".join(row["response"].split())))


@bug("training_starts_with_the_generation_prompt")
def prefix_space_on_one_side(bench: Bench) -> list[Finding]:
    """Training encodes ' prompt', generation 'prompt' (add_prefix_space changed in between)."""
    return bench.base(
        BASE,
        lambda tok, row: qa(tok, " " + row["prompt"], " " + row["response"]),
        form="completion",
        build=lambda tok, row: row["prompt"],
    )


@bug("ids_match_their_text")
def html_escaped(bench: Bench) -> list[Finding]:
    rows = [{**r, "response": r["response"] + f'\nThat is {i} < {i + 9} & "true".'} for i, r in enumerate(QA)]

    def encode(tok: Any, row: Row) -> Row:
        import html

        return qa(tok, alpaca(row), html.escape(row["response"]))

    return bench.base(BASE, encode, rows)


# template


@bug(
    "training_text_follows_its_format",
    "every_prompt_token_is_masked",
    "ids_match_their_text",
    also=(
        "every_wanted_turn_is_trained",
        "training_starts_with_the_generation_prompt",
    ),
)
def sharegpt_roles_the_wrong_way_round(bench: Bench) -> list[Finding]:
    """gpt -> user, human -> assistant."""
    rows = [
        {
            "conversations": [
                {"from": "human" if m["role"] == "user" else "gpt", "value": m["content"]}
                for m in r["messages"]
            ]
        }
        for r in CHATS
    ]
    wrong = {"gpt": "user", "human": "assistant"}

    def encode(tok: Any, row: Row) -> Row:
        return chat(
            tok,
            [{"role": "system", "content": "Talk."}]
            + [{"role": wrong[m["from"]], "content": m["value"]} for m in row["conversations"]],
        )

    return bench.chat(QWEN, encode, rows)


@bug("training_text_follows_its_format", also=("training_starts_with_the_generation_prompt",))
def two_formats_by_rows(bench: Bench) -> list[Finding]:
    """Every other row is in another format."""

    def encode(tok: Any, row: Row) -> Row:
        if CHATS.index(row) % 2:
            talk = row["messages"]
            first = qa(tok, alpaca({"prompt": talk[0]["content"]}), talk[1]["content"])
            second = qa(tok, alpaca({"prompt": talk[2]["content"]}), talk[3]["content"])
            return {k: first[k] + second[k] for k in first}
        return chat(tok, row["messages"])

    return bench.chat(QWEN, encode)


@bug("training_text_follows_its_format")
def generation_prompt_behind_training_rows(bench: Bench) -> list[Finding]:
    """add_generation_prompt=True in training: every row ends with an opened turn."""

    def encode(tok: Any, row: Row) -> Row:
        made, more = (
            chat(tok, row["messages"]),
            tok("<|im_start|>assistant\n", add_special_tokens=False)["input_ids"],
        )
        return {
            "input_ids": made["input_ids"] + more,
            "labels": made["labels"] + [IGNORE] * len(more),
            "attention_mask": made["attention_mask"] + [1] * len(more),
        }

    return bench.chat(QWEN, encode)


@bug("training_starts_with_the_generation_prompt", also=("built_prompt_holds_the_stored_one",))
def prompts_with_another_system_prompt(bench: Bench) -> list[Finding]:
    def build(tok: Any, row: Row) -> list[int]:
        return generation(tok, [{"role": "system", "content": "You are a pirate."}, *row["messages"]])

    return bench.chat(QWEN, lambda tok, row: chat(tok, row["messages"]), build=build)


@bug(
    "training_text_follows_its_format",
    "no_role_header_is_doubled",
    "training_starts_with_the_generation_prompt",
)
def default_system_in_every_turn(bench: Bench) -> list[Finding]:
    """The template is applied turn by turn, and injects its default system turn each time."""

    def encode(tok: Any, row: Row) -> Row:
        ids: list[int] = []
        trained: list[int] = []
        for m in row["messages"]:
            more = tok.apply_chat_template([m], tokenize=True, return_dict=False)
            if m["role"] == "assistant":
                said = tok(m["content"] + "<|im_end|>", add_special_tokens=False)["input_ids"]
                at = find(more, said)
                trained += range(len(ids) + at, len(ids) + at + len(said))
            ids += more
        return labelled(ids, trained)

    return bench.chat(QWEN, encode)


@bug("training_text_follows_its_format", "training_starts_with_the_generation_prompt")
def system_turns_dropped(bench: Bench) -> list[Finding]:
    """encode reads the turns of user and assistant only."""
    return bench.chat(
        QWEN,
        lambda tok, row: chat(tok, [m for m in row["messages"] if m["role"] != "system"]),
        messages(True),
    )


@bug("training_text_follows_its_format", also=("training_starts_with_the_generation_prompt",))
def line_break_behind_the_header_missing(bench: Bench) -> list[Finding]:
    def encode(tok: Any, row: Row) -> Row:
        ids: list[int] = []
        trained: list[int] = []
        for m in row["messages"]:
            ids += tok(f"<|im_start|>{m['role']}", add_special_tokens=False)["input_ids"]
            said = tok(f"{m['content']}<|im_end|>", add_special_tokens=False)["input_ids"]
            trained += range(len(ids), len(ids) + len(said)) if m["role"] == "assistant" else []
            ids += said
        return labelled(ids, trained)

    return bench.chat(QWEN, encode, messages(True))


# prompts


@bug("built_prompt_holds_the_stored_one")
def generation_prompt_missing(bench: Bench) -> list[Finding]:
    """add_generation_prompt is left out: the model goes on with the user's turn."""

    def build(tok: Any, row: Row) -> str:
        return str(tok.apply_chat_template(row["messages"][:-1], tokenize=False))

    return bench.chat(QWEN, lambda tok, row: chat(tok, row["messages"]), build=build)


@bug(
    "chat_prompts_use_the_template",
    "training_starts_with_the_generation_prompt",
    also=("built_prompt_holds_the_stored_one",),
)
def prompts_cut_from_the_right(bench: Bench) -> list[Finding]:
    """Prompts are truncated on the right: their generation prompt is lost."""
    return bench.chat(
        QWEN,
        lambda tok, row: chat(tok, row["messages"]),
        build=lambda tok, row: generation(tok, row["messages"])[:40],
    )


@bug("training_starts_with_the_generation_prompt", also=("built_prompt_holds_the_stored_one",))
def history_lost_in_prompts(bench: Bench) -> list[Finding]:
    """Generation asks the last question only."""
    return bench.chat(
        QWEN,
        lambda tok, row: chat(tok, row["messages"]),
        build=lambda tok, row: generation(tok, row["messages"][2:]),
    )


@bug("training_starts_with_the_generation_prompt")
def thinking_switched_off_for_prompts_only(bench: Bench) -> list[Finding]:
    """Training opens with thinking, generation with the empty thinking block."""
    return bench.chat(
        "qwen3",
        lambda tok, row: chat(tok, row["messages"]),
        THOUGHTS,
        build=lambda tok, row: generation(tok, row["messages"], enable_thinking=False),
    )


@bug("no_prompt_holds_its_own_answer")
def the_whole_row_is_rendered_as_prompt(bench: Bench) -> list[Finding]:
    def build(tok: Any, row: Row) -> str:
        return str(tok.apply_chat_template(row["messages"], tokenize=False, add_generation_prompt=True))

    return bench.chat(QWEN, lambda tok, row: chat(tok, row["messages"]), build=build)


# collation


def collated(bench: Bench, collate: Callable[[Any, list[Row]], Row], size: int = 4) -> list[Finding]:
    return bench.base(
        BASE, lambda tok, row: qa(tok, alpaca(row), row["response"]), collate=collate, size=size
    )


@bug("batch_padding_is_masked", "padding_is_never_trained")
def padded_to_a_length_with_labels_of_zero(bench: Bench) -> list[Finding]:
    return collated(bench, lambda tok, rows: padded(rows, 0, multiple=128, label=0))


@bug("collator_attends_to_content")
def attention_mask_dropped(bench: Bench) -> list[Finding]:
    return collated(
        bench, lambda tok, rows: {k: v for k, v in padded(rows, 0).items() if k != "attention_mask"}
    )


@bug(
    "collator_keeps_labels",
    also=(
        "batch_padding_is_masked",
        "labels_are_not_shifted",
        "every_prompt_token_is_masked",
    ),
)
def mask_value_replaced_in_the_collator(bench: Bench) -> list[Finding]:
    """-100 becomes 0, so that the ids can be decoded."""

    def collate(tok: Any, rows: list[Row]) -> Row:
        batch = padded(rows, 0)
        return {**batch, "labels": [[max(t, 0) for t in labels] for labels in batch["labels"]]}

    return collated(bench, collate)


@bug(
    "collator_keeps_labels",
    also=(
        "labels_are_not_shifted",
        "every_prompt_token_is_masked",
        "every_response_token_is_trained",
        "terminator_is_trained",
        "batch_padding_is_masked",
    ),
)
def rows_sorted_by_length_without_their_labels(bench: Bench) -> list[Finding]:
    def collate(tok: Any, rows: list[Row]) -> Row:
        batch, order = padded(rows, 0), sorted(range(len(rows)), key=lambda i: len(rows[i]["input_ids"]))
        return {
            **batch,
            "input_ids": [batch["input_ids"][i] for i in order],
            "attention_mask": [batch["attention_mask"][i] for i in order],
        }

    return collated(bench, collate)


@bug("collator_keeps_labels", "responses_are_not_cut")
def collator_cuts_rows(bench: Bench) -> list[Finding]:
    """The collator cuts to a length of its own."""
    return collated(
        bench, lambda tok, rows: {k: [v[:40] for v in values] for k, values in padded(rows, 0).items()}
    )


@bug("packed_documents_are_told_apart", "batches_keep_every_row")
def rows_joined_without_positions(bench: Bench) -> list[Finding]:
    """Padding-free collation that forgets position_ids."""
    return collated(
        bench, lambda tok, rows: {k: [[t for r in rows for t in r[k]]] for k in ("input_ids", "labels")}
    )


# packing


@bug("packed_documents_are_told_apart")
def positions_go_on_over_packed_rows(bench: Bench) -> list[Finding]:
    return collated(bench, lambda tok, rows: packing(rows, lambda n: list(range(sum(n)))))


@bug(
    "position_ids_restart_with_each_document",
    also=(
        "training_text_follows_its_format",
        "every_row_has_a_supervised_token",
        "training_starts_with_the_generation_prompt",
    ),
)
def documents_bounded_one_token_late(bench: Bench) -> list[Finding]:
    """Positions restart at the second token of each document."""
    return collated(
        bench, lambda tok, rows: packing(rows, lambda n: [0, *(i for k in n for i in range(k))][: sum(n)])
    )


@bug("position_ids_restart_with_each_document", also=("packed_documents_are_told_apart",))
def positions_start_at_two(bench: Bench) -> list[Finding]:
    """Positions as RoBERTa counts them: from the padding index on."""
    return collated(bench, lambda tok, rows: packing(rows, lambda n: [i + 2 for k in n for i in range(k)]))


# stale data


@bug("ids_match_their_text")
def a_third_of_the_texts_edited(bench: Bench) -> list[Finding]:
    tok = real.tokenizer(BASE)
    prepared = [
        qa(tok, alpaca(r), r["response"].replace("in all", "altogether") if i % 3 == 0 else r["response"])
        for i, r in enumerate(QA)
    ]
    return bench.base(BASE, None, prepared=prepared)


@bug("encoded_rows_match_the_split")
def rows_lost_in_preparation(bench: Bench) -> list[Finding]:
    tok = real.tokenizer(BASE)
    return bench.base(BASE, None, prepared=[qa(tok, alpaca(r), r["response"]) for r in QA[:-3]])


@bug("training_text_follows_its_format", also=("training_starts_with_the_generation_prompt",))
def prepared_with_an_older_format(bench: Bench) -> list[Finding]:
    tok = real.tokenizer(BASE)
    return bench.base(
        BASE, None, prepared=[qa(tok, f"Question: {r['prompt']}\nAnswer: ", r["response"]) for r in QA]
    )


@bug("responses_are_not_cut")
def last_turn_lost(bench: Bench) -> list[Finding]:
    """Conversations are encoded up to their last question."""
    return bench.chat(QWEN, lambda tok, row: chat(tok, row["messages"][:-1]))


# truncation


@bug("responses_are_not_cut")
def cut_and_then_ended(bench: Bench) -> list[Finding]:
    """Answers are cut to a length and EOS put behind: the model learns to stop in mid-sentence."""

    def encode(tok: Any, row: Row) -> Row:
        made = qa(tok, alpaca(row), row["response"])
        ids, labels = made["input_ids"][:44], made["labels"][:44]
        ids[-1] = tok.eos_token_id
        return labelled(ids, [i for i, t in enumerate(labels) if t != IGNORE])

    return bench.base(BASE, encode)


@bug("columns_are_as_long_as_their_ids", also=("responses_are_not_cut",))
def ids_cut_and_labels_not(bench: Bench) -> list[Finding]:
    def encode(tok: Any, row: Row) -> Row:
        made = qa(tok, alpaca(row), row["response"])
        return {**made, "input_ids": made["input_ids"][:44], "attention_mask": made["attention_mask"][:44]}

    return bench.base(BASE, encode)


@bug("every_prompt_token_is_masked", "every_response_token_is_trained")
def cut_from_the_left_with_the_old_prompt_length(bench: Bench) -> list[Finding]:
    """Ids are cut on the left, labels made by the length that the prompt had before."""

    def encode(tok: Any, row: Row) -> Row:
        made = qa(tok, alpaca(row), row["response"])
        n = starts(made["labels"])[0]
        ids = made["input_ids"][-44:]
        return labelled(ids, range(n, len(ids)))

    return bench.base(BASE, encode)


@bug("responses_are_not_cut", "ids_match_their_text")
def answers_cut_by_characters(bench: Bench) -> list[Finding]:
    return bench.base(BASE, lambda tok, row: qa(tok, alpaca(row), row["response"][:30]))


# preference


def preferred(bench: Bench, rows: list[Row], **given: Any) -> list[Finding]:
    return bench.chat(QWEN, None, rows, **given)


@bug("chosen_scores_above_rejected")
def a_third_of_the_pairs_swapped(bench: Bench) -> list[Finding]:
    def change(i: int, row: Row) -> Row:
        scored = {**row, "score_chosen": 8.0, "score_rejected": 3.0}
        return (
            scored
            if i % 3
            else {
                **scored,
                "chosen": row["rejected"],
                "rejected": row["chosen"],
                "score_chosen": 3.0,
                "score_rejected": 8.0,
            }
        )

    return preferred(bench, pairs(change))


@bug("pairs_do_not_repeat_their_prompt")
def prompt_again_inside_chosen(bench: Bench) -> list[Finding]:
    return preferred(bench, pairs(lambda i, r: {**r, "chosen": f"{r['prompt']}\n{r['chosen']}"}))


@bug("pairs_do_not_repeat_their_prompt", also=("role_markers_are_not_in_the_text",))
def prompt_again_behind_a_role_word(bench: Bench) -> list[Finding]:
    return preferred(
        bench,
        pairs(
            lambda i, r: {
                **r,
                "chosen": f"Human: {r['prompt']}\n\nAssistant: {r['chosen']}",
                "rejected": f"Human: {r['prompt']}\n\nAssistant: {r['rejected']}",
            }
        ),
    )


@bug(
    "chosen_differs_from_rejected",
    also=(
        "pair_responses_hold_no_control_tokens",
        "role_markers_are_not_in_the_text",
    ),
)
def pairs_that_differ_in_their_ending_only(bench: Bench) -> list[Finding]:
    """Rejected is chosen with an EOS behind."""
    return preferred(bench, pairs(lambda i, r: {**r, "rejected": r["chosen"] + "<|im_end|>"}))


@bug("pairs_share_their_prompt")
def rejected_of_the_next_row(bench: Bench) -> list[Finding]:
    rows = pairs()

    def talk(row: Row, said: str) -> list[Row]:
        return [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": said}]

    made = [
        {"chosen": talk(r, r["chosen"]), "rejected": talk(n, n["rejected"])}
        for r, n in zip(rows, rows[1:] + rows[:1], strict=True)
    ]
    return preferred(bench, made)


# a second round


CODE: list[Row] = [
    {
        "prompt": f"Write a function that adds {i} to each of the {fruit}.",
        "response": f"def add(xs):\n    found = []\n    for x in xs:\n        found.append(x + {i})\n    return found  # {fruit}",
    }
    for i, fruit in enumerate(FRUITS)
]


@bug("ids_match_their_text")
def indentation_collapsed(bench: Bench) -> list[Finding]:
    """Runs of spaces become one, so that code loses its indentation."""
    return bench.base(BASE, lambda tok, row: qa(tok, alpaca(row), re.sub(" +", " ", row["response"])), CODE)


@bug("ids_match_their_text")
def spaces_lost(bench: Bench) -> list[Finding]:
    """Text that went through decode and back lost the spaces between its words."""
    return bench.base(BASE, lambda tok, row: qa(tok, alpaca(row), row["response"].replace(" ", "")))


@bug("ids_match_their_text", "training_text_follows_its_format", "training_starts_with_the_generation_prompt")
def tool_calls_dropped(bench: Bench) -> list[Finding]:
    """encode reads role and content alone: calls are lost."""
    return bench.chat(
        QWEN,
        lambda tok, row: chat(tok, [{"role": m["role"], "content": m["content"]} for m in row["messages"]]),
        TOOLS,
    )


TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a town.",
        "parameters": {"type": "object", "properties": {}},
    },
}


@bug(
    "training_starts_with_the_generation_prompt",
    also=("training_text_follows_its_format", "built_prompt_holds_the_stored_one"),
)
def tools_in_prompts_only(bench: Bench) -> list[Finding]:
    return bench.chat(
        QWEN,
        lambda tok, row: chat(tok, row["messages"]),
        TOOLS,
        build=lambda tok, row: generation(tok, row["messages"], tools=[TOOL]),
    )


@bug(
    "training_text_follows_its_format",
    "ids_match_their_text",
    also=("training_starts_with_the_generation_prompt",),
)
def first_turns_dropped(bench: Bench) -> list[Finding]:
    """Only the last exchange of a conversation is kept."""
    return bench.chat(QWEN, lambda tok, row: chat(tok, row["messages"][-2:]))


@bug(
    "training_text_follows_its_format",
    also=(
        "training_starts_with_the_generation_prompt",
        "control_tokens_are_single_ids",
        "every_row_has_one_bos",
    ),
)
def template_of_another_family(bench: Bench) -> list[Finding]:
    other = real.tokenizer(LLAMA2).chat_template.replace("bos_token", "'<s>'").replace("eos_token", "'</s>'")
    return bench.chat(QWEN, lambda tok, row: chat(tok, row["messages"], chat_template=other))


@bug("every_prompt_token_is_masked", "every_response_token_is_trained")
def offsets_in_bytes(bench: Bench) -> list[Finding]:
    """The boundary is counted in bytes and compared with characters: right until someone writes é."""
    rows = [
        {
            "prompt": r["prompt"] + (" À l’été, s’il vous plaît." if i % 3 == 0 else ""),
            "response": r["response"],
        }
        for i, r in enumerate(QA)
    ]

    def encode(tok: Any, row: Row) -> Row:
        text = alpaca(row) + row["response"] + tok.eos_token
        whole = tok(text, return_offsets_mapping=True)
        return labelled(
            whole["input_ids"],
            [i for i, (a, _) in enumerate(whole["offset_mapping"]) if a >= len(alpaca(row).encode())],
        )

    return bench.base(BASE, encode, rows)


@bug("every_prompt_token_is_masked")
def answer_found_in_the_question(bench: Bench) -> list[Finding]:
    """text.find(answer) hits the question, where it stands first."""
    rows = [
        {
            "prompt": f"Say yes or no: is {i} more than {i % 5 + 3}?",
            "response": "yes" if i > i % 5 + 3 else "no",
        }
        for i in range(16)
    ]

    def encode(tok: Any, row: Row) -> Row:
        text = alpaca(row) + row["response"] + tok.eos_token
        whole = tok(text, return_offsets_mapping=True)
        return labelled(
            whole["input_ids"],
            [i for i, (a, _) in enumerate(whole["offset_mapping"]) if a >= text.find(row["response"])],
        )

    return bench.base(BASE, encode, rows)


@bug("every_response_token_is_trained", also=("terminator_is_trained",))
def labels_end_after_a_number_of_tokens(bench: Bench) -> list[Finding]:
    """A maximal length of targets masks the end of answers."""

    def encode(tok: Any, row: Row) -> Row:
        made = qa(tok, alpaca(row), row["response"])
        n = starts(made["labels"])[0] + 12
        return relabel(made, lambda ids, labels: labels[:n] + [IGNORE] * (len(labels) - n))

    return bench.base(BASE, encode)


@bug("every_response_token_is_trained", also=("terminator_is_trained",))
def labels_masked_at_random(bench: Bench) -> list[Finding]:
    """Fifteen per cent of the labels are left out, as for masked language models."""

    def encode(tok: Any, row: Row) -> Row:
        return relabel(
            qa(tok, alpaca(row), row["response"]),
            lambda ids, labels: [IGNORE if i % 7 == 3 else t for i, t in enumerate(labels)],
        )

    return bench.base(BASE, encode)


@bug("every_row_has_a_supervised_token")
def some_rows_masked_wholly(bench: Bench) -> list[Finding]:
    def encode(tok: Any, row: Row) -> Row:
        made = chat(tok, row["messages"])
        return relabel(made, lambda ids, labels: [IGNORE] * len(ids) if len(ids) % 3 == 0 else labels)

    return bench.chat(QWEN, encode)


@bug("labels_are_not_shifted", also=("every_prompt_token_is_masked",))
def mask_in_an_unsigned_type(bench: Bench) -> list[Finding]:
    """-100 in sixteen bits without a sign is 65436."""

    def encode(tok: Any, row: Row) -> Row:
        return relabel(qa(tok, alpaca(row), row["response"]), lambda ids, labels: [t % 65536 for t in labels])

    return bench.base(BASE, encode)


@bug(
    "ids_match_their_text",
    also=(
        "response_ends_with_its_terminator",
        "every_wanted_turn_is_trained",
        "every_prompt_token_is_masked",
        "training_text_follows_its_format",
    ),
)
def answer_twice(bench: Bench) -> list[Finding]:
    """Prompt + answer is joined with the answer once more."""
    return bench.base(BASE, lambda tok, row: qa(tok, alpaca(row) + row["response"] + "\n", row["response"]))


@bug("training_starts_with_the_generation_prompt")
def space_behind_the_prompt(bench: Bench) -> list[Finding]:
    """Generation asks with a space at the end, training has it at the start of the answer."""
    form = {"prompt": "Q: {prompt}\nA:", "response": " {response}", "end": "<|endoftext|>"}
    return bench.base(
        BASE,
        lambda tok, row: qa(tok, f"Q: {row['prompt']}\nA:", " " + row["response"]),
        form=form,
        build=lambda tok, row: f"Q: {row['prompt']}\nA: ",
    )


@bug(
    "training_starts_with_the_generation_prompt",
    "built_prompt_holds_the_stored_one",
    also=("no_prompt_holds_its_own_answer",),
)
def prompts_of_another_column(bench: Bench) -> list[Finding]:
    rows = [{**r, "title": "Arithmetic"} for r in QA]
    return bench.base(
        BASE,
        lambda tok, row: qa(tok, alpaca(row), row["response"]),
        rows,
        build=lambda tok, row: alpaca({"prompt": row["title"]}),
    )


@bug(
    "collator_attends_to_content",
    also=(
        "every_row_has_one_bos",
        "ids_match_their_text",
        "every_row_has_a_supervised_token",
        "batch_padding_is_masked",
        "training_starts_with_the_generation_prompt",
    ),
)
def attention_upside_down(bench: Bench) -> list[Finding]:
    def collate(tok: Any, rows: list[Row]) -> Row:
        batch = padded(rows, 0)
        return {**batch, "attention_mask": [[1 - t for t in mask] for mask in batch["attention_mask"]]}

    return collated(bench, collate)


@bug(
    "collator_keeps_labels",
    also=(
        "padding_is_never_trained",
        "batch_padding_is_masked",
        "labels_are_not_shifted",
        "every_prompt_token_is_masked",
        "every_response_token_is_trained",
        "terminator_is_trained",
        "every_wanted_turn_is_trained",
    ),
)
def labels_padded_on_the_other_side(bench: Bench) -> list[Finding]:
    return collated(
        bench, lambda tok, rows: {**padded(rows, 0), "labels": padded(rows, 0, left=True)["labels"]}
    )


@bug(
    "training_text_follows_its_format",
    also=("every_prompt_token_is_masked", "training_starts_with_the_generation_prompt"),
)
def later_questions_without_their_role(bench: Bench) -> list[Finding]:
    """Only the first user turn gets its header."""

    def encode(tok: Any, row: Row) -> Row:
        made = chat(tok, row["messages"])
        header = tok("<|im_start|>user\n", add_special_tokens=False)["input_ids"]
        at = len(made["input_ids"]) - 1 - find(made["input_ids"][::-1], header[::-1]) - len(header) + 1
        return {k: v[:at] + v[at + len(header) :] for k, v in made.items()}

    return bench.chat(QWEN, encode)


@bug("ids_match_their_text")
def unicode_made_ascii(bench: Bench) -> list[Finding]:
    rows = [{**r, "response": r["response"] + f" Voilà: “très bien” № {i}."} for i, r in enumerate(QA)]
    return bench.base(
        BASE, lambda tok, row: qa(tok, alpaca(row), row["response"].encode("ascii", "ignore").decode()), rows
    )


@bug("pairs_share_their_prompt")
def system_turn_in_chosen_only(bench: Bench) -> list[Finding]:
    def talk(row: Row, said: str) -> list[Row]:
        return [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": said}]

    made = [
        {
            "chosen": [{"role": "system", "content": SYSTEM}, *talk(r, r["chosen"])],
            "rejected": talk(r, r["rejected"]),
        }
        for r in pairs()
    ]
    return preferred(bench, made)


@bug("pairs_do_not_repeat_their_prompt")
def prompt_that_holds_the_answer(bench: Bench) -> list[Finding]:
    """The prompt's messages are the whole conversation, and the answer comes again."""
    rows = [
        {
            "prompt": [
                {"role": "user", "content": r["prompt"]},
                {"role": "assistant", "content": r["chosen"]},
            ],
            "chosen": [{"role": "assistant", "content": r["chosen"]}],
            "rejected": [{"role": "assistant", "content": r["rejected"]}],
        }
        for r in pairs()
    ]
    return preferred(bench, rows)


@bug("pairs_differ_within_max_length", also=("rows_fit_max_length",))
def difference_beyond_max_length(bench: Bench) -> list[Finding]:
    rows = pairs(
        lambda i, r: {
            **r,
            "chosen": "Let us think step by step. " * 30 + r["chosen"],
            "rejected": "Let us think step by step. " * 30 + r["rejected"],
        }
    )
    return preferred(bench, rows, settings={"pipeline": {"max_length": 128}})


@bug("chosen_differs_from_rejected", "every_response_has_text")
def rejected_empty_in_half(bench: Bench) -> list[Finding]:
    return preferred(bench, pairs(lambda i, r: {**r, "rejected": "" if i % 2 else r["rejected"]}))


@bug("chosen_scores_above_rejected")
def all_pairs_swapped_by_scores_of_messages(bench: Bench) -> list[Finding]:
    return preferred(bench, pairs(lambda i, r: {**r, "score_chosen": 2, "score_rejected": 9}))


@bug("ids_match_their_text")
def prepared_rows_in_two_versions(bench: Bench) -> list[Finding]:
    """A cache of the old text for one row in four."""
    tok = real.tokenizer(QWEN)
    old = [
        {
            "messages": [
                *r["messages"][:3],
                {"role": "assistant", "content": r["messages"][3]["content"].replace("are left", "remain")},
            ]
        }
        for r in CHATS
    ]
    return bench.chat(
        QWEN,
        None,
        prepared=[
            chat(tok, (o if i % 4 == 0 else r)["messages"])
            for i, (o, r) in enumerate(zip(old, CHATS, strict=True))
        ],
    )


@pytest.mark.parametrize("name", CASES)
def test_a_planted_bug_is_found(name: str, tmp_path: Path) -> None:
    """One of its checks finds it, and no other sends the user elsewhere."""
    case = CASES[name]
    found = case.run(Bench(tmp_path))
    told = alarms(found) or {f.check: f for f in found}
    assert set(told) & set(case.found_by), {k: f.message for k, f in told.items()}
    assert not set(alarms(found)) - {*case.found_by, *case.also}
