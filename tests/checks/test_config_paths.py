"""Paths of a config: missing ones are found with what lies near; hub ids and outputs are left alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.configs import Folder, keys, of, only

CHECK = "every_config_path_exists"
AXOLOTL = "sequence_len: 2048\nmicro_batch_size: 2\nlearning_rate: 0.0002\nadapter: lora\n"
LLAMAFACTORY = (
    "stage: sft\nfinetuning_type: lora\ntemplate: qwen\ncutoff_len: 1024\nmodel_name_or_path: a/b\n"
)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """A project with a model, data and a DeepSpeed file."""
    made = Folder(tmp_path)
    made.write("models/base/config.json", "{}")
    made.write("data/train.jsonl", "{}\n")
    made.write("ds/zero2.json", "{}")
    return made


MISSING = {
    "model_path: ./models/bse": "models/base",
    "base_model: /nowhere/at/all/llama": None,
    "model: {path: models/bas}": "models/base",
    "model_name: models/bases": "models/base",
    "model_name: model": "models",
    "train_file: data/trian.jsonl": "data/train.jsonl",
    "data: {train: data/train.json}": "data/train.jsonl",
    "data: {train: [data/train.jsonl, data/more.jsonl]}": None,
    "data_path: alpaca.jsonl": None,
    "deepspeed: ds/zero3.json": "ds/zero2.json",
    "adapter_path: models/base/, ./models/adapter": None,
    "resume_from_checkpoint: out/checkpoint-500": None,
    "tokenizer_path: ../tokenizer": None,
}


@pytest.mark.parametrize("line", MISSING)
def test_a_missing_path_is_an_error_with_near_names(line: str, folder: Folder) -> None:
    """The places tried, and what lies there under a like name."""
    near = MISSING[line]
    finding = only(folder.config(f"epochs: 3\n{line}\n"), CHECK, line=2)
    assert "does not exist (tried " in finding.message
    assert str(folder.path) in finding.message or "/nowhere" in finding.message
    if near:
        assert finding.remedy == f"did you mean {folder.path / near}"


THERE = [
    "model_path: ./models/base",
    "model: {path: models/base, tokenizer: models/base}",
    "base_model: Qwen/Qwen2.5-0.5B",
    "base_model: gpt2",
    "model_name: meta-llama/Llama-3.1-8B-Instruct",
    "train_file: data/train.jsonl",
    "train_file: data/*.jsonl",
    "train_file: [data/train.jsonl]",
    "data_path: yahma/alpaca-cleaned",
    "data_path: https://example.org/train.jsonl",
    "data_path: s3://bucket/train.jsonl",
    "data_path: ${DATA}/train.jsonl",
    "data_path: $DATA_FOLDER/train.jsonl",
    "deepspeed: ds/zero2.json",
    "deepspeed: {zero_optimization: {stage: 2}}",
    "resume_from_checkpoint: true",
    "resume_from_checkpoint: latest",
    "output_dir: out/new/run",
    "log_path: logs/train.log",
    "train_file:",
    "train_file: ''",
]


@pytest.mark.parametrize("line", THERE)
def test_paths_that_are_there_ids_outputs_and_what_is_filled_in_later(line: str, folder: Folder) -> None:
    """No finding above a note."""
    assert CHECK not in of(folder.config(f"epochs: 3\n{line}\n"))


def test_paths_may_start_at_the_config_too(folder: Folder) -> None:
    """A path is looked for from the project's folder and from the config's own."""
    folder.write("configs/data/own.jsonl", "{}\n")
    assert CHECK not in of(folder.config("epochs: 3\ntrain_file: data/own.jsonl\n", "configs/a.yaml"))
    finding = only(folder.config("epochs: 3\ntrain_file: data/none.jsonl\n", "configs/a.yaml"), CHECK)
    assert len(finding.evidence["tried"]) == 2


def test_a_hub_id_that_is_not_cached_is_a_note(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Never looked up: the note names what the cache has; a cached one is not even noted."""
    (tmp_path / "hub" / "models--Qwen--Qwen2.5-0.5B").mkdir(parents=True)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    results = folder.config("epochs: 3\nmodel_name: Qwen/Qwen2.5-05B\n")
    assert "the cache has Qwen/Qwen2.5-0.5B" in of(results, "note")[CHECK][0].message
    assert CHECK not in of(folder.config("epochs: 3\nmodel_name: Qwen/Qwen2.5-0.5B\n"), "note")
    monkeypatch.delenv("HF_HUB_CACHE")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    assert CHECK not in of(folder.config("epochs: 3\nmodel_name: Qwen/Qwen2.5-0.5B\n"), "note")


def test_an_output_that_is_a_file(folder: Folder) -> None:
    """The run could write no checkpoint there."""
    finding = only(folder.config("epochs: 3\noutput_dir: data/train.jsonl\n"), CHECK, key="output_dir")
    assert "which is a file" in finding.message


def test_axolotls_data_sets(folder: Folder) -> None:
    """`datasets[].path` may be a file, a folder or a hub id; what is no file and no id is missing."""
    good = f"base_model: models/base\n{AXOLOTL}datasets:\n  - {{path: data/train.jsonl, type: alpaca}}\n  - {{path: a/b, type: alpaca}}\n"
    assert of(folder.config(good)) == {}
    bad = good.replace("data/train.jsonl", "data/tran.jsonl").replace("models/base", "models/bsae")
    found = keys(of(folder.config(bad))[CHECK])
    assert list(found) == ["base_model", "datasets[0].path"]
    assert found["datasets[0].path"].where.line == 7


def test_llamafactorys_registered_data_sets(folder: Folder) -> None:
    """Names are looked up in dataset_info.json where it lies here; elsewhere nobody can tell."""
    text = f"{LLAMAFACTORY}dataset: identity,alpaca_dmo\ndataset_dir: data\n"
    assert CHECK not in of(folder.config(text))
    folder.write("data/dataset_info.json", json.dumps({"identity": {}, "alpaca_demo": {}}))
    finding = only(folder.config(text), CHECK, key="dataset")
    assert "write 'alpaca_demo'" in finding.remedy
    assert of(folder.config(text.replace("dmo", "demo"))) == {}
    assert (
        "'dta'" in only(folder.config(text.replace("dataset_dir: data", "dataset_dir: dta")), CHECK).message
    )


def test_a_deepspeed_file_of_the_librarys_own_repository_is_a_note(folder: Folder) -> None:
    """axolotl's and LLaMA-Factory's examples name files of their own checkouts."""
    text = f"base_model: models/base\n{AXOLOTL}datasets: [{{path: a/b, type: alpaca}}]\ndeepspeed: deepspeed_configs/zero2.json\n"
    results = folder.config(text)
    assert of(results) == {}
    assert "not here" in of(results, "note")[CHECK][0].message


def test_a_template_file(folder: Folder) -> None:
    """`chat_template_path` is a file or a hub id; an inline template is no path."""
    head = "output_dir: out\nper_device_train_batch_size: 1\nnum_train_epochs: 1\npacking: true\nassistant_only_loss: true\n"
    assert "chat template" in only(folder.config(f"{head}chat_template_path: ./t.jinja\n"), CHECK).message
    assert of(folder.config(f"{head}chat_template: '{{{{ messages }}}}'\n")) == {}


@pytest.mark.parametrize("name", ["x" * 300, "models/" + "y" * 300, "a\0b", "~nobody_here/x"])
def test_names_that_no_file_system_takes(name: str, folder: Folder) -> None:
    """They do not exist; they break nothing."""
    folder.config("epochs: 3\n", "a.json")
    results = folder.config(
        json.dumps({"epochs": 3, "train_file": f"./{name}" if name[0] != "~" else name}), "a.json"
    )
    assert CHECK in of(results)
