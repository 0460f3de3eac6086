"""Flash attention on the CPU: transformers' own code decides what is called, a plain computation stands in for the kernels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

__all__ = ["NAME", "flash_on_cpu", "is_flash"]

NAME = "flash_attention_2"


def is_flash(attention: str | None) -> bool:
    """Whether an attention implementation is one of the flash family (transformers' names, and kernels of the hub)."""
    return "flash" in (attention or "")


@contextmanager
def flash_on_cpu(model: Any) -> Iterator[None]:
    """Let a model run as with flash attention 2 while this lasts.

    Raises:
        LookupError: the installed transformers keeps its kernels where they cannot be replaced.
    """
    from transformers import modeling_flash_attention_utils as home

    if not hasattr(home, "_lazy_imports") or not hasattr(home, "_pad_input"):
        raise LookupError("this version of transformers binds the flash kernels when it is imported")
    from transformers.integrations import flash_attention as caller

    names = "_lazy_imports", "_loaded_implementation"
    before = [(home, n, getattr(home, n)) for n in names if hasattr(home, n)]
    before += [(caller, n, getattr(caller, n)) for n in ("get_target_dtype",) if hasattr(caller, n)]
    configs = {id(m.config): m.config for m in model.modules() if hasattr(m, "config")}.values()
    told = [(c, c._attn_implementation) for c in configs]
    home._lazy_imports = _kernels
    home._loaded_implementation = None
    caller.get_target_dtype = lambda *_: None  # the kernels want half precision, these do not
    try:
        for config in configs:
            config._attn_implementation = NAME
        yield
    finally:
        for config, name in told:
            config._attn_implementation = name
        for module, name, value in before:
            setattr(module, name, value)


def _kernels(*_: Any, **__: Any) -> tuple[Any, ...]:
    from transformers import modeling_flash_attention_utils as home

    return _dense, _varlen, None, home._pad_input, home._unpad_input


def _dense(
    q: Any,
    k: Any,
    v: Any,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    deterministic: bool = False,
) -> Any:
    """Attention of [rows, tokens, heads, width], as `flash_attn_func` gives it."""
    import torch

    groups = q.shape[2] // k.shape[2]
    k, v = (x.repeat_interleave(groups, dim=2) for x in (k, v))
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k) * (softmax_scale or q.shape[-1] ** -0.5)
    scores = torch.tanh(scores / softcap) * softcap if softcap else scores
    queries, keys = q.shape[1], k.shape[1]
    far = torch.arange(keys)[None, :] - torch.arange(queries)[:, None] - (keys - queries)
    left, right = window_size
    hidden = (far > 0) if causal else torch.zeros_like(far, dtype=torch.bool)
    hidden |= (far < -left) if left >= 0 else torch.zeros_like(hidden)
    hidden |= (far > right) if right >= 0 else torch.zeros_like(hidden)
    weights = scores.masked_fill(hidden, float("-inf")).softmax(-1).nan_to_num()
    return torch.einsum("bhqk,bkhd->bqhd", weights, v)


def _varlen(
    q: Any,
    k: Any,
    v: Any,
    cu_seqlens_q: Any,
    cu_seqlens_k: Any,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    deterministic: bool = False,
) -> Any:
    """Attention of documents laid end to end, [tokens, heads, width], as `flash_attn_varlen_func` gives it."""
    import torch

    out = torch.zeros(*q.shape[:2], v.shape[-1], dtype=q.dtype)
    bounds = zip(*(list(pairwise(c)) for c in (cu_seqlens_q, cu_seqlens_k)), strict=True)
    for (a, b), (c, d) in bounds:
        part = _dense(
            q[None, a:b], k[None, c:d], v[None, c:d], 0.0, softmax_scale, causal, window_size, softcap
        )
        out[a:b] = part[0]
    return out
