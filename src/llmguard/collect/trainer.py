"""Build the user's Trainer and look at what its loaders emit: at most four training batches, one evaluation batch, no step."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from llmguard.collect.batching import one_by_one
from llmguard.collect.columns import BadRow, plain_row, save_columns
from llmguard.collect.isolation import Emitted, handed_over
from llmguard.collect.user import UserError, load_reference, mistake
from llmguard.encoded import COLUMNS
from llmguard.project import Project

__all__ = ["collect_trainer", "rows_of_batch"]

TRAIN_BATCHES = 4
DATASET_ROWS = 2000
FALLBACK_ROWS = 8
PAIRED = {"chosen_ids", "rejected_ids"}
"""Columns of a preference data set whose batches hold the chosen sides, then the rejected ones (TRL's DPOTrainer)."""
ARGUMENTS = (
    "max_length", "max_seq_length", "per_device_train_batch_size", "gradient_accumulation_steps", "num_train_epochs", "max_steps",
    "learning_rate", "packing", "padding_free", "assistant_only_loss", "completion_only_loss", "remove_unused_columns", "eval_packing",
    "logging_nan_inf_filter", "beta",
)  # fmt: skip


def rows_of_batch(batch: Any) -> list[dict[str, list[int]]]:
    """The rows of a batch, padding included.

    Raises:
        BadRow: no mapping of arrays with `input_ids`.
    """
    if not hasattr(batch, "keys"):
        raise BadRow(f"a {type(batch).__name__}, expected a mapping of tensors with input_ids")
    names = [n for n in COLUMNS if n in batch.keys()]  # noqa: SIM118  # BatchEncoding iterates over other things
    lists = {n: batch[n].tolist() if hasattr(batch[n], "tolist") else batch[n] for n in names}
    if "input_ids" not in lists:
        raise BadRow(
            f"a mapping with the keys {', '.join(map(str, batch.keys())) or '(none)'}, expected input_ids among them"
        )
    count = len(lists["input_ids"])
    nested = {
        n: c
        for n, c in lists.items()
        if isinstance(c, list) and len(c) == count and (not c or isinstance(c[0], list))
    }
    return [plain_row({n: c[i] for n, c in nested.items()}) for i in range(count)]


def collect_trainer(
    project: Project, out: Path, progress: Callable[..., None]
) -> tuple[dict[str, Any], Emitted]:
    """What the Trainer of a project trains on, into `out`; returns its settings, and its batches as they are.

    Raises:
        UserError: it cannot be built, or its loaders fail.
    """
    reference = str(project.schema.pipeline.trainer)
    key = f"[pipeline] trainer = {reference!r}"
    build = load_reference(reference, project.folder, key)
    try:
        trainer = build()
        progress("trainer", built=type(trainer).__name__)
        train, failed = _training(trainer, project.folder, key)
        evaluation = (
            _batches(trainer.get_eval_dataloader(), 1)
            if getattr(trainer, "eval_dataset", None) is not None
            else []
        )
    except UserError:
        raise
    except (Exception, SystemExit) as fault:
        raise UserError(mistake(fault, project.folder, key)) from None
    seen = {"train": _keys(train), "evaluation": _keys(evaluation)}
    _save(out / "batches.trainer.npz", train)
    _save(out / "batches.trainer-eval.npz", evaluation)
    _dataset(trainer, out)
    return {**_facts(trainer), "batch_keys": seen, **failed}, _emitted(trainer, train)


def _emitted(trainer: Any, batches: list[Any]) -> Emitted:
    """The first batches, with the config of the model and the Trainer's own way to hand it a batch."""
    config = getattr(getattr(trainer, "model", None), "config", None)
    return Emitted(
        [b for b in batches if hasattr(b, "keys")],
        config,
        lambda model, batch: handed_over(trainer, model, batch),
        "" if config is not None else "the Trainer's model has no config",
    )


def _training(trainer: Any, folder: Path, key: str) -> tuple[list[Any], dict[str, Any]]:
    """The first training batches; where the collator cannot make one of several rows, rows one by one and what failed."""
    loader = trainer.get_train_dataloader()
    try:
        return _batches(loader, TRAIN_BATCHES), {}
    except Exception as fault:
        dataset: Any = getattr(loader, "dataset", None)
        collate = getattr(loader, "collate_fn", None)
        if collate is None or not hasattr(dataset, "__getitem__"):
            raise
        rows = [dataset[i] for i in range(min(len(dataset), FALLBACK_ROWS))]
        batches = one_by_one(collate, rows, folder, key)
        return batches, {"failed": {**mistake(fault, folder, key), "rows": [0, len(rows)]}}


def _batches(loader: Iterable[Any], count: int) -> list[Any]:
    return list(itertools.islice(loader, count))


def _keys(batches: list[Any]) -> list[str]:
    return sorted(map(str, batches[0].keys())) if batches and hasattr(batches[0], "keys") else []


def _save(path: Path, batches: list[Any]) -> None:
    rows, index = [], []
    for number, batch in enumerate(batches):
        found = _prefixed(batch)
        rows += found
        index += [number] * len(found)
    if rows:
        save_columns(path, rows, batch=index)


def _prefixed(batch: Any) -> list[dict[str, list[int]]]:
    try:
        return rows_of_batch(batch)
    except BadRow:  # a preference batch names its columns otherwise; its rows are not needed to know that
        return []


def _dataset(trainer: Any, out: Path) -> None:
    dataset = getattr(trainer, "train_dataset", None)
    names = getattr(dataset, "column_names", None) or []
    if dataset is None or not hasattr(dataset, "__len__") or "input_ids" not in names:
        return
    keep = [n for n in names if n in COLUMNS]
    count = min(len(dataset), DATASET_ROWS)
    save_columns(
        out / "dataset.trainer.npz",
        [plain_row({n: row[n] for n in keep}) for row in dataset.select(range(count))],
    )


def _facts(trainer: Any) -> dict[str, Any]:
    arguments = {
        n: getattr(trainer.args, n)
        for n in ARGUMENTS
        if isinstance(getattr(trainer.args, n, None), (int, float, str, bool))
    }
    tokenizer = getattr(trainer, "processing_class", None) or getattr(trainer, "tokenizer", None)
    special = {
        n: getattr(tokenizer, n, None)
        for n in ("pad_token_id", "eos_token_id", "bos_token_id", "padding_side")
    }
    rows, evaluation = (_count(getattr(trainer, n, None)) for n in ("train_dataset", "eval_dataset"))
    config = getattr(trainer.model, "config", None)
    shape = {
        n: getattr(config, n, None)
        for n in ("vocab_size", "model_type", "eos_token_id", "pad_token_id", "_attn_implementation")
    }
    collator = type(getattr(trainer, "data_collator", None)).__name__
    return {
        "class": type(trainer).__name__,
        "collator": collator,
        "rows": rows,
        "evaluation_rows": evaluation,
        "preference": set(_columns(trainer)) >= PAIRED,
        "arguments": arguments,
        "documents": _documents(getattr(trainer, "train_dataset", None)),
        "dropout": _dropout(trainer.model),
        "trains_embeddings": _trains_embeddings(trainer.model),
        "tokenizer": special,
        "model": shape,
    }


def _documents(dataset: Any) -> int | None:
    """Documents of packed rows; None where the data set does not say."""
    if "seq_lengths" not in (getattr(dataset, "column_names", None) or ()) or not hasattr(dataset, "__len__"):
        return None
    return sum(len(lengths) for lengths in dataset["seq_lengths"])


def _dropout(model: Any) -> float:
    """The largest rate of the model's dropout layers."""
    modules = model.modules() if hasattr(model, "modules") else ()
    return max((float(m.p) for m in modules if type(m).__name__ == "Dropout"), default=0.0)


def _trains_embeddings(model: Any) -> bool | None:
    """Whether some of the input embedding is trained; None where there is none to be found."""
    found = model.get_input_embeddings() if hasattr(model, "get_input_embeddings") else None
    return None if found is None else any(p.requires_grad for p in found.parameters())


def _columns(trainer: Any) -> list[str]:
    return list(getattr(getattr(trainer, "train_dataset", None), "column_names", None) or ())


def _count(dataset: Any) -> int | None:
    """Rows of a data set, of all of them where there are several; None where it does not say."""
    if isinstance(dataset, dict):
        return sum(_count(d) or 0 for d in dataset.values())
    return len(dataset) if dataset is not None and hasattr(dataset, "__len__") else None
