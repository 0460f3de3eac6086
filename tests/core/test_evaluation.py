"""Models are evaluated one after another, never two at once; what was done is kept, and goes on where it stopped."""

from __future__ import annotations

import json
import logging
import weakref
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support.tiny import byte_level, chat
from transformers import LlamaConfig, LlamaForCausalLM

from llmguard.errors import UsageError
from llmguard.locks import locked
from llmguard_core import evaluation, loading
from llmguard_core.compare import compare
from llmguard_core.errors import CoreError, DataRefused, OutOfMemory
from llmguard_core.evaluation import evaluate, items_of
from llmguard_core.fewshot import POOL, STOP, Example, FewShot
from llmguard_core.settings import ModelSettings

ITEMS = [
    {
        "id": f"q{i}",
        "prompt": f"what is {'the answer ' * (i % 4)}{i}",
        "response": f"#### {i}",
        "document": f"d{i // 3}",
    }
    for i in range(9)
]
Factory = Callable[[], Any]


@pytest.fixture(autouse=True)
def _no_override(monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller's own MODEL_PATH is not this test's."""
    monkeypatch.delenv("MODEL_PATH", raising=False)


class Models:
    """Makes tiny models and knows, by weak references, how many of them are alive."""

    def __init__(self) -> None:
        self.alive: list[weakref.ref[Any]] = []
        self.loaded: list[int] = []
        self.most = 0

    def __call__(self, seed: int) -> Factory:
        def load() -> Any:
            torch.manual_seed(seed)
            config = LlamaConfig(
                vocab_size=len(byte_level()), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                num_attention_heads=4, max_position_embeddings=256, initializer_range=0.3, eos_token_id=0, bos_token_id=None,
            )  # fmt: skip
            model = LlamaForCausalLM(config).eval()
            self.most = max(self.most, 1 + sum(ref() is not None for ref in self.alive))
            self.alive.append(weakref.ref(model))
            self.loaded.append(seed)
            return SimpleNamespace(model=model, tokenizer=byte_level(), kind="base", route=("made here",))

        load.__qualname__ = f"load_{seed}"
        return load


@pytest.fixture
def models() -> Models:
    return Models()


def settings(**told: Any) -> ModelSettings:
    """A model as a config names it; where it lies is not looked at."""
    return ModelSettings.model_validate(told, context={"elsewhere": True})


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def beside(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.with_suffix(".json").read_text("utf-8"))
    return found


def test_models_take_turns_and_never_meet(models: Models, tmp_path: Path) -> None:
    """Three models: at no moment are two alive, and none is afterwards."""
    found = evaluate(
        {"base": models(1), "sft": models(2), "dpo": models(3)}, ITEMS, out=tmp_path, max_new_tokens=6
    )
    assert (models.loaded, models.most) == ([1, 2, 3], 1)
    assert all(ref() is None for ref in models.alive)
    assert [one.name for one in found] == ["base", "sft", "dpo"]


def test_a_model_that_somebody_keeps_is_told_before_the_next_is_loaded(
    models: Models, tmp_path: Path
) -> None:
    """A reference that is kept outside: the second model is never loaded; the first one's results are on disk."""
    kept = []

    def load() -> Any:
        kept.append(models(1)())
        return kept[0]

    with pytest.raises(OutOfMemory, match="LlamaForCausalLM is held by"):
        evaluate({"base": load, "sft": models(2)}, ITEMS, out=tmp_path, max_new_tokens=4)
    assert models.loaded == [1]
    assert len(lines(tmp_path / "base.jsonl")) == len(ITEMS)


def test_a_model_that_fails_is_gone_too(models: Models, tmp_path: Path) -> None:
    """An exception in the middle of an evaluation leaves no model behind."""

    def broken(loaded: Any, rows: Any) -> Any:
        raise RuntimeError("the prompt builder broke")

    with pytest.raises(RuntimeError, match="the prompt builder broke"):
        evaluate({"base": models(1)}, ITEMS, out=tmp_path, prompts=broken)
    import gc

    gc.collect()
    assert models.alive[0]() is None


def test_results_hold_every_item_with_its_output_and_status(models: Models, tmp_path: Path) -> None:
    """One line an item in the order given: id, score, status, output, what was read out of it, reference, group, further metrics."""
    found = evaluate(
        {"base": models(1)},
        ITEMS,
        out=tmp_path,
        metrics=["gsm8k", "contains"],
        group="document",
        max_new_tokens=8,
    )
    told = lines(found[0].file)
    assert [r["id"] for r in told] == [i["id"] for i in ITEMS]
    assert set(told[0]) == {
        "id",
        "score",
        "status",
        "output",
        "extracted",
        "reference",
        "document",
        "contains",
    }
    assert {r["status"] for r in told} <= {"right", "wrong", "empty", "unparseable"}
    assert (told[4]["reference"], told[4]["document"]) == ("#### 4", "d1")
    assert found[0].summary["items"] == len(ITEMS)
    assert sum(found[0].summary[s] for s in ("right", "wrong", "empty", "unparseable")) == len(ITEMS)


def test_what_was_evaluated_and_how_is_written_beside(models: Models, tmp_path: Path) -> None:
    """Model, settings, items and the summary: enough to know later what the numbers are of."""
    evaluate({"base": models(1)}, ITEMS, out=tmp_path, max_new_tokens=4, stop=["\n"], seed=5)
    told = beside(tmp_path / "base.jsonl")
    assert (told["name"], told["complete"], told["summary"]["items"]) == ("base", True, len(ITEMS))
    assert told["model"]["function"].endswith("load_1")
    assert told["route"] == ["made here"]
    assert {k: told["settings"][k] for k in ("max_new_tokens", "stop", "seed", "metrics", "items")} == {
        "max_new_tokens": 4, "stop": ["\n"], "seed": 5, "metrics": ["exact_match"], "items": 9,
    }  # fmt: skip


@pytest.mark.parametrize(("temperature", "cut"), [(0.0, 7), (1.0, 1), (0.0, 0)])
def test_an_evaluation_that_was_ended_goes_on_where_it_stopped(
    models: Models, tmp_path: Path, temperature: float, cut: int
) -> None:
    """Five items done, the sixth cut in the middle of its line: the results are those of an uninterrupted run, byte for byte."""
    told: dict[str, Any] = {"max_new_tokens": 6, "temperature": temperature}
    whole = evaluate({"base": models(1)}, ITEMS, out=tmp_path / "whole", **told)[0].file
    file = evaluate({"base": models(1)}, ITEMS, out=tmp_path / "cut", **told)[0].file
    rows = file.read_bytes().split(b"\n")
    file.write_bytes(b"\n".join(rows[:5]) + b"\n" + rows[5][:cut])
    again = evaluate({"base": models(1)}, ITEMS, out=tmp_path / "cut", **told)[0]
    assert again.file.read_bytes() == whole.read_bytes()
    assert again.resumed == 5


def test_a_crash_between_two_chunks_loses_no_answer(
    models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunks of two; the fourth breaks: six answers are on disk and not marked complete; the next run adds the other three."""
    monkeypatch.setattr(evaluation, "CHUNK", 2)
    real, calls = evaluation.generate, []

    def breaking(loaded: Any, prompts: Any, **more: Any) -> Any:
        calls.append(len(prompts))
        if len(calls) == 4:
            raise RuntimeError("device lost")
        return real(loaded, prompts, **more)

    monkeypatch.setattr(evaluation, "generate", breaking)
    with pytest.raises(RuntimeError, match="device lost"):
        evaluate({"base": models(1)}, ITEMS, out=tmp_path / "cut", max_new_tokens=4)
    file = tmp_path / "cut" / "base.jsonl"
    assert (len(lines(file)), beside(file)["complete"]) == (6, False)
    seen: list[int] = []
    again = evaluate(
        {"base": models(1)},
        ITEMS,
        out=tmp_path / "cut",
        max_new_tokens=4,
        progress=lambda name, done, of: seen.append(done),
    )[0]
    assert (again.resumed, seen, beside(file)["complete"]) == (6, [8, 9], True)
    whole = evaluate({"base": models(1)}, ITEMS, out=tmp_path / "whole", max_new_tokens=4)[0]
    assert file.read_bytes() == whole.file.read_bytes()


def test_a_chat_model_is_asked_in_its_own_template(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The format follows the model's kind: prompts hold the turns of its template, and a system message stays in them."""
    real, seen = evaluation.generate, []

    def spied(loaded: Any, prompts: Any, **more: Any) -> Any:
        seen.extend(loaded.tokenizer.decode(p) for p in prompts)
        assert more["fmt"].terminator == "<|im_end|>"
        return real(loaded, prompts, **more)

    monkeypatch.setattr(evaluation, "generate", spied)

    def load() -> Any:
        return SimpleNamespace(**{**vars(Models()(1)()), "tokenizer": chat(), "kind": "chat"})

    evaluate({"chat": load}, ITEMS[:1], out=tmp_path, max_new_tokens=2)
    assert seen == ["<|im_start|>user\nwhat is 0<|im_end|>\n<|im_start|>assistant\n"]


def test_what_is_done_is_not_done_again(models: Models, tmp_path: Path) -> None:
    """All items answered: the model is not even loaded, and nothing is written twice."""
    first = evaluate({"base": models(1)}, ITEMS, out=tmp_path, max_new_tokens=4)[0]
    before = first.file.read_bytes()
    again = evaluate({"base": models(1)}, ITEMS, out=tmp_path, max_new_tokens=4)[0]
    assert (models.loaded, again.resumed, again.file.read_bytes()) == ([1], 9, before)
    assert again.summary == first.summary
    evaluate({"base": models(1)}, ITEMS, out=tmp_path, max_new_tokens=4, resume=False)
    assert (models.loaded, first.file.read_bytes()) == ([1, 1], before)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"max_new_tokens": 5}, "settings.max_new_tokens was 4, is 5"),
        ({"temperature": 0.5}, "settings.temperature was 0.0, is 0.5"),
        ({"items": ITEMS[:-1]}, "settings.items was 9, is 8"),
        ({"items": [{**ITEMS[0], "prompt": "another question"}, *ITEMS[1:]]}, "settings.digest"),
        ({"model": 2}, "model.function"),
    ],
)
def test_results_of_two_evaluations_are_never_mixed(
    models: Models, tmp_path: Path, change: dict[str, Any], named: str
) -> None:
    """Other settings, items or model: refused with what differs, and the file stays as it was."""
    file = evaluate({"base": models(1)}, ITEMS, out=tmp_path, max_new_tokens=4)[0].file
    before = file.read_bytes()
    told = {"max_new_tokens": 4, **change}
    items, seed = told.pop("items", ITEMS), told.pop("model", 1)
    with pytest.raises(DataRefused, match="holds results of another evaluation") as refused:
        evaluate({"base": models(seed)}, items, out=tmp_path, **told)
    assert named in str(refused.value)
    assert file.read_bytes() == before


def test_a_model_trained_anew_in_the_same_place_is_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files of the model and adapter count by size and time: results of the old weights are not continued with the new ones."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"1")
    monkeypatch.setattr(loading, "load_base", lambda *a, **k: Models()(1)())
    monkeypatch.setattr(evaluation, "refuse_missing", lambda *a, **k: None)
    told = settings(path=str(folder))
    evaluate({"base": told}, ITEMS, out=tmp_path, max_new_tokens=2)
    evaluate({"base": told}, ITEMS, out=tmp_path, max_new_tokens=2)
    (folder / "model.safetensors").write_bytes(b"22")
    with pytest.raises(DataRefused, match=r"model\.files"):
        evaluate({"base": told}, ITEMS, out=tmp_path, max_new_tokens=2)


def test_a_damaged_file_is_refused_and_not_trusted(models: Models, tmp_path: Path) -> None:
    """A line in the middle that was overwritten, or settings that are no JSON: words, no traceback; nothing is guessed."""
    file = evaluate({"base": models(1)}, ITEMS, out=tmp_path, max_new_tokens=4)[0].file
    whole = file.read_bytes()
    file.write_bytes(whole.replace(b"{", b"#", 1))
    with pytest.raises(DataRefused, match="a line is no JSON"):
        evaluate({"base": models(1)}, ITEMS, out=tmp_path, max_new_tokens=4)
    file.write_bytes(whole)
    file.with_suffix(".json").write_text("{", encoding="utf-8")
    with pytest.raises(DataRefused, match="results of another evaluation"):
        evaluate({"base": models(1)}, ITEMS, out=tmp_path, max_new_tokens=4)


def test_results_of_nobody_knows_what_are_not_continued(models: Models, tmp_path: Path) -> None:
    """A file of results without its settings beside it: refused, unless it may start anew."""
    (tmp_path / "base.jsonl").write_text('{"id": "q0", "score": 1.0}\n', encoding="utf-8")
    with pytest.raises(DataRefused, match="another evaluation"):
        evaluate({"base": models(1)}, ITEMS, out=tmp_path)
    assert (
        len(
            evaluate({"base": models(1)}, ITEMS, out=tmp_path, max_new_tokens=2, resume=False)[
                0
            ].file.read_bytes()
        )
        > 100
    )


@pytest.mark.parametrize(
    ("items", "said"),
    [
        ([], "there are no items"),
        ([{"prompt": "a", "response": "b", "id": 1}] * 2, "1 ids repeat"),
        ([{"question": "a"}], "no prompt with a reference; its keys are question"),
        ([{"messages": [{"role": "user", "content": "a"}]}], "no prompt with a reference"),
    ],
)
def test_edge_78_items_that_cannot_be_judged_are_refused_before_a_model_is_loaded(
    models: Models, tmp_path: Path, items: list[dict[str, Any]], said: str
) -> None:
    """Edge 78 among them: an empty evaluation set is an error with words, no division."""
    with pytest.raises(DataRefused, match=said):
        evaluate({"base": models(1)}, items, out=tmp_path)
    assert models.loaded == []


def test_an_unknown_metric_is_told_before_a_model_is_loaded(models: Models, tmp_path: Path) -> None:
    """Also where it is the second."""
    for metrics in (["gsm8k", "bleu"], []):
        with pytest.raises(UsageError, match="exact_match, gsm8k"):
            evaluate({"base": models(1)}, ITEMS, out=tmp_path, metrics=metrics)
    assert models.loaded == []


@pytest.mark.parametrize(("names", "wins"), [("ab", False), ("aa", True)])
def test_model_path_stands_for_one_path_and_never_for_two(
    models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: str, wins: bool
) -> None:
    """MODEL_PATH would make two models one: it stands for the base of all adapters, and not for bases that differ."""
    monkeypatch.setenv("MODEL_PATH", "somewhere")
    told = []

    def load(path: Any, *, environment: bool, **more: Any) -> Any:
        told.append(environment)
        return models(len(told))()

    monkeypatch.setattr(loading, "load_base", load)
    monkeypatch.setattr(evaluation, "refuse_missing", lambda *a, **k: None)
    two = {f"{i}": settings(path=n) for i, n in enumerate(names)}
    evaluate(two, ITEMS, out=tmp_path, max_new_tokens=2)
    assert told == [wins, wins]
    assert beside(tmp_path / "0.jsonl")["model"]["path"] == ("somewhere" if wins else "a")


def test_two_evaluations_do_not_write_one_file(
    models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second names the process that holds it, after a bounded wait."""
    monkeypatch.setattr(evaluation, "WAIT", 0.0)
    with locked(tmp_path / ".base.lock"), pytest.raises(CoreError, match="its results are being written"):
        evaluate({"base": models(1)}, ITEMS, out=tmp_path)


def test_one_model_under_two_names_is_warned_of(
    models: Models, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The adapter that was never loaded: the check on same outputs speaks in the log."""
    with caplog.at_level(logging.WARNING):
        evaluate({"base": models(1), "sft": models(1)}, ITEMS, out=tmp_path, max_new_tokens=6)
    assert any("have the same outputs for all 9 common items" in r.getMessage() for r in caplog.records)


def test_the_caller_s_own_prompts_are_used(models: Models, tmp_path: Path) -> None:
    """A function that builds prompts gets the loaded model and rows, a chunk at a time; progress counts items."""
    seen, progress = [], []

    def prompts(loaded: Any, rows: Any) -> list[str]:
        seen.extend(row["id"] for row in rows)
        return [f"Q: {row['prompt']}\nA:" for row in rows]

    own = evaluate(
        {"base": models(1)}, ITEMS, out=tmp_path / "own", prompts=prompts, max_new_tokens=6,
        progress=lambda name, done, of: progress.append((name, done, of)),
    )[0]  # fmt: skip
    plain = evaluate({"base": models(1)}, ITEMS, out=tmp_path / "plain", max_new_tokens=6)[0]
    assert seen == [i["id"] for i in ITEMS]
    assert progress == [("base", 9, 9)]
    assert [r["output"] for r in lines(own.file)] != [r["output"] for r in lines(plain.file)]


def test_few_shot_prompts_never_hold_an_evaluated_item(
    models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EV-02: a pool that holds the evaluated items themselves; none of them is ever shown, and outputs stop at a blank line."""
    real, seen = evaluation.generate, []

    def spied(loaded: Any, prompts: Any, **more: Any) -> Any:
        seen.extend(prompts)
        assert STOP in more["stop"]
        return real(loaded, prompts, **more)

    monkeypatch.setattr(evaluation, "generate", spied)
    pool = [*POOL, *(Example("fact", i["prompt"], i["response"]) for i in ITEMS)]
    evaluate({"base": models(1)}, ITEMS, out=tmp_path, few_shot=FewShot(pool, shots=(2, 2)), max_new_tokens=4)
    assert [p.endswith(f"{i['prompt']}\n") for p, i in zip(seen, ITEMS, strict=True)] == [True] * len(ITEMS)
    assert not any(i["response"] in p for p in seen for i in ITEMS)
    with pytest.raises(DataRefused, match=r"settings\.few_shot"):
        evaluate(
            {"base": models(1)},
            ITEMS,
            out=tmp_path,
            few_shot=FewShot(pool, seed=1, shots=(2, 2)),
            max_new_tokens=4,
        )


def test_items_come_from_messages_and_from_columns() -> None:
    """The last turn is the reference; a row without an id is called by its number."""
    found = items_of(
        [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}]
    )
    assert (found[0].id, found[0].reference) == ("0", "b")
    assert items_of(ITEMS, group="document")[3].group == "d1"


def test_evaluations_can_be_compared(models: Models, tmp_path: Path) -> None:
    """What is written is what the comparison reads, statuses included."""
    found = evaluate(
        {"base": models(1), "sft": models(2)}, ITEMS, out=tmp_path, metrics=["token_f1"], max_new_tokens=6
    )
    told = compare({one.name: one.file for one in found})
    assert told.models["base"]["items"] == 9
    assert told.models["base"]["unparseable"] is not None
    assert told.comparisons[0].n == 9
