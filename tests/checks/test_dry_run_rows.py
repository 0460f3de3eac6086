"""Which rows a dry run takes, and how they are called afterwards."""

from __future__ import annotations

from typing import Any

import pytest

from llmguard.collect.dry_run_rows import Fetched, Few, chosen_rows

Row = dict[str, Any]


class Table:
    """A data set as `datasets` has it: cut by `select`."""

    def __init__(self, rows: list[Row]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> Row:
        return self.rows[i]

    def select(self, rows: Any) -> Table:
        return Table([self.rows[i] for i in rows])


def table(lengths: list[int], **odd: Any) -> Table:
    """Rows of these lengths, each knowing its number; `at` has a key of its own."""
    rows = [{"input_ids": [1] * n, "number": i} for i, n in enumerate(lengths)]
    if odd:
        rows[odd["at"]]["weight"] = 1
    return Table(rows)


def test_the_longest_that_fits_the_shortest_and_the_odd_are_among_them() -> None:
    """A row of 400 tokens is too long, one of 300 is not; one without tokens, one of another form; the rest is spread over the data."""
    lengths = [20 + i % 7 for i in range(200)]
    lengths[50], lengths[60], lengths[70] = 400, 300, 0
    rows = chosen_rows(table(lengths, at=151), 200, 8, tokens=350)
    assert len(rows) == 8 == len(set(rows))
    assert rows == sorted(rows)
    assert {60, 70, 151} <= set(rows)
    assert 50 not in rows
    assert min(rows) < 40
    assert max(rows) > 160


def test_where_all_rows_are_too_long_the_shortest_are_taken() -> None:
    """Better long rows than none."""
    rows = chosen_rows(table([900, 800, 700, 600, 500, 400]), 6, 3, tokens=100)
    assert rows == [3, 4, 5]


def test_rows_that_cannot_be_read_are_left_to_the_run() -> None:
    """A data set that raises is not asked again: the first rows are taken, and the run will say which fails."""

    class Broken(Table):
        def __getitem__(self, i: int) -> Row:
            raise KeyError("text")

    assert chosen_rows(Broken([{}] * 9), 9, 4, tokens=100) == [0, 1, 2, 3]


def test_rows_of_text_are_measured_by_their_text() -> None:
    """A text of 3,000 characters is some 1,000 tokens."""
    rows = Table([{"text": "a" * n} for n in (30, 3000, 600, 60, 90, 120, 150, 180)])
    assert 1 not in chosen_rows(rows, 8, 3, tokens=500)
    assert 2 in chosen_rows(rows, 8, 3, tokens=500)


def test_rows_keep_the_numbers_of_the_users_own_data() -> None:
    """Cut twice, each by its own name; rows that were made anew on the way have no number."""
    few = Few(1000)
    whole = table(list(range(10, 110)))
    once = few.of(whole, 32, "train_dataset")
    twice = few.of(once, 4, "train_dataset")
    few.of(table(list(range(60))), 4, "eval_dataset")
    assert (len(once), len(twice)) == (32, 4)
    for i in range(4):
        assert few.row(twice, i, "train_dataset") == twice[i]["number"]
    assert few.row(once, 31, "train_dataset") == once[31]["number"] == 99
    assert few.row(Table([{}] * 7), 3, "train_dataset") is None
    assert few.row(whole, 42, "another") == 42


def test_what_cannot_be_cut_stays_as_it_is() -> None:
    """Streams, small sets, and everything where rows are asked for by number."""
    few, stream = Few(1000), iter([1, 2])
    assert few.of(stream, 4, "x") is stream
    small = table([5, 6])
    assert few.of(small, 4, "x") is small
    found = few.of({"easy": table([5] * 9), "hard": small}, 4, "x")
    assert (len(found["easy"]), found["hard"]) == (4, small)
    few.whole = True
    large = table([5] * 9)
    assert few.of(large, 4, "x") is large


def test_the_row_that_fails_by_itself_is_the_culprit() -> None:
    """Of the rows fetched last; another exception is another matter; a row of a token is found among those fetched before."""

    def collate(rows: list[Row]) -> float:
        return 1 / sum(len(r["input_ids"]) for r in rows)

    last = Fetched(table([3, 2, 0, 4]), (1, 2), collate=collate)
    last.before.extend((0, 3, 1, 2))
    assert last.culprit(ZeroDivisionError()) == 2
    assert last.culprit(KeyError()) is None
    assert last.holding(7) is None
    last.dataset.rows[3]["input_ids"][1] = 7
    assert last.holding(7) == 3
    assert not last.beyond()
    last.rows = (1, 4)
    assert last.beyond()


def test_a_data_set_of_the_users_own_keeps_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its attributes stay within reach of collators and trainers."""
    pytest.importorskip("torch")

    class Own:
        topic = "sums"

        def __len__(self) -> int:
            return 50

        def __getitem__(self, i: int) -> Row:
            return {"input_ids": [i]}

    cut = Few(1000).of(Own(), 4, "x")
    assert (len(cut), cut.topic) == (4, "sums")
    assert cut[3]["input_ids"][0] == 49
    with pytest.raises(AttributeError):
        _ = cut.nothing
