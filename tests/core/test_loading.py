"""Loading: what was asked for and nothing else, from a folder that nobody writes to; refused with the reason otherwise."""

from __future__ import annotations

import json
import logging
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support import real

from llmguard_core.errors import LoadRefused, OutOfMemory
from llmguard_core.lab import Lab, lab
from llmguard_core.loading import Loaded, load_base, load_chat, load_tokenizer

# peft asks transformers 5 for an old name
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


@pytest.fixture(scope="module")
def here() -> Lab:
    """The lab's models."""
    return lab()


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No MODEL_PATH but a test's own."""
    monkeypatch.delenv("MODEL_PATH", raising=False)


@pytest.fixture
def copied(here: Lab, tmp_path: Path) -> Callable[..., Path]:
    """A model of the lab under another name, to be changed."""

    def copy(name: str, as_: str = "model", **config: Any) -> Path:
        folder = tmp_path / as_
        shutil.copytree(here.path(name), folder)
        file = folder / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **config}))
        return folder

    return copy


def said(loaded: Loaded) -> str:
    """The route as one text."""
    return "\n".join(loaded.route)


def logits(loaded: Loaded, text: str = "three primes") -> torch.Tensor:
    """Of the last token."""
    ids = torch.tensor([loaded.tokenizer(text)["input_ids"]])
    with torch.no_grad():
        found: torch.Tensor = loaded.model(ids).logits[0, -1]
    return found


def test_a_base_model_has_no_template(here: Lab, caplog: pytest.LogCaptureFixture) -> None:
    """It is taken off, and the route says so, and what a prompt becomes; every line of it is logged."""
    with caplog.at_level(logging.INFO, logger="llmguard_core"):
        loaded = load_base(here.base_with_template, device="cpu")
    assert loaded.kind == "base"
    assert loaded.tokenizer.chat_template is None
    assert not loaded.model.training
    assert loaded.model.dtype == torch.float32
    assert "chat template: taken off (" in said(loaded)
    assert "add_special_tokens=False; special tokens before it: none" in said(loaded)
    assert f"'Hello' -> {loaded.tokenizer('Hello')['input_ids']}" in said(loaded)
    assert "from safetensors" in said(loaded)
    assert set(loaded.route) <= set(caplog.messages)


def test_a_chat_model_keeps_its_template(here: Lab, copied: Any) -> None:
    """One that renders every message; without one, or with one that drops the user's words, it is refused."""
    loaded = load_chat(here.chat, device="cpu")
    assert loaded.kind == "chat"
    assert loaded.tokenizer.chat_template
    assert "rendered by the template with add_generation_prompt=True" in said(loaded)
    assert "<|im_start|>user\\nHello<|im_end|>" in said(loaded)
    with pytest.raises(LoadRefused, match="has no chat template"):
        load_chat(here.base, device="cpu")
    folder = copied("chat")
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages if m.role == 'assistant' %}{{ m.content }}{% endfor %}"
    )
    with pytest.raises(LoadRefused, match="leaves out the user message"):
        load_chat(folder, device="cpu")


@pytest.mark.parametrize(
    ("name", "as_", "config", "mark"),
    [
        ("base", "Qwen2.5-0.5B-Instruct", {}, "says 'Instruct'"),
        ("base", "gemma-2-2b-it", {}, "says 'it'"),
        ("base", "llama-2-7b-chat-hf", {}, "says 'chat'"),
        ("base", "model", {"_name_or_path": "org/some-Chat"}, "says 'Chat'"),
        ("chat", "model", {}, r"its EOS '<\|im_end\|>' ends a turn"),
    ],
)
def test_instruct_models_are_refused_as_base(
    copied: Any, name: str, as_: str, config: Any, mark: str
) -> None:
    """By name and by the token that ends its texts; who means it says so."""
    folder = copied(name, as_, **config)
    with pytest.raises(LoadRefused, match=rf"(?s){mark}.*allow_instruct=True"):
        load_base(folder, device="cpu")
    assert load_base(folder, device="cpu", allow_instruct=True).tokenizer.chat_template is None


@pytest.mark.parametrize("as_", ["digital-model", "commit-7b", "chatty", "sft-run-it2", "instructions"])
def test_names_that_only_sound_like_it_are_fine(copied: Any, as_: str) -> None:
    """Whole words count, and only in the model's own name."""
    assert load_base(copied("base", as_), device="cpu").kind == "base"


def test_model_path_wins(
    here: Lab, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Over a hub id and over a folder, with a line in the log; not over an adapter, nor where a model is meant by itself."""
    monkeypatch.setenv("MODEL_PATH", str(here.base))
    assert said(load_base("Qwen/Qwen2.5-0.5B", device="cpu")).startswith(f"model: {here.base}")
    assert "MODEL_PATH wins" in caplog.text
    assert str(here.adapter) in said(load_base(here.adapter, device="cpu"))
    assert said(load_base(device="cpu")).startswith(f"model: {here.base}")
    alone = load_base(here.foreign_base, device="cpu", environment=False)
    assert said(alone).startswith(f"model: {here.foreign_base}")
    monkeypatch.delenv("MODEL_PATH")
    with pytest.raises(LoadRefused, match="no model is named"):
        load_base(device="cpu")


def test_a_read_only_folder_is_enough(copied: Any) -> None:
    """Nothing is written into it: same files, same times; and it may be without write permission."""
    folder = copied("base")
    for file in folder.iterdir():
        file.chmod(0o444)
    folder.chmod(0o555)
    before = {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
    try:
        load_base(folder, device="cpu")
        assert {file.name: file.stat().st_mtime_ns for file in folder.iterdir()} == before
    finally:
        folder.chmod(0o755)


def test_what_is_not_there_is_refused_at_once(here: Lab, tmp_path: Path) -> None:
    """With near names, without asking the network, in milliseconds."""
    (tmp_path / "Qwen2.5-0.5B").mkdir()
    with pytest.raises(LoadRefused, match=r"does not exist; near it lies Qwen2\.5-0\.5B"):
        load_base(tmp_path / "Qwen2.5-0.5b", device="cpu")
    with pytest.raises(LoadRefused, match=r"(?s)not in the local cache.*hf download"):
        load_base("Qwen/Qwen2.5-0.5B", device="cpu")
    with pytest.raises(LoadRefused, match="holds no weights"):
        load_base(here.tokenizer, device="cpu")


def test_weights_that_are_not_whole_are_refused(copied: Any) -> None:
    """Cut off; of another config, so that tensors would start at random; with a tensor too few."""
    folder = copied("base")
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(LoadRefused, match=r"model\.safetensors"):
        load_base(folder, device="cpu")
    with pytest.raises(
        LoadRefused, match=r"tensors of the model are missing in its files .* would start at random"
    ):
        load_base(copied("base", "deeper", num_hidden_layers=3), device="cpu")
    with pytest.raises(LoadRefused, match=r"are of another shape in its files .*mlp"):
        load_base(copied("base", "wider", intermediate_size=8), device="cpu")


def test_pickled_code_is_never_run(copied: Any, tmp_path: Path) -> None:
    """Pickles of tensors load; one that runs something is refused, and has not run."""
    from safetensors.torch import load_file

    ran = tmp_path / "ran"

    class Bad:
        def __reduce__(self) -> Any:
            return Path.touch, (ran,)

    folder = copied("base")
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    assert "pickles" in said(load_base(folder, device="cpu"))
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"model.embed_tokens.weight": Bad()}, protocol=2))
    with pytest.raises(LoadRefused):
        load_base(folder, device="cpu")
    assert not ran.exists()


def test_another_models_tokenizer_is_refused(here: Lab) -> None:
    """Its special ids, or ids beyond the embedding."""
    with pytest.raises(LoadRefused, match="tokenizer_belongs_to_the_model"):
        load_base(here.base, device="cpu", tokenizer=here.foreign_base)
    with pytest.raises(LoadRefused, match="embedding rows"):
        load_base(here.foreign_base, device="cpu", tokenizer=here.base)


def test_adapters_are_verified_against_their_base(here: Lab, copied: Any) -> None:
    """Put on where they belong, with an effect; another base's, an untrained one and half a one are refused."""
    base, tuned = load_base(here.base, device="cpu"), load_base(here.base, device="cpu", adapter=here.adapter)
    assert not torch.allclose(logits(base), logits(tuned), atol=1e-3)
    assert "verified against its base" in said(tuned)
    assert torch.equal(logits(tuned), logits(load_base(here.adapter, device="cpu")))
    for adapter, what in (
        (here.foreign_adapter, "adapter_belongs_to_its_base"),
        (here.broken_adapter, "adapter_is_trained"),
        (here.base, "adapter_files_are_whole"),
        (here.base / "nothing", "does not exist"),
    ):
        with pytest.raises(LoadRefused, match=what):
            load_base(here.base, device="cpu", adapter=adapter)
    with pytest.raises(LoadRefused, match="is an adapter, and another one"):
        load_base(here.adapter, device="cpu", adapter=here.adapter)


def test_dtype_device_and_device_map(here: Lab) -> None:
    """As asked for; both places, or a dtype that does not exist, are refused."""
    half = load_base(here.base, device="cpu", dtype="bfloat16")
    assert half.model.dtype == torch.bfloat16
    assert "in bfloat16 on cpu" in said(half)
    spread = load_base(here.base, device_map={"": "cpu"}, dtype="float32")
    assert "device map {'': 'cpu'}" in said(spread)
    assert torch.equal(logits(spread), logits(load_base(here.base, device="cpu")))
    with pytest.raises(LoadRefused, match="both device and device_map"):
        load_base(here.base, device="cpu", device_map="auto")
    with pytest.raises(LoadRefused, match="no dtype 'float12'"):
        load_base(here.base, device="cpu", dtype="float12")


def test_too_little_memory_is_told_before_anything_is_allocated(
    here: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Needed against free; and where it is full in the middle, one clear error without the traceback's tensors."""
    from llmguard_core.memory import Device

    monkeypatch.setattr(Device, "free", lambda self: 2**20)
    with pytest.raises(OutOfMemory, match=r"need 0\.00 GiB, 0\.00 GiB are free on cpu; nothing was loaded"):
        load_base(here.base, device="cpu")
    monkeypatch.undo()

    def full(*args: Any, **more: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", full)
    with pytest.raises(OutOfMemory, match=r"loading .* GiB of weights\): no memory left"):
        load_base(here.base, device="cpu")


def test_tokenizers_get_a_pad_token_that_is_not_eos_where_there_is_one(tmp_path: Path) -> None:
    """Real releases without a pad token: a token that they have for it, unk, and EOS only where there is nothing else."""
    wanted = {
        "llama-2-7b-chat": "<unk>",
        "llama-3.2-1b-instruct": "<|finetune_right_pad_id|>",
        "gpt2": "<|endoftext|>",
        "qwen3": "<|endoftext|>",
    }
    for name, pad in wanted.items():
        tokenizer = load_tokenizer(real.tokenizer_folder(name), "base")
        assert tokenizer.pad_token == pad
        assert tokenizer.chat_template is None


def test_bos_is_told_where_a_tokenizer_wants_one() -> None:
    """The route names the ids that stand before a prompt."""
    from llmguard_core.tokenizer import tokenisation

    lines = tokenisation(load_tokenizer(real.tokenizer_folder("llama-2-7b-chat"), "base"), "base")
    assert "special tokens before it: ['<s>'] [1], since tokenizer(text) puts it there" in lines[0]
    assert lines[1].endswith("'Hello' -> [1, 15043]")
