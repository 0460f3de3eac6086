"""The user's own functions, run in their child: what fails is told with the file, the line and the row; what works passes."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmguard.auditing import Audit
from llmguard.project import load_project
from llmguard.report import CheckResult, Outcome

RIGHT = """
def encode(row):
    ids = list(row["prompt"].encode()) + list(row["response"].encode())
    return {"input_ids": ids, "labels": ids}
"""
ROWS = '{"prompt": "a", "response": "b"}\n{"prompt": "c", "response": null}\n'
PROJECT = '[data]\ntrain = "rows.jsonl"\n[pipeline]\nencode = "mine:encode"\n'


def judged(folder: Path, code: str, rows: str) -> CheckResult:
    """What `pipeline_code_runs` says of a project with this code and these rows."""
    for name, text in {"mine.py": code, "rows.jsonl": rows, "llmguard.toml": PROJECT}.items():
        (folder / name).write_text(text, "utf-8")
    audit = Audit(load_project(folder / "llmguard.toml", environ={}))
    try:
        return audit.run(audit.registry.get("pipeline_code_runs"))
    finally:
        audit.evidence.close()


def test_a_function_that_runs_passes(tmp_path: Path) -> None:
    """One step was looked at, and there is nothing to say."""
    found = judged(tmp_path, RIGHT, ROWS.splitlines(keepends=True)[0])
    assert (found.outcome, found.looked_at, found.findings) == (Outcome.PASSED, 1, ())


@pytest.mark.parametrize(
    ("code", "line", "row", "said"),
    [
        (RIGHT, 3, 1, "on row 1 (rows.jsonl:2): AttributeError: 'NoneType' object has no attribute 'encode'"),
        (f"import a_package_that_is_not_there\n{RIGHT}", 1, None, "failed: ModuleNotFoundError: "),
        (f"{RIGHT}\nraise RuntimeError('no key in the environment')", 6, None, "failed: RuntimeError: no key in"),
    ],
    ids=["a row", "an import", "while it is imported"],
)  # fmt: skip
def test_a_function_that_fails_is_told_with_its_line(
    code: str, line: int, row: int | None, said: str, tmp_path: Path
) -> None:
    """The user's own line, and the row with the place in its file where there is one."""
    found = judged(tmp_path, code, ROWS)
    (finding,) = found.findings
    assert (found.outcome, found.looked_at) == (Outcome.FAILED, 1)
    assert said in finding.message
    assert (Path(str(finding.where.file)).name, finding.where.line, finding.where.row) == (
        "mine.py",
        line,
        row,
    )
    assert finding.where.key == "encode"
