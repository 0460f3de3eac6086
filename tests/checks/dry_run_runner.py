"""Run by tests: `dry_run_runner.py FOLDER NAMES WITNESSES`: each factory in plain Python, then in a dry run, all in this process."""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys
from pathlib import Path
from typing import Any

LIMIT = 6 * 2**30


def main(folder: Path, names: list[str], wanted: list[str]) -> None:
    os.environ["HF_HUB_OFFLINE"] = "1"
    resource.setrlimit(resource.RLIMIT_DATA, (LIMIT, LIMIT))
    sys.path.insert(0, str(folder))
    found = {}
    for name in names:
        witness = in_plain_python(name) if name in wanted else {}
        found[name] = {**in_a_dry_run(folder, name), "witness": witness}
    found["out_of_time"] = in_a_dry_run(folder, "plain", "out_of_time", seconds=0)
    (folder / "results.json").write_text(json.dumps(found), "utf-8")


def in_plain_python(name: str) -> dict[str, Any]:
    """What the factory's trainer comes to: what it raises, its steps, parameters that changed, losses that it logged."""
    try:
        trainer = getattr(importlib.import_module("factories"), name)()
        before = [p.detach().clone() for p in trainer.model.parameters()]
        trainer.args.logging_steps = trainer.state.logging_steps = 1
        trainer.args.max_steps = (
            min(2, trainer.args.max_steps) if trainer.args.max_steps > 0 else trainer.args.max_steps
        )
        if name == "resume_fails":
            trainer.args.save_steps, trainer.args.output_dir = 1, str(Path(trainer.args.output_dir) / name)
        trainer.train()
        if name == "resume_fails":
            trainer.train(resume_from_checkpoint=str(Path(trainer.args.output_dir) / "checkpoint-1"))
        if trainer.eval_dataset is not None:
            trainer.evaluate()
    except (Exception, SystemExit) as fault:
        return {"raised": type(fault).__name__}
    changed = sum(bool((p != old).any()) for p, old in zip(trainer.model.parameters(), before, strict=True))
    logged = sorted({entry["loss"] for entry in trainer.state.log_history if "loss" in entry})
    return {"raised": "", "steps": trainer.state.global_step, "changed": changed, "logged": logged}


def in_a_dry_run(folder: Path, factory: str, name: str = "", seconds: float = 60) -> dict[str, Any]:
    from llmguard.collect import dry_run

    name = name or factory
    file, out = folder / f"{name}.toml", folder / "dry" / name
    out.mkdir(parents=True)
    file.write_text(f'[pipeline]\ntrainer = "factories:{factory}"\n', "utf-8")
    spec = {"project": str(file), "folder": str(folder), "memory": LIMIT, "seconds": seconds}
    (out / "spec.json").write_text(json.dumps(spec), "utf-8")
    dry_run.main([str(out / "spec.json"), str(out)])
    return dict(json.loads((out / "dry_run.json").read_text("utf-8")))


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]), json.loads(sys.argv[3]))
