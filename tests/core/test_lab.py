"""The lab: what each artefact is, and that it is what it says it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from llmguard.errors import UsageError
from llmguard_core.lab import NAMES, Lab, lab
from llmguard_core.lab.__main__ import main, parameters

MODELS = ("base", "base-with-template", "chat", "foreign-base")
ADAPTERS = ("adapter", "broken-adapter", "foreign-adapter")
TURNS = [{"role": "user", "content": "Say hello to Tom."}, {"role": "assistant", "content": "Hello, Tom!"}]


@pytest.fixture(scope="module")
def built() -> Lab:
    """The whole lab of this user, built by whoever needs it first."""
    here = lab()
    here.build_all()
    return here


def config_of(folder: Path, name: str = "config.json") -> dict[str, Any]:
    """A JSON file of an artefact."""
    return dict(json.loads((folder / name).read_text("utf-8")))


def test_every_artefact_has_an_attribute(built: Lab) -> None:
    """And the attribute is its folder."""
    for name in NAMES:
        assert getattr(built, name.replace("-", "_")) == built.path(name) == built.folder / name
        assert (built.folder / name).is_dir()


def test_an_unknown_artefact_is_a_usage_error(built: Lab) -> None:
    """The known ones are listed."""
    with pytest.raises(UsageError, match="broken-adapter"):
        built.path("basis")


@pytest.mark.parametrize("name", MODELS)
def test_models_load_as_any_model_does(built: Lab, name: str) -> None:
    """Auto classes, safetensors, one to three million parameters, a tokenizer that fits."""
    folder = built.path(name)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert (folder / "model.safetensors").is_file()
    assert not list(folder.glob("*.bin"))
    assert len(tokenizer) == model.get_input_embeddings().weight.shape[0] == model.config.vocab_size
    assert 3e5 < model.num_parameters() < 3e6
    assert name == "foreign-base" or model.num_parameters() > 1e6
    assert all(torch.isfinite(p).all() for p in model.parameters())
    with torch.inference_mode():
        assert model(**tokenizer("Tom found a", return_tensors="pt")).logits.shape[-1] == len(tokenizer)


@pytest.mark.parametrize("name", MODELS)
def test_config_generation_config_and_tokenizer_agree(built: Lab, name: str) -> None:
    """EOS and pad are the same ids everywhere, distinct from each other; generation is greedy; there is no BOS."""
    folder = built.path(name)
    tokenizer, config = AutoTokenizer.from_pretrained(folder), AutoConfig.from_pretrained(folder)
    generation = GenerationConfig.from_pretrained(folder)
    ends = generation.eos_token_id if isinstance(generation.eos_token_id, list) else [generation.eos_token_id]
    assert config.eos_token_id == ends[0] == tokenizer.eos_token_id
    assert config.pad_token_id == generation.pad_token_id == tokenizer.pad_token_id
    assert tokenizer.pad_token_id not in ends
    assert config.bos_token_id is tokenizer.bos_token_id is None
    assert not generation.do_sample


def test_the_tokenizer_is_byte_level_and_its_control_tokens_are_single_ids(built: Lab) -> None:
    """Any text comes back as it was, whatever its bytes; the control tokens keep their ids in the middle of a text."""
    tokenizer = AutoTokenizer.from_pretrained(built.tokenizer)
    for text in ["Tom found a red kite.", "ünïcödé 日本語 🦜‍🔥", "\t\x00 a\r\n\n  b ", "  leading"]:
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    for token in ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>"]:
        (index,) = tokenizer(token)["input_ids"]
        assert index == tokenizer.convert_tokens_to_ids(token) < 4
        assert index in tokenizer(f"a{token}b")["input_ids"]
    assert 1000 <= len(tokenizer) <= 2000
    assert tokenizer.chat_template is None
    assert tokenizer("a")["input_ids"] == tokenizer("a", add_special_tokens=False)["input_ids"]


def test_base_and_base_with_template_differ_in_the_template_alone(built: Lab) -> None:
    """The same weights, the same ids, the same EOS: only one tokenizer ships a template."""
    plain, shipped = built.base, built.base_with_template
    assert (plain / "model.safetensors").read_bytes() == (shipped / "model.safetensors").read_bytes()
    one, other = AutoTokenizer.from_pretrained(plain), AutoTokenizer.from_pretrained(shipped)
    assert one.get_vocab() == other.get_vocab()
    assert one.chat_template is None
    assert one.eos_token == other.eos_token == "<|endoftext|>"
    assert other.apply_chat_template(TURNS[:1], tokenize=False, add_generation_prompt=True) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\nSay hello to Tom.<|im_end|>\n<|im_start|>assistant\n"
    )


def test_the_chat_model_ends_at_the_end_of_its_turn(built: Lab) -> None:
    """EOS `<|im_end|>` in tokenizer and configs; its template marks what the assistant says."""
    tokenizer = AutoTokenizer.from_pretrained(built.chat)
    ends = config_of(built.chat, "generation_config.json")["eos_token_id"]
    assert tokenizer.convert_ids_to_tokens(ends) == ["<|im_end|>", "<|endoftext|>"]
    told = tokenizer.apply_chat_template(TURNS, return_dict=True, return_assistant_tokens_mask=True)
    spoken = [i for i, mask in zip(told["input_ids"], told["assistant_masks"], strict=True) if mask]
    assert tokenizer.decode(spoken) == "Hello, Tom!<|im_end|>"
    base = AutoTokenizer.from_pretrained(built.base_with_template)
    assert base.apply_chat_template(TURNS, tokenize=False) == tokenizer.apply_chat_template(
        TURNS, tokenize=False
    )


@pytest.mark.parametrize(("name", "base"), list(zip(ADAPTERS, ("base", "base", "foreign-base"), strict=True)))
def test_adapters_name_their_base(built: Lab, name: str, base: str) -> None:
    """peft folders whose base exists, with A and B for every projection."""
    config = config_of(built.path(name), "adapter_config.json")
    assert config["base_model_name_or_path"] == str(built.path(base))
    weights = load_file(built.path(name) / "adapter_model.safetensors")
    layers = config_of(built.path(base))["num_hidden_layers"]
    assert len(weights) == 2 * layers * len(config["target_modules"]) == 2 * layers * 7
    assert all(w.abs().sum() > 0 for key, w in weights.items() if ".lora_A." in key)


def test_only_the_broken_adapter_has_zero_b(built: Lab) -> None:
    """Every B of a trained adapter is not zero, every B of the broken one is; their A are the same."""
    good, broken = (
        load_file(getattr(built, n) / "adapter_model.safetensors") for n in ("adapter", "broken_adapter")
    )
    foreign = load_file(built.foreign_adapter / "adapter_model.safetensors")
    assert all(w.abs().sum() > 0 for w in [*good.values(), *foreign.values()])
    for key, weight in broken.items():
        assert (
            torch.equal(weight, torch.zeros_like(weight))
            if ".lora_B." in key
            else torch.equal(weight, good[key])
        )


def test_the_foreign_adapter_does_not_fit_the_base(built: Lab) -> None:
    """Other hidden size, other vocabulary, other terminator."""
    base, foreign = config_of(built.base), config_of(built.foreign_base)
    assert base["hidden_size"] != foreign["hidden_size"]
    assert base["vocab_size"] != foreign["vocab_size"]
    weights = load_file(built.foreign_adapter / "adapter_model.safetensors")
    assert {w.shape[1] for k, w in weights.items() if "q_proj.lora_A" in k} == {foreign["hidden_size"]}
    assert AutoTokenizer.from_pretrained(built.foreign_base).eos_token == "</s>"


@pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)  # peft's own call
@pytest.mark.parametrize(("name", "changes"), [("adapter", True), ("broken_adapter", False)])
def test_the_adapter_changes_the_logits_and_the_broken_one_does_not(
    built: Lab, name: str, changes: bool
) -> None:
    """On a real forward pass."""
    from peft import PeftModel

    tokenizer = AutoTokenizer.from_pretrained(built.base)
    ids = tokenizer("List three prime numbers.", return_tensors="pt")
    model = AutoModelForCausalLM.from_pretrained(built.base)
    with torch.inference_mode():
        before = model(**ids).logits
        after = PeftModel.from_pretrained(model, str(getattr(built, name)))(**ids).logits
    assert (float((after - before).abs().max()) > 1.0) is changes
    assert changes or torch.equal(after, before)


def test_the_command_shows_a_table(built: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    """`python -m llmguard_core.lab`: where it is, each artefact with its parameters, how long it took."""
    assert main() == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == str(built.folder)
    rows = {line.split()[0]: line.split() for line in shown[2:-1]}
    assert list(rows) == list(NAMES)
    assert rows["base"][1] == str(parameters(built.base))
    assert rows["tokenizer"][1] == "-"
    assert shown[-1].startswith("ready in ")


def test_parameters_are_counted_from_headers(built: Lab) -> None:
    """The same number as the tensors have."""
    weights = load_file(built.base / "model.safetensors")
    assert parameters(built.base) == sum(w.numel() for w in weights.values())
