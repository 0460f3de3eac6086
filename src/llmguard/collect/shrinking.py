"""A small model of the same architecture: the config's class and switches kept, its sizes made tiny and still legal."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

__all__ = ["LAYERS", "VOCABULARY", "shrunken", "small_model"]

LAYERS, WIDTH, HEADS, HEAD, EXPERTS, VOCABULARY = 2, 64, 4, 16, 4, 512
SIZES: Mapping[str, int] = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "word_embed_proj_dim", "embedding_size"), WIDTH),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), LAYERS),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads"), HEADS),
    **dict.fromkeys(("head_dim", "v_head_dim", "qk_nope_head_dim", "qk_rope_head_dim", "kv_lora_rank"), HEAD),
    **dict.fromkeys(("q_lora_rank", "query_pre_attn_scalar", "attention_head_dim", "kv_channels"), HEAD),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size", "d_ff"), 2 * WIDTH),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "expert_dim"), WIDTH),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), EXPERTS),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk", "moe_k"), 2),
    **dict.fromkeys(("n_group", "topk_group", "n_shared_experts", "first_k_dense_replace"), 1),
    **dict.fromkeys(("linear_num_key_heads", "linear_num_value_heads"), 2),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim", "rotary_dim"), HEAD),
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads"), 8),
    **dict.fromkeys(("mamba_d_head", "mamba_head_dim"), HEAD),
    "hidden_size_per_layer_input": HEAD,
    "vocab_size": VOCABULARY,
    "vocab_size_per_layer_input": VOCABULARY,
}
"""Names of sizes in configs of transformers; a size that a config does not have, or has as None, stays as it is."""
SPECIAL = ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id", "sep_token_id")
DROPPED = ("quantization_config",)


def shrunken(config: Any, *, keep_ids: bool = False) -> Any:
    """A copy of a config with two layers (one of each kind, where kinds differ), a width of 64 and 512 ids; 0 pads.

    `keep_ids`: the vocabulary and the special ids stay as they are.
    """
    small = copy.deepcopy(config.get_text_config() if hasattr(config, "get_text_config") else config)
    kinds = _layer_kinds(small)
    many = len(kinds) if kinds else LAYERS
    heads = _get(small, "num_attention_heads")
    for name, size in SIZES.items():
        if isinstance(_get(small, name), (int, float)) and not (keep_ids and name.startswith("vocab_size")):
            _set(small, name, many if size == LAYERS and "layer" in name and "per" not in name else size)
    for name in ("num_key_value_heads", "n_head_kv", "num_kv_heads"):
        if isinstance(kept := _get(small, name), int):
            _set(small, name, HEADS if kept == heads else max(1, min(kept, 2)))
    _set_lists(small, kinds)
    for name in DROPPED if keep_ids else (*SPECIAL, *DROPPED):
        if _get(small, name) is not None:
            _set(small, name, 0 if name == "pad_token_id" else 1 if name in SPECIAL else None)
    return small


def _layer_kinds(config: Any) -> list[str]:
    """One of each kind of layer that a config names, at least two layers in all."""
    told = _get(config, "layer_types")
    if not isinstance(told, (list, tuple)) or not told:
        return []
    kinds = list(dict.fromkeys(told))
    return kinds if len(kinds) >= LAYERS else kinds * LAYERS


def _set_lists(config: Any, kinds: list[str]) -> None:
    """Lists of a value a layer, and of a value a pair of dimensions, at their new lengths."""
    if kinds:
        _set(config, "layer_types", kinds)
    name = next((n for n in ("rope_parameters", "rope_scaling") if isinstance(_get(config, n), dict)), "")
    if name:  # the second is the old name of the first
        _set(config, name, _rope(_get(config, name)))
    for name in ("mlp_layer_types", "no_rope_layers", "attention_layers"):
        if isinstance(told := _get(config, name), (list, tuple)):
            _set(config, name, list(told[: len(kinds) or LAYERS]))


def _rope(told: Mapping[str, Any]) -> dict[str, Any]:
    found = {k: _rope(v) if isinstance(v, dict) else v for k, v in told.items()}
    for name in ("short_factor", "long_factor"):
        if isinstance(found.get(name), list):
            found[name] = list(found[name])[: HEAD // 2]
    if isinstance(found.get("mrope_section"), list):
        found["mrope_section"] = [2, 3, 3]
    return found


def _get(config: Any, name: str) -> Any:
    """A setting, None where there is none or no single one."""
    try:
        return getattr(config, name, None)
    except Exception:  # a config whose layers differ raises an error of its own for what has no one value
        return None


def _set(config: Any, name: str, value: Any) -> None:
    """Set what a config lets be set: some sizes are properties of others."""
    try:
        setattr(config, name, value)
    except (AttributeError, TypeError, ValueError):
        return


def small_model(config: Any, attention: str | None = None) -> Any:
    """A model of random weights with the shrunken config, in float32 on the CPU, in evaluation mode, the same every time.

    `attention`: the attention implementation. Raises what transformers raises where it makes no model of such a config.
    """
    import torch
    from transformers import AutoModelForCausalLM

    small = shrunken(config)
    small._attn_implementation = None  # what was asked for may need a GPU
    asked = {"attn_implementation": attention} if attention else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Any = AutoModelForCausalLM.from_config(small, **asked)
    return model.float().eval()
