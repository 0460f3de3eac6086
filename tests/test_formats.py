"""Formats: the text of a conversation in pieces, its prompt, and what ends it."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from support import real, tiny

from llmguard.errors import UsageError
from llmguard.formats import TEXT_FORMATS, ChatTemplate, Kind, Piece, pieces_text, text_format
from llmguard.formats.chat import TemplateError
from llmguard.formats.dates import formats_in, moments_in, pattern_of
from llmguard.formats.pieces import common_start, join, split_blank
from llmguard.formats.text import table_format
from llmguard.rows import Columns, Turn, turns_of

ASKED, ANSWERED = Turn("user", "How many?"), Turn("assistant", "Three.")
AGAIN = (ASKED, ANSWERED, Turn("user", "Sure?"), Turn("assistant", "Yes."))
EXPECTED = {
    "alpaca": "### Instruction:\nHow many?\n\n### Response:\nThree.</s>",
    "chatml": "<|im_start|>user\nHow many?<|im_end|>\n<|im_start|>assistant\nThree.<|im_end|>",
    "completion": "How many?Three.</s>",
    "instruction-response-end": "Instruction: How many?\nResponse: Three.\nEND",
    "llama3": (
        "<|start_header_id|>user<|end_header_id|>\n\nHow many?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nThree.<|eot_id|>"
    ),
    "zephyr": "<|user|>\nHow many?</s>\n<|assistant|>\nThree.</s>",
}


@pytest.mark.parametrize("name", TEXT_FORMATS)
def test_a_format_writes_what_is_published(name: str) -> None:
    """Word for word, with the tokenizer's EOS where the format has one."""
    assert pieces_text(text_format(name, "</s>").pieces((ASKED, ANSWERED))) == EXPECTED[name]


@pytest.mark.parametrize("name", TEXT_FORMATS)
def test_the_prompt_is_the_start_of_the_training_text(name: str) -> None:
    """For one answer and for several, and the same whether the answer is there or not."""
    form = text_format(name, "</s>")
    for turns in ((ASKED, ANSWERED), AGAIN):
        assert pieces_text(form.pieces(turns)).startswith(form.prompt(turns))
        assert form.prompt(turns) == form.prompt(turns[:-1])
        assert not form.prompt(turns).endswith(turns[-1].content)


@pytest.mark.parametrize("name", TEXT_FORMATS)
def test_responses_and_ends_are_pieces_of_their_own(name: str) -> None:
    """Numbered by turn; everything else is prompt."""
    form = text_format(name, "</s>")
    found = [(p.kind, p.text, p.turn) for p in form.pieces(AGAIN) if p.kind is not Kind.PROMPT]
    ends = [(Kind.TERMINATOR, form.terminator, turn) for turn in (0, 1)]
    assert found == [(Kind.RESPONSE, "Three.", 0), ends[0], (Kind.RESPONSE, "Yes.", 1), ends[1]]


def test_an_unknown_format_names_those_there_are() -> None:
    """A misspelt name is a usage error with the list."""
    with pytest.raises(UsageError, match="alpaca, chatml"):
        text_format("chat-ml", "</s>")


def test_a_table_adds_nothing() -> None:
    """Prompt, response and end stand as they are written in the project file; the response's opening is trained."""
    form = table_format("Q: {prompt}\n", "A: {response}!", "\n--")
    assert pieces_text(form.pieces((ASKED, ANSWERED))) == "Q: How many?\nA: Three.!\n--"
    assert form.prompt((ASKED,)) == "Q: How many?\n"
    assert [p.text for p in form.pieces((ASKED, ANSWERED)) if p.kind is Kind.RESPONSE] == ["A: Three."]


def test_turns_that_are_not_wanted_are_prompt() -> None:
    """`"train": false` (axolotl) and `"weight": 0` (OpenAI): the text stands, and is nobody's to train."""
    for mark in ({"train": False}, {"weight": 0}, {"weight": 0.0}):
        messages = [
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "bad", **mark},
            {"role": "user", "content": "b"},
            {"role": "assistant", "content": "good", "train": True, "weight": 1},
        ]
        turns = turns_of({"messages": messages}, Columns(messages="messages"))
        assert turns
        for form in (text_format("chatml", "</s>"), ChatTemplate(tiny.chat())):
            pieces = form.pieces(turns)
            assert [(p.text, p.turn) for p in pieces if p.kind is Kind.RESPONSE] == [("good", 0)], mark
            assert "assistant\nbad" in pieces[0].text


def test_a_template_is_taken_apart_by_rendering() -> None:
    """Contents that stand in the text twice, that are blank or have blanks around them: whose is whose is seen all the same."""
    template = ChatTemplate(tiny.chat())
    same = (Turn("user", "ok"), Turn("assistant", "ok"), Turn("user", "user"), Turn("assistant", "assistant"))
    blank = (Turn("user", "?"), Turn("assistant", "  two \n"), Turn("user", "!"), Turn("assistant", ""))
    for turns, said in ((same, ["ok", "assistant"]), (blank, ["  two \n"])):
        pieces = template.pieces(turns)
        assert pieces_text(pieces) == template.render(turns)
        assert [p.text for p in pieces if p.kind is Kind.RESPONSE] == said
        assert [p.text for p in pieces if p.kind is Kind.TERMINATOR] == ["<|im_end|>"] * 2
    assert template.terminator == "<|im_end|>"


def test_tool_calls_are_the_response() -> None:
    """What a template writes for a tool call is trained, though the message has no content; the tool's answer is not."""
    template = ChatTemplate(real.tokenizer("qwen2.5-instruct"))
    call = {"type": "function", "function": {"name": "weather", "arguments": {"town": "Rome"}}}
    messages = [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "sunny"},
        {"role": "assistant", "content": "It is sunny."},
    ]
    turns = turns_of({"messages": messages}, Columns(messages="messages"))
    assert turns
    said = [p.text for p in template.pieces(turns) if p.kind is Kind.RESPONSE]
    assert said[0].startswith("<tool_call>")
    assert '"town": "Rome"' in said[0]
    assert said[1:] == ["It is sunny."]


def test_thinking_that_a_template_strips_is_no_response() -> None:
    """Qwen3 leaves out the thinking of earlier turns, and puts an empty block before the last answer: a seam, trained or not."""
    template = ChatTemplate(real.tokenizer("qwen3"))
    turns = (
        ASKED,
        Turn("assistant", "<think>\nhm\n</think>\n\nThree."),
        Turn("user", "Sure?"),
        Turn("assistant", "Yes."),
    )
    pieces = template.pieces(turns)
    assert pieces_text(pieces) == template.render(turns)
    assert [p.text for p in pieces if p.kind is Kind.RESPONSE] == ["Three.", "Yes."]
    assert [p.text for p in pieces if p.kind is Kind.SEAM] == ["<think>\n\n</think>\n\n"]


def test_a_template_says_why_it_refuses() -> None:
    """The template's own words, without a traceback."""
    template = ChatTemplate(tiny.chat(), "{{ raise_exception('roles must alternate') }}")
    with pytest.raises(TemplateError, match="roles must alternate"):
        template.pieces((ASKED, ANSWERED))
    assert template.terminator == ""
    assert not template.writes_bos


DATED = (
    "{% if strftime_now is defined %}{% set day = strftime_now('%d %b %Y') %}{% else %}{% set day = '1 Jan' %}{% endif %}"
    "Cutoff: 01 Dec 2023. Today: {{ day }}.\n" + tiny.CHATML
)


def test_a_template_that_writes_dates_is_rendered_on_another_day() -> None:
    """The day is found in a row's own bytes, among other days that it names."""
    template = ChatTemplate(tiny.chat(), DATED)
    assert template.dates == ("%d %b %Y",)
    then = ChatTemplate(tiny.chat(), DATED, moment=dt.datetime(2024, 3, 9))
    text = then.render((ASKED, ANSWERED))
    assert text.startswith("Cutoff: 01 Dec 2023. Today: 09 Mar 2024.\n<|im_start|>user\nHow many?")
    days = template.as_of(text.replace(" ", "").encode())
    assert [t.moment for t in days] == [dt.datetime(2023, 12, 1), dt.datetime(2024, 3, 9)]
    assert days[1].render((ASKED, ANSWERED)) == text
    assert ChatTemplate(tiny.chat()).as_of(text.encode()) == []


def test_dates_of_any_form_are_read() -> None:
    """Day and time from two formats; a directive that nobody knows is left alone."""
    formats = ("%Y-%m-%d", "%H:%M")
    assert moments_in(b"at2024-02-30,2024-02-29,09:41", formats) == [dt.datetime(2024, 2, 29, 9, 41)]
    assert formats_in("{{ strftime_now( \"%B %d\" ) }}{{ strftime_now('%B %d') }}") == ("%B %d",)
    assert pattern_of(("%Q",)) is None
    assert pattern_of(()) is None
    assert moments_in(b"2024", ("%Q",)) == []


def test_whether_a_template_writes_bos_is_seen() -> None:
    """`<s>` in its text, or not."""
    tok = tiny.sentencepiece()
    assert ChatTemplate(tok, "{{ bos_token }}" + tiny.CHATML).writes_bos
    assert not ChatTemplate(tok, tiny.CHATML).writes_bos
    assert not ChatTemplate(tiny.byte_level(), tiny.CHATML).writes_bos


def test_white_space_at_the_seam_is_a_piece_of_its_own() -> None:
    """On the prompt's side its line breaks and then its last spaces, on the response's before and behind its words."""
    pieces = [
        Piece(Kind.PROMPT, "Q\nA: "),
        Piece(Kind.RESPONSE, "\ntwo ", 0),
        Piece(Kind.TERMINATOR, "</s>", 0),
    ]
    found = [(p.kind.name, p.text) for p in split_blank(pieces)]
    assert found == [
        ("PROMPT", "Q\nA:"), ("BLANK_BEFORE", " "), ("BLANK_WITHIN", "\n"), ("RESPONSE", "two"), ("BLANK_WITHIN", " "),
        ("TERMINATOR", "</s>"),
    ]  # fmt: skip
    assert [p.kind.name for p in split_blank([Piece(Kind.PROMPT, "Q"), Piece(Kind.RESPONSE, " \n", 0)])] == [
        "PROMPT",
        "BLANK_WITHIN",
    ]


def test_neighbours_of_one_kind_are_joined() -> None:
    """Kind and turn alike, empty pieces left out."""
    pieces = [
        Piece(Kind.PROMPT, "a"),
        Piece(Kind.PROMPT, "b"),
        Piece(Kind.RESPONSE, "", 0),
        Piece(Kind.RESPONSE, "c", 1),
    ]
    assert join(pieces) == [Piece(Kind.PROMPT, "ab"), Piece(Kind.RESPONSE, "c", 1)]


@pytest.mark.parametrize(
    ("one", "other", "length"),
    [("abc", "abd", 2), ("", "a", 0), ("ab", "ab", 2), ("a", "abc", 1), (b"xy", b"y", 0)],
)
def test_common_starts_are_found(one: Any, other: Any, length: int) -> None:
    """Of text and of bytes."""
    assert common_start(one, other) == length
