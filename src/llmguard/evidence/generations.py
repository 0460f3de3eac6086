"""`generations`: what the user's `generate` gives for the same prompts twice, one by one, and in a batch of copies."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmguard.errors import LLMGuardError, MissingEvidence
from llmguard.evidence import Evidence
from llmguard.sentinels.prompts import SENTINELS

__all__ = ["Generations", "ask_again", "from_answer", "mixed", "provide"]

PROMPTS, ALONE, CONFIRM = 16, 8, 4
"""Prompts of a batch; of those, asked one by one; of those that come out otherwise, asked in a batch of copies."""
LONGEST = 4000
"""Characters of a prompt: longer ones cost more than they show."""
DEADLINE = 1800.0
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}


@dataclass(frozen=True)
class Generations:
    """Completions of `prompts` by the function `what`, stripped: of all at once, `first` and `again`; by number, of some `alone`, and
    in a batch of `copies` of one prompt. `facts`: see `llmguard.sentinels.repeated`. `error`: why there are none.
    """

    what: str
    prompts: Sequence[str] = ()
    first: Sequence[str] = ()
    again: Sequence[str] = ()
    alone: Mapping[int, str] = field(default_factory=dict)
    copies: Mapping[int, str] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""


def provide(evidence: Evidence, target: str) -> Generations:
    """What the project's own generate function says to its own prompts.

    Raises:
        MissingEvidence: the project names no function.
    """
    project = evidence.project
    reference = project.schema.pipeline.generate
    if reference is None:
        raise MissingEvidence("generations", 'add `[pipeline] generate = "module:function"` to llmguard.toml')
    return ask_again(
        reference,
        mixed(_texts(evidence)),
        folder=project.folder,
        hide_gpus=not (project.schema.environment.gpu or evidence.options.gpu),
        no_progress=evidence.options.deadline,
    )


def _texts(evidence: Evidence) -> list[str]:
    """Prompts of the project: as built for generation, else as they stand in its data; the test split's first."""
    for split in sorted(evidence.project.splits, key=("test", "validation", "train").index):
        for kind in ("prompts", "rows"):
            try:
                found = evidence.get(kind, split, over=kind)
            except LLMGuardError:
                continue
            texts = found.texts if kind == "prompts" else [t[0].content for t in found.turns[:500] if t]
            if any(texts):
                return [str(t) for t in texts if t]
    return []


def mixed(texts: Sequence[str]) -> list[str]:
    """Some prompts of the shortest to the longest, in no order of length; sentinel prompts where there are too few."""
    own = sorted({t for t in texts if len(t) <= LONGEST}, key=len)
    spread = [own[round(i * (len(own) - 1) / (PROMPTS - 1))] for i in range(PROMPTS)] if own else []
    chosen = list(dict.fromkeys(spread))
    if len(chosen) < PROMPTS or len(chosen[-1]) < 1.5 * len(chosen[0]):
        more = sorted((s.prompt for s in SENTINELS), key=len)
        chosen = chosen[: PROMPTS // 2]
        chosen += [more[0], more[-1], *more[1:-1]][: PROMPTS - len(chosen)]
    return chosen[::2] + chosen[1::2]


def ask_again(
    reference: str,
    prompts: Sequence[str],
    *,
    folder: Path,
    hide_gpus: bool = True,
    no_progress: float = 60.0,
) -> Generations:
    """Ask a generate function in a child of its own; the shortest prompts are also asked one by one: they are padded most."""
    from llmguard import probe

    what = f"[pipeline] generate = {reference!r}"
    alone = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))[:ALONE]
    request = {"callable": reference, "prompts": list(prompts), "alone": alone, "confirm": CONFIRM}
    with tempfile.TemporaryDirectory(prefix="llmguard-repeated-") as scratch:
        asked, answered = Path(scratch, "request.json"), Path(scratch, "response.json")
        asked.write_text(json.dumps({**request, "folder": str(folder)}), "utf-8")
        ended = probe.run(
            "llmguard.sentinels.repeated",
            [str(asked), str(answered)],
            timeout=DEADLINE,
            no_progress=no_progress,
            cwd=folder,
            env=OFFLINE,
            hide_gpus=hide_gpus,
            what="generation in several batches",
        )
        if not answered.exists():
            return Generations(what, error=ended.explain())
        answer = json.loads(answered.read_text("utf-8"))
    return from_answer(what, prompts, answer)


def from_answer(what: str, prompts: Sequence[str], answer: Mapping[str, Any]) -> Generations:
    """What the child wrote."""
    if "error" in answer:
        told = answer["error"]
        place = f" ({told['file']}:{told['line']})" if told.get("file") else ""
        return Generations(what, error=f"{told['type']}: {told['message']}{place}")
    alone, copies = ({int(i): str(t) for i, t in answer[n].items()} for n in ("alone", "copies"))
    return Generations(what, prompts, answer["first"], answer["again"], alone, copies, answer["facts"])
