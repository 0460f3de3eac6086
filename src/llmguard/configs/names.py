"""One name for one setting: what each dialect calls it, what it was called before, what people call it in their own configs."""

from __future__ import annotations

__all__ = [
    "ADAPTER_SECTIONS",
    "OTHER_SECTIONS",
    "OUR_NAMES",
    "RENAMED",
    "canonical_name",
    "own_name",
    "section_words",
    "synonym_of",
]

_AXOLOTL = {
    "base_model": "model",
    "sequence_len": "max_length",
    "micro_batch_size": "per_device_train_batch_size",
    "eval_batch_size": "per_device_eval_batch_size",
    "num_epochs": "num_train_epochs",
    "optimizer": "optim",
    "lr_scheduler": "lr_scheduler_type",
    "evaluation_strategy": "eval_strategy",
    "sample_packing": "packing",
    "rl_beta": "beta",
    "dpo_beta": "beta",
    "lora_model_dir": "adapter_path",
    "tokenizer_config": "tokenizer",
}
_LLAMAFACTORY = {
    "model_name_or_path": "model",
    "cutoff_len": "max_length",
    "lora_rank": "lora_r",
    "pref_beta": "beta",
    "adapter_name_or_path": "adapter_path",
    "evaluation_strategy": "eval_strategy",
    "max_length": "generation_max_length",
}
_HUGGING_FACE = {
    "model_name_or_path": "model",
    "evaluation_strategy": "eval_strategy",
    "max_seq_length": "max_length",
    "block_size": "max_length",
    "per_gpu_train_batch_size": "per_device_train_batch_size",
    "per_gpu_eval_batch_size": "per_device_eval_batch_size",
    "tokenizer_name": "tokenizer",
    "torch_dtype": "dtype",
}
_DIALECTS = {
    "axolotl": _AXOLOTL,
    "llamafactory": _LLAMAFACTORY,
    "transformers": _HUGGING_FACE,
    "trl": _HUGGING_FACE,
}

_OWN = {
    "learning_rate": "lr peak_lr",
    "per_device_train_batch_size": "per_device_batch_size micro_batch_size per_gpu_train_batch_size",
    "per_device_eval_batch_size": "eval_batch_size per_gpu_eval_batch_size",
    "batch_size": "",
    "gradient_accumulation_steps": "gradient_accumulation grad_accum grad_accum_steps grad_accumulation_steps "
    "accumulation_steps accumulate_grad_batches accumulation",
    "num_train_epochs": "num_epochs epochs n_epochs max_epochs",
    "max_steps": "max_train_steps",
    "max_length": "max_seq_length max_seq_len max_sequence_length sequence_len sequence_length seq_length cutoff_len "
    "model_max_length block_size",
    "lora_r": "lora_rank",
    "lora_alpha": "",
    "lora_dropout": "",
    "warmup_ratio": "",
    "warmup_steps": "num_warmup_steps",
    "weight_decay": "",
    "max_grad_norm": "gradient_clip_val grad_clip",
    "optim": "optimizer optimizer_name",
    "lr_scheduler_type": "lr_scheduler",
    "eval_strategy": "evaluation_strategy",
    "save_strategy": "",
    "save_steps": "",
    "eval_steps": "",
    "save_total_limit": "",
    "load_best_model_at_end": "",
    "bf16": "",
    "fp16": "",
    "seed": "random_seed",
    "packing": "sample_packing",
    "gradient_checkpointing": "",
    "dtype": "torch_dtype",
    "beta": "dpo_beta pref_beta",
    "model": "model_name_or_path base_model base_model_name_or_path base_model_path model_path model_name model_id "
    "pretrained_model_name_or_path",
    "tokenizer": "tokenizer_path tokenizer_name tokenizer_name_or_path",
    "adapter_path": "adapter_name_or_path lora_path",
    "train_file": "train_path train_data train_data_path train_dataset train_files data_path dataset_path dataset_file",
    "validation_file": "validation_path val_path val_file val_data_path eval_file eval_path eval_data_path valid_path",
    "test_file": "test_path test_data_path",
    "deepspeed": "deepspeed_config ds_config",
    "output_dir": "",
    "resume_from_checkpoint": "",
}
"""Canonical name -> what else it is called in configs that people read themselves."""

OUR_NAMES = frozenset(_OWN)

_IN_SECTION = {
    "adapter": {"r": "lora_r", "rank": "lora_r", "alpha": "lora_alpha", "dropout": "lora_dropout"},
    "model": {"name": "model", "path": "model", "base": "model", "name_or_path": "model", "id": "model"},
    "data": {"train": "train_file", "path": "train_file", "file": "train_file", "validation": "validation_file",
             "val": "validation_file", "eval": "validation_file", "test": "test_file"},
    "optimizer": {"name": "optim", "type": "optim"},
}  # fmt: skip
_SECTION_KIND = {
    "lora": "adapter", "qlora": "adapter", "peft": "adapter", "adapter": "adapter", "dora": "adapter",
    "model": "model", "data": "data", "dataset": "data", "datasets": "data", "optimizer": "optimizer", "optim": "optimizer",
}  # fmt: skip
ADAPTER_SECTIONS = frozenset(name for name, kind in _SECTION_KIND.items() if kind == "adapter")
OTHER_SECTIONS = frozenset(
    "eval evaluation evaluator inference infer generate generation sampling decoding vllm sglang serving serve server "
    "predict logging logger wandb mlflow tensorboard sweep search hpo optuna tune tuning space deepspeed fsdp accelerate "
    "accelerator rag retrieval embedding embeddings encoder judge client api export merge quantization bnb "
    "bitsandbytes kwargs test".split()
)
"""Sections of a user's own config in which the same names mean something else."""

RENAMED = {
    "evaluation_strategy": "eval_strategy",
    "max_seq_length": "max_length",
    "tokenizer": "processing_class",
    "no_cuda": "use_cpu",
    "per_gpu_train_batch_size": "per_device_train_batch_size",
    "per_gpu_eval_batch_size": "per_device_eval_batch_size",
    "warmup_ratio": "warmup_steps",
    "group_by_length": "train_sampling_strategy",
    "include_tokens_per_second": "include_num_input_tokens_seen",
    "include_inputs_for_metrics": "include_for_metrics",
    "push_to_hub_model_id": "hub_model_id",
    "push_to_hub_token": "hub_token",
    "torchdynamo": "torch_compile_backend",
    "adafactor": "optim",
    "use_liger": "use_liger_kernel",
    "torch_dtype": "dtype",
    "model_name": "model_name_or_path",
    "rpo_alpha": "loss_weights",
}
"""Former name -> the name of today, in transformers and TRL."""

HOW = {
    "warmup_ratio": "write `warmup_steps: {value}` instead: a value below 1 is a share of all steps there",
    "group_by_length": "write `train_sampling_strategy: group_by_length` instead",
    "adafactor": "write `optim: adafactor` instead",
    "overwrite_output_dir": "remove the line: nothing is overwritten or refused any more, so empty the folder yourself",
    "logging_dir": "remove the line and set TENSORBOARD_LOGGING_DIR in the environment where TensorBoard is used",
    "save_safetensors": "remove the line: checkpoints are always safetensors",
}
"""What to write instead, where another name alone does not do."""


def canonical_name(dialect: str, name: str) -> str:
    """The name that our rules use for a key of a library's dialect."""
    return _DIALECTS.get(dialect, {}).get(name, name)


def _by_alias() -> dict[str, str]:
    found = {alias: name for name, aliases in _OWN.items() for alias in aliases.split()}
    return {**found, **{name: name for name in _OWN}}


_ALIASES = _by_alias()


def section_words(path: tuple[str | int, ...]) -> list[list[str]]:
    """The words of each section name on a path: `("dpo_training", "lora")` is [["dpo", "training"], ["lora"]]."""
    return [part.lower().replace("-", "_").split("_") for part in path if isinstance(part, str)]


def own_name(section: tuple[str | int, ...], name: str) -> str | None:
    """The name that our rules use for a key of a user's own config, or None where the key is the user's own business."""
    words = section_words(section)
    if any(word in OTHER_SECTIONS for part in words for word in part):
        return None
    kind = (
        next((_SECTION_KIND[word] for word in reversed(words[-1]) if word in _SECTION_KIND), "")
        if words
        else ""
    )
    inner = _IN_SECTION.get(kind, {}).get(name.lower())
    return inner or _ALIASES.get(name.lower())


def synonym_of(name: str) -> str | None:
    """The library's name for what people call `lr`, `epochs` or `batch_size` in their own configs."""
    found = _ALIASES.get(name)
    if name == "batch_size":
        return "per_device_train_batch_size"
    return (
        found
        if found != name and found not in ("model", "train_file", "validation_file", "test_file", None)
        else None
    )
