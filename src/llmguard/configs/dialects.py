"""Whose config a file is: told by keys that only one library has; never by the file's name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmguard.configs.document import Document, Item, Path
from llmguard.configs.libraries import library_of
from llmguard.configs.names import synonym_of

__all__ = ["DIALECTS", "FOREIGN", "Section", "sections_of"]

DIALECTS = ("transformers", "trl", "axolotl", "llamafactory", "plain")
FOREIGN = "foreign"

_CORE = frozenset(
    "per_device_train_batch_size per_device_eval_batch_size num_train_epochs gradient_accumulation_steps "
    "lr_scheduler_type eval_strategy evaluation_strategy save_strategy logging_strategy max_grad_norm "
    "gradient_checkpointing save_total_limit load_best_model_at_end report_to metric_for_best_model warmup_ratio "
    "per_gpu_train_batch_size".split()
)
"""Names that hardly anyone but TrainingArguments uses."""
_TRL = frozenset(
    "dataset_text_field packing_strategy completion_only_loss assistant_only_loss dataset_train_split dataset_test_split "
    "use_peft lora_target_modules lora_task_type max_prompt_length max_completion_length model_init_kwargs dataset_kwargs "
    "eval_packing num_generations precompute_ref_log_probs sync_ref_model rpo_alpha dataset_num_proc chat_template_path "
    "padding_free desirable_weight undesirable_weight dataset_mixture dataset_mixer reward_funcs loss_type".split()
)
_LLAMAFACTORY = frozenset(
    "finetuning_type cutoff_len dataset_dir lora_rank lora_target plot_loss overwrite_cache val_size infer_backend "
    "export_dir quantization_bit pref_beta pref_loss neat_packing max_samples preprocessing_num_workers do_train "
    "do_predict dataset stage eval_dataset".split()
)
_STAGES = frozenset("pt sft rm ppo dpo kto".split())
_AXOLOTL_DATA = ("datasets", "sequence_len", "pretraining_dataset", "dataset_prepared_path")
_FOREIGN = {
    "DeepSpeed": ("zero_optimization", "train_micro_batch_size_per_gpu", "zero_allow_untested_optimizer"),
    "Accelerate": ("compute_environment", "distributed_type", "fsdp_auto_wrap_policy"),
    "PEFT adapter": ("peft_type", "base_model_name_or_path"),
    "model": ("architectures", "hidden_size", "vocab_size", "num_hidden_layers"),
    "tokenizer": ("tokenizer_class", "added_tokens_decoder", "chat_template"),
    "generation": ("eos_token_id", "transformers_version", "_from_model_config"),
    "trainer state": ("log_history", "global_step"),
    "sweep": ("method", "parameters"),
    "Compose": ("services",),
}
_OWN_CORE = frozenset(
    {"learning_rate", "num_train_epochs", "per_device_train_batch_size", "gradient_accumulation_steps"}
)
_TWO_NEEDED = frozenset({"PEFT adapter", "model", "tokenizer", "generation", "trainer state", "sweep"})
_FEW = 3


@dataclass(frozen=True)
class Section:
    """A mapping of a config file that belongs to one dialect; `told` names the dialect's giver: the project or the keys."""

    path: Path
    dialect: str
    items: tuple[Item, ...]
    told: bool = False


def sections_of(document: Document, wanted: str = "auto") -> tuple[list[Section], str]:
    """The mappings of a file by dialect, and whose file it is where no rule of ours applies (`DeepSpeed`, …; else empty).

    A file of a library's dialect is one section; nested mappings of the user's own are sections of the dialect `plain`.
    """
    mappings = document.mappings()
    top = mappings[()]
    foreign = _foreign({item.name: item.value for item in top}) if wanted == "auto" else ""
    if foreign:
        return [Section((), FOREIGN, tuple(top))], foreign
    if wanted != "auto":
        return _told(mappings, wanted), ""
    found = [Section((), _dialect(top), tuple(top))]
    for path, items in mappings.items():
        if path and not _inside_library(path, found):
            found.append(Section(path, _dialect(items), tuple(items)))
    return found, ""


def _told(mappings: Mapping[Path, list[Item]], wanted: str) -> list[Section]:
    """The project says the dialect: the whole file's where its own keys are known ones, else that of the sections that know them."""
    library = library_of(wanted)
    if library is None:
        return [Section(path, wanted, tuple(items), True) for path, items in mappings.items()]
    known = set(library.fields) | library.removed
    counts = {
        path: sum(item.name in known for item in items if item.is_scalar) for path, items in mappings.items()
    }
    if counts[()] or not any(counts.values()):
        return [Section((), wanted, tuple(mappings[()]), True)]
    best = [path for path, count in counts.items() if count >= max(1, max(counts.values()) // 2)]
    return [
        Section(path, wanted if path in best else "plain", tuple(items), path in best)
        for path, items in mappings.items()
        if not any(path[: len(b)] == b and path != b for b in best)
    ]


def _inside_library(path: Path, found: list[Section]) -> bool:
    """Whether a mapping is the value of a library's own setting (`lr_scheduler_kwargs`, `fsdp_config`, `datasets`)."""
    for section in found:
        library = library_of(section.dialect)
        if library and path[: len(section.path)] == section.path:
            rest = path[len(section.path) :]
            if section.dialect in ("axolotl", "llamafactory") or (rest and rest[0] in library.fields):
                return True
    return False


def _dialect(items: list[Item]) -> str:
    values = {item.name: item.value for item in items}
    names = set(values)
    if "base_model" in names and any(key in names for key in _AXOLOTL_DATA) and _axolotl(values):
        return "axolotl"
    staged = str(values.get("stage")) in _STAGES or "finetuning_type" in names
    if (staged or {"template", "model_name_or_path"} <= names) and len(names & _LLAMAFACTORY) + (
        "template" in names
    ) >= _FEW:
        return "llamafactory"
    if _is_own(names):
        return "plain"
    marks = len(names & _TRL)
    return _hugging_face(names, marks)


def _hugging_face(names: set[str], marks: int) -> str:
    library = library_of("transformers")
    known = len(names & (set(library.fields) | library.removed)) if library else 0
    if len(names & _CORE) + (marks > 1) < _FEW - 1 or known < _FEW:
        return "plain"
    return "trl" if marks else "transformers"


def _axolotl(values: dict[str, Any]) -> bool:
    library = library_of("axolotl")
    known = sum(name in library.fields for name in values) if library else 0
    return known >= _FEW and known * 2 >= len(values)


def _is_own(names: set[str]) -> bool:
    """Whether some core setting goes by a name of the user's own: then their code reads the file, not a library."""
    meant = {name: synonym_of(name) for name in names if name != "per_gpu_train_batch_size"}
    return any(other in _OWN_CORE and other not in names for other in meant.values())


def _foreign(values: dict[str, Any]) -> str:
    if any(isinstance(values.get(name), dict) for name in ("fp16", "bf16")):
        return "DeepSpeed"
    if set(values) & _CORE:
        return ""
    for owner, marks in _FOREIGN.items():
        if sum(name in values for name in marks) >= (2 if owner in _TWO_NEEDED else 1):
            return owner
    return ""
