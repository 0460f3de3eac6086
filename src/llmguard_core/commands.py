"""What the commands of `python -m llmguard_core` do: a config in, a text and its numbers out. Heavy parts load when they are used."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from llmguard_core.config import Objective, RunConfig, load_config

__all__ = ["Told", "compared", "evaluated", "queued", "trained"]

Told = tuple[str, dict[str, Any]]
"""A result as text for people, and as numbers for programs."""


def trained(config: Path, objective: Objective) -> Told:
    """Train as a config says (`sft` or `dpo`)."""
    from llmguard_core import training

    run = load_config(config, objective=objective)
    done = training.sft(run) if objective == "sft" else training.dpo(run)
    loss = {k: round(v, 4) for k, v in done.metrics.items() if k in ("train_loss", "eval_loss", "loss")}
    head = "already trained" if done.already_trained else "trained"
    told = ", ".join([f"{head}: {done.steps} steps", *(f"{name} {value:g}" for name, value in loss.items())])
    alarms = [{"step": a.step, "kind": a.kind, "what": a.what} for a in done.alarms]
    lines = [told, *(f"alarm at step {a['step']}: {a['what']}" for a in alarms), str(done.final)]
    final, metrics = str(done.final), dict(done.metrics)
    return "\n".join(lines), {"steps": done.steps, "final": final, "metrics": metrics, "alarms": alarms,
                              "already_trained": done.already_trained}  # fmt: skip


def evaluated(config: Path) -> Told:
    """Let the models of a config answer its items; compare them."""
    from llmguard_core import evaluation
    from llmguard_core.compare import compare

    run = load_config(config, objective="evaluate")
    e, g = run.evaluation, run.generation
    with _bar() as progress:
        found = evaluation.evaluate(
            e.models or {"model": run.model}, _items(run), out=e.output_dir, metrics=e.metrics, fmt=run.prompt.table,
            few_shot=_few_shot(run), max_new_tokens=g.max_new_tokens, temperature=g.temperature, stop=g.stop,
            batch_size=g.batch_size, seed=g.seed, id=e.id, group=e.group, progress=progress,
        )  # fmt: skip
    files = {one.name: one.file for one in found}
    told = compare(files, alpha=e.alpha, smallest_effect=e.smallest_effect, group=e.group)
    told.write(e.output_dir)
    return f"{told.table()}\n\n{told.methodology}", {
        **told.to_json(),
        "files": {n: str(f) for n, f in files.items()},
    }


def _items(run: RunConfig) -> list[dict[str, Any]]:
    """The items of an evaluation; columns that the config names are given the names that every reader knows."""
    from llmguard_core.encoding import read_rows

    named = {k: v for k in ("prompt", "response", "messages") if (v := getattr(run.data, k))}
    rows = list(read_rows(run.evaluation.items or run.data.test))[: run.evaluation.limit]
    return [{**row, **{name: row[column] for name, column in named.items() if column in row}} for row in rows]


def _few_shot(run: RunConfig) -> Any:
    """Examples in front of what is asked, for base models; None where the config wants none."""
    from llmguard_core.encoding import read_rows
    from llmguard_core.evaluation import items_of
    from llmguard_core.fewshot import Example, FewShot

    count = run.prompt.few_shot
    if not count:
        return None
    rows = read_rows(run.prompt.examples, split="few-shot").records if run.prompt.examples else []
    told = items_of(rows, id="") if rows else []
    pool = [Example(str(item.row.get("kind", "")), item.asked, item.reference) for item in told]
    return FewShot(pool, seed=run.generation.seed, shots=(count, count))


def compared(config: Path) -> Told:
    """Compare saved results: those a config names, else those in its evaluation folder."""
    from llmguard_core.compare import compare

    e = load_config(config, objective="compare").evaluation
    files = e.results or {file.stem: file for file in sorted(e.output_dir.glob("*.jsonl"))}
    told = compare(
        files, id=e.id, score=e.score, alpha=e.alpha, smallest_effect=e.smallest_effect, group=e.group
    )
    told.write(e.output_dir)
    return f"{told.table()}\n\n{told.methodology}", told.to_json()


def queued(config: Path, once: bool, shows: bool, again: bool) -> Told:
    """Work on the queue of a config; or show its state, or let what failed be tried again."""
    from dataclasses import asdict

    from llmguard_core import queue

    run = load_config(config, objective="queue")
    q = run.queue
    folder = q.directory or Path()  # `load_config` has refused a config without one
    if shows:
        state = queue.status(folder)
        return _drawn(state.table()), state.to_json()
    if again:
        count = queue.retry(folder)
        return f"{count} jobs will be tried again" if count else "nothing has failed", {"retried": count}
    done = queue.run_queue(
        folder, queue.training(config), attempts=q.attempts, backoff=q.backoff, poll=q.poll, ageing=q.ageing, once=once
    )  # fmt: skip
    found = asdict(done)
    return ", ".join(f"{count} {name}" for name, count in found.items()), found


def _drawn(table: Any) -> str:
    """A table as text, as wide as it needs."""
    from rich.console import Console

    console = Console(width=160, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()


@contextlib.contextmanager
def _bar() -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar a model, on stderr."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, Any] = {}

        def advance(name: str, done: int, total: int) -> None:
            task = tasks.setdefault(name, bars.add_task(name, total=total))
            bars.update(task, completed=done, total=total)

        yield advance
