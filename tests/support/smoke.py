"""A short LoRA run with the core, measured: losses, memory before and after, its peak beside what was estimated for it.

    python tests/support/smoke.py '{"device": "cuda", "shape": "half-billion"}'        one JSON object

In a process of its own on a GPU, with one GPU visible: the Trainer would spread over all that it sees.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from support.held import tensor_bytes
from support.importing import imported
from support.tiny import byte_level

__all__ = ["SHAPES", "Smoke", "in_a_child", "smoke"]

SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "vocab_size": 512,
    },
    "half-billion": {
        "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2,
        "vocab_size": 151_936,
    },
}  # fmt: skip
"""Qwen2's, random: the second one as Qwen2.5-0.5B has it."""
WORDS = 16
"""Ids that rows are made of: few, the same in every batch, so that they are soon learnt, whatever the model's size."""

FIRST = 16
"""Beyond the special ones: a row that begins with the pad token is zero in every layer, and its gradient a thousandfold in each."""


@dataclass(frozen=True)
class Smoke:
    """What a run came to. Bytes: tensors before it and after its release, its peak above what was there before; the estimate's ends."""

    losses: tuple[float, ...]
    before: int
    after: int
    peak: int
    low: float
    high: float
    device: str
    dtype: str

    @property
    def error(self) -> float:
        """How far the peak lies outside of the estimate, as a share of its nearer end; 0 inside."""
        nearest = min(max(self.peak, self.low), self.high)
        return (self.peak - nearest) / nearest

    @property
    def told(self) -> str:
        """One line for people."""
        low, peak, high = (f"{size / 2**20:,.0f} MiB" for size in (self.low, self.peak, self.high))
        return f"{self.device} {self.dtype}: loss {self.losses[0]:.2f} to {self.losses[-1]:.2f}, peak {peak}, estimated {low} to {high}"


def smoke(
    device: str = "cpu",
    shape: str = "tiny",
    *,
    steps: int = 8,
    batch: int = 4,
    length: int = 64,
    rank: int = 8,
    rate: float = 5e-3,
) -> Smoke:
    """Train an adapter on a random model for some steps, release everything, and tell what was measured."""
    torch = imported("torch")
    held, peak_of = _measures(device)
    before = held()
    model = _model(device, shape)
    dtype = str(model.dtype).removeprefix("torch.")
    low, high = _estimate(model, batch, length, rank, device)
    with peak_of() as peak:
        losses = _trained(model, steps, batch, length, rank, rate)
    del model
    gc.collect()
    where = torch.cuda.get_device_name(0) if device == "cuda" else device
    return Smoke(tuple(losses), before, held(), peak() - before, low, high, where, dtype)


def _model(device: str, shape: str) -> Any:
    """A random model of a shape, in bfloat16 on a GPU and in 32 bits on a processor."""
    torch, transformers = imported("torch"), imported("transformers")
    tokenizer = byte_level()
    config = transformers.Qwen2Config(
        **SHAPES[shape], tie_word_embeddings=True, max_position_embeddings=2048, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    torch.manual_seed(0)
    with torch.device(device):
        model = transformers.Qwen2ForCausalLM(config)
    return model.to(torch.bfloat16) if device == "cuda" else model


def _trained(model: Any, steps: int, batch: int, length: int, rank: int, rate: float) -> list[float]:
    """Losses of a run of the core on rows of one length; what it saves goes away with its folder."""
    transformers = imported("transformers")
    training, settings = imported("llmguard_core.training"), imported("llmguard_core.settings")
    losses: list[float] = []

    class Losses(transformers.TrainerCallback):  # type: ignore[name-defined, misc]  # imported above
        """Keeps what is logged."""

        def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
            """The loss of a step."""
            losses.extend([logs["loss"]] if "loss" in logs else [])

    with tempfile.TemporaryDirectory() as folder:
        told = settings.TrainSettings.model_validate({
            "output_dir": folder, "method": "lora", "learning_rate": rate, "batch_size": batch, "max_steps": steps,
            "logging_steps": 1, "warmup_ratio": 0.0,
        })  # fmt: skip
        lora = settings.LoraSettings(rank=rank, dropout=0.0)
        training.train(
            model, byte_level(), _rows(steps * batch, length), told, lora=lora, callbacks=[Losses()]
        )
    return losses


def _rows(count: int, length: int) -> list[dict[str, list[int]]]:
    """Rows of few ids, each with its neighbour after it: soon learnt."""
    found = []
    for number in range(count):
        ids = [FIRST + (number + place) % WORDS for place in range(length)]
        found.append({"input_ids": ids, "labels": list(ids), "attention_mask": [1] * length})
    return found


def _estimate(model: Any, batch: int, length: int, rank: int, device: str) -> tuple[float, float]:
    """The peak that the preflight would tell, without the libraries' own memory, which no allocator counts."""
    estimates = imported("llmguard.estimates")
    sizes = estimates.architecture_of(json.loads(model.config.to_json_string(use_diff=False)))
    run = estimates.Training(
        batch=batch, length=estimates.Interval(length, length), method="lora", rank=rank,
        weights=str(model.dtype).removeprefix("torch."), device="gpu" if device == "cuda" else "cpu",
    )  # fmt: skip
    found = estimates.estimate_training(sizes, run)
    runtime = found.part("runtime")
    return found.peak.low - runtime.low, found.peak.high - runtime.high


Peak = Callable[[], int]


def _measures(device: str) -> tuple[Callable[[], int], Callable[[], Any]]:
    """What is held now, and the context that measures a peak, by the leak guard's own readings; on a processor by its allocator."""
    if device == "cpu":
        return tensor_bytes, _cpu_peak
    torch = imported("torch")
    torch.zeros(1, device=device)
    (reading,) = imported("llmguard.memory").devices(heap=False)
    reading.warm()

    def held() -> int:
        gc.collect()
        gc.collect()
        reading.settle()
        return int(reading.allocated())

    @contextmanager
    def peak() -> Iterator[Peak]:
        reading.reset_peak()
        yield lambda: int(reading.peak())

    return held, peak


@contextmanager
def _cpu_peak() -> Iterator[Peak]:
    """The highest sum of the CPU allocator's own events, above what was held when it began."""
    torch = imported("torch")
    start, found = tensor_bytes(), [0]
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as seen:
        yield lambda: start + found[0]
    now = 0
    for event in sorted(
        (e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"),
        key=lambda e: e.start_ns(),
    ):
        now += event.nbytes()
        found[0] = max(found[0], now)


def in_a_child(device: str, shape: str, **settings: Any) -> Smoke:
    """The same in a process that sees one GPU."""
    visible = imported("llmguard.placement").gpus_here(count=1)
    environ = {**os.environ, **({"CUDA_VISIBLE_DEVICES": visible[0].entry} if visible else {})}
    asked = json.dumps({"device": device, "shape": shape, **settings})
    done = subprocess.run(
        [sys.executable, __file__, asked],
        env=environ,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    if done.returncode:
        raise AssertionError(f"the run ended with {done.returncode}:\n{done.stdout}\n{done.stderr[-4000:]}")
    told = json.loads(done.stdout.strip().splitlines()[-1])
    return Smoke(**{**told, "losses": tuple(told["losses"])})


if __name__ == "__main__":
    print(json.dumps(asdict(smoke(**json.loads(sys.argv[1])))))
