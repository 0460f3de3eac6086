"""What fields hold: text, no word for nothing, a response, no repeated rows; legitimate practice passes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmguard.checks.data_content import (
    every_content_is_text,
    every_response_has_text,
    no_content_is_a_word_for_nothing,
    no_row_is_repeated,
)
from llmguard.findings import Findings, Severity
from llmguard.rows import Columns, Rows, read_files

ERROR, WARNING, NOTE = Severity.ERROR, Severity.WARNING, Severity.NOTE
LONG = "A canal lock lifts a boat by letting water in."


def severities(found: Findings) -> list[Severity]:
    """Of each finding."""
    return [f.severity for f in found]


def qa(prompt: Any, response: Any) -> dict[str, Any]:
    """A row of prompt and response."""
    return {"prompt": prompt, "response": response}


def turn(content: Any, role: str = "assistant", **more: Any) -> dict[str, Any]:
    """A conversation whose last message has this content."""
    return {"messages": [{"role": "user", "content": "q"}, {"role": role, "content": content, **more}]}


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (None, "null"),
        (3, "a number"),
        (0.5, "a number"),
        (True, "a boolean"),
        (["a", "b"], "a list"),
        ([], "a list"),
        ({"a": 1}, "an object"),
        ([{"type": "text", "text": None}], "a list"),
    ],
)
def test_a_content_that_is_no_text_is_an_error(value: Any, kind: str) -> None:
    """Its type, its row, its place and its value are told, in columns and in messages."""
    for row, place in ((qa("q", value), "response"), (turn(value), "messages[1]")):
        other = qa("q", "a") if "prompt" in row else turn("a")
        found = every_content_is_text([other, row])
        assert severities(found) == [ERROR], row
        assert f"no text but {kind}: {place} = {value!r}" in found[0].message
        assert found[0].evidence["rows"][0]["row"] == 1
        assert found.looked_at == 2


def test_a_message_without_content_is_an_error() -> None:
    """No key at all."""
    found = every_content_is_text([{"messages": [{"role": "user", "content": "q"}, {"role": "assistant"}]}])
    assert "no text but missing content: messages[1]" in found[0].message


@pytest.mark.parametrize(
    "row",
    [
        turn([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]),
        turn([{"type": "image", "url": "x.png"}, {"type": "text", "text": "what is this?"}], role="user"),
        turn(None, tool_calls=[{"function": {"name": "f", "arguments": "{}"}}]),
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
        {"prompt": [{"role": "user", "content": "q"}], "completion": [{"role": "assistant", "content": "a"}]},
        {"prompt": "q", "chosen": "a", "rejected": "b"},
        {"prompt": "q", "response": "a", "score": 3, "tags": ["x"], "meta": None},
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "weight": 0}]},
    ],
)
def test_contents_that_are_legitimate_pass(row: dict[str, Any]) -> None:
    """Text parts, images, tool calls without content, other columns of any type."""
    assert not every_content_is_text([row])


@pytest.mark.parametrize("word", ["None", "nan", "NaN", "null", " None\n", "<NA>", "undefined", "NaT"])
def test_a_word_for_nothing_is_an_error(word: str) -> None:
    """Among long answers, in prompts, in Alpaca's input column, in messages."""
    rows = [qa("q", LONG)] * 9
    assert severities(no_content_is_a_word_for_nothing([*rows, qa("q", word)])) == [ERROR]
    assert severities(no_content_is_a_word_for_nothing([*rows, qa(word, LONG)])) == [ERROR]
    alpaca = [{"instruction": "q", "input": "", "output": LONG}] * 9
    found = no_content_is_a_word_for_nothing([*alpaca, {"instruction": "q", "input": word, "output": LONG}])
    assert "1 of 10 rows (10.0 %) have a prompt that is nothing but" in found[0].message
    assert "input" in found[0].message
    assert severities(no_content_is_a_word_for_nothing([turn(LONG), turn(word)])) == [ERROR]


def test_none_among_labels_is_a_warning() -> None:
    """Where answers are labels, None may be one: said as a doubt."""
    labels = ["joy", "anger", "surprise", "very sad"]
    rows = [qa(f"Which feeling is in text {i}?", labels[i % 4]) for i in range(50)]
    found = no_content_is_a_word_for_nothing([*rows, *[qa("Which feeling is in this text?", "None")] * 10])
    assert severities(found) == [WARNING]
    assert "it may be a true one" in found[0].message


def test_a_single_none_among_thousands_is_a_warning() -> None:
    """One answer in a thousand may be a true one."""
    assert severities(
        no_content_is_a_word_for_nothing([*[qa("q", LONG)] * 999, qa("Any errors?", "None")])
    ) == [WARNING]


@pytest.mark.parametrize(
    "text",
    ["None of them.", "nothing", "No", "N/A", "null pointer", "nan bread", "none", "", "The value is None"],
)
def test_answers_that_only_hold_the_word_pass(text: str) -> None:
    """Only the whole field counts, and only as programs write it."""
    assert not no_content_is_a_word_for_nothing([qa("q", LONG), qa("q", text)])


@pytest.mark.parametrize("text", ["", " \n\t", "\u200b\ufeff", "</s>", "<|im_end|>\n", " <|endoftext|></s>"])
def test_an_empty_response_is_an_error(text: str) -> None:
    """Empty, blank, invisible, or nothing but control tokens: with the rate."""
    found = every_response_has_text([qa("q", "a")] * 7 + [qa("q", text)])
    assert severities(found) == [ERROR]
    assert "1 of 8 rows (12.5 %) have an empty response: response is" in found[0].message
    assert severities(every_response_has_text([turn(text)])) == [ERROR]


@pytest.mark.parametrize(
    "row",
    [
        qa("", "."),
        qa("q", "0"),
        turn("", tool_calls=[{"function": {"name": "f"}}]),
        turn("", reasoning_content="thinking aloud"),
        turn("", role="user"),
        qa("q", "</s> is the end"),
        {"prompt": "q", "chosen": "a", "rejected": "b"},
    ],
)
def test_short_responses_and_tool_calls_pass(row: dict[str, Any]) -> None:
    """One character is a response; a turn that calls a tool needs no text; a prompt may be empty."""
    assert not every_response_has_text([row])


def test_a_test_split_of_prompts_alone_is_a_note() -> None:
    """All responses empty: prompts to be answered. Some empty: an error there, too."""
    columns = Columns(prompt="prompt", response="response")
    assert severities(every_response_has_text(Rows([qa("q", "")] * 3, columns, "test"))) == [NOTE]
    assert severities(every_response_has_text(Rows([qa("q", ""), qa("q", "a")], columns, "test"))) == [ERROR]


def test_rows_without_responses_are_not_looked_at() -> None:
    """Texts for language modelling have no responses: none was looked at, so nothing looks green."""
    assert every_response_has_text([{"text": "a"}]).looked_at == 0


def test_repeated_rows_are_a_warning() -> None:
    """The share of repeats, the row that stands most often, and where."""
    rows = [qa(f"q{i}", "a") for i in range(95)] + [qa("q3", "a")] * 5
    found = no_row_is_repeated(rows)
    assert severities(found) == [WARNING]
    assert (
        "5 of 100 rows (5.0%) repeat an earlier row; one stands 6 times, first in rows, row 3"
        in found[0].message
    )
    assert found.looked_at == 100


def test_one_row_that_stands_often_is_a_warning() -> None:
    """Twelve times the same among thousands."""
    assert severities(no_row_is_repeated([qa(f"q{i}", "a") for i in range(3000)] + [qa("q3", "a")] * 11)) == [
        WARNING
    ]


@pytest.mark.parametrize(
    "rows",
    [
        [qa("q", f"answer {i}") for i in range(50)],
        [qa(f"q{i}", "yes") for i in range(50)],
        [qa(f"q{i}", "a") for i in range(999)] + [qa("q3", "a")],
        [{**qa("Is it friendly?", "yes"), "review": f"review {i}"} for i in range(50)],
        [{**turn("a"), "tools": f"[{i}]"} for i in range(20)],
    ],
    ids=[
        "same prompt, other responses",
        "same response",
        "a single repeat",
        "the text in another column",
        "other tools",
    ],
)
def test_rows_that_differ_somewhere_pass(rows: list[dict[str, Any]]) -> None:
    """Several answers to a prompt, labels, one repeat in a thousand, inputs in a column of their own."""
    assert not no_row_is_repeated(rows)


def test_repeats_are_found_although_ids_differ() -> None:
    """An id, a source or a date does not make a row another one."""
    rows = [
        {**qa(f"q{i % 40}", "a"), "id": f"row-{i}", "source_url": f"https://example.org/{i}"}
        for i in range(80)
    ]
    assert severities(no_row_is_repeated(rows)) == [WARNING]


def real_sets(folder: Path) -> dict[str, Rows]:
    """All real data, Alpaca's nested seeds as flat rows."""
    data = folder / "data"
    seeds = [
        json.loads(line)
        for line in (data / "alpaca-seeds" / "seed_tasks.jsonl").read_text("utf-8").splitlines()
    ]
    flat = [{"instruction": s["instruction"], **i} for s in seeds for i in s["instances"]]
    return {
        "gsm8k": read_files([data / "gsm8k" / "train.jsonl"], split="train"),
        "conversations": read_files([data / "conversations" / "dummy_conversation.json"], split="train"),
        "seeds": Rows(flat, Columns(prompt="instruction", response="output"), "train"),
    }


def test_real_contents_pass(real_data: Path) -> None:
    """GSM8K, Alpaca's seeds and real conversations hold text, responses, and no repeats."""
    for name, rows in real_sets(real_data).items():
        for check in (
            every_content_is_text,
            no_content_is_a_word_for_nothing,
            every_response_has_text,
            no_row_is_repeated,
        ):
            found = check(rows)
            assert not found, (name, found)
            assert found.looked_at == len(rows), (name, check)


def test_real_contents_with_planted_faults_fail(real_data: Path) -> None:
    """Faults planted in real rows are found with exactly these rows."""
    rows = real_sets(real_data)["gsm8k"]
    for value, check in (
        (None, every_content_is_text),
        ("nan", no_content_is_a_word_for_nothing),
        (" ", every_response_has_text),
    ):
        records = [{**r, "answer": value} if i % 50 == 0 else r for i, r in enumerate(rows.records)]
        found = check(Rows(records, rows.columns, "train"))
        assert severities(found) == [ERROR]
        assert "150 of 7,473 rows (2.0 %)" in found[0].message
        assert [e["row"] for e in found[0].evidence["rows"]] == [0, 50, 100, 150, 200]
