"""What a tokenizer does to text before it looks tokens up: losses are told, other spellings of the same are not."""

from __future__ import annotations

from typing import Any

import pytest
from support.importing import imported
from support.tiny import byte_level, sentencepiece

import llmguard
from llmguard.rows import as_rows

LOSSY = {
    "Lowercase": ("An Answer", "an answer"),
    "StripAccents": ("naïve café", "naive cafe"),
    "Dropped": ("soft\u00adhyphen", "softhyphen"),
}
TEXT = [{"prompt": "How many apples?", "response": "There are twelve of them, no more."}] * 60


def with_normalizer(made: Any) -> Any:
    """A byte-level tokenizer that normalises text first."""
    import copy

    tokenizer = copy.deepcopy(byte_level())
    tokenizer.backend_tokenizer.normalizer = made
    return tokenizer


def normalizer(name: str) -> Any:
    imported("tokenizers")
    from tokenizers import normalizers as n

    known = {
        "Lowercase": n.Lowercase,
        "StripAccents": lambda: n.Sequence([n.NFD(), n.StripAccents()]),
        "Dropped": lambda: n.Replace("\u00ad", ""),
        "NFC": n.NFC,
        "NFD": n.NFD,
        "NFKC": n.NFKC,
    }
    return known[name]()


def told(text: str, tokenizer: Any, others: int = 0) -> list[str]:
    rows = [{"prompt": "Say it.".lower(), "response": text}, *[TEXT[0]] * others]
    return [f.severity.value for f in llmguard.tokenizer_is_lossless(as_rows(rows), tokenizer)]


@pytest.mark.parametrize("name", LOSSY)
def test_what_a_normaliser_drops_is_told(name: str) -> None:
    """`tokenizer_is_lossless`: capitals, accents, characters: the ids decode to another text, and the check says so.

    Rarely, it is a note.
    """
    text, back = LOSSY[name]
    tokenizer = with_normalizer(normalizer(name))
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == back != text
    assert told(text, tokenizer) == ["warning"]
    assert told(text, byte_level()) == []
    if name != "Lowercase":
        assert told(text, tokenizer, others=60) == ["note"]


def test_the_first_difference_is_shown() -> None:
    """What becomes of which characters."""
    tokenizer = with_normalizer(normalizer("StripAccents"))
    (finding,) = llmguard.tokenizer_is_lossless(
        as_rows([{"prompt": "x", "response": "a naïve one"}]), tokenizer
    )
    assert "'ïveone' becomes 'iveone'" in finding.message


@pytest.mark.parametrize("name", ["NFC", "NFD"])
def test_another_spelling_of_the_same_character_is_no_loss(name: str) -> None:
    """`tokenizer_is_lossless`: canonical normalisation, as Qwen's NFC.

    Both spellings are one character to Unicode.
    """
    tokenizer = with_normalizer(normalizer(name))
    for text in ("Café", "Cafe\u0301", "한국어", "\u212b"):
        assert told(text, tokenizer) == []


def test_compatible_characters_are_a_note() -> None:
    """`tokenizer_is_lossless`: NFKC writes x² as x2: a note whatever the share."""
    tokenizer = with_normalizer(normalizer("NFKC"))
    assert tokenizer.decode(tokenizer("x²")["input_ids"]) == "x2"
    assert told("x² and ﬁve", tokenizer) == ["note"]  # the ligature is what is tested


def test_the_space_of_sentencepiece_is_no_loss() -> None:
    """`tokenizer_is_lossless`: a space before the text, and its sign for spaces, in text or not."""
    for text in (" one two ", "one  two\tthree\n", "été, 你好", "a ▁ b"):
        assert told(text, sentencepiece()) == []


def test_text_that_is_no_unicode_is_not_judged() -> None:
    """`tokenizer_is_lossless`: a lone surrogate cannot be encoded at all: another check tells it."""
    assert told("half a \ud83d pair", byte_level()) == []
