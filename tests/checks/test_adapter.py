"""Adapters and model folders: each check seen to pass, to fail, and to leave legitimate practice alone."""

from __future__ import annotations

import json
import os
import shutil
import struct
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import llmguard
from llmguard.evidence.adapter import read_adapter
from llmguard.evidence.model import read_model
from llmguard.findings import Findings
from llmguard.project import load_project
from llmguard.tensors import BadFile, read_header

WIDTH, ROWS = 8, 40


def write(file: Path, tensors: dict[str, np.ndarray[Any, Any]], kind: str = "F32") -> Path:
    """A safetensors file, written by the format's own description."""
    header, at = {}, 0
    for name, values in tensors.items():
        header[name] = {"dtype": kind, "shape": list(values.shape), "data_offsets": [at, at + values.nbytes]}
        at += values.nbytes
    text = json.dumps(header).encode()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(v.tobytes() for v in tensors.values()))
    return file


def model(folder: Path, width: int = WIDTH, **config: Any) -> Path:
    """A base model's folder of one attention module."""
    weights = {
        "model.embed_tokens.weight": np.ones((ROWS, width), np.float32),
        "model.layers.0.self_attn.q_proj.weight": np.ones((width, width), np.float32),
    }
    write(folder / "model.safetensors", weights)
    (folder / "config.json").write_text(json.dumps({"hidden_size": width, "vocab_size": ROWS, **config}))
    return folder


def adapter(folder: Path, base: str = "base", width: int = WIDTH, b: float = 0.5, **config: Any) -> Path:
    """A LoRA adapter of rank 2 on that module."""
    prefix = "base_model.model.model.layers.0.self_attn.q_proj"
    tensors = {
        f"{prefix}.lora_A.weight": np.ones((2, width), np.float32),
        f"{prefix}.lora_B.weight": np.full((width, 2), b, np.float32),
    }
    write(folder / "adapter_model.safetensors", tensors)
    (folder / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": base, "r": 2, **config})
    )
    return folder


def names(found: Findings) -> list[str]:
    return [f.severity.value for f in found]


@pytest.fixture
def base(tmp_path: Path) -> Any:
    return read_model(str(model(tmp_path / "base")), "base")


class TestAdapter:
    """A PEFT directory."""

    def test_a_trained_adapter_of_this_base_passes(self, tmp_path: Path, base: Any) -> None:
        """Whole, trained, of the base by name and shape."""
        found = read_adapter(adapter(tmp_path / "adapter"))
        assert not llmguard.adapter_files_are_whole(found)
        assert not llmguard.adapter_is_trained(found)
        assert not llmguard.adapter_belongs_to_its_base(found, base)

    def test_b_of_zeros_nan_and_empty_tensors_fail(self, tmp_path: Path) -> None:
        """A failed run, a NaN run, and a ZeRO-3 run that saved nothing."""
        check = llmguard.adapter_is_trained
        assert names(check(read_adapter(adapter(tmp_path / "zero", b=0.0)))) == ["error"]
        assert names(check(read_adapter(adapter(tmp_path / "nan", b=float("nan"))))) == ["error"]
        write(
            tmp_path / "empty" / "adapter_model.safetensors",
            {"base_model.model.x.lora_B.weight": np.zeros((0,), np.float32)},
        )
        (tmp_path / "empty" / "adapter_config.json").write_text("{}")
        assert names(check(read_adapter(tmp_path / "empty"))) == ["error"]

    def test_bfloat16_is_read_without_torch(self, tmp_path: Path) -> None:
        """NaN and zeros are told apart in bfloat16 too."""
        values = {"x.lora_B.weight": np.array([0x3F80, 0x7FC0], np.uint16)}
        assert not read_header(write(tmp_path / "nan.safetensors", values, "BF16"))[
            "x.lora_B.weight"
        ].is_finite()
        fine = {"x.lora_B.weight": np.array([0x3F80, 0x0000], np.uint16)}
        tensor = read_header(write(tmp_path / "fine.safetensors", fine, "BF16"))["x.lora_B.weight"]
        assert tensor.is_finite()
        assert not tensor.is_zero()

    def test_an_adapter_of_another_base_fails(self, tmp_path: Path, base: Any) -> None:
        """Another width fails; another name with the same shapes is a warning; a moved folder of the same name is nothing."""
        check = llmguard.adapter_belongs_to_its_base
        assert names(check(read_adapter(adapter(tmp_path / "wide", width=16)), base)) == ["error"]
        assert names(check(read_adapter(adapter(tmp_path / "other", base="someone/other-model")), base)) == [
            "warning"
        ]
        assert not check(read_adapter(adapter(tmp_path / "moved", base="/mnt/elsewhere/base")), base)

    def test_missing_and_broken_folders_are_told_with_their_neighbours(self, tmp_path: Path) -> None:
        """No traceback for a wrong path, an empty folder, a pickle, or a whole model in its place."""
        check = llmguard.adapter_files_are_whole
        adapter(tmp_path / "adapter")
        missing = check(read_adapter(tmp_path / "adaptor"))
        assert names(missing) == ["error"]
        assert "near it lies adapter" in missing[0].message
        (tmp_path / "empty").mkdir()
        assert names(check(read_adapter(tmp_path / "empty"))) == ["error", "error"]
        legacy = adapter(tmp_path / "legacy")
        (legacy / "adapter_model.safetensors").rename(legacy / "adapter_model.bin")
        assert names(check(read_adapter(legacy))) == ["note"]
        whole = adapter(tmp_path / "whole")
        shutil.copy(model(tmp_path / "m") / "model.safetensors", whole / "adapter_model.safetensors")
        write(whole / "adapter_model.safetensors", {"model.layers.0.mlp.weight": np.ones((2, 2), np.float32)})
        assert names(check(read_adapter(whole))) == ["error"]

    def test_an_adapter_older_than_its_data_warns(self, tmp_path: Path) -> None:
        """Older by hours is told; newer, or written in the same minute, is not."""
        (tmp_path / "train.jsonl").write_text('{"prompt": "q", "response": "a"}\n')
        (tmp_path / "llmguard.toml").write_text('[data]\ntrain = "train.jsonl"\n')
        project, folder = load_project(tmp_path / "llmguard.toml"), adapter(tmp_path / "adapter")
        assert not llmguard.adapter_is_newer_than_its_data(read_adapter(folder), project)
        old = time.time() - 7200
        os.utime(folder / "adapter_model.safetensors", (old, old))
        assert names(llmguard.adapter_is_newer_than_its_data(read_adapter(folder), project)) == ["warning"]

    def test_added_tokens_must_be_saved(self, tmp_path: Path, base: Any) -> None:
        """More tokens than rows need saved embeddings; a vocabulary that fits needs nothing."""

        class Tokenizer:
            def __init__(self, size: int) -> None:
                self.size = size

            def __len__(self) -> int:
                return self.size

        check = llmguard.adapter_keeps_added_tokens
        plain = read_adapter(adapter(tmp_path / "plain"))
        assert names(check(plain, base, Tokenizer(ROWS + 2))) == ["error"]
        assert not check(plain, base, Tokenizer(ROWS))
        saving = read_adapter(adapter(tmp_path / "saving", modules_to_save=["embed_tokens"]))
        assert not check(saving, base, Tokenizer(ROWS + 2))


class TestModel:
    """A model's folder."""

    def test_a_whole_folder_passes(self, base: Any) -> None:
        """Weights as long as their headers say."""
        assert not llmguard.model_path_exists(base)
        assert not llmguard.weights_are_complete(base)
        assert (base.embedding_rows, base.width) == (ROWS, WIDTH)

    def test_a_missing_folder_is_told_with_its_neighbours(self, tmp_path: Path) -> None:
        """A misspelt path; a hub id that is not here is a note, and nothing is downloaded."""
        model(tmp_path / "qwen-base")
        found = llmguard.model_path_exists(
            read_model(str(tmp_path / "qwen-bsae"), str(tmp_path / "qwen-bsae"))
        )
        assert names(found) == ["error"]
        assert "near it lies qwen-base" in found[0].message
        assert names(llmguard.model_path_exists(read_model("nobody/has-this-model"))) == ["note"]

    def test_a_hub_id_is_found_in_the_cache(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The local cache is read by its documented layout."""
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
        model(tmp_path / "models--me--tiny" / "snapshots" / "abc")
        found = read_model("me/tiny")
        assert found.has_weights
        assert not llmguard.model_path_exists(found)

    @pytest.mark.parametrize("fault", ["cut", "pointer", "link", "empty"])
    def test_broken_weights_are_named(self, tmp_path: Path, fault: str) -> None:
        """Cut off, a Git LFS pointer, a link stored as text, nothing at all: told from the header."""
        file = model(tmp_path / "m") / "model.safetensors"
        content = {
            "cut": file.read_bytes()[:-4],
            "pointer": b"version https://git-lfs.github.com/spec/v1\n",
            "link": b"../x/model.safetensors",
            "empty": b"",
        }[fault]
        file.write_bytes(content)
        found = llmguard.weights_are_complete(read_model(str(tmp_path / "m")))
        assert names(found) == ["error"]
        assert "model.safetensors" in found[0].message

    def test_a_missing_shard_is_named(self, tmp_path: Path) -> None:
        """The index names two shards, and one is there."""
        folder = model(tmp_path / "m")
        (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
        shards = {
            "model.embed_tokens.weight": "model-00001-of-00002.safetensors",
            "lm_head.weight": "model-00002-of-00002.safetensors",
        }
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
        found = llmguard.weights_are_complete(read_model(str(folder)))
        assert [f.severity.value for f in found] == ["error"]
        assert "model-00002-of-00002.safetensors is named by the index and not there" in found[0].message

    def test_a_folder_without_weights_is_a_note(self, tmp_path: Path) -> None:
        """A tokenizer alone is legitimate for preflight."""
        (tmp_path / "config.json").write_text("{}")
        assert names(llmguard.weights_are_complete(read_model(str(tmp_path)))) == ["note"]

    def test_ids_beyond_the_embedding_fail_and_padded_embeddings_pass(
        self, tmp_path: Path, base: Any
    ) -> None:
        """More ids than rows end a run; more rows than ids are usual. A BOS that both name must agree."""

        class Tokenizer:
            bos_token, bos_token_id = "<s>", 1

            def __init__(self, size: int) -> None:
                self.size = size

            def __len__(self) -> int:
                return self.size

            def get_vocab(self) -> dict[str, int]:
                return {f"t{i}": i for i in range(self.size)}

        check = llmguard.tokenizer_belongs_to_the_model
        assert names(check(Tokenizer(ROWS + 1), base)) == ["error"]
        assert not check(Tokenizer(ROWS - 5), base)
        other = read_model(str(model(tmp_path / "b", bos_token_id=7)))
        assert names(check(Tokenizer(ROWS), other)) == ["error"]

    def test_a_header_that_lies_is_no_traceback(self, tmp_path: Path) -> None:
        """Random bytes and a header without offsets are told as bad files."""
        file = tmp_path / "x.safetensors"
        text = b'{"a": {"dtype": "F32"}}'
        for content in (os.urandom(64), struct.pack("<Q", len(text)) + text, struct.pack("<Q", 3) + b"{{{"):
            file.write_bytes(content)
            with pytest.raises(BadFile):
                read_header(file)
