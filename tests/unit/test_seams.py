"""Spaces at the seam: whose they are."""

from __future__ import annotations

from typing import Any

import llmguard
from llmguard.encoded import as_encoded
from llmguard.formats.text import table_format
from llmguard.rows import as_rows

ROWS = [{"prompt": f"count to {i}", "response": f"{i}{i} apples"} for i in range(4)]


def rows_with(tok: Any, head: str, *, space_trained: bool) -> list[dict[str, list[int]]]:
    """Rows whose prompt and response meet in a space that is a token of its own."""
    found = []
    for row in ROWS:
        prompt, space = tok(f"{head}{row['prompt']}\nA:")["input_ids"], tok(" ")["input_ids"]
        response = tok(row["response"] + tok.eos_token)["input_ids"]
        labels = [-100] * len(prompt) + (space if space_trained else [-100]) + response
        found.append({"input_ids": prompt + space + response, "labels": labels})
    return found


def test_a_space_of_its_own_is_nobodys_where_the_format_is_not_told(tiny: Any) -> None:
    """Trained or masked, a lone space before a response says nothing when only contents are known."""
    for trained in (True, False):
        encoded = as_encoded(rows_with(tiny, "Q: ", space_trained=trained))
        for check in (llmguard.every_prompt_token_is_masked, llmguard.every_response_token_is_trained):
            assert not check(encoded, as_rows(ROWS), tiny, None), (check, trained)


def test_a_space_at_the_end_of_the_prompt_is_the_prompts(tiny: Any) -> None:
    """Where the declared prompt ends with the space, training it is the mask off by one: a warning."""
    template = table_format("Q: {prompt}\nA: ", "{response}", tiny.eos_token)
    good = as_encoded(rows_with(tiny, "Q: ", space_trained=False))
    off = as_encoded(rows_with(tiny, "Q: ", space_trained=True))
    check = llmguard.every_prompt_token_is_masked
    assert not check(good, as_rows(ROWS), tiny, template)
    assert [f.severity.value for f in check(off, as_rows(ROWS), tiny, template)] == ["warning"]


def test_a_space_at_the_start_of_the_response_is_the_responses(tiny: Any) -> None:
    """Where the declared response starts with the space, training it is right."""
    template = table_format("Q: {prompt}\nA:", " {response}", tiny.eos_token)
    right = as_encoded(rows_with(tiny, "Q: ", space_trained=True))
    assert not llmguard.every_prompt_token_is_masked(right, as_rows(ROWS), tiny, template)
    assert not llmguard.every_response_token_is_trained(right, as_rows(ROWS), tiny, template)


def test_an_end_marker_in_letters_ends_every_turn(tiny: Any) -> None:
    """Without a declared format, what all rows end with also ends their earlier responses: training it is no fault."""
    turns = [
        {
            "messages": [
                {"role": r, "content": f"{c} {i}"}
                for r, c in (
                    ("user", "name"),
                    ("assistant", "an apple"),
                    ("user", "and"),
                    ("assistant", "a pear"),
                )
            ]
        }
        for i in range(4)
    ]
    found = []
    for row in turns:
        ids: list[int] = []
        labels: list[int] = []
        for m in row["messages"]:
            header, body = tiny(f"[{m['role']}]")["input_ids"], tiny(f"{m['content']}[stop]")["input_ids"]
            ids += header + body
            labels += [-100] * len(header) + (body if m["role"] == "assistant" else [-100] * len(body))
        found.append({"input_ids": ids, "labels": labels})
    encoded, rows = as_encoded(found), as_rows(turns)
    for check in (
        llmguard.every_prompt_token_is_masked,
        llmguard.terminator_is_trained,
        llmguard.response_ends_with_its_terminator,
    ):
        assert not check(encoded, rows, tiny, None), check
