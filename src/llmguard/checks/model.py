"""The model's folder: there, whole, and of the tokenizer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llmguard.contract import Yields, check
from llmguard.evidence.model import ModelFolder
from llmguard.evidence.saved import old_formats
from llmguard.findings import Finding, Where, error, note, warning

__all__ = ["model_path_exists", "tokenizer_belongs_to_the_model", "weights_are_complete"]

PADDED, FOREIGN = 0.05, 0.25
"""Embedding rows beyond the tokenizer, as a share: up to PADDED is usual (DeepSeek 7B pads by 2.3 %), above FOREIGN another model's."""


@check
def model_path_exists(model: ModelFolder) -> Yields:
    """The model is a folder that exists, or a hub id in the local cache; nothing is asked over the network.

    A hub id that is not in the cache is a note, and a warning where downloads are switched off (HF_HUB_OFFLINE).
    """
    near = f"; near it lies {', '.join(model.near)}" if model.near else ""
    if model.path is None and model.is_hub_id:
        yield _not_cached(model, near)
    elif model.path is None:
        yield error(
            Where(file=model.name, key="model.path"),
            what=f"the model path does not exist{near}",
            why="the run would end here, or download a model of another name",
            cause="a misspelt path, a volume that is not mounted, or MODEL_PATH of another machine",
            remedy="set `[model] path` (or MODEL_PATH) to the model's folder",
        )
    return 1


def _not_cached(model: ModelFolder, near: str) -> Finding:
    where = Where(what=model.name, key="model.path")
    if not model.offline:
        what = f"this hub id is not in the local cache{near}: nothing of the model can be checked, and nothing was downloaded"
        return note(where, what=what, remedy="download it first, or name a folder")
    return warning(
        where,
        what=f"this hub id is not in the local cache, and downloads are switched off here{near}",
        why="a run in this environment ends when it loads the model",
        cause="a model that was never downloaded on this machine, a misspelt id, or HF_HOME of another user",
        remedy="download it where the network is, or name a folder",
    )


@check
def weights_are_complete(model: ModelFolder) -> Yields:
    """Every shard that the index names is there and as long as its header says; told from headers, without loading.

    A folder without weights (a tokenizer alone) is a note: nothing that needs weights can be checked.
    """
    for file, what in model.problems:
        yield error(
            Where(file=f"{model.name}/{file}"),
            what=f"{file} {what}",
            why="loading fails after minutes, or leaves tensors at random values with a warning",
            cause="a download or copy that was cut off, a quota that was full, Git without LFS",
            remedy="download this file again and compare its size",
        )
    for file, old in old_formats(model.path) if model.path is not None and not model.problems else ():
        yield note(
            Where(file=f"{model.name}/{file}"),
            what=f"an old format, of which no tensor is checked: {old.what}",
            remedy=f"convert it where you trust it: {old.convert}",
        )
    if model.path is not None and not model.has_weights and not model.problems:
        yield note(
            Where(file=model.name), what="the folder holds no weights; nothing that needs them is checked"
        )
    return len(model.tensors) + len(model.other_weights)


@check
def tokenizer_belongs_to_the_model(tokenizer: Any, model: ModelFolder) -> Yields:
    """The tokenizer is this model's: no id lies beyond the embedding rows, not far fewer tokens than rows, special ids that agree.

    Embeddings padded by up to 5 % beyond the tokenizer (to a multiple of 64, or in reserve) are usual and fine, and so are end tokens
    that differ but are special tokens of this tokenizer.
    """
    rows = model.embedding_rows
    if rows is None:
        return 0
    vocabulary = tokenizer.get_vocab()
    largest = max(vocabulary.values(), default=-1)
    if largest >= rows:
        yield _beyond(model, sorted((i, t) for t, i in vocabulary.items() if i >= rows), rows, largest)
    elif rows - largest - 1 > PADDED * rows:
        yield _too_few(model, largest + 1, rows)
    yield from _special_ids(model, tokenizer)
    return len(vocabulary)


def _beyond(model: ModelFolder, beyond: list[tuple[int, str]], rows: int, largest: int) -> Finding:
    return error(
        Where(what=model.name, key="vocab_size"),
        what=f"{len(beyond):,} tokens of the tokenizer have ids beyond the model's {rows:,} embedding rows "
        f"({beyond[0][1]!r} is {beyond[0][0]} …)",
        why="such an id ends the run with a device-side assert that names neither row nor token",
        cause="the tokenizer of another model, or tokens added without resize_token_embeddings",
        remedy="use the model's own tokenizer, or resize the embeddings and train the new rows",
        expected=f"ids below {rows}",
        actual=f"up to {largest}",
    )


def _too_few(model: ModelFolder, tokens: int, rows: int) -> Finding:
    return (error if rows - tokens > FOREIGN * rows else warning)(
        Where(what=model.name, key="vocab_size"),
        what=f"the tokenizer has {tokens:,} tokens, and the model {rows:,} embedding rows: {(rows - tokens) / rows:.0%} are never used",
        why="with another model's tokenizer every id means another word: the model reads and writes noise",
        cause="the tokenizer of another model",
        remedy="use the model's own tokenizer; if its embedding is padded so far on purpose, accept this finding",
        expected=f"about {rows} tokens",
        actual=str(tokens),
    )


def _special_ids(model: ModelFolder, tokenizer: Any) -> Iterator[Finding]:
    """BOS, EOS and pad of the model's configs that are no special tokens of this tokenizer, or another BOS than the tokenizer's."""
    special = {i for i, t in tokenizer.added_tokens_decoder.items() if t.special} | set(
        tokenizer.all_special_ids
    )
    for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
        ids, generated = _ids(model.settings.get(key)), _ids(model.generation.get(key))
        if ids and not special & set(ids):
            yield _not_special(model, "config.json", key, ids, tokenizer)
        elif generated and not special & set(generated):
            yield _not_special(model, "generation_config.json", key, generated, tokenizer)
        elif (
            key == "bos_token_id"
            and ids
            and tokenizer.bos_token_id is not None
            and tokenizer.bos_token_id not in ids
        ):
            yield warning(
                Where(file=f"{model.name}/config.json", key=key),
                what=f"the model's BOS is {ids[0]}, the tokenizer's {tokenizer.bos_token_id} ({tokenizer.bos_token!r})",
                why="rows start with a token that the model was not trained to start with",
                cause="one of the two was changed: a template with tokens of its own, or another version of the tokenizer",
                remedy="use the model's own tokenizer, or let both name the same token",
            )


def _ids(told: Any) -> list[int]:
    return [i for i in (told if isinstance(told, list) else [told]) if isinstance(i, int) and i >= 0]


def _not_special(model: ModelFolder, file: str, key: str, ids: list[int], tokenizer: Any) -> Finding:
    there = ids[0] < len(tokenizer)
    token = f"the ordinary token {tokenizer.convert_ids_to_tokens(ids[0])!r}" if there else "no token"
    return error(
        Where(file=f"{model.name}/{file}", key=key),
        what=f"the model's {key} {ids[0]} is {token} of this tokenizer (of {len(tokenizer):,} tokens)",
        why="the model was trained with another vocabulary: its ids mean other words, it neither starts nor ends where it should",
        cause="the tokenizer of another model",
        remedy="use the model's own tokenizer",
        expected="a special token",
        actual=token,
    )
