"""The child that asks again: `python -m llmguard.sentinels.repeated REQUEST.json RESPONSE.json`.

REQUEST   `callable`: the user's generate function, `module:function`; `prompts`; `alone`: numbers of the prompts that are also
          asked one by one; `confirm`: how many that come out otherwise are asked once more; `folder`
RESPONSE  `first`, `again`: all prompts at once, twice, under other seeds; `alone`: {number: text}; `copies`: {number: text}, in a
          batch as large as the first of copies of that prompt, where no row is padded; `facts`: models and tokenizers in memory
"""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llmguard.collect.user import UserError
from llmguard.probe import step
from llmguard.sentinels.generate import called

__all__ = ["main", "respond"]


def main(arguments: Sequence[str]) -> None:
    """Answer a request; the response is written whole or not at all."""
    request, response = Path(arguments[0]), Path(arguments[1])
    try:
        answer = respond(json.loads(request.read_text("utf-8")))
    except UserError as told:
        answer = {"error": told.told}
    partial = response.with_name(response.name + ".partial")
    partial.write_text(json.dumps(answer), "utf-8")
    partial.replace(response)


def respond(request: Mapping[str, Any]) -> dict[str, Any]:
    """The response to a request.

    Raises:
        UserError: the user's function cannot be used; says which and how.
    """
    prompts = list(request["prompts"])
    folder = Path(request.get("folder") or Path.cwd())

    def ask(asked: list[str], seed: int) -> list[str]:
        step(f"generate for {len(asked)} prompts")
        return [
            t.strip()
            for t in called({"callable": request["callable"], "prompts": asked}, folder, seed)["texts"]
        ]

    first, again = ask(prompts, 0), ask(prompts, 1)
    alone = {i: ask([prompts[i]], 2)[0] for i in request["alone"]}
    other = [i for i, text in alone.items() if text != first[i] and first[i] == again[i]]
    copies = {i: ask([prompts[i]] * len(prompts), 3)[0] for i in other[: int(request["confirm"])]}
    return {"first": first, "again": again, "alone": alone, "copies": copies, "facts": _facts()}


def _facts() -> dict[str, Any]:
    """Models and tokenizers of transformers that are alive: what explains a difference."""
    models = _alive("PreTrainedModel")
    sides = {str(getattr(each, "padding_side", "")) for each in _alive("PreTrainedTokenizerBase")}
    return {"models": [_model(each) for each in models[:4]], "padding_sides": sorted(sides)}


def _alive(kind: str) -> list[Any]:
    """Every living object of a class of this name, or of one derived from it."""
    known: dict[type, bool] = {}
    found = []
    for each in gc.get_objects():
        of = type(each)
        if of not in known:
            known[of] = any(base.__name__ == kind for base in of.__mro__)
        if known[of]:
            found.append(each)
    return found


def _model(model: Any) -> dict[str, Any]:
    rates = [float(m.p) for m in model.modules() if type(m).__name__ == "Dropout" and m.training]
    told = getattr(model, "generation_config", None)
    return {
        "name": type(model).__name__,
        "training": bool(model.training),
        "dropout": max(rates, default=0.0),
        "dtype": str(getattr(model, "dtype", "")).removeprefix("torch."),
        "do_sample": bool(getattr(told, "do_sample", False)),
        "temperature": getattr(told, "temperature", None),
    }


if __name__ == "__main__":
    main(sys.argv[1:])
