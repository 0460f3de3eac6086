"""A user's training script: trainer factories with one mistake each, and sound ones. Copied into a project folder as it is."""

from __future__ import annotations

import copy
import itertools
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    EarlyStoppingCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

HERE = Path(__file__).resolve().parent
IGNORE, ROWS, ODD = -100, 30, 17
tok = AutoTokenizer.from_pretrained(str(HERE / "small"))
Row = dict[str, Any]


def rows(count: int = ROWS) -> list[Row]:
    found = []
    for i in range(count):
        asked = tok(f"how many are {i} and {'one' * (i % 5)}?")["input_ids"]
        said = [*tok(f" the answer is {i}")["input_ids"], tok.eos_token_id]
        ids = asked + said
        labels = [IGNORE] * len(asked) + said
        found.append({"input_ids": ids, "labels": labels, "attention_mask": [1] * len(ids)})
    return found


class Rows(torch.utils.data.Dataset):
    """Rows as a user's own data set."""

    def __init__(self, found: list[Row]) -> None:
        self.found, self.name = found, "mine"

    def __len__(self) -> int:
        return len(self.found)

    def __getitem__(self, i: int) -> Row:
        return dict(self.found[i])


def arguments(**more: Any) -> Any:
    usual: Row = {"output_dir": str(HERE / "out"), "per_device_train_batch_size": 4, "report_to": [], "use_cpu": True,
                  "disable_tqdm": True, "num_train_epochs": 1, "learning_rate": 1e-3}  # fmt: skip
    return TrainingArguments(**{**usual, **more})


def small() -> Any:
    return AutoModelForCausalLM.from_pretrained(str(HERE / "small"))


def made(kind: Any = Trainer, args: Row | None = None, **more: Any) -> Any:
    """A sound Trainer, but for what is said."""
    usual = {
        "model": None,
        "train_dataset": Dataset.from_list(rows()),
        "data_collator": DataCollatorForSeq2Seq(tok),
    }
    given = {**usual, **more}
    given["model"] = small() if given["model"] is None else given["model"]
    return kind(args=arguments(**(args or {})), **given)


class Says(TrainerCallback):
    """Does something at the end of each step."""

    def __init__(self, do: Any) -> None:
        self.do = do

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.do(state)


def with_callback(do: Any) -> Any:
    return made(callbacks=[Says(do)])


# -- mistakes that raise


def used_before_set() -> Any:
    def report(state: Any) -> None:
        share = state.global_step / total_steps  # noqa: F821  # the mistake
        total_steps = state.max_steps
        print(share, total_steps)

    return with_callback(report)


def undefined_name() -> Any:
    return with_callback(lambda state: learning_rte)  # noqa: F821  # the mistake


def missing_attribute() -> Any:
    return with_callback(lambda state: state.total_tokens)


def no_epochs() -> Any:
    return made(args={"num_train_epochs": None})


def text_rate() -> Any:
    return made(args={"learning_rate": "1e-4"})


def lacking_key() -> Any:
    found = [{**row, "weight": 1.0} for row in rows()]
    del found[ODD]["weight"]

    def collate(batch: list[Row]) -> Any:
        weights = [row.pop("weight") for row in batch]
        return {**DataCollatorForSeq2Seq(tok)(batch), "weights": torch.tensor(weights)}

    return made(args={"remove_unused_columns": False}, train_dataset=Rows(found), data_collator=collate)


def lacking_column() -> Any:
    texts = Dataset.from_list(
        [{"extra": {"topic": "sums"} if i != ODD else {"kind": "sums"}} for i in range(ROWS)]
    )

    def encode(row: Row) -> Row:
        given = {k: v for k, v in row["extra"].items() if v is not None}
        return rows(1)[0] | {"topic": given["topic"]}

    return made(train_dataset=texts.map(encode))


def empty_row() -> Any:
    found = [{**row, "tags": ["a"]} for row in rows()]
    found[ODD]["tags"] = []

    def collate(batch: list[Row]) -> Any:
        first = [row.pop("tags")[0] for row in batch]
        return {**DataCollatorForSeq2Seq(tok)(batch), "first": first}

    return made(args={"remove_unused_columns": False}, train_dataset=Rows(found), data_collator=collate)


def beyond_embedding() -> Any:
    found = rows()
    found[ODD]["input_ids"] = [*found[ODD]["input_ids"][:-1], len(tok) + 5]
    found[ODD]["note"] = "odd"
    return made(train_dataset=Rows(found))


def recursion() -> Any:
    def parent(node: int) -> int:
        return child(node + 1)

    def child(node: int) -> int:
        return parent(node + 1)

    return parent(0)


def memory() -> Any:
    table = bytearray(64 * 2**30)
    return made(args={"seed": len(table)})


def save_fails() -> Any:
    class Own(Trainer):
        def _save(self, *args: Any, **more: Any) -> None:
            raise OSError(28, "No space left on device")

    return made(Own)


def resume_fails() -> Any:
    class Own(Trainer):
        def _load_rng_state(self, checkpoint: Any) -> None:
            if checkpoint is not None:
                raise KeyError("rng")

    return made(Own)


def metrics_of_nothing() -> Any:
    def accuracy(found: Any) -> dict[str, float]:
        wanted = [int(i) for i in found.label_ids.ravel() if i != IGNORE]
        return {"accuracy": sum(wanted) / len(wanted)}

    silent = [{**row, "labels": [IGNORE] * len(row["labels"])} for row in rows(6)]
    return made(eval_dataset=Dataset.from_list(silent), compute_metrics=accuracy)


def empty_evaluation() -> Any:
    class Own(Trainer):
        def evaluate(self, *args: Any, **more: Any) -> dict[str, float]:
            found = super().evaluate(*args, **more)
            return {**found, "eval_seconds_a_row": found["eval_runtime"] / len(self.eval_dataset)}

    return made(Own, eval_dataset=Dataset.from_list(rows(4)).select([]))


def unknown_metric() -> Any:
    settings = {"eval_strategy": "steps", "eval_steps": 1, "save_steps": 1, "load_best_model_at_end": True}
    return made(
        args={**settings, "metric_for_best_model": "accuracy"}, eval_dataset=Dataset.from_list(rows(6))
    )


def leaves() -> Any:
    return with_callback(lambda state: sys.exit(3))


# -- mistakes that raise nothing


def with_loss(change: Any) -> Any:
    class Own(Trainer):
        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
            output = model(**inputs)
            loss = change(output.loss, model)
            return (loss, output) if return_outputs else loss

    return made(Own)


def nan_loss() -> Any:
    return with_loss(lambda loss, model: loss * float("nan"))


def infinite_loss() -> Any:
    return with_loss(lambda loss, model: loss * float("inf"))


def nan_gradient() -> Any:
    return with_loss(lambda loss, model: loss + torch.sqrt((loss - loss) * 1.0))


def zero_loss() -> Any:
    return with_loss(lambda loss, model: loss * 0.0)


def cannot_learn() -> Any:
    return with_loss(lambda loss, model: loss.detach() + 0.0 * sum(p.sum() for p in model.parameters()))


def no_steps() -> Any:
    return made(args={"num_train_epochs": 0})


def starts_over() -> Any:
    class Own(Trainer):
        def train(self, resume_from_checkpoint: Any = None, **more: Any) -> Any:
            return super().train(**more)

    return made(Own)


def other_weights() -> Any:
    class Own(Trainer):
        def _load_from_checkpoint(self, *args: Any, **more: Any) -> None:
            return

    return made(Own, args={"learning_rate": 0.1})


def frozen() -> Any:
    trainer = made()
    for parameter in trainer.model.parameters():
        parameter.requires_grad = False
    return trainer


def zero_rate() -> Any:
    return made(args={"learning_rate": 0.0})


def other_optimizer() -> Any:
    model = small()
    optimizer = torch.optim.AdamW(copy.deepcopy(model).parameters(), lr=1e-3)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    return made(model=model, optimizers=(optimizer, scheduler))


# -- mistakes that end the process, or do not end


def hangs() -> Any:
    return with_callback(lambda state: time.sleep(3600))


def spins() -> Any:
    return with_callback(lambda state: sum(1 for _ in itertools.count()))


def exits() -> Any:
    return with_callback(lambda state: os._exit(0))


# -- nothing is wrong


def plain() -> Any:
    return made(eval_dataset=Dataset.from_list(rows(6)))


def early_stopping() -> Any:
    settings = {"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True}
    more = {"metric_for_best_model": "eval_loss", "greater_is_better": False, "save_total_limit": 1}
    return made(
        args={**settings, **more},
        eval_dataset=Dataset.from_list(rows(6)),
        callbacks=[EarlyStoppingCallback(2)],
    )


def own_metrics() -> Any:
    def accuracy(found: Any) -> dict[str, float]:
        likeliest = found.predictions.argmax(-1)
        wanted = found.label_ids != IGNORE
        return {"accuracy": float((likeliest == found.label_ids)[wanted].mean())}

    settings = {"eval_strategy": "steps", "eval_steps": 5, "save_steps": 5, "load_best_model_at_end": True}
    return made(
        args={**settings, "metric_for_best_model": "accuracy"},
        eval_dataset=Dataset.from_list(rows(6)),
        compute_metrics=accuracy,
    )


def accumulating() -> Any:
    return made(
        args={"gradient_accumulation_steps": 16, "max_steps": 1000, "warmup_steps": 100, "weight_decay": 0.1}
    )


def for_a_gpu() -> Any:
    """As it would be run on a machine with GPUs, of a large model whose weights are not here."""
    model = AutoModelForCausalLM.from_pretrained(
        str(HERE / "large"), dtype="bfloat16", attn_implementation="flash_attention_2", device_map={"": 0}
    ).to("cuda")
    settings = {"bf16": True, "tf32": True, "torch_compile": True, "use_cpu": False, "optim": "paged_adamw_8bit",
                "dataloader_num_workers": 4, "dataloader_prefetch_factor": 2, "dataloader_persistent_workers": True,
                "deepspeed": str(HERE / "zero3.json"), "report_to": "wandb", "gradient_checkpointing": True}  # fmt: skip
    return made(model=model, args=settings)


def own_dataset() -> Any:
    return made(train_dataset=Rows(rows()), eval_dataset={"easy": Rows(rows(6)), "hard": Rows(rows(9))})


def streaming() -> Any:
    stream = Dataset.from_list(rows()).to_iterable_dataset()
    return made(args={"max_steps": 50}, train_dataset=stream)


def frozen_embeddings() -> Any:
    model = small()
    model.get_input_embeddings().weight.requires_grad = False
    return made(model=model)


def classifier() -> Any:
    model = AutoModelForSequenceClassification.from_pretrained(str(HERE / "large"), num_labels=3)
    model.config.pad_token_id = tok.pad_token_id
    found = [{"input_ids": row["input_ids"], "label": i % 3} for i, row in enumerate(rows())]
    return made(model=model, train_dataset=Dataset.from_list(found), data_collator=None, processing_class=tok)


def adapter() -> Any:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=256,
        lora_alpha=512,
        target_modules=["q_proj", "v_proj"],
        layers_to_transform=[20, 21],
        task_type="CAUSAL_LM",
    )
    return made(model=get_peft_model(AutoModelForCausalLM.from_pretrained(str(HERE / "large")), config))


def own_trainer() -> Any:
    class Own(Trainer):
        def __init__(self, *args: Any, factor: float = 1.0, **more: Any) -> None:
            super().__init__(*args, **more)
            self.factor = factor

        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **more: Any) -> Any:
            found = super().compute_loss(model, inputs, return_outputs=True, **more)
            return (found[0] * self.factor, found[1]) if return_outputs else found[0] * self.factor

    return made(Own, factor=0.5)


def own_sampler() -> Any:
    class Own(Trainer):
        def _get_train_sampler(self, *_: Any) -> Any:
            return torch.utils.data.WeightedRandomSampler([0.0] * (ROWS - 8) + [1.0] * 8, ROWS)

    return made(Own)


def supervised() -> Any:
    from trl import SFTConfig, SFTTrainer

    data = Dataset.from_list([{"prompt": f"how many are {i}?", "completion": f" {i}"} for i in range(40)])
    settings = SFTConfig(
        output_dir=str(HERE / "out"), packing=True, max_length=64, report_to="wandb", bf16=True
    )
    return SFTTrainer(model=str(HERE / "large"), args=settings, train_dataset=data, processing_class=tok)


def preference() -> Any:
    from trl import DPOConfig, DPOTrainer

    data = Dataset.from_list(
        [{"prompt": f"is {i} one?", "chosen": " yes, it is", "rejected": " no"} for i in range(40)]
    )
    settings = DPOConfig(
        output_dir=str(HERE / "out"), max_length=64, beta=0.1, eval_strategy="steps", eval_steps=10
    )
    policy = AutoModelForCausalLM.from_pretrained(str(HERE / "large"))
    torch.rand(9)  # the reference is the same model, whatever was drawn in between
    return DPOTrainer(
        model=policy,
        ref_model=AutoModelForCausalLM.from_pretrained(str(HERE / "large")),
        args=settings,
        train_dataset=data,
        eval_dataset=data.select(range(6)),
        processing_class=tok,
    )


# -- what cannot be judged here


def needs_a_gpu() -> Any:
    return torch.zeros(1, device="cuda")


def not_on_this_machine() -> Any:
    return made(model=AutoModelForCausalLM.from_pretrained("nobody/has-this-model"))


def weights_by_hand() -> Any:
    model = AutoModelForCausalLM.from_pretrained(str(HERE / "large"))
    model.load_state_dict({"lm_head.weight": torch.zeros(len(tok), 2048)}, strict=False)
    return made(model=model)


def no_trainer() -> Any:
    return object()
