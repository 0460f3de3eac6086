"""Planted faults: each a small function on an encoded row, with the checks of which at least one must find it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from support.encoders import IGNORE, Sample, Span

__all__ = ["FAULTS", "Fault"]


@dataclass(frozen=True)
class Fault:
    """`plant(sample, tokenizer)` gives the faulty row, or None where this row cannot have the fault."""

    name: str
    plant: Callable[[Sample, Any], Sample | None]
    found_by: tuple[str, ...]


FAULTS: list[Fault] = []


def fault(
    *found_by: str,
) -> Callable[[Callable[[Sample, Any], Sample | None]], Callable[[Sample, Any], Sample | None]]:
    """Register a fault with the checks that are to find it."""

    def register(plant: Callable[[Sample, Any], Sample | None]) -> Callable[[Sample, Any], Sample | None]:
        FAULTS.append(Fault(plant.__name__, plant, found_by))
        return plant

    return register


def _relabelled(sample: Sample, trained: set[int]) -> Sample:
    return replace(sample, labels=[t if i in trained else IGNORE for i, t in enumerate(sample.ids)])


def _trained(sample: Sample) -> set[int]:
    return {i for i, t in enumerate(sample.trained()) if t != IGNORE}


@fault("every_response_token_is_trained")
def mask_one_token_late(sample: Sample, tokenizer: Any) -> Sample | None:
    """The first token of every response is masked."""
    return _relabelled(sample, _trained(sample) - {s.start for s in sample.spans})


@fault("every_prompt_token_is_masked")
def mask_one_token_early(sample: Sample, tokenizer: Any) -> Sample | None:
    """The last token of every prompt is trained."""
    return _relabelled(sample, _trained(sample) | {s.start - 1 for s in sample.spans})


@fault("every_response_token_is_trained")
def last_token_of_the_response_masked(sample: Sample, tokenizer: Any) -> Sample | None:
    """The last word of every response is masked, its terminator is not."""
    return _relabelled(sample, _trained(sample) - {s.end - 1 for s in sample.spans})


@fault("response_ends_with_its_terminator")
def terminator_missing(sample: Sample, tokenizer: Any) -> Sample | None:
    """The row ends with the words of its last response."""
    last = sample.spans[-1]
    return sample.cut(last.end) if last.stop > last.end else None


@fault("terminator_is_trained")
def terminator_masked(sample: Sample, tokenizer: Any) -> Sample | None:
    """What ends a response is masked (pad == eos, masked by id)."""
    ends = {i for s in sample.spans for i in range(s.end, s.stop)}
    return _relabelled(sample, _trained(sample) - ends) if ends else None


def _moved(sample: Sample, before: list[int]) -> Sample:
    n = len(before)
    spans = [Span(s.start + n, s.end + n, s.stop + n) for s in sample.spans]
    return Sample([*before, *sample.ids], spans)


def _prepended(tokenizer: Any) -> list[int]:
    whole, bare = tokenizer("a")["input_ids"], tokenizer("a", add_special_tokens=False)["input_ids"]
    return list(whole[: len(whole) - len(bare)])


@fault("every_row_has_one_bos")
def bos_doubled(sample: Sample, tokenizer: Any) -> Sample | None:
    """A template writes BOS and the tokenizer adds another."""
    bos = _prepended(tokenizer)
    if not bos:
        return None
    return _moved(sample, bos if sample.ids[0] == bos[0] else bos * 2)


@fault("every_row_has_one_bos")
def bos_missing(sample: Sample, tokenizer: Any) -> Sample | None:
    """Tokenised without special tokens."""
    if not _prepended(tokenizer) or sample.ids[0] != _prepended(tokenizer)[0]:
        return None
    return Sample(sample.ids[1:], [Span(s.start - 1, s.end - 1, s.stop - 1) for s in sample.spans])


def has_token(tokenizer: Any, text: str) -> bool:
    """Whether a text is one id of the vocabulary."""
    return (
        tokenizer.convert_tokens_to_ids(text) not in (None, tokenizer.unk_token_id)
        or text == tokenizer.unk_token
    )


@fault("control_tokens_are_single_ids", "response_ends_with_its_terminator")
def wrong_control_token(sample: Sample, tokenizer: Any) -> Sample | None:
    """The end marker of another model family, which this tokenizer takes for letters."""
    foreign = next(t for t in ("</s>", "<|im_end|>", "<|eot_id|>") if not has_token(tokenizer, t))
    last, pieces = sample.spans[-1], tokenizer(foreign, add_special_tokens=False)["input_ids"]
    spans = [*sample.spans[:-1], Span(last.start, last.end, last.end + len(pieces))]
    return Sample([*sample.ids[: last.end], *pieces], spans)


@fault("every_prompt_token_is_masked")
def everything_trained(sample: Sample, tokenizer: Any) -> Sample | None:
    """Labels are a copy of the ids."""
    return replace(sample, labels=list(sample.ids))


@fault("every_row_has_a_supervised_token")
def everything_masked(sample: Sample, tokenizer: Any) -> Sample | None:
    """A response marker that is never found."""
    return replace(sample, labels=[IGNORE] * len(sample.ids))


@fault("labels_are_not_shifted")
def labels_shifted(sample: Sample, tokenizer: Any) -> Sample | None:
    """Labels moved by one position, for a model that moves them itself."""
    return replace(sample, labels=[*sample.trained()[1:], IGNORE])


@fault("every_wanted_turn_is_trained")
def middle_turn_untrained(sample: Sample, tokenizer: Any) -> Sample | None:
    """The second of three responses is masked."""
    if len(sample.spans) < 3:
        return None
    return _relabelled(sample, _trained(sample) - set(range(sample.spans[1].start, sample.spans[1].stop)))


@fault("every_wanted_turn_is_trained")
def last_turn_only(sample: Sample, tokenizer: Any) -> Sample | None:
    """Of several responses only the last one is trained."""
    if len(sample.spans) < 2:
        return None
    return _relabelled(sample, set(range(sample.spans[-1].start, sample.spans[-1].stop)))


@fault("every_wanted_turn_is_trained")
def first_turn_only(sample: Sample, tokenizer: Any) -> Sample | None:
    """The mask stops behind the first response."""
    if len(sample.spans) < 2:
        return None
    return _relabelled(sample, set(range(sample.spans[0].start, sample.spans[0].stop)))


@fault("every_response_token_is_trained")
def later_turns_lose_their_first_token(sample: Sample, tokenizer: Any) -> Sample | None:
    """Spans counted by tokenising every turn apart (a word that SentencePiece writes otherwise there)."""
    if len(sample.spans) < 2:
        return None
    return _relabelled(sample, _trained(sample) - {s.start for s in sample.spans[1:]})


PADS = 7


def _pad(tokenizer: Any) -> int:
    known = (tokenizer.pad_token_id, tokenizer.eos_token_id)
    return next(int(i) for i in known if i is not None)


@fault("padding_is_never_trained")
def padding_trained(sample: Sample, tokenizer: Any) -> Sample | None:
    """Rows padded on the right, their labels with the pad id."""
    pads = [_pad(tokenizer)] * PADS
    attention = [1] * len(sample.ids) + [0] * PADS
    return Sample([*sample.ids, *pads], sample.spans, [*sample.trained(), *pads], attention)


@fault("every_prompt_token_is_masked", "every_response_token_is_trained")
def mask_of_the_unpadded_row(sample: Sample, tokenizer: Any) -> Sample | None:
    """Rows padded on the left under the mask that was counted without padding."""
    ids = [*[_pad(tokenizer)] * PADS, *sample.ids]
    places = _trained(sample)
    labels = [t if i in places else IGNORE for i, t in enumerate(ids)]
    return Sample(ids, _moved(sample, [0] * PADS).spans, labels, [0] * PADS + [1] * len(sample.ids))


@fault("every_wanted_turn_is_trained", "every_response_token_is_trained")
def label_at_minus_one(sample: Sample, tokenizer: Any) -> Sample | None:
    """A search that fails returns -1, and the label is written there."""
    return _relabelled(sample, {len(sample.ids) - 1})


@fault("ids_are_in_the_vocabulary")
def id_beyond_the_vocabulary(sample: Sample, tokenizer: Any) -> Sample | None:
    """An id of a larger vocabulary."""
    return replace(sample, ids=[*sample.ids[:3], len(tokenizer) + 4, *sample.ids[4:]])


@fault("ids_are_in_the_vocabulary")
def negative_id(sample: Sample, tokenizer: Any) -> Sample | None:
    """-100 in the ids."""
    return replace(sample, ids=[*sample.ids[:3], IGNORE, *sample.ids[4:]])
