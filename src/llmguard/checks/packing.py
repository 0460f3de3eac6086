"""Packing: documents packed into one row know nothing of each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from llmguard.checks.tokens_of_rows import evidence_of, first_where, hits, masks_tally, row_hits
from llmguard.contract import Yields, check, row_check
from llmguard.encoded import Batches, Encoded, as_batches, as_encoded
from llmguard.evidence.isolation import as_isolation
from llmguard.findings import Finding, Where, error
from llmguard.packing import document_starts
from llmguard.tally import Tally

__all__ = [
    "documents_do_not_see_each_other",
    "first_token_of_a_document_is_not_trained",
    "packed_documents_are_told_apart",
    "position_ids_restart_with_each_document",
]


def _padded(packed: Any) -> Encoded:
    return packed.padded if isinstance(packed, Batches) else as_encoded(packed)


def _seams(encoded: Encoded, tokenizer: Any) -> Any:
    """Tokens that start another document inside a row: behind an EOS that is not the last, before a BOS or any content: bool [tokens]."""
    ids, eos = encoded.input_ids, tokenizer.eos_token_id
    values, inner = ids.values, ids.position > 0
    after = np.zeros(len(values), dtype=bool)
    if eos is not None:
        after[1:] = (values[:-1] == eos) & (values[1:] != eos)
    pad = tokenizer.pad_token_id
    return after & inner & encoded.attended & ((values != pad) if pad is not None else True)


@row_check
def packed_documents_are_told_apart(
    batches: Any, tokenizer: Any, rows: Any = None, train_on: str = "responses"
) -> Tally:
    """Rows of a batch that hold several documents say where each starts (`position_ids` that restart, `seq_lengths`, `cu_seq_lens`).

    Counts documents by EOS tokens with supervised text on both sides, and only when most rows are so: one conversation of
    several turns may hold EOS after each. Continued pre-training (`train_on = "all"`) packs so on purpose and is not judged.
    """
    after = _padded(as_batches(batches))
    if train_on == "all":
        return Tally()
    seams = _seams(after, tokenizer)
    several = after.input_ids.count(seams) > 0
    starts = document_starts(after)
    told = starts is not None and len(starts) > len(after)
    long_rows = several & _equal_lengths(after)
    bad = (
        long_rows
        if not told and rows is not None and _holds_several(after, rows, tokenizer, several)
        else np.zeros_like(several)
    )
    return masks_tally(after, len(after), mixed=row_hits(after, None, bad))


def _equal_lengths(encoded: Encoded) -> Any:
    """Rows as long as the longest: packing fills rows up."""
    lengths = encoded.input_ids.lengths
    return lengths * 10 >= int(lengths.max(initial=0)) * 9


def _holds_several(encoded: Encoded, rows: Any, tokenizer: Any, several: Any) -> bool:
    """Whether rows with seams hold the first prompts of more than one source row."""
    from llmguard.rows import as_rows
    from llmguard.vocabulary import vocabulary_of

    source, vocabulary = as_rows(rows), vocabulary_of(tokenizer)
    starts = {
        vocabulary.text_as_bytes(t[0].content.strip())[:60]
        for t in source.turns[:2000]
        if t and len(t[0].content.strip()) >= 12
    }
    for row in np.flatnonzero(several)[:4].tolist():
        text = vocabulary.bytes_of(encoded.input_ids[row])
        if sum(s in text for s in starts) > 1:
            return True
    return False


@packed_documents_are_told_apart.explain
def _mixed(tally: Tally) -> Iterator[Finding]:
    if tally["mixed"].rows:
        yield error(
            first_where(tally["mixed"]),
            what=(
                f"{tally.rate('mixed')} of the batches hold several documents and nothing that tells them "
                "apart"
            ),
            why=(
                "with a plain causal mask each document attends to those before it: the model is trained "
                "on answers to other questions"
            ),
            cause="rows concatenated up to max_length without position_ids or a block-diagonal mask",
            remedy=(
                "use packing that emits position_ids restarting with each document and a kernel that "
                "honours them (flash attention varlen), or do not pack"
            ),
            evidence=evidence_of(tally["mixed"]),
        )


@row_check
def position_ids_restart_with_each_document(batches: Any) -> Tally:
    """`position_ids` count 0, 1, 2, … within each document, and start every row with 0 (padding on the left aside)."""
    after = _padded(as_batches(batches))
    positions = after.columns.get("position_ids")
    if positions is None or not positions.same_shape(after.input_ids):
        return Tally()
    values, first = positions.values, positions.position == 0
    steps = np.ones(len(values), dtype=np.int64)
    steps[1:] = np.diff(values)
    wrong = np.where(first, values > 1, (steps != 1) & (values != 0)) & after.attended
    late = _misplaced(after, -1) if not wrong.any() else np.zeros_like(wrong)
    early = _misplaced(after, 1) if not wrong.any() else np.zeros_like(wrong)
    return masks_tally(
        after,
        len(after),
        wrong=hits(after, None, wrong),
        late=hits(after, None, late),
        early=hits(after, None, early),
    )


def _misplaced(encoded: Encoded, by: int) -> Any:
    """Starts of documents that lie beside the token that every row starts with, where none lies on it: bool [tokens]."""
    ids, starts = encoded.input_ids, document_starts(encoded)
    found = np.zeros(len(ids.values), dtype=bool)
    if starts is None:
        return found
    filled = ids.lengths > 1
    begins, last = ids.offsets[:-1][filled], ids.values[ids.offsets[1:][filled] - 1]
    inner = starts[(ids.position[starts] > 1) & (starts + 1 < len(ids.values))]
    if (
        len(inner) < FEW or np.isin(ids.values[begins], last).any()
    ):  # what ends documents as well tells no start
        return found
    for length in (1, HEADER):  # of a repeated token (`#`), one beside another says nothing
        first = _tokens_at(ids.values, begins, length)
        here, beside = (_tokens_at(ids.values, at, length) for at in (inner, inner + by))
        if (first == first[0]).all() and (beside == first[0]).all() and not (here == first[0]).all(1).any():
            found[inner] = True
    return found


def _tokens_at(values: Any, places: Any, length: int) -> Any:
    """The tokens from some places on: int [places, length]."""
    return values[np.minimum(places[:, None] + np.arange(length), len(values) - 1)]


FEW = 3
"""From so many boundaries on, all of them beside the start of a document are no accident."""
HEADER = 4
"""Tokens that documents may start with alike."""


@position_ids_restart_with_each_document.explain
def _wrong_positions(tally: Tally) -> Iterator[Finding]:
    for kind in ("late", "early"):
        if tally[kind].rows:
            yield error(
                first_where(tally[kind]),
                what=f"{tally.rate(kind)} have position_ids that restart one token {kind}: beside the first token of each document",
                why="the token beside the boundary is counted to the wrong document: attended to from it, and trained in it",
                cause="lengths summed without a token (BOS, EOS) that is added later, or a boundary taken as inclusive",
                remedy="take the lengths of the documents after every token is in them",
                evidence=evidence_of(tally[kind]),
            )
    if tally["wrong"].rows:
        yield error(
            first_where(tally["wrong"]),
            what=(
                f"{tally.rate('wrong')} have position_ids that neither count on nor restart "
                f"({tally['wrong'].things:,} places)"
            ),
            why="the model meets documents at positions where it never sees them when it generates",
            cause="position_ids counted over the packed row, or padded with another value than 0",
            remedy="restart position_ids at 0 with each document",
            evidence=evidence_of(tally["wrong"]),
        )


@row_check
def first_token_of_a_document_is_not_trained(batches: Any) -> Tally:
    """The first token of a packed document has no label: shifted, it would be predicted from the document before."""
    after = _padded(as_batches(batches))
    starts = document_starts(after)
    if starts is None or len(starts) <= len(after) or not after.has_labels:
        return Tally()
    wrong = np.zeros(len(after.input_ids.values), dtype=bool)
    wrong[starts] = True
    wrong &= after.trained & (after.input_ids.position > 0)
    return masks_tally(after, len(after), first=hits(after, None, wrong))


@first_token_of_a_document_is_not_trained.explain
def _trained_starts(tally: Tally) -> Iterator[Finding]:
    if tally["first"].rows:
        yield error(
            first_where(tally["first"]),
            what=f"{tally.rate('first')} train the first token of {tally['first'].things:,} packed documents",
            why=(
                "labels are shifted by one inside the model: this token is predicted from the last token "
                "of another document"
            ),
            cause="documents were concatenated with all of their labels",
            remedy="set the label of each document's first token to -100",
            evidence=evidence_of(tally["first"]),
        )


@check
def documents_do_not_see_each_other(isolation: Any, train_on: str = "responses") -> Yields:
    """Changing one document of a packed row leaves the logits of the others as they are.

    Measured, not read off the columns: on a small model of random weights with the user's config class and attention
    implementation, given the batch as the Trainer hands it over. Restarted `position_ids` alone keep documents apart under one
    implementation and not under another. Rows of one document are not judged, nor is continued pre-training
    (`train_on = "all"`), which packs so on purpose. Flash attention runs by transformers' own code around a CPU computation.
    """
    told = as_isolation(isolation)
    found = told.found
    if train_on == "all" or not found.get("pairs"):
        return 0
    if found["seen"]:
        yield _seen(told.name, found)
    return int(found["pairs"])


def _seen(name: str, found: Mapping[str, Any]) -> Finding:
    first, flash = found["first"], found.get("flash")
    apart = " (flash attention keeps them apart)" if flash is not None and not flash["seen"] else ""
    columns = " and ".join(found["told_by"])
    return error(
        Where(what=f"batch {first['batch']} of {name}", row=first["row"]),
        what=(
            f"changing document {first['changed']} changes the logits of document {first['watched']} by up to {found['across']:.2g} "
            f"(its own by {found['own']:.2g}): {found['seen']} of {found['pairs']} pairs of packed documents see each other in "
            f"{found['model']} with {found['attention']} attention{apart}, although {columns} tells them apart"
        ),
        why="each document attends to the unrelated ones before it, which it never sees when the model generates",
        cause=_cause(found),
        remedy=(
            "train padding-free (one row a batch, position_ids, no attention_mask), pass a block-diagonal 4D mask, or use "
            'attn_implementation="flash_attention_2" with position_ids; then measure again'
        ),
        expected="no change",
        actual=f"{found['across']:.3g}",
        evidence={k: found[k] for k in ("pairs", "seen", "own", "across", "told_by", "attention", "model")},
    )


def _cause(found: Mapping[str, Any]) -> str:
    told = set(found["told_by"])
    if told == {"attention_mask"}:
        return "a mask that this attention implementation reads otherwise (numbers taken for ones, a boolean mask added to scores)"
    if "attention_mask" not in told:
        return (
            "position_ids restart, and no mask separates the documents: an attention_mask of ones (or several rows a batch) switches "
            "their detection off, or layers that carry a state run on over the boundary"
        )
    return "layers that do not read the mask, such as those that carry a state, run on over the boundary"
