"""What the user's Trainer is set to: each check seen to pass and to fail."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import llmguard
from llmguard.findings import Findings
from llmguard.project import load_project

ROWS = [{"prompt": "q", "response": "a"}] * 10


def names(found: Findings) -> list[str]:
    return [f.severity.value for f in found]


def facts(**more: Any) -> dict[str, Any]:
    return {"rows": 10, "evaluation_rows": None, "arguments": {}, "tokenizer": {}, **more}


def test_lost_rows_warn_and_held_out_or_packed_rows_do_not() -> None:
    """Fewer rows than the split are told; rows that are evaluated on, packed, or not counted are legitimate."""
    check = llmguard.trainer_keeps_every_row
    assert not check(facts(), ROWS)
    assert names(check(facts(rows=7), ROWS)) == ["warning"]
    assert not check(facts(rows=8, evaluation_rows=2), ROWS)
    assert check(facts(rows=3, arguments={"packing": True}), ROWS).looked_at == 0
    assert check(facts(rows=None), ROWS).looked_at == 0


def test_two_limits_that_differ_fail(tmp_path: Path) -> None:
    """The trainer's default against what the project says; one of them alone is no contradiction."""
    file = tmp_path / "llmguard.toml"
    file.write_text("[pipeline]\nmax_length = 2048\n")
    said = load_project(file)
    file.write_text("")
    silent = load_project(file)
    check = llmguard.trainer_agrees_about_max_length
    assert names(check(facts(arguments={"max_length": 1024}), said)) == ["error"]
    assert not check(facts(arguments={"max_length": 2048}), said)
    assert not check(facts(arguments={"max_length": 1024}), silent)
    assert not check(facts(), said)


def test_another_eos_fails_and_an_added_pad_does_not(tiny: Any) -> None:
    """EOS of the trainer's tokenizer against the project's; pad is the user's to choose."""
    check = llmguard.trainer_tokenizer_is_the_projects
    assert not check(facts(tokenizer={"eos_token_id": tiny.eos_token_id, "pad_token_id": 77}), tiny)
    assert names(check(facts(tokenizer={"eos_token_id": tiny.eos_token_id + 1}), tiny)) == ["error"]
    assert not check(facts(), tiny)


def test_documents_of_packed_rows_are_counted() -> None:
    """Packing makes one row of several: the documents are what must be as many as the rows of the split."""
    check = llmguard.trainer_keeps_every_row
    packed = {"arguments": {"packing": True}}
    assert names(check(facts(rows=2, documents=7, **packed), ROWS)) == ["warning"]
    assert not check(facts(rows=2, documents=10, **packed), ROWS)
    assert not check(facts(rows=2, documents=12, **packed), ROWS)
    assert check(facts(rows=2, documents=None, **packed), ROWS).looked_at == 0


def test_dropout_of_a_preference_policy_warns() -> None:
    """Log-probabilities under dropout are compared with those of a reference without; other Trainers may drop out."""
    check = llmguard.preference_policy_has_no_dropout
    assert names(check(facts(preference=True, dropout=0.1))) == ["warning"]
    assert not check(facts(preference=True, dropout=0.0))
    assert check(facts(preference=True)).looked_at == 1
    assert not check(facts(preference=False, dropout=0.1))
    assert check(facts(dropout=0.1)).looked_at == 0
