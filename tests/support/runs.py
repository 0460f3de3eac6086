"""Tiny models, rows and Trainers for tests of training: seconds on one thread, the same numbers each time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from support.importing import imported
from support.tiny import byte_level

__all__ = ["IGNORED", "collate", "distance", "model", "rows", "run", "same", "settings"]

IGNORED = -100
Row = dict[str, list[int]]


def model(seed: int = 0, *, kind: str = "Llama", **settings: Any) -> Any:
    """A model of two layers, drawn from a seed; `kind`: a family of transformers."""
    torch, transformers = imported("torch"), imported("transformers")
    tokenizer = byte_level()
    told = {
        "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 256, "bos_token_id": None, "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = getattr(transformers, f"{kind}Config")(**{**told, **settings})
        return getattr(transformers, f"{kind}ForCausalLM")(config)


def rows(count: int, *, uneven: bool = True) -> list[Row]:
    """Encoded rows: a masked question, and an answer of one to thirteen words with EOS."""
    tokenizer = byte_level()
    found = []
    for i in range(count):
        prompt = tokenizer(f"what is {i}?")["input_ids"]
        words = 1 + (i * 5) % 13 if uneven else 4
        answer = [*tokenizer(" one" * words)["input_ids"], tokenizer.eos_token_id]
        labels = [IGNORED] * len(prompt) + answer
        found.append({"input_ids": prompt + answer, "labels": labels, "attention_mask": [1] * len(labels)})
    return found


def collate(batch: Sequence[Row]) -> dict[str, Any]:
    """Right padding to the longest row: pad id, -100, 0."""
    torch = imported("torch")
    width = max(len(r["input_ids"]) for r in batch)
    fill = {"input_ids": byte_level().pad_token_id, "labels": IGNORED, "attention_mask": 0}
    return {k: torch.tensor([r[k] + [v] * (width - len(r[k])) for r in batch]) for k, v in fill.items()}


def settings(output_dir: Path, **told: Any) -> Any:
    """Settings of a short run in full precision, logged at each step."""
    train = imported("llmguard_core.settings").TrainSettings
    usual = {
        "method": "full",
        "learning_rate": 1e-3,
        "batch_size": 4,
        "logging_steps": 1,
        "warmup_ratio": 0.0,
        "dtype": "float32",
    }
    return train.model_validate({"output_dir": output_dir, **usual, **told})


def run(
    folder: Path, seed: int = 0, *, data: Any = None, net: Any = None, extra: Any = None, **told: Any
) -> tuple[Any, Any]:
    """Train a tiny model; gives it and the result."""
    train = imported("llmguard_core.training").train
    net, data = model(seed) if net is None else net, rows(24) if data is None else data
    told = {"max_steps": 3, **told}
    return net, train(net, byte_level(), data, settings(folder, **told), collator=collate, **(extra or {}))


def distance(one: Any, other: Any) -> float:
    """The largest difference of two models' parameters."""
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return max(float((a - b).detach().abs().max()) for a, b in pairs)


def same(one: Any, other: Any, start: Any = None) -> bool:
    """Whether two models trained from one start (default: `model()`) went the same way, up to rounding."""
    return distance(one, other) < 1e-4 * distance(one, start or model())
