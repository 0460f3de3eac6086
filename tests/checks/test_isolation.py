"""Packed documents that see each other: found on a tiny model by changing one of them, and left alone where nothing passes over."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, LlamaConfig, LlamaForCausalLM, Qwen2Config

import llmguard
from llmguard.auditing import Audit
from llmguard.catalogue import CHECKS
from llmguard.collect.documents import documents, shortened
from llmguard.collect.isolation import Emitted, handed_over, isolation_of
from llmguard.collect.shrinking import small_model
from llmguard.project import load_project
from llmguard.report import CheckResult, Outcome

LENGTHS = (30, 70, 50)
TOKENS = sum(LENGTHS)
DOCUMENT = torch.repeat_interleave(torch.arange(3), torch.tensor(LENGTHS))
POSITIONS = torch.cat([torch.arange(n) for n in LENGTHS])[None]
OWN = (DOCUMENT[:, None] == DOCUMENT[None]) & torch.tril(torch.ones(TOKENS, TOKENS, dtype=torch.bool))
Batch = dict[str, Any]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def batch(**columns: Any) -> Batch:
    """One row of three documents, 150 tokens."""
    ids = torch.arange(TOKENS)[None] * 7 % 300 + 5
    return {"input_ids": ids, "labels": ids.clone(), **columns}


def config(attention: str | None = None, kind: Any = LlamaConfig) -> Any:
    found = kind()
    found._attn_implementation = attention
    return found


def said(emitted: Batch | list[Batch], of: Any, attention: str | None = None) -> list[str]:
    """Severities."""
    batches = emitted if isinstance(emitted, list) else [emitted]
    found = isolation_of(Emitted(batches, of), attention)
    assert "unmeasured" not in found, found
    return [f.severity.value for f in llmguard.documents_do_not_see_each_other(found)]


def really_mixes(columns: Batch, attention: str) -> bool:
    """The witness: a model of its own, the first document changed, the logits of the second compared. None of our code."""
    torch.manual_seed(3)
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=400, attn_implementation=attention, **sizes)).eval()
    given = {k: v for k, v in columns.items() if k != "labels"}
    other = {**given, "input_ids": given["input_ids"].clone()}
    other["input_ids"][:, : LENGTHS[0]] = 9
    with torch.inference_mode():
        change = model(**given, use_cache=False).logits - model(**other, use_cache=False).logits
    return bool(change[:, LENGTHS[0] : LENGTHS[0] + LENGTHS[1]].abs().max() > 1e-4)


def flash_runs_here() -> bool:
    """Whether the installed library keeps its flash kernels where they can be replaced; older ones do not, and are not measured."""
    from transformers import modeling_flash_attention_utils as home

    return hasattr(home, "_lazy_imports")


ONES = torch.ones(1, TOKENS, dtype=torch.long)
MIXED = {
    "a mask of ones beside positions": (batch(position_ids=POSITIONS, attention_mask=ONES), "sdpa"),
    "the same, eager": (batch(position_ids=POSITIONS, attention_mask=ONES), "eager"),
    "documents numbered in the mask": (batch(attention_mask=DOCUMENT[None] + 1), "sdpa"),
    "a boolean mask added to the scores": (batch(attention_mask=OWN[None, None]), "eager"),
}
APART = {
    "a boolean block-diagonal mask": (batch(attention_mask=OWN[None, None]), "sdpa"),
    "the same with positions": (batch(attention_mask=OWN[None, None], position_ids=POSITIONS), "sdpa"),
    "a mask of large negative numbers": (
        batch(attention_mask=torch.where(OWN[None, None], 0.0, torch.finfo(torch.float32).min)),
        "eager",
    ),
}


@pytest.mark.parametrize("name", MIXED)
def test_documents_that_see_each_other_are_found(name: str) -> None:
    """`documents_do_not_see_each_other`: each of these reaches the next document in a model of the test's own, and is found."""
    columns, attention = MIXED[name]
    assert really_mixes(columns, attention)
    assert said(columns, config(attention)) == ["error"]


@pytest.mark.parametrize("name", APART)
def test_masks_that_keep_documents_apart_are_left_alone(name: str) -> None:
    """`documents_do_not_see_each_other`: block-diagonal masks, in the form that the implementation reads."""
    columns, attention = APART[name]
    assert not really_mixes(columns, attention)
    assert said(columns, config(attention)) == []


def test_positions_alone_are_judged_as_the_installed_library_takes_them() -> None:
    """`documents_do_not_see_each_other`: whether restarted positions separate documents without a mask.

    That differs between versions: the model decides.
    """
    columns = batch(position_ids=POSITIONS)
    for attention in ("sdpa", "eager"):
        expected = ["error"] if really_mixes(columns, attention) else []
        assert said(columns, config(attention)) == expected


def test_flash_attention_keeps_positions_apart_and_not_in_several_rows() -> None:
    """`documents_do_not_see_each_other`: through transformers' own flash code.

    Padding-free is sound with a mask of ones too, two packed rows a batch are not.
    """
    alone, two = batch(position_ids=POSITIONS), {}
    if not flash_runs_here():
        found = isolation_of(Emitted([alone], config("flash_attention_2")))
        assert "flash kernels" in found["unmeasured"]
        return
    for name, column in alone.items():
        two[name] = column.repeat(2, 1)
    for kind in (LlamaConfig, Qwen2Config, GPT2Config):
        of = config("flash_attention_2", kind)
        assert said(alone, of) == []
        assert said({**alone, "attention_mask": ONES}, of) == []
        assert said(two, of) == ["error"]
    ends = torch.tensor([0, 30, 100, 150], dtype=torch.int32)
    told = {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends, "max_length_q": 70, "max_length_k": 70}
    assert said({**alone, **told}, config("flash_attention_2")) == []


def test_the_cpu_stand_in_for_flash_computes_attention() -> None:
    """Logits of the small model with it are those of eager attention; afterwards the library is as it was."""
    from transformers import modeling_flash_attention_utils as home

    from llmguard.collect.flash import flash_on_cpu

    if not flash_runs_here():
        pytest.skip("this version of transformers binds the flash kernels when it is imported")
    before = home._lazy_imports
    for kind in (LlamaConfig, Qwen2Config):
        model = small_model(kind(sliding_window=7) if kind is Qwen2Config else kind(), "eager")
        ids = torch.arange(40)[None] + 3
        with torch.inference_mode():
            expected = model(input_ids=ids, use_cache=False).logits
            with flash_on_cpu(model):
                found = model(input_ids=ids, use_cache=False).logits
            again = model(input_ids=ids, use_cache=False).logits
        assert torch.allclose(found, expected, atol=1e-5)
        assert torch.equal(again, expected)
    assert home._lazy_imports is before


def test_what_a_trainers_own_loss_hands_over_is_measured() -> None:
    """A compute_loss that puts a mask of ones beside the positions mixes documents which the batch itself keeps apart."""

    class Trainer:
        def compute_loss(self, model: Any, inputs: Batch) -> Any:
            ones = torch.ones_like(inputs["input_ids"])
            return model(**inputs, attention_mask=ones, use_cache=False).loss

    trainer, columns, of = Trainer(), batch(position_ids=POSITIONS), config("sdpa")
    emitted = Emitted([columns], of, lambda model, each: handed_over(trainer, model, each))
    alone = isolation_of(Emitted([columns], of))["seen"]
    found = isolation_of(emitted)
    assert found["seen"] > 0
    assert alone == (3 if really_mixes(columns, "sdpa") else 0)
    (finding,) = llmguard.documents_do_not_see_each_other(found)
    assert finding.severity.value == "error"
    assert "changing document 0 changes the logits of document 1" in finding.message


def test_a_loss_that_fails_leaves_the_batch_as_it_is() -> None:
    """What cannot be asked is not held against anybody."""

    class Trainer:
        def compute_loss(self, model: Any, inputs: Batch) -> Any:
            raise RuntimeError("needs a GPU")

    columns = batch(position_ids=POSITIONS)
    assert handed_over(Trainer(), small_model(LlamaConfig()), columns) is columns


def test_rows_of_one_document_and_packing_on_purpose_are_not_judged() -> None:
    """Unpacked rows, padded on either side, have nothing to look at; nor has continued pre-training."""
    check, run = llmguard.documents_do_not_see_each_other, torch.arange(TOKENS)[None]
    mask = ONES.clone()
    mask[:, :20] = 0
    shifted = (mask.cumsum(1) - 1).clamp(min=0)
    for columns in (
        batch(),
        batch(attention_mask=ONES),
        batch(position_ids=run, attention_mask=ONES),
        batch(position_ids=shifted, attention_mask=mask),
    ):
        found = isolation_of(Emitted([columns], config()))
        assert found["documents"] == 0
        assert check(found).looked_at == 0
        assert not check(found)
    mixed = isolation_of(Emitted([batch(position_ids=POSITIONS, attention_mask=ONES)], config("sdpa")))
    assert not check(mixed, train_on="all")
    assert check(mixed, train_on="last")


def test_layers_that_carry_a_state_are_seen_to_run_on() -> None:
    """A hybrid of recurrent and attention layers: the mask stops attention, the state goes on into the next document."""
    from transformers import CONFIG_MAPPING

    if "qwen3_next" not in CONFIG_MAPPING:
        pytest.skip("this version of transformers has no qwen3_next")
    of = CONFIG_MAPPING["qwen3_next"]()
    found = isolation_of(Emitted([batch(attention_mask=OWN[None, None], position_ids=POSITIONS)], of))
    (finding,) = llmguard.documents_do_not_see_each_other(found)
    assert finding.severity.value == "error"
    assert "carry a state" in finding.message


def test_documents_are_read_from_every_column_that_tells_them() -> None:
    """Positions, numbers, cumulative lengths, lengths, blocks: the same three spans from each; padding is in none of them."""
    spans = [(0, 30), (30, 100), (100, 150)]
    ends = torch.tensor([0, 30, 100, 150], dtype=torch.int32)
    for name, value in {
        "position_ids": POSITIONS,
        "attention_mask": DOCUMENT[None] + 1,
        "cu_seq_lens_q": ends,
        "seq_idx": DOCUMENT[None],
        "seq_lengths": [[30, 70, 50]],
    }.items():
        assert documents(batch(**{name: value})) == ([spans], [name]), name
    assert documents(batch(attention_mask=OWN[None, None])) == ([spans], ["attention_mask"])
    pad = torch.zeros(1, 6, dtype=torch.long)
    padded = {
        "input_ids": torch.cat([batch()["input_ids"], pad], 1),
        "position_ids": torch.cat([POSITIONS, pad], 1),
        "attention_mask": torch.cat([ONES, pad], 1),
    }
    assert documents(padded)[0] == [spans]
    short = shortened(padded, [spans])
    assert short is not None
    assert short.spans == [[(0, 30), (30, 60), (60, 90)]]
    assert short.columns["position_ids"].tolist() == [[*range(30)] * 3 + [0, 0]]
    assert short.columns["attention_mask"].tolist() == [[1] * 90 + [0, 0]]


def test_arrays_and_masks_by_kind_of_layer_are_taken() -> None:
    """Columns of numpy are measured like tensors; a mask of another shape is not looked into."""
    packed = {**batch(position_ids=POSITIONS), "attention_mask": ONES}
    arrays = {name: column.numpy() for name, column in packed.items()}
    assert said(arrays, config("sdpa")) == ["error"]
    other = batch(position_ids=POSITIONS, attention_mask={"full_attention": OWN[None, None]})
    assert documents(other)[1] == ["position_ids"]


PROJECT = """
import torch
from transformers import LlamaConfig

ATTENTION = "{attention}"

def encode(row):
    ids = [5 + ord(c) % 200 for c in row["prompt"] + row["response"]]
    return {{"input_ids": ids, "labels": ids, "attention_mask": [1] * len(ids)}}

def collate(rows):
    ids = torch.tensor([[i for r in rows for i in r["input_ids"]]])
    positions = torch.tensor([[i for r in rows for i in range(len(r["input_ids"]))]])
    packed = {{"input_ids": ids, "labels": ids, "position_ids": positions}}
    return {{**packed, "attention_mask": torch.ones_like(ids)}}
"""


def audited(folder: Path, attention: str, *, with_config: bool = True) -> CheckResult:
    """The check on a project whose collator packs so."""
    rows = [{"prompt": f"How many apples are {i} and two?", "response": f"{i + 2} apples."} for i in range(6)]
    (folder / "train.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), "utf-8")
    (folder / "mine.py").write_text(PROJECT.format(attention=attention), "utf-8")
    if with_config:
        LlamaConfig(vocab_size=300).save_pretrained(folder / "model")
    model = '[model]\npath = "model"\n' if with_config else ""
    (folder / "llmguard.toml").write_text(
        f'{model}[data]\ntrain = "train.jsonl"\n[pipeline]\nencode = "mine:encode"\ncollate = "mine:collate"\n'
    )
    entry = next(e for e in CHECKS if e.name == "documents_do_not_see_each_other")
    audit = Audit(load_project(folder / "llmguard.toml"))
    try:
        return audit.run(entry, "collate")
    finally:
        audit.evidence.close()


def test_a_project_is_measured_in_its_child(tmp_path: Path) -> None:
    """From collator to finding; with flash attention named in the module the same batches are sound; without a config, skipped."""
    flash = Outcome.PASSED if flash_runs_here() else Outcome.SKIPPED
    for name, attention, outcome in (("a", "eager", Outcome.FAILED), ("b", "flash_attention_2", flash)):
        (tmp_path / name).mkdir()
        found = audited(tmp_path / name, attention)
        assert found.outcome is outcome, found
    (tmp_path / "c").mkdir()
    found = audited(tmp_path / "c", "eager", with_config=False)
    assert found.outcome is Outcome.SKIPPED
    assert "[model] path" in found.reason
