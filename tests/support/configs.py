"""Configs in a folder, judged as an audit judges them."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from llmguard.auditing import Audit
from llmguard.findings import Finding, Severity
from llmguard.project import load_project
from llmguard.report import CheckResult


class Folder:
    """A project folder that tests write into and audit."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, name: str, text: str) -> Path:
        """A file of the project, its text dedented."""
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text), encoding="utf-8")
        return file

    def rows(self, name: str, count: int) -> Path:
        """A JSON Lines file of so many rows."""
        return self.write(name, "".join(f'{{"prompt": "p{n}", "response": "r"}}\n' for n in range(count)))

    def project(self, **tables: str) -> Path:
        """The project file, each table as its lines of TOML; `config` names train.yaml unless it is given."""
        tables = {"config": 'files = ["train.yaml"]', **tables}
        return self.write(
            "llmguard.toml", "".join(f"[{name}]\n{lines}\n" for name, lines in tables.items() if lines)
        )

    def results(
        self, families: Iterable[str] = ("config",), without: Iterable[str] = ()
    ) -> dict[str, CheckResult]:
        """Every check of some families that reads configs or sources, but for those without, on the project, by id."""
        audit = Audit(load_project(self.path / "llmguard.toml", environ={}))
        wanted, read = set(families), {"config", "config_file", "sources"}
        plan = [(e, t) for e, t in audit.plan() if e.family in wanted and read & set(e.needs)]
        return {r.id: r for r in (audit.run(*each) for each in plan if each[0].name not in without)}

    def config(self, text: str, name: str = "train.yaml", **tables: str) -> dict[str, CheckResult]:
        """The results on one config file, by the name of the check."""
        self.write(name, text)
        self.project(**{"config": f'files = ["{name}"]', **tables})
        return {result.check: result for result in self.results().values()}


def of(results: dict[str, CheckResult], *severities: str) -> dict[str, list[Finding]]:
    """The findings of some severities (errors and warnings by default) by check; checks without any are left out."""
    wanted = {Severity(s) for s in severities or ("error", "warning")}
    found = {r.check: [f for f in r.findings if f.severity in wanted] for r in results.values()}
    broken = {r.id: r.reason for r in results.values() if r.outcome.value == "error"}
    assert not broken, broken
    return {check: findings for check, findings in found.items() if findings}


def says(message: str, *words: str) -> None:
    """Every one of these stands in a message."""
    assert [word for word in words if word not in message] == [], message


def keys(findings: Iterable[Finding]) -> dict[str, Finding]:
    """Findings by the key that they are about."""
    return {str(finding.where.key): finding for finding in findings}


def only(results: dict[str, CheckResult], check: str, **expected: Any) -> Finding:
    """The one finding of a check, with fields of its place compared."""
    findings = of(results)[check]
    assert len(findings) == 1, [f.message for f in findings]
    for name, value in expected.items():
        assert getattr(findings[0].where, name) == value, findings[0].where
    return findings[0]
