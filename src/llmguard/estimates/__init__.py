"""Will it fit? The memory of a training step, as an interval, from a model's config.json and a run's settings: no torch, no weights.

model = architecture_of(json.loads(Path("model/config.json").read_text()))
estimate = estimate_training(model, Training(batch=8, length=Interval(512, 1024), weights="bfloat16"))
estimate.verdict(free=24 * 2**30)          # "fits", "tight" or "will not fit"
print(estimate.table())
"""

from llmguard.estimates.architecture import Architecture, architecture_of
from llmguard.estimates.interval import Interval, size_text
from llmguard.estimates.machine import Memory, machine_memory
from llmguard.estimates.training import Estimate, Part, Training, estimate_training

__all__ = [
    "Architecture",
    "Estimate",
    "Interval",
    "Memory",
    "Part",
    "Training",
    "architecture_of",
    "estimate_training",
    "machine_memory",
    "size_text",
]
