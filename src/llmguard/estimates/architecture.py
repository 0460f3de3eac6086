"""What a model's config.json says of its size: widths, layers, vocabulary and, from them, its parameters. No torch, no weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

__all__ = ["Architecture", "Linear", "architecture_of"]

_NAMES = {
    "hidden": ("hidden_size", "n_embd", "d_model"),
    "layers": ("num_hidden_layers", "n_layer", "num_layers", "n_layers"),
    "heads": ("num_attention_heads", "n_head", "n_heads"),
    "inner": ("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size"),
    "vocab": ("vocab_size",),
    "positions": ("n_positions", "max_position_embeddings"),
}
_TWO_MATRICES = frozenset(
    "gpt2 gpt_neo gpt_neox gptj codegen gpt_bigcode opt bloom falcon mpt phi starcoder2 xglm nemotron".split()
)
"""Models whose feed-forward part has two matrices; in all others a third one gates."""
_GATED = frozenset(
    "llama mistral qwen2 qwen3 gemma gemma2 gemma3_text phi3 mixtral qwen2_moe qwen3_moe olmo olmo2 stablelm granite cohere "
    "cohere2 smollm3 internlm2 deepseek helium ministral seed_oss".split()
)
_TIED = frozenset(
    "gpt2 gpt_neo gpt_bigcode opt bloom falcon mpt gemma gemma2 gemma3_text starcoder2 cohere cohere2 xglm smollm3".split()
)
"""Models that share input and output embedding where their config does not say (what a class's default is, is not written)."""
_LEARNED_POSITIONS = frozenset("gpt2 gpt_neo opt gpt_bigcode xglm".split())
_FOUR_NORMS = frozenset("gemma2 gemma3_text".split())
_FOUR_TIMES = frozenset("gpt2 gpt_neo gpt_neox gptj codegen gpt_bigcode bloom falcon mpt".split())
_PYTHON_GELU = ("gelu_new", "gelu_fast", "quick_gelu", "relu2")
"""Activation functions that are written out in Python, so that every step of them is kept for the backward pass."""
_ACTS = {
    "gpt2": "gelu_new",
    "gpt_neo": "gelu_new",
    "gptj": "gelu_new",
    "codegen": "gelu_new",
    "phi": "gelu_new",
}
_NOT_KNOWN = 0.25
"""How far the count may be off for a kind of model that is in none of these lists (extra projections, biases, convolutions)."""
_KNOWN = 0.02


@dataclass(frozen=True)
class Linear:
    """One matrix of a layer: its name as adapters target it, its widths, how many of it a layer has (experts)."""

    name: str
    inputs: int
    outputs: int
    count: int = 1

    @property
    def parameters(self) -> int:
        """Values in all of them, biases left out."""
        return self.inputs * self.outputs * self.count


@dataclass(frozen=True)
class Architecture:
    """A decoder's sizes. `spread`: how far, as a share, the count of parameters may be off; 0 where it was read from headers.

    `kv`: width of keys and of values (heads x head width); `query`: that of queries; `active`: experts that a token passes
    through; `keeps_scores`: attention may keep its scores (dropout or soft capping rule the fused kernels out); `python_gelu`: the
    activation is written out in Python; `counted`: parameters by the headers of the weights, where they are there.
    """

    kind: str
    hidden: int
    layers: int
    heads: int
    query: int
    kv: int
    inner: int
    vocab: int
    gated: bool
    tied: bool
    positions: int = 0
    experts: int = 1
    active: int = 1
    norms: int = 2
    keeps_scores: bool = False
    python_gelu: bool = False
    dtype: str = ""
    spread: float = _KNOWN
    counted: int | None = None

    @property
    def linears(self) -> tuple[Linear, ...]:
        """The matrices of one layer."""
        h, f, n = self.hidden, self.inner, self.experts
        gate = (Linear("gate_proj", h, f, n),) if self.gated else ()
        return (
            Linear("q_proj", h, self.query), Linear("k_proj", h, self.kv), Linear("v_proj", h, self.kv),
            Linear("o_proj", self.query, h), *gate, Linear("up_proj", h, f, n), Linear("down_proj", f, h, n),
        )  # fmt: skip

    @property
    def parameters(self) -> int:
        """Parameters: by the headers of the weights, else by the config (`spread` says how sure that is)."""
        if self.counted is not None:
            return self.counted
        embeddings = self.vocab * self.hidden * (1 if self.tied else 2) + self.positions * self.hidden
        layer = sum(linear.parameters for linear in self.linears) + 4 * self.hidden
        router = self.hidden * self.experts if self.experts > 1 else 0
        return embeddings + self.layers * (layer + router) + self.hidden

    def with_count(self, parameters: int) -> Architecture:
        """The same with the exact count of parameters, from the headers of its weights."""
        return replace(self, counted=parameters, spread=0.0)


def architecture_of(config: Mapping[str, Any]) -> Architecture | None:
    """The sizes that a config.json tells; None where it does not tell enough (no decoder of transformer layers)."""
    inner = config.get("text_config")
    said = {**config, **inner} if isinstance(inner, Mapping) else dict(config)
    sizes = {name: _first(said, keys) for name, keys in _NAMES.items()}
    kind = str(said.get("model_type") or "")
    hidden, layers, heads, vocab = (sizes[name] for name in ("hidden", "layers", "heads", "vocab"))
    if not (hidden and layers and heads and vocab):
        return None
    head = _first(said, ("head_dim",)) or hidden // heads
    per_expert = _first(said, ("moe_intermediate_size",))
    experts = _first(said, ("num_local_experts", "num_experts", "n_routed_experts")) or 1
    feed = (per_expert if experts > 1 else None) or sizes["inner"] or 4 * hidden
    shared = said.get("tie_word_embeddings")
    known = (kind in _TWO_MATRICES or kind in _GATED) and (sizes["inner"] or kind in _FOUR_TIMES)
    return Architecture(
        kind=kind,
        hidden=hidden,
        layers=layers,
        heads=heads,
        query=heads * head,
        kv=_kv_heads(said, kind, heads) * head,
        inner=feed,
        vocab=vocab,
        gated=kind not in _TWO_MATRICES,
        tied=shared if isinstance(shared, bool) else kind in _TIED,
        positions=(sizes["positions"] or 0) if kind in _LEARNED_POSITIONS else 0,
        experts=experts,
        active=(_first(said, ("num_experts_per_tok", "num_experts_per_token")) or 1) if experts > 1 else 1,
        norms=4 if kind in _FOUR_NORMS else 2,
        keeps_scores=any(
            said.get(key) for key in ("attention_dropout", "attn_pdrop", "attn_logit_softcapping")
        ),
        python_gelu=str(said.get("activation_function") or said.get("hidden_act") or _ACTS.get(kind, ""))
        in _PYTHON_GELU,
        dtype=str(said.get("dtype") or said.get("torch_dtype") or ""),
        spread=_KNOWN if known else _NOT_KNOWN,
    )


def _first(said: Mapping[str, Any], keys: tuple[str, ...]) -> int | None:
    return next(_whole(said, keys), None)


def _whole(said: Mapping[str, Any], keys: tuple[str, ...]) -> Iterator[int]:
    for key in keys:
        value = said.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            yield value


def _kv_heads(said: Mapping[str, Any], kind: str, heads: int) -> int:
    if kind == "falcon" and not said.get("new_decoder_architecture"):
        return 1 if said.get("multi_query", True) else heads
    if kind == "gpt_bigcode":
        return 1 if said.get("multi_query", True) else heads
    return _first(said, ("num_key_value_heads", "num_kv_heads")) or heads
