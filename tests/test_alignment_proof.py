"""Many rows proved at once: every byte compared, recipes confirmed before they are believed, the same answer as row by row."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support import encoders, tiny
from support.proving import DAMAGES, both_ways, damaged, differences

from llmguard import examples
from llmguard.alignment import Status, align
from llmguard.alignment.recipes import recipe_of, shape_of
from llmguard.alignment.targets import Targets
from llmguard.encoded import Encoded, as_encoded
from llmguard.formats import TEXT_FORMATS, ChatTemplate, Kind, text_format
from llmguard.formats.chat import TemplateError
from llmguard.formats.questions import questions_in
from llmguard.ragged import Ragged
from llmguard.rows import Rows, Turn, as_rows
from llmguard.vocabulary import Vocabulary, vocabulary_of

QA = [
    {"prompt": f"What is {i} and {i}?", "response": f"The answer is {2 * i}, and there are {i} more."}
    for i in range(24)
]


@pytest.fixture(params=["byte_level", "sentencepiece"])
def tok(request: pytest.FixtureRequest) -> Any:
    return getattr(tiny, request.param)()


def encoded_in(tok: Any, template: Any, rows: Rows) -> Encoded:
    texts = ["".join(p.text for p in template.pieces(t or ())) for t in rows.turns]
    special = template.add_special_tokens
    ids = tok([f"{t}{tok.eos_token}" for t in texts], add_special_tokens=special)["input_ids"]
    return as_encoded([{"input_ids": i} for i in ids])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seeds=st.lists(st.integers(0, 10**6), min_size=2, max_size=6),
    damage=st.sampled_from(sorted(DAMAGES)),
    form=st.one_of(st.sampled_from(sorted(TEXT_FORMATS)), st.integers(0, 500)),
)
def test_drawn_conversations_are_judged_alike_either_way(
    tok: Any, seeds: list[int], damage: str, form: Any
) -> None:
    """Blank turns, awkward Unicode, control tokens in the text, templates of the usual builds; right and damaged."""
    talks = [{"messages": examples.conversation(s, pairs=3, system=True, lookalikes=True)} for s in seeds]
    rows = as_rows([*talks, *talks[:1]])
    if isinstance(form, int):
        template: Any = ChatTemplate(tok, examples.chat_template(form))
    else:
        template = text_format(form, tok.eos_token)
    try:
        right = encoded_in(tok, template, rows)
    except TemplateError:  # it refuses roles: there is nothing to align
        return
    assert not differences(*both_ways(damaged(right, damage, str(seeds)), rows, tok, template))


def test_every_changed_byte_is_seen(tok: Any) -> None:
    """Other bytes at any place of a row's prompt and response: that row is not proved, all others are."""
    rows, template = as_rows(QA), text_format("alpaca", tok.eos_token)
    encoded = encoded_in(tok, template, rows)
    vocabulary, ids = vocabulary_of(tok), encoded.input_ids
    right = align(encoded, rows, tok, template)
    assert right.proved.all()
    start, stop = ids.offsets[7:9].tolist()
    first, last = int(ids[7][0] == tok.bos_token_id), right.kind[start:stop].tolist().index(Kind.TERMINATOR)
    changed = 0
    for at in range(start + first, start + last):
        other = of_the_same_size(vocabulary, int(ids.values[at]))
        if other is not None:
            values = ids.values.copy()
            values[at] = other
            bad = Encoded({"input_ids": Ragged(values, ids.offsets)}, encoded.source)
            found = align(bad, rows, tok, template)
            assert np.flatnonzero(~found.proved).tolist() == [7], at - start
            changed += 1
    assert changed > 10


def of_the_same_size(vocabulary: Vocabulary, token: int) -> int | None:
    """A token of as many bytes, and others; None where there is none."""
    size = vocabulary.lengths[token]
    same = np.flatnonzero((vocabulary.lengths == size) & ~vocabulary.added) if size else []
    return next(
        (
            int(i)
            for i in same
            if vocabulary.bytes_of(np.array([i])) != vocabulary.bytes_of(np.array([token]))
        ),
        None,
    )


def test_long_tokens_are_compared_to_their_last_byte() -> None:
    """Tokens of more than eight bytes that differ in a later one."""
    tok = copy.deepcopy(tiny.byte_level())
    words = ["abcdefghijklmnopqrstuvwxyz", "abcdefghijklmnopqrstuvwxyZ", "abcdefghijklmnopQrstuvwxyz"]
    tok.add_tokens(words)
    vocabulary = vocabulary_of(tok)
    one, last, middle = tok.convert_tokens_to_ids(words)
    text = words[0].encode() * 2
    starts = np.array([0, 26], dtype=np.int64)
    for wrong in (last, middle):
        assert vocabulary.differing(np.array([one, wrong]), starts, text).tolist() == [1]
    assert not len(vocabulary.differing(np.array([one, one]), starts, text))


def test_rows_of_tokens_that_are_padding_are_proved_without_it(tok: Any) -> None:
    """Attention 0 on either side: what is attended is compared."""
    rows, template = as_rows(QA), text_format("zephyr", tok.eos_token)
    encoded = encoded_in(tok, template, rows)
    pad = tok.eos_token_id
    padded = [
        {"input_ids": [pad, *ids.tolist(), pad], "attention_mask": [0, *[1] * len(ids), 0]}
        for ids in encoded.input_ids
    ]
    fast, slow = both_ways(as_encoded(padded), rows, tok, template)
    assert fast.proved.all()
    assert not differences(fast, slow)
    assert int((fast.kind == Kind.PAD).sum()) == 2 * len(QA)


def test_ends_that_most_rows_share_end_proved_rows_too(tok: Any) -> None:
    """`\\nEND` behind every row of a format without an end of its own."""
    rows, template = as_rows(QA), text_format("completion", "")
    texts = [f"{r['prompt']}{r['response']}\nEND" for r in QA]
    encoded = as_encoded([{"input_ids": i} for i in tok(texts)["input_ids"]])
    fast, slow = both_ways(encoded, rows, tok, template)
    assert fast.terminator.strip() == b"END"
    assert fast.proved.all()
    assert not differences(fast, slow)


def test_white_space_at_the_edges_of_contents_is_judged_alike_either_way(tok: Any) -> None:
    """Kept, and trimmed by the template; at either edge of prompts and responses, and all that there is."""
    edges = ("", "\n", "  ", "\t\n ", "\n\n")
    rows = as_rows(
        [{"prompt": f"{a}how many{b}", "response": f"{b}three{a}"} for a in edges for b in edges]
        + [{"prompt": "how many", "response": "\n"}, {"prompt": " ", "response": "three"}]
    )
    trimmed = ChatTemplate(tok, tiny.CHATML.replace("m.content", "(m.content | trim)"))
    forms: list[Any] = [text_format(name, tok.eos_token) for name in TEXT_FORMATS]
    for template in (*forms, ChatTemplate(tok, tiny.CHATML), trimmed):
        for damage in ("none", "a token left out"):
            encoded = damaged(encoded_in(tok, template, rows), damage, template.name)
            fast, slow = both_ways(encoded, rows, tok, template)
            assert not differences(fast, slow), template.name
            assert fast.proved.any()


def test_tokens_of_spaces_are_judged_alike_either_way(tok: Any) -> None:
    """A prompt that ends with a space, tokenised apart: a token without bytes at the seam, which is no response's."""
    rows, template = as_rows(QA), text_format("instruction-response-end", tok.eos_token)
    encoded = as_encoded([encoders.split(tok, template, t).columns() for t in rows.turns if t])
    fast, slow = both_ways(encoded, rows, tok, template)
    assert fast.proved.all()
    assert not differences(fast, slow)
    empty = vocabulary_of(tok).lengths_of(encoded.input_ids.values) == 0
    assert set(fast.kind[empty].tolist()) <= {Kind.BLANK_BEFORE, Kind.PROMPT, Kind.SEAM, Kind.RESPONSE}
    assert (fast.kind[empty] == Kind.BLANK_BEFORE).sum() >= len(QA)


def test_a_text_that_stands_in_its_row_twice_is_the_first(tok: Any) -> None:
    """What stands before other rows stands before this one too, and with it the text starts earlier."""
    rows = as_rows([*QA, {"prompt": "abab", "response": "abab"}])
    template = text_format("completion", "")
    ids = [
        [*tok("ab", add_special_tokens=False)["input_ids"], *tok(r["prompt"], add_special_tokens=False)["input_ids"],
         *tok(r["response"], add_special_tokens=False)["input_ids"]]
        for r in rows.records
    ]  # fmt: skip
    fast, slow = both_ways(as_encoded([{"input_ids": i} for i in ids]), rows, tok, template)
    assert not differences(fast, slow)
    assert np.flatnonzero(~fast.proved).tolist() == [len(QA)]


def test_a_template_that_looks_into_contents_is_asked_for_such_rows() -> None:
    """Thinking that it strips from a response: rows that hold some are rendered, and are what the template makes of them."""
    tok = tiny.chat()
    strip = tiny.CHATML.replace("m.content }}", "m.content.split('</think>')[-1] }}")
    template = ChatTemplate(tok, strip)
    rows = as_rows([*QA, {"prompt": "how many", "response": "<think>one two</think>three"}])
    encoded = encoded_in(tok, template, rows)
    fast, slow = both_ways(encoded, rows, tok, template)
    assert not differences(fast, slow)
    assert np.flatnonzero(~fast.proved).tolist() == [len(QA)]
    assert fast.status.tolist() == [Status.EXACT] * len(rows)
    naive = ChatTemplate(tok, tiny.CHATML)
    kept = encoded_in(tok, naive, rows)
    unstripped = align(kept, rows, tok, template).status.tolist()
    assert unstripped[-1] != Status.EXACT, "the naive text is not what the template writes"


def test_a_recipe_that_a_sample_contradicts_is_not_believed() -> None:
    """A template that counts characters: what it makes of marks says nothing about other contents."""
    tok = tiny.chat()
    odd = tiny.CHATML.replace("m.content }}", "m.content }}{{ 'long' if m.content|length > 22 else '' }}")
    template, rows = ChatTemplate(tok, odd), as_rows(QA)
    targets = Targets(rows, tok, template, vocabulary_of(tok))
    turns = rows.turns[0] or ()
    shape = shape_of(turns) or ()
    assert shape == ("user", "assistant")
    assert recipe_of(shape, targets, [turns]) is None
    assert recipe_of(shape, Targets(rows, tok, ChatTemplate(tok), vocabulary_of(tok)), [turns]) is not None
    encoded = encoded_in(tok, template, rows)
    fast, slow = both_ways(encoded, rows, tok, template)
    assert not fast.proved.any()
    assert not differences(fast, slow)


def test_shapes_are_of_turns_that_are_roles_and_contents() -> None:
    """Tool calls, turns that are not to be trained, and rows without a response have none."""
    asked, said = Turn("user", "how many"), Turn("assistant", "three")
    assert shape_of((asked, said)) == ("user", "assistant")
    assert shape_of((asked,)) is None
    assert shape_of(None) is None
    assert shape_of((asked, Turn("assistant", "", extra={"tool_calls": [{}]}))) is None
    assert shape_of((asked, Turn("assistant", "three", wanted=False), asked, said)) is None


def test_questions_of_a_template_are_the_texts_that_it_looks_for() -> None:
    """Searches, splits and comparisons; not what it writes, names of keys, list filters, error messages."""
    template = (
        "{% for m in messages %}{% if m['role'] == 'user' or m.role in ['tool', 'ipython'] %}{{ 'USER: ' + m['content'] }}"
        "{% elif '</think>' in m.content %}{{ m.content.split('<think>')[-1].strip('\\n') | replace('a', 'b') }}{% endif %}"
        "{{ raise_exception('no such role') if m.x else '' }}{% generation %}{{ tools | join(', ') }}{% endgeneration %}{% endfor %}"
    )
    found = questions_in(template)
    assert found is not None
    assert set(found.within) == {"</think>", "<think>", "a", "b"}
    assert found.equal == {"user", "tool", "ipython"}
    assert questions_in("{% for m in %}") is None


LETTERS = st.one_of(st.characters(), st.sampled_from("a \u2581\u00e9\u0301\0\n"))


@settings(deadline=None)
@given(texts=st.lists(st.text(LETTERS, max_size=12), min_size=1, max_size=6))
@example(texts=["\u2581 a \u2581"])
@example(texts=["a", "e\u0301", "b\0c"])
def test_many_texts_are_normalised_as_one_is(texts: list[str]) -> None:
    """In one go or one by one: the same bytes, whatever the characters."""
    from tokenizers import normalizers

    for made in (tiny.byte_level(), tiny.sentencepiece()):
        vocabulary = vocabulary_of(made)
        assert vocabulary.texts_as_bytes(texts) == [vocabulary.text_as_bytes(t) for t in texts]
    for normalizer in (normalizers.NFC(), normalizers.Lowercase()):
        other = replace(vocabulary_of(tiny.byte_level()), normalizer=normalizer)
        assert other.texts_as_bytes(texts) == [other.text_as_bytes(t) for t in texts]


def test_blocks_do_not_change_the_answer(tok: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows one by one, a few at a time and all at once; empty rows among them."""
    rows, template = as_rows(QA), text_format("alpaca", tok.eos_token)
    encoded = damaged(encoded_in(tok, template, rows), "a token left out", "blocks")
    lists = [[] if i in (0, 5, 23) else ids.tolist() for i, ids in enumerate(encoded.input_ids)]
    encoded = Encoded({"input_ids": Ragged.of(lists)}, encoded.source)
    whole, _ = both_ways(encoded, rows, tok, template)
    for tokens in (1, 100):
        monkeypatch.setattr("llmguard.alignment.blocks.blocks.__defaults__", (tokens,))
        assert not differences(both_ways(encoded, rows, tok, template)[0], whole)


def test_rows_are_encoded_as_the_encoders_do(tok: Any) -> None:
    """Prompt and response tokenised apart or together: proved either way."""
    rows, template = as_rows(QA), text_format("alpaca", tok.eos_token)
    for way in (encoders.joint, encoders.split):
        encoded = as_encoded([way(tok, template, t).columns() for t in rows.turns if t])
        assert align(encoded, rows, tok, template).proved.all()
