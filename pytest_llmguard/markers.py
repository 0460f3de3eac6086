"""Every marker with its help sentence; the families are copied from `llmguard.catalogue`, which start-up does not load."""

from __future__ import annotations

__all__ = ["FAMILIES", "MARKERS"]

FAMILIES = {
    "template": "chat templates: role tokens, generation prompt, rendering",
    "tokens": "special tokens: BOS, EOS, pad, ids",
    "masking": "which tokens are trained",
    "collation": "batches as the collator makes them",
    "packing": "several rows in one sequence",
    "prompts": "prompts in training and in generation",
    "data": "rows of the data files",
    "splits": "train, validation and test against each other",
    "preference": "chosen and rejected responses",
    "config": "training configs",
    "source": "the project's own source code",
    "adapter": "LoRA and other adapters",
    "checkpoint": "saved checkpoints",
    "model": "model folders and weights",
    "training": "the training step",
    "sentinel": "runs a model: does it follow instructions that it has no reason to follow?",
    "statistics": "how sure an evaluation result is",
    "memory": "memory that is not given back",
    "environment": "processes, limits, versions",
    "storage": "locks, caches, disks",
    "queue": "queues of training files",
}

MARKERS: dict[str, str] = {
    "preflight": "a check that needs no weights and no GPU: seconds, on a CPU, before a run",
    "gpu": "needs a GPU, or with gpu(count=2) several at once: skipped unless --gpu is given",
    **{name: f"llmguard checks: {what}" for name, what in FAMILIES.items()},
    'bug("slug")': "guards against the documented bug of that slug (`llmguard bug list`)",
    'gpu_memory(leak="1 MiB", peak="2 GiB", repeat=3)': "a test that may leave and use at most so much memory; repeat: run so often again",
    "llmguard(project=, model=, adapter=, sample=, deadline=, strict=)": "options of the `llmguard` fixture for a test",
}
"""Marker as `pytest --markers` shows it -> its help sentence."""
