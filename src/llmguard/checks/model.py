"""The model's folder: there, whole, and of the tokenizer."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from llmguard.contract import Yields, check
from llmguard.evidence.model import ModelFolder
from llmguard.findings import Where, error, note

__all__ = ["model_path_exists", "tokenizer_belongs_to_the_model", "weights_are_complete"]


@check
def model_path_exists(model: ModelFolder) -> Yields:
    """The model is a folder that exists, or a hub id; nothing is asked over the network."""
    if model.path is None and not model.is_hub_id:
        yield error(
            Where(file=model.name, key="model.path"),
            what=f"the model path does not exist{_near(model.name)}",
            why="the run would end here, or download a model of another name",
            cause="a misspelt path, a volume that is not mounted, or MODEL_PATH of another machine",
            remedy="set `[model] path` (or MODEL_PATH) to the model's folder",
        )
    elif model.path is None:
        yield note(
            Where(what=model.name, key="model.path"),
            what=(
                "this hub id is not in the local cache: nothing of the model can be checked here, and "
                "nothing was downloaded"
            ),
            remedy="download it first, or name a folder",
        )
    return 1


def _near(name: str) -> str:
    parent = Path(name).parent
    try:
        near = difflib.get_close_matches(Path(name).name, [p.name for p in parent.iterdir()], n=3, cutoff=0.5)
    except OSError:
        return f": {parent} does not exist either"
    return f"; near it lies {', '.join(near)}" if near else ""


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
    if model.path is not None and not model.has_weights and not model.problems:
        yield note(
            Where(file=model.name), what="the folder holds no weights; nothing that needs them is checked"
        )
    return len(model.tensors) + len(model.other_weights)


@check
def tokenizer_belongs_to_the_model(tokenizer: Any, model: ModelFolder) -> Yields:
    """No id of the tokenizer lies beyond the model's embedding rows, and special ids that both name agree.

    Embeddings padded beyond the tokenizer (to a multiple of 64 or 128) are usual and fine.
    """
    rows = model.embedding_rows
    if rows is None:
        return 0
    largest = max(tokenizer.get_vocab().values(), default=-1)
    if largest >= rows:
        beyond = sorted((i, t) for t, i in tokenizer.get_vocab().items() if i >= rows)
        yield error(
            Where(what=model.name, key="vocab_size"),
            what=(
                f"{len(beyond):,} tokens of the tokenizer have ids beyond the model's {rows:,} embedding "
                f"rows ({beyond[0][1]!r} is {beyond[0][0]} …)"
            ),
            why="such an id ends the run with a device-side assert that names neither row nor token",
            cause="the tokenizer of another model, or tokens added without resize_token_embeddings",
            remedy="use the model's own tokenizer, or resize the embeddings and train the new rows",
            expected=f"ids below {rows}",
            actual=f"up to {largest}",
        )
    told = model.config.get("bos_token_id")
    if isinstance(told, int) and tokenizer.bos_token_id is not None and told != tokenizer.bos_token_id:
        yield error(
            Where(file=f"{model.name}/config.json", key="bos_token_id"),
            what=(
                f"the model's BOS is {told}, the tokenizer's {tokenizer.bos_token_id} "
                f"({tokenizer.bos_token!r})"
            ),
            why="rows start with a token that the model was not trained to start with",
            cause="the tokenizer of another model",
            remedy="use the model's own tokenizer",
        )
    return len(tokenizer)
