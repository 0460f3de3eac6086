"""Do packed documents see each other? One is changed, the logits of the others are watched, on a tiny model of the same architecture."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmguard.collect.documents import Short, documents, shortened
from llmguard.collect.flash import is_flash
from llmguard.collect.shrinking import VOCABULARY, small_model

__all__ = ["Emitted", "handed_over", "isolation_of"]

BATCHES = 4
SEEN = 1e-3
"""A change of another document's logits, as a share of the change of its own, from which on it has been seen."""
COMPILED = "flex_attention"
OPTIONS = ("use_cache", "max_length_q", "max_length_k", "output_router_logits")


@dataclass(frozen=True)
class Emitted:
    """What a collator or a Trainer gave, and the config of the model that it is for.

    `prepared`: what the Trainer hands to a model for a batch, given both; None where the batch goes in as it is. `missing`: why
    there is no config.
    """

    batches: Sequence[Mapping[str, Any]]
    config: Any = None
    prepared: Callable[[Any, dict[str, Any]], dict[str, Any]] | None = None
    missing: str = ""


class _Handed(Exception):
    """Thrown out of a model's forward with what it was given."""


def handed_over(trainer: Any, model: Any, batch: dict[str, Any]) -> dict[str, Any]:
    """What a Trainer gives to a model for a batch: its own `compute_loss` is called, and stopped where the model would begin.

    Where that does not get as far as the model, the batch as it is.
    """
    given: list[dict[str, Any]] = []

    def caught(_: Any, __: Any, named: dict[str, Any]) -> None:
        given.append(named)
        raise _Handed

    hook = model.register_forward_pre_hook(caught, with_kwargs=True)
    try:
        trainer.compute_loss(model, {"labels": batch["input_ids"], **batch})
    except (
        Exception
    ):  # _Handed among them: it may come back wrapped, and the user's own loss may raise anything
        return given[0] if given and "input_ids" in given[0] else batch
    finally:
        hook.remove()
    return batch


def isolation_of(emitted: Emitted, attention: str | None = None) -> dict[str, Any]:
    """What became of the other documents when one was changed.

    `documents`, `rows`: documents in rows that hold several; `told_by`: the columns that tell them apart; `attention`, `model`:
    what was measured; `pairs`: documents watched; `seen`: of those, how many changed; `own`, `across`: largest changes of the
    logits of the changed document and of another; `first`: where; `flash`: the same with flash attention, where the
    implementation is not said. Or `unmeasured`: why there is nothing of this.
    """
    found = [(n, b, *documents(b)) for n, b in enumerate(emitted.batches[:BATCHES]) if _is_batch(b)]
    told = {name for _, _, _, names in found for name in names}
    several = [(n, b, spans) for n, b, spans, _ in found if any(len(s) > 1 for s in spans)]
    counts = {
        "rows": sum(len(s) > 1 for _, _, spans in several for s in spans),
        "documents": sum(len(s) for _, _, spans in several for s in spans if len(s) > 1),
        "told_by": sorted(told),
    }
    if not several:
        return {**counts, "pairs": 0}
    if emitted.config is None:
        return {**counts, "unmeasured": emitted.missing or "the model has no config"}
    try:
        shorts = [(n, short) for n, b, spans in several if (short := shortened(b, spans))]
    except Exception as fault:  # columns of shapes that nobody has thought of
        return {**counts, "unmeasured": f"the batch cannot be cut to a few documents: {_line(fault)}"}
    if not shorts:
        return {**counts, "unmeasured": "the documents are too short to be told from one another"}
    return {**counts, **_measured(emitted, shorts, attention)}


def _is_batch(batch: Any) -> bool:
    return hasattr(batch, "keys") and getattr(batch.get("input_ids"), "ndim", 0) == 2


def _measured(emitted: Emitted, shorts: Sequence[tuple[int, Short]], attention: str | None) -> dict[str, Any]:
    declared = attention or getattr(emitted.config, "_attn_implementation", None)
    if declared == COMPILED:
        return {
            "attention": declared,
            "unmeasured": f"{declared} is compiled for a GPU, and is not run on the CPU",
        }
    try:
        model = small_model(emitted.config, "sdpa" if is_flash(declared) else declared)
    except Exception as fault:  # what a config class of anybody's raises when it is made small
        return {"unmeasured": f"no small model of this architecture could be made: {_line(fault)}"}
    facts = {"model": type(model).__name__, "attention": declared or model.config._attn_implementation}
    try:
        watched = [
            (n, _watched(emitted, model, short, flash=is_flash(declared)), short) for n, short in shorts
        ]
        other = None if declared else _with_flash(emitted, model, shorts)
    except Exception as fault:  # what a model, or the user's own loss, raises for this batch
        return {**facts, "unmeasured": f"the small model does not take the batch: {_line(fault)}"}
    return {**facts, **_summed(watched), **({} if other is None else {"flash": other})}


def _with_flash(emitted: Emitted, model: Any, shorts: Sequence[tuple[int, Short]]) -> dict[str, Any] | None:
    """The same with flash attention, None where it cannot be had here."""
    with contextlib.suppress(Exception):  # a second opinion: without it the first one stands
        return _summed([(n, _watched(emitted, model, short, flash=True), short) for n, short in shorts])
    return None


Seen = list[tuple[int, int, int, float, float]]
"""Row, changed document, watched document, change of its own logits, change of the watched one's."""


def _watched(emitted: Emitted, model: Any, short: Short, *, flash: bool) -> Seen:
    import torch

    from llmguard.collect.flash import flash_on_cpu

    columns = _for_model(emitted, model, short.columns)
    found: Seen = []
    with torch.inference_mode(), flash_on_cpu(model) if flash else contextlib.nullcontext():
        before = model(**columns).logits
        for row, spans in enumerate(short.spans):
            for i, (start, stop) in enumerate(spans):
                changed = columns["input_ids"].clone()
                changed[row, start:stop] = 1 + (changed[row, start:stop] + 99) % (VOCABULARY - 1)
                moved = (model(**{**columns, "input_ids": changed}).logits - before)[row].abs().amax(-1)
                others = [(j, span) for j, span in enumerate(spans) if j != i]
                own = float(moved[start:stop].max())
                found += [(row, i, j, own, float(moved[a:b].max())) for j, (a, b) in others]
    return found


def _for_model(emitted: Emitted, model: Any, columns: Mapping[str, Any]) -> dict[str, Any]:
    """A batch as the model gets it, ids brought into the small vocabulary; a loss is not asked for."""
    ids = columns["input_ids"]
    batch = {**columns, "input_ids": 1 + ids % (VOCABULARY - 1)}
    if emitted.prepared is not None:
        batch = emitted.prepared(model, batch)
    kept = {n: v for n, v in batch.items() if n in OPTIONS or hasattr(v, "ndim")}
    kept.pop("labels", None)
    accepted = _accepted(model)
    return {"use_cache": False, **{n: v for n, v in kept.items() if n in accepted}}


def _accepted(model: Any) -> set[str]:
    """What a forward takes by name, and what attention takes beyond."""
    import inspect

    names = set(inspect.signature(type(model).forward).parameters)
    return names | {"cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k", "seq_idx"}


def _summed(watched: Sequence[tuple[int, Seen, Short]]) -> dict[str, Any]:
    pairs = [
        (n, short.rows[row], i, j, own, across)
        for n, found, short in watched
        for row, i, j, own, across in found
    ]
    seen = [p for p in pairs if p[5] > SEEN * p[4]]
    worst = max(seen or pairs, key=lambda p: p[5])
    return {
        "pairs": len(pairs),
        "seen": len(seen),
        "own": worst[4],
        "across": worst[5],
        "first": dict(zip(("batch", "row", "changed", "watched"), (seen or pairs)[0][:4], strict=True)),
    }


def _line(fault: Exception) -> str:
    lines = [line.strip() for line in str(fault).splitlines() if line.strip()]
    return f"{type(fault).__name__}: {(lines or [''])[0]}"[:300]
