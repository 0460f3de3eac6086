"""transformers' Trainer with saves that are whole or not there, and resuming from the newest one that is whole."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import TrainOutput

from llmguard_core.checkpoints.folder import atomic_folder, log, remove_folder, replaceable, staged
from llmguard_core.checkpoints.matching import refuse_another_model, saved_otherwise
from llmguard_core.checkpoints.signals import SaveOnSignal
from llmguard_core.checkpoints.verify import checkpoints, newest, step_of, verify
from llmguard_core.errors import CheckpointError, TrainingStopped

__all__ = ["VerifiedTrainer", "not_finite", "weights_only_loads"]

STATE = "trainer_state.json"
OS_ERROR = re.compile(r"os error (\d+)")
"""How safetensors tells an errno."""


class VerifiedTrainer(Trainer):  # type: ignore[misc]  # transformers ships no types
    """A Trainer that trusts no file: `class Mine(VerifiedTrainer, SomeTrainer)` gives the same to a Trainer of TRL.

    Saves go through `atomic_folder`; nothing that is NaN or infinite is saved; `save_total_limit` deletes only once the new
    checkpoint has been read back whole; `train(resume_from_checkpoint=True)` takes the newest whole checkpoint, or starts fresh and
    says so; a path is verified first. A run that has its steps already returns at once, and touches nothing. On a CPU a run goes on
    bit for bit (with transformers 4.45 only where the accumulation divides the batches of an epoch: it counts on over the rest).
    """

    _staging: Path | None = None

    def train(self, resume_from_checkpoint: Any = None, *rest: Any, **more: Any) -> TrainOutput:
        """Train as transformers does.

        Raises:
            CheckpointError: the checkpoint named is not whole, is another model's, or one could not be saved.
            TrainingStopped: there was something not finite to save.
            SystemExit: SIGTERM or SIGUSR1 came and `SaveOnSignal` is among the callbacks; 143 or 0.
        """
        chosen = _chosen(resume_from_checkpoint, self.args)
        first = _StopIfTrained()
        if chosen:
            self.callback_handler.callbacks.insert(0, first)
        signals = [c for c in self.callback_handler.callbacks if isinstance(c, SaveOnSignal)]
        try:
            done = super().train(chosen, *rest, **more)
        except _AlreadyTrained as trained:
            log.info("%s: already trained: %s", chosen, trained)
            self.is_in_train = False
            return TrainOutput(self.state.global_step, _last_loss(self.state), {})
        finally:
            self.callback_handler.callbacks = [c for c in self.callback_handler.callbacks if c is not first]
            for each in signals:
                each.release()
        for each in signals:
            each.leave()
        return done

    def check_before_save(self) -> None:
        """Called before anything is written; override it to refuse more, and call this one too.

        Raises:
            TrainingStopped: a parameter, a buffer or the optimizer's state holds NaN or an infinite value.
        """
        bad = not_finite(self.model, self.optimizer)
        if bad:
            raise TrainingStopped(
                f"{len(bad)} tensors hold NaN or infinite values, the first is {bad[0]}: nothing was saved",
                step=self.state.global_step,
                remedy="The checkpoints before are as they were: lower the learning rate or look at the last batch, and resume.",
            )

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """The model into a folder of its own, whole or not at all; where other things lie, into `final` inside it, and says so.

        Raises:
            CheckpointError: it could not be written.
            TrainingStopped: there is something not finite in it.
        """
        if self._staging is not None:
            super().save_model(output_dir, _internal_call)
            return
        self.check_before_save()
        final = Path(output_dir or self.args.output_dir)
        if not replaceable(final):
            log.warning("%s holds other things than a saved model: saving to %s", final, final / "final")
            final = final / "final"
        with self._saving(final) as folder:
            super().save_model(str(folder), _internal_call=True)

    def _save_checkpoint(self, model: Any, trial: Any, *rest: Any, **more: Any) -> None:
        self.check_before_save()
        run_dir = Path(self._get_output_dir(trial=trial))
        final = run_dir / f"checkpoint-{self.state.global_step}"
        with self._saving(final) as folder:
            super()._save_checkpoint(model, trial, *rest, **more)
            best = self.state.best_model_checkpoint
            if best and Path(best) == folder:
                self.state.best_model_checkpoint = str(final)
                if self.args.should_save:
                    self.state.save_to_json(str(folder / STATE))
        if self.args.push_to_hub:
            super()._push_from_checkpoint(str(final))
        if self.args.should_save and self.args.save_total_limit:
            _rotate(run_dir, final, self.args.save_total_limit, self.state.best_model_checkpoint)

    @contextmanager
    def _saving(self, final: Path) -> Iterator[Path]:
        """The folder that every process of the run writes to; the one that saves makes it, and gives it its name."""
        final = Path(os.path.abspath(final))  # noqa: PTH100  # as atomic_folder does: links are the user's choice
        here = atomic_folder(final, needs=_bytes(self.model, self.optimizer))
        with here if self.args.should_save else nullcontext(staged(final)) as folder:
            self._staging = folder.parent
            try:
                _wait_for_all(self.args)
                with _errors_with_errno(folder):
                    yield folder
                _wait_for_all(self.args)
            finally:
                self._staging = None
        _wait_for_all(self.args)

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._staging) if self._staging else str(super()._get_output_dir(trial))

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if self._staging is None:  # else it is pushed once it has its name
            super()._push_from_checkpoint(checkpoint_folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        model = self.model if model is None else model
        sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled  # their models have other names
        if not sharded:
            refuse_another_model(resume_from_checkpoint, model)
        with weights_only_loads():
            if not sharded and saved_otherwise(model):
                # transformers' own way looks for the names in memory, finds none of them, and goes on
                whole = type(model).from_pretrained(resume_from_checkpoint, torch_dtype=model.dtype)
                model.load_state_dict(whole.state_dict())
            else:
                super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with weights_only_loads():
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with weights_only_loads():
            super()._load_rng_state(checkpoint)


class _AlreadyTrained(Exception):
    """The checkpoint has all the steps that the run asks for."""


class _StopIfTrained(TrainerCallback):  # type: ignore[misc]  # transformers ships no types
    """transformers would make one more step before it looks; the first moment at which the number of steps is known is this."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        if state.global_step >= state.max_steps:
            raise _AlreadyTrained(f"{state.global_step} steps are done, {state.max_steps} are asked for")


def not_finite(model: Any, optimizer: Any = None) -> list[str]:
    """The names of trainable parameters, buffers and optimizer states with NaN or infinite values.

    Infinite values in buffers are right: masks hold them.
    """
    trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    found = [n for n, p in trained if _has(p, lambda t: ~torch.isfinite(t))]
    found += [n for n, b in model.named_buffers() if _has(b, torch.isnan)]
    return found + [f"optimizer state {n}" for n, t in _optimizer_tensors(optimizer) if _has(t, torch.isnan)]


@contextmanager
def weights_only_loads() -> Iterator[None]:
    """torch.load reads tensors and plain values alone, in every version of transformers; random states hold numpy arrays, too."""
    core = np._core if hasattr(np, "_core") else np.core
    torch.serialization.add_safe_globals(
        [core.multiarray._reconstruct, np.ndarray, np.dtype, type(np.dtype(np.uint32))]
    )
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


def _chosen(asked: Any, args: Any) -> str | None:
    """The checkpoint to resume from; one process chooses for all."""
    if asked is None or asked is False:
        return None
    found: list[Any] = [None]
    if args.process_index == 0:
        found = [newest(args.output_dir) if asked is True else _whole(Path(asked))]
    if args.world_size > 1 and torch.distributed.is_initialized():
        torch.distributed.broadcast_object_list(found)
    if found[0] is None:
        log.warning("%s: no checkpoint to resume from: starting fresh", args.output_dir)
    else:
        log.info("going on from %s", found[0])
    return str(found[0]) if found[0] else None


def _whole(folder: Path) -> Path:
    problems = verify(folder)
    if problems:
        remedy = "Resume from another one: `newest(output_dir)` finds the newest that is whole."
        raise CheckpointError(
            f"cannot be resumed from: {'; '.join(problems)}", where=str(folder), remedy=remedy
        )
    return folder


def _rotate(run_dir: Path, saved: Path, limit: int, best: str | None) -> None:
    """Delete the oldest beyond the limit, once the new one has been read back; the best one stays."""
    others = [c for c in checkpoints(run_dir) if c.name != saved.name]
    kept_best = [c for c in others if best and c.name == Path(best).name]
    rest = [c for c in others if c not in kept_best]
    surplus = rest[: max(len(others) + 1 - limit, 0)]
    if not surplus:
        return
    problems = verify(saved)
    if problems:
        log.error("%s: %s: no older checkpoint is deleted", saved, problems[0])
        return
    for each in surplus:
        if step_of(each) < step_of(saved):
            log.info("%s is deleted: save_total_limit is %d", each, limit)
            remove_folder(each)


@contextmanager
def _errors_with_errno(folder: Path) -> Iterator[None]:
    """Make of what torch and safetensors raise the operating system's error behind it."""
    try:
        yield
    except OSError:
        raise
    except Exception as bad:
        number = _errno_of(bad, folder)
        if number is None:
            raise
        raise OSError(number, os.strerror(number), str(folder)) from bad


def _errno_of(bad: Exception, folder: Path) -> int | None:
    told = OS_ERROR.search(str(bad))
    if told:
        return int(told[1])
    if not isinstance(bad, RuntimeError) or "write" not in str(bad):
        return None
    try:  # torch tells no errno: the disk is asked again
        with (folder / ".probe").open("wb") as probe:
            probe.write(bytes(1 << 22))
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as again:
        return again.errno
    return errno.EIO if "file write failed" in str(bad) else None


def _bytes(model: Any, optimizer: Any) -> int:
    """About how many bytes a checkpoint has: what is trained (for a full model all of it), and the optimizer's state."""
    tensors = [p for p in model.parameters() if p.requires_grad or not hasattr(model, "peft_config")]
    tensors += [t for _, t in _optimizer_tensors(optimizer)]
    return sum(t.numel() * t.element_size() for t in tensors)


def _optimizer_tensors(optimizer: Any) -> Iterator[tuple[str, torch.Tensor]]:
    for number, state in enumerate(getattr(optimizer, "state", {}).values()):
        for name, value in state.items() if isinstance(state, dict) else ():
            if isinstance(value, torch.Tensor):
                yield f"{name} of parameter {number}", value


def _has(tensor: Any, wrong: Callable[[torch.Tensor], torch.Tensor]) -> bool:
    here = tensor.to_local() if hasattr(tensor, "to_local") else tensor.detach()
    return bool(here.is_floating_point() and here.device.type != "meta" and wrong(here).any())


def _last_loss(state: Any) -> float:
    losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
    return float(losses[-1]) if losses else float("nan")


def _wait_for_all(args: Any) -> None:
    if args.world_size > 1 and torch.distributed.is_initialized():
        torch.distributed.barrier()
