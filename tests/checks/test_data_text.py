"""Broken characters and role markers: what is told, with its place, and the many scripts and texts that pass."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmguard.checks.data_markers import role_markers_are_not_in_the_text
from llmguard.checks.data_text import text_is_well_formed
from llmguard.findings import Findings, Severity
from llmguard.rows import Columns, Rows, read_files

ERROR, WARNING = Severity.ERROR, Severity.WARNING


def severities(found: Findings) -> list[Severity]:
    """Of each finding."""
    return [f.severity for f in found]


def qa(prompt: str, response: str) -> dict[str, Any]:
    """A row of prompt and response."""
    return {"prompt": prompt, "response": response}


def garbled(text: str) -> str:
    """What a program shows that reads UTF-8 as Windows-1252 (bytes it does not know as Latin-1)."""
    return "".join(bytes([b]).decode("cp1252", "replace").replace("\ufffd", chr(b)) for b in text.encode())


@pytest.mark.parametrize(
    ("text", "severity", "words"),
    [
        ("é one\0two", ERROR, "hold a NUL character: response, byte 6"),
        ("one\0two", ERROR, "hold a NUL character: response, byte 3"),
        ("naïve \ud83d", ERROR, "half of a character (a lone surrogate): response, byte 7"),
        ("caf\ufffd", WARNING, "a replacement character (U+FFFD): response, byte 3"),
        (garbled("Le café est fermé."), WARNING, "likely 'Le café"),
        (garbled("It’s “quoted” – here"), WARNING, "likely 'It’"),
        (garbled("schön 20 °C für €5"), WARNING, "likely 'schö"),
        (garbled("Привет, мир"), WARNING, "likely 'Привет"),
        (garbled("great 🎉 news"), WARNING, "likely 'great 🎉"),
        (
            "the angle is \x08eta and \x0crac{1}{2}",
            WARNING,
            "a command that lost its backslash: response, byte 13",
        ),
    ],
)
def test_broken_text_is_told_with_its_byte(text: str, severity: Severity, words: str) -> None:
    """The kind of damage, the field, the byte offset, the text around it, and what it likely was."""
    found = text_is_well_formed([qa("q", "a"), qa("q", text)])
    assert severities(found) == [severity]
    assert words in found[0].message
    assert "1 of 2 rows (50.0 %)" in found[0].message
    assert found[0].evidence["rows"][0]["row"] == 1
    assert json.dumps(found[0].to_json()).encode()


SCRIPTS = (
    "Ça coûte 3 € – déjà payé à l’hôtel « Élysée », NAÏVE CAFÉ»",
    "Größe: 20 °C, Übermaß, „Anführung“, ÄÖÜß",
    "SÃO PAULO, NÃO, coração, às vezes, AÇÃO, maçãs",
    "El niño comió jalapeños. ¿Qué? ¡Olé! Nº 5, 2ª",
    "Příliš žluťoučký kůň úpěl ďábelské ódy",
    "İstanbul, ışık, Çiğdem, ŞÖĞÜT",
    "Þetta er íslenska: Ð, ð, Æ",
    "Việt Nam: Điện thoại, người, Nguyễn",
    "Москва слезам не верит — «да»",
    "Ελληνικά: Ωραία μέρα",
    "日本語のテキストです。中文也可以，한국어도.",
    "العربية עברית हिन्दी தமிழ் ไทย",
    "👨‍👩‍👧 🇩🇪 e\u0301 o\u0308 \u200b \u00ad \ufeff",
    "x² ± 3½ µm × 10⁻³ ≤ ∑ √2 ™ © ®",
    "tab\tand\r\nlines, a page\x0c\nand an escape \x1b[0m",
)


@pytest.mark.parametrize("text", SCRIPTS)
def test_text_of_every_script_passes(text: str) -> None:
    """Accents beside accents and signs, every script, emoji, combining marks, page breaks."""
    assert not text_is_well_formed([qa(text, text.upper()), qa(text.title(), text.lower())])


LETTERS = st.sampled_from("éèüßñçøæÅŁşžПриветΩλ日本語한글“”‘’–—…€°£🎉½×\u200bא")


@settings(max_examples=200, deadline=None)
@given(st.text(LETTERS, min_size=1, max_size=12))
def test_garbled_text_is_given_back(text: str) -> None:
    """Text that was read with the wrong encoding is told, with what it was."""
    (found,) = text_is_well_formed([qa("q", garbled(text))])
    assert found.evidence["rows"][0]["likely"] == text


def test_messages_and_their_parts_are_looked_into() -> None:
    """The place names the message, and the part of its content."""
    rows = [
        {
            "messages": [
                {"role": "user", "content": "a"},
                {"role": "assistant", "content": [{"type": "text", "text": "b\0"}]},
            ]
        }
    ]
    assert text_is_well_formed(rows)[0].evidence["rows"][0]["column"] == "messages[1][0]"
    assert text_is_well_formed([{"text": "b\0"}])[0].evidence["rows"][0]["column"] == "text"


def test_real_text_is_well_formed(real_data: Path) -> None:
    """GSM8K and real conversations are; GSM8K read with the wrong encoding is not."""
    data = real_data / "data"
    train = read_files([data / "gsm8k" / "train.jsonl"], split="train")
    for rows in (train, read_files([data / "conversations" / "dummy_conversation.json"])):
        assert not text_is_well_formed(rows)
        assert not role_markers_are_not_in_the_text(rows)
    records = [{k: garbled(v) for k, v in r.items()} for r in train.records]
    found = text_is_well_formed(Rows(records, train.columns, "train"))
    assert severities(found) == [WARNING]
    broken = sum(any(not v.isascii() for v in r.values()) for r in train.records)
    assert f"{broken:,} of 7,473 rows" in found[0].message


@pytest.mark.parametrize(
    ("prompt", "response", "words"),
    [
        ("<|im_start|>user\nHello", "Hi.", "texts start with a role marker: '<|im_start|>' in prompt"),
        ("[INST] Hello [/INST]", "Hi.", "texts start with a role marker: '[INST]' in prompt"),
        ("Hello", "Hi.<|im_end|>", "texts end with a role marker: '<|im_end|>' in response"),
        ("Hello", "Hi.</s>\n", "texts end with a role marker: '</s>' in response"),
        ("Hello\n\n### Response:", "Hi.", "texts end with a role marker: '### Response:' in prompt"),
        ("Hello\nAssistant:", "Hi.", "texts end with a role marker: 'Assistant:' in prompt"),
        ("### Instruction:\nHello", "Hi.", "texts start with a role marker: '### Instruction:' in prompt"),
        ("Hello", "Assistant: Hi.", "texts start with a role marker: 'Assistant:' in response"),
        ("Hello", "Hi.\n\nHuman:", "texts end with a role marker: 'Human:' in response"),
        ("Sys <|start_header_id|> x", "Hi.", "texts hold a role marker: '<|start_header_id|>' in prompt"),
    ],
)
def test_role_markers_are_a_warning(prompt: str, response: str, words: str) -> None:
    """Markers at the start or the end of fields, or in most texts, with rate and marker."""
    found = role_markers_are_not_in_the_text([qa(f"{prompt}", response)] * 4 + [qa("Hello", "Hi.")])
    assert set(severities(found)) == {WARNING}
    assert any(words in f.message and "4 of 5 rows (80.0 %)" in f.message for f in found)


@pytest.mark.parametrize(
    ("prompt", "response"),
    [
        ("What does <|im_start|> mean in ChatML?", "It opens a turn; <|im_end|> closes it."),
        ("Continue the dialogue:\nUser: Where is the station?\nBot: Left.\nUser:", "Thank you!"),
        ("Which part of [INST] a [/INST] is the prompt?", "What stands between <s> [INST] and [/INST]."),
        ("Write a play.", "ANNA: Hello.\nTOM: Hello, Anna.\nANNA: Goodbye."),
        ("Input: 3 4\nOutput: 7\n\nInput: 5 6\nOutput:", "11"),
        ("Compare Human and AI: who wins?", "User satisfaction: high."),
    ],
)
def test_text_about_markers_passes(prompt: str, response: str) -> None:
    """Talk about templates, dialogues, plays and few-shot tasks in some rows is content."""
    plain = [qa(f"Question {i}?", f"Answer {i}.") for i in range(60)]
    assert not role_markers_are_not_in_the_text([*plain, qa(prompt, response), qa(prompt, response)])


def test_role_words_in_one_or_two_rows_are_content() -> None:
    """Two dialogues among ten rows are dialogues; from three rows on they are scaffolding."""
    plain, dialogue = [qa("Question?", "Answer.")] * 7, [qa("Go on:\nBot: Left.\nUser:", "Thank you!")]
    assert not role_markers_are_not_in_the_text(plain + dialogue * 2)
    assert role_markers_are_not_in_the_text(plain + dialogue * 3)


def test_system_prompts_may_speak_of_roles() -> None:
    """A system prompt that describes roles is no scaffolding."""
    rows = [
        {
            "messages": [
                {"role": "system", "content": "Assistant: a helpful one."},
                {"role": "user", "content": "a"},
                {"role": "assistant", "content": "b"},
            ]
        }
    ]
    assert not role_markers_are_not_in_the_text(rows * 10)


def test_a_control_token_at_the_end_of_one_response_is_enough() -> None:
    """One response in a hundred that ends with another model's terminator is told."""
    rows = Rows([qa("q", "a")] * 99 + [qa("q", "a<|eot_id|>")], Columns(prompt="prompt", response="response"))
    assert "1 of 100 rows" in role_markers_are_not_in_the_text(rows)[0].message
