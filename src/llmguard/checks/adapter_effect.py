"""Adapters at work: the model with its adapter on says something else than with it off, and is the model that it was trained on."""

from __future__ import annotations

from collections.abc import Iterator

from llmguard.contract import Yields, check
from llmguard.evidence.adapter_effect import Effect
from llmguard.findings import Finding, Where, error, warning

__all__ = ["adapter_changes_the_model"]

HARDLY, MOVED = 1e-4, 1e-3
"""Differences of logits, as a share of their standard deviation, under which an adapter hardly changes anything, and over which two
models are not the same."""


@check
def adapter_changes_the_model(adapter_effect: Effect) -> Yields:
    """The adapter changes what the model says: its logits with the adapter on differ from those with it off, and are finite.

    The base that the adapter names, where it is on this machine, gives the same logits as the project's model. One forward pass each
    over six short texts on the CPU, in a supervised child.
    """
    effect = adapter_effect
    where = Where(file=effect.adapter, key="model.adapter")
    if effect.error:
        yield error(
            where,
            what=f"the adapter cannot be put on {effect.model!r}: {effect.error}",
            why="evaluation with it would end here",
            cause="the adapter of another base (other shapes, other modules), or weights that are not whole",
            remedy="name the base that it was trained on, or the adapter of this base",
        )
        return 1
    yield from _judged(effect, where)
    return int(effect.found["texts"])


def _judged(effect: Effect, where: Where) -> Iterator[Finding]:
    found = effect.found
    scale = max(float(found["scale"]), 1e-12)
    if not found["finite"]:
        yield error(
            where,
            what="with the adapter on the logits are NaN or infinite",
            why="every generated token is the same, or generation raises",
            cause="a loss that became NaN before the adapter was saved",
            remedy="do not use it; look for the step at which the loss became NaN",
        )
    elif found["changed"] <= HARDLY * scale:
        yield _no_effect(effect, where, found["changed"] == 0)
    if found["named"] is not None and found["named"] > MOVED * scale:
        yield error(
            Where(file=f"{effect.adapter}/adapter_config.json", key="base_model_name_or_path"),
            what=f"the base that the adapter names, {effect.base!r}, and the project's model {effect.model!r} are not the same: "
            f"their logits differ by up to {found['named']:.3g} (their standard deviation is {scale:.3g})",
            why="an adapter is a difference to one set of weights: on others it runs, and means nothing",
            cause="an adapter of a later stage put on the first base, or base and instruct model exchanged",
            remedy="use the base that the adapter names",
            expected=effect.base,
            actual=effect.model,
        )
    yield from _while_loading(effect, where, scale)


def _no_effect(effect: Effect, where: Where, none_at_all: bool) -> Finding:
    found = effect.found
    change = "are the same to the last bit" if none_at_all else f"differ by {found['changed']:.2g} at most"
    return (error if none_at_all else warning)(
        where,
        what=f"with the adapter on and off the logits after {found['texts']} texts {change}; "
        f"the likeliest token stays in {found['same_top']} of {found['texts']}",
        why="whatever is measured with this adapter is the base model",
        cause="B matrices that are zero, keys that do not match the model's modules, or a learning rate of 0",
        remedy="load the adapter of the run that you mean; look at adapter_is_trained, and at warnings while it is loaded",
        expected="other logits",
        actual=change,
    )


def _while_loading(effect: Effect, where: Where, scale: float) -> Iterator[Finding]:
    missing = [w for w in effect.found.get("warnings", ()) if "missing" in w.lower()]
    if missing:
        yield warning(
            where,
            what=f"PEFT loads the adapter in part: {missing[0]}",
            why="modules without their weights stay as in the base model",
            cause="an adapter that was saved from a wrapped or renamed model",
            remedy="save it again from the PeftModel itself, and compare the names in its file with the model's modules",
        )
    if effect.found["moved"] > MOVED * scale:
        yield warning(
            where,
            what=f"with the adapter off the model is not the base any more: logits differ by up to {effect.found['moved']:.3g}",
            why="a baseline measured by switching the adapter off is not the base model",
            cause="an initialisation that takes its part out of the base weights (PiSSA, OLoRA, LoftQ), or biases trained with LoRA",
            remedy="measure the baseline on the base model loaded by itself",
        )
