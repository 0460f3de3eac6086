"""The child that generates: `python -m llmguard.sentinels.generate REQUEST.json RESPONSE.json`.

One model load; every arm is one left-padded greedy batch. A mistake of the user's comes back as `{"error": ...}`, never
as a traceback.

REQUEST   `model` {path, tokenizer, adapter, adapter_optional, device, trust_remote_code} or null; `max_new_tokens`; `folder`;
          `arms`, a list of
              {name, callable, prompts}: the user's own generate function, given all prompts at once, or
              {name, prompts, build, row, column, as_messages, chat_template, add_special_tokens, adapter, clean, optional}:
              the local model. `prompts`: texts or lists of token ids. `build`: a `module:function` called with `row` and in
              it {column: text} (or a list of one message), giving text or ids. `adapter`: leave it on. `clean`: drop an EOS
              that the tokenizer appends. `optional`: left out where there is no template or no adapter.
RESPONSE  `arms` {name: {texts, ids, ended, prompt_ids, prompt_texts, seconds}}, `facts`, `load_seconds`, `torch`, `transformers`
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llmguard.collect.user import UserError, load_reference, mistake
from llmguard.probe import step

__all__ = ["MAX_NEW_TOKENS", "called", "main", "respond"]

MAX_NEW_TOKENS = 64


def main(arguments: Sequence[str]) -> None:
    """`REQUEST.json RESPONSE.json`: answer the request; the response is written whole or not at all."""
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
        UserError: the user's function, prompts or model cannot be used; says which and how.
    """
    folder = Path(request.get("folder") or Path.cwd())
    arms = {a["name"]: called(a, folder) for a in request["arms"] if a.get("callable")}
    answer: dict[str, Any] = {"arms": arms, "facts": {}, "load_seconds": 0.0}
    local = [a for a in request["arms"] if not a.get("callable")]
    if local:
        from llmguard.sentinels.local import load, run_arm

        started = time.perf_counter()
        loaded = load(request["model"])
        answer |= {"facts": loaded.facts, "load_seconds": time.perf_counter() - started}
        limit = int(request.get("max_new_tokens") or MAX_NEW_TOKENS)
        for arm in local:
            try:
                arms[arm["name"]] = run_arm(loaded, arm, folder, limit)
            except UserError:
                if not arm.get("optional"):
                    raise
    return answer | {
        name: getattr(sys.modules.get(name), "__version__", None) for name in ("torch", "transformers")
    }


def called(arm: Mapping[str, Any], folder: Path, seed: int = 0) -> dict[str, Any]:
    """The user's own generate function on all prompts at once.

    Raises:
        UserError: it does not import, fails, or returns something else than a text for each prompt.
    """
    key = f"[pipeline] generate = {arm['callable']!r}"
    step(key)
    function = load_reference(arm["callable"], folder, key)
    _seed(seed)
    started = time.perf_counter()
    try:
        texts = function(list(arm["prompts"]))
    except (Exception, SystemExit) as fault:  # whatever the user's function raises
        raise UserError(mistake(fault, folder, key)) from None
    seconds, wanted = time.perf_counter() - started, len(arm["prompts"])
    texts = list(texts) if isinstance(texts, (list, tuple)) else texts
    if not isinstance(texts, list) or len(texts) != wanted or not all(isinstance(t, str) for t in texts):
        told = f"returned {_shape(texts)}, expected a list of {wanted} texts"
        raise UserError({"what": key, "type": "TypeError", "message": told})
    return {
        "texts": texts,
        "ids": None,
        "ended": None,
        "prompt_ids": None,
        "prompt_texts": None,
        "seconds": seconds,
    }


def _shape(value: Any) -> str:
    if not isinstance(value, list):
        return f"a {type(value).__name__}"
    strange = next((type(v).__name__ for v in value if not isinstance(v, str)), None)
    return f"a list of {len(value)}" + (f" with a {strange} in it" if strange else " texts")


def _seed(seed: int) -> None:
    """Known draws, for a function that samples although it should not."""
    random.seed(seed)
    for name, setter in (("numpy.random", "seed"), ("torch", "manual_seed")):
        if name in sys.modules:
            getattr(sys.modules[name], setter)(seed)


if __name__ == "__main__":
    main(sys.argv[1:])
