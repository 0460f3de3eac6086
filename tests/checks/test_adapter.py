"""Adapters: whole, trained, of their base, newer than their data, with the tokens that were added; on real PEFT folders, too."""

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
from support.weights import LAYERS, ROWS, WIDTH, Q, adapter, lora, model, write

from llmguard.auditing import Audit
from llmguard.checks.adapter import (
    adapter_belongs_to_its_base,
    adapter_files_are_whole,
    adapter_is_newer_than_its_data,
    adapter_is_trained,
    adapter_keeps_added_tokens,
)
from llmguard.evidence.adapter import read_adapter
from llmguard.evidence.model import ModelFolder, read_model
from llmguard.findings import Findings
from llmguard.project import load_project
from llmguard.report import CheckResult
from llmguard.tensors import BadFile, read_header

B = f"base_model.model.{Q.format(0)}.lora_B.weight"


def names(found: Findings) -> list[str]:
    """Severities."""
    return [f.severity.value for f in found]


@pytest.fixture
def base(tmp_path: Path) -> ModelFolder:
    """A base model named `base`."""
    return read_model(str(model(tmp_path / "base")), "base")


def run(folder: Path, name: str) -> CheckResult:
    """One check on a project file."""
    audit = Audit(load_project(folder / "llmguard.toml", environ={}))
    return audit.run(audit.registry.get(name))


def test_a_trained_adapter_of_this_base_passes(tmp_path: Path, base: ModelFolder) -> None:
    """Whole, trained, of the base by name and shape."""
    found = read_adapter(adapter(tmp_path / "adapter"))
    assert not adapter_files_are_whole(found)
    assert not adapter_is_trained(found)
    assert not adapter_belongs_to_its_base(found, base)
    assert adapter_is_trained(found).looked_at == 2 * LAYERS


@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_b_matrices_of_zeros_are_an_error(tmp_path: Path, zero: float) -> None:
    """The adapter of a failed run; minus zero is zero."""
    (found,) = adapter_is_trained(read_adapter(adapter(tmp_path, b=zero)))
    assert "all 2 B matrices are zero: the adapter does nothing" in found.message
    assert found.severity.value == "error"


def test_some_b_matrices_of_zeros_are_a_warning(tmp_path: Path) -> None:
    """Modules that were never reached: how many, and the first."""
    found = adapter_is_trained(read_adapter(adapter(tmp_path, more={B: np.zeros((WIDTH, 2), np.float32)})))
    assert names(found) == ["warning"]
    assert f"1 of 2 B matrices are zero ({B} …)" in found[0].message


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_no_numbers_are_an_error(tmp_path: Path, value: float) -> None:
    """One NaN among all values."""
    b = np.full((WIDTH, 2), 0.5, np.float32)
    b[3, 1] = value
    found = adapter_is_trained(read_adapter(adapter(tmp_path, more={B: b})))
    assert names(found) == ["error"]
    assert "1 of 4 tensors hold NaN or infinite values" in found[0].message


def test_empty_tensors_are_an_error(tmp_path: Path) -> None:
    """What ZeRO-3 leaves of partitioned parameters; they count as neither zero nor trained."""
    shapes = {n: np.zeros((0,), np.float32) for n in (B, B.replace("lora_B", "lora_A"))}
    write(tmp_path / "adapter_model.safetensors", shapes)
    (tmp_path / "adapter_config.json").write_text("{}", "utf-8")
    found = adapter_is_trained(read_adapter(tmp_path))
    assert names(found) == ["error"]
    assert "2 of 2 tensors are empty" in found[0].message


@pytest.mark.parametrize(
    ("kind", "dtype", "one", "nan", "minus_zero"),
    [
        ("BF16", np.uint16, 0x3F80, 0x7FC0, 0x8000),
        ("F16", np.uint16, 0x3C00, 0x7C01, 0x8000),
        ("F32", np.uint32, 0x3F800000, 0x7FC00000, 0x80000000),
        ("F64", np.uint64, 0x3FF0000000000000, 0x7FF0000000000000, 0x8000000000000000),
    ],
)
def test_every_floating_type_is_read_without_torch(
    tmp_path: Path, kind: str, dtype: Any, one: int, nan: int, minus_zero: int
) -> None:
    """Zeros of both signs, ones, and what is not finite, by their bits."""

    def tensor(*bits: int) -> Any:
        return read_header(write(tmp_path / "t.safetensors", {"t": np.array(bits, dtype)}, kind))["t"]

    assert tensor(0, minus_zero, 0).is_zero()
    assert not tensor(0, 1).is_zero()
    assert tensor(one, one).is_one()
    assert tensor(one, 0, minus_zero).is_finite()
    assert not tensor(one, nan).is_finite()


def test_other_methods_are_judged_by_their_own_start(tmp_path: Path) -> None:
    """IA3 starts with ones; a soft prompt starts anywhere, and is never zero B matrices."""
    for name, value, told in (("ia3_l", 1.0, ["error"]), ("ia3_l", 1.01, []), ("prompt_embeddings", 0.3, [])):
        write(
            tmp_path / "adapter_model.safetensors",
            {f"base_model.model.x.{name}": np.full((4, 1), value, np.float32)},
        )
        (tmp_path / "adapter_config.json").write_text('{"peft_type": "IA3"}', "utf-8")
        found = read_adapter(tmp_path)
        assert names(adapter_is_trained(found)) == told, (name, value)
        assert not adapter_files_are_whole(found)


def test_large_adapters_are_judged_by_shape(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the size that is read at preflight a note says so."""
    monkeypatch.setattr("llmguard.checks.adapter.BYTES_READ", 10)
    assert names(adapter_is_trained(read_adapter(adapter(tmp_path, b=0.0)))) == ["note"]


def test_missing_folders_fail_one_check_and_skip_the_others(tmp_path: Path) -> None:
    """From the project file: the near names, and no traceback; the other checks are skipped and name the one that failed."""
    adapter(tmp_path / "out" / "adapter")
    (tmp_path / "llmguard.toml").write_text('[model]\nadapter = "out/adaptor"\n', "utf-8")
    failed = run(tmp_path, "adapter_files_are_whole")
    assert failed.outcome.value == "failed"
    assert "out/adaptor does not exist; near it lies adapter" in failed.findings[0].message
    for name in ("adapter_is_trained", "adapter_is_newer_than_its_data", "adapter_changes_the_model"):
        skipped = run(tmp_path, name)
        assert skipped.outcome.value == "skipped"
        assert "adapter_files_are_whole" in skipped.reason
    (tmp_path / "llmguard.toml").write_text("", "utf-8")
    assert (
        run(tmp_path, "adapter_is_trained").reason == 'add `[model] adapter = "out/adapter"` to llmguard.toml'
    )


def test_a_run_s_folder_is_told_where_its_adapters_lie(tmp_path: Path) -> None:
    """The folder above the checkpoints was named."""
    for step in (100, 200):
        adapter(tmp_path / f"checkpoint-{step}")
    found = adapter_files_are_whole(read_adapter(tmp_path))
    assert names(found) == ["error", "error"]
    assert "adapters lie in its folders checkpoint-100, checkpoint-200" in found[1].message


def test_broken_files_are_told(tmp_path: Path) -> None:
    """A config that is no JSON or no object, weights cut off, a pointer, no tensors at all."""
    folder = adapter(tmp_path / "a")
    whole = (folder / "adapter_model.safetensors").read_bytes()
    empty = struct.pack("<Q", 2) + b"{}"
    for content, words in (
        (whole[:-3], "header speaks of"),
        (b"version https://git-lfs", "Git LFS"),
        (empty, "holds no tensors"),
    ):
        (folder / "adapter_model.safetensors").write_bytes(content)
        (found,) = adapter_files_are_whole(read_adapter(folder))
        assert words in found.message
    (folder / "adapter_model.safetensors").write_bytes(whole)
    for text, words in (("{", "cannot be read"), ("[]", "holds a JSON list")):
        (folder / "adapter_config.json").write_text(text, "utf-8")
        assert words in adapter_files_are_whole(read_adapter(folder))[0].message
    (tmp_path / "file").touch()
    assert (
        "is a file, not a PEFT directory"
        in adapter_files_are_whole(read_adapter(tmp_path / "file"))[0].message
    )


def test_a_pickle_is_a_note_and_is_not_loaded(tmp_path: Path) -> None:
    """Old adapters: what to do, and nothing is unpickled."""
    folder = adapter(tmp_path)
    (folder / "adapter_model.safetensors").unlink()
    (folder / "adapter_model.bin").write_bytes(b"\x80\x04cposix\nsystem\n(S'false'\ntR.")
    (found,) = adapter_files_are_whole(read_adapter(folder))
    assert found.severity.value == "note"
    assert "safe_serialization=True" in found.remedy


def test_a_whole_model_in_place_of_an_adapter_is_an_error(tmp_path: Path) -> None:
    """A full checkpoint saved under the adapter's name."""
    folder = adapter(tmp_path / "a")
    shutil.copy(model(tmp_path / "m") / "model.safetensors", folder / "adapter_model.safetensors")
    (found,) = adapter_files_are_whole(read_adapter(folder))
    assert "a whole model's 3 tensors" in found.message
    assert found.severity.value == "error"


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (
            {"width": 16},
            "model.layers.0.self_attn.q_proj is 8 x 8 in this model, and the adapter's matrices are A 2 x 16 and B 16 x 2",
        ),
        (
            {"more": lora("model.layers.1.mlp.nowhere")},
            "1 of 3 adapted modules are not in this model (model.layers.1.mlp.nowhere …)",
        ),
        (
            {"more": lora(Q.format(7))},
            "1 of 3 adapted modules are in layers that this model of 2 layers has not",
        ),
    ],
)
def test_an_adapter_of_another_architecture_is_an_error(
    tmp_path: Path, base: ModelFolder, made: Any, words: str
) -> None:
    """Other widths, other modules, more layers: with both names."""
    (found,) = adapter_belongs_to_its_base(
        read_adapter(adapter(tmp_path / "a", base="org/other", **made)), base
    )
    assert words in found.message
    assert "trained on 'org/other', the project's model is 'base'" in found.message
    assert found.severity.value == "error"


def test_without_weights_the_config_is_enough(tmp_path: Path) -> None:
    """A base folder of configs alone: widths and layers are compared, and the embedding that the adapter saves."""
    only = ModelFolder("base", tmp_path, {"hidden_size": WIDTH, "num_hidden_layers": LAYERS})
    assert not adapter_belongs_to_its_base(read_adapter(adapter(tmp_path / "a")), only)
    (found,) = adapter_belongs_to_its_base(read_adapter(adapter(tmp_path / "b", width=16)), only)
    assert "takes 16 numbers in the adapter, this model is 8 wide" in found.message
    embedding = {"base_model.model.model.embed_tokens.weight": np.zeros((ROWS, 16), np.float32)}
    (found,) = adapter_belongs_to_its_base(read_adapter(adapter(tmp_path / "c", more=embedding)), only)
    assert "is saved as 40 x 16, this model is 8 wide" in found.message


def test_moved_and_renamed_bases(tmp_path: Path, base: ModelFolder) -> None:
    """A folder of the same name elsewhere is fine; another name with the same shapes is a warning; without weights a note."""
    for name in ("/mnt/elsewhere/base", "org/Base", "base", ""):
        assert not adapter_belongs_to_its_base(read_adapter(adapter(tmp_path / "a", base=name)), base), name
    other = read_adapter(adapter(tmp_path / "b", base="org/base-instruct"))
    assert names(adapter_belongs_to_its_base(other, base)) == ["warning"]
    bare = ModelFolder("base", tmp_path, {"hidden_size": WIDTH})
    assert names(adapter_belongs_to_its_base(other, bare)) == ["note"]


def test_a_named_base_that_is_here_is_compared_by_its_weights(tmp_path: Path, base: ModelFolder) -> None:
    """The same weights under another name are a note; other weights are an error, even under the same name."""
    same, stage = model(tmp_path / "copy"), model(tmp_path / "run2" / "base", value=2.0)
    assert names(
        adapter_belongs_to_its_base(read_adapter(adapter(tmp_path / "a", base=str(same))), base)
    ) == ["note"]
    (found,) = adapter_belongs_to_its_base(read_adapter(adapter(tmp_path / "b", base=str(stage))), base)
    assert found.severity.value == "error"
    assert "are not those of this model, though their shapes agree" in found.message


@pytest.mark.parametrize(
    "weights",
    [
        pytest.param(
            {
                f"language_model.{Q.format(n)}.weight": np.ones((WIDTH, WIDTH), np.float32)
                for n in range(LAYERS)
            },
            id="prefix",
        ),
        pytest.param(
            {
                f"{Q.format(n)}.{part}": np.ones((4, 1), np.int32)
                for n in range(LAYERS)
                for part in ("qweight", "scales")
            },
            id="GPTQ",
        ),
        pytest.param(
            {f"{Q.format(n)}.weight": np.ones((32, 1), np.uint8) for n in range(LAYERS)}, id="4 bit"
        ),
    ],
)
def test_bases_with_other_prefixes_and_packed_weights_pass(tmp_path: Path, weights: Any) -> None:
    """Names that another version of transformers writes, and weights whose shapes are those of packed bits."""
    folder = model(tmp_path / "base", weights=weights)
    if "4 bit" in str(tmp_path) or next(iter(weights.values())).dtype == np.uint8:
        write(folder / "model.safetensors", weights, "U8")
    elif next(iter(weights.values())).dtype == np.int32:
        write(folder / "model.safetensors", weights, "I32")
    assert not adapter_belongs_to_its_base(
        read_adapter(adapter(tmp_path / "a")), read_model(str(folder), "base")
    )


def test_an_adapter_on_a_tied_output_layer_passes(tmp_path: Path, base: ModelFolder) -> None:
    """A tied lm_head has no tensor of its own in the file."""
    assert not adapter_belongs_to_its_base(read_adapter(adapter(tmp_path / "a", more=lora("lm_head"))), base)
    untied = read_model(str(model(tmp_path / "u" / "base", tie_word_embeddings=False)), "base")
    assert names(
        adapter_belongs_to_its_base(read_adapter(adapter(tmp_path / "b", more=lora("lm_head"))), untied)
    ) == ["error"]


def test_an_adapter_older_than_its_data_is_a_warning(tmp_path: Path) -> None:
    """Older by hours is told with the file; newer, or written in the same minute, is not."""
    (tmp_path / "train.jsonl").write_text('{"prompt": "q", "response": "a"}\n', "utf-8")
    (tmp_path / "llmguard.toml").write_text('[data]\ntrain = "train.jsonl"\n', "utf-8")
    project, folder = load_project(tmp_path / "llmguard.toml"), adapter(tmp_path / "adapter")
    found = adapter_is_newer_than_its_data(read_adapter(folder), project)
    assert (list(found), found.looked_at) == ([], 1)
    old = time.time() - 7300
    os.utime(folder / "adapter_model.safetensors", (old, old))
    (older,) = adapter_is_newer_than_its_data(read_adapter(folder), project)
    assert "older than the training data (train.jsonl), by 2 hours" in older.message
    assert older.severity.value == "warning"


class Tokens:
    """A tokenizer as far as its vocabulary goes."""

    def __init__(self, size: int) -> None:
        self.vocabulary = {f"t{i}": i for i in range(size)}

    def __len__(self) -> int:
        return len(self.vocabulary)

    def get_vocab(self) -> dict[str, int]:
        """Token -> id."""
        return self.vocabulary


def embedding(rows: int) -> dict[str, np.ndarray[Any, Any]]:
    """An embedding as PEFT saves it."""
    return {"base_model.model.model.embed_tokens.weight": np.ones((rows, WIDTH), np.float32)}


def test_added_tokens_must_be_saved(tmp_path: Path, base: ModelFolder) -> None:
    """More tokens than rows need a saved embedding of as many rows; what the config says and the file lacks is not saved."""
    plain = read_adapter(adapter(tmp_path / "plain"))
    (found,) = adapter_keeps_added_tokens(plain, base, Tokens(ROWS + 2))
    assert (
        "2 more tokens than the base has embedding rows (40): 't40' is 40 …; the adapter saves no embedding"
        in found.message
    )
    assert not adapter_keeps_added_tokens(plain, base, Tokens(ROWS))
    told = read_adapter(adapter(tmp_path / "told", modules_to_save=["embed_tokens"]))
    assert names(adapter_keeps_added_tokens(told, base, Tokens(ROWS + 2))) == ["error"]
    short = read_adapter(adapter(tmp_path / "short", more=embedding(ROWS + 1)))
    assert "has 41 rows" in adapter_keeps_added_tokens(short, base, Tokens(ROWS + 2))[0].message
    for n, saving in enumerate(({"more": embedding(ROWS + 2)}, {"trainable_token_indices": [40, 41]})):
        assert not adapter_keeps_added_tokens(
            read_adapter(adapter(tmp_path / f"s{n}", **saving)), base, Tokens(ROWS + 2)
        )


def test_another_module_that_is_saved_whole_is_no_embedding(tmp_path: Path, base: ModelFolder) -> None:
    """A classification head of a thousand rows holds no row of a new token."""
    head = {"base_model.model.score.weight": np.ones((1000, WIDTH), np.float32)}
    found = adapter_keeps_added_tokens(
        read_adapter(adapter(tmp_path / "a", more=head)), base, Tokens(ROWS + 2)
    )
    assert names(found) == ["error"]
    assert "the adapter saves no embedding" in found[0].message


def test_tokens_of_the_adapter_s_own_tokenizer_count(tmp_path: Path, base: ModelFolder) -> None:
    """Saved beside the adapter: beyond the rows an error, in rows held in reserve a warning, saved or known to the project nothing."""
    for n, (i, more, told) in enumerate(
        [(41, {}, ["error"]), (38, {}, ["warning"]), (38, embedding(ROWS), []), (3, {}, [])]
    ):
        folder = adapter(tmp_path / f"a{n}", more=more)
        token = {"content": "t3" if i == 3 else "<|im_start|>", "id": i}
        (folder / "tokenizer.json").write_text(json.dumps({"added_tokens": [token]}), "utf-8")
        assert names(adapter_keeps_added_tokens(read_adapter(folder), base, Tokens(30))) == told, n


def test_a_header_that_lies_is_no_traceback(tmp_path: Path) -> None:
    """Random bytes and a header without offsets are told as bad files."""
    file = tmp_path / "x.safetensors"
    text = b'{"a": {"dtype": "F32"}}'
    for content in (os.urandom(64), struct.pack("<Q", len(text)) + text, struct.pack("<Q", 3) + b"{{{"):
        file.write_bytes(content)
        with pytest.raises(BadFile):
            read_header(file)
