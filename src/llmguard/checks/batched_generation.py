"""Generation as a function: the same prompt gives the same completion, whenever it is asked and whatever stands beside it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from llmguard.contract import Yields, check
from llmguard.evidence.generations import Generations
from llmguard.findings import Finding, Where, error, note, warning

__all__ = ["completions_do_not_depend_on_their_batch", "greedy_generation_repeats_itself"]

MANY = 1 / 3
"""Share of the prompts from which on a difference is no accident of rounding."""
SHOWN = 3


@check
def greedy_generation_repeats_itself(generations: Generations, temperature: float = 0.0) -> Yields:
    """Asked twice for the same batch of prompts, under other seeds, `generate` returns the same completions.

    Not judged where `[generation] temperature` is above 0. One odd completion is a warning: sums on a GPU may round otherwise.
    """
    found = generations
    if found.error:
        yield error(
            Where(what=found.what),
            what=f"the project's prompts could not be asked: {found.error}",
            why="the function that evaluates the model does not work, so nothing is known of what it would measure",
            cause="an exception in it, a model that does not load here, or something else than a text for each prompt",
            remedy="call it once by hand with a list of two prompts",
        )
        return 0
    if temperature > 0:
        return 0
    other = [i for i, text in enumerate(found.first) if text != found.again[i]]
    if other:
        many = len(other) >= max(2, MANY * len(found.first))
        yield (error if many else warning)(
            Where(what=found.what),
            what=f"{len(other)} of {len(found.first)} prompts get another completion when they are asked again",
            why="scores move from run to run, and no difference between two models can be told from that noise",
            cause=_not_greedy(found),
            remedy="call model.eval(), and generate with do_sample=False; or say `[generation] temperature = …` if sampling is meant",
            evidence={"rows": other[:5], "first": _shown(found, other, dict(enumerate(found.again)))},
        )
    return len(found.first)


def _not_greedy(found: Generations) -> str:
    reasons = []
    for model in found.facts.get("models", ()):
        if model["training"] or model["dropout"]:
            reasons.append(
                f"{model['name']} is in training mode, with dropout of up to {model['dropout']:.2g}"
            )
        if model["do_sample"]:
            reasons.append(
                f"the generation config of {model['name']} samples (temperature {model['temperature']})"
            )
    return "; ".join(dict.fromkeys(reasons)) or (
        "dropout that is active (the model is not in eval mode, or calls F.dropout without `training`), or sampling"
    )


@check
def completions_do_not_depend_on_their_batch(generations: Generations, temperature: float = 0.0) -> Yields:
    """A prompt gets the same completion alone as among longer ones.

    What differs is asked again in a batch as large, of copies of that prompt, where nothing is padded: what differs there too is
    rounding (a note), what does not is the padding. Prompts that do not repeat themselves are left to the check on that.
    """
    found = generations
    if found.error or temperature > 0:
        return 0
    stable = [i for i in found.alone if found.first[i] == found.again[i]]
    other = [i for i in stable if found.alone[i] != found.first[i]]
    padded = [i for i in other if found.copies.get(i) == found.alone[i]]
    if padded:
        yield _depends(found, stable, other, padded)
    elif other:
        yield note(
            Where(what=found.what),
            what=f"{len(other)} of {len(stable)} prompts get another completion in another batch, also where nothing is padded",
            why="sums in half precision round otherwise in another batch: differences between scores below this are no result",
            evidence={"rows": other[:5], "first": _shown(found, other, found.alone)},
        )
    return len(stable)


def _depends(found: Generations, stable: list[int], other: list[int], padded: list[int]) -> Finding:
    asked = [i for i in other if i in found.copies]
    early = [i for i in padded if _shared(found.first[i], found.alone[i]) < 0.5]
    needed = 2.0 if _is_exact(found) else max(2.0, MANY * len(stable))
    grave = len(other) >= needed and len(padded) * 2 > len(asked) and len(early) * 2 >= len(padded)
    sides = found.facts.get("padding_sides", ())
    right = " (a tokenizer in memory pads on the right)" if "right" in sides else ""
    return (error if grave else warning)(
        Where(what=found.what),
        what=(
            f"{len(other)} of {len(stable)} prompts get another completion among longer prompts than alone; "
            f"{len(padded)} of {len(asked)} asked again without padding get the one that they get alone"
        ),
        why="a decoder goes on from padding instead of the prompt: short prompts of every batch score too low, by the batch size",
        cause=f"padding on the right, padding without an attention mask, or position ids that count padding{right}",
        remedy='set tokenizer.padding_side = "left" for generation, and pass attention_mask to generate()',
        evidence={"rows": other[:5], "first": _shown(found, other, found.alone)},
    )


def _is_exact(found: Generations) -> bool:
    """Whether all models that were seen compute in single precision, where a batch rounds as its rows do."""
    models = found.facts.get("models", ())
    return bool(models) and all(m["dtype"] == "float32" for m in models)


def _shared(some: str, other: str) -> float:
    """The share of a text that two begin with."""
    length = max(len(some), len(other))
    return len(os.path.commonprefix([some, other])) / length if length else 1.0  # noqa: RUF071  # texts, not paths


def _shown(found: Generations, rows: list[int], against: Any) -> list[dict[str, str]]:
    return list(_examples(found, rows[:SHOWN], against))


def _examples(found: Generations, rows: list[int], against: Any) -> Iterator[dict[str, str]]:
    for i in rows:
        yield {"prompt": found.prompts[i][:120], "here": found.first[i][:120], "there": against[i][:120]}
