"""Truncation, packing, preference pairs, special tokens: each check seen to pass and to fail."""

from __future__ import annotations

from typing import Any

import pytest

from llmguard.encoded import as_batches, as_encoded
from llmguard.findings import Findings
from llmguard.formats import ChatTemplate, text_format
from llmguard.rows import Columns, as_rows

ROWS = [
    {
        "prompt": f"What is the number of apples after {i} days?",
        "response": f"The answer is {i} apples, no more and no less.",
    }
    for i in range(12)
]


def names(found: Findings) -> list[str]:
    return [f.severity.value for f in found]


def encode(tok: Any, row: dict[str, str], cut: int | None = None) -> dict[str, list[int]]:
    prompt = tok(f"### Instruction:\n{row['prompt']}\n\n### Response:\n")["input_ids"]
    response = tok(row["response"] + tok.eos_token, add_special_tokens=False)["input_ids"]
    ids, labels = prompt + response, [-100] * len(prompt) + response
    return {"input_ids": ids[:cut], "labels": labels[:cut], "attention_mask": [1] * len(ids[:cut])}


@pytest.fixture(scope="module")
def alpaca(tiny: Any) -> Any:
    return text_format("alpaca", tiny.eos_token)


class TestTruncation:
    """Who loses what to max_length."""

    def test_whole_rows_pass(self, tiny: Any, alpaca: Any) -> None:
        """Nothing is said of rows that are whole."""
        from llmguard import responses_are_not_cut

        assert not responses_are_not_cut([encode(tiny, r) for r in ROWS], ROWS, tiny, alpaca)

    def test_a_few_cut_rows_warn_and_many_fail(self, tiny: Any, alpaca: Any) -> None:
        """One long row in twelve is everybody's practice; most rows cut is a wrong max_length."""
        from llmguard import responses_are_not_cut

        whole = [encode(tiny, r) for r in ROWS]
        cut = len(whole[0]["input_ids"]) - 8
        few = responses_are_not_cut([encode(tiny, ROWS[0], cut), *whole[1:]], ROWS, tiny, alpaca)
        assert names(few) == ["warning"]
        many = responses_are_not_cut([encode(tiny, r, cut) for r in ROWS], ROWS, tiny, alpaca)
        assert names(many) == ["error"]
        assert "12 of 12 rows" in many[0].message

    def test_a_lost_response_is_an_error(self, tiny: Any, alpaca: Any) -> None:
        """A prompt that fills the row leaves nothing to train."""
        from llmguard import responses_are_not_cut

        prompt = len(tiny("### Instruction:\n" + ROWS[0]["prompt"])["input_ids"])
        found = responses_are_not_cut(
            [encode(tiny, ROWS[0], prompt), *[encode(tiny, r) for r in ROWS[1:]]], ROWS, tiny, alpaca
        )
        assert names(found) == ["error"]
        assert "lost their whole response" in found[0].message

    def test_lengths_are_told_before_anything_is_encoded(self, tiny: Any, alpaca: Any) -> None:
        """The distribution of lengths comes with the remedy; a limit that all rows fit passes."""
        from llmguard import rows_fit_max_length

        assert not rows_fit_max_length(ROWS, tiny, alpaca, 4096)
        found = rows_fit_max_length(ROWS, tiny, alpaca, 40)
        assert names(found) == ["error"]
        assert "of rows up to" in found[0].message

    def test_an_undeclared_format_is_not_measured(self, tiny: Any) -> None:
        """What the rows will look like is not known without a declared format: nothing is looked at."""
        from llmguard import rows_fit_max_length

        assert rows_fit_max_length(ROWS, tiny, None, 4).looked_at == 0

    def test_prompts_that_fill_the_context_or_are_empty_fail(self, tiny: Any) -> None:
        """A prompt needs text, and room behind it."""
        from llmguard import prompts_leave_room_for_an_answer

        assert not prompts_leave_room_for_an_answer(["a question"], tiny, 64)
        assert names(prompts_leave_room_for_an_answer(["", "x " * 200], tiny, 64)) == ["error", "error"]


class TestPacking:
    """Documents in one row."""

    def packed(self, tiny: Any, *, positions: bool, train_first: bool = False) -> dict[str, list[list[int]]]:
        ids: list[int] = []
        labels: list[int] = []
        position: list[int] = []
        for row in ROWS[:3]:
            one = encode(tiny, row)
            ids += one["input_ids"]
            labels += [one["input_ids"][0] if train_first else -100, *one["labels"][1:]]
            position += list(range(len(one["input_ids"])))
        batch = {"input_ids": [ids], "labels": [labels], "attention_mask": [[1] * len(ids)]}
        return {**batch, "position_ids": [position]} if positions else batch

    def test_positions_that_restart_tell_documents_apart(self, tiny: Any) -> None:
        """Packing done right passes all three checks."""
        from llmguard import (
            first_token_of_a_document_is_not_trained,
            packed_documents_are_told_apart,
            position_ids_restart_with_each_document,
        )

        batch = as_batches([self.packed(tiny, positions=True)])
        assert not packed_documents_are_told_apart(batch, tiny, ROWS)
        assert not position_ids_restart_with_each_document(batch)
        assert not first_token_of_a_document_is_not_trained(batch)

    def test_documents_without_a_border_fail(self, tiny: Any) -> None:
        """Several source rows in one row, and nothing between them; continued pre-training does so on purpose."""
        from llmguard import packed_documents_are_told_apart

        batch = as_batches([self.packed(tiny, positions=False)])
        assert names(packed_documents_are_told_apart(batch, tiny, ROWS)) == ["error"]
        assert not packed_documents_are_told_apart(batch, tiny, ROWS, "all")

    def test_a_conversation_with_eos_after_each_turn_is_no_packing(self, tiny: Any) -> None:
        """EOS inside of one row's text is legitimate."""
        from llmguard import packed_documents_are_told_apart

        ids = tiny(f"Hello{tiny.eos_token}Good day to you{tiny.eos_token}")["input_ids"]
        batch = as_batches([{"input_ids": [ids], "labels": [ids]}])
        assert not packed_documents_are_told_apart(
            batch, tiny, [{"prompt": "Hello to you all", "response": "Good day to you"}]
        )

    def test_wrong_positions_and_trained_starts_fail(self, tiny: Any) -> None:
        """Positions that jump, and a first token that is predicted from another document."""
        from llmguard import first_token_of_a_document_is_not_trained, position_ids_restart_with_each_document

        batch = self.packed(tiny, positions=True, train_first=True)
        assert names(first_token_of_a_document_is_not_trained(as_batches([batch]))) == ["error"]
        batch["position_ids"][0][5:] = [p + 7 for p in batch["position_ids"][0][5:]]
        assert names(position_ids_restart_with_each_document(as_batches([batch]))) == ["error"]

    def test_left_padding_has_positions_that_start_late(self, tiny: Any) -> None:
        """Positions of padding are not judged."""
        from llmguard import position_ids_restart_with_each_document

        batch = as_batches(
            [{"input_ids": [[9, 9, 5, 6]], "attention_mask": [[0, 0, 1, 1]], "position_ids": [[1, 1, 0, 1]]}]
        )
        assert not position_ids_restart_with_each_document(batch)


PAIRS = [
    {
        "prompt": f"Name a fruit, number {i}.",
        "chosen": f"An apple, {i} times.",
        "rejected": f"A stone, {i} times.",
    }
    for i in range(8)
]


class TestPreference:
    """Pairs of responses."""

    def checks(self, rows: Any) -> dict[str, list[str]]:
        import llmguard

        those = (
            "chosen_differs_from_rejected",
            "pairs_share_their_prompt",
            "pairs_do_not_repeat_their_prompt",
            "chosen_scores_above_rejected",
        )
        return {n: found for n in those if (found := names(getattr(llmguard, n)(rows)))}

    def test_good_pairs_pass(self) -> None:
        """Pairs with a prompt, and pairs as conversations."""
        assert self.checks(PAIRS) == {}
        turns = [
            {
                s: [{"role": "user", "content": p["prompt"]}, {"role": "assistant", "content": p[s]}]
                for s in ("chosen", "rejected")
            }
            for p in PAIRS
        ]
        assert self.checks(turns) == {}

    def test_rows_that_are_no_pairs_are_not_judged(self) -> None:
        """An SFT data set has nothing to answer for here."""
        assert self.checks(ROWS) == {}

    def test_each_fault_is_found(self) -> None:
        """Equal responses, prompts that differ, prompts repeated, scores the wrong way round."""
        same = [{**p, "rejected": p["chosen"] + "  "} for p in PAIRS]
        assert self.checks(same) == {"chosen_differs_from_rejected": ["error"]}
        repeated = [{**p, "chosen": p["prompt"] + " " + p["chosen"]} for p in PAIRS]
        assert self.checks(repeated) == {"pairs_do_not_repeat_their_prompt": ["error"]}
        scored = [{**p, "score_chosen": 1.0, "score_rejected": 4.0} for p in PAIRS]
        assert self.checks(scored) == {"chosen_scores_above_rejected": ["error"]}
        one = [{**p, "score_chosen": 5.0, "score_rejected": 4.0} for p in PAIRS[1:]] + [
            {**PAIRS[0], "score_chosen": 1, "score_rejected": 2}
        ]
        assert self.checks(one) == {"chosen_scores_above_rejected": ["warning"]}
        turns = [
            {
                s: [{"role": "user", "content": s}, {"role": "assistant", "content": p[s]}]
                for s in ("chosen", "rejected")
            }
            for p in PAIRS
        ]
        assert self.checks(turns) == {"pairs_share_their_prompt": ["error"]}

    def test_refusals_in_chosen_are_suspected_only(self) -> None:
        """Without scores a swap is a suspicion: a warning, and only when it is systematic."""
        refused = [{**p, "chosen": "I'm sorry, but I can't help with that."} for p in PAIRS]
        assert self.checks(refused) == {"chosen_scores_above_rejected": ["warning"]}
        safe = [{**p, "chosen": "I'm sorry, but I can't."} if i < 2 else p for i, p in enumerate(PAIRS)]
        assert self.checks(safe) == {}

    def test_a_difference_beyond_max_length_is_none(self, tiny: Any) -> None:
        """Pairs that are equal up to the limit teach nothing."""
        from llmguard import pairs_differ_within_max_length

        late = [
            {
                "prompt": "p",
                "chosen": "the same start " * 20 + "yes",
                "rejected": "the same start " * 20 + "no",
            }
        ]
        assert names(pairs_differ_within_max_length(late, tiny, 20)) == ["error"]
        assert not pairs_differ_within_max_length(late, tiny, 4096)

    def test_rendered_responses_are_told(self, tiny: Any) -> None:
        """Responses that hold template tokens already would be rendered twice."""
        from llmguard import pair_responses_hold_no_control_tokens

        rendered = [{**p, "chosen": f"<|im_start|>assistant\n{p['chosen']}<|im_end|>"} for p in PAIRS]
        assert names(pair_responses_hold_no_control_tokens(rendered, tiny)) == ["error"]
        assert not pair_responses_hold_no_control_tokens(PAIRS, tiny)


class TestSpecialTokens:
    """Who ends a response."""

    def test_trained_and_configured_ends_agree(self, tiny: Any, alpaca: Any) -> None:
        """EOS in training, in the tokenizer and in the configs."""
        from llmguard import stop_tokens_agree

        encoded = as_encoded([encode(tiny, r) for r in ROWS])
        stops = {"config": [tiny.eos_token_id], "generation_config": [tiny.eos_token_id, 7]}
        assert not stop_tokens_agree(tiny, stops, alpaca, encoded, as_rows(ROWS))

    def test_an_end_that_generation_does_not_know_fails(self, tiny: Any) -> None:
        """ChatML rows end with <|im_end|>; a generation_config of the base stops at EOS alone."""
        from llmguard import stop_tokens_agree

        found = stop_tokens_agree(tiny, {"generation_config": [tiny.eos_token_id]}, ChatTemplate(tiny))
        assert names(found) == ["error"]
        assert "<|im_end|>" in found[0].message
        assert names(stop_tokens_agree(tiny, {}, ChatTemplate(tiny))) == ["note"]

    def test_a_tokenizer_that_disagrees_with_generation_warns(self, tiny: Any) -> None:
        """Training ends as generation stops, and the tokenizer's EOS is another."""
        from llmguard import stop_tokens_agree

        im_end = tiny.convert_tokens_to_ids("<|im_end|>")
        assert names(stop_tokens_agree(tiny, {"generation_config": [im_end]}, ChatTemplate(tiny))) == [
            "warning"
        ]

    def test_a_doubled_header_is_found(self, tiny: Any) -> None:
        """A generation prompt, and the template again on the response."""
        from llmguard import no_role_header_is_doubled

        good = tiny("<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nyes<|im_end|>\n")
        bad = tiny(
            "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n<|im_start|>assistant\nyes<|im_end|>\n"
        )
        assert not no_role_header_is_doubled([good], tiny)
        assert names(no_role_header_is_doubled([good, bad], tiny)) == ["error"]

    def test_unknown_tokens_are_counted(self) -> None:
        """A word vocabulary that does not know the data's language says so; one that does is left alone."""
        transformers = pytest.importorskip("transformers")
        from tokenizers import Tokenizer, models, pre_tokenizers

        from llmguard import text_has_no_unknown_tokens

        backend = Tokenizer(models.WordLevel({"[UNK]": 0, "the": 1, "answer": 2}, unk_token="[UNK]"))
        backend.pre_tokenizer = pre_tokenizers.Whitespace()
        tok = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")
        assert names(
            text_has_no_unknown_tokens([{"prompt": "die Antwort", "response": "the answer"}], tok)
        ) == ["error"]
        assert not text_has_no_unknown_tokens([{"prompt": "the", "response": "the answer"}], tok)

    def test_swapped_ids_of_a_known_family_are_found(self) -> None:
        """Qwen's <|endoftext|> and <|im_end|> with each other's ids, as a tool saved them; the released order passes."""
        from llmguard import special_tokens_keep_their_ids

        class Token:
            def __init__(self, content: str) -> None:
                self.content = content

        class Tok:
            def __init__(self, ids: dict[str, int]) -> None:
                self.added_tokens_decoder = {i: Token(t) for t, i in ids.items()}

        released = {"<|endoftext|>": 151643, "<|im_start|>": 151644, "<|im_end|>": 151645}
        assert not special_tokens_keep_their_ids(Tok(released))
        swapped = {**released, "<|endoftext|>": 151645, "<|im_end|>": 151643}
        assert names(special_tokens_keep_their_ids(Tok(swapped))) == ["error"]
        other_model = {"<|endoftext|>": 0, "<|im_start|>": 1, "<|im_end|>": 2}
        assert not special_tokens_keep_their_ids(Tok(other_model))


def test_columns_told_win_over_guesses() -> None:
    """Preference columns by other names are read when they are told."""
    from llmguard import chosen_differs_from_rejected

    rows = as_rows([{"q": "x", "good": "a", "bad": "a"}], Columns(prompt="q", chosen="good", rejected="bad"))
    assert names(chosen_differs_from_rejected(rows)) == ["error"]
