"""Ids to bytes by a table: what every token holds, without its spaces."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support import real, tiny

from llmguard.vocabulary import squeeze, vocabulary_of

TEXTS = (
    "the answer is 42",
    "  two  spaces\tand a tab\n\n",
    "café, naïve, Straße",
    "日本語とテキスト",
    "مرحبا بالعالم",
    "👩‍👩‍👧 and 🙂",
    "def f(x):\n\treturn [x, 2]\n",
    "talks about <|im_start|> and </s> and [INST]",
    "\u2581 a lower eighth block \u2581",
    "",
)


@pytest.fixture(params=["byte_level", "sentencepiece"])
def tok(request: pytest.FixtureRequest) -> Any:
    return getattr(tiny, request.param)()


def test_ids_hold_the_bytes_of_their_text(tok: Any) -> None:
    """Whatever the script: letters, bytes of characters that the vocabulary lacks, control tokens in the text; spaces aside."""
    vocabulary = vocabulary_of(tok)
    for text in TEXTS:
        ids = np.array(tok(text, add_special_tokens=False)["input_ids"], dtype=np.int64)
        assert vocabulary.bytes_of(ids) == vocabulary.text_as_bytes(text), text


@pytest.mark.parametrize("name", real.TOKENIZERS)
def test_ids_of_real_tokenizers_hold_the_bytes_of_their_text(name: str) -> None:
    """The same on real vocabularies, and the table of bytes says the same as their own `decode` of single tokens."""
    tok = real.tokenizer(name)
    vocabulary = vocabulary_of(tok)
    for text in TEXTS:
        ids = np.array(tok(text, add_special_tokens=False)["input_ids"], dtype=np.int64)
        assert vocabulary.bytes_of(ids) == vocabulary.text_as_bytes(text), text


def test_every_token_ends_where_its_bytes_do(tok: Any) -> None:
    """`spans` gives the bytes of all tokens and the end of each, as the tokens one by one do."""
    vocabulary = vocabulary_of(tok)
    ids = np.array(tok("the answer is é 🙂\n")["input_ids"], dtype=np.int64)
    flat, ends = vocabulary.spans(ids)
    single = [vocabulary.bytes_of(ids[i : i + 1]) for i in range(len(ids))]
    assert flat.tobytes() == b"".join(single)
    assert ends.tolist() == np.cumsum([len(s) for s in single]).tolist()
    assert vocabulary.lengths_of(ids).tolist() == [len(s) for s in single]


def test_ids_outside_of_the_vocabulary_hold_nothing(tok: Any) -> None:
    """Negative ids and those beyond the end are zero bytes long, and do not move their neighbours."""
    vocabulary = vocabulary_of(tok)
    known = tok("the", add_special_tokens=False)["input_ids"]
    ids = np.array([-100, *known, len(vocabulary), -1, *known], dtype=np.int64)
    assert vocabulary.bytes_of(ids) == b"thethe"
    assert vocabulary.lengths_of(ids)[[0, 1 + len(known)]].tolist() == [0, 0]
    assert vocabulary.bytes_of(np.zeros(0, dtype=np.int64)) == b""


def test_control_tokens_are_told_from_words(tok: Any) -> None:
    """Special tokens are special, words are not; texts that are one id are known with it."""
    vocabulary = vocabulary_of(tok)
    assert vocabulary.special[tok.eos_token_id]
    assert not vocabulary.special[tok("the", add_special_tokens=False)["input_ids"]].any()
    assert vocabulary.control[tok.eos_token] == tok.eos_token_id
    assert "<|eot_id|>" not in vocabulary.control


def test_blank_tokens_are_those_of_white_space_alone() -> None:
    """Line breaks, tabs, spaces and nothing else; a word with a space before it is none."""
    tok = tiny.byte_level()
    blank = vocabulary_of(tok).blank
    ids = [tok(t)["input_ids"] for t in ("\n", " ", "\t", " the", "é")]
    assert [bool(blank[i].all()) for i in ids] == [True, True, True, False, False]


def test_white_space_that_a_token_swallows_is_left_out() -> None:
    """`<|assistant|>` with rstrip takes the line break behind it: neither its ids nor the text that is compared hold it."""
    tok = tiny.sentencepiece()
    vocabulary = vocabulary_of(tok)
    ids = np.array(tok("<|assistant|>\n\n the", add_special_tokens=False)["input_ids"])
    assert vocabulary.bytes_of(ids) == b"<|assistant|>the"
    assert vocabulary.swallow(["<|user|>\nhow<|assistant|>\n", "\nthe"]) == [
        "<|user|>\nhow<|assistant|>",
        "the",
    ]
    assert vocabulary.swallow(["a\n", "\nb"]) == ["a\n", "\nb"]


def test_a_vocabulary_is_built_once_and_grows_with_its_tokenizer() -> None:
    """The same object for the same tokenizer; tokens that are added later are known."""
    import copy

    tok = copy.deepcopy(tiny.byte_level())
    first = vocabulary_of(tok)
    assert vocabulary_of(tok) is first
    tok.add_special_tokens({"additional_special_tokens": ["<|new|>"]})
    assert vocabulary_of(tok).bytes_of(np.array([tok.convert_tokens_to_ids("<|new|>")])) == b"<|new|>"


def test_squeezed_text_has_no_spaces_and_keeps_everything_else() -> None:
    """U+0020 alone is left out: line breaks, other blanks and broken surrogates stay."""
    assert squeeze("a b\n\u00a0c") == "ab\n\u00a0c".encode()
    assert squeeze("\ud800 x") == b"\xed\xa0\x80x"
