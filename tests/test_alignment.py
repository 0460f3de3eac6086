"""Which token of an encoded row is what, from its source text alone."""

from __future__ import annotations

import datetime as dt
from typing import Any

import numpy as np
import pytest
from support import encoders, tiny

from llmguard.alignment import Alignment, Status, align, window
from llmguard.encoded import Encoded, as_encoded
from llmguard.formats import ChatTemplate, Kind, TextFormat, text_format
from llmguard.formats.text import table_format
from llmguard.rows import Rows, as_rows

QA = [{"prompt": f"What is {i} and {i}?", "response": f"The answer is {2 * i}."} for i in range(4)]
TALK = [
    {"messages": [
        {"role": "user", "content": "how many"}, {"role": "assistant", "content": f"there are {i}"},
        {"role": "user", "content": "how many"}, {"role": "assistant", "content": f"there are {i} and more"},
    ]}
    for i in range(4)
]  # fmt: skip
SHORT = {Kind.PROMPT: "p", Kind.RESPONSE: "r", Kind.TERMINATOR: "t", Kind.TAIL: "-", Kind.STRADDLE: "x", Kind.PAD: "_",
         Kind.UNKNOWN: "?", Kind.BLANK_BEFORE: "b", Kind.BLANK_WITHIN: "w", Kind.SEAM: "s"}  # fmt: skip


def encode(tok: Any, texts: list[str], *, special: bool = True) -> Encoded:
    return as_encoded([{"input_ids": i} for i in tok(texts, add_special_tokens=special)["input_ids"]])


def said(alignment: Alignment, encoded: Encoded, row: int, *kinds: Kind) -> str:
    """The text of a row's tokens of some kinds, without spaces."""
    start, stop = encoded.input_ids.offsets[row : row + 2]
    chosen = np.isin(alignment.kind[start:stop], kinds)
    return alignment.vocabulary.bytes_of(encoded.input_ids[row][chosen]).decode()


def drawn(alignment: Alignment, encoded: Encoded, row: int) -> str:
    """Kinds of a row's tokens, a letter each, neighbours once."""
    start, stop = encoded.input_ids.offsets[row : row + 2]
    letters = [SHORT[Kind(k)] for k in alignment.kind[start:stop]]
    return "".join(c for c, before in zip(letters, ["", *letters], strict=False) if c != before)


@pytest.fixture(params=["byte_level", "sentencepiece"])
def tok(request: pytest.FixtureRequest) -> Any:
    return getattr(tiny, request.param)()


def alpaca(tok: Any) -> TextFormat:
    return text_format("alpaca", tok.eos_token)


def test_a_rendered_row_is_exact(tok: Any) -> None:
    """Response and terminator are just those; one text or prompt and response tokenised apart, as the tokenizer's spaces may fall."""
    rows, template = as_rows(QA), alpaca(tok)
    for way in (encoders.joint, encoders.split):
        encoded = as_encoded([way(tok, template, t).columns() for t in rows.turns if t])
        found = align(encoded, rows, tok, template)
        assert found.status.tolist() == [Status.EXACT] * 4
        assert said(found, encoded, 2, Kind.RESPONSE) == "Theansweris4."
        assert said(found, encoded, 2, Kind.TERMINATOR) == tok.eos_token
        assert found.responses.tolist() == [1] * 4
        assert not found.runs_on.any()
        assert not found.ended_otherwise.any()


def test_turns_are_numbered_and_told_apart_although_they_repeat(tok: Any) -> None:
    """The second answer starts like the first, and the questions are the same."""
    rows, template = as_rows(TALK), alpaca(tok)
    encoded = as_encoded([encoders.joint(tok, template, t).columns() for t in rows.turns if t])
    found = align(encoded, rows, tok, template)
    start, stop = encoded.input_ids.offsets[1:3]
    turn = found.turn[start:stop]
    texts = [found.vocabulary.bytes_of(encoded.input_ids[1][turn == n]).decode() for n in (0, 1)]
    assert [t.strip().removesuffix(tok.eos_token) for t in texts] == ["thereare1", "thereare1andmore"]


def test_without_a_template_contents_are_located(tok: Any) -> None:
    """In order, in a text of another format: prompt, response, terminator, and what stands between."""
    rows = as_rows(TALK)
    texts = [
        "".join(
            f"[{t.role}] {t.content}{tok.eos_token if t.role == 'assistant' else ''}\n" for t in turns or ()
        )
        for turns in rows.turns
    ]
    encoded = encode(tok, texts)
    found = align(encoded, rows, tok, None)
    assert found.status.tolist() == [Status.LOCATED] * 4
    assert said(found, encoded, 3, Kind.RESPONSE) == "thereare3thereare3andmore"
    assert said(found, encoded, 3, Kind.TERMINATOR) == tok.eos_token * 2
    other = align(encoded, rows, tok, alpaca(tok))
    assert other.status.tolist() == [Status.LOCATED] * 4


def test_an_answer_that_the_question_holds_is_the_last_of_its_kind(tok: Any) -> None:
    """A question that quotes its answer: the response is the later one."""
    rows = as_rows([{"prompt": "say: the garden", "response": "the garden"}] * 3)
    encoded = encode(tok, [f"Q say: the garden\nA the garden{tok.eos_token}"] * 3)
    found = align(encoded, rows, tok, None)
    ids = encoded.input_ids[0]
    response = np.flatnonzero(found.kind[: len(ids)] == Kind.RESPONSE)
    assert response.min() > len(ids) // 2


def test_cut_rows_are_known_as_such(tok: Any) -> None:
    """From the right within the response or the prompt, from the left within the prompt; with and without a format."""
    rows, template = as_rows(QA), alpaca(tok)
    whole = [encoders.joint(tok, template, t) for t in rows.turns if t]
    right = as_encoded([{"input_ids": s.ids[: s.spans[0].start + 2]} for s in whole])
    gone = as_encoded([{"input_ids": s.ids[: s.spans[0].start - 2]} for s in whole])
    left = as_encoded([{"input_ids": s.ids[6:]} for s in whole])
    assert align(right, rows, tok, template).status.tolist() == [Status.CUT_RIGHT] * 4
    assert align(gone, rows, tok, template).status.tolist() == [Status.CUT_RIGHT] * 4
    assert align(left, rows, tok, template).status.tolist() == [Status.CUT_LEFT] * 4
    found = align(left, rows, tok, template)
    assert said(found, left, 1, Kind.RESPONSE) == "Theansweris2."
    assert said(align(right, rows, tok, template), right, 1, Kind.RESPONSE) in "Theansweris2."


def test_cut_rows_are_known_without_a_format(tok: Any) -> None:
    """From what whole rows have around their contents: also where the whole response is gone, or the start of the prompt."""
    rows, template = as_rows(QA), alpaca(tok)
    whole = [encoders.joint(tok, template, t) for t in rows.turns if t]
    start = whole[0].spans[0].start
    for part, status in (
        (slice(0, start + 1), Status.CUT_RIGHT),
        (slice(0, start - 2), Status.CUT_RIGHT),
        (slice(0, start - 9), Status.CUT_RIGHT),
        (slice(start - 12, None), Status.CUT_LEFT),
    ):
        encoded = as_encoded([{"input_ids": s.ids[part] if i == 3 else s.ids} for i, s in enumerate(whole)])
        found = align(encoded, rows, tok, None)
        assert found.status.tolist() == [Status.LOCATED] * 3 + [status], part
        assert said(found, encoded, 3, Kind.RESPONSE) in "Theansweris6."


def test_cut_rows_among_cut_rows_are_known_by_their_words(tok: Any) -> None:
    """Where no row is whole and no format told, a row that ends within its response is cut."""
    rows, template = as_rows(QA), alpaca(tok)
    whole = [encoders.joint(tok, template, t) for t in rows.turns if t]
    right = as_encoded([{"input_ids": s.ids[: s.spans[0].end - 2]} for s in whole])
    assert align(right, rows, tok, None).status.tolist() == [Status.CUT_RIGHT] * 4


def test_a_cut_row_may_have_its_end_again(tok: Any) -> None:
    """Cut to the greatest length and EOS put in the last place: cut; a shorter row that ends early is another text."""
    rows, template = (
        as_rows([*QA[:3], {**QA[3], "response": "The answer is the number of apples in the garden, six."}]),
        alpaca(tok),
    )
    whole = [encoders.joint(tok, template, t) for t in rows.turns if t]
    longest = max(len(s.ids) for s in whole[:3])
    for length, status in ((longest, Status.CUT_RIGHT), (whole[3].spans[0].start + 3, Status.UNMATCHED)):
        ids = [*whole[3].ids[: length - 1], tok.eos_token_id]
        encoded = as_encoded([*({"input_ids": s.ids} for s in whole[:3]), {"input_ids": ids}])
        for form in (None, template):
            found = align(encoded, rows, tok, form)
            assert found.status.tolist()[3] == status
            if status is Status.CUT_RIGHT:
                assert said(found, encoded, 3, Kind.TERMINATOR) == tok.eos_token


def test_a_row_of_other_words_is_not_taken_for_a_cut_one(tok: Any) -> None:
    """An edited answer that starts like the old one, among whole rows: unmatched, as the row goes on otherwise."""
    rows, template = as_rows(QA), alpaca(tok)
    encoded = as_encoded([encoders.joint(tok, template, t).columns() for t in rows.turns if t])
    edited = as_rows([*QA[:3], {**QA[3], "response": "The answer is six."}])
    for form in (None, template):
        assert align(encoded, edited, tok, form).status.tolist()[3] == Status.UNMATCHED


def test_a_bos_put_before_a_row_that_was_cut_from_the_left(tok: Any) -> None:
    """Cut rows that start with BOS again are cut rows."""
    if tok.bos_token is None:
        pytest.skip("this tokenizer has no BOS")
    rows, template = as_rows(QA), alpaca(tok)
    whole = [encoders.joint(tok, template, t) for t in rows.turns if t]
    left = as_encoded([{"input_ids": [tok.bos_token_id, *s.ids[6:]]} for s in whole])
    assert align(left, rows, tok, template).status.tolist() == [Status.CUT_LEFT] * 4


def test_a_row_that_lacks_only_its_bos_is_whole() -> None:
    """BOS that a template writes and the ids do not have: nothing of the text was cut."""
    tok = tiny.sentencepiece()
    template = ChatTemplate(tok, "{{ bos_token }}" + tiny.CHATML)
    rows = as_rows(QA)
    encoded = as_encoded([{"input_ids": encoders.joint(tok, template, t).ids[1:]} for t in rows.turns if t])
    found = align(encoded, rows, tok, template)
    assert found.status.tolist() == [Status.EXACT] * 4
    assert said(found, encoded, 0, Kind.RESPONSE) == "Theansweris0."


def test_other_text_is_unmatched(tok: Any) -> None:
    """A response that is not there, a prompt that is not there, a source that is not known, a row without an answer."""
    rows, template = as_rows(QA), alpaca(tok)
    encoded = as_encoded([encoders.joint(tok, template, t).columns() for t in rows.turns if t])
    edited = as_rows([{**QA[0], "response": "It is none."}, {**QA[1], "prompt": "Say one."}, QA[2], QA[3]])
    found = align(encoded, edited, tok, template)
    assert found.status.tolist() == [Status.UNMATCHED, Status.LOCATED, Status.EXACT, Status.EXACT]
    assert [list(lost) for lost in found.lost] == [[1], [0], [], []]
    assert found.matched.tolist() == [False, True, True, True]
    unknown = Encoded(encoded.columns, np.array([0, -1, 99, 3]))
    assert align(unknown, rows, tok, template).status.tolist() == [
        Status.EXACT,
        Status.NO_TURNS,
        Status.NO_TURNS,
        Status.EXACT,
    ]
    unanswered = as_rows([{"messages": [{"role": "user", "content": "hm"}]}] * 4)
    assert set(align(encoded, unanswered, tok, template).status.tolist()) == {Status.NO_TURNS}


def test_a_token_over_the_boundary_straddles() -> None:
    """`?It` as one token holds the end of the prompt and the start of the response, and is the response's turn."""
    tok = tiny.byte_level()
    rows = as_rows([{"prompt": "the ans", "response": "wer is the garden"}] * 3)
    encoded = encode(tok, [f"the answer is the garden{tok.eos_token}"] * 3)
    found = align(encoded, rows, tok, text_format("completion", tok.eos_token))
    assert drawn(found, encoded, 0) == "pxrt"
    start = int(np.argmax(found.kind == Kind.STRADDLE))
    assert found.turn[start] == 0


def test_white_space_at_the_seam_is_judged_apart(tok: Any) -> None:
    """The line break before a response is BLANK_BEFORE; blanks around its words are BLANK_WITHIN."""
    rows = as_rows([{"prompt": f"how many {i}", "response": "\nthree\n"} for i in range(3)])
    template = table_format("Q {prompt}\tA", "{response}", tok.eos_token)
    encoded = as_encoded([encoders.split(tok, template, t).columns() for t in rows.turns if t])
    found = align(encoded, rows, tok, template)
    assert said(found, encoded, 1, Kind.RESPONSE) == "three"
    assert said(found, encoded, 1, Kind.BLANK_WITHIN) == "\n\n"
    template = alpaca(tok)
    encoded = as_encoded([encoders.split(tok, template, t).columns() for t in as_rows(QA).turns if t])
    assert said(align(encoded, as_rows(QA), tok, template), encoded, 1, Kind.BLANK_BEFORE) == "\n"


def test_padding_is_padding(tok: Any) -> None:
    """Tokens without attention are neither prompt nor terminator, though pad is EOS."""
    rows, template = as_rows(QA), alpaca(tok)
    samples = [encoders.joint(tok, template, t) for t in rows.turns if t]
    pad = tok.eos_token_id
    padded = [{"input_ids": [*s.ids, pad, pad], "attention_mask": [1] * len(s.ids) + [0, 0]} for s in samples]
    left = [{"input_ids": [pad, pad, *s.ids], "attention_mask": [0, 0] + [1] * len(s.ids)} for s in samples]
    for encoded in (as_encoded(padded), as_encoded(left)):
        found = align(encoded, rows, tok, template)
        assert found.status.tolist() == [Status.EXACT] * 4
        assert int((found.kind == Kind.PAD).sum()) == 8
        assert said(found, encoded, 0, Kind.TERMINATOR) == tok.eos_token


def test_what_most_rows_end_with_ends_a_response(tok: Any) -> None:
    """`\\nEND` without a declared format; not if only one row has it."""
    rows = as_rows(QA)
    encoded = encode(tok, [f"Q: {r['prompt']}\nA: {r['response']}\nEND" for r in QA])
    found = align(encoded, rows, tok, None)
    assert said(found, encoded, 3, Kind.TERMINATOR).strip() == "END"
    assert not found.runs_on.any()
    odd = encode(
        tok,
        [f"Q: {r['prompt']}\nA: {r['response']}{' and more' if i else ''}" for i, r in enumerate(QA[:2])] * 2,
    )
    assert align(odd, as_rows(QA[:2] * 2), tok, None).runs_on.tolist() == [False, True, False, True]


def test_another_end_than_the_formats_is_seen() -> None:
    """EOS in the place of the end of turn that the template writes; the end of turn and then EOS is none."""
    tok = tiny.chat()
    rows, template = as_rows(QA), ChatTemplate(tok)
    texts = [template.render(t or ()).rstrip().removesuffix("<|im_end|>") for t in rows.turns]
    ends = ["<|endoftext|>", "<|im_end|>\n", "<|im_end|><|endoftext|>", "<|im_end|>"]
    found = align(encode(tok, [t + e for t, e in zip(texts, ends, strict=True)]), rows, tok, template)
    assert found.status.tolist() == [Status.EXACT] * 4
    assert found.ended_otherwise.tolist() == [True, False, False, False]


def test_thinking_that_the_template_strips_is_looked_for_as_it_is_shown() -> None:
    """A row in another text than the template's, whose earlier thinking was stripped, is located and not stale."""
    tok = tiny.chat()
    strip = tiny.CHATML.replace(
        "m.content }}", "(m.content.split('</think>')[-1] if m.role == 'assistant' else m.content) }}"
    )
    messages = [
        {"role": "user", "content": "how many"},
        {"role": "assistant", "content": "<think>one two</think>three"},
    ]
    rows = as_rows([{"messages": messages}] * 3)
    encoded = encode(tok, ["System!\nhow many\nthree<|im_end|>"] * 3)
    found = align(encoded, rows, tok, ChatTemplate(tok, strip))
    assert found.status.tolist() == [Status.LOCATED] * 3
    assert align(encoded, rows, tok, None).status.tolist() == [Status.UNMATCHED] * 3


def test_a_row_of_another_day_is_exact() -> None:
    """Rendered by a template that writes today's date, checked today."""
    tok = tiny.chat()
    text = "{{ strftime_now('%d %b %Y') }}\n" + tiny.CHATML
    rows, then = as_rows(QA), ChatTemplate(tok, text, moment=dt.datetime(2024, 3, 9))
    encoded = encode(tok, [then.render(t or ()) for t in rows.turns])
    assert align(encoded, rows, tok, ChatTemplate(tok, text)).status.tolist() == [Status.EXACT] * 4


def test_an_alignment_is_made_once_for_the_same_objects(tok: Any) -> None:
    """Every check of a row family asks for it."""
    rows, template = as_rows(QA), alpaca(tok)
    encoded = as_encoded([encoders.joint(tok, template, t).columns() for t in rows.turns if t])
    assert align(encoded, rows, tok, template) is align(encoded, rows, tok, template)
    assert align(encoded, rows, tok, None) is not align(encoded, rows, tok, template)


def test_a_shard_aligns_as_the_whole_does(tok: Any) -> None:
    """Kinds of rows 1 to 3 are the same in a shard and in the whole."""
    rows, template = as_rows(QA), alpaca(tok)
    encoded = as_encoded([encoders.joint(tok, template, t).columns() for t in rows.turns if t])
    whole, part = align(encoded, rows, tok, template), align(encoded.shard(1, 3), rows, tok, template)
    start, stop = encoded.input_ids.offsets[[1, 3]]
    assert part.kind.tolist() == whole.kind[start:stop].tolist()


def test_a_window_shows_tokens_around_a_place() -> None:
    """Text, id, label, kind and whether it is trained, for the tokens next to one."""
    tok = tiny.byte_level()
    rows, template = as_rows(QA), alpaca(tok)
    sample = encoders.joint(tok, template, rows.turns[0] or ())
    encoded = as_encoded([sample.columns()])
    shown = window(encoded, align(encoded, rows, tok, template), 0, sample.spans[0].start, around=1)
    assert [t["id"] for t in shown] == sample.ids[sample.spans[0].start - 1 : sample.spans[0].start + 2]
    assert [(t["kind"], t["trained"]) for t in shown] == [
        ("blank_before", False),
        ("response", True),
        ("response", True),
    ]
    assert shown[1]["label"] == shown[1]["id"]
    assert [t["kind"] for t in window(encoded, None, 0, 0, around=1)] == ["unknown", "unknown"]


def test_rows_of_nothing_align() -> None:
    """No rows, and rows without tokens."""
    tok = tiny.byte_level()
    empty = as_encoded([{"input_ids": []}, {"input_ids": []}])
    assert align(empty, as_rows(QA), tok, None).status.tolist() == [Status.UNMATCHED] * 2
    none: Rows = as_rows([])
    assert (
        len(
            align(
                Encoded({"input_ids": empty.input_ids.slice(0, 0)}, np.zeros(0, dtype=np.int64)),
                none,
                tok,
                None,
            ).status
        )
        == 0
    )
