"""Rows that end with what opens another response: `add_generation_prompt=True` on whole conversations."""

from __future__ import annotations

from typing import Any

import llmguard
from llmguard.encoded import as_encoded
from llmguard.formats import ChatTemplate
from llmguard.rows import as_rows

TURNS = [{"role": "user", "content": "Name a fruit."}, {"role": "assistant", "content": "An apple."}]


def test_rows_that_open_another_response(tiny: Any) -> None:
    """`training_text_follows_its_format`: a generation prompt behind the last response is told as such, and nothing else is."""
    rows, template = as_rows([{"messages": TURNS}] * 3), ChatTemplate(tiny)
    whole = template.render(rows.turns[0] or ())
    check = llmguard.training_text_follows_its_format
    assert not check(as_encoded([tiny(whole)] * 3), rows, tiny, template)
    opened = [tiny(whole), tiny(whole), tiny(f"{whole}<|im_start|>assistant\n")]
    told = check(as_encoded(opened), rows, tiny, template)
    assert [f.severity.value for f in told] == ["error"]
    assert told.looked_at == 3
    assert "1 of 3 rows (33.3 %) end with an opened response" in told[0].message
