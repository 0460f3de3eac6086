"""Control tokens in pieces are found whatever tokens the pieces are: beside counting every text in the bytes of every row."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import tiny

from llmguard.checks.tokens import control_tokens_are_single_ids
from llmguard.control import SPLIT_CANDIDATES
from llmguard.encoded import as_encoded
from llmguard.rows import as_rows
from llmguard.vocabulary import squeeze, vocabulary_of

PIECES = (
    "<",
    "|",
    "<|",
    "|>",
    "im_end",
    "im_start",
    "s>",
    "/",
    "</",
    "a",
    " ",
    "end",
    "<|im_end|>",
    "</s>",
    "<s>",
)
TEXTS = st.lists(st.lists(st.sampled_from(PIECES), max_size=8).map("".join), min_size=1, max_size=5)


@pytest.fixture(params=["byte_level", "sentencepiece"])
def tok(request: pytest.FixtureRequest) -> Any:
    return getattr(tiny, request.param)()


def counted(tok: Any, rows: list[list[int]], said: list[str]) -> dict[str, int]:
    """Rows of each text that hold it more often than as its own id and in what they are said to hold."""
    vocabulary = vocabulary_of(tok)
    found = {}
    for text in SPLIT_CANDIDATES:
        single, needle = vocabulary.control.get(text), squeeze(text)
        found[text] = sum(
            vocabulary.bytes_of(row).count(needle) - row.count(single) > squeeze(words).count(needle)
            for row, words in zip(rows, said, strict=True)
        )
    return {text: count for text, count in found.items() if count}


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=TEXTS, whole=st.booleans(), told=st.booleans())
def test_texts_in_pieces_are_those_of_a_full_count(
    tok: Any, texts: list[str], whole: bool, told: bool
) -> None:
    """Tokenised with control tokens as one id, or letter by letter; with the source rows beside them, or without."""
    if whole:
        ids = tok(texts, add_special_tokens=False)["input_ids"]
    else:
        ids = [[i for c in text for i in tok(c, add_special_tokens=False)["input_ids"]] for text in texts]
    rows = as_rows([{"prompt": "a", "response": text} for text in texts]) if told else None
    tally = control_tokens_are_single_ids.map(as_encoded([{"input_ids": i} for i in ids]), tok, rows)
    said = texts if told else [""] * len(texts)
    assert {text: hits.rows for text, hits in tally.hits.items()} == counted(tok, ids, said)
