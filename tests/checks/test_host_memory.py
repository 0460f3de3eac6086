"""The host's memory: rows that fit as token ids or do not, to the byte, and swap that is read back or merely full."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.hosts import machine, only

from llmguard import Findings, Severity
from llmguard.checks.host_memory import tokenised_rows_fit_in_memory
from llmguard.checks.swapping import machine_is_not_swapping

MIB = 2**20
ROWS = [{"prompt": f"what is {n} times seven?", "response": f"that is {7 * n}"} for n in range(1000)]
TOKENS = 3_000 * len(ROWS)
ARROW, LISTS = 9 * TOKENS, 52 * TOKENS
"""Bytes of all tokens in Arrow's columns, and in lists of Python."""


class Counting:
    """A tokenizer that makes 3,000 tokens of each text, and keeps how many texts it was given."""

    def __init__(self) -> None:
        self.given = 0

    def __call__(self, texts: Sequence[str]) -> dict[str, Any]:
        self.given += len(texts)
        return {"input_ids": [[7] * 3_000 for _ in texts]}


def container(root: Path, limit: int) -> Any:
    """A large machine, of which a control group leaves so many bytes."""
    group = "/sys/fs/cgroup/box/memory"
    files = {
        "/proc/meminfo": f"MemTotal: {2**30} kB\nMemAvailable: {2**29} kB\n",
        "/proc/self/cgroup": "0::/box\n",
        "/proc/self/mountinfo": "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
        f"{group}.max": f"{limit}\n",
        f"{group}.current": "0\n",
    }
    return machine(root / str(limit), files)


def judged(root: Path, limit: int, **settings: Any) -> Findings:
    """The check on these rows in a container of so many bytes."""
    return tokenised_rows_fit_in_memory(ROWS, container(root, limit), **{"tokenizer": Counting(), **settings})


def test_rows_that_fit_even_as_lists_pass(tmp_path: Path) -> None:
    """To the last byte; some rows are tokenised for it, not all."""
    tokenizer = Counting()
    found = judged(tmp_path, LISTS, tokenizer=tokenizer)
    assert (list(found), found.looked_at) == ([], 1000)
    assert 100 <= tokenizer.given <= 200


def test_rows_that_fit_as_columns_only_are_a_note(tmp_path: Path) -> None:
    """One byte less, down to what Arrow takes: `Dataset.map` still works there."""
    for limit in (LISTS - 1, ARROW):
        told = only(judged(tmp_path, limit), Severity.NOTE)
        assert "1,000 rows make about 3 million tokens, which take" in told.message
        assert told.message.count("tight") == 1
        assert told.evidence == {"verdict": "tight", "low": ARROW, "high": LISTS, "free": limit}


def test_rows_that_fit_in_no_form_are_a_warning(tmp_path: Path) -> None:
    """With what would fit, and how to do without."""
    told = only(judged(tmp_path, ARROW - 1), Severity.WARNING)
    assert "(limit of the control group): will not fit" in told.message
    assert "SIGKILL" in told.message
    assert "stream the rows" in told.remedy
    assert told.expected == "up to 25.7 MiB"


def test_rows_that_are_cut_off_count_as_far_as_they_are_kept(tmp_path: Path) -> None:
    """`max_length` is applied after tokenising, row by row; one that is longer than any row changes nothing."""
    assert not judged(tmp_path, LISTS // 2, max_length=1500)
    assert (
        only(judged(tmp_path, LISTS // 2 - 1, max_length=1500), Severity.NOTE).evidence["high"] == LISTS // 2
    )
    assert only(judged(tmp_path, LISTS - 1, max_length=4096), Severity.NOTE).evidence["high"] == LISTS


def test_without_a_tokenizer_the_estimate_is_an_interval(tmp_path: Path) -> None:
    """From bytes of text: two to six a token, said as such."""
    rows = [{"text": "x" * 6_000}] * 1000
    told = only(tokenised_rows_fit_in_memory(rows, container(tmp_path, 10 * MIB)), Severity.NOTE)
    assert "make about 1 to 3 million tokens" in told.message
    assert (told.evidence["low"], told.evidence["high"]) == (9 * 10**6, 52 * 3 * 10**6)


def test_where_nothing_can_be_said_nothing_is_judged(tmp_path: Path) -> None:
    """An empty file beside a machine that tells its memory, and rows on one that does not (no Linux)."""
    assert tokenised_rows_fit_in_memory([], container(tmp_path, MIB)).looked_at == 0
    silent = machine(tmp_path / "silent", {"/proc/stat": "cpu 0\n"})
    found = tokenised_rows_fit_in_memory(ROWS, silent, tokenizer=Counting())
    assert (list(found), found.looked_at) == ([], 0)


# -- swapping


SWAP = "MemTotal: 1000 kB\nSwapTotal: 4000 kB\nSwapFree: 1000 kB\n"


class Clock:
    """Time that passes while somebody sleeps, and not otherwise."""

    def __init__(self, now: float) -> None:
        self.now, self.slept = now, 0.0

    def sleep(self, seconds: float) -> None:
        self.now, self.slept = self.now + seconds, self.slept + seconds


@pytest.fixture
def swapping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Bytes read back from swap since the checks began, and how long ago that was -> the check's findings, and how long it slept."""

    def judged(size: int, ago: float, table: str = SWAP, counter: str = "pswpin") -> tuple[Findings, float]:
        clock, pages = Clock(ago), size // os.sysconf("SC_PAGE_SIZE")
        monkeypatch.setattr(
            "llmguard.checks.swapping.time", SimpleNamespace(sleep=clock.sleep, monotonic=lambda: clock.now)
        )
        files = {"/proc/vmstat": f"{counter} {1000 + pages}\npswpout 90000\n", "/proc/meminfo": table}
        return machine_is_not_swapping(machine(tmp_path, files, swapped_in=(0.0, 1000))), clock.slept

    return judged


def test_a_machine_that_reads_back_from_swap_is_a_warning(swapping: Any) -> None:
    """More than 4 MiB a second, with the rate, the pages and what to end; exactly so much is none."""
    found, slept = swapping(4 * MIB, 0.5)
    told = only(found, Severity.WARNING)
    pages = 4 * MIB // os.sysconf("SC_PAGE_SIZE")
    assert f"8.0 MiB a second are read back from swap ({pages:,} pages in 0.5 s)" in told.message
    assert (told.expected, told.actual) == ("up to 4.0 MiB a second", "8.0 MiB a second")
    assert told.evidence == {"bytes_per_second": 8 * MIB, "pages": pages, "seconds": 0.5}
    assert "ps aux --sort -rss" in told.remedy
    assert (found.looked_at, slept) == (1, 0.0)
    at_most, _ = swapping(2 * MIB, 0.5)
    assert (list(at_most), at_most.looked_at) == ([], 1)


def test_a_machine_that_swapped_yesterday_passes(swapping: Any) -> None:
    """Swap that is three quarters full and not read, as on any laptop after a week; and a machine without swap."""
    found, _ = swapping(0, 0.5)
    assert (list(found), found.looked_at) == ([], 1)
    found, slept = swapping(64 * MIB, 0.1, "MemTotal: 1000 kB\nSwapTotal: 0 kB\n")
    assert (list(found), found.looked_at, slept) == ([], 1, 0.0)


def test_two_readings_lie_far_enough_apart_and_no_farther(swapping: Any) -> None:
    """What is left of three tenths of a second is waited for, so that no single page makes a rate."""
    found, slept = swapping(MIB, 0.1)
    assert list(found) == []
    assert slept == pytest.approx(0.2)
    assert swapping(MIB, 9.0)[1] == 0.0


def test_a_kernel_without_the_counter_is_not_judged(swapping: Any) -> None:
    """Nothing was looked at, and it does not look green."""
    found, _ = swapping(64 * MIB, 0.5, counter="pgpgin")
    assert (list(found), found.looked_at) == ([], 0)
