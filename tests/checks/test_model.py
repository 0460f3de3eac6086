"""The model's folder: there, whole, and of the tokenizer; real tokenizers against the configs of their models."""

from __future__ import annotations

import copy
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.real import tokenizer as tokenizer_of
from support.weights import LAYERS, ROWS, WIDTH, Q, model, write

from llmguard.auditing import Audit
from llmguard.checks.model import model_path_exists, tokenizer_belongs_to_the_model, weights_are_complete
from llmguard.evidence.model import ModelFolder, read_model
from llmguard.findings import Findings
from llmguard.project import load_project

SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def names(found: Findings) -> list[str]:
    """Severities."""
    return [f.severity.value for f in found]


@pytest.fixture
def _online(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As where downloads are allowed, with an empty cache."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))


def test_a_whole_folder_passes(tmp_path: Path) -> None:
    """Weights as long as their headers say; rows, width and layers are known."""
    found = read_model(str(model(tmp_path / "base")))
    assert not model_path_exists(found)
    assert not weights_are_complete(found)
    assert (found.embedding_rows, found.width, found.layers) == (ROWS, WIDTH, LAYERS)
    assert weights_are_complete(found).looked_at == LAYERS + 1


def test_a_misspelt_folder_is_told_with_its_neighbours_at_once(tmp_path: Path) -> None:
    """From the project file: an error within milliseconds, naming what lies there; other checks are skipped or look at nothing."""
    model(tmp_path / "models" / "qwen-base")
    for text in (
        "models/qwen-bsae",
        "model/qwen-base",
        "./models/qwen-bsae",
        str(tmp_path / "models" / "qwen-bsae"),
    ):
        (tmp_path / "llmguard.toml").write_text(f'[model]\npath = "{text}"\n', "utf-8")
        audit = Audit(load_project(tmp_path / "llmguard.toml", environ={}))
        started = time.perf_counter()
        told = audit.run(audit.registry.get("model_path_exists"))
        assert time.perf_counter() - started < 0.5
        assert told.outcome.value == "failed", text
        assert "the model path does not exist; near it lies" in told.findings[0].message
        assert "qwen-base" in told.findings[0].message
        assert audit.run(audit.registry.get("weights_are_complete")).outcome.value == "skipped"


@pytest.mark.usefixtures("_online")
def test_a_hub_id_that_is_not_here_is_a_note(tmp_path: Path) -> None:
    """Nothing is downloaded; cached ids with names like it are told."""
    (tmp_path / "hf" / "hub" / "models--Qwen--Qwen2.5-0.5B").mkdir(parents=True)
    found = model_path_exists(read_model("Qwen/Qwen2.5-0.5b", root=tmp_path))
    assert names(found) == ["note"]
    assert "near it lies Qwen/Qwen2.5-0.5B" in found[0].message
    assert names(model_path_exists(read_model("nobody/has-this", root=tmp_path))) == ["note"]


@pytest.mark.usefixtures("_online")
def test_a_hub_id_that_is_not_here_is_a_warning_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run would end where it loads the model."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert names(model_path_exists(read_model("nobody/has-this", root=tmp_path))) == ["warning"]


@pytest.mark.usefixtures("_online")
def test_a_hub_id_is_found_in_the_cache(tmp_path: Path) -> None:
    """The snapshot of `main` wins over a newer one; without it the newest."""
    cache = tmp_path / "hf" / "hub" / "models--me--tiny"
    model(cache / "snapshots" / "abc", width=4)
    model(cache / "snapshots" / "def", width=6)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("abc", "utf-8")
    found = read_model("me/tiny", root=tmp_path)
    assert not model_path_exists(found)
    assert (found.width, found.is_hub_id) == (4, True)
    (cache / "refs" / "main").unlink()
    assert read_model("me/tiny", root=tmp_path).width in (4, 6)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (lambda raw: raw[:-4], "its header speaks of"),
        (lambda raw: raw + b"\0\0", "its header speaks of"),
        (lambda raw: raw[:40], "cut off in its header"),
        (
            lambda _: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
            "is a Git LFS pointer",
        ),
        (lambda _: b"../../blobs/5f2a", "a link that was stored as text"),
        (lambda _: b"", "cut off in its header (0 bytes)"),
        (lambda raw: raw[:8] + b"x" * (len(raw) - 8), "has a header that is no JSON"),
    ],
)
def test_broken_weights_are_named(tmp_path: Path, content: Any, words: str) -> None:
    """Cut off, too long, a pointer, a link stored as text, nothing, noise: told from the header, with the file."""
    file = model(tmp_path / "m") / "model.safetensors"
    file.write_bytes(content(file.read_bytes()))
    found = weights_are_complete(read_model(str(tmp_path / "m"), "m"))
    assert names(found) == ["error"]
    assert words in found[0].message
    assert str(found[0].where) == "m/model.safetensors"


def sharded(folder: Path) -> Path:
    """A model in two shards with an index."""
    weights = [{f"{Q.format(n)}.weight": np.ones((WIDTH, WIDTH), np.float32)} for n in range(2)]
    model(folder)
    (folder / "model.safetensors").unlink()
    for shard, tensors in zip(SHARDS, weights, strict=True):
        write(folder / shard, tensors)
    index = {name: shard for shard, tensors in zip(SHARDS, weights, strict=True) for name in tensors}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}), "utf-8")
    return folder


def test_a_sharded_model_passes(tmp_path: Path) -> None:
    """All shards of the index are there."""
    assert not weights_are_complete(read_model(str(sharded(tmp_path))))


@pytest.mark.parametrize("with_index", [True, False])
def test_a_missing_shard_is_named(tmp_path: Path, with_index: bool) -> None:
    """By the index, and without an index by the numbers in the names."""
    folder = sharded(tmp_path)
    (folder / SHARDS[1]).unlink()
    if not with_index:
        (folder / "model.safetensors.index.json").unlink()
    found = weights_are_complete(read_model(str(folder)))
    assert names(found) == ["error"]
    assert SHARDS[1] in found[0].message


def test_a_link_to_nowhere_is_named(tmp_path: Path) -> None:
    """A cache whose blobs were deleted."""
    folder = sharded(tmp_path)
    (folder / SHARDS[1]).unlink()
    (folder / SHARDS[1]).symlink_to("../../blobs/gone")
    (found,) = weights_are_complete(read_model(str(folder)))
    assert "is a link to ../../blobs/gone, which is not there" in found.message


def test_an_index_that_does_not_fit_is_told(tmp_path: Path) -> None:
    """Tensors that no shard holds; an index that is no JSON."""
    folder = sharded(tmp_path)
    file = folder / "model.safetensors.index.json"
    index = json.loads(file.read_text("utf-8"))
    index["weight_map"]["lm_head.weight"] = SHARDS[0]
    file.write_text(json.dumps(index), "utf-8")
    (found,) = weights_are_complete(read_model(str(folder)))
    assert "names 1 tensors that no shard holds (lm_head.weight …)" in found.message
    file.write_text("{", "utf-8")
    assert (
        "model.safetensors.index.json cannot be read"
        in weights_are_complete(read_model(str(folder)))[0].message
    )


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("pytorch_model.bin", b"", "is empty"),
        ("pytorch_model.bin", b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
        ("model.gguf", b"../blobs/1", "a link that was stored as text"),
        (
            "pytorch_model-00001-of-00002.bin",
            b"PK\x03\x04" + b"\0" * 400,
            "pytorch_model-00002-of-00002.bin is not there",
        ),
    ],
)
def test_other_formats_are_looked_at_from_outside(
    tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    """Pickles are never loaded; that they are empty, pointers, links or lack a shard is told all the same."""
    (tmp_path / "config.json").write_text("{}", "utf-8")
    (tmp_path / name).write_bytes(content)
    (found,) = weights_are_complete(read_model(str(tmp_path)))
    assert words in found.message


def test_other_formats_and_leftovers_of_training_pass(tmp_path: Path) -> None:
    """A pickle that is one, an optimizer's state, training arguments, an adapter beside the model."""
    folder = model(tmp_path)
    for name in ("pytorch_model.bin", "optimizer.pt", "training_args.bin", "rng_state.pth"):
        (folder / name).write_bytes(b"PK\x03\x04" + b"\0" * 400)
    (folder / "scheduler.pt").touch()
    write(folder / "adapter_model.safetensors", {"a": np.ones(1, np.float32)})
    found = read_model(str(folder))
    assert not weights_are_complete(found)
    assert found.other_weights == ["pytorch_model.bin"]


def test_a_folder_without_weights_is_a_note(tmp_path: Path) -> None:
    """A tokenizer alone is legitimate for preflight."""
    (tmp_path / "config.json").write_text("{}", "utf-8")
    assert names(weights_are_complete(read_model(str(tmp_path)))) == ["note"]


class Remembered:
    """A tokenizer whose vocabulary is asked for once, for tests that hold it against many models."""

    def __init__(self, tokenizer: Any) -> None:
        self.vocabulary = tokenizer.get_vocab()
        self.added_tokens_decoder, self.all_special_ids = (
            tokenizer.added_tokens_decoder,
            tokenizer.all_special_ids,
        )
        self.bos_token, self.bos_token_id = tokenizer.bos_token, tokenizer.bos_token_id
        self.convert_ids_to_tokens = tokenizer.convert_ids_to_tokens

    def __len__(self) -> int:
        return len(self.vocabulary)

    def get_vocab(self) -> dict[str, int]:
        """Token -> id."""
        return dict(self.vocabulary)


CONFIGS: dict[str, dict[str, Any]] = {
    "deepseek-coder-instruct": {"vocab_size": 32256, "bos_token_id": 32013, "eos_token_id": 32021},
    "deepseek-llm-7b-chat": {"vocab_size": 102400, "bos_token_id": 100000, "eos_token_id": 100001},
    "dialogpt-small": {"vocab_size": 50257, "bos_token_id": 50256, "eos_token_id": 50256},
    "falcon-7b-instruct": {"vocab_size": 65024, "bos_token_id": 11, "eos_token_id": 11},
    "gpt2": {"vocab_size": 50257, "bos_token_id": 50256, "eos_token_id": 50256},
    "llama-2-7b-chat": {"vocab_size": 32000, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
    "llama-3-8b": {"vocab_size": 128256, "bos_token_id": 128000, "eos_token_id": 128001},
    "llama-3-8b-instruct": {"vocab_size": 128256, "bos_token_id": 128000, "eos_token_id": 128009},
    "llama-3.1-8b-instruct": {
        "vocab_size": 128256,
        "bos_token_id": 128000,
        "eos_token_id": [128001, 128008, 128009],
    },
    "llama-3.2-1b-instruct": {
        "vocab_size": 128256,
        "bos_token_id": 128000,
        "eos_token_id": [128001, 128008, 128009],
    },
    "mistral-7b-instruct-v0.2": {"vocab_size": 32000, "bos_token_id": 1, "eos_token_id": 2},
    "mistral-7b-instruct-v0.3": {"vocab_size": 32768, "bos_token_id": 1, "eos_token_id": 2},
    "olmo-2-instruct": {"vocab_size": 100352, "eos_token_id": 100257, "pad_token_id": 100277},
    "opt": {"vocab_size": 50272, "bos_token_id": 2, "eos_token_id": 2, "pad_token_id": 1},
    "phi-2": {"vocab_size": 51200, "bos_token_id": 50256, "eos_token_id": 50256},
    "phi-3-mini-4k-instruct": {
        "vocab_size": 32064,
        "bos_token_id": 1,
        "eos_token_id": 32000,
        "pad_token_id": 32000,
    },
    "pythia": {"vocab_size": 50304, "bos_token_id": 0, "eos_token_id": 0},
    "qwen2-7b": {"vocab_size": 152064, "bos_token_id": 151643, "eos_token_id": 151643},
    "qwen2-7b-instruct": {"vocab_size": 152064, "bos_token_id": 151643, "eos_token_id": 151645},
    "qwen2.5-base": {"vocab_size": 151936, "bos_token_id": 151643, "eos_token_id": 151643},
    "qwen2.5-instruct": {"vocab_size": 152064, "bos_token_id": 151643, "eos_token_id": 151645},
    "qwen3": {"vocab_size": 151936, "bos_token_id": 151643, "eos_token_id": 151645},
    "starcoder2": {"vocab_size": 49152, "bos_token_id": 0, "eos_token_id": 0},
    "tinyllama-1.1b-chat": {"vocab_size": 32000, "bos_token_id": 1, "eos_token_id": 2},
    "vicuna-7b-v1.5": {"vocab_size": 32000, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
    "zephyr-7b-beta": {"vocab_size": 32000, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2},
}
"""Sizes and ids as the released models' config.json have them (the largest size of a family with several)."""
ALIKE = (
    {n for n in CONFIGS if n.startswith("qwen")},
    {n for n in CONFIGS if n.startswith("llama-3")},
    {"gpt2", "dialogpt-small", "phi-2"},
    {
        "llama-2-7b-chat",
        "mistral-7b-instruct-v0.2",
        "mistral-7b-instruct-v0.3",
        "tinyllama-1.1b-chat",
        "vicuna-7b-v1.5",
        "zephyr-7b-beta",
    },
)
"""Families whose sizes and special ids agree: headers and configs cannot tell them apart."""


@pytest.mark.parametrize("name", CONFIGS)
def test_every_real_tokenizer_belongs_to_its_model(name: str) -> None:
    """Padded embeddings (by up to 2.3 %), end tokens of several kinds, no BOS: nothing is said."""
    found = tokenizer_belongs_to_the_model(tokenizer_of(name), ModelFolder(name, Path(), CONFIGS[name]))
    assert not found, found[0].message
    assert found.looked_at > 30_000


@pytest.mark.parametrize(
    "name",
    ["gpt2", "llama-2-7b-chat", "llama-3-8b", "qwen2.5-base", "pythia", "opt", "deepseek-coder-instruct"],
)
def test_every_real_tokenizer_is_told_from_other_models(name: str) -> None:
    """On every model of another family it is an error, whichever of the two has the larger vocabulary."""
    tokenizer = Remembered(tokenizer_of(name))
    kin = set().union({name}, *(family for family in ALIKE if name in family))
    for other in CONFIGS.keys() - kin:
        found = tokenizer_belongs_to_the_model(tokenizer, ModelFolder(other, Path(), CONFIGS[other]))
        assert "error" in names(found), (name, other)


def test_added_tokens_beyond_the_embedding_are_an_error(tmp_path: Path) -> None:
    """Tokens added without resizing: how many, the first of them, and the rows of the tensor itself, not of the config."""
    tokenizer = copy.deepcopy(tokenizer_of("gpt2"))
    tokenizer.add_tokens(["<|im_start|>", "<|im_end|>"], special_tokens=True)
    folder = model(
        tmp_path, weights={"transformer.wte.weight": np.zeros((50257, 1), np.float16)}, vocab_size=60000
    )
    (found,) = tokenizer_belongs_to_the_model(tokenizer, read_model(str(folder), "gpt2"))
    assert (
        "2 tokens of the tokenizer have ids beyond the model's 50,257 embedding rows ('<|im_start|>' is 50257 …)"
        in found.message
    )


def test_another_bos_is_a_warning() -> None:
    """A BOS that is a special token, but not the model's."""
    tokenizer = tokenizer_of("llama-3-8b")
    found = tokenizer_belongs_to_the_model(
        tokenizer, ModelFolder("m", Path(), {"vocab_size": 128256, "bos_token_id": 128006})
    )
    assert names(found) == ["warning"]


def test_a_model_of_several_modalities_has_its_text_config_read() -> None:
    """Sizes and ids lie in `text_config`."""
    tokenizer = tokenizer_of("qwen2.5-instruct")
    right = {"text_config": {"vocab_size": 152064, "eos_token_id": 151645, "hidden_size": 8}}
    assert not tokenizer_belongs_to_the_model(tokenizer, ModelFolder("m", Path(), right))
    assert tokenizer_belongs_to_the_model(
        tokenizer, ModelFolder("m", Path(), {"text_config": {"vocab_size": 32000}})
    )


def test_a_model_of_unknown_size_is_not_judged() -> None:
    """No config and no weights: looked at nothing, so nothing looks green."""
    tokenizer = tokenizer_of("gpt2")
    assert tokenizer_belongs_to_the_model(tokenizer, ModelFolder("m", Path())).looked_at == 0
