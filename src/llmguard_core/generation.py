"""Generation that depends on the prompt alone: not on the batch it falls into, not on a seed used up by its neighbours, not on what a
model's generation_config happens to say.

Prompts are padded on the left and masked. Greedy text is the same for a batch of 1 and of n (bit for bit where the kernels are, as on a
CPU in float32; elsewhere up to ties). A sample is drawn with noise of its own, seeded by `seed` and its prompt: the same prompt gives
the same sample in any batch and order. Batches are sized by free memory and halved where that was too much.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)

from llmguard.checks.bos import prepended
from llmguard.errors import UsageError
from llmguard_core.errors import DataRefused, OutOfMemory
from llmguard_core.formats import Format
from llmguard_core.memory import Device
from llmguard_core.training.oom import Failure, halving

__all__ = ["batch_size_for", "generate", "prompt_ids", "terminators_of"]

Prompt = str | Sequence[int]
LARGEST_BATCH = 64
SHARE = 0.5  # of the free memory that one batch may take: the rest is for what the estimate does not know
TAIL = 16  # new tokens that are decoded at each step to look for a stop text, beyond its own characters

_log = logging.getLogger(__name__)


def generate(
    loaded: Any,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    top_p: float = 1.0,
    stop: Sequence[str] = (),
    batch_size: int | None = None,
    seed: int = 0,
    fmt: Format | None = None,
    progress: Callable[[int], object] | None = None,
) -> list[str]:
    """The completions of some prompts (text, or token ids), in their order; cut at the first terminator and before a stop text.

    Other special tokens that the model writes stay in the text: they are what went wrong.

    `loaded` has `model` and `tokenizer`; greedy at temperature 0. `fmt`: the format whose terminator ends a response, too. `progress` is
    called with the number of prompts done since its last call.

    Raises:
        UsageError: no room for new tokens, a temperature below 0, a top_p outside of (0, 1], an empty stop text.
        DataRefused: a prompt that leaves no room for `max_new_tokens` within the model's context.
        OutOfMemory: not even one prompt fits.
    """
    _arguments(max_new_tokens, temperature, top_p, stop)
    if not prompts:
        return []
    model, tokenizer = loaded.model, loaded.tokenizer
    ids = [prompt_ids(tokenizer, p) for p in prompts]
    _fits(model, ids, max_new_tokens)
    ends, stops = terminators_of(loaded, fmt), [*stop, *_textual_end(tokenizer, fmt)]
    order = sorted(
        range(len(ids)), key=lambda i: -len(ids[i])
    )  # the longest first: what does not fit is known at once
    size = batch_size or batch_size_for(model, len(ids[order[0]]) + max_new_tokens, len(ids))
    texts, done = [""] * len(ids), 0
    with _plain(model, tokenizer, ends):
        while done < len(ids):

            def attempt(size: int, at: int = done) -> list[str]:
                chosen = [ids[i] for i in order[at : at + size]]
                return _batch(model, tokenizer, chosen, max_new_tokens, temperature, top_p, stops, ends, seed)

            found, size = halving(attempt, size, explain=_too_much)
            for i, text in zip(order[done:], found, strict=False):  # the last batch may be smaller
                texts[i] = text
            done += len(found)
            if progress:
                progress(len(found))
    return texts


def prompt_ids(tokenizer: Any, prompt: Prompt) -> list[int]:
    """The ids of a prompt: ids as they are; text with what the tokenizer puts before texts (no second BOS, and never an EOS behind)."""
    if not isinstance(prompt, str):
        return [int(i) for i in prompt] or _something(tokenizer)
    bare = list(tokenizer(prompt, add_special_tokens=False)["input_ids"])
    start = prepended(tokenizer)
    return ([] if bare[: len(start)] == start else start) + bare or _something(tokenizer)


def _something(tokenizer: Any) -> list[int]:
    """An empty prompt still needs a token to start from: BOS, else EOS, else the first of the vocabulary."""
    found = [i for i in (tokenizer.bos_token_id, tokenizer.eos_token_id) if i is not None]
    return found[:1] or [0]


def terminators_of(loaded: Any, fmt: Format | None = None) -> list[int]:
    """The ids that end a response: of the tokenizer, the model's configs, and the format (or a chat model's own template)."""
    model, tokenizer = loaded.model, loaded.tokenizer
    told: list[Any] = [tokenizer.eos_token_id]
    for config in (getattr(model, "generation_config", None), model.config):
        value = getattr(config, "eos_token_id", None)
        told += value if isinstance(value, (list, tuple)) else [value]
    texts = [fmt.terminator] if fmt is not None else []
    if fmt is None and getattr(tokenizer, "chat_template", None):
        from llmguard.formats import ChatTemplate

        texts.append(ChatTemplate(tokenizer).terminator)
    told += [i for text in texts if (i := _single(tokenizer, text)) is not None]
    return sorted({int(i) for i in told if i is not None})


def _single(tokenizer: Any, text: str) -> int | None:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"] if text else []
    return int(ids[0]) if len(ids) == 1 else None


def _textual_end(tokenizer: Any, fmt: Format | None) -> list[str]:
    """A terminator of several tokens is found as text."""
    return [fmt.terminator] if fmt and fmt.terminator and _single(tokenizer, fmt.terminator) is None else []


def batch_size_for(model: Any, length: int, rows: int) -> int:
    """So many rows of `length` tokens fit into half of the free memory, by the key-value cache and the logits; at least 1, at most 64."""
    config = model.config.get_text_config() if hasattr(model.config, "get_text_config") else model.config
    layers, heads = config.num_hidden_layers, config.num_attention_heads
    per_head = getattr(config, "head_dim", None) or config.hidden_size // heads
    shared = getattr(config, "num_key_value_heads", None) or heads
    width = next(model.parameters()).element_size()
    each = (
        length * (2 * layers * shared * per_head + 8 * config.hidden_size) * width + 4 * config.vocab_size * 4
    )
    return max(1, min(LARGEST_BATCH, rows, int(SHARE * Device(model.device).free() // each)))


def _arguments(max_new_tokens: int, temperature: float, top_p: float, stop: Sequence[str]) -> None:
    if max_new_tokens < 1:
        raise UsageError("max_new_tokens", max_new_tokens, "at least 1")
    if not 0 <= temperature < float("inf"):
        raise UsageError("temperature", temperature, "0 (greedy) or more")
    if not 0 < top_p <= 1:
        raise UsageError("top_p", top_p, "a share above 0, at most 1")
    if isinstance(stop, str) or not all(stop):
        raise UsageError("stop", stop, "a list of texts that are not empty")


def _fits(model: Any, ids: Sequence[Sequence[int]], max_new_tokens: int) -> None:
    context = getattr(model.config, "max_position_embeddings", None)
    long = [i for i, one in enumerate(ids) if context and len(one) + max_new_tokens > context]
    if long:
        raise DataRefused(
            f"{len(long):,} of {len(ids):,} prompts leave no room for {max_new_tokens:,} new tokens in a context of {context:,};"
            f" the first has {len(ids[long[0]]):,} tokens",
            where=f"prompt {long[0]}",
            remedy="Shorten the prompts (fewer examples), or generate fewer tokens: positions beyond the context were never trained.",
        )


def _too_much(failure: Failure) -> OutOfMemory:
    return OutOfMemory(
        f"not even one prompt at a time fits: {failure}",
        remedy="Shorten the prompts or max_new_tokens, load the model in a smaller dtype, or free what else is resident. "
        f"{failure.remedy}".strip(),
    )


@contextmanager
def _plain(model: Any, tokenizer: Any, ends: list[int]) -> Iterator[None]:
    """Evaluation mode, no gradients, and a generation config that says nothing but what was asked for; all as before afterwards."""
    holders = (
        [model, model.get_base_model()] if hasattr(model, "get_base_model") else [model]
    )  # PEFT writes to both
    was, training = [m.generation_config for m in holders], model.training
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (ends or [0])[0]
    model.generation_config = GenerationConfig(
        do_sample=False, num_beams=1, use_cache=True, pad_token_id=pad, eos_token_id=ends or None
    )
    try:
        with torch.no_grad():  # not inference mode: buffers made in it could not be trained with afterwards
            yield
    finally:
        for holder, config in zip(holders, was, strict=True):
            holder.generation_config = config
        model.train(training)


def _batch(
    model: Any, tokenizer: Any, ids: list[list[int]], new: int, temperature: float, top_p: float,
    stops: list[str], ends: list[int], seed: int,
) -> list[str]:  # fmt: skip
    model.eval()
    width, pad = max(map(len, ids)), model.generation_config.pad_token_id
    filled = torch.tensor([[pad] * (width - len(one)) + one for one in ids], device=model.device)
    mask = torch.tensor([[0] * (width - len(one)) + [1] * len(one) for one in ids], device=model.device)
    processors = [_Draw(ids, temperature, top_p, seed)] if temperature else []
    watching = [_Stop(tokenizer, stops, width)] if stops else []
    found = model.generate(
        input_ids=filled, attention_mask=mask, max_new_tokens=new,
        logits_processor=LogitsProcessorList(processors), stopping_criteria=StoppingCriteriaList(watching),
    )  # fmt: skip
    made = found[:, width:].tolist()
    return [_text(tokenizer, one, new, stops, ends) for one, new in zip(ids, made, strict=True)]


def _text(tokenizer: Any, prompt: list[int], made: list[int], stops: list[str], ends: list[int]) -> str:
    """The new text: up to the first terminator, then up to the first stop text.

    Decoded behind the end of its prompt, where a SentencePiece tokenizer keeps the space that it would drop from a text of its own.
    """
    last = next((at for at, i in enumerate(made) if i in ends), len(made))
    before = tokenizer.decode(prompt[-TAIL:], skip_special_tokens=False, clean_up_tokenization_spaces=False)
    whole = tokenizer.decode(
        prompt[-TAIL:] + made[:last], skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
    if not whole.startswith(before):  # the prompt ends within a character
        whole, before = (
            tokenizer.decode(made[:last], skip_special_tokens=False, clean_up_tokenization_spaces=False),
            "",
        )
    text = str(whole[len(before) :])
    return text[: min((at for s in stops if (at := text.find(s)) >= 0), default=len(text))]


class _Stop(StoppingCriteria):  # type: ignore[misc]  # transformers is not followed by mypy
    """Ends a row once one of the texts stands in what it wrote."""

    def __init__(self, tokenizer: Any, stops: list[str], width: int) -> None:
        self.tokenizer, self.stops, self.width = tokenizer, stops, width
        self.tail = TAIL + max(map(len, stops))

    def __call__(self, input_ids: Any, scores: Any, **more: Any) -> Any:
        made = input_ids[:, max(self.width, input_ids.shape[1] - self.tail) :]
        texts = self.tokenizer.batch_decode(
            made, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return torch.tensor([any(s in t for s in self.stops) for t in texts], device=input_ids.device)


class _Draw(LogitsProcessor):  # type: ignore[misc]  # transformers is not followed by mypy
    """Turns the greedy choice into a sample: the largest of logits plus Gumbel noise is distributed as softmax says.

    Each row draws from a generator of its own, so that no row's sample depends on who shares its batch.
    """

    def __init__(self, ids: list[list[int]], temperature: float, top_p: float, seed: int) -> None:
        self.temperature, self.top_p = temperature, top_p
        self.draws = [torch.Generator().manual_seed(_seed_of(one, seed)) for one in ids]

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        logits = scores.float() / self.temperature
        if self.top_p < 1:
            ordered, places = logits.sort(descending=True, dim=-1)
            shares = ordered.softmax(-1)
            beyond = shares.cumsum(-1) - shares >= self.top_p  # the most likely token always stays
            logits = logits.masked_fill(beyond.scatter(1, places, beyond), -torch.inf)
        uniform = torch.stack([torch.rand(logits.shape[1], generator=g) for g in self.draws]).to(
            logits.device
        )
        return logits - torch.log(-torch.log(uniform.clamp(1e-20, 1 - 1e-7)))


def _seed_of(ids: Sequence[int], seed: int) -> int:
    told = f"{seed}:{','.join(map(str, ids))}".encode()
    return int.from_bytes(hashlib.blake2b(told, digest_size=8).digest(), "big") >> 1
