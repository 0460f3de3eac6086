"""Measure, in a process of its own, what the CPU allocator really gives out for two training steps of small models.

    python peaks.py '[{"kind": "llama", "batch": 4, "length": 128, …}, …]'      one JSON object a line

The allocator's own events (torch.profiler) are summed, so that what C++ code takes for a moment counts, too.
"""

from __future__ import annotations

import contextlib
import json
import sys
import warnings
from typing import Any

SIZES = {"hidden_size": 128, "intermediate_size": 344, "num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": 1024,
         "max_position_embeddings": 512}  # fmt: skip
SHAPES: dict[str, dict[str, Any]] = {
    "llama": {**SIZES, "num_key_value_heads": 2},
    "qwen2": {**SIZES, "num_key_value_heads": 2, "tie_word_embeddings": True},
    "mistral": {**SIZES, "num_key_value_heads": 1, "vocab_size": 300, "intermediate_size": 900},
    "gpt_neox": {**SIZES, "intermediate_size": 512},
    "phi": {**SIZES, "intermediate_size": 512},
    "gpt2": {"n_embd": 128, "n_layer": 3, "n_head": 4, "vocab_size": 1024, "n_positions": 512},
    "gemma": {**SIZES, "num_key_value_heads": 1, "head_dim": 32, "vocab_size": 6000},
}


def main(cases: list[dict[str, Any]]) -> None:
    """Print, for each case, the case with what was measured: bytes of weights, of the peak, and how many parameters."""
    import torch

    torch.set_num_threads(1)
    for case in cases:
        model = build(case)
        counted = sum(p.numel() for p in model.parameters())
        peak = measure(model, case)
        config = json.loads(model.config.to_json_string(use_diff=False))
        print(json.dumps({**case, "peak": peak, "parameters": counted, "config": config}), flush=True)


def build(case: dict[str, Any]) -> Any:
    """A model of random weights, as the case wants it."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(case["kind"], **SHAPES[case["kind"]])
    return AutoModelForCausalLM.from_config(config).to(getattr(torch, case.get("weights", "float32")))


def measure(model: Any, case: dict[str, Any]) -> int:
    """Bytes at the highest point of two steps, the weights included."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    model = prepare(model, case)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    unique = {id(t): t for t in [*model.parameters(), *model.buffers()]}
    at_start = sum(t.numel() * t.element_size() for t in unique.values())
    ids = torch.randint(0, model.config.vocab_size, (case["batch"], case["length"]))
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        for _ in range(2):
            for _ in range(case.get("accumulation", 1)):
                with (
                    torch.autocast("cpu", torch.bfloat16) if case.get("compute") else contextlib.nullcontext()
                ):
                    loss = model(input_ids=ids, labels=ids, use_cache=False).loss
                loss.backward()
                del loss
            optimizer.step()
            optimizer.zero_grad()
    events = [e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = highest = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        highest = max(highest, now)
    return int(at_start + highest)


def prepare(model: Any, case: dict[str, Any]) -> Any:
    """The model with adapters or gradient checkpointing, where the case wants them."""
    if case.get("method") == "lora":
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(model, LoraConfig(r=case["rank"], target_modules="all-linear"))
    if case.get("checkpointing"):
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    return model.train()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(json.loads(sys.argv[1]))
