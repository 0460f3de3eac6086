"""Whether training fits into memory: three verdicts, and no accusation where the memory may not be the run's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.configs import Folder

from llmguard.checks.memory import training_fits_in_memory
from llmguard.configs.config import Config
from llmguard.configs.reading import read_document
from llmguard.estimates import Memory
from llmguard.findings import Findings
from llmguard.report import CheckResult

GIB = 2**30
EIGHT = {"model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
         "num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 8192, "torch_dtype": "bfloat16"}  # fmt: skip
"""Llama 3's sizes: 8 billion parameters, 15 GiB in bfloat16."""
HEAD = "output_dir: out\nreport_to: none\nlogging_steps: 10\nlr_scheduler_type: linear\nmodel_name_or_path: model\n"
PACKED = "packing: true\nmax_length: 2048\n"


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    made = Folder(tmp_path)
    made.write("model/config.json", json.dumps(EIGHT))
    return made


def run(folder: Folder, lines: str, gib: float, *, rows: str = "", **memory: Any) -> Findings:
    """The check on a config of a few lines, with so much memory; `rows` names the project's training file."""
    file = folder.write("train.yaml", HEAD + lines)
    free = int(gib * GIB)
    there = Memory(free, free, **{"device": "gpu", "source": "a test", "meant": True, **memory})
    files = (folder.path / rows,) if rows else ()
    config = Config("train.yaml", read_document(file), roots=(folder.path,), train_files=files)
    return training_fits_in_memory(config, there)


def judged(config: Config) -> Findings:
    """The check on a config with 24 GiB of a GPU."""
    return training_fits_in_memory(config, Memory(24 * GIB, 24 * GIB, "gpu", "a test", meant=True))


def verdicts(found: Findings) -> list[tuple[str, str]]:
    return [(f.severity.value, f.evidence["verdict"]) for f in found]


def test_eight_billion_parameters_do_not_train_in_24_gib(folder: Folder) -> None:
    """Weights, gradients and states alone take more: an error at the batch's line, with the table and what would fit."""
    found = run(folder, f"dtype: bfloat16\nbf16: true\nper_device_train_batch_size: 8\n{PACKED}", 24)
    assert verdicts(found) == [("error", "will not fit")]
    assert (found.looked_at, found[0].where.key, found[0].where.line) == (1, "per_device_train_batch_size", 8)
    for word in (
        "optimizer states",
        "8,030,523,392 parameters by config.json",
        "24.0 GiB free",
        "QLoRA (4 bits)",
    ):
        assert word in found[0].message
    assert found[0].evidence["low"] > 24 * GIB


def test_the_same_model_fits_a_larger_device_or_with_adapters(folder: Folder) -> None:
    """Negative controls: what people really do on 24 and 640 GiB."""
    assert not run(folder, "dtype: bfloat16\nper_device_train_batch_size: 1\nmax_length: 1024\n", 640)
    qlora = "load_in_4bit: true\nuse_peft: true\nlora_r: 16\ngradient_checkpointing: true\n"
    qlora += "per_device_train_batch_size: 1\nmax_length: 512\n"
    assert not run(folder, qlora, 24)


def test_between_the_two_it_is_tight_and_said_so(folder: Folder) -> None:
    """A note with the interval, no failure: the estimate does not know."""
    found = run(
        folder, f"dtype: bfloat16\nper_device_train_batch_size: 1\ngradient_checkpointing: true\n{PACKED}", 64
    )
    assert verdicts(found) == [("note", "tight")]
    assert found[0].evidence["low"] <= 64 * GIB < found[0].evidence["high"]


def test_a_batch_too_large_is_found_where_the_rows_are_known_to_be_long(folder: Folder) -> None:
    """Packed rows are as long as the limit says; the remedies name what would fit instead."""
    lora = "dtype: bfloat16\nuse_peft: true\nlora_r: 16\n"
    found = run(folder, f"{lora}per_device_train_batch_size: 64\n{PACKED}", 80)
    assert verdicts(found) == [("error", "will not fit")]
    assert "what would fit: " in found[0].remedy
    assert "batch size 1 and accumulation 64" in found[0].remedy
    assert not run(folder, f"{lora}per_device_train_batch_size: 1\n{PACKED}", 80)


def test_short_rows_are_not_accused_for_a_generous_limit(folder: Folder) -> None:
    """max_length only bounds: rows of 100 bytes make no 8,192 tokens."""
    lora = "dtype: bfloat16\nuse_peft: true\nlora_r: 16\nper_device_train_batch_size: 4\nmax_length: 8192\n"
    assert verdicts(run(folder, lora, 80)) == [("note", "tight")]
    folder.rows("short.jsonl", 50)
    assert not run(folder, lora, 80, rows="short.jsonl")
    folder.write("long.jsonl", json.dumps({"prompt": "word " * 40_000, "response": "r"}) + "\n")
    long = lora.replace("batch_size: 4", "batch_size: 32")
    assert verdicts(run(folder, long, 80, rows="long.jsonl")) == [("error", "will not fit")]
    folder.write("wide.jsonl", json.dumps({"prompt": "p", "response": "r", "page": "word " * 40_000}) + "\n")
    assert verdicts(run(folder, long, 80, rows="wide.jsonl")) == [("note", "tight")]


def test_a_machine_without_a_gpu_is_warned_of_not_failed(folder: Folder) -> None:
    """A laptop that checks a cluster's config: the memory is not surely the run's."""
    lines = "dtype: bfloat16\nper_device_train_batch_size: 8\n"
    found = run(folder, lines, 8, device="cpu", meant=False)
    assert verdicts(found) == [("warning", "will not fit")]
    assert "[environment] gpu_memory" in found[0].remedy
    assert verdicts(run(folder, f"{lines}use_cpu: true\n", 8, device="cpu", meant=False)) == [
        ("error", "will not fit")
    ]


@pytest.mark.parametrize(
    "line", ["deepspeed: ds.json", "fsdp: full_shard", "device_map: auto", "fsdp_config: {a: 1}"]
)
def test_a_model_on_several_devices_is_not_judged(folder: Folder, line: str) -> None:
    found = run(folder, f"dtype: bfloat16\nper_device_train_batch_size: 8\n{line}\n", 24)
    assert (list(found), found.looked_at) == ([], 0)


def test_what_the_file_leaves_open_is_counted_both_ways(folder: Folder) -> None:
    """A config of one's own that names no adapter may still train one: 8 billion parameters are no certain failure in 24 GiB."""
    plain = folder.write(
        "own.yaml", "model_path: model\nlearning_rate: 0.0001\nbatch_size: 1\nmax_seq_length: 256\n"
    )
    found = judged(Config("own.yaml", read_document(plain), roots=(folder.path,)))
    assert verdicts(found) == [("note", "tight")]
    assert "accumulation" not in found[0].remedy


def test_a_file_without_settings_of_a_run_is_not_judged(folder: Folder) -> None:
    """Some other YAML beside a project that names its model."""
    file = folder.write("other.yaml", "colour: red\n")
    config = Config("other.yaml", read_document(file), roots=(folder.path,), model="model")
    found = judged(config)
    assert (list(found), found.looked_at) == ([], 0)


@pytest.mark.parametrize("config", [{}, {"model_type": "mamba"}, {"hidden_size": "x"}])
def test_models_whose_sizes_are_not_told_are_left_alone(folder: Folder, config: dict[str, Any]) -> None:
    folder.write("model/config.json", json.dumps(config))
    found = run(folder, "per_device_train_batch_size: 8\n", 0.001)
    assert (list(found), found.looked_at) == ([], 0)


def test_weights_that_are_there_are_counted_by_their_headers(folder: Folder) -> None:
    """Two values say more than a config of 8 billion."""
    header = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    (folder.path / "model/model.safetensors").write_bytes(
        len(header).to_bytes(8, "little") + header + bytes(8)
    )
    found = run(folder, f"per_device_train_batch_size: 64\n{PACKED}", 1)
    assert "2 parameters by their headers" in found[0].message


def result(folder: Folder, **tables: str) -> CheckResult:
    folder.write("train.yaml", HEAD + "dtype: bfloat16\nper_device_train_batch_size: 8\n")
    folder.project(**tables)
    results = folder.results(("memory",))
    return next(r for r in results.values() if r.check == "training_fits_in_memory")


def test_the_project_file_names_the_memory_of_the_run(folder: Folder) -> None:
    """The same config, audited as a project: 24 GB are too little, 8 TB are not."""
    small = result(folder, environment='gpu_memory = "24 GB"')
    assert small.outcome.value == "failed"
    assert "[environment] gpu_memory" in small.findings[0].message
    assert result(folder, environment='gpu_memory = "8 TB"').outcome.value == "passed"


def test_without_a_word_the_machine_itself_is_asked(folder: Folder) -> None:
    """What this machine has decides: 8 billion parameters with a batch of 8 fit into hardly any."""
    asked = result(folder)
    assert asked.outcome.value in ("warned", "failed", "passed")
    assert asked.looked_at == 1
