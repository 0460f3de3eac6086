"""Adapters: whole, trained, of this base, newer than the data, with the tokens that were added."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from llmguard.checks.adapter_base import unlike
from llmguard.contract import Yields, check
from llmguard.evidence.adapter import LEGACY, PEFT_KEY, Adapter
from llmguard.evidence.model import ModelFolder
from llmguard.findings import Finding, Where, error, note, warning
from llmguard.project import Project
from llmguard.tensors import Tensor

__all__ = [
    "adapter_belongs_to_its_base",
    "adapter_files_are_whole",
    "adapter_is_newer_than_its_data",
    "adapter_is_trained",
    "adapter_keeps_added_tokens",
]

BYTES_READ = 2**30
"""Weights beyond this size are not read for zeros and NaN at preflight."""
OLDER = 60
"""Seconds that copying a project's files may take."""


@check
def adapter_files_are_whole(adapter_files: Adapter) -> Yields:
    """The adapter's folder exists and holds adapter_config.json and whole safetensors weights, of an adapter and not of a model."""
    adapter = adapter_files
    for file, what in adapter.problems:
        if adapter.legacy and file.endswith(".safetensors"):
            yield note(
                Where(file=f"{adapter.name}/{LEGACY}"),
                what="the adapter's weights are a pickle, which is not read here: loading one runs whatever code is in it",
                remedy="load it with PEFT where you trust it, and save it again: model.save_pretrained(folder, safe_serialization=True)",
            )
        else:
            yield _broken(adapter, file, what)
    yield from _no_adapter(adapter)
    return 1 + len(adapter.tensors)


def _broken(adapter: Adapter, file: str, what: str) -> Finding:
    place = adapter.name if file == adapter.name else f"{adapter.name}/{file}"
    return error(
        Where(file=place, key="model.adapter"),
        what=f"{file} {what}",
        why="evaluation would fail, or silently measure the base model or another run's adapter",
        cause="a wrong path, a run that failed before it saved, or a copy that was cut off",
        remedy="point `[model] adapter` at the folder that the run saved, and compare its time with the run's",
    )


def _no_adapter(adapter: Adapter) -> Iterator[Finding]:
    strange = [n for n in adapter.tensors if not PEFT_KEY.search(n)]
    weights_are_there = not any(file.startswith("adapter_model") for file, _ in adapter.problems)
    if adapter.config and not adapter.tensors and weights_are_there and not adapter.legacy:
        yield _broken(adapter, "adapter_model.safetensors", "holds no tensors")
    if strange and len(strange) == len(adapter.tensors):
        yield error(
            Where(file=adapter.name, key="model.adapter"),
            what=f"the file holds a whole model's {len(strange)} tensors ({strange[0]} …), not an adapter's",
            why="PEFT finds none of its keys in it: the model stays as it is, with a warning only",
            cause="a full checkpoint passed as adapter",
            remedy="load it as a model, or name the adapter's folder",
        )


@check
def adapter_is_trained(adapter: Adapter) -> Yields:
    """The adapter changes something: some B matrix is not zero, no tensor is empty, and all values are finite.

    Values are read from files under 1 GiB; larger ones are judged by shape alone. B matrices that are zero in some modules only
    are a warning: those were not trained.
    """
    where = Where(file=adapter.name, key="model.adapter")
    empty = [t.name for t in adapter.tensors.values() if t.empty]
    if empty:
        yield error(
            where,
            what=f"{len(empty)} of {len(adapter.tensors)} tensors are empty ({empty[0]} …)",
            why="the adapter has no weights there: evaluation equals the base model",
            cause="saved under ZeRO-3 while parameters were partitioned (peft#453)",
            remedy="gather parameters before saving (stage3_gather_16bit_weights_on_model_save), and save again",
        )
    if adapter.size > BYTES_READ:
        yield note(
            where,
            what=f"the adapter's {adapter.size / 2**30:.1f} GiB of values are not read here; its shapes are whole",
        )
        return len(adapter.tensors)
    yield from _untrained(adapter, where, [t for t in adapter.b_tensors if not t.empty])
    broken = [t.name for t in adapter.tensors.values() if not t.is_finite()]
    if broken:
        yield error(
            where,
            what=f"{len(broken)} of {len(adapter.tensors)} tensors hold NaN or infinite values ({broken[0]} …)",
            why="every output of the model is NaN, or the first token of its vocabulary",
            cause="a loss that became NaN (logged as 0.0) before the adapter was saved",
            remedy="do not use it; look for the step at which the loss became NaN",
        )
    return len(adapter.tensors)


def _untrained(adapter: Adapter, where: Where, b_tensors: Sequence[Tensor]) -> Iterator[Finding]:
    zero = [t for t in b_tensors if t.is_zero()]
    scales = [t for n, t in adapter.tensors.items() if "ia3_" in n]
    if zero and len(zero) == len(b_tensors):
        yield _does_nothing(
            where, f"all {len(zero)} B matrices are zero", "at least one B matrix that is not zero"
        )
    elif scales and all(t.is_one() for t in scales):
        yield _does_nothing(
            where, f"all {len(scales)} vectors of IA3 are one", "at least one vector that is not all ones"
        )
    elif zero:
        yield warning(
            where,
            what=f"{len(zero)} of {len(b_tensors)} B matrices are zero ({zero[0].name} …)",
            why="these modules are as they were in the base model: less was trained than the config says",
            cause="modules that the forward pass never reaches, or gradients that stop before them",
            remedy="look at the gradients of these modules after one step; leave out of target_modules what is never reached",
            evidence={"zero": [t.name for t in zero[:10]]},
        )


def _does_nothing(where: Where, what: str, expected: str) -> Finding:
    return error(
        where,
        what=f"{what}: the adapter does nothing",
        why="the model with it answers like the base model, token for token",
        cause="the adapter of a failed run, one saved before its first step, or a model wrapped twice whose trained weights "
        "are elsewhere (peft#2115)",
        remedy="load the adapter of the run that you mean; after training, compare logits with the adapter on and off",
        expected=expected,
        actual=what,
    )


@check
def adapter_belongs_to_its_base(adapter: Adapter, model: ModelFolder) -> Yields:
    """The adapter was trained on this base: the modules it names, their shapes, the weights of the base that it names, its name.

    A base folder that was moved is fine; another name with the same shapes is a warning; other weights are an error.
    """
    where = Where(file=f"{adapter.name}/adapter_config.json", key="base_model_name_or_path")
    found = unlike(adapter, model)
    said = f"the adapter says that it was trained on {adapter.base!r}, the project's model is {model.name!r}"
    if found.wrong:
        yield error(
            where,
            what=f"{found.wrong}; {said}",
            why=found.why
            or "the adapter cannot be applied to this model, or only in part and without a word",
            cause="the adapter of another base model"
            if not found.why
            else "an adapter of a later stage, or of a sibling of this base",
            remedy="name the base that it was trained on, or the adapter of this base",
            expected=model.name,
            actual=adapter.base,
        )
    elif found.renamed and found.same_weights:
        yield note(where, what=f"{said}: another folder with the same weights")
    elif found.renamed:
        yield (warning if model.tensors else note)(
            where,
            what=f"{said}; " + ("the shapes agree" if model.tensors else "there are no weights to compare"),
            why="an adapter on another base of the same shape (base and instruct, stage 0 and stage 2) runs, and means nothing",
            cause="a base of another stage or sibling, or a renamed folder",
            remedy="check that both are the same weights; if so, set base_model_name_or_path",
            expected=model.name,
            actual=adapter.base,
        )
    return len(adapter.tensors)


@check
def adapter_is_newer_than_its_data(adapter: Adapter, project: Project) -> Yields:
    """The adapter was saved after the training data were last changed; a warning where it is older (by more than a minute)."""
    files = [f for f in project.files("train") if f.exists()]
    newest = max(files, key=lambda f: f.stat().st_mtime, default=None)
    if (
        newest is not None
        and adapter.changed is not None
        and (age := newest.stat().st_mtime - adapter.changed) > OLDER
    ):
        yield warning(
            Where(file=adapter.name, key="model.adapter"),
            what=f"the adapter is older than the training data ({project.relative(newest)}), by {_age(age)}",
            why="it was not trained on the data as they are now: a result of another run is judged",
            cause="the path of an earlier run, or data that were changed (or copied anew) after training",
            remedy="check which run the adapter is of; train again if the data changed",
        )
    return len(files)


def _age(seconds: float) -> str:
    days, hours = divmod(int(seconds) // 3600, 24)
    return f"{days} days" if days else f"{hours} hours" if hours else f"{int(seconds) // 60} minutes"


@check
def adapter_keeps_added_tokens(adapter: Adapter, model: ModelFolder, tokenizer: Any) -> Yields:
    """Tokens that were added to the tokenizer are trained and saved with the adapter (peft#1147).

    More tokens than the base has embedding rows are an error where the adapter saves no embedding, or too few rows of it; tokens that
    the adapter's own tokenizer adds within rows that the base has in reserve are a warning, because those rows were never trained.
    """
    rows = model.embedding_rows
    if rows is None:
        return 0
    ids = {**{t: i for t, i in tokenizer.get_vocab().items() if i >= rows}, **adapter.added_tokens}
    beyond = sorted((i, t) for t, i in ids.items() if i >= rows)
    saved = [
        t.shape[0] for n, t in adapter.saved_whole.items() if any(part in n for part in EMBEDDING) and t.shape
    ]
    by_index = bool(adapter.config.get("trainable_token_indices"))
    if beyond and not by_index and max(saved, default=0) <= beyond[-1][0]:
        yield _not_saved(adapter, beyond, rows, max(saved, default=0))
    new = sorted(
        (i, t) for t, i in adapter.added_tokens.items() if i < rows and t not in tokenizer.get_vocab()
    )
    if new and not saved and not by_index:
        yield warning(
            Where(file=f"{adapter.name}/tokenizer.json", key="added_tokens"),
            what=f"the adapter's tokenizer adds {len(new)} tokens that the project's has not ({new[0][1]!r} is {new[0][0]} …), "
            "and the adapter saves no embedding",
            why="their rows are the base's reserve, which was never trained: these tokens all look alike to the model",
            cause="tokens added for a template, with the embeddings frozen",
            remedy='add "embed_tokens" and "lm_head" to modules_to_save (or the ids to trainable_token_indices), and train again',
        )
    return len(tokenizer)


EMBEDDING = ("embed_tokens", "wte", "embed_in", "word_embeddings", "lm_head", "embed_out")


def _not_saved(adapter: Adapter, beyond: Sequence[tuple[int, str]], rows: int, saved: int) -> Finding:
    held = f"the adapter's embedding has {saved:,} rows" if saved else "the adapter saves no embedding"
    return error(
        Where(file=adapter.name, key="modules_to_save"),
        what=f"the tokenizer has {len(beyond)} more tokens than the base has embedding rows ({rows:,}): "
        f"{beyond[0][1]!r} is {beyond[0][0]} …; {held}",
        why="the new rows are made anew, at random, whenever the model is loaded: special tokens behave at random",
        cause="resize_token_embeddings without modules_to_save",
        remedy='add "embed_tokens" and "lm_head" to modules_to_save (or trainable_token_indices), and train again',
    )
