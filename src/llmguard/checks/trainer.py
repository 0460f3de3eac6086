"""The user's Trainer as it was built: what it was given, and what it is set to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmguard.contract import Yields, check
from llmguard.findings import Where, error, warning
from llmguard.project import Project
from llmguard.rows import as_rows

__all__ = [
    "preference_policy_has_no_dropout",
    "trainer_agrees_about_max_length",
    "trainer_keeps_every_row",
    "trainer_tokenizer_is_the_projects",
]


def _where(key: str) -> Where:
    return Where(what="trainer", key=key)


@check
def trainer_keeps_every_row(trainer: Mapping[str, Any], rows: Any) -> Yields:
    """The Trainer trains on as many rows as the split has: none is dropped without a word on the way (a warning).

    Rows that the Trainer evaluates on instead are counted in. Of packed rows the documents are counted, where the data set says
    their lengths. A data set that does not say how long it is is not judged.
    """
    source, count = as_rows(rows), trainer.get("rows")
    held_out = trainer.get("evaluation_rows") or 0
    packed = bool(trainer.get("arguments", {}).get("packing"))
    count = trainer.get("documents") if packed else count
    if not isinstance(count, int):
        return 0
    as_documents = " as documents of packed rows" if packed else ""
    if count + held_out < len(source):
        yield warning(
            _where("rows"),
            what=f"the Trainer has {count:,} of the {len(source):,} rows of the training split{as_documents}, and evaluates on "
            f"{held_out:,}",
            why="rows are lost without a word: frameworks drop those whose labels are all -100, that are too long, or that do not parse",
            cause="a filter in the preparation, rows without any supervised token, or a slice that was left in",
            remedy="count rows before and after every step of the preparation, and look at those that are missing",
            expected=str(len(source)),
            actual=str(count),
        )
    return len(source)


@check
def trainer_agrees_about_max_length(trainer: Mapping[str, Any], project: Project) -> Yields:
    """The Trainer's own `max_length` is the project's `[pipeline] max_length`, where both are said."""
    arguments = trainer.get("arguments", {})
    told = project.schema.pipeline.max_length
    own = next(
        (arguments[n] for n in ("max_length", "max_seq_length") if isinstance(arguments.get(n), int)), None
    )
    if told is not None and own is not None and told != own:
        yield error(
            _where("max_length"),
            what=f"the Trainer cuts rows at {own} tokens, the project says `[pipeline] max_length = {told}`",
            why="one of them is what was meant: rows are cut where nobody looks",
            cause="a default of the trainer (1024 in TRL), or an argument that moved to another config object and is ignored",
            remedy="set max_length in the Trainer's arguments, and the same in the project file",
            expected=str(told),
            actual=str(own),
        )
    return 1


@check
def trainer_tokenizer_is_the_projects(trainer: Mapping[str, Any], tokenizer: Any) -> Yields:
    """The Trainer's tokenizer has the special ids of the project's (a pad token that the user adds is fine)."""
    own = trainer.get("tokenizer", {})
    for name in ("eos_token_id", "bos_token_id"):
        ids = own.get(name), getattr(tokenizer, name, None)
        if isinstance(ids[0], int) and isinstance(ids[1], int) and ids[0] != ids[1]:
            yield error(
                _where(name),
                what=f"the Trainer's tokenizer has {name} {ids[0]}, the project's has {ids[1]}",
                why="rows are encoded by one tokenizer and judged, or served, by another",
                cause="another tokenizer loaded in the training script, or one changed by a helper (map_eos_token and its like)",
                remedy="load one tokenizer, and save the one that was trained with",
                expected=str(ids[1]),
                actual=str(ids[0]),
            )
    return 1


@check
def preference_policy_has_no_dropout(trainer: Mapping[str, Any]) -> Yields:
    """The model that a preference Trainer compares with its reference has no active dropout (a warning). Other Trainers may have it."""
    rate = float(trainer.get("dropout") or 0.0)
    if not trainer.get("preference"):
        return 0
    if rate > 0:
        yield warning(
            _where("disable_dropout"),
            what=f"the policy of this preference Trainer has dropout of up to {rate:.2g}, and its reference is evaluated without",
            why="log-probabilities of policy and reference differ by noise: rewards are not 0 at the first step, and do not repeat",
            cause="disable_dropout = False, a lora_dropout above 0, or layers that were added after dropout had been disabled",
            remedy="set disable_dropout = True (TRL's default), or lora_dropout and the model's own rates to 0",
            expected="0",
            actual=f"{rate:.2g}",
        )
    return 1
