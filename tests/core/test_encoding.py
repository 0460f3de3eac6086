"""Encoded rows: labels exactly on response and terminator, prompts of generation as prefixes, nothing lost without a word."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import real
from support.encoders import Endless
from support.judging import alarms, findings
from support.tiny import CHATML, byte_level, chat, sentencepiece

from llmguard.errors import CheckFailed
from llmguard.evidence.prompts import as_prompts
from llmguard.formats import TEXT_FORMATS, ChatTemplate, pieces_text
from llmguard.prove import prove_encoder
from llmguard.rows import as_rows
from llmguard_core import encoding, segments
from llmguard_core.encoded import Dropped, EncodedRows
from llmguard_core.encoding import Encoder, read_rows
from llmguard_core.errors import DataRefused, LoadRefused
from llmguard_core.formats import format_for

IGNORED = -100
TABLE = {"prompt": "Question: {prompt}\nAnswer:", "response": " {response}", "end": "\n###"}
SEAMS = ("instruction-response-end", "completion", "table")
"""Formats in which some tokenizers merge what stands at the seam of two turns: there only the joined ids can be a prefix."""
MUTE = {"falcon-7b-instruct": "its template writes nothing behind a response"}


def spans(row: dict[str, list[int]]) -> Iterator[tuple[int, int]]:
    """Start and end of each stretch of trained tokens."""
    trained = [label != IGNORED for label in row["labels"]] + [False]
    start = 0
    for at, now in enumerate(trained):
        before = at > 0 and trained[at - 1]
        if now and not before:
            start = at
        if before and not now:
            yield start, at


def decoded(tokenizer: Any, row: dict[str, list[int]]) -> list[str]:
    """What the tokenizer writes for each trained stretch, in the place where it stands."""
    ids = row["input_ids"]

    def text(end: int) -> str:
        return str(tokenizer.backend_tokenizer.decode(ids[:end], skip_special_tokens=False))

    return [text(end).removeprefix(text(start)) for start, end in spans(row)]


def answers(row: dict[str, Any]) -> list[str]:
    """The responses of a row as it lies in its file."""
    if "answer" in row:
        return [row["answer"]]
    return [turn["value"] for turn in row["conversations"] if turn["from"] == "gpt"]


def fitting(tokenizer: Any) -> list[Any]:
    """Every format that the tokenizer has the tokens for."""
    found = []
    for told in (*TEXT_FORMATS, "chat-template", TABLE):
        try:
            found.append(format_for(tokenizer, told))
        except LoadRefused:
            continue
    return found


@dataclasses.dataclass
class Made:
    """Rows of one kind encoded in one format: sources, encoded rows, prompts as ids and as the tokenizer encodes their text."""

    tokenizer: Any
    fmt: Any
    name: str
    source: Any
    rows: EncodedRows
    prompts: list[list[int]]
    plain: list[list[int]]


@pytest.fixture(scope="module", params=real.TOKENIZERS)
def made(request: pytest.FixtureRequest) -> list[Made]:
    """Questions with answers and conversations of one to three answers, in every format of every real tokenizer."""
    tok, found = real.tokenizer(request.param), []
    for fmt in fitting(tok):
        encoder = Encoder(tok, fmt, verify=0)
        for name, rows in (("gsm8k", real.gsm8k(6)), ("conversations", real.conversations(6))):
            source = as_rows(rows)
            texts = [fmt.prompt(turns) for turns in source.turns]
            plain = tok(texts, add_special_tokens=fmt.add_special_tokens)["input_ids"]
            found.append(Made(tok, fmt, name, source, encoder.rows(source), encoder.prompts(rows), plain))
    return found


def test_trained_text_is_response_and_terminator(made: list[Made]) -> None:
    """On every tokenizer, in every format: decoded in place, each trained stretch is a response of the file and its terminator."""
    wrong = []
    for m in made:
        thinks = isinstance(m.fmt, ChatTemplate) and "<think>" in m.tokenizer.chat_template
        opening = "<think>\n\n</think>\n\n" if thinks else ""
        assert m.rows.source == list(range(len(m.source)))
        for row, source in zip(m.rows, m.source, strict=True):
            got = [text.removeprefix(opening).strip() for text in decoded(m.tokenizer, row)]
            wanted = [(text + m.fmt.terminator).strip() for text in answers(source)]
            wrong += [(m.fmt.name, m.name, got, wanted)] if got != wanted else []
    assert not wrong, wrong[:2]


def test_rows_say_what_their_text_says(made: list[Made]) -> None:
    """To the space: decoded, a row is what the tokenizer makes of the rendered text at once."""
    wrong = []
    for m in made:
        decode = m.tokenizer.backend_tokenizer.decode
        for row, turns in zip(m.rows, m.source.turns, strict=True):
            text = pieces_text(m.fmt.pieces(turns))
            whole = m.tokenizer(text, add_special_tokens=m.fmt.add_special_tokens)["input_ids"]
            one, other = (decode(ids, skip_special_tokens=False) for ids in (row["input_ids"], whole))
            wrong += [(m.fmt.name, m.name, one, other)] if one != other else []
    assert not wrong, (len(wrong), wrong[0])


def test_prompts_of_generation_are_prefixes(made: list[Made]) -> None:
    """Both the ids of `prompts` and those of the prompt's text start the training row; single turns in every format, no exception."""
    wrong = []
    for m in made:
        for row, prompt, plain in zip(m.rows, m.prompts, m.plain, strict=True):
            if row["input_ids"][: len(prompt)] != prompt or max(spans(row))[0] < len(prompt):
                wrong.append((m.fmt.name, m.name, "joined"))
            merging = m.name == "conversations" and m.fmt.name in SEAMS
            if row["input_ids"][: len(plain)] != plain and not merging:
                wrong.append((m.fmt.name, m.name, m.tokenizer.decode(plain[-8:])))
    assert not wrong, wrong[:3]


def test_the_checks_have_nothing_to_say(made: list[Made]) -> None:
    """No error and no warning of any check on rows, whatever the format."""
    wrong = {}
    for m in made:
        evidence = {
            "encoded": m.rows.encoded(), "rows": m.source, "tokenizer": m.tokenizer, "template": m.fmt, "train_on": "responses",
            "add_special_tokens": True, "kind": "chat" if m.tokenizer.chat_template else "base", "stops": {},
            "prompts": as_prompts(m.prompts, m.tokenizer),
        }  # fmt: skip
        told = alarms(findings(evidence))
        if not m.fmt.terminator and Path(m.tokenizer.name_or_path).name in MUTE:
            told.pop("response_ends_with_its_terminator", None)
        wrong |= {(m.fmt.name, m.name, check): told[check].message for check in told}
    assert not wrong


# ---- tiny tokenizers: what the encoder promises, one by one


def pairs(count: int = 3, words: int = 6) -> list[dict[str, str]]:
    """Short questions and answers."""
    return [
        {"prompt": f"how many {'apples ' * words}{i}", "response": f"the answer is {i}"} for i in range(count)
    ]


TALK = [
    {"role": "system", "content": "be the garden"},
    {"role": "user", "content": "what is one"},
    {"role": "assistant", "content": "one"},
    {"role": "user", "content": "how many are there in the garden"},
    {"role": "assistant", "content": "two apples"},
]


@pytest.mark.parametrize("edges", [False, True])
@pytest.mark.parametrize("make", [byte_level, chat, sentencepiece])
def test_awkward_text_is_encoded_right(make: Any, edges: bool) -> None:
    """Emoji, control tokens' look-alikes, white space at the edges, several turns: proved on drawn rows in every format."""
    tok = make()
    for fmt in fitting(tok):
        encoder = Encoder(tok, fmt)

        def encode(row: Any, encoder: Encoder = encoder) -> Any:
            try:
                return encoder.row(row).columns()
            except DataRefused:
                return None

        judged = prove_encoder(
            encode,
            tok,
            format=fmt,
            build=encoder.prompt,
            edges=edges,
            system=True,
            lookalikes=True,
            max_examples=40,
        )
        assert judged > 60


def test_what_is_trained_is_what_was_asked_for() -> None:
    """Every response, the last alone, or every token."""
    fmt = format_for(chat(), "chat-template")
    made = {
        on: Encoder(chat(), fmt, train_on=on).row({"messages": TALK}).columns()
        for on in ("responses", "last", "all")
    }
    assert decoded(chat(), made["responses"]) == ["one<|im_end|>", "two apples<|im_end|>"]
    assert decoded(chat(), made["last"]) == ["two apples<|im_end|>"]
    assert made["all"]["labels"] == made["all"]["input_ids"] == made["last"]["input_ids"]


def test_turns_that_the_data_do_not_want_are_masked() -> None:
    """`"train": false` on a message."""
    talk = [*TALK[:2], {**TALK[2], "train": False}, *TALK[3:]]
    row = Encoder(chat(), format_for(chat())).row({"messages": talk})
    assert decoded(chat(), row.columns()) == ["two apples<|endoftext|>"]


def test_text_never_changes_without_its_ids() -> None:
    """A row is frozen; another text gives another row, encoded anew."""
    row = Encoder(chat(), format_for(chat(), "chat-template")).row({"messages": TALK})
    with pytest.raises(dataclasses.FrozenInstanceError):
        row.text = "poisoned"  # type: ignore[misc]  # the point of the test
    other = row.with_text(response="nine apples", prompt="how many")
    assert other.text == row.text.replace("two apples", "nine apples").replace(TALK[3]["content"], "how many")
    assert chat().decode(other.input_ids) == other.text
    assert decoded(chat(), other.columns())[-1] == "nine apples<|im_end|>"
    assert decoded(chat(), row.columns())[-1] == "two apples<|im_end|>"
    with pytest.raises(DataRefused, match="no response"):
        row.with_text(response="").encoder.encode_turns(row.turns[:2]).with_text(response="x")


def test_rows_that_cannot_be_trained_on_are_counted() -> None:
    """No messages, no text, no response, a lone surrogate, a role that the template refuses: left out with reason and number."""
    refusing = CHATML.replace(
        "{% for",
        "{% if messages[0].role == 'tool' %}{{ raise_exception('no tool first') }}{% endif %}{% for",
        1,
    )
    good = {"messages": TALK}
    rows = [
        good, {"messages": []}, {"messages": [TALK[1], {"role": "assistant", "content": 7}]}, {"messages": TALK[:2]},
        {"messages": [TALK[1], {"role": "assistant", "content": " "}]}, {"messages": [TALK[1], {"role": "assistant", "content": "\ud800"}]},
        {"messages": [{"role": "tool", "content": "x"}, *TALK[1:]]}, good,
    ]  # fmt: skip
    made = Encoder(chat(), ChatTemplate(chat(), refusing)).rows(rows)
    assert made.source == [0, 7]
    assert sorted(made.dropped.values()) == [[1, 2], [3, 4], [5], [6]]
    assert any("no tool first" in reason for reason in made.dropped)
    assert "2 dropped because it has no response with text to train (rows 3, 4)" in made.summary()


def test_no_rows_are_refused(tmp_path: Path) -> None:
    """An empty file before any model is loaded; rows of which none is left; files that hold bad lines, each named."""
    empty, bad = tmp_path / "empty.jsonl", tmp_path / "bad.jsonl"
    empty.write_text("")
    bad.write_text('{"prompt": "a", "response": "b"}\n{"prompt": \n[1]\n')
    with pytest.raises(DataRefused, match=r"empty\.jsonl.*no row"):
        read_rows([empty])
    with pytest.raises(DataRefused, match=r"(?s)bad.jsonl:2:.*bad.jsonl:3"):
        read_rows([bad])
    with pytest.raises(DataRefused, match=r"does not exist; near it lies empty\.jsonl"):
        read_rows([tmp_path / "emty.jsonl"])
    encoder = Encoder(byte_level(), format_for(byte_level()))
    for rows in ([], [{"messages": []}], [{"prompt": "a", "response": ""}]):
        with pytest.raises(DataRefused, match="no row can be trained on"):
            encoder.rows(rows)


# ---- rows that are too long


def test_truncation_takes_the_start_of_the_prompt() -> None:
    """BOS, role header and the whole response stay; what is cut is counted, and text and ids still belong together."""
    tok = sentencepiece()
    fmt = format_for(tok, "zephyr")
    rows = [pairs(1, words=2)[0], pairs(1, words=40)[0]]
    limit = len(Encoder(tok, fmt).row(rows[0]).input_ids)
    encoder = Encoder(tok, fmt, max_length=limit)
    made = encoder.rows(rows)
    assert made.truncated == [1]
    assert len(made) == 2
    cut = encoder.row(rows[1])
    assert cut.truncated
    assert len(cut.input_ids) <= limit
    assert cut.input_ids[0] == tok.bos_token_id
    assert cut.text.startswith("<|user|>\n")
    assert cut.text.endswith("apples 0</s>\n<|assistant|>\nthe answer is 0</s>")
    assert [text.strip() for text in decoded(tok, cut.columns())] == ["the answer is 0</s>"]
    assert "1 with their prompt cut (row 1)" in made.summary()


def test_truncation_leaves_out_whole_turns_first() -> None:
    """The oldest exchange goes, the system turn stays, and what is left is rendered as a conversation of its own."""
    encoder = Encoder(chat(), format_for(chat(), "chat-template"))
    short = encoder.row({"messages": [TALK[0], *TALK[3:]]})
    encoder = Encoder(chat(), encoder.fmt, max_length=len(short.input_ids))
    cut = encoder.row({"messages": TALK})
    assert cut == dataclasses.replace(short, truncated=True)


def test_a_response_is_never_cut() -> None:
    """A row whose response leaves no room is left out, with the reason; at no length is a part of a response trained."""
    row, tok = (
        {"prompt": "how many apples", "response": "one two three four five six seven eight nine ten"},
        byte_level(),
    )
    fmt = format_for(tok, "alpaca")
    whole = len(Encoder(tok, fmt).row(row).input_ids)
    kept = 0
    for limit in range(1, whole + 1):
        found = next(Encoder(tok, fmt, max_length=limit).stream([row]))
        if isinstance(found, Dropped):
            assert "longer than max_length" in found.reason
            continue
        kept += 1
        assert len(found.input_ids) <= limit
        assert decoded(tok, found.columns()) == [row["response"] + "<|endoftext|>"]
    assert kept > 1


def test_rows_that_are_too_long_are_dropped_or_refused_as_asked() -> None:
    """With their numbers."""
    rows, fmt = [*pairs(2, words=1), *pairs(1, words=60)], format_for(byte_level())
    dropping = Encoder(byte_level(), fmt, max_length=40, overflow="drop").rows(rows)
    assert dropping.source == [0, 1]
    assert list(dropping.dropped.values()) == [[2]]
    with pytest.raises(DataRefused, match=r"(?s)longer than max_length \(40\) \(row 2\).*overflow"):
        Encoder(byte_level(), fmt, max_length=40, overflow="error").rows(rows)


# ---- the whole


def test_rows_are_a_dataset_and_a_stream() -> None:
    """Indexed like a list, as columns for the checks, and from a generator without holding more than a block."""
    endless = Endless()
    encoder = Encoder(byte_level(), format_for(byte_level()))
    first = next(encoder.stream(iter(endless)))
    assert isinstance(first, encoding.EncodedRow)
    assert endless.read == encoding.BLOCK
    made = encoder.rows(pairs(5))
    assert isinstance(made, EncodedRows)
    assert made[-1] == made[4] == encoder.row(pairs(5)[4]).columns()
    assert made[1:3] == [made[1], made[2]]
    assert len(list(made)) == 5
    assert made.encoded().labels[2].tolist() == made[2]["labels"]
    assert made.supervised == sum(label != IGNORED for row in made for label in row["labels"])
    with pytest.raises(IndexError):
        made[5]


def test_earlier_calls_of_the_tokenizer_change_nothing() -> None:
    """Truncation and padding that somebody switched on stay with the tokenizer; tokens that are added reach the encoder."""
    import copy

    tok = copy.deepcopy(byte_level())
    before = Encoder(tok, format_for(tok)).row(pairs(1)[0])
    tok("how many", truncation=True, max_length=3, padding="max_length")
    assert Encoder(tok, format_for(tok)).row(pairs(1)[0]).input_ids == before.input_ids
    tok.add_tokens(["apples"])
    after = Encoder(tok, format_for(tok)).row(pairs(1)[0])
    assert len(tok) - 1 in after.input_ids
    assert tok.decode(after.input_ids) == before.text


def test_prompts_come_from_text_from_rows_and_from_conversations() -> None:
    """A text is a user's turn; a prompt column alone is enough; what follows a conversation is asked for."""
    encoder = Encoder(chat(), format_for(chat(), "chat-template"))
    wanted = "<|im_start|>user\nwhat is one<|im_end|>\n<|im_start|>assistant\n"
    for row in ("what is one", {"prompt": "what is one"}, {"messages": TALK[1:2]}, {"messages": TALK[1:3]}):
        assert chat().decode(encoder.prompt(row)) == wanted
    with pytest.raises(DataRefused, match="no prompt"):
        encoder.prompt({"text": "x"})


@pytest.mark.parametrize("fault", ["shifted", "prompt", "no terminator", "one token late"])
def test_the_encoder_judges_its_own_rows(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault in what it makes does not leave it: the checks refuse a sample of its rows."""
    joined = Encoder._joined

    def broken(self: Encoder, *given: Any) -> Any:
        row = joined(self, *given)
        labels = list(row.labels)
        start, end = next(spans(row.columns()))
        changes = {
            "shifted": [*labels[1:], IGNORED],
            "prompt": list(row.input_ids),
            "no terminator": [*labels[: end - 1], IGNORED, *labels[end:]],
            "one token late": [IGNORED if i == start else label for i, label in enumerate(labels)],
        }
        return dataclasses.replace(row, labels=tuple(changes[fault]))

    monkeypatch.setattr(Encoder, "_joined", broken)
    with pytest.raises(CheckFailed):
        Encoder(byte_level(), format_for(byte_level(), "alpaca")).rows(pairs(8))


def test_torn_tokens_are_seen_by_the_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Were prompts and responses tokenised as one text (no fallback at the seam), rows would be refused."""
    monkeypatch.setattr(
        segments.SegmentTokenizer,
        "_cut",
        lambda self, encoding, seam, text: encoding.ids[encoding.char_to_token(seam) :],
    )
    word = max((t for t in byte_level().get_vocab() if t.startswith("Ġ")), key=len)[1:]
    rows = [{"prompt": f"how many {word[:2]}", "response": f"{word[2:]} in the garden"}] * 8
    with pytest.raises(CheckFailed):
        Encoder(byte_level(), format_for(byte_level())).rows(rows)
    monkeypatch.undo()
    assert len(Encoder(byte_level(), format_for(byte_level())).rows(rows)) == 8


def test_formats_that_the_tokenizer_cannot_write_are_refused() -> None:
    """Control tokens that it would split, no EOS, no template, unknown names, tables without their placeholders."""
    import copy

    silent = copy.deepcopy(byte_level())
    silent.eos_token = None
    cases = [
        (byte_level(), "llama3", "start_header_id"),
        (silent, "alpaca", "EOS"),
        (byte_level(), "chat-template", "no chat template"),
        (byte_level(), "zefir", "there is no format 'zefir'"),
        (byte_level(), {"prompt": "no place"}, "cannot be used"),
    ]
    for tok, told, what in cases:
        with pytest.raises(LoadRefused, match=what):
            format_for(tok, told)
    assert format_for(byte_level()).name == "completion"
    assert format_for(chat(), kind="chat").name == "chat-template"
    assert json.loads(json.dumps(format_for(byte_level(), TABLE).end)) == "\n###"
