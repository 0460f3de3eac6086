"""Borders of the checks of labels, batches, pairs and rows: the least evidence on either side of each decision."""

from __future__ import annotations

from typing import Any

import pytest
from support import tiny as tokenizers
from support.bugs import severities

import llmguard
from llmguard.encoded import IGNORE_INDEX, Encoded, as_batches, as_encoded
from llmguard.formats import ChatTemplate, TextFormat, text_format
from llmguard.rows import Rows, as_rows

Row = dict[str, Any]
QA: list[Row] = [
    {"prompt": f"What is the number of apples after {i} days?", "response": f"The answer is {i} apples."}
    for i in range(6)
]
TALK: list[Row] = [
    {"messages": [
        {"role": role, "content": f"{content} {i}."}
        for role, content in (("user", "Name a fruit"), ("assistant", "An apple"), ("user", "Another"), ("assistant", "A pear"))
    ]}
    for i in range(6)
]  # fmt: skip


def encode(tok: Any, row: Row) -> Row:
    prompt = tok(f"### Instruction:\n{row['prompt']}\n\n### Response:\n")["input_ids"]
    response = tok(row["response"] + tok.eos_token)["input_ids"]
    return {"input_ids": prompt + response, "labels": [IGNORE_INDEX] * len(prompt) + response}


def talk(tok: Any, rows: Rows, *, trained: tuple[bool, ...], ends: bool = True) -> Encoded:
    """Conversations in ChatML with some of their responses trained, with or without their terminator."""
    found = []
    for turns in rows.turns:
        ids, labels, wanted = [], [], iter(trained)
        for turn in turns or ():
            head = tok(f"<|im_start|>{turn.role}\n")["input_ids"]
            said, end = tok(turn.content)["input_ids"], tok("<|im_end|>")["input_ids"]
            ids += [*head, *said, *end, *tok("\n")["input_ids"]]
            is_trained = turn.role == "assistant" and next(wanted)
            span = (
                [*said, *(end if ends else [IGNORE_INDEX])]
                if is_trained
                else [IGNORE_INDEX] * (len(said) + 1)
            )
            labels += [*[IGNORE_INDEX] * len(head), *span, IGNORE_INDEX]
        found.append({"input_ids": ids, "labels": labels})
    return as_encoded(found)


@pytest.fixture(scope="module")
def alpaca(tiny: Any) -> TextFormat:
    return text_format("alpaca", tiny.eos_token)


class TestLabels:
    """Columns, without any text."""

    def test_labels_of_other_lengths_say_nothing(self) -> None:
        """`every_row_has_a_supervised_token`: without labels, or with some of other lengths, rows are not judged."""
        check = llmguard.every_row_has_a_supervised_token
        for row in ({"input_ids": [1, 2, 3]}, {"input_ids": [1, 2, 3], "labels": [1, 2]}):
            found = check([row])
            assert (severities(found), found.looked_at) == ([], 0)

    def test_files_are_named_where_they_are_known(self) -> None:
        """`columns_are_as_long_as_their_ids`: with source rows the finding names the row's line, without them the encoded row."""
        check = llmguard.columns_are_as_long_as_their_ids
        encoded = [{"input_ids": [1, 2, 3], "labels": [1, 2]}]
        bare, told = check(encoded), check(encoded, Rows([{}], files=("a.jsonl",), origin=((0, 1),)))
        assert (severities(bare), severities(told)) == (["error"], ["error"])
        assert (bare[0].where.file, told[0].where.file) == ("encoded", "a.jsonl")

    def test_attended_pad_tokens_are_content(self, tiny: Any) -> None:
        """`padding_is_never_trained`: an attention mask decides where there is one; without it and a tokenizer, nothing is padding."""
        check, pad = llmguard.padding_is_never_trained, tiny.pad_token_id
        row = {"input_ids": [5, 6, pad], "labels": [IGNORE_INDEX, 6, pad]}
        assert severities(check([row])) == []
        assert severities(check([row], tokenizer=tiny)) == ["error"]
        assert severities(check([{**row, "attention_mask": [1, 1, 1]}], tokenizer=tiny)) == []
        assert severities(check([{**row, "attention_mask": [1, 1, 0]}], tokenizer=tiny)) == ["error"]


class TestTurns:
    """Conversations of two responses."""

    def test_earlier_responses_of_a_project_that_trains_the_last(self, tiny: Any) -> None:
        """`every_prompt_token_is_masked`: with `train_on = "last"` an earlier response is prompt, and the last one is not."""
        rows, template, check = as_rows(TALK), ChatTemplate(tiny), llmguard.every_prompt_token_is_masked
        last, both = (talk(tiny, rows, trained=t) for t in ((False, True), (True, True)))
        assert severities(check(last, rows, tiny, template, "last")) == []
        assert severities(check(both, rows, tiny, template, "last")) == ["error"]
        assert severities(check(both, rows, tiny, template)) == []

    def test_a_copy_of_the_ids_is_told_as_one(self, tiny: Any) -> None:
        """`every_prompt_token_is_masked`: of rows trained wholly, be their prompt one token, the cause is a copy of the ids."""
        rows = [{"prompt": "a", "response": r["response"]} for r in QA]
        ids = [tiny("a")["input_ids"] + tiny(r["response"] + tiny.eos_token)["input_ids"] for r in rows]
        whole = as_encoded([{"input_ids": i, "labels": i} for i in ids])
        part = as_encoded([{"input_ids": i, "labels": [*i[:-1], IGNORE_INDEX]} for i in ids])
        check, template = llmguard.every_prompt_token_is_masked, text_format("completion", tiny.eos_token)
        told, other = check(whole, as_rows(rows), tiny, template), check(part, as_rows(rows), tiny, template)
        assert (severities(told), severities(other)) == (["error"], ["error"])
        assert "labels are a copy of input_ids" in told[0].message
        assert "labels are a copy of input_ids" not in other[0].message

    def test_rows_that_train_something_are_counted(self, tiny: Any, alpaca: TextFormat) -> None:
        """`every_response_token_is_trained`, `boundary_falls_between_tokens`: one supervised token is enough, none is too few."""
        rows = [encode(tiny, r) for r in QA]
        last = len(rows[0]["labels"]) - 1
        rows[0]["labels"] = [IGNORE_INDEX] * (last + 1)
        rows[1]["labels"] = [IGNORE_INDEX] * (len(rows[1]["labels"]) - 1) + rows[1]["labels"][-1:]
        found = llmguard.every_response_token_is_trained(as_encoded(rows), as_rows(QA), tiny, alpaca)
        assert (severities(found), found.looked_at) == ([], len(QA) - 1)

    def test_which_turns_are_trained(self, tiny: Any) -> None:
        """`every_wanted_turn_is_trained`: both pass, the last alone is a warning, the first alone an error, none is another check's."""
        rows, template, check = as_rows(TALK), ChatTemplate(tiny), llmguard.every_wanted_turn_is_trained
        for trained, expected, judged in (
            ((True, True), [], 6), ((False, True), ["warning"], 6), ((True, False), ["error"], 6), ((False, False), [], 0),
        ):  # fmt: skip
            found = check(talk(tiny, rows, trained=trained), rows, tiny, template)
            assert (severities(found), found.looked_at) == (expected, judged), trained
        assert check(talk(tiny, rows, trained=(False, True)), rows, tiny, template, "last").looked_at == 0

    def test_a_masked_terminator(self, tiny: Any, alpaca: TextFormat) -> None:
        """`terminator_is_trained`: the token that ends a trained response is named; untrained and cut responses have none to train."""
        rows, template, check = as_rows(TALK), ChatTemplate(tiny), llmguard.terminator_is_trained
        assert severities(check(talk(tiny, rows, trained=(False, True)), rows, tiny, template)) == []
        told = check(talk(tiny, rows, trained=(True, True), ends=False), rows, tiny, template)
        assert (severities(told), told.looked_at) == (["error"], 6)
        assert "'<|im_end|>'" in told[0].message
        cut = [{n: v[:-5] for n, v in encode(tiny, r).items()} for r in QA[:3]]
        found = check(as_encoded([*cut, *(encode(tiny, r) for r in QA[3:])]), as_rows(QA), tiny, alpaca)
        assert (severities(found), found.looked_at) == ([], 3)


class TestBoundary:
    """A token that holds the end of the prompt and the start of the response."""

    def test_one_token_on_both_sides(self, tiny: Any) -> None:
        """`boundary_falls_between_tokens`: masked with the prompt an error, trained a warning, in rows that train nothing neither."""
        rows = [{"prompt": "th", "response": f"e answer is {i}"} for i in range(4)]
        template, check = text_format("completion", tiny.eos_token), llmguard.boundary_falls_between_tokens
        ids = [tiny(r["prompt"] + r["response"] + tiny.eos_token)["input_ids"] for r in rows]
        assert len(tiny("the")["input_ids"]) == 1
        for masked, kept, expected in (
            (1, None, ["error"]),
            (0, None, ["warning"]),
            (1, 2, ["error"]),
            (0, 1, ["warning"]),
            (9, 9, []),
        ):
            labels = [[IGNORE_INDEX] * min(masked, len(i)) + i[masked:] for i in ids]
            if kept is not None:
                labels = [row[:kept] + [IGNORE_INDEX] * (len(row) - kept) for row in labels]
            encoded = as_encoded([{"input_ids": i, "labels": x} for i, x in zip(ids, labels, strict=True)])
            found = check(encoded, as_rows(rows), tiny, template)
            assert (severities(found), found.looked_at) == (expected, 4), (masked, kept)


class TestBatches:
    """What a collator does."""

    def test_a_collator_that_fails_is_told_with_lengths(self) -> None:
        """`collator_takes_rows_of_unequal_length`: the finding says how long the rows were, where that is known; all rows are counted."""
        batches = as_batches([{"input_ids": [[1, 2, 3], [4, 5, 6]]}])
        assert llmguard.collator_takes_rows_of_unequal_length(batches).looked_at == 2
        failed = {"rows": [0, 2], "type": "ValueError", "message": "expected 3"}
        for lengths, said in (([3, 5], "(of 3, 5 tokens)"), (None, "rows 0 to 1: ValueError")):
            batches.facts["failed"] = {**failed, "lengths": lengths}
            told = llmguard.collator_takes_rows_of_unequal_length(batches)
            assert severities(told) == ["error"]
            assert said in told[0].message

    def test_rows_that_came_out_changed_are_not_compared(self) -> None:
        """`collator_attends_to_content`: other ids, or a mask of another width, are other checks'; rows without padding need no mask."""
        check, rows = (
            llmguard.collator_attends_to_content,
            [{"input_ids": [5, 6, 7]}, {"input_ids": [8, 9, 10]}],
        )
        other = as_batches([{"input_ids": [[5, 6, 7], [1, 1, 1]], "attention_mask": [[1, 1, 1], [0, 0, 0]]}])
        found = check(rows, other)
        assert (severities(found), found.looked_at) == ([], 2)
        bare = check(rows, as_batches([{"input_ids": [[5, 6, 7], [8, 9, 10]]}]))
        assert (severities(bare), bare.looked_at) == ([], 2)
        narrow = as_batches([{"input_ids": [[5, 6, 7], [8, 9, 10]], "attention_mask": [[0, 0], [0, 0]]}])
        assert severities(check(rows, narrow)) == []

    def test_short_rows_of_a_batch_are_no_packing(self, tiny: Any) -> None:
        """`packed_documents_are_told_apart`: full rows of several documents are named; short ones, and long documents, are not."""
        rows = [encode(tiny, r)["input_ids"] for r in QA]
        full, short = rows[0] + rows[1] + rows[2], rows[3] + rows[4]
        alone = tiny("one long document " * 200)["input_ids"][: len(full)]
        packed = as_batches([{"input_ids": [row]} for row in (full, short, alone)])
        found = llmguard.packed_documents_are_told_apart(packed, tiny, as_rows(QA))
        assert (severities(found), found.looked_at) == (["error"], 3)
        assert found[0].evidence["count"] == 1


class TestRows:
    """Pairs and rows, without a tokenizer."""

    def test_pairs_without_a_prompt(self) -> None:
        """`pairs_do_not_repeat_their_prompt`: a pair of bare answers has no prompt to repeat."""
        found = llmguard.pairs_do_not_repeat_their_prompt(
            [{"chosen": "An apple it is.", "rejected": "A stone."}] * 3
        )
        assert (severities(found), found.looked_at) == ([], 0)

    def test_rows_that_say_nothing_are_no_repetitions(self) -> None:
        """`no_row_is_repeated`: rows without any text are other checks'; one that stands twelve times is a warning."""
        check, silent = llmguard.no_row_is_repeated, {"prompt": None, "response": None}
        found = check(as_rows([*QA, *[silent] * 12]))
        assert (severities(found), found.looked_at) == ([], len(QA) + 12)
        assert severities(check(as_rows([*QA, *[QA[0]] * 12]))) == ["warning"]

    @pytest.mark.parametrize(
        ("text", "expected"),
        [("a \beta", ["warning"]), ("a \frac", ["warning"]), ("\0café", ["error"]), ("a plain café", [])],
    )
    def test_text_with_lost_characters(self, text: str, expected: list[str]) -> None:
        """`text_is_well_formed`: either control character of a lost command, and a NUL before everything else."""
        found = llmguard.text_is_well_formed(as_rows([{"prompt": "a question", "response": text}]))
        assert severities(found) == expected

    def test_a_placeholder_beside_every_bracket(self) -> None:
        """`no_placeholder_is_left`: found in a text that holds all kinds of brackets, too."""
        text = "A < B, as in [1].\nInput: {instruction}"
        found = llmguard.no_placeholder_is_left(as_rows([{"prompt": text, "response": "yes"}]))
        assert len(severities(found)) == 1

    def test_matched_rows_are_told(self) -> None:
        """`encoded_rows_match_the_split`: the finding counts the encoded rows whose source row is known, the first one too."""
        found = as_encoded([{"input_ids": [1, 2]}] * 3, "prepared")
        told = llmguard.encoded_rows_match_the_split(found, as_rows(QA))
        assert (severities(told), told[0].evidence["matched"]) == (["error"], 3)
        assert severities(llmguard.encoded_rows_match_the_split(found, as_rows(QA[:3]))) == []


def test_the_tokenizers_are_what_these_tests_take_them_for() -> None:
    """A pad token of its own on the one, EOS as pad on the other."""
    assert tokenizers.chat().pad_token_id != tokenizers.chat().eos_token_id
    assert tokenizers.sentencepiece().pad_token_id == tokenizers.sentencepiece().eos_token_id
