"""The overlap index: hashes mean words, and any sharding of the training split gives the same answer."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmguard.overlap import Index, Partial, find_overlap, judged
from llmguard.overlap.compare import Words, in_common, longest_run, same_but_for_writing
from llmguard.overlap.hashing import GRAM, hashed, words_of
from llmguard.overlap.index import rare_at_most
from llmguard.overlap.partial import MOST_RARE
from llmguard.overlap.table import Table
from llmguard.rows import Columns, Rows

COLUMNS = Columns(prompt="p", response="r")
WORDS = st.sampled_from(["alpha", "Beta", "gamma", "7", "42", "delta", "naïve", "中文", "it’s", "x_y"])
ANY_TEXT = st.one_of(st.text(max_size=80), st.lists(WORDS, max_size=12).map(" ".join))


def rows_of(texts: Sequence[str]) -> Rows:
    """Rows whose prompt is the text."""
    return Rows([{"p": t, "r": f"answer {i % 7}"} for i, t in enumerate(texts)], COLUMNS)


@settings(max_examples=300, deadline=None)
@given(st.lists(ANY_TEXT, min_size=1, max_size=6))
def test_hashes_are_equal_where_words_are(texts: list[str]) -> None:
    """Words, grams and whole texts have equal hashes exactly where their words are equal, whatever the text holds."""
    found = hashed(texts)
    words = [words_of(t) for t in texts]
    assert np.diff(found.first).tolist() == [len(w) for w in words]
    flat = [w for each in words for w in each]
    assert same_partition(flat, found.words.tolist())
    grams, at = found.grams
    inside = [(i, tuple(w[k : k + GRAM])) for i, w in enumerate(words) for k in range(len(w) - GRAM + 1)]
    assert found.text[at].tolist() == [i for i, _ in inside]
    assert same_partition([g for _, g in inside], grams.tolist())
    assert same_partition([tuple(w) for w in words], found.whole.tolist())
    assert all((whole == 0) == (not w) for whole, w in zip(found.whole.tolist(), words, strict=True))


def same_partition(first: Sequence[object], second: Sequence[object]) -> bool:
    """Whether two lists are equal at the same pairs of places."""
    return len(first) == len(second) and len(set(first)) == len(set(second)) == len(
        set(zip(first, second, strict=True))
    )


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Don't stop – “really”!", "DON\u2019T  stop really"),
        ("ﬁve ｗｏｒｄｓ", "five words"),
        ("Straße É", "STRASSE é"),
        ("中文句子", "中 文 句 子"),
        ("a_b\u00a0c\0d", "a b c d"),
    ],
)
def test_writing_does_not_count(first: str, second: str) -> None:
    """Case, width, composition, typographic signs, spaces and control characters make no difference."""
    wholes = hashed([first, second]).whole
    assert wholes[0] == wholes[1] != 0


def test_numbers_alone_tell_nothing() -> None:
    """A gram needs three words that are no numbers: sums that many rows have are not indexed."""
    assert hashed(["1 2 three 4 five 6 seven"]).telling.tolist() == [
        False,
        False,
        True,
        False,
        False,
        False,
        False,
    ]


@settings(max_examples=100, deadline=None)
@given(st.sets(st.integers(0, 2**64 - 1), max_size=200), st.lists(st.integers(0, 2**64 - 1), max_size=50))
def test_the_table_finds_what_it_holds(held: set[int], others: list[int]) -> None:
    """Every held hash is found at its place, and nothing else is."""
    hashes = np.array(sorted(held), dtype=np.uint64)
    values = np.array([*others, *sorted(held)], dtype=np.uint64)
    place, where = Table(hashes).find(values)
    assert hashes[place].tolist() == values[where].tolist()
    assert sorted(where.tolist()) == [i for i, v in enumerate(values.tolist()) if v in held]


@settings(max_examples=100, deadline=None)
@given(st.lists(WORDS, max_size=25), st.lists(WORDS, max_size=25))
def test_comparisons_agree_with_the_slow_way(first: list[str], second: list[str]) -> None:
    """The longest run and the longest common subsequence are those of the textbook's quadratic programs."""
    runs = [
        n
        for n in range(len(first), GRAM - 1, -1)
        for i in range(len(first) - n + 1)
        for j in range(len(second) - n + 1)
        if first[i : i + n] == second[j : j + n]
    ]
    found = longest_run(first, second)
    assert found.words == (runs[0] if runs else 0)
    assert first[found.first : found.first + found.words] == second[found.second : found.second + found.words]
    table = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            table[i + 1][j + 1] = table[i][j] + 1 if a == b else max(table[i][j + 1], table[i + 1][j])
    assert in_common(first, second) == table[-1][-1]


def test_words_are_shown_as_they_are_written() -> None:
    """A run is shown with its case and punctuation; where normalising moves letters, as plain words."""
    assert Words("Well, “The End” – it’s over.").written(1, 5) == "The End” – it’s"
    assert Words("Die Straße zum Café ist lang").written(1, 4) == "strasse zum café"


def test_operators_beside_numbers_count() -> None:
    """Signs between numbers or single letters tell texts apart, dashes and bullets between words do not."""
    assert not same_but_for_writing("What is 12 - 7?", "What is 12 + 7?")
    assert not same_but_for_writing("Solve x*y = 4", "Solve x/y = 4")
    assert same_but_for_writing("A well-known town - by the sea", "a well known town by the sea")


def noisy(seed: int, count: int) -> tuple[list[str], list[str]]:
    """Texts over a small vocabulary, so that grams repeat, and test texts of which some are copies or edited."""
    draw = random.Random(seed)
    words = [f"w{i}" for i in range(40)]
    train = [" ".join(draw.choices(words, k=draw.randint(0, 30))) for _ in range(count)]
    train[:: max(3, count // 70)] = ["this very line is in far more rows than is rare"] * len(
        train[:: max(3, count // 70)]
    )
    test = [draw.choice([draw.choice(train), " ".join(draw.choices(words, k=20))]) for _ in range(20)]
    return train, test


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 1000),
    st.integers(1, 300),
    st.lists(st.integers(0, 300), max_size=5),
    st.randoms(use_true_random=False),
)
def test_any_sharding_gives_the_same_answer(
    seed: int, count: int, cuts: list[int], draw: random.Random
) -> None:
    """The partial results of any shards, added in any order, are those of the whole split, and so are the matches."""
    train_texts, test_texts = noisy(seed, count)
    train, test = rows_of(train_texts), rows_of(test_texts)
    index = Index.of(test, control=train)
    whole = index.scan(train, threads=1)
    edges = [0, *sorted(min(c, count) for c in cuts), count]
    shards = [(a, Rows(train.records[a:b], COLUMNS)) for a, b in pairwise(edges)]
    draw.shuffle(shards)
    partials = [index.scan(shard, first=first, threads=1) for first, shard in shards]
    merged = partials[0]
    for partial in partials[1:]:
        merged = merged + partial
    assert same(merged, whole)
    assert judged(index, merged, test, train) == judged(index, whole, test, train)


def same(first: Partial, second: Partial) -> bool:
    """Whether two partial results say the same."""
    names = ("grams", "gram_rows", "keys", "key_rows")
    return first.rows == second.rows and all(
        np.array_equal(getattr(first, n), getattr(second, n)) for n in names
    )


def test_threads_change_nothing() -> None:
    """Several threads give the partial result of one; what is common keeps its count and its first rows only."""
    train_texts, test_texts = noisy(3, 4000)
    long = [f"{t} {i} " + "filler " * 60 for i, t in enumerate(train_texts)]
    index = Index.of(rows_of([*test_texts, "this very line is in far more rows than is rare"]), control=None)
    one, three = index.scan(rows_of(long), threads=1), index.scan(rows_of(long), threads=3)
    assert same(one, three)
    assert int(one.grams.max()) > MOST_RARE
    assert max(np.bincount(one.gram_rows >> 32)) == MOST_RARE + 1


def test_rare_is_relative_to_the_size_of_the_split() -> None:
    """One row in a thousand, but at least two and at most fifty."""
    assert [rare_at_most(n) for n in (10, 1000, 7473, 10**6)] == [2, 2, 7, 50]


def test_empty_splits_overlap_in_nothing() -> None:
    """Rows without text, and no rows at all, are no matches."""
    nothing = Rows([], COLUMNS)
    some = rows_of(["one two three four five six", "", "???"])
    assert not find_overlap(nothing, some).matches
    assert not find_overlap(some, nothing).matches
    assert not find_overlap(rows_of(["", "..."]), rows_of(["", "!!!"])).matches
