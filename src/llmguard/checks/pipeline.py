"""The user's own functions: they import, run on the project's rows, and return what the contract says."""

from __future__ import annotations

from typing import Any

from llmguard.contract import Yields, check
from llmguard.encoded import Encoded, as_encoded
from llmguard.evidence.pipeline import Pipeline
from llmguard.evidence.prepared import Prepared
from llmguard.findings import Finding, Where, error
from llmguard.rows import as_rows

__all__ = [
    "encoded_data_are_readable",
    "encoded_rows_match_the_split",
    "labels_are_made",
    "pipeline_code_runs",
]


@check
def pipeline_code_runs(pipeline: Pipeline) -> Yields:
    """The functions that the project names (build, encode, collate, trainer) import, run, and return what they should."""
    for step, outcome in pipeline.outcomes.items():
        if outcome["ok"]:
            continue
        told: dict[str, Any] = outcome["error"]
        row = (
            f" on row {told['row']} ({told.get('data_file')}:{told.get('data_line')})"
            if told.get("row") is not None
            else ""
        )
        code = f" at `{told['code']}`" if told.get("code") else ""
        yield error(
            Where(file=told.get("file"), line=told.get("line"), row=told.get("row"), key=step),
            what=f"{told.get('what', step)} failed{row}: {told.get('type', '')}: {told.get('message', '')}{code}",
            why="training would end here too, after the model was loaded; what depends on it cannot be checked",
            cause=(
                "a mistake in the function, a missing column, a package that is not installed, "
                "or code that hangs or crashes while it is imported"
            ),
            remedy="call the function on this row by hand, mend it, and run the checks again",
            evidence={
                "error": {k: v for k, v in told.items() if isinstance(v, (str, int, float)) or v is None}
            },
        )
    return len(pipeline.outcomes)


@check
def encoded_data_are_readable(prepared: Prepared) -> Yields:
    """The folder of already tokenised data holds rows with token ids."""
    if prepared.problem:
        yield error(
            Where(file=prepared.folder, key="data.encoded"),
            what=f"the tokenised data cannot be read: {prepared.problem}",
            why="what the run would train on is not there, and nothing of it can be checked",
            cause="a folder that was not saved to its end, another format, or rows without input_ids",
            remedy="save it again (`dataset.save_to_disk`, JSON Lines or Parquet with a column input_ids)",
        )
    return 1


@check
def labels_are_made(encoded: Any, train_on: str = "responses", batches: Any = None) -> Yields:
    """Encoded rows say what is trained: they have labels, or a collator makes them."""
    found = as_encoded(encoded)
    later = batches is not None and batches.padded.has_labels
    if not found.has_labels and not later and train_on != "all":
        yield error(
            Where(file=found.name, column="labels"),
            what=(
                f"{len(found):,} encoded rows have no labels (columns: {', '.join(found.columns)}), "
                "and no collator of the project makes them"
            ),
            why="the Trainer's default collator copies input_ids into labels: the prompt is trained like the response",
            cause="the prompt's length was computed and never used, or the labels column was dropped",
            remedy=(
                "return labels with -100 on the prompt from encode; or name the collator that makes them as "
                '`[pipeline] collate`; or say `train_on = "all"`'
            ),
            expected="a labels column",
            actual=", ".join(found.columns),
        )
    return len(found)


LIVE = ("trainer", "trainer-eval", "train", "validation", "collate")
"""Rows that were made in this session."""


def _strange(found: Encoded, matched: int) -> Finding:
    """Prepared rows of other data, or of another tokenizer's ids."""
    return error(
        Where(file=found.name),
        what=f"of {len(found):,} rows of {found.name} only {matched:,} hold the text of a row of the training split once they are decoded",
        why="the model would be trained on something else than the project's data, and nothing else about these rows can be proved",
        cause="rows prepared with another tokenizer (a cache that outlived a change of the model), or from other data",
        remedy="decode one row and read it; delete the prepared data and prepare them with the tokenizer that you train with",
        expected=f"{len(found):,} rows of the split",
        actual=f"{matched:,}",
        evidence={"matched": matched},
    )


@check
def encoded_rows_match_the_split(encoded: Encoded | Any, rows: Any) -> Yields:
    """Prepared data have as many rows as the split that they were made from: none lost, none twice (packed data by document)."""
    found, source = as_encoded(encoded), as_rows(rows)
    if found.name in LIVE:
        return len(found)
    matched = int((found.source >= 0).sum())
    if matched * 2 < len(found) and any(source.turns):
        yield _strange(found, matched)
        return len(found)
    if len(found) == len(source):
        return len(found)
    yield error(
        Where(file=found.name),
        what=f"{found.name} holds {len(found):,} rows and the training split {len(source):,}; {matched:,} of them were matched by text",
        why="rows were dropped or doubled on the way, or the prepared data are of another version of the files",
        cause="a framework that drops rows whose labels are all -100 or that are too long, or a stale prepared folder",
        remedy="prepare the data again, and compare counts; look at the rows that are missing",
        expected=str(len(source)),
        actual=str(len(found)),
        evidence={"matched": matched},
    )
    return len(found)
