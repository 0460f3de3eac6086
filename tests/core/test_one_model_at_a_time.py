"""Never two models in memory: how many there are is counted, a second one is refused with its holder, and the peak is one model's."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support.held import tensor_bytes
from support.runs import model
from support.tiny import byte_level

from llmguard.memory.models import resident_models
from llmguard_core import evaluation
from llmguard_core.errors import OutOfMemory
from llmguard_core.evaluation import evaluate

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
ITEMS = [{"prompt": "what is 1", "response": "1"}]
MIB = 2**20
WIDE = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 4}
KEPT: dict[str, Any] = {}


@pytest.fixture(autouse=True)
def _only_what_a_test_makes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Models of other tests are hidden from the collector, and nothing is kept."""
    monkeypatch.delenv("MODEL_PATH", raising=False)
    gc.collect()
    gc.freeze()
    yield
    KEPT.clear()
    gc.unfreeze()
    gc.collect()


def loader(seed: int, seen: Callable[[], object] = lambda: None, **settings: Any) -> Callable[[], Any]:
    """A function that loads a model, as `evaluate` takes it."""

    def load() -> Any:
        loaded = SimpleNamespace(model=model(seed, **settings), tokenizer=byte_level(), kind="base", route=())
        seen()
        return loaded

    return load


def sizes(**more: Any) -> list[int]:
    return [each.size for each in resident_models(**more)]


def test_models_are_counted_with_their_weights_and_not_their_parts() -> None:
    """A language model is one, whatever it is made of; a bare layer, a model on the meta device and a dead one are none."""
    assert sizes() == []
    one = model()
    weights = sum(p.numel() * 4 for p in one.parameters())
    buffers = sum(b.numel() * 4 for b in one.buffers())
    layer = torch.nn.Linear(100, 100)
    assert sizes() == [weights + buffers]
    assert str(resident_models()[0]).startswith("LlamaForCausalLM ")
    with torch.device("meta"):
        nowhere = model(1)
    two = model(2)
    assert len(sizes()) == 2
    assert sizes(device="cpu") == sizes()
    assert sizes(device="cuda") == []
    assert sizes(at_least=10 * weights) == []
    del one, two
    gc.collect()
    assert sizes() == []
    assert (nowhere.num_parameters(), layer.in_features) != (0, 0)


def test_models_that_share_their_weights_are_one() -> None:
    """An adapter and its base, a wrapper, a second head over the same body; a copy is another one."""
    import copy

    from peft import LoraConfig, get_peft_model

    base = model()
    body = type(base)(base.config)
    body.model = base.model
    assert len(sizes()) == 1
    tuned = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"]))
    assert len(sizes()) == 1
    other = copy.deepcopy(base)
    assert len(sizes()) == 2
    assert (body, tuned, other) is not None


def test_the_peak_of_three_models_in_turn_is_that_of_one(tmp_path: Path) -> None:
    """Bytes of tensors behind each loading: at once they add up, one after another they do not."""
    start, at_once, in_turn = tensor_bytes(), list[int](), list[int]()

    def loaders(into: list[int]) -> dict[str, Callable[[], Any]]:
        return {str(i): loader(i, lambda: into.append(tensor_bytes() - start), **WIDE) for i in range(3)}

    together = [load() for load in loaders(at_once).values()]
    one = max(sizes())
    assert len(together) == 3
    assert at_once[-1] > 2.9 * one > 30 * MIB, "the fault did not fire"
    del together
    evaluate(loaders(in_turn), ITEMS, out=tmp_path, max_new_tokens=2)
    assert len(in_turn) == 3
    assert max(in_turn) < 1.1 * one
    assert max(in_turn) - in_turn[0] < MIB
    assert tensor_bytes() - start < MIB


def test_a_loader_that_makes_two_models_is_refused_with_the_second_ones_holder(tmp_path: Path) -> None:
    """Before anything is generated."""

    def both() -> Any:
        KEPT["judge"] = model(1)
        return loader(2)()

    with pytest.raises(
        OutOfMemory, match=r"2 models became resident, one may: .*module variable `KEPT` of .*key 'judge'"
    ):
        evaluate({"base": both}, ITEMS, out=tmp_path)
    assert not (tmp_path / "base.jsonl").read_text()


def test_a_model_with_an_adapter_is_one(tmp_path: Path) -> None:
    """The wrapper, the tuner and the base are parts of each other."""
    from peft import LoraConfig, get_peft_model

    def load() -> Any:
        loaded = loader(1)()
        loaded.model = get_peft_model(loaded.model, LoraConfig(r=2, target_modules=["q_proj"]))
        return loaded

    (done,) = evaluate({"tuned": load}, ITEMS, out=tmp_path, max_new_tokens=2)
    assert done.summary["items"] == 1


def test_weights_that_a_loader_keeps_are_told_before_the_next_model(tmp_path: Path) -> None:
    """A state dict holds all of the memory, and nothing of the model."""

    def load() -> Any:
        loaded = loader(1)()
        KEPT["weights"] = loaded.model.state_dict()
        return loaded

    def never() -> Any:
        raise AssertionError("the second model was loaded")

    with pytest.raises(OutOfMemory, match=r"weights of a model .*module variable `KEPT` of .*key 'weights'"):
        evaluate({"base": load, "sft": never}, ITEMS, out=tmp_path, max_new_tokens=2)


def test_a_model_of_the_callers_is_told_where_it_takes_room(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its variable; one that is small against the device is not worth a word, and neither is refused."""
    trained = model(5)
    with caplog.at_level(logging.WARNING):
        evaluate({"base": loader(1)}, ITEMS, out=tmp_path / "a", max_new_tokens=2)
        assert "is resident beside" not in caplog.text
        monkeypatch.setattr(evaluation, "WORTH", 0.0)
        evaluate({"base": loader(1)}, ITEMS, out=tmp_path / "b", max_new_tokens=2)
    assert "is resident beside those that are evaluated" in caplog.text
    assert "variable `trained` of test_a_model_of_the_callers_is_told" in caplog.text
    assert trained.num_parameters() > 0
