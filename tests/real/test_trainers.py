"""Real Trainers of transformers and TRL, audited through `[pipeline] trainer`."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support import real
from support.importing import imported

from llmguard.auditing import Audit, audit
from llmguard.evidence import Evidence, Options
from llmguard.project import load_project
from llmguard.report import CheckResult, Outcome, Report

pytestmark = pytest.mark.needs_torch

RIGHT = (
    "seq2seq",
    "equal_lengths",
    "completion_only",
    "assistant_only",
    "packed",
    "padding_free",
    "preference",
)
WRONG = {
    "language_modeling": {"collator_takes_rows_of_unequal_length", "collator_keeps_labels"},
    "overwritten": {"collator_keeps_labels"},
    "whole_text": {"every_prompt_token_is_masked"},
    "cut": {"responses_are_not_cut"},
    "dropping": {"trainer_keeps_every_row"},
    "masked_packed": {"every_row_has_a_supervised_token"},
    "seeing": {"documents_do_not_see_each_other"},
}
"""Wrong Trainers and the checks that are to say so."""
FAMILIES = {"template", "tokens", "masking", "collation", "packing", "prompts", "data", "source", "training"}
CHAT = ("assistant_only",)
PACKED = ("packed", "padding_free")

RUN = """
import json, sys
from llmguard.collect.child import main
for spec, out in json.loads(sys.argv[1]):
    main([spec, out])
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project: data, a tokenizer, the training script, and a project file for every Trainer of it."""
    for needed in ("torch", "trl", "datasets"):
        imported(needed)
    made = tmp_path_factory.mktemp("project")
    shutil.copytree(real.tokenizer_folder("tinyllama-1.1b-chat"), made / "tokenizer")
    shutil.copy(Path(__file__).with_name("trainers.py"), made)
    rows = "".join(json.dumps(r) + "\n" for r in real.gsm8k(16))
    (made / "train.jsonl").write_text(rows, "utf-8")
    for name in (*RIGHT, *WRONG):
        (made / f"{name}.toml").write_text(project_file(name), "utf-8")
    return made


def project_file(name: str) -> str:
    form = "chat-template" if name in CHAT else "alpaca"
    columns = 'prompt = "question"\nresponse = "answer"'
    return (
        f'[model]\npath = "tokenizer"\nkind = "chat"\n[prompt]\nformat = "{form}"\n'
        f'[data]\ntrain = "train.jsonl"\n{columns}\n[pipeline]\ntrainer = "trainers:{name}"\ndry_run = false\n'
    )


@pytest.fixture(scope="module")
def audited(folder: Path) -> Callable[[str], Report]:
    """Name of a Trainer -> its audit. All are built in one process, so that torch and TRL are imported once."""
    share = folder / "share"
    evidence = {
        n: Evidence(load_project(folder / f"{n}.toml"), Options(share=share)) for n in (*RIGHT, *WRONG)
    }
    jobs = []
    for name, each in evidence.items():
        for step, more in (("tokenizer", ()), ("trainer", ("isolation-trainer",))):
            out = each.collected.folder(step)
            out.mkdir(parents=True)
            spec = {
                "project": str(folder / f"{name}.toml"),
                "folder": str(folder),
                "steps": [step, *more],
                "sample": 100,
            }
            (out / "spec.json").write_text(json.dumps(spec), "utf-8")
            jobs.append((str(out / "spec.json"), str(out)))
    done = subprocess.run(
        [sys.executable, "-c", RUN, json.dumps(jobs)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]

    def run(name: str) -> Report:
        session = Audit(evidence[name].project, evidence=evidence[name])
        return Report(
            session.project.name, [session.run(e, t) for e, t in session.plan() if e.family in FAMILIES]
        )

    return run


def told(report: Report) -> dict[str, CheckResult]:
    """The checks that failed or warned."""
    bad = (Outcome.FAILED, Outcome.WARNED, Outcome.ERROR)
    return {r.check: r for r in report.checks if r.outcome in bad}


@pytest.mark.parametrize("name", RIGHT)
def test_right_trainers_raise_no_alarm(audited: Callable[[str], Report], name: str) -> None:
    """No check fails or warns, and the checks on rows and batches did look at rows."""
    report = audited(name)
    assert {c: r.findings[0].message for c, r in told(report).items()} == {}
    ran = {
        r.check
        for r in report.checks
        if r.target == "trainer" and r.outcome is Outcome.PASSED and r.looked_at
    }
    assert {"every_prompt_token_is_masked", "ids_match_their_text"} <= ran
    assert "batches_carry_labels" in ran
    assert ("documents_do_not_see_each_other" in ran) == (name in PACKED)


@pytest.mark.parametrize("name", WRONG)
def test_wrong_trainers_are_found(audited: Callable[[str], Report], name: str) -> None:
    """Each by its own checks."""
    assert WRONG[name] <= told(audited(name)).keys()


def test_a_trainer_is_audited_end_to_end(folder: Path) -> None:
    """From the project file alone, with children of its own: what is wrong is found, torch is not imported here."""
    before = "torch" in sys.modules
    report = audit(folder / "overwritten.toml")
    assert "collator_keeps_labels" in told(report)
    assert ("torch" in sys.modules) == before
