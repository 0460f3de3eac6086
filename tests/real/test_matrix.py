"""Every real tokenizer with every format that it can carry and its own template, on real rows.

Correct encodings raise no alarm; each planted fault is found on every tokenizer, by a check that is named with the fault.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from support import encoders, real
from support.faults import FAULTS, Fault, has_token
from support.judging import alarms, findings

from llmguard.encoded import as_encoded
from llmguard.evidence.prompts import as_prompts
from llmguard.formats import TEXT_FORMATS, ChatTemplate, text_format
from llmguard.rows import Columns, Rows, as_rows

KNOWN: dict[tuple[str, str], str] = {
    (
        "falcon-7b-instruct",
        "response_ends_with_its_terminator",
    ): "its template writes nothing behind a response: nothing teaches the model to stop",
    ("falcon-7b-instruct", "stop_tokens_agree"): "the same",
}
"""True findings on correct encodings: what the release itself does."""

Encoder = Callable[[Any, Any, Any], Any]


def rows_of(name: str) -> Rows:
    """Twelve question-and-answer rows, or eight conversations."""
    if name == "gsm8k":
        return as_rows(real.gsm8k(12), Columns(prompt="question", response="answer"))
    return as_rows(real.conversations(8))


def formats(tok: Any) -> Iterator[Any]:
    """The formats whose control tokens the tokenizer has, and its own template."""
    for name in TEXT_FORMATS:
        found = text_format(name, tok.eos_token)
        if all(has_token(tok, t) for t in found.control):
            yield found
    if tok.chat_template:
        yield ChatTemplate(tok)


def ways(template: Any) -> dict[str, Encoder]:
    """The correct ways to encode that suit a format. Where a prompt ends without a separator, or with a space, a token would hold
    the end of the prompt and the start of the response: only tokenising them apart is right there.
    """
    if isinstance(template, ChatTemplate):
        return {"rendered": encoders.rendered, "joint": encoders.joint}
    apart = template.name == "completion" or template.before["assistant"].endswith(" ")
    return {"split": encoders.split} if apart else {"split": encoders.split, "joint": encoders.joint}


def evidence(
    tok: Any, template: Any, rows: Rows, samples: list[Any], *, prompted: bool = True
) -> dict[str, Any]:
    """What the checks get: encoded rows, their sources, and the prompts that generation would build."""
    kept = [(i, s) for i, s in enumerate(samples) if s is not None]
    encoded = as_encoded([s.columns() for _, s in kept], "train")
    encoded = encoded.__class__(encoded.columns, np.asarray([i for i, _ in kept]), "train")
    prompts = as_prompts(
        [template.prompt(t) for t in rows.turns], tok, add_special_tokens=template.add_special_tokens
    )
    found = {
        "tokenizer": tok,
        "template": template,
        "rows": rows,
        "encoded": encoded,
        "train_on": "responses",
        "stops": {},
    }
    return {**found, "prompts": prompts} if prompted else found


@pytest.mark.parametrize("name", real.TOKENIZERS)
def test_correct_encodings_raise_no_alarm(name: str) -> None:
    """No error and no warning, whatever the format, the data and the way of encoding."""
    tok = real.tokenizer(name)
    wrong = {}
    for template in formats(tok):
        for data in ("gsm8k", "conversations"):
            rows = rows_of(data)
            for way, encode in ways(template).items():
                samples = [encode(tok, template, turns) for turns in rows.turns]
                if not any(samples):
                    continue
                # a history tokenised turn by turn has other ids than one tokenised at once, as generation does: a true difference
                prompted = not (way == "split" and data == "conversations")
                told = alarms(findings(evidence(tok, template, rows, samples, prompted=prompted)))
                told = {
                    c: f
                    for c, f in told.items()
                    if not (isinstance(template, ChatTemplate) and (name, c) in KNOWN)
                }
                wrong.update(
                    {(template.name, data, way, c): f.message.splitlines()[0] for c, f in told.items()}
                )
    assert not wrong


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.name)
@pytest.mark.parametrize("name", real.TOKENIZERS)
def test_each_fault_is_found(name: str, fault: Fault) -> None:
    """In the tokenizer's own template, or the Alpaca format where it has none, on question-and-answer rows or conversations."""
    tok = real.tokenizer(name)
    template = (
        ChatTemplate(tok)
        if tok.chat_template and name != "falcon-7b-instruct"
        else text_format("alpaca", tok.eos_token)
    )
    planted = False
    for data in ("gsm8k", "conversations"):
        rows = rows_of(data)
        samples = [encoders.joint(tok, template, turns) for turns in rows.turns]
        faulty = [fault.plant(s, tok) for s in samples]
        if not any(faulty):
            continue
        planted = True
        told = alarms(findings(evidence(tok, template, rows, faulty)))
        assert set(told) & set(fault.found_by), f"{fault.name} on {data}: found only {sorted(told)}"
    if not planted:
        pytest.skip(f"{name} cannot have this fault (no BOS of its own, or one response a row)")
