"""The Trainer of this core: a loss that no split of the batch changes, steps that survive a full memory, nothing NaN ever saved."""

from __future__ import annotations

import gc
import inspect
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from transformers import Trainer

from llmguard.encoded import IGNORE_INDEX
from llmguard_core.checkpoints import VerifiedTrainer
from llmguard_core.errors import OutOfMemory, TrainingStopped
from llmguard_core.memory import pick_device
from llmguard_core.training.evidence import room
from llmguard_core.training.guards import Guards
from llmguard_core.training.oom import Failure, classify, halving
from llmguard_core.training.ranks import stop_with_the_others, together

__all__ = ["CoreTrainer", "InPieces", "TokenWeighted", "token_losses"]

Batch = dict[str, Any]
Base: Any = object  # the mixins below stand before a Trainer of transformers or of TRL, which ship no types
COUNTS_TOKENS = "num_items_in_batch" in inspect.signature(Trainer.training_step).parameters
"""From 4.46 on the Trainer reads all micro-batches of a step ahead, so that their tokens can be counted first."""


def token_losses(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum of the next-token losses (nats, float32) over the supervised tokens, and how many there are.

    `logits` [rows, tokens, vocabulary], `labels` [rows, tokens] with -100 where nothing is learnt.
    """
    targets = labels[:, 1:].to(logits.device)
    each = logits[:, :-1].float().flatten(0, 1)
    total = cross_entropy(each, targets.flatten(), ignore_index=IGNORE_INDEX, reduction="sum")
    return total, (targets != IGNORE_INDEX).sum()


class InPieces(Base):  # type: ignore[misc]  # its base is the Trainer that follows it
    """Steps that survive out of memory: the optimizer step is done again in pieces of half as many rows.

    The loader, its order, the effective batch and the step counter stay as they were. Runs of several processes cannot do part of
    a step again without the others: all of them stop, each with who ran out of memory.
    """

    piece: int | None = None
    """Rows that go through the model at once; None: the whole micro-batch."""
    _at: int = -1
    _taken: Sequence[Batch] = ()

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As the Trainer's; a connection that another process' out of memory has cut is told as that."""
        try:
            return super().train(*args, **kwargs)
        except RuntimeError as error:
            stop_with_the_others(error, self.state.global_step + 1)
            raise

    def rows_in(self, inputs: Mapping[str, Any]) -> int:
        """How many rows a micro-batch has."""
        return max((len(v) for v in inputs.values() if isinstance(v, torch.Tensor) and v.ndim), default=1)

    def cut(self, inputs: Mapping[str, Any], start: int, end: int) -> Batch:
        """Rows `start` to `end` of a micro-batch."""
        rows = self.rows_in(inputs)
        return {k: v[start:end] if _has_rows(v, rows) else v for k, v in inputs.items()}

    def training_step(self, model: Any, inputs: Batch, *args: Any) -> torch.Tensor:
        """Forward and backward of one micro-batch, in pieces where memory needs them; its share of the step's loss."""
        if self._at != self.state.global_step:
            self._at, self._taken = self.state.global_step, ()
        self._taken = (*self._taken, inputs)
        attempts = 0

        def attempt(size: int) -> torch.Tensor:
            nonlocal attempts
            attempts += 1
            if attempts == 1:
                return self._pieces(model, inputs, size, *args)
            return [self._pieces(model, each, size, *args) for each in self._taken][-1]

        def free() -> None:
            self._restart()
            model.zero_grad()  # a backward that failed half-way has left gradients: all of the step is done again
            self._free()

        loss: torch.Tensor = self._fitting(attempt, inputs, free)
        for guard in self._guards():
            guard.saw(inputs, loss, adds_up=True)
        return loss

    def prediction_step(self, model: Any, inputs: Batch, *args: Any, **kwargs: Any) -> Any:
        """As the Trainer's, in pieces where memory needs them (losses only: nothing is put together again)."""
        step = super().prediction_step
        if not self.args.prediction_loss_only:
            return step(model, inputs, *args, **kwargs)

        def attempt(size: int) -> Any:
            self._forget_judged()
            rows, losses = self.rows_in(inputs), []
            for start in range(0, rows, size):
                piece = self.cut(inputs, start, start + size)
                losses.append(step(model, piece, *args, **kwargs)[0] * (min(size, rows - start) / rows))
            return torch.stack(losses).sum(), None, None

        self._keep_judged()
        return self._fitting(attempt, inputs, self._free)

    def _fitting(self, attempt: Any, inputs: Batch, free: Callable[[], None]) -> Any:
        """The result of `attempt` with the largest piece that fits, which is kept for all steps to come."""
        rows = self.rows_in(inputs)
        if self.args.world_size > 1:
            return together(lambda: attempt(rows), self._explain_all)
        size = min(self.piece or rows, rows)
        try:
            result, fitted = halving(attempt, size, release=free, explain=self._explain)
        except RuntimeError as error:
            if classify(error) != "poisoned":
                raise
            raise TrainingStopped(
                f"the device cannot be used by this process any more: {error}", step=self.state.global_step,
                remedy="Start again: training resumes from the newest verified checkpoint. CUDA_LAUNCH_BLOCKING=1 shows which call failed.",
            ) from error  # fmt: skip
        if fitted < size:
            self.piece = fitted
        return result

    def _pieces(self, model: Any, inputs: Batch, size: int, *args: Any) -> torch.Tensor:
        rows, step = self.rows_in(inputs), super().training_step
        if size >= rows:
            loss: torch.Tensor = step(model, dict(inputs), *args)
            return loss
        losses = []
        for start in range(0, rows, size):
            losses.append(step(model, self.cut(inputs, start, start + size), *args))
        return torch.stack(losses).sum()

    def _guards(self) -> Iterator[Guards]:
        return (c for c in self.callback_handler.callbacks if isinstance(c, Guards))

    def _free(self) -> None:
        gc.collect()
        pick_device(self.args.device).empty_cache()

    def _explain(self, failure: Failure) -> OutOfMemory:
        tokens = self._longest()
        return OutOfMemory(
            f"one row of {tokens} tokens does not fit. {room(self.model, self.args, tokens)} {failure}",
            where=f"step {self.state.global_step + 1}",
            remedy=f"Shorten max_length, switch gradient_checkpointing on, use method: lora or a smaller dtype. {failure.remedy}".strip(),
        )  # fmt: skip

    def _explain_all(self, failure: Failure) -> OutOfMemory:
        """Of a process that had its whole micro-batch at once."""
        rows, tokens = self.rows_in(self._taken[-1]) if self._taken else 0, self._longest()
        return OutOfMemory(
            f"{rows} rows of {tokens} tokens do not fit. {failure}",
            where=f"step {self.state.global_step + 1}",
            remedy=failure.remedy,
        )

    def _longest(self) -> int:
        shapes = [v.shape[1] for each in self._taken for v in each.values() if _has_rows(v, 0) and v.ndim > 1]
        return max(shapes, default=0)

    def _restart(self) -> None: ...

    def _keep_judged(self) -> None: ...

    def _forget_judged(self) -> None: ...


class TokenWeighted(Base):  # type: ignore[misc]  # its base is the Trainer that follows it
    """Each supervised token of an optimizer step counts alike, whatever micro-batch and process it is in.

    A mean of the micro-batches' means would weigh a token of a short response more than one of a long response.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.model_accepts_loss_kwargs = self.loss_is_scaled_for_ga = (
            True  # no version may divide it once more
        )
        self._judged = self._kept = torch.zeros(2, dtype=torch.float64)
        self._tokens, self._since = torch.zeros((), dtype=torch.int64), time.monotonic()

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list[Batch], torch.Tensor]:
        """The micro-batches of the next optimizer step, and the supervised tokens in them over all processes."""
        batches, _ = super().get_batch_samples(*args, **kwargs)
        counts = torch.zeros(2, dtype=torch.int64, device=self.args.device)
        for batch in batches:
            supervised = (batch["labels"][:, 1:] != IGNORE_INDEX).sum()
            counts += torch.stack([supervised, _read(batch).to(supervised)]).to(counts.device)
        counts = self._over_processes(counts)
        self._tokens = self._tokens.to(counts.device) + counts[1]
        return batches, counts[0]

    def compute_loss(
        self, model: Any, inputs: Batch, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Sum over the supervised tokens by those of the whole step; outside of training by those of this batch."""
        inputs = dict(inputs)
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        total, count = token_losses(outputs.logits, labels)
        if model.training and num_items_in_batch is not None:
            # processes average their gradients, and the sum over processes is what is wanted
            loss = total * self.args.world_size / torch.as_tensor(num_items_in_batch).clamp(min=1)
        else:
            loss = total / count.clamp(min=1)
        if not model.training:
            self._judged = self._judged + torch.stack([total.detach(), count]).double().cpu()
        return (
            (loss + self._router_loss(outputs), outputs)
            if return_outputs
            else loss + self._router_loss(outputs)
        )

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """As the Trainer's, its loss a mean over all supervised tokens: the same for every evaluation batch size."""
        self._judged = torch.zeros(2, dtype=torch.float64)
        output = super().evaluation_loop(*args, **kwargs)
        total, count = self._over_processes(self._judged.to(self.args.device)).tolist()
        if count:
            output.metrics[f"{kwargs.get('metric_key_prefix', 'eval')}_loss"] = total / count
        return output

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """As the Trainer's, with tokens per second and memory."""
        if "loss" in logs:
            now = time.monotonic()
            logs["tokens_per_second"] = round(self._tokens.item() / max(now - self._since, 1e-9), 1)
            self._tokens, self._since = torch.zeros((), dtype=torch.int64), now
        super().log(logs, *args, **kwargs)

    def _router_loss(self, outputs: Any) -> Any:
        """The load-balancing loss of a mixture of experts, where the model gives one; a mean already."""
        extra = getattr(outputs, "aux_loss", None)
        if extra is None:
            return 0.0
        return (
            getattr(self.model.config, "router_aux_loss_coef", 0.0)
            * extra
            / self.args.gradient_accumulation_steps
        )

    def _over_processes(self, values: torch.Tensor) -> torch.Tensor:
        if self.args.world_size == 1:
            return values
        return torch.as_tensor(self.accelerator.reduce(values, reduction="sum"))

    def _keep_judged(self) -> None:
        self._kept = self._judged

    def _forget_judged(self) -> None:
        self._judged = self._kept


class CountedAfterwards(TokenWeighted):
    """For transformers 4.45, which tells no counts: gradients of sums, divided by the step's tokens just before they are used."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._count = self._due = torch.zeros((), dtype=torch.int64)
        backward, clip = self.accelerator.backward, self.accelerator.clip_grad_norm_

        def of_sum(loss: torch.Tensor, **named: Any) -> None:
            backward(loss * self._count * self.accelerator.gradient_accumulation_steps, **named)

        def divided(parameters: Any, *rest: Any, **named: Any) -> Any:
            parameters = list(parameters)
            due = self._over_processes(self._due.to(self.args.device)).clamp(min=1)
            for each in (p.grad for p in parameters if p.grad is not None):
                each.mul_(self.args.world_size / due.to(each.device))
            self._restart()
            return clip(parameters, *rest, **named)

        self.accelerator.backward, self.accelerator.clip_grad_norm_ = of_sum, divided

    def compute_loss(self, model: Any, inputs: Batch, *args: Any, **kwargs: Any) -> Any:
        """The mean over this micro-batch, and the count by which it is weighed later."""
        if model.training:
            self._count = (inputs["labels"][:, 1:] != IGNORE_INDEX).sum()
            self._due = self._due.to(self._count.device) + self._count
        return super().compute_loss(model, inputs, *args, **kwargs)

    def _restart(self) -> None:
        self._due = torch.zeros_like(self._due)


_Weighted: Any = TokenWeighted if COUNTS_TOKENS else CountedAfterwards


class CoreTrainer(_Weighted, InPieces, VerifiedTrainer):  # type: ignore[misc]  # transformers ships no types
    """transformers' Trainer with the loss, the steps and the checkpoints of this core."""


def _has_rows(value: Any, rows: int) -> bool:
    return isinstance(value, torch.Tensor) and value.ndim > 0 and (not rows or len(value) == rows)


def _read(batch: Batch) -> torch.Tensor:
    """How many tokens a micro-batch has, padding aside where a plain mask tells it."""
    mask = batch.get("attention_mask")
    if isinstance(mask, torch.Tensor) and mask.ndim == 2:
        return mask.sum()
    return torch.tensor(batch["input_ids"].numel())
