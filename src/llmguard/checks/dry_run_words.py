"""How a failure of a dry run is told: in which stage, what was raised, which row and key, which cycle, how much memory."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from llmguard.errors import EvidenceError
from llmguard.findings import Where

__all__ = ["CAUSES", "STAGES", "Found", "failure_text", "not_finite", "trained", "where_of"]

Found = Mapping[str, Any]
"""What `llmguard.collect.dry_run` wrote down (see there)."""

STAGES = {
    "build": "while the trainer was built",
    "collate": "while batches were made",
    "train": "in the first two steps",
    "save": "while a checkpoint was saved",
    "resume": "while it was resumed from its own checkpoint",
    "evaluate": "while it evaluated",
    "generate": "while four tokens were generated",
    "overfit": "while one batch was repeated",
}
CAUSES = {
    "NameError": ("a misspelt name, or a missing import", "set or import the name before this line"),
    "UnboundLocalError": (
        "lines that changed places in an edit: the name is used above the line that sets it",
        "move the line that sets it up",
    ),
    "AttributeError": (
        "an object that is None, or an attribute of another version of the library",
        "look at what the object is in this line",
    ),
    "KeyError": (
        "a row without a column that others have, or a column that the Trainer takes away (remove_unused_columns)",
        "mend the row, or read the key with a default; set remove_unused_columns = False where the collator needs the column",
    ),
    "IndexError": (
        "an empty list or string, or a number counted from 1",
        "mend the row, or test the length before",
    ),
    "IdBeyondEmbedding": (
        "tokens added to the tokenizer without resizing the embedding, or the tokenizer of another model",
        "call model.resize_token_embeddings(len(tokenizer)), or load the model's own tokenizer",
    ),
    "TypeError": (
        "a value of the wrong type: None where a number is meant, or a number read from YAML as text (`1e-4` is, `1.0e-4` is not)",
        "convert the value where it is read, and leave out what has no value",
    ),
    "ValueError": (
        "a value out of its range, or arguments that do not go together",
        "read the message: it names the argument",
    ),
    "ZeroDivisionError": (
        "a count that is 0: an empty evaluation set, no steps, no supervised token",
        "return 0 or nothing where the count is 0",
    ),
    "RecursionError": (
        "functions that call one another without an end",
        "give the recursion an end, or make it a loop",
    ),
    "MemoryError": (
        "something that is built whole in memory: all logits of an evaluation, a list of all rows",
        "build it piece by piece",
    ),
    "SystemExit": (
        "sys.exit(), or an argument parser that reads the arguments of the process that calls the factory",
        "return or raise instead; parse arguments in main() alone",
    ),
    "": (
        "a mistake in the code named above, or arguments that do not go together",
        "call this line by hand with the same row, and mend it",
    ),
}


def failure_text(told: Mapping[str, Any]) -> str:
    """One sentence: stage, exception, code, row and key, cycle, memory."""
    stage = str(told["stage"])
    code = f" at `{told['code']}`" if told.get("code") else ""
    function = f" in {told['function']}()" if told.get("function") and not told.get("beyond") else ""
    text = f"{STAGES.get(stage, stage)}: {told.get('type')}: {str(told.get('message', '')).rstrip('.')}{code}{function}"
    if told.get("beyond") and told.get("raised_in"):
        text += f", raised in {told['raised_in']} on behalf of what {told.get('function') or 'the factory'}() returned"
    return text + _row(told) + _cycle(told) + _memory(told)


def _row(told: Mapping[str, Any]) -> str:
    if told.get("key") is None:
        return ""
    row = f"row {told['row']}" if told.get("row") is not None else "the row"
    there = f"; it has {', '.join(told['keys'])}" if told.get("keys") else ""
    return f"; {row} has no key {told['key']!r}{there}"


def _cycle(told: Mapping[str, Any]) -> str:
    cycle = told.get("cycle") or []
    return f"; the cycle is {' -> '.join([*cycle, cycle[0].partition(' ')[0]])}" if cycle else ""


def _memory(told: Mapping[str, Any]) -> str:
    if not told.get("memory"):
        return ""
    limit, peak = (f"{told[name] / 2**30:.1f} GiB" for name in ("limit", "peak"))
    return f"; the limit of the dry run is {limit}, at most {peak} were resident"


def where_of(stage: str, told: Found | None = None) -> Where:
    """The place of a finding: the user's file and line where a failure has one, and the stage."""
    told = told or {}
    return Where(
        file=told.get("file"), line=told.get("line"), row=told.get("row"), what=f"dry run, stage {stage!r}"
    )


def trained(dry_run: Found) -> Found:
    """What was seen of the first run.

    Raises:
        EvidenceError: it did not get as far as one loss.
    """
    seen: Found = dry_run.get("train") or {}
    if not seen.get("losses"):
        raise EvidenceError("dry_run", "no step was made", told_by="trainer_survives_a_dry_run")
    return seen


def not_finite(values: Sequence[Any]) -> list[int]:
    """Places of what is no finite number (`"nan"`, `"inf"`)."""
    return [i for i, v in enumerate(values) if not math.isfinite(float(v))]
