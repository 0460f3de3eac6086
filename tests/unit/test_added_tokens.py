"""Special tokens in use whose embedding was never trained; rows with None for an id; prepared data that cannot be read."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support.weights import write

import llmguard
from llmguard.auditing import Audit
from llmguard.catalogue import CHECKS
from llmguard.encoded import MISSING, as_encoded
from llmguard.evidence.model import read_model
from llmguard.project import load_project
from llmguard.report import CheckResult, Outcome

WIDTH = 16
check = llmguard.special_tokens_in_use_are_trained
Table = NDArray[np.float32]


def trained(tokenizer: Any) -> Table:
    """An embedding whose rows are all of their own."""
    made = np.random.default_rng(0).normal(0.1, 1.0, (len(tokenizer) + 8, WIDTH))
    return made.astype(np.float32)


def folder(path: Path, table: Table, kind: str = "F32") -> Any:
    values: NDArray[Any] = table
    if kind == "BF16":
        values = (table.view(np.uint32) >> 16).astype(np.uint16)
    if kind == "F16":
        values = table.astype(np.float16)
    write(path / "model.safetensors", {"model.embed_tokens.weight": values}, kind)
    return read_model(str(path))


def rows(tokenizer: Any) -> list[dict[str, list[int]]]:
    """ChatML rows, the second of them with padding."""
    ids = tokenizer("<|im_start|>user\nHow many?<|im_end|>\n")["input_ids"]
    padded = [*ids, tokenizer.pad_token_id]
    return [
        {"input_ids": ids, "attention_mask": [1] * len(ids)},
        {"input_ids": padded, "attention_mask": [1] * len(ids) + [0]},
    ]


def severities(found: Any) -> list[str]:
    return [f.severity.value for f in found]


def spoilt(tokenizer: Any, how: str) -> Table:
    """The rows of both ChatML tokens as they are before any training."""
    table = trained(tokenizer)
    start, end = (tokenizer.convert_tokens_to_ids(t) for t in ("<|im_start|>", "<|im_end|>"))
    if how == "zero":
        table[[start, end]] = 0
    elif how == "the same":
        table[end] = table[start]
    else:
        noise = np.random.default_rng(1).normal(0, 1e-4, (2, WIDTH))
        table[[start, end]] = table.mean(axis=0) + noise
    return table


@pytest.mark.parametrize("kind", ["F32", "BF16", "F16"])
def test_trained_tokens_are_left_alone(tiny: Any, tmp_path: Path, kind: str) -> None:
    """`special_tokens_in_use_are_trained`: every token in use has a row of its own.

    Both are looked at, padding is not.
    """
    found = check(rows(tiny), tiny, folder(tmp_path, trained(tiny), kind))
    assert not found
    assert found.looked_at == 2


@pytest.mark.parametrize("kind", ["F32", "BF16"])
@pytest.mark.parametrize("how", ["zero", "the same", "the mean"])
def test_rows_as_they_were_created_are_found(tiny: Any, tmp_path: Path, how: str, kind: str) -> None:
    """`special_tokens_in_use_are_trained`: zero, one for two tokens, the mean of all.

    A warning as long as nobody says that training leaves them so.
    """
    table = spoilt(tiny, how)
    model = folder(tmp_path, table, kind)
    (finding,) = check(rows(tiny), tiny, model)
    assert finding.severity.value == "warning"
    assert how in finding.message
    assert "'<|im_start|>'" in finding.message
    assert finding.evidence["count"] == 4


def test_unused_and_padding_tokens_may_be_untrained(tiny: Any, tmp_path: Path) -> None:
    """`special_tokens_in_use_are_trained`: reserved tokens that no row holds, and the pad token behind the text."""
    table = trained(tiny)
    table[[tiny.pad_token_id, tiny.eos_token_id]] = 0
    assert not check(rows(tiny), tiny, folder(tmp_path, table))


def test_who_trains_the_embedding_is_left_alone(tiny: Any, tmp_path: Path) -> None:
    """`special_tokens_in_use_are_trained`: an adapter or a Trainer that holds it is silent.

    One that leaves it frozen makes an error of it.
    """
    model = folder(tmp_path, spoilt(tiny, "zero"))

    def adapter(names: tuple[str, ...] = (), **config: Any) -> Any:
        return SimpleNamespace(config=config, tensors=dict.fromkeys(names))

    encoded = rows(tiny)
    assert severities(check(encoded, tiny, model, adapter(("model.layers.0.q_proj.lora_A.weight",)))) == [
        "error"
    ]
    assert severities(check(encoded, tiny, model, trainer={"trains_embeddings": False})) == ["error"]
    assert severities(check(encoded, tiny, model, trainer={})) == ["warning"]
    for teaching in (
        adapter(modules_to_save=["embed_tokens", "lm_head"]),
        adapter(trainable_token_indices=[1]),
        adapter(("base_model.model.model.embed_tokens.weight",)),
    ):
        assert not check(encoded, tiny, model, teaching)
    assert not check(encoded, tiny, model, trainer={"trains_embeddings": True})


def test_a_model_without_readable_weights_is_not_judged(tiny: Any, tmp_path: Path) -> None:
    """No safetensors, or quantised ones: nothing was looked at."""
    tmp_path.joinpath("config.json").write_text("{}")
    assert check(rows(tiny), tiny, read_model(str(tmp_path))).looked_at == 0
    write(tmp_path / "model.safetensors", {"model.embed_tokens.weight": np.zeros((500, 16), np.int8)}, "I8")
    assert check(rows(tiny), tiny, read_model(str(tmp_path))).looked_at == 0


def test_none_for_an_id_is_found(tiny: Any) -> None:
    """A BOS that the tokenizer does not have: None stands in ids and masks, and other checks still run."""
    ids: list[Any] = [tiny.bos_token_id, *tiny("hello")["input_ids"]]
    assert ids[0] is None
    good = {"input_ids": ids[1:], "labels": ids[1:]}
    numbers = llmguard.every_token_id_is_a_number
    (finding,) = numbers([good, {"input_ids": ids, "labels": [-100, *ids[1:]]}])
    assert finding.severity.value == "error"
    assert finding.where.row == 1
    assert "1 of 2 rows" in finding.message
    assert not numbers([good, good])
    assert severities(numbers([{"input_ids": ids[1:], "labels": [None] * len(ids[1:])}])) == ["error"]
    assert severities(numbers([{"input_ids": ids[1:], "labels": None}])) == []
    assert not llmguard.ids_are_in_the_vocabulary([{"input_ids": ids}], tiny)
    assert severities(numbers({"input_ids": [[1.0, float("nan")]]})) == ["error"]


def test_nulls_of_arrow_are_found() -> None:
    """A saved folder holds null where there was None."""
    pa = pytest.importorskip("pyarrow")
    table = pa.table({"input_ids": [[1, 2, None], [3]]})
    assert as_encoded(table).input_ids.values.tolist() == [1, 2, MISSING, 3]
    assert severities(llmguard.every_token_id_is_a_number(table)) == ["error"]
    assert not llmguard.every_token_id_is_a_number(table.slice(1))


def audited(folder: Path, text: str, data: str = '[data]\nencoded = "prepared.jsonl"\n') -> CheckResult:
    (folder / "prepared.jsonl").write_text(text)
    (folder / "llmguard.toml").write_text(data)
    audit = Audit(load_project(folder / "llmguard.toml"))
    try:
        return audit.run(next(e for e in CHECKS if e.name == "encoded_data_are_readable"))
    finally:
        audit.evidence.close()


def test_prepared_data_that_cannot_be_read_fail_a_check(tmp_path: Path) -> None:
    """`encoded_data_are_readable`: text in the place of ids, or no ids at all, is a finding.

    Data that are there pass; without the key it is skipped.
    """
    assert audited(tmp_path, '{"input_ids": ["a", "b"]}\n').outcome is Outcome.FAILED
    found = audited(tmp_path, '{"ids": [1, 2]}\n')
    assert [f.severity.value for f in found.findings] == ["error"]
    assert "input_ids" in found.findings[0].message
    read = audited(tmp_path, '{"input_ids": [1, 2]}\n')
    assert read.outcome is Outcome.PASSED
    assert not read.findings
    assert audited(tmp_path, '{"input_ids": [1, 2]}\n', "").outcome is Outcome.SKIPPED
