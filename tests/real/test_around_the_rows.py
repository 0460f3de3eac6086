"""Faults that lie not in a row but beside it, on every real tokenizer: its source text, its collator, its generation prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from support import encoders
from support.batching import COLLATORS, batched, padded
from support.cases import DATA, Case, Template, rows_of
from support.encoders import Sample
from support.judging import alarms, findings, named

from llmguard.encoded import as_encoded
from llmguard.evidence.prompts import as_prompts
from llmguard.formats import ChatTemplate, TextFormat, text_format
from llmguard.rows import Rows, as_rows

COUNT = 8


def good_rows(case: Case, template: Template) -> list[Sample]:
    """The first questions and answers, encoded rightly."""
    return [s for s in case.samples(template, "gsm8k")[:COUNT] if s]


def questions() -> list[dict[str, str]]:
    return [dict(r) for r in rows_of("gsm8k", DATA["gsm8k"]).records[:COUNT]]


def edited(column: str, change: Any, only: int | None = 3) -> Rows:
    """The source rows, one of them (or all) with other text than was encoded."""
    records = questions()
    for index, record in enumerate(records):
        if only is None or index == only:
            record[column] = change(record[column])
    return as_rows(records)


EDITS = {
    "a number corrected": ("answer", lambda text: text.replace("#### ", "#### 9")),
    "an answer rewritten": ("answer", lambda text: f"Let me think. {text}"),
    "an answer shortened": ("answer", lambda text: text.partition("\n")[0]),
    "a question rewritten": ("question", lambda text: text.replace("How", "Tell me how")),
    "a question replaced": ("question", lambda text: "What is the capital of France, and why?"),
}


@pytest.mark.parametrize("edit", EDITS)
def test_text_edited_after_it_was_encoded_is_found(case: Case, edit: str) -> None:
    """One row of eight whose text changed: it is named, and no other is."""
    column, change = EDITS[edit]
    for template in case.formats:
        encoded = as_encoded([s.columns() for s in good_rows(case, template)])
        told = alarms(named(case.evidence(template, edited(column, change), encoded), "ids_match_their_text"))
        assert [r["row"] for f in told.values() for r in f.evidence["rows"]] == [3], template.name


def test_ids_of_another_row_are_found(case: Case) -> None:
    """Two rows whose ids were exchanged, and a row copied with the ids of another."""
    for template in case.formats:
        good = good_rows(case, template)
        exchanged = [good[1], good[0], *good[2:]]
        copied = [good[0], good[0], *good[2:]]
        for samples, wrong in ((exchanged, [0, 1]), (copied, [1])):
            encoded = as_encoded([s.columns() for s in samples])
            told = alarms(
                named(case.evidence(template, as_rows(questions()), encoded), "ids_match_their_text")
            )
            assert [r["row"] for f in told.values() for r in f.evidence["rows"]] == wrong, template.name


def test_a_template_in_base_prompts_is_found(case: Case) -> None:
    """The tokenizer's own template (ChatML where it has none), as text and as ids, with a generation prompt and without."""
    rows = as_rows(questions())
    own = ChatTemplate(case.tok) if case.tok.chat_template else text_format("chatml", case.tok.eos_token)
    asked = [t[:1] for t in rows.turns if t]
    rendered = [own.prompt(t) for t in asked]
    texts = [rendered, [own.render(t) for t in asked]] if isinstance(own, ChatTemplate) else [rendered]
    for leaked in texts:
        for prompts in (leaked, [case.tok(t)["input_ids"] for t in leaked]):
            told = alarms(findings(base_evidence(case, rows, prompts), ["template"]))
            assert told.keys() & {"base_prompts_carry_no_template", "base_prompts_carry_no_role_words"}


def test_plain_base_prompts_raise_no_alarm(case: Case) -> None:
    """The question as it is, as text and as ids; also where the data themselves talk about role tokens."""
    records = questions()
    records[2]["question"] = "What does <|im_start|>user mean, and is [INST] a token?\nUser: no idea"
    rows = as_rows(records)
    plain = [r["question"] for r in records]
    for prompts in (plain, [case.tok(t)["input_ids"] for t in plain]):
        told = alarms(findings(base_evidence(case, rows, prompts), ["template", "prompts", "tokens"]))
        told.pop("base_tokenizer_ships_no_template", None)
        assert not told


def base_evidence(case: Case, rows: Rows, prompts: Sequence[Any]) -> dict[str, Any]:
    return {"prompts": as_prompts(prompts, case.tok), "rows": rows, "tokenizer": case.tok, "kind": "base"}


def test_prompts_in_another_format_are_found(case: Case) -> None:
    """Trained in one format and prompted in another, and the other way round; a system message on one side only."""
    zephyr, alpaca = (text_format(n, case.tok.eos_token) for n in ("zephyr", "alpaca"))
    for trained, asked in ((zephyr, alpaca), (alpaca, zephyr), (alpaca, WithSystem(alpaca))):
        assert disagrees(case, trained, [asked.prompt(t) for t in as_rows(questions()).turns if t])
        assert not disagrees(case, trained, [trained.prompt(t) for t in as_rows(questions()).turns if t])


class WithSystem:
    """A format that puts a default system message in front."""

    def __init__(self, inner: TextFormat) -> None:
        self.inner = inner

    def prompt(self, turns: Any) -> str:
        return f"You are helpful.\n\n{self.inner.prompt(turns)}"


def disagrees(case: Case, template: TextFormat, prompts: list[str]) -> bool:
    samples = [s for s in case.samples(template, "gsm8k", encoders.joint)[:COUNT] if s]
    evidence = case.evidence(
        template, as_rows(questions()), as_encoded([s.columns() for s in samples]), prompts
    )
    return bool(alarms(named(evidence, "training_starts_with_the_generation_prompt")))


def test_correct_batches_raise_no_alarm(case: Case) -> None:
    """Padding on the right and on the left, with the pad id and with EOS as pad."""
    for template in case.formats[-2:]:
        rows = [s.columns() for s in good_rows(case, template)]
        for left in (False, True):
            for pad in {case.tok.pad_token_id, case.tok.eos_token_id} - {None}:
                batches = batched(rows, lambda r, p=pad, side=left: padded(r, p, left=side))
                evidence = {"batches": batches, "encoded": batches.before, "tokenizer": case.tok}
                assert not alarms(findings(evidence, ["collation", "packing"])), (template.name, left, pad)
                taken_apart = case.evidence(template, as_rows(questions()), batches.padded.unpadded())
                known = case.name == "falcon-7b-instruct" and isinstance(template, ChatTemplate)
                told = alarms(findings(taken_apart)).keys() - (
                    {"response_ends_with_its_terminator"} if known else set()
                )
                assert not told, (template.name, left, pad)


@pytest.mark.parametrize("collator", COLLATORS, ids=lambda c: c.__name__)
def test_each_faulty_collator_is_found(case: Case, collator: Any) -> None:
    """By its own check, in Alpaca format with EOS as the pad token."""
    template = text_format("alpaca", case.tok.eos_token)
    rows = [s.columns() for s in good_rows(case, template)]
    batches = batched(rows, lambda r: collator(r, case.tok.eos_token_id))
    evidence = {"batches": batches, "encoded": batches.before, "tokenizer": case.tok}
    assert COLLATORS[collator] in alarms(findings(evidence, ["collation"]))


def test_an_end_in_letters_is_found(case: Case) -> None:
    """EOS written into the text and tokenised with split_special_tokens: its letters end nothing."""
    template = text_format("alpaca", case.tok.eos_token)
    letters = [i for c in case.tok.eos_token for i in case.tok(c, add_special_tokens=False)["input_ids"]]
    samples = [spelt(s, letters) for s in case.samples(template, "gsm8k", encoders.joint)[:COUNT] if s]
    encoded = as_encoded([s.columns() for s in samples])
    told = alarms(findings(case.evidence(template, as_rows(questions()), encoded), ["tokens"]))
    assert told.keys() & {"control_tokens_are_single_ids", "response_ends_with_its_terminator"}


def spelt(sample: Sample, letters: list[int]) -> Sample:
    """A row whose terminator is several other tokens."""
    last = sample.spans[-1]
    return Sample(
        [*sample.ids[: last.end], *letters], [encoders.Span(last.start, last.end, last.end + len(letters))]
    )
