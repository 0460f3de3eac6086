"""Borders of the checks of pairs, rows, packing and truncation: how many are many, and what is not judged."""

from __future__ import annotations

from typing import Any

import pytest
from support.bugs import severities

import llmguard
from llmguard.encoded import IGNORE_INDEX, as_batches, as_encoded
from llmguard.formats import TextFormat, text_format
from llmguard.formats.text import table_format
from llmguard.rows import Problem, Rows, as_rows

Row = dict[str, Any]
QA: list[Row] = [
    {"prompt": f"What is the number of apples after {i} days?", "response": f"The answer is {i} apples."}
    for i in range(20)
]
PAIRS: list[Row] = [
    {"prompt": r["prompt"], "chosen": r["response"], "rejected": f"Nobody knows, {i}."}
    for i, r in enumerate(QA)
]


def encode(tok: Any, row: Row) -> Row:
    prompt = tok(f"### Instruction:\n{row['prompt']}\n\n### Response:\n")["input_ids"]
    response = tok(row["response"] + tok.eos_token)["input_ids"]
    return {"input_ids": prompt + response, "labels": [IGNORE_INDEX] * len(prompt) + response}


@pytest.fixture(scope="module")
def alpaca(tiny: Any) -> TextFormat:
    return text_format("alpaca", tiny.eos_token)


class TestPairs:
    """Preference pairs."""

    @pytest.mark.parametrize(
        "name",
        [
            "chosen_differs_from_rejected", "pairs_share_their_prompt", "pairs_do_not_repeat_their_prompt",
            "pairs_differ_within_max_length", "pair_responses_hold_no_control_tokens", "chosen_scores_above_rejected",
        ],
    )  # fmt: skip
    def test_half_a_pair_and_no_pair_are_not_judged(self, name: str, tiny: Any) -> None:
        """`chosen_differs_from_rejected`, `pairs_share_their_prompt`, `pairs_do_not_repeat_their_prompt`,
        `pairs_differ_within_max_length`, `pair_responses_hold_no_control_tokens`, `chosen_scores_above_rejected`: one side is no pair."""
        check = getattr(llmguard, name)
        given = {"tokenizer": tiny, "max_length": 64}
        more = {k: v for k, v in given.items() if k in check.parameters}
        half = [
            *PAIRS[:3],
            {"prompt": "a", "chosen": "b", "rejected": None},
            {"prompt": "a", "chosen": None, "rejected": "b"},
        ]
        found = check(as_rows(half), **more)
        assert (severities(found), found.looked_at) == ([], 3)
        assert check(as_rows(QA), **more).looked_at == 0

    def test_one_repeated_prompt_in_ten(self) -> None:
        """`pairs_do_not_repeat_their_prompt`: one pair in ten is no habit, more are an error; twelve characters are a prompt."""
        check = llmguard.pairs_do_not_repeat_their_prompt
        repeated = [{**p, "chosen": f"{p['prompt']} {p['chosen']}"} for p in PAIRS]
        for bad, expected in ((2, []), (3, ["error"])):
            found = check([*repeated[:bad], *PAIRS[bad:]])
            assert (severities(found), found.looked_at) == (expected, len(PAIRS)), bad

    def test_pairs_that_are_equal_throughout(self, tiny: Any) -> None:
        """`pairs_differ_within_max_length`: equal pairs are another check's; those that truncation makes equal are an error."""
        check, long = llmguard.pairs_differ_within_max_length, "the number of apples " * 20
        same = {"prompt": "a", "chosen": long, "rejected": long}
        late = {"prompt": "a", "chosen": f"{long}yes", "rejected": f"{long}no"}
        assert severities(check([same], tiny, 16)) == []
        assert severities(check([late], tiny, 16)) == ["error"]
        assert severities(check([late], tiny, 4096)) == []

    def test_scores_the_wrong_way_round(self) -> None:
        """`chosen_scores_above_rejected`: half of them are a warning, more an error."""
        check = llmguard.chosen_scores_above_rejected
        good, bad = ([{**p, "score_chosen": s, "score_rejected": 2} for p in PAIRS[:4]] for s in (3, 1))
        for wrong, expected in ((0, []), (2, ["warning"]), (3, ["error"])):
            found = check([*bad[:wrong], *good[wrong:]])
            assert (severities(found), found.looked_at) == (expected, 4), wrong

    def test_refusals_that_are_chosen(self) -> None:
        """`chosen_scores_above_rejected`: from five on, and more than four times those rejected; not where scores say otherwise."""
        check = llmguard.chosen_scores_above_rejected
        refused = [{**p, "chosen": "I cannot help.", "rejected": p["chosen"]} for p in PAIRS]
        turned = [{**p, "rejected": "I cannot help."} for p in PAIRS]
        both = [{**p, "chosen": "I cannot help.", "rejected": "As an AI, no."} for p in PAIRS]
        for rows, expected in (
            (refused[:5], ["warning"]), (refused[:4], []), (turned, []), (both, []),
            ([*refused[:8], *turned[8:10]], []), ([*refused[:9], *turned[9:11]], ["warning"]),
        ):  # fmt: skip
            assert severities(check(rows)) == expected
        scored = [{**p, "score_chosen": 3, "score_rejected": 1} for p in refused]
        assert severities(check(scored)) == []


class TestPacking:
    """Positions and borders."""

    def test_a_document_of_one_token(self, tiny: Any) -> None:
        """`packed_documents_are_told_apart`: a border behind the first token is one, and a row without any is no pack."""
        one, two = (tiny(r["prompt"])["input_ids"] for r in QA[:2])
        row = [tiny.eos_token_id, *one, *two]
        check, rows = llmguard.packed_documents_are_told_apart, as_rows(QA)
        assert severities(check(as_batches([{"input_ids": [row]}]), tiny, rows)) == ["error"]
        assert severities(check(as_batches([{"input_ids": [row[1:]]}]), tiny, rows)) == []
        found = check(as_batches([{"input_ids": [row]}]), tiny, rows, "all")
        assert (severities(found), found.looked_at) == ([], 0)
        assert severities(check(as_batches([{"input_ids": [row]}]), tiny)) == []

    @pytest.mark.parametrize(
        ("positions", "wrong"),
        [
            ([0, 1, 2, 0, 1], 0),
            ([0, 1, 2, 3, 4], 0),
            ([0, 1, 1, 2, 3], 1),
            ([0, 2, 3, 0, 1], 1),
            ([3, 4, 0, 1, 2], 1),
            ([0, 0, 0, 1, 2], 0),
        ],
    )
    def test_positions_count_on_or_restart(self, positions: list[int], wrong: int) -> None:
        """`position_ids_restart_with_each_document`: any other step is an error, but where nothing is attended to."""
        batch = {"input_ids": [[5] * 5], "position_ids": [positions]}
        found = llmguard.position_ids_restart_with_each_document(as_batches([batch]))
        assert (len(found), found.looked_at) == (wrong, 1)
        hidden = as_batches([{**batch, "attention_mask": [[0] * 5]}])
        assert severities(llmguard.position_ids_restart_with_each_document(hidden)) == []

    def test_rows_of_one_document_may_train_their_first_token(self) -> None:
        """`first_token_of_a_document_is_not_trained`: not judged without packing; of packed rows, the row's own start is none."""
        check = llmguard.first_token_of_a_document_is_not_trained
        single = {"input_ids": [[5, 6, 7]], "position_ids": [[0, 1, 2]], "labels": [[5, 6, 7]]}
        assert check(as_batches([single])).looked_at == 0
        packed = {**single, "position_ids": [[0, 1, 0]], "labels": [[5, 6, IGNORE_INDEX]]}
        found = check(as_batches([packed]))
        assert (severities(found), found.looked_at) == ([], 1)


class TestLabels:
    """Labels beside ids."""

    def test_where_a_row_is(self) -> None:
        """`every_row_has_a_supervised_token`, `labels_are_not_shifted`, `padding_is_never_trained`, `ids_are_in_the_vocabulary`,
        `every_token_id_is_a_number`: with source rows the finding names file and line, without them it works, too."""
        rows = Rows([{}], files=("a.jsonl",), origin=((0, 3),))
        for name, row, more in (
            ("every_row_has_a_supervised_token", {"labels": [IGNORE_INDEX] * 3}, {}),
            ("labels_are_not_shifted", {"labels": [6, 7, IGNORE_INDEX]}, {}),
            ("padding_is_never_trained", {"labels": [5, 6, 7], "attention_mask": [1, 1, 0]}, {}),
            ("ids_are_in_the_vocabulary", {"input_ids": [5, 6, 99]}, {"tokenizer": [None] * 50}),
            ("every_token_id_is_a_number", {"input_ids": [5, None, 7]}, {}),
        ):
            encoded, check = as_encoded([{"input_ids": [5, 6, 7], **row}]), getattr(llmguard, name)
            bare, told = check(encoded, **more), check(encoded, rows=rows, **more)
            assert (severities(bare), severities(told)) == (["error"], ["error"]), name
            assert (told[0].where.file, told[0].where.line) == ("a.jsonl", 3), name
            assert bare[0].where.file == "encoded", name

    def test_one_odd_label_is_no_shift(self) -> None:
        """`labels_are_not_shifted`: labels of the next token are a shift, one label of another token is an odd one."""
        ids = [[5, 6, 7, 8, 9], [10, 11, 12, 13, 14]]
        shifted = [{"input_ids": i, "labels": [*i[1:], IGNORE_INDEX]} for i in ids]
        odd = [{"input_ids": i, "labels": [i[0], i[1], 40, i[3], i[4]]} for i in ids]
        told, other = llmguard.labels_are_not_shifted(shifted), llmguard.labels_are_not_shifted(odd)
        assert (severities(told), severities(other)) == (["error"], ["error"])
        assert "train a token that is not the one in their ids" in other[0].message
        assert "train a token that is not the one in their ids" not in told[0].message

    def test_a_line_break_of_the_terminator_may_be_masked(self, tiny: Any) -> None:
        """`terminator_is_trained`: white space before the end is nothing to learn, the end itself is."""
        template, rows = table_format("Q: {prompt}\nA:", " {response}", "\nEND"), as_rows(QA[:4])
        found: dict[str, list[Row]] = {"break": [], "end": []}
        for row in QA[:4]:
            prompt, said = (
                tiny(f"Q: {row['prompt']}\nA:")["input_ids"],
                tiny(f" {row['response']}")["input_ids"],
            )
            line, end = tiny("\n")["input_ids"], tiny("END")["input_ids"]
            ids, head = [*prompt, *said, *line, *end], [IGNORE_INDEX] * len(prompt)
            found["break"].append({"input_ids": ids, "labels": [*head, *said, IGNORE_INDEX, *end]})
            found["end"].append(
                {"input_ids": ids, "labels": [*head, *said, *line, *[IGNORE_INDEX] * len(end)]}
            )
        for masked, expected in (("break", []), ("end", ["error"])):
            told = llmguard.terminator_is_trained(as_encoded(found[masked]), rows, tiny, template)
            assert (severities(told), told.looked_at) == (expected, 4), masked

    def test_the_terminator_is_named_and_not_what_stands_before(self, tiny: Any, alpaca: TextFormat) -> None:
        """`terminator_is_trained`: behind a response of one letter, the masked tokens of the prompt are near, and are not it."""
        rows = [{"prompt": r["prompt"], "response": "b"} for r in QA[:4]]
        encoded = [encode(tiny, r) for r in rows]
        masked = as_encoded([{**r, "labels": [*r["labels"][:-1], IGNORE_INDEX]} for r in encoded])
        told = llmguard.terminator_is_trained(masked, as_rows(rows), tiny, alpaca)
        assert severities(told) == ["error"]
        assert f"({tiny.eos_token!r}, id {tiny.eos_token_id})" in told[0].message


class TestCollators:
    """Labels that a collator makes."""

    def test_batches_without_labels_are_not_compared(self) -> None:
        """`collator_keeps_labels`: neither rows without labels nor batches without; a named collator is named."""
        row, check = {"input_ids": [5, 6, 7], "labels": [IGNORE_INDEX, 6, 7]}, llmguard.collator_keeps_labels
        bare = {"input_ids": [[5, 6, 7]]}
        assert check([row], as_batches([bare])).looked_at == 0
        assert check([{"input_ids": [5, 6, 7]}], as_batches([{**bare, "labels": [[5, 6, 7]]}])).looked_at == 0
        batches = as_batches([{**bare, "labels": [[5, 6, 7]]}])
        assert check([row], batches)[0].evidence["collator"] == "batches"
        batches.facts["collator"] = "Mine"
        assert check([row], batches)[0].evidence["collator"] == "Mine"


class TestTruncation:
    """Rows that are too long."""

    def test_one_cut_row_in_ten(self, tiny: Any, alpaca: TextFormat) -> None:
        """`responses_are_not_cut`: one in ten is a warning, more an error; a response that is gone is counted once."""
        rows, check = [encode(tiny, r) for r in QA], llmguard.responses_are_not_cut
        cut = [{n: v[:-5] for n, v in r.items()} for r in rows]
        for lost, expected in ((2, ["warning"]), (3, ["error"])):
            found = check(as_encoded([*cut[:lost], *rows[lost:]]), as_rows(QA), tiny, alpaca)
            assert (severities(found), found.looked_at) == (expected, len(QA)), lost

    def test_rows_of_exactly_max_length(self, tiny: Any, alpaca: TextFormat) -> None:
        """`rows_fit_max_length`: a row as long as the limit fits; one in ten beyond it is a warning, more an error."""
        rows = [{"prompt": "a", "response": "b" * 9} for _ in range(18)]
        long = [{"prompt": "a", "response": "b" * 14}] * 3
        check, limit = llmguard.rows_fit_max_length, len(encode(tiny, rows[0])["input_ids"])
        for count, expected in ((0, []), (2, ["warning"]), (3, ["error"])):
            found = check(as_rows([*rows, *long[:count]]), tiny, alpaca, limit)
            assert (severities(found), found.looked_at) == (expected, 18 + count), count


class TestFiles:
    """Files and columns."""

    def test_what_is_told_of_bad_lines(self) -> None:
        """`data_files_are_readable`: a message names twenty of them, the evidence a thousand; a missing file is told by itself."""
        bad = [Problem("a.jsonl", "is not JSON", line) for line in range(1, 1101)]
        rows = Rows(
            [{"a": 1}],
            files=("a.jsonl", "b.jsonl"),
            origin=((0, 1101),),
            problems=[*bad, Problem("b.jsonl", "is not there")],
        )
        found = llmguard.data_files_are_readable(rows)
        assert (severities(found), found.looked_at) == (["error", "error"], 1102)
        assert "and 1,080 more" in found[1].message
        assert len(found[1].evidence["lines"]) == 1000
        empty = Rows([{"a": 1}], files=("a.jsonl", "c.jsonl"), origin=((0, 1),))
        assert severities(llmguard.data_files_are_readable(empty)) == ["warning"]

    def test_rows_that_are_not_mapped_are_counted(self) -> None:
        """`every_row_has_its_columns`: columns with names of their own are an error, whole texts a note; all rows were looked at."""
        for row, expected in (({"alpha": "a", "beta": "b"}, ["error"]), ({"text": "a"}, ["note"])):
            found = llmguard.every_row_has_its_columns([row] * 3)
            assert (severities(found), found.looked_at) == (expected, 3)

    def test_few_repetitions(self) -> None:
        """`no_row_is_repeated`: one row in a hundred is no habit, more are; rows of one text apart in another column are two."""
        many = [{"prompt": f"question {i}", "response": "yes"} for i in range(99)]
        check = llmguard.no_row_is_repeated
        assert severities(check([*many, many[0]])) == []
        assert severities(check([*many[:98], many[0], many[1]])) == ["warning"]
        ten = [{"prompt": f"question {i}", "response": "yes"} for i in range(2000)]
        assert severities(check([*ten, *[ten[0]] * 9])) == []
        assert severities(check([*ten, *[ten[0]] * 10])) == ["warning"]
        assert severities(check([{**many[0], "context": f"of {i}"} for i in range(12)])) == []
        assert severities(check([{**many[0], "id": i} for i in range(12)])) == ["warning"]
