"""Borders of the checks of tokens, templates and prompts: the least evidence on either side of each decision."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support import tiny as tokenizers
from support.bugs import severities

import llmguard
from llmguard.alignment import Status, align
from llmguard.encoded import Encoded, as_encoded
from llmguard.evidence.prompts import Prompts, as_prompts
from llmguard.formats import ChatTemplate, TextFormat, text_format
from llmguard.rows import as_rows

Row = dict[str, Any]
QA: list[Row] = [
    {"prompt": f"What is the number of apples after {i} days?", "response": f"The answer is {i} apples."}
    for i in range(6)
]


def question(row: Row) -> str:
    return f"### Instruction:\n{row['prompt']}\n\n### Response:\n"


def encode(tok: Any, row: Row, *, end: str | None = None) -> Row:
    text = row["response"] + (tok.eos_token if end is None else end)
    prompt, response = tok(question(row))["input_ids"], tok(text, add_special_tokens=False)["input_ids"]
    return {"input_ids": prompt + response, "labels": [-100] * len(prompt) + response}


def encoded(tok: Any, rows: list[Row], name: str = "encoded") -> Encoded:
    return as_encoded([encode(tok, r) for r in rows], name)


@pytest.fixture(scope="module")
def alpaca(tiny: Any) -> TextFormat:
    return text_format("alpaca", tiny.eos_token)


class TestTemplates:
    """Templates, formats, headers."""

    def test_prompts_of_a_declared_format_are_counted(self, tiny: Any, alpaca: TextFormat) -> None:
        """`base_prompts_carry_no_role_words`: what is declared is fine, and was looked at."""
        found = llmguard.base_prompts_carry_no_role_words(
            [question(r) for r in QA], tiny, "base", None, alpaca
        )
        assert (severities(found), found.looked_at) == ([], len(QA))

    def test_only_conversations_with_earlier_thinking_are_judged(self, tiny: Any) -> None:
        """`thinking_is_kept_in_every_turn`: rows without turns, and without thinking before the last turn, are not looked at."""
        thought = {"role": "assistant", "content": "<think>\nlong\n</think>\nyes"}
        ask = {"role": "user", "content": "q"}
        rows = as_rows(
            [{"messages": [ask, thought, ask, thought]}, {"messages": [ask, thought]}, {"other": 1}]
        )
        assert rows.turns[2] is None
        found = llmguard.thinking_is_kept_in_every_turn(rows, ChatTemplate(tiny))
        assert (severities(found), found.looked_at) == ([], 1)

    def test_rows_are_held_to_the_template_only_where_they_carry_its_markers(self, tiny: Any) -> None:
        """`training_text_follows_its_format`: no format, or the tokenizer's own that nobody declared, asks nothing of plain rows."""
        check, rows = llmguard.training_text_follows_its_format, as_rows(QA)
        for template in (None, ChatTemplate(tiny, declared=False)):
            found = check(encoded(tiny, QA), rows, tiny, template)
            assert (severities(found), found.looked_at) == ([], 0)
        assert severities(check(encoded(tiny, QA), rows, tiny, ChatTemplate(tiny))) == ["error"]

    def test_a_header_of_six_characters_is_one(self, tiny: Any) -> None:
        """`no_role_header_is_doubled`: six characters are long enough to be recognised, five are not; both are counted."""
        check = llmguard.no_role_header_is_doubled
        for header, expected in (("[Bot]:", ["error"]), ("[Bo]:", [])):
            text = (
                "{% for m in messages %}{{ m.content }}{% endfor %}{% if add_generation_prompt %}H{% endif %}"
            )
            template = ChatTemplate(tiny, text.replace("H", header))
            doubled = as_encoded([tiny(f"a question{header}{header}an answer")])
            found = check(doubled, tiny, template)
            assert (severities(found), found.looked_at) == (expected, 1)
            once = check(as_encoded([tiny(f"a question{header}an answer")]), tiny, template)
            assert (severities(once), once.looked_at) == ([], 1)


class TestBos:
    """BOS, as a tokenizer in SentencePiece's way puts it."""

    def test_a_project_may_do_without(self) -> None:
        """`every_row_has_one_bos`: where prompts are built without special tokens, rows need none; else they do."""
        tok = tokenizers.sentencepiece()
        bare = [tok(r["prompt"], add_special_tokens=False)["input_ids"] for r in QA]
        rows = as_encoded([{"input_ids": ids} for ids in bare])
        check = llmguard.every_row_has_one_bos
        assert severities(check(rows, tok, add_special_tokens=False)) == []
        assert severities(check(rows, tok, add_special_tokens=True)) == ["error"]


class TestEnds:
    """Ends of responses."""

    def test_cut_rows_are_not_asked_for_their_end(self, tiny: Any, alpaca: TextFormat) -> None:
        """`response_ends_with_its_terminator`: rows that truncation cut are neither judged nor counted."""
        rows = [encode(tiny, r) for r in QA]
        cut = [{n: v[:-5] for n, v in r.items()} for r in rows[:3]]
        found, source = as_encoded([*cut, *rows[3:]]), as_rows(QA)
        assert align(found, source, tiny, alpaca).status[:3].tolist() == [Status.CUT_RIGHT] * 3
        told = llmguard.response_ends_with_its_terminator(found, source, tiny, alpaca)
        assert (severities(told), told.looked_at) == ([], 3)

    def test_a_template_without_an_end_is_told_so(self, tiny: Any) -> None:
        """`response_ends_with_its_terminator`: a template that writes no end is named as the cause; of another, the rows are."""
        check, turns = llmguard.response_ends_with_its_terminator, "{% for m in messages %}"
        messages = [
            {"messages": [{"role": "user", "content": r["prompt"]}, {"role": "assistant", "content": r["response"]}]}
            for r in QA
        ]  # fmt: skip
        source = as_rows(messages)
        endless = ChatTemplate(tiny, turns + "[{{ m.role }}] {{ m.content }}\n{% endfor %}")
        rendered = as_encoded([tiny(endless.render(t or ())) for t in source.turns])
        told = check(rendered, source, tiny, endless)
        assert severities(told) == ["warning"]
        assert "the chat template writes none" in told[0].message
        ended = ChatTemplate(tiny)
        bare = as_encoded(
            [tiny(ended.render(t or ()).rstrip().removesuffix("<|im_end|>")) for t in source.turns]
        )
        told = check(bare, source, tiny, ended)
        assert severities(told) == ["error"]
        assert "do not end with a terminator" in told[0].message


class TestControlTokens:
    """Control tokens in letters."""

    def test_ids_beyond_the_vocabulary_are_another_checks(self, tiny: Any) -> None:
        """`control_tokens_are_single_ids`: an id that no token has holds no text, at either end; letters beside it are found."""
        check = llmguard.control_tokens_are_single_ids
        assert severities(check([{"input_ids": [-1, 5, len(tiny) + 7]}], tiny)) == []
        letters = tiny("An apple.</s>")["input_ids"]
        assert severities(check([{"input_ids": [-1, *letters, len(tiny) + 7]}], tiny)) == ["error"]

    def test_what_the_row_itself_says(self, tiny: Any) -> None:
        """`control_tokens_are_single_ids`: text that talks about a marker may hold it as often as the row does, not once more."""
        check = llmguard.control_tokens_are_single_ids
        said = as_rows([{"prompt": "What is </s>?", "response": "</s> ends a text."}])
        twice, thrice = (
            {"input_ids": tiny("What is </s>? </s> ends a text." + e)["input_ids"]} for e in ("", "</s>")
        )
        assert severities(check([twice], tiny, said)) == []
        assert severities(check([thrice], tiny, said)) == ["error"]
        assert severities(check([twice], tiny)) == ["error"]
        stray = Encoded(as_encoded([twice]).columns, np.array([-1]))
        assert severities(check(stray, tiny, said)) == ["error"]


class TestIdsAndText:
    """Ids that hold other text than their row."""

    def test_sound_rows_are_counted(self, tiny: Any) -> None:
        """`ids_match_their_text`: all of them; a row without turns is not."""
        found = llmguard.ids_match_their_text(encoded(tiny, QA), as_rows(QA), tiny)
        assert (severities(found), found.looked_at) == ([], len(QA))
        none = llmguard.ids_match_their_text(encoded(tiny, QA), as_rows([*QA[:5], {"prompt": 3}]), tiny)
        assert none.looked_at == 5

    def test_one_edited_prompt(self, tiny: Any) -> None:
        """`ids_match_their_text`: one prompt that its ids do not hold is an error; where most lack theirs, a builder rewrites them."""
        check, rows = llmguard.ids_match_their_text, as_rows(QA)
        other = [{**r, "prompt": f"Name a fruit that grows in a garden, {i}."} for i, r in enumerate(QA)]
        told = check(encoded(tiny, [other[0], *QA[1:]]), rows, tiny)
        assert severities(told) == ["error"]
        assert "do not hold the prompt" in told[0].message
        assert severities(check(encoded(tiny, other), rows, tiny)) == []

    @pytest.mark.parametrize(
        ("name", "edited", "expected"),
        [("train", 6, "warning"), ("train", 1, "error"), ("prepared", 6, "error"), ("prepared", 1, "error")],
    )
    def test_responses_that_encode_rewrites(self, tiny: Any, name: str, edited: int, expected: str) -> None:
        """`ids_match_their_text`: most responses lost by `encode` itself are a warning; one of them, or prepared data, an error."""
        other = [{**r, "response": f"Nobody knows of pears in winter, {i}."} for i, r in enumerate(QA)]
        found = encoded(tiny, [*other[:edited], *QA[edited:]], name)
        assert severities(llmguard.ids_match_their_text(found, as_rows(QA), tiny)) == [expected]


def test_two_unknown_tokens_in_a_thousand(tiny: Any) -> None:
    """`text_has_no_unknown_tokens`: more than one in a thousand is a warning, fewer are nothing, more than one in a hundred an error."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel({"[UNK]": 0, "tea": 1}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tok = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")
    for unknown, expected in ((1, []), (2, ["warning"]), (9, ["warning"]), (12, ["error"])):
        text = " ".join(["coffee"] * unknown + ["tea"] * (1000 - unknown))
        found = llmguard.text_has_no_unknown_tokens(as_rows([{"prompt": text, "response": ""}]), tok)
        assert severities(found) == expected, unknown


class TestPrompts:
    """Training rows and generation prompts."""

    def test_a_row_and_its_prompt(self, tiny: Any, alpaca: TextFormat) -> None:
        """`training_starts_with_the_generation_prompt`: the same text passes, another is an error, with source rows and without."""
        check, rows = llmguard.training_starts_with_the_generation_prompt, encoded(tiny, QA)
        good, other = [question(r) for r in QA], [f"Q: {r['prompt']}\nA:" for r in QA]
        for source in (None, as_rows(QA)):
            found = check(rows, good, tiny, source, alpaca)
            assert (severities(found), found.looked_at) == ([], len(QA))
            told = check(rows, other, tiny, source, alpaca)
            assert severities(told) == ["error"]
            assert "do not start with the prompt" in told[0].message

    def test_rows_without_a_start_or_an_answer(self, tiny: Any, alpaca: TextFormat) -> None:
        """`training_starts_with_the_generation_prompt`: a row whose start was cut off, and one that ends in a question, is not judged."""
        rows = [encode(tiny, r) for r in QA]
        cut = {n: v[8:] for n, v in rows[0].items()}
        found, source = as_encoded([cut, *rows[1:]]), as_rows(QA)
        assert align(found, source, tiny, alpaca).status[0] == Status.CUT_LEFT
        prompts = [question(r) for r in QA]
        check = llmguard.training_starts_with_the_generation_prompt
        told = check(found, prompts, tiny, source, alpaca)
        assert (severities(told), told.looked_at) == ([], len(QA) - 1)
        assert severities(check(found, prompts, tiny)) == ["error"]
        asking = as_rows([{"messages": [{"role": "user", "content": r["prompt"]}]} for r in QA])
        assert check(encoded(tiny, QA), prompts, tiny, asking, alpaca).looked_at == 0

    def test_a_difference_in_bos_is_called_one(self) -> None:
        """`training_starts_with_the_generation_prompt`: BOS on one side alone is told as such; other text is not, whatever BOS does."""
        tok, check = tokenizers.sentencepiece(), llmguard.training_starts_with_the_generation_prompt
        rows = as_encoded([{"input_ids": tok("the answer is one two three")["input_ids"]}])
        bare = [tok("the answer is", add_special_tokens=False)["input_ids"]]
        assert "differ in BOS" in check(rows, bare, tok)[0].message
        other = check(rows, [tok("how many are there")["input_ids"]], tok)
        assert "do not start with the prompt" in other[0].message

    def test_the_stored_prompt_is_the_last_question(self, tiny: Any) -> None:
        """`built_prompt_holds_the_stored_one`: of a conversation, the turn before the answer is told as the stored prompt."""
        turns = [
            ("user", "Name a fruit."),
            ("assistant", "An apple."),
            ("user", "Another one?"),
            ("assistant", "A pear."),
        ]
        rows = as_rows([{"messages": [{"role": r, "content": c} for r, c in turns]}] * 3)
        made = as_prompts(["Tell me about stones."] * 3, tiny)
        built = Prompts(made.texts, made.input_ids, made.source, "app:build", True)
        told = llmguard.built_prompt_holds_the_stored_one(built, rows, tiny)
        assert (severities(told), told[0].expected) == (["error"], "Another one?")


class TestShares:
    """How many are many."""

    def test_the_first_id_of_a_vocabulary_may_open_a_marker(self) -> None:
        """`control_tokens_are_single_ids`: a tokenizer of single characters, `<` the first of them."""
        from tokenizers import Regex, Tokenizer, models, pre_tokenizers
        from transformers import PreTrainedTokenizerFast

        backend = Tokenizer(models.WordLevel({c: i for i, c in enumerate("</s>ab?")}, unk_token="?"))
        backend.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
        tok = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="?")
        check = llmguard.control_tokens_are_single_ids
        assert severities(check([tok("ab</s>")], tok)) == ["error"]
        assert severities(check([tok("ab<s")], tok)) == []

    def test_rows_of_one_token_without_bos(self) -> None:
        """`every_row_has_one_bos`: one token is a row, no token is none; a template that writes no BOS asks for none."""
        tok, check = tokenizers.sentencepiece(), llmguard.every_row_has_one_bos
        bos, other = tok.bos_token_id, tok("a", add_special_tokens=False)["input_ids"][-1]
        for ids, expected in (([other], ["error"]), ([], []), ([bos, other], []), ([bos, bos], ["error"])):
            assert severities(check([{"input_ids": ids}, {"input_ids": [bos, other]}], tok)) == expected, ids

    def test_rows_that_hold_another_response_are_not_judged(self, tiny: Any, alpaca: TextFormat) -> None:
        """`training_text_follows_its_format`: whatever they hold, it is not their format that is wrong; the others are counted."""
        rows = [{**QA[0], "response": "Nobody knows of pears in winter."}, *QA[1:]]
        found = llmguard.training_text_follows_its_format(encoded(tiny, rows), as_rows(QA), tiny, alpaca)
        assert (severities(found), found.looked_at) == ([], len(QA) - 1)

    def test_examples_in_eight_prompts(self, tiny: Any) -> None:
        """`few_shot_examples_vary`: from eight prompts on, from two examples on, and from more than 200 shared characters on."""
        check = llmguard.few_shot_examples_vary

        def prompts(count: int, length: int, examples: int = 2) -> list[str]:
            block = "".join(f"Q: what is {i}?\nA: it is {i}.\n\n" for i in range(examples))
            shared = "x" * (length - len(block) - 2) + "\n\n" + block
            return [f"{shared}{chr(97 + i)} question" for i in range(count)]

        for count, length, expected in ((8, 201, ["warning"]), (7, 201, []), (8, 200, [])):
            found = check(prompts(count, length), tiny)
            assert (severities(found), found.looked_at) == (expected, count), (count, length)
        assert severities(check(prompts(8, 400, examples=1), tiny)) == []

    def test_answers_of_twenty_characters(self, tiny: Any) -> None:
        """`no_prompt_holds_its_own_answer`: 20 characters are judged, 19 may stand anywhere; the row's own prompt may hold it."""
        check = llmguard.no_prompt_holds_its_own_answer
        for length, expected in ((20, ["error"]), (19, [])):
            answer = "an apple, two pears, three figs"[:length]
            rows = as_rows([{"prompt": "Name fruit.", "response": answer}])
            found = check([f"Name fruit. {answer}"], rows, tiny)
            assert (severities(found), found.looked_at) == (expected, 1), length
            copied = as_rows([{"prompt": f"Say: {answer}", "response": answer}])
            assert severities(check([f"Say: {answer}"], copied, tiny)) == []
        asked = as_rows([{"messages": [{"role": "user", "content": "a question of some length"}] * 2}])
        assert severities(check(["a question of some length"], asked, tiny)) == []

    def test_half_of_the_prompts_may_be_rewritten(self, tiny: Any, alpaca: TextFormat) -> None:
        """`built_prompt_holds_the_stored_one`: without a declared format, more than half; with one, any."""
        check, rows = llmguard.built_prompt_holds_the_stored_one, as_rows(QA)
        for lost, template, expected in (
            (3, None, []),
            (4, None, ["error"]),
            (1, alpaca, ["error"]),
            (0, alpaca, []),
        ):
            texts = ["Tell me about stones."] * lost + [question(r) for r in QA[lost:]]
            made = as_prompts(texts, tiny)
            built = Prompts(made.texts, made.input_ids, made.source, "app:build", True)
            found = check(built, rows, tiny, template)
            assert (severities(found), found.looked_at) == (expected, len(QA)), (lost, template)

    def test_one_lost_text_in_fifty(self) -> None:
        """`tokenizer_is_lossless`: one text in fifty is a note, two are a warning; all are counted."""
        from tokenizers import Tokenizer, models, pre_tokenizers
        from transformers import PreTrainedTokenizerFast

        backend = Tokenizer(models.WordLevel({"[UNK]": 0, "tea": 1, "cup": 2}, unk_token="[UNK]"))
        backend.pre_tokenizer = pre_tokenizers.Whitespace()
        tok = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")
        rows: list[Row] = [{"prompt": "tea", "response": "cup"}] * 25
        for coffee, expected in ((0, []), (1, ["note"]), (2, ["warning"])):
            mixed = [{"prompt": "coffee", "response": "cup"}] * coffee + rows[coffee:]
            found = llmguard.tokenizer_is_lossless(as_rows(mixed), tok)
            assert (severities(found), found.looked_at) == (expected, 50), coffee
