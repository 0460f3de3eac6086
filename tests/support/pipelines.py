"""Encoders and collators as users write them, correct ones: what planted bugs are planted into. And rows to encode."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

__all__ = [
    "CHATS",
    "FRUITS",
    "IGNORE",
    "QA",
    "SYSTEM",
    "THOUGHTS",
    "alpaca",
    "chat",
    "generation",
    "labelled",
    "messages",
    "padded",
    "qa",
]

IGNORE = -100
Row = dict[str, Any]
SYSTEM = "You are a patient teacher of arithmetic."
FRUITS = (
    "apples",
    "pears",
    "plums",
    "figs",
    "limes",
    "dates",
    "nuts",
    "kiwis",
    "melons",
    "grapes",
    "olives",
    "lemons",
)
QA: list[Row] = [
    {
        "prompt": f"Tom has {i + 3} {fruit} and buys {2 * i + 5} more. How many {fruit} does he have now?",
        "response": f"He had {i + 3} {fruit}.\nThen he bought {2 * i + 5}, which makes {3 * i + 8} {fruit} in all.",
    }
    for i, fruit in enumerate(FRUITS)
]


def _talk(row: Row, number: int, fruit: str) -> Row:
    asked = {"role": "user", "content": row["prompt"]}
    said = {"role": "assistant", "content": row["response"]}
    more = {"role": "user", "content": f"And if he eats {number + 1} of the {fruit}?"}
    last = {"role": "assistant", "content": f"Then {2 * number + 7} {fruit} are left to him."}
    return {"messages": [asked, said, more, last]}


CHATS: list[Row] = [_talk(row, i, fruit) for i, (row, fruit) in enumerate(zip(QA, FRUITS, strict=True))]
"""Conversations of two answers."""


def _thought(row: Row, i: int) -> Row:
    asked, said = row["messages"][:2]
    thinking = f"<think>\nFirst I add {i} and then some.\n</think>\n\n"
    return {"messages": [asked, {"role": "assistant", "content": thinking + said["content"]}]}


THOUGHTS: list[Row] = [_thought(row, i) for i, row in enumerate(CHATS)]
"""A question and an answer each, with the thinking before it."""


def said_of(texts: Sequence[str]) -> list[Row]:
    """A question and an answer for each text, both made of it."""
    asked = ({"role": "user", "content": f"{t} ({i})"} for i, t in enumerate(texts))
    said = ({"role": "assistant", "content": f"{i}: {t}\n\n- {t}"} for i, t in enumerate(texts))
    return [{"messages": [question, answer]} for question, answer in zip(asked, said, strict=True)]


def messages(system: Callable[[int], bool] | bool = False, rows: Sequence[Row] = CHATS) -> list[Row]:
    """The conversations, some of them (or all) with a system turn."""
    wanted = system if callable(system) else (lambda _: system)
    found = copy.deepcopy(list(rows))
    for i, row in enumerate(found):
        if wanted(i):
            row["messages"].insert(0, {"role": "system", "content": SYSTEM})
    return found


def labelled(ids: Sequence[int], trained: Sequence[int] | set[int]) -> Row:
    """A row with labels on some tokens."""
    kept = set(trained)
    labels = [t if i in kept else IGNORE for i, t in enumerate(ids)]
    return {"input_ids": list(ids), "labels": labels, "attention_mask": [1] * len(ids)}


def spans(tok: Any, talk: Sequence[Row], **given: Any) -> tuple[str, list[tuple[int, int]]]:
    """The rendered text, and where each assistant turn stands in it: from behind its header to behind its end of turn."""
    text = tok.apply_chat_template(list(talk), tokenize=False, **given)
    found = []
    for i, message in enumerate(talk):
        if message["role"] == "assistant":
            start = tok.apply_chat_template(
                list(talk[:i]), tokenize=False, add_generation_prompt=True, **given
            )
            upto = tok.apply_chat_template(list(talk[: i + 1]), tokenize=False, **given).rstrip("\n")
            found.append((len(start), len(upto)))
    return text, found


def chat(tok: Any, talk: Sequence[Row], **given: Any) -> Row:
    """A conversation through the tokenizer's own template; every assistant turn and its end labelled, by offsets."""
    text, turns = spans(tok, talk, **given)
    whole = tok(text, add_special_tokens=False, return_offsets_mapping=True)
    trained = [
        i for i, (a, b) in enumerate(whole["offset_mapping"]) if b > a and any(s <= a < e for s, e in turns)
    ]
    return labelled(whole["input_ids"], trained)


def generation(tok: Any, talk: Sequence[Row], **given: Any) -> list[int]:
    """The ids of the prompt for the last answer."""
    asked = list(talk[:-1]) if talk[-1]["role"] == "assistant" else list(talk)
    text = tok.apply_chat_template(asked, tokenize=False, add_generation_prompt=True, **given)
    return list(tok(text, add_special_tokens=False)["input_ids"])


def alpaca(row: Row) -> str:
    """The prompt of the alpaca format."""
    return f"### Instruction:\n{row['prompt']}\n\n### Response:\n"


def qa(tok: Any, prompt: str, response: str) -> Row:
    """Prompt and response tokenised apart, response and EOS labelled."""
    first = tok(prompt)["input_ids"]
    second = tok(response, add_special_tokens=False)["input_ids"] + [tok.eos_token_id]
    return labelled([*first, *second], range(len(first), len(first) + len(second)))


def padded(
    rows: Sequence[Row], pad: int, *, left: bool = False, multiple: int = 1, label: int = IGNORE
) -> Row:
    """A batch as DataCollatorForSeq2Seq makes it."""
    width = -(-max(len(r["input_ids"]) for r in rows) // multiple) * multiple
    batch: Row = {}
    for name, fill in {"input_ids": pad, "labels": label, "attention_mask": 0}.items():
        more = [[fill] * (width - len(r[name])) for r in rows]
        batch[name] = [[*m, *r[name]] if left else [*r[name], *m] for m, r in zip(more, rows, strict=True)]
    return batch
