"""Bugs told in public threads, by their id in the collection that the project is measured against: injected, and found by name.

Each case first shows that its fault is there (`witness`, without our checks), then that the named check finds it, and that the
sound variant is left alone by the same check. Sound and broken rows differ in the fault alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from support.bugs import CASES, case, cases_of

import llmguard
from llmguard.encoded import as_batches, as_encoded
from llmguard.evidence.prompts import as_prompts
from llmguard.formats import ChatTemplate, TextFormat, text_format
from llmguard.rows import as_rows

Row = dict[str, Any]
QA = [
    {
        "prompt": f"How many apples are {i} and {i + 2} apples?",
        "response": f"There are {2 * i + 2} apples in all, no more.",
    }
    for i in range(8)
]
CHATS = [
    {
        "messages": [
            {"role": "user", "content": f"How many apples are {i} and two?"},
            {"role": "assistant", "content": f"There are {i + 2} apples in all."},
            {"role": "user", "content": "And three more of the same kind?"},
            {"role": "assistant", "content": f"Then there are {i + 5} apples in the basket."},
        ]
    }
    for i in range(8)
]


def question(row: Row) -> str:
    return f"### Instruction:\n{row['prompt']}\n\n### Response:\n"


def sound(tok: Any, row: Row) -> Row:
    """Prompt and response tokenised apart, labels on response and EOS."""
    prompt = tok(question(row))["input_ids"]
    response = tok(row["response"] + tok.eos_token, add_special_tokens=False)["input_ids"]
    return {
        "input_ids": prompt + response,
        "labels": [-100] * len(prompt) + response,
        "attention_mask": [1] * len(prompt + response),
        "boundary": len(prompt),
    }


def chat(tok: Any, row: Row) -> Row:
    """A conversation through the template, every assistant turn and its end labelled."""
    ids: list[int] = []
    labels: list[int] = []
    for message in row["messages"]:
        header = tok(f"<|im_start|>{message['role']}\n", add_special_tokens=False)["input_ids"]
        body = tok(f"{message['content']}<|im_end|>", add_special_tokens=False)["input_ids"]
        end = tok("\n", add_special_tokens=False)["input_ids"]
        ids += header + body + end
        trained = message["role"] == "assistant"
        labels += [-100] * len(header) + (body if trained else [-100] * len(body)) + [-100] * len(end)
    return {"input_ids": ids, "labels": labels, "attention_mask": [1] * len(ids)}


def find(ids: list[int], wanted: list[int]) -> int:
    """The search that many collators do: where a marker's ids stand, -1 if nowhere."""
    return next((i for i in range(len(ids) - len(wanted) + 1) if ids[i : i + len(wanted)] == wanted), -1)


def without(row: Row, start: int, stop: int | None = None) -> Row:
    """Labels taken away from a stretch."""
    labels = list(row["labels"])
    labels[start:stop] = [-100] * len(labels[start:stop])
    return {**row, "labels": labels}


class Bench:
    """What the cases work with: the tokenizer, both kinds of rows, and a runner of checks by name."""

    def __init__(self, tok: Any) -> None:
        self.tok = tok
        self.qa = [sound(tok, r) for r in QA]
        self.chats = [chat(tok, r) for r in CHATS]
        self.alpaca = text_format("alpaca", tok.eos_token)
        self.own = ChatTemplate(tok)

    def on_qa(self, name: str, rows: list[Row], template: Any = None, source: Any = None) -> list[str]:
        """A check over question-and-answer rows."""
        return self.run(
            name,
            encoded=as_encoded(rows),
            rows=as_rows(source or QA),
            tokenizer=self.tok,
            template=template or self.alpaca,
        )

    def on_chats(self, name: str, rows: list[Row]) -> list[str]:
        """A check over conversations."""
        return self.run(
            name, encoded=as_encoded(rows), rows=as_rows(CHATS), tokenizer=self.tok, template=self.own
        )

    def run(self, name: str, **evidence: Any) -> list[str]:
        """Severities of what a check finds, given the evidence that it takes."""
        check = getattr(llmguard, name)
        return [
            f.severity.value for f in check(**{k: v for k, v in evidence.items() if k in check.parameters})
        ]


@pytest.fixture(scope="module")
def bench(tiny: Any) -> Bench:
    return Bench(tiny)


@case("LM-01", "LM-02", "LM-03", "TR-02")
def marker_not_found(b: Bench) -> None:
    """A marker with a trailing space is searched as ids; it is nowhere, and every label is -100."""
    marker = b.tok("### Response: ", add_special_tokens=False)["input_ids"]
    broken = [
        {**r, "labels": [-100] * len(r["labels"]) if find(r["input_ids"], marker) < 0 else r["labels"]}
        for r in b.qa
    ]
    assert all(set(r["labels"]) == {-100} for r in broken)
    assert b.on_qa("every_row_has_a_supervised_token", broken) == ["error"]
    assert b.on_qa("every_row_has_a_supervised_token", b.qa) == []


@case("LM-05")
def lengths_do_not_add_up(b: Bench) -> None:
    """Spans are added up from each turn's length, less a BOS that this tokenizer does not write; what does not add up is ignored."""
    broken = []
    for row, told in zip(b.chats, CHATS, strict=True):
        turns = [f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in told["messages"]]
        added = sum(len(b.tok(turn)["input_ids"]) - 1 for turn in turns)
        broken.append(row if added == len(row["input_ids"]) else without(row, 0))
    assert all(set(r["labels"]) == {-100} for r in broken)
    assert b.on_chats("every_row_has_a_supervised_token", broken) == ["error"]
    assert b.on_chats("every_row_has_a_supervised_token", b.chats) == []


@case("LM-12")
def no_generation_block(b: Bench) -> None:
    """The assistant mask of a template without a generation block: zeros, and a line in a log."""
    broken = []
    for row, told in zip(b.chats, CHATS, strict=True):
        made = b.tok.apply_chat_template(
            told["messages"], return_assistant_tokens_mask=True, return_dict=True, tokenize=True
        )
        assert made["input_ids"] == row["input_ids"]
        labels = [i if m else -100 for i, m in zip(made["input_ids"], made["assistant_masks"], strict=True)]
        broken.append({**row, "labels": labels})
    assert all(set(r["labels"]) == {-100} for r in broken)
    assert b.on_chats("every_row_has_a_supervised_token", broken) == ["error"]


@case("LM-18")
def markers_of_another_family(b: Bench) -> None:
    """Headers of another model family are looked for in ChatML rows."""
    marker = b.tok("<|start_header_id|>assistant<|end_header_id|>", add_special_tokens=False)["input_ids"]
    broken = [without(r, 0) if find(r["input_ids"], marker) < 0 else r for r in b.chats]
    assert all(set(r["labels"]) == {-100} for r in broken)
    assert b.on_chats("every_row_has_a_supervised_token", broken) == ["error"]


@case("CT-10")
def markers_are_not_tokens(b: Bench) -> None:
    """Another family's end of turn is rendered for a tokenizer that has no token for it."""
    rows = [{**r, "response": r["response"] + "<|eot_id|>"} for r in QA]
    assert len(b.tok("<|eot_id|>", add_special_tokens=False)["input_ids"]) > 1
    broken = [sound(b.tok, r) for r in rows]
    assert b.run("control_tokens_are_single_ids", encoded=broken, tokenizer=b.tok, rows=QA) == ["error"]
    assert b.run("control_tokens_are_single_ids", encoded=b.qa, tokenizer=b.tok, rows=QA) == []


@case("EP-07")
def two_end_tokens(b: Bench) -> None:
    """Rows end with one of the family's two end tokens, and generation stops at the other."""
    end, other = b.tok.eos_token_id, b.tok.convert_tokens_to_ids("<|im_end|>")
    assert all(r["input_ids"][-1] == end and other not in r["input_ids"] for r in b.qa)
    evidence = {"tokenizer": b.tok, "template": b.alpaca, "encoded": as_encoded(b.qa), "rows": as_rows(QA)}
    assert b.run("stop_tokens_agree", stops={"generation_config": [other]}, **evidence) == ["error"]
    assert b.run("stop_tokens_agree", stops={"generation_config": [end]}, **evidence) == []


@case("CT-09")
def prefix_is_no_prefix(b: Bench) -> None:
    """The prompt alone is rendered with an EOS that the whole row does not have there: its length masks too little."""
    broken = []
    for row, told in zip(b.chats, CHATS, strict=True):
        alone = b.own.prompt(as_rows([told]).turns[0][:1]).removesuffix("<|im_start|>assistant\n")
        prefix = b.tok(alone + b.tok.eos_token)["input_ids"]
        assert row["input_ids"][: len(prefix)] != prefix
        broken.append({**row, "labels": [-100] * len(prefix) + row["input_ids"][len(prefix) :]})
    assert b.on_chats("every_prompt_token_is_masked", broken) == ["error"]
    assert b.on_chats("every_prompt_token_is_masked", b.chats) == []


@case("LM-04")
def user_text_between_markers(b: Bench) -> None:
    """The first user marker is missed, so that everything up to the second is taken for an answer."""
    broken = []
    for row in b.chats:
        second = (
            find(row["input_ids"][1:], b.tok("<|im_start|>user", add_special_tokens=False)["input_ids"]) + 1
        )
        broken.append({**row, "labels": row["input_ids"][:second] + row["labels"][second:]})
    assert all(r["labels"][0] != -100 for r in broken)
    assert b.on_chats("every_prompt_token_is_masked", broken) == ["error"]
    assert b.on_chats("every_prompt_token_is_masked", b.chats) == []


@case("LM-07")
def end_marker_in_pieces(b: Bench) -> None:
    """`</s>` is letters for this tokenizer: it neither ends nor can it be stopped at."""
    rows = [{**r, "response": r["response"] + "</s>"} for r in QA]
    broken = [sound(b.tok, r) for r in rows]
    assert len(b.tok("</s>", add_special_tokens=False)["input_ids"]) > 1
    assert b.run("control_tokens_are_single_ids", encoded=broken, tokenizer=b.tok, rows=QA) == ["error"]
    assert b.run("control_tokens_are_single_ids", encoded=b.qa, tokenizer=b.tok, rows=QA) == []


@case("LM-09")
def boundary_in_a_token(b: Bench) -> None:
    """The prompt's last token and the response's first merge into one, which is masked."""
    template = TextFormat(
        "table", {"user": "Q: ", "assistant": ""}, {"user": " the answer to th"}, b.tok.eos_token
    )
    rows = [{"prompt": "name it", "response": "e question is the number of apples"}] * 3
    text = "Q: name it the answer to the question is the number of apples" + b.tok.eos_token
    ids = b.tok(text)["input_ids"]
    prompt = b.tok("Q: name it the answer to th")["input_ids"]
    assert ids[: len(prompt)] != prompt
    cut = next(
        i for i in range(len(ids)) if len(b.tok.decode(ids[: i + 1])) > len("Q: name it the answer to th")
    )
    masked = {"input_ids": ids, "labels": [-100] * (cut + 1) + ids[cut + 1 :]}
    assert b.on_qa("boundary_falls_between_tokens", [masked] * 3, template, rows) == ["error"]
    apart = (
        b.tok("Q: name it the answer to th")["input_ids"],
        b.tok("e question is the number of apples" + b.tok.eos_token)["input_ids"],
    )
    good = {"input_ids": apart[0] + apart[1], "labels": [-100] * len(apart[0]) + apart[1]}
    assert b.on_qa("boundary_falls_between_tokens", [good] * 3, template, rows) == []


@case("LM-13", "LM-14", "LM-21", "CO-04")
def everything_trained(b: Bench) -> None:
    """A fallback to an all-ones mask: labels are a copy of the ids."""
    broken = [{**r, "labels": list(r["input_ids"])} for r in b.qa]
    assert all(-100 not in r["labels"] for r in broken)
    assert b.on_qa("every_prompt_token_is_masked", broken) == ["error"]
    evidence = {"encoded": as_encoded(broken), "rows": as_rows(QA), "tokenizer": b.tok, "template": b.alpaca}
    assert b.run("every_prompt_token_is_masked", **evidence, train_on="all") == []


@case("LM-16")
def label_at_minus_one(b: Bench) -> None:
    """A search that fails gives -1, and the label is written there."""
    broken = []
    for row in b.qa:
        labels = [-100] * len(row["labels"])
        labels[find(row["input_ids"], [10**6])] = row["input_ids"][-1]
        broken.append({**row, "labels": labels})
    assert all(sum(v != -100 for v in r["labels"]) == 1 for r in broken)
    assert b.on_qa("every_wanted_turn_is_trained", broken) == ["error"]
    assert b.on_qa("every_wanted_turn_is_trained", b.qa) == []


@case("LM-17")
def terminator_masked(b: Bench) -> None:
    """The end of turn is not tokenizer.eos_token, and is left out of the labels."""
    broken = [
        {**r, "labels": [-100 if v == b.tok.convert_tokens_to_ids("<|im_end|>") else v for v in r["labels"]]}
        for r in b.chats
    ]
    assert broken[0]["labels"] != b.chats[0]["labels"]
    assert b.on_chats("terminator_is_trained", broken) == ["error"]
    assert b.on_chats("terminator_is_trained", b.chats) == []


@case("LM-22")
def labels_shifted_twice(b: Bench) -> None:
    """Labels moved by hand, for a model that moves them itself."""
    broken = [{**r, "labels": [*r["labels"][1:], -100]} for r in b.qa]
    assert b.on_qa("labels_are_not_shifted", broken) == ["error"]
    assert b.on_qa("labels_are_not_shifted", b.qa) == []


@case("EP-02")
def no_eos(b: Bench) -> None:
    """Rows end with the response's last letter."""
    broken = [{n: r[n][:-1] for n in ("input_ids", "labels")} for r in b.qa]
    assert all(b.tok.eos_token_id not in r["input_ids"] for r in broken)
    assert b.on_qa("response_ends_with_its_terminator", broken) == ["error"]
    assert b.on_qa("response_ends_with_its_terminator", b.qa) == []


@case("EP-04", "EP-05")
def configs_disagree_about_eos(b: Bench) -> None:
    """generation_config stops at the base model's EOS; the trained rows end their turns with another token."""
    evidence = {"tokenizer": b.tok, "template": b.own, "encoded": as_encoded(b.chats), "rows": as_rows(CHATS)}
    im_end = b.tok.convert_tokens_to_ids("<|im_end|>")
    assert b.run("stop_tokens_agree", stops={"generation_config": [b.tok.eos_token_id]}, **evidence) == [
        "error"
    ]
    assert (
        b.run("stop_tokens_agree", stops={"generation_config": [im_end, b.tok.eos_token_id]}, **evidence)
        == []
    )


@case("EP-09")
def padding_trained(b: Bench) -> None:
    """Labels padded with the pad id."""
    pad = b.tok.pad_token_id
    broken = [
        {
            "input_ids": r["input_ids"] + [pad] * 4,
            "labels": r["labels"] + [pad] * 4,
            "attention_mask": r["attention_mask"] + [0] * 4,
        }
        for r in b.qa
    ]
    good = [{**r, "labels": r["labels"][:-4] + [-100] * 4} for r in broken]
    assert b.run("padding_is_never_trained", encoded=broken) == ["error"]
    assert b.run("padding_is_never_trained", encoded=good) == []


def with_bos(tok: Any) -> Any:
    """The same tokenizer, with a BOS that it puts before every text."""
    from tokenizers import processors
    from transformers import PreTrainedTokenizerFast

    backend = type(tok.backend_tokenizer).from_str(tok.backend_tokenizer.to_str())
    backend.post_processor = processors.TemplateProcessing(
        single="<|bos|> $A", special_tokens=[("<|bos|>", backend.token_to_id("<|bos|>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<|bos|>", eos_token="<|endoftext|>", pad_token="<|pad|>"
    )


@case("BO-01")
def bos_twice(b: Bench) -> None:
    """The template writes BOS, and the tokenizer adds another."""
    tok = with_bos(b.tok)
    good = [sound(tok, r) for r in QA]
    broken = [
        {"input_ids": [tok.bos_token_id, *r["input_ids"]], "labels": [-100, *r["labels"]]} for r in good
    ]
    assert b.run("every_row_has_one_bos", encoded=broken, tokenizer=tok, rows=QA) == ["error"]
    assert b.run("every_row_has_one_bos", encoded=good, tokenizer=tok, rows=QA) == []
    assert b.run("prompts_have_one_bos", prompts=["<|bos|>Hello there"], tokenizer=tok) == ["error"]
    assert b.run("prompts_have_one_bos", prompts=["Hello there"], tokenizer=tok) == []


@case("BO-03", "BO-05")
def bos_missing(b: Bench) -> None:
    """A harness that encodes with add_special_tokens=False."""
    tok = with_bos(b.tok)
    bare = [tok(question(r), add_special_tokens=False)["input_ids"] for r in QA]
    assert b.run("prompts_start_with_bos", prompts=bare, tokenizer=tok) == ["error"]
    assert b.run("prompts_start_with_bos", prompts=[question(r) for r in QA], tokenizer=tok) == []


@case("DP-02")
def bos_at_the_seam(b: Bench) -> None:
    """The response is tokenised with special tokens, and BOS stands in the middle."""
    tok = with_bos(b.tok)
    broken = []
    for row in QA:
        prompt, response = tok(question(row))["input_ids"], tok(row["response"] + tok.eos_token)["input_ids"]
        broken.append({"input_ids": prompt + response, "labels": [-100] * (len(prompt) + 1) + response[1:]})
    assert b.run("every_row_has_one_bos", encoded=broken, tokenizer=tok, rows=QA, template=b.alpaca) == [
        "error"
    ]


@case("CT-01", "CT-02")
def template_on_a_base_model(b: Bench) -> None:
    """A prompt builder applies the template that the base tokenizer ships."""
    leaked = [b.own.prompt(as_rows([r]).turns[0]) for r in QA]
    assert all("<|im_start|>" in text for text in leaked)
    assert b.run("base_prompts_carry_no_template", prompts=leaked, tokenizer=b.tok, kind="base", rows=QA) == [
        "error"
    ]
    assert (
        b.run(
            "base_prompts_carry_no_template",
            prompts=[question(r) for r in QA],
            tokenizer=b.tok,
            kind="base",
            rows=QA,
        )
        == []
    )
    assert b.run("base_tokenizer_ships_no_template", tokenizer=b.tok, kind="base") == ["warning"]


@case("CT-03", "CT-04", "ST-05")
def trained_and_asked_in_two_formats(b: Bench) -> None:
    """Training rows in one format; generation builds another, or injects another system line."""
    asked = {
        "chatml": [b.own.prompt(as_rows([r]).turns[0]) for r in QA],
        "system": ["You are kind.\n" + question(r) for r in QA],
    }
    for texts in asked.values():
        assert b.run(
            "training_starts_with_the_generation_prompt",
            encoded=b.qa,
            prompts=as_prompts(texts, b.tok),
            tokenizer=b.tok,
            rows=QA,
        ) == ["error"]
    same = as_prompts([question(r) for r in QA], b.tok)
    assert (
        b.run(
            "training_starts_with_the_generation_prompt", encoded=b.qa, prompts=same, tokenizer=b.tok, rows=QA
        )
        == []
    )


@case("CT-07")
def thinking_stripped(b: Bench) -> None:
    """A template that keeps what follows </think> in all but the last turn: told as a note, since some do it by design."""
    text = "{% for m in messages %}[{{ m.role }}]{{ m.content.split('</think>')[-1] if not loop.last else m.content }}{% endfor %}"
    turn = {"role": "user", "content": "q"}
    rows = [
        {
            "messages": [
                turn,
                {"role": "assistant", "content": "<think>one</think>a"},
                turn,
                {"role": "assistant", "content": "<think>two</think>b"},
            ]
        }
    ]
    assert b.run("thinking_is_kept_in_every_turn", rows=rows, template=ChatTemplate(b.tok, text)) == ["note"]
    assert b.run("thinking_is_kept_in_every_turn", rows=rows, template=b.own) == []


@case("CT-13")
def chat_model_asked_in_plain_text(b: Bench) -> None:
    """An evaluation flag that is off by default."""
    assert b.run(
        "chat_prompts_use_the_template",
        prompts=[r["prompt"] for r in QA],
        tokenizer=b.tok,
        kind="chat",
        template=b.own,
    ) == ["error"]
    rendered = [b.own.prompt(as_rows([r]).turns[0]) for r in QA]
    assert (
        b.run("chat_prompts_use_the_template", prompts=rendered, tokenizer=b.tok, kind="chat", template=b.own)
        == []
    )


def batch(rows: list[Row], pad: int, label: Callable[[list[int], list[int]], list[int]]) -> Any:
    """A collator: rows padded on the right, labels by the function given."""
    width = max(len(r["input_ids"]) for r in rows)
    ids = [r["input_ids"] + [pad] * (width - len(r["input_ids"])) for r in rows]
    mask = [[1] * len(r["input_ids"]) + [0] * (width - len(r["input_ids"])) for r in rows]
    return as_batches(
        [
            {
                "input_ids": ids,
                "attention_mask": mask,
                "labels": [
                    label(i, r["labels"] + [-100] * (width - len(r["labels"])))
                    for i, r in zip(ids, rows, strict=True)
                ],
            }
        ]
    )


@case("CO-01")
def collator_overwrites(b: Bench) -> None:
    """labels = input_ids.clone(), pad ids -100."""
    pad = b.tok.pad_token_id
    broken = batch(b.qa, pad, lambda ids, _: [-100 if i == pad else i for i in ids])
    assert b.run("collator_keeps_labels", encoded=b.qa, batches=broken) == ["error"]
    assert (
        b.run("collator_keeps_labels", encoded=b.qa, batches=batch(b.qa, pad, lambda _, labels: labels)) == []
    )


@case("EP-01")
def pad_is_eos(b: Bench) -> None:
    """The pad token is EOS, and a collator masks every label that is the pad id: the end of each response with it."""
    eos = b.tok.eos_token_id
    broken = batch(
        b.qa, eos, lambda ids, labels: [-100 if i == eos else v for i, v in zip(ids, labels, strict=True)]
    )
    assert eos in b.qa[0]["labels"]
    assert b.run("collator_keeps_labels", encoded=b.qa, batches=broken) == ["error"]
    good = batch(b.qa, eos, lambda _, labels: labels)
    assert b.run("collator_keeps_labels", encoded=b.qa, batches=good) == []
    stored = [{**r, "labels": [-100 if v == eos else v for v in r["labels"]]} for r in b.qa]
    assert b.on_qa("terminator_is_trained", stored) == ["error"]
    assert b.on_qa("terminator_is_trained", b.qa) == []


@case("CO-02")
def columns_dropped(b: Bench) -> None:
    """The labels column is dropped on the way, as remove_unused_columns does for a wrapped model."""
    broken = as_batches([{"input_ids": [r["input_ids"]]} for r in b.qa])
    assert b.run("batches_carry_labels", batches=broken) == ["error"]
    assert (
        b.run("batches_carry_labels", batches=batch(b.qa, b.tok.pad_token_id, lambda _, labels: labels)) == []
    )


@case("ST-01", "ST-03")
def stale_ids(b: Bench) -> None:
    """The text of some rows is edited, their ids are kept."""
    edited = [
        {**r, "response": "Nobody counts apples any more."} if i in (2, 5) else r for i, r in enumerate(QA)
    ]
    assert b.on_qa("ids_match_their_text", b.qa, source=edited) == ["error"]
    assert b.on_qa("ids_match_their_text", b.qa) == []


@case("TR-01")
def response_cut_away(b: Bench) -> None:
    """A long prompt and right truncation: nothing of the response is left."""
    broken = [{n: r[n][: r["boundary"]] for n in ("input_ids", "labels")} for r in b.qa]
    assert all(set(r["labels"]) == {-100} for r in broken)
    assert b.on_qa("every_row_has_a_supervised_token", broken) == ["error"]
    assert b.on_qa("responses_are_not_cut", broken) == ["error"]
    assert b.on_qa("responses_are_not_cut", b.qa) == []


@case("TR-03")
def response_cut_short(b: Bench) -> None:
    """A default max_length that ends answers in mid-sentence."""
    broken = [{n: r[n][:-12] for n in ("input_ids", "labels")} for r in b.qa]
    assert b.on_qa("responses_are_not_cut", broken) == ["error"]


@case("PK-01")
def documents_in_one_row(b: Bench) -> None:
    """Rows concatenated with EOS between them and one plain causal mask."""
    ids = [i for r in b.qa[:3] for i in r["input_ids"]]
    labels = [v for r in b.qa[:3] for v in r["labels"]]
    broken = as_batches([{"input_ids": [ids], "labels": [labels]}])
    assert b.run("packed_documents_are_told_apart", batches=broken, tokenizer=b.tok, rows=QA) == ["error"]
    positions = [p for r in b.qa[:3] for p in range(len(r["input_ids"]))]
    told = as_batches([{"input_ids": [ids], "labels": [labels], "position_ids": [positions]}])
    assert b.run("packed_documents_are_told_apart", batches=told, tokenizer=b.tok, rows=QA) == []


@case("DP-05")
def header_twice(b: Bench) -> None:
    """A generation prompt, and the template once more on the completion."""
    text = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    broken = [b.tok(text + "<|im_start|>assistant\nyes, my friend<|im_end|>\n")]
    assert b.run("no_role_header_is_doubled", encoded=broken, tokenizer=b.tok) == ["error"]
    assert (
        b.run(
            "no_role_header_is_doubled", encoded=[b.tok(text + "yes, my friend<|im_end|>\n")], tokenizer=b.tok
        )
        == []
    )


@case("DA-05")
def white_space_lost(b: Bench) -> None:
    """A normaliser that merges spaces takes the indentation from code."""
    from tokenizers import Regex, normalizers
    from transformers import PreTrainedTokenizerFast

    backend = type(b.tok.backend_tokenizer).from_str(b.tok.backend_tokenizer.to_str())
    backend.normalizer = normalizers.Replace(Regex(r"\s+"), " ")
    merging = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>")
    code = [{"prompt": "write f", "response": "def f(x):\n    return  x\n    # the end"}]
    assert b.run("tokenizer_keeps_white_space", rows=code, tokenizer=merging) == ["error"]
    assert b.run("tokenizer_keeps_white_space", rows=code, tokenizer=b.tok) == []


@case("EN-06")
def length_of_a_mapping(b: Bench) -> None:
    """len() of what apply_chat_template returns in transformers 5 is its number of keys: the prompt is trained from its third token on."""
    broken = []
    for row in b.qa:
        length = len({"input_ids": row["input_ids"], "attention_mask": row["attention_mask"]})
        broken.append({**row, "labels": [-100] * length + row["input_ids"][length:]})
    assert all(r["labels"].count(-100) == 2 for r in broken)
    assert b.on_qa("every_prompt_token_is_masked", broken) == ["error"]


@case("EV-02")
def answer_in_its_own_prompt(b: Bench) -> None:
    """The few-shot pool is the test split, the item itself included."""
    broken = [f"{question(r)}{r['response']}\n\n{question(r)}" for i, r in enumerate(QA)]
    assert b.run("no_prompt_holds_its_own_answer", prompts=broken, rows=QA, tokenizer=b.tok) == ["error"]
    others = [f"{question(QA[i - 1])}{QA[i - 1]['response']}\n\n{question(r)}" for i, r in enumerate(QA)]
    assert b.run("no_prompt_holds_its_own_answer", prompts=others, rows=QA, tokenizer=b.tok) == []


@pytest.mark.parametrize("bug", cases_of(__name__))
def test_public_bug(bug: str, bench: Bench) -> None:
    """The bug of this id: its fault fires, the check finds it, and the sound variant is left alone."""
    CASES[bug](bench)
