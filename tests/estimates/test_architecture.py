"""Parameters from a config.json alone: the published counts of public models come out of their published sizes."""

from __future__ import annotations

from typing import Any

import pytest

from llmguard.estimates import architecture_of

PUBLIC: dict[str, tuple[dict[str, Any], int]] = {
    "Llama-3-8B": ({"model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
                    "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256}, 8_030_261_248),
    "Qwen2.5-0.5B": ({"model_type": "qwen2", "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
                      "num_attention_heads": 14, "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True}, 494_032_768),
    "Mistral-7B": ({"model_type": "mistral", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
                    "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 32000}, 7_241_732_096),
    "Mixtral-8x7B": ({"model_type": "mixtral", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
                      "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 32000, "num_local_experts": 8}, 46_702_792_704),
    "gemma-2b": ({"model_type": "gemma", "hidden_size": 2048, "intermediate_size": 16384, "num_hidden_layers": 18,
                  "num_attention_heads": 8, "num_key_value_heads": 1, "head_dim": 256, "vocab_size": 256000}, 2_506_172_416),
    "gpt2": ({"model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12, "vocab_size": 50257, "n_positions": 1024}, 124_439_808),
    "phi-2": ({"model_type": "phi", "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 32,
               "num_attention_heads": 32, "vocab_size": 51200}, 2_779_683_840),
    "opt-1.3b": ({"model_type": "opt", "hidden_size": 2048, "ffn_dim": 8192, "num_hidden_layers": 24, "num_attention_heads": 32,
                  "vocab_size": 50272, "max_position_embeddings": 2048}, 1_315_758_080),
    "pythia-1b": ({"model_type": "gpt_neox", "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
                   "num_attention_heads": 8, "vocab_size": 50304}, 1_011_781_632),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLIC)
def test_published_counts_come_out_of_published_sizes(name: str) -> None:
    config, published = PUBLIC[name]
    model = architecture_of(config)
    assert model is not None
    assert model.parameters == pytest.approx(published, rel=0.005)
    assert model.spread == pytest.approx(0.02)


def test_a_text_model_inside_of_another_is_found() -> None:
    config, published = PUBLIC["Mistral-7B"]
    model = architecture_of({"model_type": "mistral3", "text_config": config})
    assert model is not None
    assert model.parameters == pytest.approx(published, rel=0.005)


def test_a_kind_of_model_nobody_listed_is_counted_with_doubt() -> None:
    config, _ = PUBLIC["Llama-3-8B"]
    model = architecture_of({**config, "model_type": "brand_new"})
    assert model is not None
    assert model.spread == pytest.approx(0.25)


@pytest.mark.parametrize(
    "config", [{}, {"model_type": "mamba", "hidden_size": 8, "vocab_size": 9}, {"hidden_size": "8"}]
)
def test_what_is_no_decoder_of_layers_is_not_guessed(config: dict[str, Any]) -> None:
    assert architecture_of(config) is None


def test_the_headers_of_the_weights_are_exact() -> None:
    model = architecture_of(PUBLIC["gpt2"][0])
    assert model is not None
    assert (model.with_count(7).parameters, model.with_count(7).spread) == (7, 0.0)


@pytest.mark.parametrize(("old", "kv"), [(True, 64), (False, 8 * 64)])
def test_falcon_shares_keys_as_its_decoder_says(old: bool, kv: int) -> None:
    config = {"model_type": "falcon", "hidden_size": 4544, "num_hidden_layers": 32, "num_attention_heads": 71, "vocab_size": 65024,
              "num_kv_heads": 8, "multi_query": True, "new_decoder_architecture": not old}  # fmt: skip
    model = architecture_of(config)
    assert model is not None
    assert model.kv == kv
