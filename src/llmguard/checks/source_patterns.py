"""Notes on code that is right in one place and ruins a run in another: prompts of base models, collators beside masks of one's own."""

from __future__ import annotations

from llmguard.checks.source import AnySources
from llmguard.contract import Yields, check
from llmguard.findings import Finding, Where, note
from llmguard.sources.patterns import Overwritten, Unguarded, overwritten_masks, unguarded_prompts
from llmguard.sources.read import as_sources

__all__ = ["base_model_is_prompted_plainly", "collator_leaves_masks_alone"]


@check
def base_model_is_prompted_plainly(sources: AnySources, kind: str = "") -> Yields:
    """Code that generates with a base model applies no chat template, and says whether special tokens are added (a note).

    A base model is one whose name is written down and says so, or any model where the project says `kind = "base"`. Files that train are
    left alone, and files that set `chat_template`: a template may be what is taught.
    """
    found = as_sources(sources)
    for file in found.parsed:
        for one in unguarded_prompts(file, kind):
            yield _templated(file.name, one) if one.template else _by_default(file.name, one)
    return len(found.parsed)


def _templated(name: str, one: Unguarded) -> Finding:
    return note(
        Where(name, line=one.line),
        what=f"a chat template is applied to prompts of {one.model}, which is a base model",
        why="some base tokenizers ship a chat template (Qwen2.5 does): with it a base model follows instructions that it was never "
        "taught, and what is measured is not the base model",
        cause="prompt code of a chat model used for its base",
        remedy="set `tokenizer.chat_template = None`, and give the prompt as text with `add_special_tokens=` said; "
        "if the template is meant, set it in the code",
        evidence={"model": one.model},
    )


def _by_default(name: str, one: Unguarded) -> Finding:
    return note(
        Where(name, line=one.line),
        what=f"prompts of {one.model}, a base model, are tokenised with nothing said about special tokens",
        why="whether a BOS or more comes before the prompt is the tokenizer's default, and differs between models and versions",
        cause="defaults that were right for another model",
        remedy="say `add_special_tokens=` (as in training), set `tokenizer.chat_template = None`, and print the first decoded prompt once",
        evidence={"model": one.model},
    )


@check
def collator_leaves_masks_alone(sources: AnySources) -> Yields:
    """No collator that makes labels of the token ids stands beside code that masks labels (a note; batches are the proof)."""
    found = as_sources(sources)
    for file, one in overwritten_masks(found.parsed):
        yield _overwritten(file.name, one)
    return len(found.parsed)


def _overwritten(name: str, one: Overwritten) -> Finding:
    return note(
        Where(name, line=one.line),
        what="DataCollatorForLanguageModeling(mlm=False) makes labels of the token ids, and "
        f"{one.masked_in}:{one.masked_at} masks labels with -100",
        why="where both meet, the mask is undone: prompt and response are trained alike, and no message says so",
        cause="a collator from an example of pre-training, used on rows that have labels",
        remedy="use DataCollatorForSeq2Seq(tokenizer), which pads labels with -100; if the two belong to different runs, nothing is wrong: "
        "collator_keeps_labels proves it on real batches (`[pipeline] trainer`, or `collate`)",
        evidence={"masked_in": one.masked_in, "masked_at": one.masked_at},
    )
