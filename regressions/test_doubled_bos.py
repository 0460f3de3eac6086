"""Two BOS: the template writes one, and the tokenizer adds another.

Symptom: scores a little below those of others with the same data; the decoded rows begin with `<s><s>`.
Severity: medium
Cause: the rendered text is tokenised like any text, with special tokens, although the template has written them already.
First seen: https://github.com/huggingface/trl/issues/1400
Cost: a difference of some points that is looked for in the data and in the optimizer.
Check: every_row_has_one_bos, prompts_have_one_bos
Lesson: what a template has rendered is tokenised with add_special_tokens=False.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
from support.runs import model
from support.tiny import sentencepiece

from llmguard import every_row_has_one_bos, prompts_have_one_bos, require
from llmguard.errors import CheckFailed
from llmguard.evidence.prompts import as_prompts
from llmguard.formats import ChatTemplate
from llmguard_core.encoding import Encoder
from llmguard_core.formats import format_for

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
ROWS = [{"prompt": f"what is the number {n}?", "response": "the answer is one"} for n in range(4)]
Row = dict[str, str]


@pytest.fixture(scope="module")
def tok() -> Any:
    """A tokenizer that puts BOS before a text, with a template that does, too."""
    made = copy.deepcopy(sentencepiece())
    made.chat_template = TEMPLATE
    return made


def broken(tok: Any, rows: list[Row]) -> tuple[list[dict[str, list[int]]], list[list[int]]]:
    """Rows and prompts: rendered, and tokenised as any text is."""
    encoded, prompts = [], []
    for row in rows:
        asked = [{"role": "user", "content": row["prompt"]}]
        prompt = tok.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
        start = tok(prompt)["input_ids"]
        ids = tok(f"{prompt}{row['response']}{tok.eos_token}")["input_ids"]
        encoded.append({"input_ids": ids, "labels": [-100] * len(start) + ids[len(start) :]})
        prompts.append(start)
    return encoded, prompts


def fixed(tok: Any, rows: list[Row]) -> tuple[list[dict[str, list[int]]], list[list[int]]]:
    """The core's, by the same template."""
    encoder = Encoder(tok, format_for(tok, "chat-template", "chat"))
    return list(encoder.rows(rows)), list(encoder.prompts(rows))


def test_witness(tok: Any) -> None:
    """Every row and prompt begins with two; to a model the second one makes another text of the same words."""
    import torch

    bos = tok.bos_token_id
    net = model(vocab_size=len(tok)).eval()
    for two, one in zip(*(pair for made in (broken, fixed) for pair in made(tok, ROWS)[1:]), strict=True):
        assert (two[:2], one[:2].count(bos)) == ([bos, bos], 1)
        assert two[1:] == one
        with torch.inference_mode():
            first, other = (net(torch.tensor([ids])).logits[0, -1] for ids in (two, one))
        assert not torch.allclose(first, other, atol=1e-4)


def test_check_rejects(tok: Any) -> None:
    """In rows, and in prompts."""
    encoded, prompts = broken(tok, ROWS)
    with pytest.raises(CheckFailed, match="4 of 4 rows"):
        require(every_row_has_one_bos(encoded, tok, ROWS, ChatTemplate(tok)))
    with pytest.raises(CheckFailed, match="4 of 4 prompts"):
        require(prompts_have_one_bos(as_prompts(prompts, tok), tok))


def test_check_accepts(tok: Any) -> None:
    """One, which the template has written."""
    encoded, prompts = fixed(tok, ROWS)
    require(every_row_has_one_bos(encoded, tok, ROWS, ChatTemplate(tok)), strict=True)
    require(prompts_have_one_bos(as_prompts(prompts, tok), tok), strict=True)
