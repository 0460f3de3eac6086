"""Tokens with their labels: what each is marked as, why, and how its text is shown."""

from __future__ import annotations

from typing import Any

import pytest

from llmguard.encoded import as_encoded
from llmguard.reporting.text import clean, visible
from llmguard.reporting.tokens import Mark, Token, runs_of, token_texts, tokens_from_json, tokens_of_row


class Backend:
    """The part of a `tokenizers` tokenizer that is asked: its decoder's state."""

    def __init__(self, state: bytes) -> None:
        self.decoder = type("Decoder", (), {"__getstate__": lambda _: state})()


class Tokenizer:
    """A tokenizer of a few pieces, as transformers shows one."""

    def __init__(
        self, pieces: list[str], *, byte_level: bool = False, added: dict[int, str] | None = None
    ) -> None:
        self.pieces = pieces
        self.backend_tokenizer = Backend(b'{"type":"ByteLevel"}' if byte_level else b'{"type":"Metaspace"}')
        self.added_tokens_decoder = {i: type("Added", (), {"content": t})() for i, t in (added or {}).items()}

    def __len__(self) -> int:
        return len(self.pieces)

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        """The pieces of some ids, which the caller has found to be known."""
        return [self.pieces[i] for i in ids]


@pytest.mark.parametrize(
    ("label", "kind", "mark", "fault"),
    [
        (5, "response", Mark.TRAINED, ""),
        (5, "terminator", Mark.TRAINED, ""),
        (-100, "prompt", Mark.MASKED, ""),
        (-100, "seam", Mark.MASKED, ""),
        (5, "seam", Mark.TRAINED, ""),
        (5, "tail", Mark.TRAINED, ""),
        (5, "straddle", Mark.TRAINED, ""),
        (-100, "pad", Mark.PAD, ""),
        (5, "prompt", Mark.WRONG, "belongs to the prompt and is trained"),
        (5, "pad", Mark.WRONG, "is padding and is trained"),
        (-100, "response", Mark.WRONG, "belongs to the response and is not trained"),
        (-100, "terminator", Mark.WRONG, "ends the response and is not trained"),
        (6, "response", Mark.WRONG, "is labelled 6, which is another token"),
        (6, "unknown", Mark.WRONG, "is labelled 6, which is another token"),
        (5, "unknown", Mark.TRAINED, ""),
        (None, "response", Mark.MASKED, ""),
    ],
)
def test_a_mark_follows_from_label_and_kind(label: int | None, kind: str, mark: Mark, fault: str) -> None:
    """Trained prompts, untrained responses and labels of other tokens are wrong; seams may be either."""
    token = Token("x", 5, label, kind)
    assert (token.mark, token.fault) == (mark, fault)


def test_what_the_project_asks_for_is_not_wrong() -> None:
    """Full-sequence training and training of the last turn alone are legitimate where they are declared."""
    assert Token("x", 5, 5, "prompt", trained_on_purpose=True).mark is Mark.TRAINED
    assert Token("x", 5, -100, "response", masked_on_purpose=True).mark is Mark.MASKED


def test_evidence_decides_for_itself_whether_a_token_is_trained() -> None:
    """`trained` in a window overrules its label, which may be None."""
    [trained, masked] = tokens_from_json([{"text": "a", "id": 1, "trained": True}, {"text": "b", "id": 2}])
    assert (trained.mark, masked.mark) == (Mark.TRAINED, Mark.MASKED)
    assert trained.position is None


def test_tokens_without_any_text_are_shown_by_their_ids() -> None:
    """Checks that see no tokenizer cannot tell texts; a blank among texts stays a blank."""
    bare = [{"text": "\u2423", "id": 7, "label": 7}, {"text": "", "id": 8, "label": 8}]
    assert [t.text for t in tokens_from_json(bare)] == ["⟨id 7⟩", "⟨id 8⟩"]
    assert [t.text for t in tokens_from_json([*bare, {"text": "a", "id": 9, "label": 9}])] == [
        "\u2423",
        "",
        "a",
    ]


@pytest.mark.parametrize("foreign", [None, 3, "text", {"a": 1}, [1, "b", {"id": 3}]])
def test_what_is_no_window_has_no_tokens(foreign: Any) -> None:
    """Evidence of other checks under the same name is no error."""
    assert tokens_from_json(foreign) == []


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (" the", " the"), ("\n\n", "↵\n↵\n"), ("  ", "␣␣"), ("a\tb", "a⇥b"), ("", "∅"),
        ("\x1b[2J", "⟨U+001B⟩[2J"), ("\u202e", "⟨U+202E⟩"), ("\ud83d", "⟨U+D83D⟩"), ("\r", "⟨U+000D⟩"),
        ("\U0001f469\u200d\U0001f467", "\U0001f469\u200d\U0001f467"), ("a\u200db", "a⟨U+200D⟩b"),
        ("\u0915\u094d\u200d\u0937", "\u0915\u094d\u200d\u0937"), ("e\u0301", "e\u0301"),
        ("\u0645\u0631", "\u0645\u0631"), ("\u2028", "⟨U+2028⟩"),
    ],
)  # fmt: skip
def test_text_is_shown_so_that_nothing_hides(text: str, shown: str) -> None:
    """White space, controls and direction marks are seen; letters, marks and emoji stay as they are."""
    assert Token(text, 1, 1).shown == shown


def test_cleaning_reaches_every_string_of_a_json_value() -> None:
    """Keys, nested lists and mappings included; numbers, None and newlines stay."""
    assert clean({"\x00": ["\x1b", {"a": "b\nc"}, 3, None, ("\ufeff",)]}) == {
        "⟨U+0000⟩": ["⟨U+001B⟩", {"a": "b\nc"}, 3, None, ["⟨U+FEFF⟩"]]
    }
    assert visible("plain text, \n two lines") == "plain text, \n two lines"


def test_byte_level_pieces_are_text_again() -> None:
    """A GPT-2 style piece shows its space and its newline; part of a character shows its bytes."""
    tokenizer = Tokenizer(
        ["Ġthe", "Ċ", "ðŁ", "ĺĢ", "Ã©", "<|im_end|>"], byte_level=True, added={5: "<|im_end|>"}
    )
    assert token_texts(range(6), tokenizer) == [" the", "\n", "⟨F0⟩⟨9F⟩", "⟨98⟩⟨80⟩", "é", "<|im_end|>"]


def test_sentencepiece_pieces_are_text_again() -> None:
    """The metaspace is a space, byte fallback is its byte, and ids beyond the vocabulary are named."""
    tokenizer = Tokenizer(["▁the", "<0x0A>", "<0xE2>", "ing"])
    assert token_texts([0, 1, 2, 3, 99, -5], tokenizer) == [
        " the",
        "\n",
        "⟨E2⟩",
        "ing",
        "⟨no token 99⟩",
        "⟨no token -5⟩",
    ]


def test_a_row_becomes_tokens_with_position_label_and_padding() -> None:
    """Tokens outside of the attention mask are padding whatever their kind."""
    encoded = as_encoded([{"input_ids": [0, 1, 2], "labels": [-100, 1, 2], "attention_mask": [1, 1, 0]}])
    tokens = tokens_of_row(encoded, 0, Tokenizer(["▁a", "▁b", "▁c"]))
    assert [(t.text, t.position, t.label, t.kind) for t in tokens] == [
        (" a", 0, -100, "unknown"),
        (" b", 1, 1, "unknown"),
        (" c", 2, 2, "pad"),
    ]
    assert [t.mark for t in tokens] == [Mark.MASKED, Mark.TRAINED, Mark.WRONG]


@pytest.mark.parametrize("labels", [None, [1, 2]])
def test_rows_without_usable_labels_show_no_label(labels: list[int] | None) -> None:
    """No labels, or labels of another length, mean that nothing is known to be trained."""
    row = {"input_ids": [0, 1, 2], **({"labels": labels} if labels else {})}
    tokens = tokens_of_row(as_encoded([row]), 0, Tokenizer(["a", "b", "c"]))
    assert [t.label for t in tokens] == [None, None, None]


def test_runs_cover_the_row_without_gaps() -> None:
    """Neighbours of one mark and kind are one run; runs follow each other."""
    marks = [(-100, "prompt")] * 3 + [(1, "prompt")] + [(1, "response")] * 2 + [(1, "terminator")]
    runs = runs_of(Token("x\n", 1, label, kind) for label, kind in marks)
    assert [(r.start, r.stop, r.mark) for r in runs] == [
        (0, 3, Mark.MASKED), (3, 4, Mark.WRONG), (4, 6, Mark.TRAINED), (6, 7, Mark.TRAINED),
    ]  # fmt: skip
    assert runs[0].text == "x↵x↵x↵"
