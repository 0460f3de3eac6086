"""Rows proved many at once are judged as single ones are: every real tokenizer with every format, on right and on damaged rows."""

from __future__ import annotations

from support import encoders
from support.cases import DATA, Case, chosen, rows_of
from support.proving import DAMAGES, both_ways, damaged, differences

from llmguard.encoded import as_encoded
from llmguard.formats import ChatTemplate

DATA_SHORT = {"gsm8k": 16, "conversations": 9}


def test_right_rows_are_proved_at_once(case: Case) -> None:
    """Nearly all of them, by what is compared at once alone, and with the kinds and turns that placing them one by one gives."""
    for template in case.formats:
        way = encoders.joint if isinstance(template, ChatTemplate) else encoders.split
        samples = case.samples(template, "gsm8k", way)
        rows = chosen(rows_of("gsm8k", DATA["gsm8k"]), [i for i, s in enumerate(samples) if s])
        encoded = as_encoded([s.columns() for s in samples if s])
        fast, slow = both_ways(encoded, rows, case.tok, template)
        assert not differences(fast, slow), template.name
        assert not slow.proved.any()
        asks = isinstance(template, ChatTemplate) and template.questions and "\n" in template.questions.within
        assert asks or fast.proved.mean() > 0.8, template.name


def test_damaged_rows_are_judged_alike_either_way(case: Case) -> None:
    """Tokens lost, doubled, changed, unknown; cut, padded, started and ended twice; rows of one and of several answers."""
    wrong = []
    for template in case.formats:
        for data, count in DATA_SHORT.items():
            samples = case.samples(template, data)[:count]
            rows = chosen(rows_of(data, DATA[data]), [i for i, s in enumerate(samples) if s])
            encoded = as_encoded([s.columns() for s in samples if s])
            for name in DAMAGES:
                given = damaged(encoded, name, f"{case.name}{template.name}{data}")
                told = differences(*both_ways(given, rows, case.tok, template))
                wrong += [(template.name, data, name, told)] if told else []
    assert not wrong
