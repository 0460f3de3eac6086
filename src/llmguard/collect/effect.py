"""The child that applies an adapter: `python -m llmguard.collect.effect REQUEST.json RESPONSE.json`.

REQUEST   `model`, `adapter`: folders; `tokenizer`: folder or null; `named`: folder of the base that the adapter names, where it is here
          and is another one, or null; `trust_remote_code`
RESPONSE  `texts`: how many; `changed`: largest difference of the last logits with the adapter on and off; `scale`: their standard
          deviation without it; `same_top`: for how many texts the likeliest token stays; `moved`: largest difference of the model with
          its adapter off from the model before it was put on; `named`: of the named base from the model, null where they cannot be
          compared; `finite`; `warnings`: what was said while it was put on; or `error` {what, type, message}
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llmguard.probe import step

__all__ = ["effect_of", "main"]

TEXTS = (
    "The capital of France is",
    "Question: How many legs do three cats have?\nAnswer:",
    "def add(a, b):\n    return",
    "Once upon a time there was a",
    "Dear Sir or Madam,\n\nI am writing to",
    "1, 2, 3, 4,",
)
LOAD_ERRORS = (OSError, ValueError, RuntimeError, ImportError, KeyError, AttributeError, TypeError)


def main(arguments: Sequence[str]) -> None:
    """Answer a request; the response is written whole or not at all."""
    request, response = Path(arguments[0]), Path(arguments[1])
    answer = effect_of(json.loads(request.read_text("utf-8")))
    partial = response.with_name(response.name + ".partial")
    partial.write_text(json.dumps(answer), "utf-8")
    partial.replace(response)


def effect_of(request: Mapping[str, Any]) -> dict[str, Any]:
    """What an adapter changes; a model or an adapter that does not load comes back as `error`."""
    step_name = f"load {request['model']}"
    try:
        named = _logits_alone(request, request["named"]) if request.get("named") else None
        step(step_name)
        model = _model(request, request["model"])
        ids = _ids(request, model)
        off = _logits(model, ids)
        step_name = f"put {request['adapter']} on"
        step(step_name)
        tuned, said = _put_on(model, request["adapter"])
        on = _logits(tuned, ids)
        with tuned.disable_adapter():
            again = _logits(tuned, ids)
    except LOAD_ERRORS as fault:
        lines = [line.strip() for line in str(fault).strip().splitlines()]
        return {
            "error": {"what": step_name, "type": type(fault).__name__, "message": " ".join(lines[:2])[:500]}
        }
    return _compared(off, on, again, named) | {"warnings": said}


def _model(request: Mapping[str, Any], path: str) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        path, trust_remote_code=bool(request.get("trust_remote_code"))
    ).eval()


def _put_on(model: Any, adapter: str) -> tuple[Any, list[str]]:
    from peft import PeftModel

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        tuned = PeftModel.from_pretrained(model, adapter).eval()
    return tuned, [str(w.message)[:300] for w in said if "adapter" in str(w.message).lower()][:5]


def _ids(request: Mapping[str, Any], model: Any) -> list[Any]:
    """The texts as ids; without a tokenizer some ids of the vocabulary."""
    import torch

    rows = model.get_input_embeddings().weight.shape[0]
    try:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(request.get("tokenizer") or request["model"])
        found = [tokenizer(t, return_tensors="pt")["input_ids"] for t in TEXTS]
    except LOAD_ERRORS:
        found = [torch.arange(n + 1, n + 9).unsqueeze(0) for n in range(len(TEXTS))]
    return [ids % rows for ids in found]


def _logits(model: Any, ids: Sequence[Any]) -> Any:
    """The logits after each text, float32 [texts, vocabulary]."""
    import torch

    with torch.inference_mode():
        return torch.stack([model(input_ids=each).logits[0, -1].float() for each in ids])


def _logits_alone(request: Mapping[str, Any], path: str) -> Any:
    """The logits of another base, which is gone again before the next model is loaded; None where it does not load."""
    step(f"load {path}")
    try:
        model = _model(request, path)
        return _logits(model, _ids(request, model))
    except LOAD_ERRORS:
        return None


def _compared(off: Any, on: Any, again: Any, named: Any) -> dict[str, Any]:
    import torch

    comparable = named is not None and named.shape == off.shape
    finite = bool(torch.isfinite(on).all())
    return {
        "texts": len(off),
        "finite": finite,
        "changed": float((on - off).abs().max()) if finite else None,
        "scale": float(off.std()),
        "same_top": int((on.argmax(-1) == off.argmax(-1)).sum()),
        "moved": float((again - off).abs().max()),
        "named": float((named - off).abs().max()) if comparable else None,
    }


if __name__ == "__main__":
    main(sys.argv[1:])
