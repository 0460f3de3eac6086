"""Every chat template of the collection: taken apart it is whole, and rows rendered by it raise no alarm."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from support import encoders, real
from support.importing import imported
from support.judging import alarms, findings

from llmguard.encoded import as_encoded
from llmguard.evidence.prompts import as_prompts
from llmguard.formats import ChatTemplate, Kind, pieces_text
from llmguard.formats.chat import TemplateError
from llmguard.rows import Rows, as_rows

ON = ("gpt2", "llama-2-7b-chat", "qwen2.5-instruct")
"""A byte-level tokenizer without BOS of its own, a SentencePiece one, and one with a BOS of nobody's."""
MARKER = re.compile(
    r"<[|｜][^<>|｜\s]{1,40}[|｜]>|\[/?[A-Z_]{3,24}\]|<(?:start|end)_of_\w+>|</?s>|<eos>|<sep>|<turn\|>|<\|turn>|<seed:\w+>|</?think>"
)
UNRENDERED = 40
"""At most so many of the templates may refuse plain turns (they need tools, images, or variables of their own)."""

REWRITES = {"chujiezheng__falcon-instruct", "chujiezheng_raw__falcon-instruct"}
"""Templates that change what they are given (blank lines become line breaks): rows with such text are left out for them."""

CONVERSATIONS: list[list[tuple[str, str]]] = [
    [("user", "Which town lies on seven hills?"), ("assistant", "It is Rome.")],
    [("user", "Ahoy"), ("assistant", "Ahoy"), ("user", "Ahoy"), ("assistant", "Ahoy, ahoy")],
    [
        ("user", "One\ntwo  three"),
        ("assistant", "Four five.\n\n- six\n- seven"),
        ("user", "and?"),
        ("assistant", "<b>8</b> 🙂 日本"),
    ],
    [
        ("user", "مرحبا بكم"),
        ("assistant", "أهلا وسهلا"),
        ("user", "x = [1, 2]\nprint(x)"),
        ("assistant", "def f(x):\n\treturn x\n"),
    ],
    [
        ("user", "What is the user to say to the assistant?"),
        ("assistant", "The user says: system user assistant."),
    ],
]


def rows_of(conversations: list[list[tuple[str, str]]]) -> Rows:
    return as_rows([{"messages": [{"role": r, "content": c} for r, c in turns]} for turns in conversations])


@pytest.fixture(scope="module", params=ON)
def tok(request: pytest.FixtureRequest) -> Any:
    """A tokenizer that has the control tokens of every template, as one that is trained with them has."""
    transformers = imported("transformers")
    made = transformers.PreTrainedTokenizerFast.from_pretrained(real.tokenizer_folder(request.param))
    found = {m for _, text in real.templates() for m in MARKER.findall(text)}
    made.add_special_tokens({"additional_special_tokens": sorted(found)})
    return made


def rendering(tok: Any, rows: Rows) -> Iterator[tuple[str, ChatTemplate, Rows]]:
    """The templates that render, each with the rows that it takes."""
    for name, text in real.templates():
        template = ChatTemplate(tok, text)
        kept = [
            i
            for i, turns in enumerate(rows.turns)
            if takes(template, turns)
            and not (name in REWRITES and "\n\n" in "".join(t.content for t in turns or ()))
        ]
        if kept:
            yield name, template, as_rows([rows.records[i] for i in kept])


def takes(template: ChatTemplate, turns: Any) -> bool:
    try:
        return bool(template.render(turns)) and bool(template.prompt(turns))
    except TemplateError:
        return False


def test_pieces_are_the_whole_text_and_find_every_response(tok: Any) -> None:
    """Joined again the pieces are what the template renders, and the responses among them are the data's."""
    rows, wrong, seen = rows_of(CONVERSATIONS), [], set()
    for name, template, taken in rendering(tok, rows):
        seen.add(name)
        for turns in taken.turns:
            pieces = template.pieces(turns or ())
            answers = [t.content.strip() for t in turns or () if t.role == "assistant"]
            found = [
                "".join(p.text for p in pieces if p.kind is Kind.RESPONSE and p.turn == n).strip()
                for n in range(len(answers))
            ]
            if pieces_text(pieces) != template.render(turns or ()) or found != answers:
                wrong.append((name, found, answers))
    assert not wrong
    assert len(dict(real.templates())) - len(seen) < UNRENDERED


def test_rows_rendered_by_a_template_raise_no_alarm(tok: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokenised as one text, responses and what ends them trained; what is wrong with the template itself is left aside."""
    wrong: dict[Any, str] = {}
    for name, template, rows in rendering(tok, rows_of(CONVERSATIONS)):
        monkeypatch.setattr(tok, "chat_template", template.text)
        samples = [encoders.joint(tok, template, t or ()) for t in rows.turns]
        encoded = as_encoded([s.columns() for s in samples])
        evidence = {
            "encoded": encoded, "rows": rows, "tokenizer": tok, "template": template, "kind": "chat", "train_on": "responses",
            "prompts": as_prompts([template.prompt(t or ()) for t in rows.turns], tok, add_special_tokens=False),
        }  # fmt: skip
        told = alarms(findings(evidence))
        for check in told.keys() - set(true_of(template, rows, samples)):
            wrong[name, check] = told[check].message.splitlines()[0][:200]
    assert not wrong, "\n".join(f"{k}: {v}" for k, v in wrong.items())


def true_of(template: ChatTemplate, rows: Rows, samples: list[encoders.Sample]) -> Iterator[str]:
    """What is truly wrong with a template, seen in its text and its ids alone."""
    asked = [template.prompt(t or ()) for t in rows.turns]
    ids = template.tokenizer(asked, add_special_tokens=False)["input_ids"]
    if any(
        s.ids[: len(i)] != i for s, i in zip(samples, ids, strict=True)
    ):  # opens a thinking block, or ends in blanks
        yield "training_starts_with_the_generation_prompt"
    if any(s.spans[-1].stop == s.spans[-1].end for s in samples):
        yield "response_ends_with_its_terminator"
