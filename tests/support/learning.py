"""A model that learns rows by heart, and what it says: witnesses of what a pipeline teaches."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from support.importing import imported

__all__ = ["answer", "learnt", "likely"]

Row = Mapping[str, Sequence[int]]


def learnt(model: Any, rows: Sequence[Row], *, rate: float = 2e-3, steps: int = 40) -> Any:
    """A copy of the model after so many optimizer steps, each over all rows (`input_ids` and `labels`)."""
    torch = imported("torch")
    trained = copy.deepcopy(model).train()
    optimizer = torch.optim.AdamW(trained.parameters(), lr=rate)
    batches = [{name: torch.tensor([list(row[name])]) for name in ("input_ids", "labels")} for row in rows]
    for _ in range(steps):
        for batch in batches:
            trained(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return trained.eval()


def answer(
    model: Any, tokenizer: Any, prompt: str | Sequence[int], *, longest: int = 24, special: bool = False
) -> str:
    """What the model writes behind a prompt (text, or ids), greedy, until its EOS; `special`: with special tokens."""
    torch = imported("torch")
    given = tokenizer(prompt)["input_ids"] if isinstance(prompt, str) else list(prompt)
    ids = torch.tensor([given])
    with torch.inference_mode():
        told = {
            "max_new_tokens": longest,
            "do_sample": False,
            "pad_token_id": tokenizer.pad_token_id,
            "eos_token_id": tokenizer.eos_token_id,
        }
        out = model.generate(ids, attention_mask=torch.ones_like(ids), **told)
    return str(tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=not special))


def likely(model: Any, prompt: Sequence[int], token: int) -> float:
    """The probability of a token as the next one behind a prompt of ids."""
    torch = imported("torch")
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([list(prompt)])).logits
    return float(logits[0, -1].softmax(-1)[token])
