"""Preference training: the pairs' ids are this core's own, each pair counts alike, memory and NaN are survived as in any run."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from support.importing import imported
from support.runs import model, settings
from support.tiny import byte_level

from llmguard.errors import LLMGuardError
from llmguard_core.errors import DataRefused, TrainingStopped
from llmguard_core.settings import DpoSettings, LoraSettings

imported("trl")
# TRL, and what it takes from others, warn of their own next versions; peft still asks transformers 5 for the old name
pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

ROWS = [
    {
        "prompt": f"what is {i}?",
        "chosen": "one" + " two" * (i % 4),
        "rejected": "seven" + " eight" * ((i * 3) % 5),
    }
    for i in range(16)
]


@pytest.fixture(autouse=True)
def _no_png(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmguard_core.training.run.png", lambda records, path: None)


def encoder(**told: Any) -> Any:
    """Prompts and responses as Alpaca has them."""
    from llmguard_core.encoding import Encoder
    from llmguard_core.formats import format_for

    return Encoder(byte_level(), format_for(byte_level(), "alpaca"), train_on="last", **told)


def pairs_of(rows: Any = None, **told: Any) -> list[dict[str, list[int]]]:
    """Encoded pairs."""
    from llmguard_core.training.preferences import encode_pairs

    return encode_pairs(encoder(**told), ROWS if rows is None else rows)


def run(folder: Path, net: Any = None, **told: Any) -> tuple[Any, Any]:
    """Three steps of four pairs by SGD; gives the model and the result."""
    from llmguard_core.training.preferences import train_pairs

    net = model() if net is None else net
    usual = {"max_steps": 3, "batch_size": 4, "optimizer": "sgd", "learning_rate": 1e-2, "grad_clip": 50.0}
    more = {k: told.pop(k) for k in ("dpo", "lora", "callbacks", "validation") if k in told}
    return net, train_pairs(net, byte_level(), pairs_of(), settings(folder, **{**usual, **told}), **more)


def distance(one: Any, other: Any) -> float:
    """The largest difference of two models' parameters."""
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return max(float((a - b).detach().abs().max()) for a, b in pairs)


def logged(folder: Path, name: str) -> list[float]:
    """What was logged of one measurement."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line[name] for line in lines if name in line]


def test_pairs_have_the_ids_that_generation_uses() -> None:
    """Prompt ids are those of the generation prompt; both answers end with the terminator."""
    made = encoder()
    for row, pair in zip(ROWS, pairs_of(), strict=True):
        assert pair["prompt_ids"] == made.prompt({"prompt": row["prompt"]})
        assert byte_level().decode(pair["chosen_ids"]) == row["chosen"] + "<|endoftext|>"
        assert byte_level().decode(pair["rejected_ids"]) == row["rejected"] + "<|endoftext|>"


def test_conversations_are_pairs_too() -> None:
    """Message lists that share their prompt."""
    talks = [
        {
            side: [{"role": "user", "content": r["prompt"]}, {"role": "assistant", "content": r[side]}]
            for side in ("chosen", "rejected")
        }
        for r in ROWS
    ]
    assert pairs_of(talks) == pairs_of()


def test_pairs_that_cannot_be_trained_on_are_refused_or_left_out(caplog: pytest.LogCaptureFixture) -> None:
    """The same text twice is an error; an empty answer, and prompts that are cut in different ways, are left out and told."""
    with pytest.raises(LLMGuardError, match="same chosen and rejected"):
        pairs_of([{**r, "rejected": r["chosen"]} for r in ROWS])
    caplog.set_level("INFO")
    assert len(pairs_of([*ROWS[:5], {**ROWS[5], "chosen": " "}])) == 5
    assert "row 5" in caplog.text
    width = len(pairs_of()[0]["prompt_ids"])
    long = [
        {**r, "prompt": "how many are there in the garden " * 3, "rejected": "six " * 9} for r in ROWS[:2]
    ]
    assert len(pairs_of([*ROWS[:2], *long], max_length=width + 25)) == 2
    with pytest.raises(DataRefused, match="0 of 2 pairs"):
        pairs_of(long, max_length=width + 25)


def test_training_prefers_the_chosen_answers(tmp_path: Path) -> None:
    """The first loss is ln 2; then it falls, and rewards say so. The final model is whole, no guard spoke."""
    from llmguard_core.checkpoints import verify

    net, result = run(
        tmp_path, max_steps=60, optimizer="adamw_torch", learning_rate=1e-3, sample_steps=30, save_steps=60
    )
    losses = logged(tmp_path, "loss")
    assert losses[0] == pytest.approx(math.log(2), abs=1e-5)
    assert losses[-1] < 0.3
    assert logged(tmp_path, "rewards/accuracies")[-1] == 1.0
    assert (result.steps, result.alarms) == (60, ())
    assert verify(result.final, resume=False) == []
    assert distance(net, model()) > 0


def test_accumulation_learns_what_one_big_batch_learns(tmp_path: Path) -> None:
    """Steps of 3 + 3 + 3 and of 3 + 3 + 1 pairs: each pair counts alike, the one that is alone in its micro-batch, too."""
    whole, _ = run(tmp_path / "a", batch_size=9, max_steps=2)
    parts, _ = run(tmp_path / "b", batch_size=3, accumulation=3, max_steps=2)
    assert distance(parts, whole) < 1e-4 * distance(model(), whole)


def test_out_of_memory_ends_with_the_weights_of_a_run_with_room(tmp_path: Path) -> None:
    """Pieces keep chosen and rejected of a pair together."""
    net, seen = model(), list[int]()

    def called(module: Any, args: Any, output: Any) -> None:
        seen.append(len(output))
        if len(output) > 4 and torch.is_grad_enabled():
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    hook = net.get_input_embeddings().register_forward_hook(called)
    room, _ = run(tmp_path / "a")
    _, result = run(tmp_path / "b", net)
    hook.remove()
    assert result.piece == 2
    assert 8 in seen
    assert distance(net, room) < 1e-4 * distance(model(), room)
    assert logged(tmp_path / "b", "loss") == pytest.approx(logged(tmp_path / "a", "loss"), abs=1e-5)


def test_an_adapter_is_trained_against_its_base(tmp_path: Path) -> None:
    """No second model in memory; the base stays as it was."""
    net = model()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    _, result = run(
        tmp_path,
        net,
        method="lora",
        lora=LoraSettings(rank=4, alpha=8.0, targets=["q_proj", "v_proj"]),
        max_steps=5,
    )
    assert (result.final / "adapter_model.safetensors").is_file()
    kept = {k.replace(".base_layer", ""): v for k, v in net.state_dict().items() if "lora_" not in k}
    assert all(torch.equal(v, kept[k]) for k, v in before.items())


def test_a_nan_stops_preference_training_too(tmp_path: Path) -> None:
    """Before the weights change, with the batch written."""
    net = model()
    with torch.no_grad():
        net.model.norm.weight[0] = math.nan
    with pytest.raises(TrainingStopped, match="nan"):
        run(tmp_path, net)
    (file,) = tmp_path.glob("stopped-at-step-1-*.json")
    rows = json.loads(file.read_text())["rows"]
    assert len(rows) == 8
    assert "what is" in rows[0]["text"]
    assert not list(tmp_path.glob("checkpoint-*"))


@pytest.mark.parametrize(("loss", "first"), [("ipo", 25.0), ("hinge", 1.0)])
def test_other_losses_of_trl_are_passed_on(tmp_path: Path, loss: Any, first: float) -> None:
    """At the start, with beta 0.1: (1 / 2 beta) squared, and the whole margin."""
    run(tmp_path, dpo=DpoSettings(loss=loss), max_steps=1)
    assert logged(tmp_path, "loss")[0] == pytest.approx(first, rel=1e-4)
