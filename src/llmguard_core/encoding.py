"""Rows to token ids and labels, and the prompts of generation in the same format.

The ids of a prompt as built for generation are a prefix of its row's by construction, and the trained span is the response and
its terminator whatever a tokenizer merges at the seam (see `segments`). Special tokens come from the format; where it leaves them
to the tokenizer (`add_special_tokens`), what `tokenizer(text)` puts before a text is put before the row, and nothing behind it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

import numpy as np

import llmguard
from llmguard.checks.bos import prepended
from llmguard.encoded import IGNORE_INDEX, Encoded
from llmguard.formats.chat import TemplateError
from llmguard.rows import Columns, Rows, Turn, as_rows, guess_columns, read_files, turns_of
from llmguard_core.encoded import Dropped, EncodedRow, EncodedRows
from llmguard_core.errors import DataRefused
from llmguard_core.formats import Format
from llmguard_core.segments import Ids, Segment, merged, segment_tokenizer, segments_of

__all__ = ["EncodedRow", "EncodedRows", "Encoder", "read_rows"]

BLOCK = 512
"""Rows that are tokenised at once; of a stream no more are held."""
SEAM = ("boundary_falls_between_tokens", "training_starts_with_the_generation_prompt")
"""Checks that a sample of the rows has to pass without a warning, too: whatever the data, this encoder keeps seams clean."""
VERIFIED = (
    "every_row_has_a_supervised_token", "labels_are_not_shifted", "every_row_has_one_bos", "ids_are_in_the_vocabulary",
    "ids_match_their_text", "every_prompt_token_is_masked", "every_response_token_is_trained", "every_wanted_turn_is_trained",
    "control_tokens_are_single_ids",
)  # fmt: skip
"""And those that it has to pass without an error."""
ENDED = ("response_ends_with_its_terminator", "terminator_is_trained")
"""And those on terminators, which see no white space: not for formats that end responses with a blank line."""

_log = logging.getLogger(__name__)
Turns = tuple[Turn, ...]
AnyRows = Rows | Iterable[Mapping[str, Any]]


def read_rows(files: Iterable[Path | str], columns: Columns | None = None, split: str = "train") -> Rows:
    """The rows of data files (json, jsonl, parquet, a saved `datasets` folder).

    Raises:
        DataRefused: they hold no row, or lines that cannot be read: all of them, each with its place.
    """
    paths = [Path(file) for file in files]
    rows = read_files(paths, split=split, columns=columns)
    told = [f"{problem.where}: {problem.reason}" for problem in rows.problems]
    if told or not len(rows):
        more = [f"… and {len(told) - 20:,} more"] if len(told) > 20 else []
        raise DataRefused(
            "\n".join(told[:20] + more) or "the files hold no row",
            where=f"{split} data ({', '.join(map(str, paths)) or 'no file'})",
            remedy="Mend or take out these lines." if told else "Name files that have rows.",
        )
    return rows


class Encoder:
    """Encodes rows (prompt/response, messages, ShareGPT) in one format, and the prompts of generation in the same.

    `max_length`: in tokens. `overflow`: of a longer row, `left` leaves out the oldest turns and then the start of its longest
    prompt (system turn, role headers and BOS stay), never a part of its last response; `drop` leaves out the row; `error` refuses
    the data. `train_on`: every response, the last one, or all tokens. `verify`: how many rows the checks look at.
    """

    def __init__(
        self,
        tokenizer: Any,
        fmt: Format,
        *,
        max_length: int | None = None,
        train_on: Literal["responses", "last", "all"] = "responses",
        overflow: Literal["left", "drop", "error"] = "left",
        columns: Columns | None = None,
        verify: int = 64,
    ) -> None:
        self.tokenizer, self.fmt, self.train_on, self.overflow = tokenizer, fmt, train_on, overflow
        self.max_length, self.columns, self.verify = max_length, columns or Columns(), verify
        self.start: Ids = prepended(tokenizer) if fmt.add_special_tokens else []
        self._segments = segment_tokenizer(tokenizer)

    def row(self, row: Mapping[str, Any]) -> EncodedRow:
        """One row.

        Raises:
            DataRefused: it cannot be trained on; says why.
        """
        return _kept(next(self.stream([row])))

    def encode_turns(self, turns: Sequence[Turn], number: int = 0) -> EncodedRow:
        """One conversation.

        Raises:
            DataRefused: it cannot be trained on; says why.
        """
        return _kept(self._block([(number, tuple(turns))])[0])

    def rows(self, rows: AnyRows) -> EncodedRows:
        """All rows that can be trained on, counted, told, and a sample of them verified by the checks.

        Raises:
            DataRefused: there is none, or rows are longer than max_length and `overflow` is "error".
            CheckFailed: what was made does not train exactly the responses and their terminators.
        """
        known = rows if isinstance(rows, Rows) else as_rows(rows, self.columns)
        found = EncodedRows(self.stream(known))
        told = f"format {self.fmt.name}: {found.summary()}"
        _log.info("encoded in %s", told)
        long = [numbers for reason, numbers in found.dropped.items() if reason.startswith("it is longer")]
        if not len(found) or (self.overflow == "error" and long):
            raise DataRefused(
                told if len(found) else f"no row can be trained on; {told}",
                where=known.split or "rows",
                remedy='Raise max_length, or choose overflow "left" or "drop".'
                if long
                else "Give rows with a prompt and a response that has text.",
            )
        self._require(known, found)
        return found

    def stream(self, rows: AnyRows) -> Iterator[EncodedRow | Dropped]:
        """Row after row; columns that are not named are guessed from the first block."""
        columns, number = rows.columns if isinstance(rows, Rows) else None, 0
        records = iter(rows)
        while block := list(islice(records, BLOCK)):
            columns = columns or guess_columns(block, self.columns)
            yield from self._block([(number + i, turns_of(r, columns)) for i, r in enumerate(block)])
            number += len(block)

    def _block(self, numbered: Iterable[tuple[int, Turns | None]]) -> list[EncodedRow | Dropped]:
        ready = [(number, turns, self._rendered(turns)) for number, turns in numbered]
        ids = iter(self._segments.ids(found for _, _, found in ready if not isinstance(found, str)))
        return [
            Dropped(number, found)
            if isinstance(found, str)
            else self._fitting(self._joined(number, turns or (), found, next(ids)))
            for number, turns, found in ready
        ]

    def _rendered(self, turns: Turns | None) -> list[Segment] | str:
        """The segments of a conversation, or why it cannot be trained on."""
        if turns is None:
            return "it has no messages, lacks a column, or holds content that is no text"
        if self.train_on != "all" and not any(t.answers and (t.content.strip() or t.said) for t in turns):
            return "it has no response with text to train"
        try:
            found = segments_of(self.fmt.pieces(turns))
            for segment in found:
                segment.text.encode()
        except TemplateError as bad:
            return f"the chat template refuses it: {bad}"
        except UnicodeEncodeError:
            return "its text is no valid Unicode (a lone surrogate)"
        return found

    def _joined(
        self, number: int, turns: Turns, segments: Sequence[Segment], ids: Sequence[Ids]
    ) -> EncodedRow:
        last = max((i for i, s in enumerate(segments) if s.trained), default=-1)
        whole, labels = list(self.start), [IGNORE_INDEX] * len(self.start)
        for i, (segment, part) in enumerate(zip(segments, ids, strict=True)):
            whole += part
            trained = segment.trained and (self.train_on != "last" or i == last)
            labels += part if trained else [IGNORE_INDEX] * len(part)
        text = "".join(segment.text for segment in segments)
        return EncodedRow(
            text, tuple(whole), tuple(whole if self.train_on == "all" else labels), turns, self, number
        )

    # rows that are too long

    def _fitting(self, row: EncodedRow) -> EncodedRow | Dropped:
        if not self.max_length or len(row.input_ids) <= self.max_length:
            return row
        reason = f"it is longer than max_length ({self.max_length})"
        if self.overflow != "left":
            return Dropped(row.number, reason)
        found = self._shortened(row, self.max_length)
        return found or Dropped(row.number, f"{reason}, and its response leaves no room for a prompt")

    def _shortened(self, row: EncodedRow, limit: int) -> EncodedRow | None:
        """The row within `limit`: without its oldest turns, then without the start of its longest prompt; None where it cannot be."""
        turns = row.turns
        for _ in range(len(turns) + 8):  # a cut may change what is merged behind it: some rows take several
            excess = len(row.input_ids) - limit
            if excess <= 0:
                return replace(row, truncated=True)
            fewer = _without_oldest(turns) or self._without_start(turns, excess)
            segments = self._rendered(fewer) if fewer else ""
            if fewer is None or isinstance(segments, str):
                return None
            turns = fewer
            row = self._joined(row.number, turns, segments, self._segments.ids([segments])[0])
        return None

    def _without_start(self, turns: Turns, excess: int) -> Turns | None:
        """The longest prompt shortened by so many tokens at its start; None where nothing of it would be left."""
        asked = [i for i, t in enumerate(turns) if t.role not in ("assistant", "system", "developer")]
        at = max(asked, key=lambda i: len(turns[i].content), default=-1)
        starts = self._segments.starts(turns[at].content) if asked else []
        if excess >= len(starts):
            return None
        rest = turns[at].content[max(starts[excess], 1) :]
        return (*turns[:at], replace(turns[at], content=rest), *turns[at + 1 :])

    # prompts of generation

    def prompt(self, row: Mapping[str, Any] | str) -> Ids:
        """The ids of a row's generation prompt (everything before its last response); a text is a user's turn.

        Raises:
            DataRefused: the row has no prompt, or the chat template refuses it.
        """
        return self.prompts([row])[0]

    def prompts(self, rows: Iterable[Mapping[str, Any] | str]) -> list[Ids]:
        """The ids of the generation prompts of some rows: prefixes of their `input_ids` where those are not truncated.

        Raises:
            DataRefused: a row has no prompt, or the chat template refuses it.
        """
        asked = [self._asked(row, number) for number, row in enumerate(rows)]
        return [[*self.start, *chain.from_iterable(ids)] for ids in self._segments.ids(asked)]

    def _asked(self, row: Mapping[str, Any] | str, number: int) -> list[Segment]:
        turns = self._turns(row)
        if not turns:
            remedy = "Give a text, or a row with messages or a prompt column."
            raise DataRefused("it has no prompt", where=f"row {number}", remedy=remedy)
        asked = turns[:-1] if turns[-1].role == "assistant" else turns
        try:
            whole = self.fmt.prompt(turns)
            history = segments_of(self.fmt.pieces(asked)) if asked else []
        except TemplateError as bad:
            raise DataRefused(f"the chat template refuses it: {bad}", where=f"row {number}") from None
        before = "".join(segment.text for segment in history)
        if not whole.startswith(before):  # a template that renders a turn otherwise once it is answered
            history, before = [], ""
        return merged([*history, Segment(whole[len(before) :], trained=False)])

    def _turns(self, row: Mapping[str, Any] | str) -> Turns | None:
        if isinstance(row, str):
            return (Turn("user", row),)
        columns = guess_columns([row], self.columns)
        alone = row.get(columns.prompt) if columns.prompt else None
        return turns_of(row, columns) or ((Turn("user", alone),) if isinstance(alone, str) else None)

    # what was made, judged by the checks

    def _require(self, rows: Rows, found: EncodedRows) -> None:
        cut = set(found.truncated)
        whole = [i for i, number in enumerate(found.source) if number not in cut]
        if not self.verify or not whole:
            return
        sample = whole[:: -(-len(whole) // self.verify)]
        source = [rows.records[found.source[i]] for i in sample]
        columns = {name: column.take(sample) for name, column in found.encoded().columns.items()}
        evidence: dict[str, Any] = {
            "encoded": Encoded(columns, np.arange(len(sample), dtype=np.int64), rows.split or "encoded"),
            "rows": replace(
                rows,
                records=source,
                origin=[rows.origin[found.source[i]] for i in sample] if rows.origin else (),
            ),
            "tokenizer": self.tokenizer,
            "template": self.fmt,
            "train_on": self.train_on,
            "add_special_tokens": bool(self.start),
            "prompts": self.prompts(source),
        }
        blank_end = self.fmt.terminator and not self.fmt.terminator.strip()
        for name in SEAM + VERIFIED + (() if blank_end else ENDED):
            check = getattr(llmguard, name)
            found_wrong = check(**{n: evidence[n] for n in check.parameters if n in evidence})
            llmguard.require(found_wrong, strict=name in SEAM)


def _kept(found: EncodedRow | Dropped) -> EncodedRow:
    if isinstance(found, Dropped):
        raise DataRefused(f"it cannot be trained on: {found.reason}", where=f"row {found.number}")
    return found


def _without_oldest(turns: Turns) -> Turns | None:
    """The turns without the first response and what asked for it, system turns kept; None where it is the only one."""
    head = next((i for i, t in enumerate(turns) if t.role not in ("system", "developer")), 0)
    answers = [i for i, t in enumerate(turns) if t.role == "assistant"]
    return (*turns[:head], *turns[answers[0] + 1 :]) if len(answers) > 1 else None
