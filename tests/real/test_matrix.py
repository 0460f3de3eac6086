"""Every real tokenizer with every format that it can carry and its own template, on real rows.

Correct encodings raise no alarm; each planted fault is found on every tokenizer in every format, by a check that is named with
the fault.
"""

from __future__ import annotations

from typing import Any

from support import encoders, real
from support.cases import DATA, Case, Template, chosen, rows_of
from support.faults import FAULTS, Fault
from support.judging import alarms, findings, named

from llmguard.encoded import as_encoded
from llmguard.formats import ChatTemplate

TRUE_ON_CORRECT_ROWS: dict[tuple[str, str], dict[str, str]] = {
    ("falcon-7b-instruct", "chat-template"): {
        "response_ends_with_its_terminator": "its template writes nothing behind a response: nothing teaches the model to stop",
    },
}
"""What the releases themselves get wrong: tokenizer and format -> check -> why it is right to say so."""

NO_FAULT: dict[tuple[str, str, str], str] = {
    (name, "zephyr", "bos_missing"): "the same text as its own chat template renders, which writes no BOS"
    for name in ("tinyllama-1.1b-chat", "zephyr-7b-beta")
}
"""Where a planted fault is right: tokenizer, format and fault -> why."""

FAULTY_ROWS = {"gsm8k": 6, "conversations": 9}


def test_the_tokenizers_are_those_of_the_folder() -> None:
    """None is left out: every folder with a tokenizer is in the list."""
    lying = {p.parent.name for p in (real.folder() / "tokenizers").glob("*/tokenizer.json")}
    assert lying == set(real.TOKENIZERS)


def test_correct_encodings_raise_no_alarm(case: Case) -> None:
    """No error and no warning, whatever the format, the data and the way of encoding."""
    wrong: dict[Any, str] = {}
    for template in case.formats:
        for data in DATA:
            for way in case.ways(template):
                evidence = case.correct(template, data, way)
                known = TRUE_ON_CORRECT_ROWS.get((case.name, template.name), {})
                told = alarms(findings(evidence)) if evidence else {}
                for check in told.keys() - known.keys():
                    wrong[template.name, data, way.__name__, check] = told[check].message.splitlines()[0]
    assert not wrong


def test_each_planted_fault_is_found(case: Case) -> None:
    """In every format, on questions and answers and on conversations, as far as a row of them can have the fault."""
    missed = [
        (fault.name, template.name, data)
        for template in case.formats
        for data in FAULTY_ROWS
        for fault in FAULTS
        if (case.name, template.name, fault.name) not in NO_FAULT and not found(case, template, data, fault)
    ]
    assert not missed


def found(case: Case, template: Template, data: str, fault: Fault) -> bool:
    """Whether one of the fault's checks sees it; true where no row can have the fault."""
    samples = case.samples(template, data, None)[: FAULTY_ROWS[data]]
    planted = [fault.plant(s, case.tok) if s else None for s in samples]
    kept = [i for i, s in enumerate(planted) if s]
    if not kept:
        return True
    encoded = as_encoded([s.columns() for s in planted if s])
    if fault.name != "padding_trained":  # padding is taken off where rows come out of batches
        encoded = encoded.unpadded()
    evidence = case.evidence(template, chosen(rows_of(data, DATA[data]), kept), encoded)
    return bool(alarms(named(evidence, *fault.found_by)))


def test_every_fault_can_be_planted(case: Case) -> None:
    """The matrix is not empty: every fault but those of a BOS has rows to stand in."""
    for fault in FAULTS:
        template = case.formats[-1]
        rows = [
            s
            for data in FAULTY_ROWS
            for s in case.samples(template, data, encoders.joint)[: FAULTY_ROWS[data]]
            if s and fault.plant(s, case.tok)
        ]
        unplanted = fault.name.startswith("bos_") or (
            fault.name.startswith("terminator_") and ends_nothing(case)
        )
        assert rows or unplanted, fault.name


def ends_nothing(case: Case) -> bool:
    """Whether the last format is a template without a terminator."""
    template = case.formats[-1]
    return isinstance(template, ChatTemplate) and not template.terminator
