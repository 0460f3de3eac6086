"""What small changes of the checks would break and no other test would notice: both ways of each check, counts, borders.

Sound evidence first (nothing is found, everything is counted), then the least fault that a check is there for.
"""

from __future__ import annotations

from typing import Any

import pytest
from support.bugs import severities

import llmguard
from llmguard.encoded import as_batches, as_encoded
from llmguard.evidence.prompts import Prompts, as_prompts
from llmguard.formats import ChatTemplate, TextFormat, text_format
from llmguard.rows import as_rows

Row = dict[str, Any]
QA: list[Row] = [
    {"prompt": f"What is the number of apples after {i} days?", "response": f"The answer is {i} apples."}
    for i in range(6)
]
COUNTED = (
    "base_prompts_carry_no_template base_prompts_carry_no_role_words labels_are_made batch_padding_is_masked batches_carry_labels "
    "collator_attends_to_content collator_keeps_labels batches_keep_every_row tokenizer_is_lossless "
    "template_keeps_every_message ids_are_in_the_vocabulary nothing_is_trained_after_the_terminator encoded_rows_match_the_split "
    "prompts_have_one_bos no_prompt_holds_its_own_answer prompts_leave_room_for_an_answer every_row_has_a_supervised_token "
    "every_response_token_is_trained every_wanted_turn_is_trained text_has_no_unknown_tokens"
).split()
PAIRED = (
    "chosen_differs_from_rejected pairs_share_their_prompt pairs_do_not_repeat_their_prompt chosen_scores_above_rejected "
    "pairs_differ_within_max_length pair_responses_hold_no_control_tokens"
).split()


def question(row: Row) -> str:
    return f"### Instruction:\n{row['prompt']}\n\n### Response:\n"


def encode(tok: Any, row: Row) -> Row:
    prompt = tok(question(row))["input_ids"]
    response = tok(row["response"] + tok.eos_token)["input_ids"]
    ids = prompt + response
    return {"input_ids": ids, "labels": [-100] * len(prompt) + response, "attention_mask": [1] * len(ids)}


def padded(rows: list[Row], pad: int, more: int = 3) -> Row:
    """A batch, padded on the right, `more` than needed."""
    width = max(len(r["input_ids"]) for r in rows) + more
    fill = {"input_ids": pad, "labels": -100, "attention_mask": 0}
    return {n: [r[n] + [v] * (width - len(r[n])) for r in rows] for n, v in fill.items()}


@pytest.fixture(scope="module")
def sound(tiny: Any) -> dict[str, Any]:
    """Evidence of a project without a fault."""
    rows = [encode(tiny, r) for r in QA]
    return {
        "encoded": as_encoded(rows), "rows": as_rows(QA), "tokenizer": tiny, "template": ChatTemplate(tiny), "kind": "base",
        "prompts": as_prompts(["Name a fruit that", "The days of the week are"], tiny), "context": 512, "max_length": 512,
        "batches": as_batches([padded(rows, tiny.pad_token_id)]), "train_on": "responses",
    }  # fmt: skip


def look(name: str, evidence: dict[str, Any], **other: Any) -> Any:
    """A check on the evidence that it takes."""
    check = getattr(llmguard, name)
    return check(**{k: v for k, v in {**evidence, **other}.items() if k in check.parameters})


def told(name: str, evidence: dict[str, Any], **other: Any) -> list[str]:
    return severities(look(name, evidence, **other))


@pytest.mark.parametrize("name", COUNTED)
def test_sound_evidence_is_counted(name: str, sound: dict[str, Any], tiny: Any) -> None:
    """Nothing is found, and what was looked at is told: a check that looked at nothing must not be green."""
    alpaca = text_format("alpaca", tiny.eos_token)
    other = (
        {}
        if name in ("template_keeps_every_message", "base_prompts_carry_no_template")
        else {"template": alpaca}
    )
    if name == "base_prompts_carry_no_role_words":
        other = {"rows": None, "template": None}
    if "prompt" in name:
        other |= {"rows": None} if name != "no_prompt_holds_its_own_answer" else {}
    found = look(name, sound, **other)
    assert severities(found) == []
    assert found.looked_at >= 2


@pytest.mark.parametrize("name", PAIRED)
def test_sound_pairs_are_counted(name: str, tiny: Any) -> None:
    """Pairs, too."""
    pairs = [
        {
            "prompt": r["prompt"],
            "chosen": r["response"],
            "rejected": f"Nobody knows, {i}.",
            "score_chosen": 3,
            "score_rejected": 1,
        }
        for i, r in enumerate(QA)
    ]
    found = look(name, {"rows": as_rows(pairs), "tokenizer": tiny, "max_length": 256})
    assert severities(found) == []
    assert found.looked_at == len(pairs)


class TestTemplate:
    """Templates, formats, role words."""

    def test_a_chat_model_needs_a_template(self, sound: dict[str, Any]) -> None:
        """`chat_model_has_a_template`: none is an error; a declared text format, or a base model, needs none."""

        class Bare:
            chat_template = None

        name = "chat_model_has_a_template"
        assert told(name, sound, kind="chat", tokenizer=Bare(), template=None) == ["error"]
        assert told(name, sound, kind="base", tokenizer=Bare(), template=None) == []
        assert told(name, sound, kind="chat", template=None) == []
        declared = TextFormat("own", {"user": "Q: ", "assistant": "A: "}, {}, "")
        assert declared.declared
        assert told(name, sound, kind="chat", tokenizer=Bare(), template=declared) == []

    def test_a_chat_model_is_not_asked_what_a_base_model_is(self, sound: dict[str, Any]) -> None:
        """`base_prompts_carry_no_template`, `base_tokenizer_ships_no_template`, `base_prompts_carry_no_role_words`: of base models only."""
        chat = as_prompts(["<|im_start|>user\nAssistant: hello<|im_end|>\n"] * 3, sound["tokenizer"])
        for name in (
            "base_prompts_carry_no_template",
            "base_tokenizer_ships_no_template",
            "base_prompts_carry_no_role_words",
        ):
            assert told(name, sound, kind="chat", prompts=chat, rows=None, template=None) == []
            assert told(name, sound, kind="base", prompts=chat, rows=None, template=None, encoded=None) != []

    def test_no_template_is_shipped_by_none(self, sound: dict[str, Any]) -> None:
        """`base_tokenizer_ships_no_template`: a base tokenizer without one is as it should be."""

        class Bare:
            chat_template = None

        assert told("base_tokenizer_ships_no_template", sound, tokenizer=Bare()) == []

    def test_role_words_in_most_prompts(self, sound: dict[str, Any], tiny: Any) -> None:
        """`base_prompts_carry_no_role_words`: in most prompts, not in one, not where it was trained so, not where declared."""
        name, texts = "base_prompts_carry_no_role_words", [f"Human: {r['prompt']}\nAssistant:" for r in QA]
        plain = {**sound, "rows": None, "template": None, "encoded": None}
        assert told(name, plain, prompts=as_prompts(texts, tiny)) == ["error"]
        assert told(name, plain, prompts=as_prompts([texts[0], *(r["prompt"] for r in QA[1:])], tiny)) == []
        trained = as_encoded([tiny(t + " yes") for t in texts])
        assert told(name, plain, prompts=as_prompts(texts, tiny), encoded=trained) == []
        declared = text_format("alpaca", tiny.eos_token)
        assert told(name, plain, prompts=as_prompts(texts, tiny), template=declared) == []

    def test_rows_in_another_format(self, sound: dict[str, Any], tiny: Any) -> None:
        """`training_text_follows_its_format`: an error for rows of another format than the declared one, all of them counted."""
        other = TextFormat("own", {"user": "Q: ", "assistant": "A: "}, {"user": "\n"}, tiny.eos_token)
        found = look("training_text_follows_its_format", sound, template=other)
        assert severities(found) == ["error"]
        assert found.looked_at == len(QA)
        assert (
            told("training_text_follows_its_format", sound, template=text_format("alpaca", tiny.eos_token))
            == []
        )

    def test_messages_that_a_template_leaves_out_or_refuses(self, tiny: Any) -> None:
        """`template_keeps_every_message`: a dropped role and a refused row are errors; other formats are not judged."""
        system = {"role": "system", "content": "You answer in verse and in nothing else."}
        turns = [{"role": "user", "content": "Name a fruit."}, {"role": "assistant", "content": "An apple."}]
        rows = as_rows([{"messages": [system, *turns]}] * 3)
        drops = "{% for m in messages %}{% if m.role != 'system' %}[{{ m.role }}]{{ m.content }}{% endif %}{% endfor %}"
        refuses = (
            "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + drops
        )
        check = llmguard.template_keeps_every_message
        assert severities(check(rows, ChatTemplate(tiny, drops))) == ["error"]
        assert severities(check(rows, ChatTemplate(tiny, refuses))) == ["error"]
        assert severities(check(rows, ChatTemplate(tiny))) == []
        assert check(rows, text_format("alpaca", tiny.eos_token)).looked_at == 0


class TestTokens:
    """Ids and texts."""

    def test_a_tokenizer_that_does_not_load(self) -> None:
        """`tokenizer_loads`: an error with what the loader said; one that loads is nothing."""
        bad = {"ok": False, "error": {"type": "OSError", "message": "no tokenizer.json", "path": "m"}}
        assert severities(llmguard.tokenizer_loads(bad)) == ["error"]
        fine = llmguard.tokenizer_loads({"ok": True})
        assert (severities(fine), fine.looked_at) == ([], 1)

    def test_ids_at_both_ends_of_the_vocabulary(self, tiny: Any) -> None:
        """`ids_are_in_the_vocabulary`: 0 and the last are ids; one below and one beyond are errors."""
        check = llmguard.ids_are_in_the_vocabulary
        assert severities(check([{"input_ids": [0, len(tiny) - 1]}], tiny)) == []
        assert severities(check([{"input_ids": [0, len(tiny)]}], tiny)) == ["error"]
        assert severities(check([{"input_ids": [-1, 5]}], tiny)) == ["error"]

    def test_a_vocabulary_without_a_word(self) -> None:
        """`tokenizer_is_lossless`: a warning where more than one text in fifty does not come back, a note below."""
        from tokenizers import Tokenizer, models, pre_tokenizers
        from transformers import PreTrainedTokenizerFast

        words = {w: i for i, w in enumerate(("[UNK]", "a", "cup", "of", "tea", "and", "biscuit"))}
        backend = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
        backend.pre_tokenizer = pre_tokenizers.Whitespace()
        tok = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")
        rows = [{"prompt": "a cup of tea", "response": "and a biscuit"}] * 60
        assert severities(llmguard.tokenizer_is_lossless(as_rows(rows), tok)) == []
        cafe = {"prompt": "a cup of coffee", "response": "and a biscuit"}
        assert severities(llmguard.tokenizer_is_lossless(as_rows([*rows, cafe]), tok)) == ["note"]
        assert severities(llmguard.tokenizer_is_lossless(as_rows([cafe] * 3), tok)) == ["warning"]


class TestLabels:
    """What is trained."""

    def test_rows_without_labels(self, sound: dict[str, Any]) -> None:
        """`labels_are_made`: none is an error, unless a collator makes them or everything is trained."""
        bare = as_encoded([{"input_ids": r} for r in ([1, 2, 3], [4, 5, 6])])
        assert told("labels_are_made", sound, encoded=bare, batches=None) == ["error"]
        assert told(
            "labels_are_made", sound, encoded=bare, batches=as_batches([{"input_ids": [[1, 2, 3]]}])
        ) == ["error"]
        assert told("labels_are_made", sound, encoded=bare) == []
        assert told("labels_are_made", sound, encoded=bare, batches=None, train_on="all") == []

    def test_a_trained_line_break_behind_the_end(self, sound: dict[str, Any], tiny: Any) -> None:
        """`nothing_is_trained_after_the_terminator`: a note where the tail is trained, nothing where it is masked."""
        turns = [
            {"role": "user", "content": "Name a fruit."},
            {"role": "assistant", "content": "An apple, said the user."},
        ]
        ids, name = (
            tiny(ChatTemplate(tiny).render(as_rows([{"messages": turns}]).turns[0])),
            "nothing_is_trained_after_the_terminator",
        )
        start = len(tiny("<|im_start|>user\nName a fruit.<|im_end|>\n<|im_start|>assistant\n")["input_ids"])
        tail = len(tiny("\n")["input_ids"])
        labels = [-100] * start + ids["input_ids"][start:]
        rows = as_rows([{"messages": turns}])
        trained = as_encoded([{"input_ids": ids["input_ids"], "labels": labels}])
        masked = as_encoded([{"input_ids": ids["input_ids"], "labels": labels[:-tail] + [-100] * tail}])
        assert told(name, sound, encoded=trained, rows=rows) == ["note"]
        assert told(name, sound, encoded=masked, rows=rows) == []
        bare = as_encoded([{"input_ids": ids["input_ids"]}])
        assert look(name, sound, encoded=bare, rows=rows).looked_at == 0

    def test_one_lost_row(self, sound: dict[str, Any]) -> None:
        """`encoded_rows_match_the_split`: fewer or more prepared rows than the split has."""
        fewer = as_encoded([{"input_ids": [1, 2]}] * (len(QA) - 1))
        assert told("encoded_rows_match_the_split", sound, encoded=fewer) == ["error"]

    def test_one_trained_prompt_token(self, sound: dict[str, Any], tiny: Any) -> None:
        """`every_prompt_token_is_masked`: a single one is an error; `every_response_token_is_trained`: a hole in a response is, too."""
        alpaca = text_format("alpaca", tiny.eos_token)
        rows = [encode(tiny, r) for r in QA]
        one = [{**r, "labels": [r["input_ids"][0], *r["labels"][1:]]} for r in rows]
        assert told("every_prompt_token_is_masked", sound, encoded=as_encoded(one), template=alpaca) == [
            "error"
        ]
        lost = [{**r, "labels": [*r["labels"][:-4], -100, *r["labels"][-3:]]} for r in rows]
        found = look("every_response_token_is_trained", sound, encoded=as_encoded(lost), template=alpaca)
        assert (severities(found), found.looked_at) == (["error"], len(QA))


class TestBatches:
    """What a collator does."""

    def test_trained_padding(self, sound: dict[str, Any], tiny: Any) -> None:
        """`batch_padding_is_masked`: a label on one padding token is an error."""
        batch = padded([encode(tiny, r) for r in QA], tiny.pad_token_id)
        batch["labels"][2][-1] = tiny.pad_token_id
        assert told("batch_padding_is_masked", sound, batches=as_batches([batch])) == ["error"]

    def test_attention_that_is_missing_or_wrong(self, sound: dict[str, Any], tiny: Any) -> None:
        """`collator_attends_to_content`: no mask beside padding, content hidden, padding shown: an error each."""
        rows, name = [encode(tiny, r) for r in QA], "collator_attends_to_content"
        batch = padded(rows, tiny.pad_token_id)
        bare = {k: v for k, v in batch.items() if k != "attention_mask"}
        assert told(name, sound, batches=as_batches([bare])) == ["error"]
        hidden = {**batch, "attention_mask": [[0, 0, *m[2:]] for m in batch["attention_mask"]]}
        assert told(name, sound, batches=as_batches([hidden])) == ["error"]
        shown = {**batch, "attention_mask": [[1] * len(m) for m in batch["attention_mask"]]}
        assert told(name, sound, batches=as_batches([shown])) == ["error"]

    def test_rows_that_a_collator_loses(self, sound: dict[str, Any], tiny: Any) -> None:
        """`batches_keep_every_row`: fewer out than in is an error; packing is not; unknown is not."""
        rows, name = [encode(tiny, r) for r in QA], "batches_keep_every_row"
        batch = padded(rows, tiny.pad_token_id)
        batches = as_batches([batch])
        batches.facts["rows_in"] = len(QA)
        assert told(name, sound, batches=batches) == []
        batches.facts["rows_in"] = len(QA) + 1
        assert told(name, sound, batches=batches) == ["error"]
        packed = as_batches([{**batch, "position_ids": [list(range(len(i))) for i in batch["input_ids"]]}])
        packed.facts["rows_in"] = len(QA) + 1
        assert told(name, sound, batches=packed) == []


class TestPrompts:
    """What generation builds."""

    def test_prompts_that_are_not_the_stored_ones(self, sound: dict[str, Any], tiny: Any) -> None:
        """`built_prompt_holds_the_stored_one`: most built prompts without their row's text are an error; a wrapped one is none."""
        name, rows = "built_prompt_holds_the_stored_one", as_rows(QA)

        def built(texts: list[str], *, by_user: bool = True) -> Prompts:
            made = as_prompts(texts, tiny)
            return Prompts(made.texts, made.input_ids, made.source, "app:build", by_user)

        wrapped = look(
            name, sound, prompts=built([f"Now: {r['prompt']} Think." for r in QA]), rows=rows, template=None
        )
        assert (severities(wrapped), wrapped.looked_at) == ([], len(QA))
        others = [f"Tell me about pears, {i}." for i in range(len(QA))]
        assert told(name, sound, prompts=built(others), rows=rows, template=None) == ["error"]
        assert (
            look(name, sound, prompts=built(others, by_user=False), rows=rows, template=None).looked_at == 0
        )


class TestPacking:
    """Documents in a row."""

    def test_one_border_is_enough(self, sound: dict[str, Any], tiny: Any) -> None:
        """`packed_documents_are_told_apart`: two documents, one border; short rows beside long ones are no packing."""
        rows = [encode(tiny, r) for r in QA]
        two = {n: [rows[0][n] + rows[1][n]] for n in ("input_ids", "labels")}
        assert told("packed_documents_are_told_apart", sound, batches=as_batches([two])) == ["error"]

    def test_no_positions_and_no_labels(self, sound: dict[str, Any]) -> None:
        """`position_ids_restart_with_each_document`, `first_token_of_a_document_is_not_trained`: not judged without columns."""
        bare = as_batches([{"input_ids": [[1, 2, 3]]}])
        assert told("position_ids_restart_with_each_document", sound, batches=bare) == []
        assert told("first_token_of_a_document_is_not_trained", sound, batches=bare) == []

    def test_positions_that_start_at_two(self, sound: dict[str, Any]) -> None:
        """`position_ids_restart_with_each_document`: 0 and 1 are starts in use, 2 is not."""
        for first, expected in ((0, []), (1, []), (2, ["error"])):
            batch = {"input_ids": [[5, 6, 7]], "position_ids": [[first, first + 1, first + 2]]}
            assert (
                told("position_ids_restart_with_each_document", sound, batches=as_batches([batch]))
                == expected
            )

    def test_the_second_token_of_a_row_may_start_a_document(self, sound: dict[str, Any]) -> None:
        """`first_token_of_a_document_is_not_trained`: a document of one token stands before it."""
        batch = {"input_ids": [[5, 6, 7]], "position_ids": [[0, 0, 1]], "labels": [[-100, 6, 7]]}
        assert told("first_token_of_a_document_is_not_trained", sound, batches=as_batches([batch])) == [
            "error"
        ]


class TestBorders:
    """Where a check begins to speak, and what it does not judge."""

    def test_what_is_not_judged_is_not_counted(self, sound: dict[str, Any], tiny: Any) -> None:
        """Without labels, or where the project trains otherwise on purpose, nothing is looked at."""
        bare = as_encoded([{"input_ids": encode(tiny, r)["input_ids"]} for r in QA])
        alpaca = text_format("alpaca", tiny.eos_token)
        for name in (
            "every_response_token_is_trained", "every_wanted_turn_is_trained", "terminator_is_trained",
            "boundary_falls_between_tokens", "collator_keeps_labels", "labels_are_not_shifted",
        ):  # fmt: skip
            found = look(name, sound, encoded=bare, template=alpaca)
            assert (severities(found), found.looked_at) == ([], 0), name
        assert look("every_wanted_turn_is_trained", sound, template=alpaca, train_on="last").looked_at == 0
        assert look("boundary_falls_between_tokens", sound, template=alpaca, train_on="all").looked_at == 0

    def test_scores_that_are_equal_or_half_there(self) -> None:
        """`chosen_scores_above_rejected`: equal scores are no swap, and one score is none."""
        pair = {"prompt": "Name a fruit, please.", "chosen": "An apple it is.", "rejected": "A stone it is."}
        equal = [{**pair, "score_chosen": 2, "score_rejected": 2}] * 4
        assert severities(llmguard.chosen_scores_above_rejected(equal)) == []
        assert severities(llmguard.chosen_scores_above_rejected([{**pair, "score_chosen": 2}] * 4)) == []

    def test_a_short_prompt_may_start_its_answer(self) -> None:
        """`pairs_do_not_repeat_their_prompt`: prompts of less than 12 characters are not judged; of 12 they are."""
        check = llmguard.pairs_do_not_repeat_their_prompt
        short = check([{"prompt": "Hi there", "chosen": "Hi there, you.", "rejected": "Hi there."}] * 3)
        assert (severities(short), short.looked_at) == ([], 0)
        longer = check([{"prompt": "Say: twelve!", "chosen": "Say: twelve! yes", "rejected": "no"}] * 3)
        assert severities(longer) == ["error"]

    def test_control_tokens_in_half_of_the_pairs(self, tiny: Any) -> None:
        """`pair_responses_hold_no_control_tokens`: more than half are a rendered data set, half are not."""
        plain = {"prompt": "Name a fruit.", "chosen": "An apple.", "rejected": "A stone."}
        held = {**plain, "chosen": "<|im_start|>An apple.<|im_end|>"}
        check = llmguard.pair_responses_hold_no_control_tokens
        assert severities(check([plain, plain, held, held], tiny)) == []
        assert severities(check([plain, held, held], tiny)) == ["error"]

    def test_a_prompt_as_long_as_the_context(self, tiny: Any) -> None:
        """`prompts_leave_room_for_an_answer`: no room is left when the prompt is as long as the context."""
        length = len(tiny("Name a fruit")["input_ids"])
        check = llmguard.prompts_leave_room_for_an_answer
        assert severities(check(["Name a fruit"], tiny, length)) == ["error"]
        assert severities(check(["Name a fruit"], tiny, length + 100)) == []

    def test_as_many_rows_as_the_split(self) -> None:
        """`trainer_keeps_every_row`: all rows are all rows; one less is a warning."""
        assert severities(llmguard.trainer_keeps_every_row({"rows": len(QA)}, as_rows(QA))) == []
        assert severities(llmguard.trainer_keeps_every_row({"rows": len(QA) - 1}, as_rows(QA))) == ["warning"]

    def test_one_row_in_six_is_many(self, sound: dict[str, Any], tiny: Any) -> None:
        """`responses_are_not_cut`: one cut row in six is an error, one in twenty is not."""
        alpaca = text_format("alpaca", tiny.eos_token)
        whole = [encode(tiny, r) for r in QA]
        cut = {n: v[:-4] for n, v in whole[0].items()}
        assert told(
            "responses_are_not_cut", sound, encoded=as_encoded([cut, *whole[1:]]), template=alpaca
        ) == ["error"]
        source = as_rows([QA[0], *(QA[1:] * 4)])
        many = as_encoded([cut, *(whole[1:] * 4)])
        assert "error" not in told("responses_are_not_cut", sound, encoded=many, rows=source, template=alpaca)

    def test_padding_without_a_mask(self, sound: dict[str, Any], tiny: Any) -> None:
        """`padding_is_never_trained`: without an attention mask, the run of pad ids at the end is padding."""
        pad = tiny.pad_token_id
        rows = [{"input_ids": [5, 6, 7, pad, pad], "labels": [-100, 6, 7, pad, pad]}]
        assert told("padding_is_never_trained", sound, encoded=as_encoded(rows)) == ["error"]
        masked = [{"input_ids": [5, 6, 7, pad, pad], "labels": [-100, 6, 7, -100, -100]}]
        assert told("padding_is_never_trained", sound, encoded=as_encoded(masked)) == []

    def test_columns_of_other_lengths(self, sound: dict[str, Any]) -> None:
        """`columns_are_as_long_as_their_ids`: one label too few in one row is an error."""
        rows = [
            {"input_ids": [1, 2, 3], "labels": [-100, 2, 3]},
            {"input_ids": [4, 5, 6], "labels": [-100, 5]},
        ]
        found = look("columns_are_as_long_as_their_ids", sound, encoded=as_encoded(rows))
        assert (severities(found), found.looked_at) == (["error"], 2)
        fine = look("columns_are_as_long_as_their_ids", sound)
        assert (severities(fine), fine.looked_at) == ([], len(QA))

    def test_a_collator_that_fails(self, sound: dict[str, Any]) -> None:
        """`collator_takes_rows_of_unequal_length`: an error with the rows it failed on; nothing where it did not."""
        name, batches = "collator_takes_rows_of_unequal_length", as_batches([{"input_ids": [[1, 2, 3]]}])
        assert told(name, sound, batches=batches) == []
        batches.facts["failed"] = {
            "rows": [0, 2],
            "lengths": [3, 5],
            "type": "ValueError",
            "message": "expected 3",
        }
        assert told(name, sound, batches=batches) == ["error"]

    def test_what_passes_is_counted(self, sound: dict[str, Any], tiny: Any) -> None:
        """`prompts_start_with_bos`, `tokenizer_keeps_white_space`: sound prompts and code."""
        assert look("prompts_start_with_bos", sound, prompts=["one", "two"], rows=None).looked_at == 2
        code = as_rows([{"prompt": "write f", "response": "def f(x):\n    return  x"}])
        found = look("tokenizer_keeps_white_space", sound, rows=code)
        assert severities(found) == []
        assert found.looked_at >= 1
