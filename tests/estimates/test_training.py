"""What an estimate says of runs: parts, verdicts, and how each setting moves them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llmguard.errors import UsageError
from llmguard.estimates import Architecture, Interval, Training, architecture_of, estimate_training, size_text

GIB = 2**30


@pytest.fixture
def model() -> Architecture:
    """A model of Llama 3's 8 billion parameters."""
    found = architecture_of({"model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
                             "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256})  # fmt: skip
    assert found is not None
    return found


RUN = Training(batch=4, length=Interval(1024, 1024), weights="bfloat16")


def test_full_training_in_half_precision_takes_eight_bytes_a_parameter_before_activations(
    model: Architecture,
) -> None:
    """Weights, gradients and two states of AdamW, two bytes each: 60 GiB for 8 billion parameters."""
    estimate = estimate_training(model, RUN)
    for name, each in (("weights", 2), ("gradients", 2), ("optimizer states", 4)):
        assert 8.03e9 * each in estimate.part(name)
    assert estimate.peak.low > 8.03e9 * 6


def test_logits_are_their_own_part_and_grow_with_the_vocabulary(model: Architecture) -> None:
    """4,096 tokens x 128,256 values: 2 bytes for logits, 4 for their log-probabilities and as many for the gradient at least."""
    logits = estimate_training(model, RUN).part("logits")
    assert logits.low == pytest.approx(4096 * 128_256 * 10)
    assert estimate_training(replace(model, vocab=1000), RUN).part("logits").high < logits.low
    assert estimate_training(model, replace(RUN, fused_loss=True)).part("logits").high < logits.low


def test_adapters_make_gradients_and_states_vanish(model: Architecture) -> None:
    """LoRA of rank 16 on every matrix of Llama 3 8B trains 41,943,040 values (what PEFT counts)."""
    estimate = estimate_training(model, replace(RUN, method="lora"))
    assert 41_943_040 * 4 in estimate.part("gradients")
    assert 41_943_040 * 8 in estimate.part("optimizer states")
    attention = estimate_training(model, replace(RUN, method="lora", targets=("q_proj", "v_proj")))
    assert 6_815_744 * 4 in attention.part("gradients")
    unknown = estimate_training(model, replace(RUN, method="lora", targets=("Wqkv",)))
    assert unknown.part("gradients").low == 0


@pytest.mark.parametrize(
    ("change", "part"),
    [({"bits": 4, "method": "lora"}, "weights"), ({"optimizer": "adamw_8bit"}, "optimizer states"),
     ({"optimizer": "adafactor"}, "optimizer states"),
     ({"optimizer": "sgd"}, "optimizer states"), ({"checkpointing": True}, "activations"), ({"batch": 1}, "activations"),
     ({"length": Interval(256, 256)}, "logits")],
)  # fmt: skip
def test_each_remedy_lowers_its_part(model: Architecture, change: dict[str, object], part: str) -> None:
    cheap, dear = estimate_training(model, replace(RUN, **change)), estimate_training(model, RUN)  # type: ignore[arg-type]  # fields of Training
    assert cheap.part(part).high < dear.part(part).high
    assert cheap.peak.high < dear.peak.high


@pytest.mark.parametrize(
    "change", [{"pairs": True}, {"eager_attention": True}, {"weights": "float32"}, {"accumulation": 8}]
)
def test_what_takes_more_takes_more(model: Architecture, change: dict[str, object]) -> None:
    """Two responses a row and a reference model, scores of attention, 32 bits, gradients that stay between micro-batches."""
    dear, plain = estimate_training(model, replace(RUN, **change)), estimate_training(model, RUN)  # type: ignore[arg-type]  # fields of Training
    assert dear.peak.low + dear.peak.high > plain.peak.low + plain.peak.high


def test_paged_states_may_leave_the_device(model: Architecture) -> None:
    assert (
        estimate_training(model, replace(RUN, optimizer="paged_adamw_32bit")).part("optimizer states").low
        == 0
    )


def test_a_verdict_is_certain_only_where_the_whole_interval_is(model: Architecture) -> None:
    estimate = estimate_training(model, RUN)
    low, high = estimate.peak.low, estimate.peak.high
    assert [estimate.verdict(free) for free in (low - 1, low, high - 1, high)] == [
        "will not fit",
        "tight",
        "tight",
        "fits",
    ]


def test_the_table_names_every_part_with_its_arithmetic(model: Architecture) -> None:
    table = estimate_training(model, RUN).table()
    for word in (
        "weights",
        "gradients",
        "optimizer states",
        "activations",
        "logits",
        "runtime",
        "peak",
        "4,096 tokens x 128,256",
        "GiB",
    ):
        assert word in table


def test_intervals_and_sizes() -> None:
    assert Interval(1, 2) + Interval(3, 4) * 2 == Interval(7, 10)
    assert (size_text(512), size_text(1536), size_text(24 * GIB), size_text(180 * GIB)) == (
        "512 B",
        "1.5 KiB",
        "24.0 GiB",
        "180 GiB",
    )
    assert Interval(GIB, GIB).text == "1.0 GiB"
    with pytest.raises(UsageError, match="low <= high"):
        Interval(2, 1)
