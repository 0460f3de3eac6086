"""What saving and evaluating come to, by the arithmetic of the Trainer: which settings leave nothing, or no best checkpoint."""

from __future__ import annotations

from collections.abc import Iterator

from llmguard.configs.config import Config, Setting
from llmguard.configs.runs import Run
from llmguard.configs.sizes import Plan
from llmguard.findings import Finding, Where, error, warning

__all__ = ["saving_faults"]

_TRAINERS = ("transformers", "trl", "llamafactory")


def saving_faults(config: Config, run: Run, plan: Plan) -> Iterator[Finding]:
    """Findings on the save and evaluation strategies of one run."""
    if run.dialect in _TRAINERS or run.get("load_best_model_at_end"):
        yield from _best(config, run)
    save = _strategy(run, "save_strategy", "steps")
    evaluate = _strategy(run, "eval_strategy", "no")
    if save == "steps":
        yield from _every(run, plan, "save_steps", "checkpoint")
    if evaluate == "steps" or (run.dialect == "axolotl" and run.get("eval_steps")):
        yield from _every(run, plan, "eval_steps", "evaluation")


def _strategy(run: Run, name: str, default: str) -> str:
    return run.text(name) or default


def _every(run: Run, plan: Plan, name: str, what: str) -> Iterator[Finding]:
    """Something done every N steps of a run that has fewer."""
    setting, every = run.get(name), run.number(name)
    if setting is None or every is None:
        return
    if every == 0 and name == "save_steps" and run.dialect in _TRAINERS:
        yield _none_saved(setting)
    if plan.steps is None or every < 1 or every <= plan.steps:
        return
    how = f"max_steps is {plan.steps:,}" if not plan.of_rows else f"{plan.arithmetic} on one device"
    yield warning(
        setting.where,
        what=f"{name} is {every:g}, the run has {plan.steps:,} steps ({how}): no {what} before the last step",
        why="a run that stops early leaves nothing, and nothing tells the best step from the last",
        cause="an interval meant for a longer run",
        remedy=f"set {name} to {max(1, plan.steps // 5)}, or the strategy to epoch",
        expected=f"at most {plan.steps:,}",
        actual=f"{every:g}",
    )


def _none_saved(setting: Setting) -> Finding:
    return error(
        setting.where,
        what="save_steps is 0 while checkpoints are saved by steps",
        why="no step is a multiple of 0: nothing is saved before the end",
        cause="0 meant as 'never', which is the strategy's business",
        remedy='set save_steps to a number of steps, or `save_strategy: "no"`',
        expected="1 or more, or a share below 1",
        actual="0",
    )


def _best(config: Config, run: Run) -> Iterator[Finding]:
    """`load_best_model_at_end` needs evaluations at the steps that are saved."""
    setting = run.get("load_best_model_at_end")
    if setting is None or setting.value is not True:
        return
    save, evaluate = _strategy(run, "save_strategy", "steps"), _strategy(run, "eval_strategy", "no")
    if run.dialect == "axolotl" and not (run.get("save_strategy") and run.get("eval_strategy")):
        return
    if evaluate == "no":
        yield _no_best(
            setting.where,
            "nothing is evaluated (eval_strategy is no)",
            "set `eval_strategy` as `save_strategy`",
            evaluate,
        )
    elif save not in ("best", evaluate):
        what = f"the save strategy is {save}, the evaluation strategy {evaluate}"
        yield _no_best(setting.where, what, f"set both to {evaluate}", f"{save} and {evaluate}")
    elif save == evaluate == "steps":
        saved, evaluated = (
            run.number("save_steps") or 500,
            run.number("eval_steps") or run.number("logging_steps") or 500,
        )
        if saved >= 1 and evaluated >= 1 and saved % evaluated:
            what = f"save_steps {saved:g} is no multiple of eval_steps {evaluated:g}"
            yield _no_best(
                setting.where,
                what,
                f"set save_steps to {max(1, round(saved / evaluated)) * evaluated:g}",
                what,
            )


def _no_best(where: Where, what: str, remedy: str, actual: str) -> Finding:
    return error(
        where,
        what=f"load_best_model_at_end is true, but {what}",
        why="the Trainer refuses this, after everything is loaded; where it does not, the last checkpoint is returned as the best",
        cause="one of the settings was changed alone",
        remedy=remedy,
        expected="evaluations at the steps that are saved",
        actual=actual,
    )
