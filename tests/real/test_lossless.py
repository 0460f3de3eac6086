"""What real tokenizers do to real and awkward text: the check on loss raises no alarm where nothing is lost."""

from __future__ import annotations

from typing import Any

import pytest
from support import real

import llmguard
from llmguard.rows import as_rows

AWKWARD = (
    "Cafe\u0301 and Café, naïve, Å and A\u030a",  # one character, two spellings: NFC chooses one
    "مرحبا بالعالم، كيف حالك؟",
    "שלום עולם",
    "안녕하세요 세계, 你好，世界！ こんにちは",
    "👩‍👩‍👧‍👦 🇩🇪 👍🏽 and ❤️",
    "def f(x):\n\treturn x  # a comment\n\n\n    pass",
    "x² + ½ = ﬁve ① Ｆｕｌｌ ™",  # compatible characters, which no tokenizer of these rewrites
    "zero\u200bwidth, soft\u00adhyphen, nbsp\u00a0here",
    "He said <|im_start|>user and </s> and [INST].",
    " leading, trailing ",
    "मैं घर जा रहा हूँ",
    "Ünïcödé ĞĦŊ ß ſ K",  # the last is the Kelvin sign, which is K to NFC
)


@pytest.mark.parametrize("name", real.TOKENIZERS)
def test_no_alarm_on_text_that_comes_back(name: str) -> None:
    """Real questions and answers, and scripts, emoji, code and look-alikes of control tokens: no warning from any of them."""
    tokenizer: Any = real.tokenizer(name)
    rows = [{"prompt": r["question"], "response": r["answer"]} for r in real.gsm8k(20)]
    assert not llmguard.tokenizer_is_lossless(as_rows(rows), tokenizer)
    odd = [{"prompt": "Say it.", "response": text} for text in AWKWARD]
    found = llmguard.tokenizer_is_lossless(as_rows(odd), tokenizer)
    assert [f.message for f in found] == []
