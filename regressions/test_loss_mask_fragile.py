"""The loss mask is where a count of the prompt's tokens says, and texts are not always cut there.

Symptom: the first word of every answer is learnt badly or not at all; on some rows the end is, or nothing is trained.
Severity: high
Cause: "Instruction: X\\nResponse: Y\\nEND" with the first len(tokenizer(prompt)) labels masked, although the prompt ends with a space that
    belongs to the first word of the response, and is counted without the blanks around the question, which the text keeps; and "END"
    found by its letters, which a response may hold as well.
First seen: written down by a fine-tuning project as high; https://github.com/OpenRLHF/OpenRLHF/issues/705
Cost: models that answer with the second word, and nobody who looked at the tokens of a row.
Check: every_response_token_is_trained, every_prompt_token_is_masked, responses_are_not_cut
Lesson: the mask is a property of every row: exactly the response and its end, whatever stands in the text and whichever tokenizer cuts it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from support import real

from llmguard import (
    boundary_falls_between_tokens,
    every_prompt_token_is_masked,
    every_response_token_is_trained,
    require,
    responses_are_not_cut,
    terminator_is_trained,
)
from llmguard.errors import CheckFailed
from llmguard.formats import text_format
from llmguard_core.encoding import Encoder
from llmguard_core.formats import format_for

NAME = "instruction-response-end"
PLAIN = [
    {"prompt": "What is two and three?", "response": "Two and three is five."},
    {"prompt": "Name a fruit that is red.", "response": "An apple is red."},
]
AWKWARD = [
    {"prompt": "What comes after Response: in our files?", "response": "The answer\nEND comes after it."},
    {"prompt": "Instruction: write one letter", "response": "a"},
    {"prompt": "\n\n\t Which month follows May? \n", "response": "\n\nJune\tfollows  May."},
    {"prompt": "Which island is the largest? 🏝️", "response": "Greenland — 格陵兰 🇬🇱."},
    {"prompt": "", "response": "Nothing was asked."},
    {"prompt": "Say END", "response": "END"},
]
ROWS = [*PLAIN, *AWKWARD]
FAMILIES = (
    "deepseek-coder-instruct", "deepseek-llm-7b-chat", "falcon-7b-instruct", "gpt2", "llama-2-7b-chat", "llama-3-8b",
    "mistral-7b-instruct-v0.2", "mistral-7b-instruct-v0.3", "olmo-2-instruct", "opt", "phi-2", "phi-3-mini-4k-instruct", "pythia",
    "qwen2.5-instruct", "starcoder2",
)  # fmt: skip
"""One tokenizer of each family; what holds on all of them is tested row by row elsewhere."""
Row = dict[str, str]
Encoded = dict[str, list[int]]


@pytest.fixture(scope="module", params=["lab", *FAMILIES])
def tok(request: pytest.FixtureRequest) -> Any:
    """The lab's tokenizer, and real ones: the same bug has many faces."""
    return request.getfixturevalue("tokenizer") if request.param == "lab" else real.tokenizer(request.param)


@pytest.fixture(scope="module")
def good(tok: Any) -> list[Encoded]:
    """All rows as the core encodes them."""
    return fixed(tok, ROWS)


def broken(tokenizer: Any, rows: Sequence[Row]) -> list[Encoded]:
    """The whole text is tokenised, and as many labels are masked as the prompt alone has tokens; what stands behind "END" goes."""
    found = []
    for row in rows:
        prompt = f"Instruction: {row['prompt']}\nResponse: "
        text = f"{prompt}{row['response']}\nEND"
        ids = tokenizer(text[: text.index("END", len(prompt)) + len("END")])["input_ids"]
        count = len(tokenizer(f"Instruction: {row['prompt'].strip()}\nResponse: ")["input_ids"])
        found.append({"input_ids": ids, "labels": [-100] * min(count, len(ids)) + ids[count:]})
    return found


def fixed(tokenizer: Any, rows: Sequence[Row]) -> list[Encoded]:
    """The core's encoder in the same format."""
    return list(Encoder(tokenizer, format_for(tokenizer, NAME), verify=0).rows(rows))


def _trained(tokenizer: Any, row: Encoded) -> str:
    """The text that is trained; what is before a first word, the tokenizer keeps to itself."""
    ids = [i for i in row["labels"] if i != -100]
    return str(tokenizer.decode(ids, clean_up_tokenization_spaces=False))


def test_witness(tok: Any, good: list[Encoded]) -> None:
    """Decoded, the trained part of a plain row has lost its first word; the core's is the response and its end on every row."""
    for row, bad in zip(PLAIN, broken(tok, PLAIN), strict=True):
        first, rest = row["response"].split(" ", 1)
        told = _trained(tok, bad).strip()
        assert not told.startswith(first)
        assert told.endswith(f"{rest}\nEND")
    for row, encoded in zip(ROWS, good, strict=True):
        assert _trained(tok, encoded).strip() == f"{row['response']}\nEND".strip()


def test_witness_of_the_end(tok: Any, good: list[Encoded]) -> None:
    """A response that says END is cut there, in the middle of its words."""
    talk = AWKWARD[0]
    assert "comes after it" not in tok.decode(broken(tok, [talk])[0]["input_ids"])
    assert "comes after it" in _trained(tok, good[ROWS.index(talk)])


def test_check_rejects(tok: Any) -> None:
    """The first token of the responses is masked, in every plain row."""
    fmt, encoded = text_format(NAME, tok.eos_token), broken(tok, PLAIN)
    with pytest.raises(CheckFailed, match="2 of 2 rows"):
        require(every_response_token_is_trained(encoded, PLAIN, tok, fmt))


def test_check_rejects_what_awkward_text_does(tok: Any) -> None:
    """Words of a question that are trained, and a response that ends in its middle."""
    fmt, encoded = text_format(NAME, tok.eos_token), broken(tok, AWKWARD)
    with pytest.raises(CheckFailed, match=r"1 of \d rows .*row 2"):
        require(every_prompt_token_is_masked(encoded, AWKWARD, tok, fmt))
    with pytest.raises(CheckFailed, match=r"1 of 6 rows .*row 0"):
        require(responses_are_not_cut(encoded, AWKWARD, tok, fmt))


def test_check_accepts(tok: Any, good: list[Encoded]) -> None:
    """The two invariants and both ends hold over every text, awkward ones included."""
    fmt = text_format(NAME, tok.eos_token)
    for check in (
        every_prompt_token_is_masked, every_response_token_is_trained, boundary_falls_between_tokens, terminator_is_trained,
        responses_are_not_cut,
    ):  # fmt: skip
        require(check(good, ROWS, tok, fmt))
