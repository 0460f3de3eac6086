"""Children that load the tokenizer and run the user's code: started once, in parallel, read step by step as they get on."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmguard.errors import EvidenceError

if TYPE_CHECKING:
    from llmguard.evidence import Evidence
    from llmguard.probe import Probe, Settings

__all__ = ["ENVIRONMENT", "Collected", "Run"]

POLL = 0.02
HARD_DEADLINE = 900.0
"""Seconds after which a child is ended even though it still makes progress."""
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "WANDB_MODE": "disabled",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}


class Collected:
    """Results of the steps of `llmguard.collect.child`; the trainer has a child of its own, so that it delays nothing else."""

    def __init__(self, evidence: Evidence) -> None:
        self.evidence = evidence
        schema = evidence.project.schema
        steps = {
            "tokenizer": bool(evidence.project.tokenizer_path),
            "prompts": bool(schema.prompt.build and evidence.project.splits),
            "encode": bool(schema.pipeline.encode and evidence.project.splits),
            "collate": bool(schema.pipeline.collate),
            "isolation-collate": bool(schema.pipeline.collate),
        }
        self._jobs = {
            "code": [s for s, wanted in steps.items() if wanted],
            "trainer": ["trainer", "isolation-trainer"] if schema.pipeline.trainer else [],
        }
        self._runs = {name: Run(evidence, name, job) for name, job in self._jobs.items() if job}

    def start(self) -> None:
        """Start all children now; they run while other checks do."""
        for run in self._runs.values():
            run.start()

    def folder(self, step: str) -> Path:
        """Where the files of a step lie."""
        return self._run_of(step).out

    def step(self, step: str) -> dict[str, Any]:
        """The result of a step.

        Raises:
            EvidenceError: the step failed; the check that reports it is named.
        """
        result = self._run_of(step).result(step)
        if not result["ok"]:
            told_by = "tokenizer_loads" if step == "tokenizer" else "pipeline_code_runs"
            raise EvidenceError(step, result["error"].get("message", ""), told_by=told_by)
        return result

    def outcome(self, step: str) -> dict[str, Any] | None:
        """The result of a step as it is, failed or not; None where the project does not ask for it."""
        run = next((r for r in self._runs.values() if step in r.steps), None)
        return run.result(step) if run else None

    def _run_of(self, step: str) -> Run:
        return next(r for r in self._runs.values() if step in r.steps)

    def close(self) -> None:
        """End what still runs."""
        for run in self._runs.values():
            run.close()


class Run:
    """A child of a session, and the result files of its steps; where several processes share a folder, one of them starts it.

    `module`: what runs; `timeout`: seconds after which it is ended; `spec`: what it is told beside project and steps; `settings`:
    of the probe, over the usual ones.
    """

    module = "llmguard.collect.child"

    def __init__(
        self,
        evidence: Evidence,
        name: str,
        steps: Sequence[str],
        *,
        timeout: float = HARD_DEADLINE,
        spec: Mapping[str, Any] | None = None,
        settings: Settings | None = None,
        module: str = "",
    ) -> None:
        self.evidence, self.name, self.steps, self.timeout = evidence, name, steps, timeout
        self.module = module or self.module
        self._more, self._settings = spec or {}, settings or {}
        self._probe: Probe | None = None
        self._started = 0.0

    @cached_property
    def out(self) -> Path:
        """Where its files lie: the same folder in every process of a session."""
        share = self.evidence.options.share or self.evidence.scratch
        project = self.evidence.project
        key = hashlib.sha256(
            repr((project.file, project.folder, project.schema, project.model_path)).encode()
        ).hexdigest()[:12]
        return share / f"{self.name}-{key}"

    def start(self) -> None:
        """Start the child, unless another process of this session has."""
        if self._started:
            return
        self._started = time.monotonic()
        try:
            self.out.mkdir(parents=True)
        except FileExistsError:
            return
        from llmguard.probe import start

        spec = self.out / "spec.json"
        spec.write_text(json.dumps(self._spec()), "utf-8")
        settings: Settings = {
            "cwd": self.evidence.project.folder,
            "no_progress": self.evidence.options.deadline,
            "progress_file": self.out / "progress.jsonl",
            "env": ENVIRONMENT,
        }
        settings.update(self._settings)
        self._probe = start(self.module, args=[str(spec), str(self.out)], timeout=self.timeout, **settings)

    def _spec(self) -> dict[str, Any]:
        project = self.evidence.project
        model = project.schema.model.model_dump() if project.model_override or project.file else None
        file = str(project.file) if project.file else None
        return {
            "project": file,
            "folder": str(project.folder),
            "model": model,
            "steps": list(self.steps),
            "sample": self.evidence.options.sample,
            **self._more,
        }

    def result(self, step: str) -> dict[str, Any]:
        """The result of a step once it is there; an error in its place when the child ended without it."""
        self.start()
        file, ended = self.out / f"{step}.json", self.out / "ended.json"
        while not file.exists() and not ended.exists() and time.monotonic() - self._started < HARD_DEADLINE:
            if self._probe is not None and self._probe.done:
                self._end(ended)
            time.sleep(POLL)
        if file.exists():
            return dict(json.loads(file.read_text("utf-8")))
        told = (
            json.loads(ended.read_text("utf-8"))
            if ended.exists()
            else {"message": "the process that was to do it never ended"}
        )
        return {"ok": False, "error": {"what": step, "type": "", **told}}

    def _end(self, ended: Path) -> None:
        if self._probe is None:
            return
        outcome = self._probe.wait()
        told = {
            "type": outcome.verdict.name,
            "message": outcome.explain(),
            "output": outcome.output[-2000:],
            "stack": outcome.stack[-2000:],
        }
        partial = ended.with_suffix(".partial")
        partial.write_text(json.dumps(told), "utf-8")
        partial.replace(ended)

    def close(self) -> None:
        """End it, if it still runs."""
        if self._probe is not None and not self._probe.done:
            self._probe.cancel()
