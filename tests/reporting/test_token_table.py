"""Windows of tokens as tables: what is under each other, what fits into a line, and what a check without a tokenizer leaves to tell."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from rich.cells import cell_len
from support import tiny

from llmguard import check
from llmguard.auditing import Audit
from llmguard.errors import MissingEvidence
from llmguard.findings import Where, error
from llmguard.reporting.token_table import blocks_of, faults_of
from llmguard.reporting.tokens import Mark, Token, told_by, untold

BARE = [{"text": "", "id": 5, "label": 5}, {"text": "", "id": 6, "label": -100}]


def lines(tokens: Sequence[Token], width: int = 100, *, signs: bool = True) -> list[list[str]]:
    """The fields of every line, block after block, without their padding."""
    return [
        [cell.text.strip() for cell in line]
        for block in blocks_of(tokens, width, signs=signs)
        for line in block.lines
    ]


def test_text_id_label_and_attention_stand_under_each_other() -> None:
    """One column a token; what nothing is known of has no line."""
    tokens = [
        Token(" the", 11, -100, "prompt", attended=True),
        Token(" end", 12, 12, "response", attended=True),
        Token("<eos>", 2, -100, "terminator", attended=True),
        Token("<pad>", 0, -100, "pad", attended=False),
    ]
    assert lines(tokens) == [
        ["token", "the", "[ end]", ">><eos><<", "(<pad>)"],
        ["id", "11", "12", "2", "0"],
        ["label", "-100", "12", "-100", "-100"],
        ["attention", "1", "1", "1", "0"],
    ]
    assert lines([Token("a", 1, None)]) == [["token", "a"], ["id", "1"]]


def test_where_there_are_colours_no_signs_are_written() -> None:
    """Every cell of a column carries the mark that colours it."""
    (block,) = blocks_of([Token("a", 1, 1), Token("b", 2, 1)], 80, signs=False)
    assert [c.text.strip() for c in block.lines[0]] == ["token", "a", "b"]
    assert {tuple(c.mark for c in line) for line in block.lines} == {(None, Mark.TRAINED, Mark.WRONG)}


@pytest.mark.parametrize("text", ["word", "漢字", "e\u0301", "👩\u200d👧", "\u0645\u0631"])
@pytest.mark.parametrize("width", [40, 80])
def test_lines_fit_and_columns_stand_straight_in_any_script(text: str, width: int) -> None:
    """Wide characters take two cells and marks none; a long window goes on in another block."""
    tokens = [Token(text + str(i), i, i, "response") for i in range(30)]
    shown = list(blocks_of(tokens, width, signs=True))
    assert len(shown) > 1
    for block in shown:
        widths = [[cell_len(cell.text) for cell in line] for line in block.lines]
        assert all(w == widths[0] for w in widths)
        assert sum(widths[0]) + len(widths[0]) - 1 <= width
    told = [cell.text.strip() for block in shown for cell in block.lines[1][1:]]
    assert told == [str(i) for i in range(30)], "each token once, in order"


def test_many_of_one_token_are_one_column() -> None:
    """Padding is shown with its number."""
    assert lines([Token("<pad>", 0, -100, "pad")] * 7)[0] == ["token", "(<pad>) ×7"]


def test_faults_are_said_in_words_with_their_positions() -> None:
    """One sentence for each run; of many, the first."""
    wrong = [Token("a", 1, 1, "prompt", position=i) for i in range(3)]
    assert list(faults_of(wrong)) == ["tokens 0 to 2: each belongs to the prompt and is trained"]
    assert list(faults_of([Token("x", 4, -100, "terminator", 9)])) == [
        "token 9 'x' ends the response and is not trained"
    ]
    assert list(faults_of([Token("x", 4, 4, "response")])) == []
    scattered = [Token("x", i, i, "prompt" if i % 2 else "response", i) for i in range(12)]
    assert list(faults_of(scattered))[-1] == "… and 2 more places"


def test_windows_without_texts_get_them_from_the_tokenizer() -> None:
    """At any depth of the evidence; windows that have texts, and what is no window, stay as they are."""
    tok = tiny.byte_level()
    ids = tok("Hi there").input_ids
    bare = [{"text": "", "id": i, "label": i} for i in ids]
    evidence = {"rows": [{"row": 3, "tokens": bare}], "count": 2, "tokens": [{"text": "kept", "id": 1}]}
    assert untold(evidence)
    told = told_by(tok, evidence)
    assert "".join(t["text"] for t in told["rows"][0]["tokens"]) == "Hi there"
    assert (told["count"], told["tokens"]) == (2, evidence["tokens"])
    assert bare[0]["text"] == "", "the finding's own evidence is not changed"
    assert not untold(told)


def test_evidence_that_holds_itself_ends() -> None:
    """Evidence of other people's checks may be anything."""
    held: list[Any] = [{"tokens": BARE}]
    held.append(held)
    assert untold(held)
    assert told_by(tiny.byte_level(), held)[0]["tokens"][0]["text"]
    del held[0]
    assert not untold(held)


@pytest.mark.parametrize(
    "foreign", [None, 3, [], [1, 2], {"tokens": [{"id": "x", "text": ""}]}, [{"text": ""}]]
)
def test_other_evidence_has_nothing_to_tell(foreign: Any) -> None:
    """Numbers, lists and mappings of other checks are left alone."""
    assert not untold(foreign)


@pytest.mark.parametrize("there", [True, False])
def test_an_audit_tells_the_tokens_of_a_check_without_a_tokenizer(there: bool) -> None:
    """With the project's tokenizer, where it has one; the finding stands either way."""

    @check
    def ids_are_liked(encoded: Any) -> Any:
        """A check that sees ids alone."""
        yield error(Where(row=0), what="2", why="w", cause="c", remedy="r", evidence={"tokens": BARE})
        return 2

    def get(kind: str, target: str = "", **_: Any) -> Any:
        if kind == "tokenizer" and not there:
            raise MissingEvidence(kind, "add it")
        if kind == "mounts":
            return SimpleNamespace(silent=())
        return tiny.byte_level() if kind == "tokenizer" else object()

    project = SimpleNamespace(schema=SimpleNamespace(accept={}))
    entry = SimpleNamespace(
        name="ids_are_liked", family="tokens", tier="preflight", over="", bugs=(), load=lambda: ids_are_liked
    )
    evidence = SimpleNamespace(get=get)
    result = Audit(project, registry=None, evidence=evidence).run(entry)  # type: ignore[arg-type]  # what is used of them
    (found,) = result.findings
    texts = [t["text"] for t in found.evidence["tokens"]]
    assert (result.outcome.value, result.looked_at) == ("failed", 2)
    assert all(texts) if there else texts == ["", ""]
