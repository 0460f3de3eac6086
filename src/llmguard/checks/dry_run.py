"""The dry run of the user's trainer: a small model comes to the end of every stage, and goes on where it was stopped."""

from __future__ import annotations

import math
from collections.abc import Sequence

from llmguard.checks.dry_run_words import CAUSES, STAGES, Found, failure_text, trained, where_of
from llmguard.contract import Yields, check
from llmguard.errors import EvidenceError, MissingEvidence
from llmguard.findings import Finding, Where, error, note, warning

__all__ = [
    "dry_run_can_resume",
    "trainer_survives_a_dry_run",
]

SAME_LOSS = 1e-3
"""Relative difference of two losses up to which they are the same: threads may add numbers in another order."""


@check
def trainer_survives_a_dry_run(dry_run: Found) -> Yields:
    """The trainer can be built, makes steps, saves, is resumed, evaluates and generates: nothing of it raises, exits, hangs or dies.

    The factory is called in a supervised child with a small model of random weights in place of the one that it loads (same class, same
    vocabulary, two layers), a few rows (the longest that fits among them), and arguments that are harmless on a CPU: no GPU, no mixed
    precision, no DeepSpeed, no reports, output into a temporary folder. What it cannot see: what only the real model, the whole data or
    several processes bring about. `[pipeline] dry_run = false` switches it off.
    """
    for told in dry_run["failed"]:
        yield _failed(told)
    if "ended" in dry_run:
        yield _ended(dry_run)
    if dry_run.get("train", {}).get("ended") == -1 and not dry_run["failed"] and "ended" not in dry_run:
        yield _no_step()
    if notes := dry_run.get("notes"):
        said = "; ".join(f"{name}: {text}" for name, text in sorted(notes.items()))
        yield note(Where(what="dry run"), what=f"the dry run differs from the run itself: {said}")
    return len(dry_run["stages"]) + len(dry_run["failed"]) + ("ended" in dry_run)


def _failed(told: Found) -> Finding:
    kind = str(told.get("type"))
    cause, remedy = CAUSES.get(kind, CAUSES[""])
    return error(
        where_of(str(told["stage"]), told),
        what=failure_text(told),
        why="the run itself ends here, after the model was loaded: some stages are reached only after hours",
        cause=cause,
        remedy=remedy,
        expected="a stage that comes to its end",
        actual=f"{kind}: {told.get('message', '')}"[:200],
        evidence={
            "error": {k: v for k, v in told.items() if isinstance(v, (str, int, float, list)) or v is None}
        },
    )


def _ended(found: Found) -> Finding:
    stage, ended = str(found.get("stage")), found["ended"]
    own = ended.get("own") or {}
    at = f" at {own['file']}:{own['line']} in {own['function']}()" if own else ""
    return error(
        where_of(stage, own),
        what=f"{STAGES.get(stage, stage)}, the process came to no good end{at}: {ended['message']} ({ended['verdict']})",
        why="the run itself would end, or stand still, in this place, and nothing would say so",
        cause="a loop that does not end, a lock that nobody releases, os._exit(), a crash in native code, or memory above the limit",
        remedy="call the factory and `.train()` by hand; `py-spy dump` and `PYTHONFAULTHANDLER=1` name the line",
        expected="a stage that comes to its end",
        actual=str(ended["verdict"]),
        evidence={"stack": str(ended.get("stack", ""))[-1000:]},
    )


def _no_step() -> Finding:
    return error(
        where_of("train"),
        what="`train()` came to its end without a single optimizer step",
        why="the run ends with exit code 0, and the model that it saves is the one that it loaded",
        cause="num_train_epochs = 0, an empty data loader (fewer rows than a batch with dataloader_drop_last), or a callback that stops it",
        remedy="print len(trainer.get_train_dataloader()) and the arguments before training",
        expected="at least one step",
        actual="0 steps",
    )


@check
def dry_run_can_resume(dry_run: Found) -> Yields:
    """A run resumed from its own checkpoint goes on at the next step, and with the loss that the run itself had there."""
    seen = trained(dry_run)
    failed = [told for told in dry_run["failed"] if told["stage"] == "resume"]
    if failed:
        yield _failed(failed[0])
        return 1
    again = dry_run.get("resume")
    if again is None:
        reason = dry_run.get("notes", {}).get("resume") or dry_run.get("notes", {}).get("time")
        if reason:
            raise MissingEvidence("dry_run", str(reason))
        raise EvidenceError("dry_run", "it was not resumed", told_by="trainer_survives_a_dry_run")
    if again["began"] != 1:
        yield _from_the_start(again["began"])
        return 1
    first = [float(x) for x, at in zip(seen["losses"], seen["steps"], strict=True) if at == 2]
    second = [float(x) for x in again["losses"]]
    if not _same(first, second):
        yield _other_losses(first, second)
    return 1


def _from_the_start(step: int) -> Finding:
    return error(
        where_of("resume"),
        what=f"resumed from the checkpoint of step 1, the run began at step {max(step, 0)}",
        why="an interrupted run starts over: rows are trained twice, the schedule runs from its beginning",
        cause="no trainer_state.json in the checkpoint (an own `_save_checkpoint`), or an own `train` that ignores resume_from_checkpoint",
        remedy="save what Trainer saves, and give resume_from_checkpoint on to it",
        expected="step 1",
        actual=f"step {max(step, 0)}",
    )


def _same(first: Sequence[float], second: Sequence[float]) -> bool:
    return len(first) == len(second) and all(
        math.isclose(a, b, rel_tol=SAME_LOSS, abs_tol=1e-6) or (math.isnan(a) and math.isnan(b))
        for a, b in zip(first, second, strict=True)
    )


def _other_losses(first: Sequence[float], second: Sequence[float]) -> Finding:
    shown = [", ".join(f"{x:.5g}" for x in xs) for xs in (first, second)]
    return warning(
        where_of("resume"),
        what=f"the second step has the losses {shown[0]} in the run itself, and {shown[1]} after it was resumed",
        why="a resumed run is another run: weights, optimizer, rows or random numbers are not those that it stopped with",
        cause="weights that are not saved or not loaded, a sampler or random generator of your own, or ignore_data_skip",
        remedy="compare the weights and the row order of both; draw random numbers from torch, numpy or random, whose states are saved",
        expected=shown[0],
        actual=shown[1],
    )
