"""Guards on a training run, as a callback that any Trainer of transformers or TRL can take.

    guards = Guards()
    Trainer(..., callbacks=[guards])

Before each optimizer step the loss and the gradients are looked at: NaN and infinite values stop the run there, with the weights still
whole and the batch on disk. A loss that stays exactly zero and one that diverges stop it, too. All else is an alarm that the run survives:
a loss without a falling trend, gradients far above their usual size, memory that grows, validation that gets worse, samples that all
carry the same marker or are empty.
"""

from __future__ import annotations

import logging
import math
import re
from collections import deque
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import torch
from transformers import TrainerCallback

from llmguard_core.errors import TrainingStopped
from llmguard_core.memory import Device
from llmguard_core.metrics import rate_of
from llmguard_core.training.alarms import MARKERS, Alarm, Limits
from llmguard_core.training.evidence import dump
from llmguard_core.training.trends import trend

__all__ = ["Guards"]

_log = logging.getLogger(__name__)
REMEDY = "Look at the batch that was written. The weights are those before this step; training resumes from the newest checkpoint."


class Guards(TrainerCallback):  # type: ignore[misc]  # transformers ships no types
    """All guards of a run. `alarms` holds what was seen; `on_alarm` is told each at once.

    `sampler(model)` gives completions of prompts held out; `memory()` the bytes in use (default: the model's device; on a CPU, the
    process).
    """

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        sampler: Callable[[Any], Sequence[str]] | None = None,
        markers: Sequence[str] = MARKERS,
        memory: Callable[[], int] | None = None,
        on_alarm: Callable[[Alarm], object] | None = None,
    ) -> None:
        self.limits = limits or Limits()
        self.sampler, self.markers, self.memory, self.on_alarm = (
            sampler,
            [re.compile(m) for m in markers],
            memory,
            on_alarm,
        )
        self.alarms: list[Alarm] = []
        self.samples: dict[str, float] = {}
        self._hooks: list[Any] = []
        self._begin()

    def _begin(self) -> None:
        self._batch: dict[str, Any] = {}
        self._losses: list[torch.Tensor] = []
        self._adds_up = self._told = False
        self._zeros = self._overflows = self._worse = self._rounds = 0
        self._past: list[float] = []
        self._first: float | None = None
        self._lowest = math.inf
        self._norms: deque[float] = deque(maxlen=50)
        self._used: list[int] = []
        self._best = math.inf
        self._masked = False

    # What is seen

    def saw(self, inputs: dict[str, Any], loss: torch.Tensor, *, adds_up: bool = False) -> None:
        """Take a micro-batch and its loss from a Trainer that computes the loss itself; `adds_up`: losses are shares of the step's."""
        if not self._told:  # the model's own loss is none of the Trainer's
            self._told, self._losses = True, []
        self._batch, self._adds_up = dict(inputs), adds_up
        self._losses.append(loss.detach())

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Start anew: watch the model's calls, and show losses as they are in the log."""
        self._begin()
        self.release()
        self._masked, args.logging_nan_inf_filter = bool(args.logging_nan_inf_filter), False
        self._hooks = [
            model.register_forward_pre_hook(self._called, with_kwargs=True),
            model.register_forward_hook(self._answered),
        ]

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Let the model go."""
        self.release()

    def release(self) -> None:
        """Let go of the model and of the last batch; called at the end of a run, and by who catches its errors."""
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._batch, self._losses = [], {}, []

    def _called(self, model: Any, args: Any, kwargs: dict[str, Any]) -> None:
        if model.training and torch.is_grad_enabled():
            self._batch = {k: v for k, v in kwargs.items() if isinstance(v, torch.Tensor)}
            self._adds_up = kwargs.get("num_items_in_batch") is not None

    def _answered(self, model: Any, args: Any, output: Any) -> None:
        loss = getattr(output, "loss", None)
        if not self._told and model.training and torch.is_grad_enabled() and isinstance(loss, torch.Tensor):
            self._losses.append(loss.detach().float().mean())

    # Before and after each step

    def on_pre_optimizer_step(
        self, args: Any, state: Any, control: Any, model: Any = None, **more: Any
    ) -> None:
        """Stop before a step that would put NaN into the weights, or that has nothing to learn from."""
        loss, largest = self._measure(model)
        self._losses = []
        if loss is not None and not math.isfinite(loss):
            self._stop_with(
                args, state, "nan" if math.isnan(loss) else "inf", f"the loss is {loss}", loss, largest, more
            )
        if largest is not None and not math.isfinite(largest):
            self._overflows += 1
            if not args.fp16 or self._overflows >= self.limits.overflows:
                self._stop_with(args, state, "gradient", f"a gradient is {largest}", loss, largest, more)
            return
        self._overflows = 0
        self._zeros = self._zeros + 1 if largest == 0.0 else 0
        if self._zeros >= self.limits.zero_steps:
            what = (
                f"every gradient was exactly 0 in {self._zeros} steps one after another, the loss is {loss}"
            )
            self._stop_with(args, state, "zero", what, loss, largest, more)
        if loss is not None:
            self._compare(args, state, loss, more)

    def _measure(self, model: Any) -> tuple[float | None, float | None]:
        """The step's loss and the largest gradient in absolute value, over all processes; one transfer from the device."""
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        parts = [torch.stack(self._losses).float()] if self._losses else []
        values = [parts[0].sum() if self._adds_up else parts[0].mean()] if parts else []
        if grads:
            home = values[0].device if values else grads[0].device
            norms = [torch.linalg.vector_norm(_local(g), ord=math.inf).float().to(home) for g in grads]
            values.append(torch.stack(norms).max())
        if not values:
            return None, None
        told = torch.stack([v.to(values[0].device) for v in values])
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(told)
            told /= torch.distributed.get_world_size()
        numbers = told.tolist()
        return (numbers[0] if parts else None), (numbers[-1] if grads else None)

    def _stop_with(
        self, args: Any, state: Any, kind: str, what: str, loss: Any, largest: Any, more: dict[str, Any]
    ) -> None:
        step = state.global_step + 1
        masked = (
            " (the log would have shown it as 0.0: logging_nan_inf_filter was on)"
            if self._masked and kind in ("nan", "inf", "gradient")
            else ""
        )
        dataset = getattr(more.get("train_dataloader"), "dataset", None)
        where = dump(
            args.output_dir, step, f"{what}{masked}", self._batch, dataset, more.get("processing_class")
        )
        self._tell(
            step, kind, f"{what}{masked}; the batch is in {where}", stops=True, loss=loss, gradient=largest
        )
        raise TrainingStopped(
            f"{what}{masked}", step=step, where=f"step {step}, batch in {where}", remedy=REMEDY
        )

    def _compare(self, args: Any, state: Any, loss: float, more: dict[str, Any]) -> None:
        self._past.append(loss)
        size, done = self.limits.window, len(self._past)
        if done < size:
            return
        now = median(self._past[-size:])
        self._first = now if self._first is None else self._first
        if done >= 2 * size and now > self.limits.diverged * self._first and now > self._first + 0.1:
            what = f"the loss diverges: {now:.4g} now (median of {size} steps), {self._first:.4g} at the beginning"
            self._stop_with(args, state, "divergence", what, loss, None, more)
        lost = now - self._lowest
        if lost > 0.5 * (self._first - self._lowest) and lost > 0.1 and now > 1.5 * self._lowest:
            what = f"the loss rises again: {now:.4g} now, {self._lowest:.4g} at its lowest, {self._first:.4g} at the beginning"
            self._tell(state.global_step + 1, "rise", what, once=True, now=now, lowest=self._lowest)
        self._lowest = min(self._lowest, now)
        if (
            done >= self.limits.trend_steps
            and (done / self.limits.trend_steps).is_integer()
            and _is_power(done // self.limits.trend_steps)
        ):
            self._look_for_a_fall(state.global_step + 1)

    def _look_for_a_fall(self, step: int) -> None:
        found = trend(self._past)
        if found.p_falls > self.limits.significance:
            self._tell(
                step, "plateau",
                f"the loss does not fall: {median(self._past[: self.limits.window]):.4g} at the beginning,"
                f" {median(self._past[-self.limits.window :]):.4g} now; over {len(self._past)} steps no falling trend"
                f" (Mann-Kendall tau = {found.tau:.2f}, p = {found.p_falls:.2g})."
                " Check the learning rate, the trainable parameters and the labels: one batch must be learnt by heart in a few steps",
                tau=found.tau, p=found.p_falls,
            )  # fmt: skip

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Watch memory, draw samples, and let no weight be saved that is NaN."""
        self._watch_memory(state, model)
        if self.sampler and self.limits.sample_steps and state.global_step % self.limits.sample_steps == 0:
            self.judge(list(self.sampler(model)), state.global_step)
        if control.should_save:
            self._refuse_to_save(state, model)

    def on_epoch_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Let no weight be saved that is NaN."""
        if control.should_save:
            self._refuse_to_save(state, model)

    def _refuse_to_save(self, state: Any, model: Any) -> None:
        from llmguard_core.checkpoints.trainer import not_finite

        if broken := not_finite(model):
            what = f"{len(broken)} tensors hold NaN or infinite values, first {broken[0]}: nothing is saved"
            self._tell(state.global_step, "weights", what, stops=True)
            raise TrainingStopped(
                what, step=state.global_step, remedy="Resume from the newest checkpoint: it is whole."
            )

    def _watch_memory(self, state: Any, model: Any) -> None:
        self._used.append(
            self.memory() if self.memory else Device(next(model.parameters()).device).allocated()
        )
        size = self.limits.trend_steps
        if len(self._used) < size + self.limits.window:  # the first steps fill caches
            return
        seen = self._used[-size:]
        growth = (min(seen[-size // 4 :]) - min(seen[: size // 4])) / (size * 0.75)
        if growth > self.limits.growth and trend(seen).p_rises < 0.001:
            first, last = seen[0] / 2**20, seen[-1] / 2**20
            what = f"memory grows by {growth / 2**20:.1f} MiB a step: {first:,.0f} MiB, {size} steps later {last:,.0f} MiB"
            self._tell(state.global_step, "memory", what, once=True, bytes_a_step=growth)
        self._used = self._used[-size - self.limits.window :]

    # What the log, the evaluation and the samples say

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **more: Any
    ) -> None:
        """The last net (a Trainer whose gradients are elsewhere, as DeepSpeed's), and the norm before clipping."""
        loss, norm = (logs or {}).get("loss"), (logs or {}).get("grad_norm")
        bad_norm = norm is not None and not math.isfinite(norm) and not args.fp16
        if loss is not None and (not math.isfinite(loss) or (loss == 0.0 and bad_norm)):
            kind = "inf" if math.isinf(loss) else "nan"
            self._stop_with(
                args, state, kind, f"the logged loss is {loss}, the gradient norm {norm}", loss, norm, more
            )
        if norm is None or not math.isfinite(norm):
            return
        largest = max(self._norms) if len(self._norms) >= 10 else math.inf
        if norm > self.limits.gradient * largest > 0:
            what = f"the gradient norm is {norm:.4g}, the largest of the {len(self._norms)} logged before {largest:.4g}"
            self._tell(state.global_step, "gradient norm", what, norm=norm, largest=largest)
        self._norms.append(norm)

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: dict[str, float] | None = None, **_: Any
    ) -> None:
        """Compare validation losses; end the run after `patience` evaluations without a better one."""
        loss = (metrics or {}).get("eval_loss")
        if loss is None or loss < self._best:
            self._best, self._worse = (self._best, self._worse) if loss is None else (loss, 0)
            return
        self._worse += 1
        ends = self.limits.patience is not None and self._worse >= self.limits.patience
        if ends or self._worse == 2:
            what = f"the validation loss is {loss:.4g}, not better than {self._best:.4g}, {self._worse} evaluations ago"
            self._tell(
                state.global_step,
                "validation",
                what + (": the run ends here" if ends else ""),
                stops=ends,
                best=self._best,
                now=loss,
            )
        if ends:
            control.should_training_stop = True

    def judge(self, completions: Sequence[str], step: int) -> dict[str, float]:
        """Rates of markers and of empty texts among completions, kept in `samples`; alarms where they are too high."""
        count = max(len(completions), 1)
        rates = {m.pattern: rate_of(completions, m) or 0.0 for m in self.markers}
        empty = sum(not c.strip() for c in completions) / count
        self._rounds += 1
        self.samples = {"marker_rate": max(rates.values(), default=0.0), "empty_rate": empty}
        for marker, rate in rates.items():
            if completions and rate == 1.0 and self._rounds > self.limits.marker_warmup:
                self._tell(step, "marker", f"all {len(completions)} samples carry {marker!r}", rate=rate)
        if completions and empty >= self.limits.empty_rate:
            what = f"{empty:.0%} of {len(completions)} samples are empty: is the terminator learnt as the first token?"
            self._tell(step, "empty", what, rate=empty)
        return self.samples

    def _tell(
        self, step: int, kind: str, what: str, *, stops: bool = False, once: bool = False, **numbers: Any
    ) -> None:
        if once and any(a.kind == kind for a in self.alarms):
            return
        told = {k: float(v) for k, v in numbers.items() if v is not None}
        alarm = Alarm(step, kind, stops, what, told)
        self.alarms.append(alarm)
        _log.log(logging.ERROR if stops else logging.WARNING, "step %d: %s", step, what)
        if self.on_alarm:
            self.on_alarm(alarm)


def _local(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor.detach()


def _is_power(number: int) -> bool:
    return number & (number - 1) == 0
