"""`--llmguard-engine serial|processes`: row checks go over shards in several processes; the answer is the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from llmguard import every_row_has_a_supervised_token, labels_are_not_shifted, padding_is_never_trained
from llmguard.encoded import Encoded
from llmguard.engines import Processes, serial
from llmguard.ragged import Ragged

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llmguard.contract import RowCheck
    from tests.plugin.conftest import Toy

CHECKS = [every_row_has_a_supervised_token, labels_are_not_shifted, padding_is_never_trained]
ROWS = """

from llmguard.contract import row_check
from llmguard.encoded import Encoded
from llmguard.ragged import Ragged
from llmguard.tally import Hits, Tally
import numpy as np, os

def rows_of(count):
    return Encoded({"input_ids": Ragged.of([[i, i + 1] for i in range(count)])}, np.arange(count))

@row_check
def toy_rows(encoded):
    '''No row is divisible by 100.'''
    bad = [int(i) for i in encoded.source if i % 100 == 0]
    examples = tuple({"row": i} for i in bad[:5])
    return Tally(len(encoded), {"bad": Hits(len(bad), len(bad), examples)}, {f"process {os.getpid()}": 1})

@toy_rows.explain
def _(tally):
    if tally["bad"].rows:
        seen = {"rows": list(tally["bad"].examples), "facts": dict(tally.facts)}
        yield error(Where(row=0), what=tally.rate("bad"), **REST, evidence=seen)
"""
TEST = """
import toychecks

def test_toy_rows(request):
    from pytest_llmguard.manager import manager_of
    found = manager_of(request.config).engine(toychecks.toy_rows, {"encoded": toychecks.rows_of(120_000)})
    print("FOUND", found.looked_at, [f.message.splitlines()[0] for f in found], found[0].evidence["rows"])
    print("PROCESSES", len(found[0].evidence["facts"]), sum(found[0].evidence["facts"].values()))
"""


@pytest.fixture(scope="module")
def processes() -> Iterator[Processes]:
    """Two workers, shards of seven rows."""
    engine = Processes(workers=2, rows=7)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def encoded() -> Encoded:
    """Rows of which some have no supervised token, some are shifted, and some train padding."""
    random = np.random.default_rng(7)
    ids = [random.integers(5, 50, size=random.integers(3, 12)).tolist() for _ in range(100)]
    labels = [
        [-100] * len(r) if i % 9 == 0 else [-100, *r[1:]] if i % 5 else [*r[1:], -100]
        for i, r in enumerate(ids)
    ]
    mask = [[1] * (len(r) - 1) + [i % 4 and 1] for i, r in enumerate(ids)]
    columns = {"input_ids": ids, "labels": labels, "attention_mask": mask}
    return Encoded({n: Ragged.of(c) for n, c in columns.items()}, np.arange(len(ids), dtype=np.int64))


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.name)
def test_the_answer_is_the_same(processes: Processes, encoded: Encoded, check: RowCheck[Any]) -> None:
    """Findings, examples and counts of fifteen shards in two processes are those of the whole."""
    one, several = serial(check, {"encoded": encoded}), processes(check, {"encoded": encoded})
    assert list(several) == list(one)
    assert (several.looked_at, several.unit, several.check) == (one.looked_at, one.unit, one.check)
    assert one, "the rows are made to break every one of these checks"


def test_evidence_that_cannot_leave_the_process_is_looked_at_here(
    processes: Processes, encoded: Encoded
) -> None:
    """What cannot be pickled is no error: the check runs in this process."""
    found = processes(every_row_has_a_supervised_token, {"encoded": encoded, "rows": (i for i in ())})
    assert found.looked_at == len(encoded)


@pytest.mark.parametrize("engine", ["serial", "processes"])
def test_the_option_chooses(toy: Toy, engine: str) -> None:
    """With `processes` 120,000 rows are three shards in other processes; the finding reads the same."""
    toy.write("toychecks.py", (toy.path / "toychecks.py").read_text("utf-8") + ROWS)
    toy.write("test_rows.py", TEST)
    done = toy.process("--llmguard-engine", engine, "-s", "-W", "error", "test_rows.py", only="")
    assert "FOUND 120000 ['row 0: 1,200 of 120,000 rows (1.0 %).'] " in done.stdout
    assert "[{'row': 0}, {'row': 100}, {'row': 200}, {'row': 300}, {'row': 400}]" in done.stdout
    shards = int(done.stdout.split("PROCESSES ")[1].split()[1])
    assert shards == {"serial": 1, "processes": 3}[engine]


def test_it_is_one_of_two(toy: Toy) -> None:
    """Anything else is refused with what there is."""
    result = toy.run("--llmguard-engine", "ray")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["ERROR: --llmguard-engine: 'ray' is not allowed: expected one of serial, processes"]
    )
