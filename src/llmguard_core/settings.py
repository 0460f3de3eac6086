"""The settings of a run: what each may be, and why. Read from a file by `llmguard_core.config.load_config`, or made in code.

Numbers must be numbers and switches switches: "1e-4" as text, None for a rate and 0 for a batch are refused. Ranges and their
reasons are those of `llmguard.configs.rules`, so that this pipeline and the checks on other people's configs say the same.
"""

from __future__ import annotations

import glob
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic.fields import FieldInfo

from llmguard.configs.places import is_there, near_names
from llmguard.configs.rules import RULES, Rule
from llmguard.project.schema import FormatTable
from llmguard.project.schema import Prompt as PromptTable

__all__ = [
    "DataSettings",
    "DpoSettings",
    "EvaluationSettings",
    "GenerationSettings",
    "LoraSettings",
    "ModelSettings",
    "PromptSettings",
    "QueueSettings",
    "RunConfig",
    "TrainSettings",
    "rule_of",
]

USUAL_RATES = {"full": 2e-5, "lora": 2e-4, "dpo": 5e-6}
"""Learning rates where a run names none (TRL's and PEFT's examples; DPO: Rafailov et al. 2023 and Zephyr use 5e-7 to 5e-6)."""
LOWEST_RATE = 1e-8
"""Preference training goes below what other training needs; the rule of the run's method holds the rest."""
SHORTEST = 8
"""Tokens: fewer hold no prompt, response and terminator."""

Dtype = Literal["auto", "float32", "bfloat16", "float16"]


def _in_range(name: str, rule: Rule, value: Any) -> Any:
    if value is not None and not rule.holds(value):
        raise ValueError(f"it is {value:g}, outside {rule.range}: {rule.why}")
    return value


def ruled(name: str, **changes: float) -> AfterValidator:
    """The range of a setting, and its reason, from the rules that configs are checked by."""
    return AfterValidator(partial(_in_range, name, replace(RULES[name], **changes)))  # type: ignore[arg-type]  # bounds are floats


def rule_of(field: FieldInfo) -> str:
    """The rule that a field is checked by; empty where it has a range of its own."""
    found = (m.func for m in field.metadata if isinstance(m, AfterValidator))
    return next((f.args[0] for f in found if isinstance(f, partial) and f.func is _in_range), "")


def _folder(info: ValidationInfo) -> Path:
    return Path((info.context or {}).get("folder", ""))


def _local(value: Path, info: ValidationInfo) -> Path:
    return _folder(info) / value.expanduser()


def _model(value: str | None, info: ValidationInfo) -> str | None:
    """A folder, found from the config's own folder; what can only be a path and is not there is a mistake; else a hub id.

    Where MODEL_PATH names the model, the config's own may be missing.
    """
    if value is None:
        return value
    place = _local(Path(value), info)
    if is_there(place):
        return str(place)
    elsewhere = info.field_name == "path" and (info.context or {}).get("elsewhere")
    if value.startswith(("/", ".", "~")) and not elsewhere:
        raise ValueError(f"there is no model at {place}{_near(place)}")
    return value


def _files(value: object, info: ValidationInfo) -> object:
    """A file, a pattern, or a list of both, as the files there are."""
    names = [value] if isinstance(value, (str, Path)) else value
    if not isinstance(names, list):
        return names
    return [file for name in names for file in _matching(name, info)]


def _matching(name: object, info: ValidationInfo) -> list[object]:
    if not isinstance(name, (str, Path)):
        return [name]
    place = _local(Path(name), info)
    found = sorted(glob.glob(str(place), recursive=True)) if glob.has_magic(str(name)) else [str(place)]  # noqa: PTH207  # patterns may be absolute
    if not found or not is_there(Path(found[0])):
        raise ValueError(f"there is no such file: {place}{_near(place)}")
    return [Path(file) for file in found]


def _near(place: Path) -> str:
    near = near_names([place])
    return f"; did you mean {near[0]}?" if near else ""


def _format(value: object) -> object:
    """A format as the project file takes it, so that both say the same."""
    try:
        return PromptTable(format=value).format  # type: ignore[arg-type]  # judged by the table itself
    except ValidationError as bad:
        raise ValueError(bad.errors()[0]["msg"].removeprefix("Value error, ")) from None


Local = Annotated[Path, Field(strict=False), AfterValidator(_local)]
"""A path, from the config's folder on."""
Files = Annotated[list[Path], BeforeValidator(_files)]
Format = Annotated[str | FormatTable | None, BeforeValidator(_format)]
ModelName = Annotated[str | None, AfterValidator(_model)]
_ONE_OR_MANY = BeforeValidator(lambda value: [value] if isinstance(value, str) else value)
Texts = Annotated[list[str], _ONE_OR_MANY]
Metric = Literal["exact_match", "contains", "token_f1", "gsm8k"]
Count = Annotated[int, Field(ge=1)] | None
FileName = Annotated[str, Field(pattern=r"^[^/\\.][^/\\]*$")]
"""Results are written to a file of this name."""
MaxSteps = Annotated[Count, BeforeValidator(lambda value: None if value == -1 else value)]
"""-1 is how transformers writes "not set"."""


class Section(BaseModel):
    """A section: unknown keys are refused, numbers are never made of text, and nothing is changed afterwards."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        validate_default=True,
        allow_inf_nan=False,
        protected_namespaces=(),
    )


class ModelSettings(Section):
    """`model`: a folder or hub id (MODEL_PATH in the environment wins), what kind it is, and how it is loaded."""

    path: ModelName = None
    kind: Literal["base", "chat"] = "base"
    tokenizer: ModelName = None
    adapter: ModelName = None
    dtype: Dtype = "auto"
    device: str | None = None
    device_map: str | dict[str, Any] | None = None


class DataSettings(Section):
    """`data`: files (json, jsonl, parquet, a saved `datasets` folder) and their columns; guessed where none is named."""

    train: Files = []
    validation: Files = []
    test: Files = []
    prompt: str | None = None
    response: str | None = None
    messages: str | None = None
    chosen: str | None = None
    rejected: str | None = None
    group: str | None = None


class PromptSettings(Section):
    """`prompt`: the format of training text and generation prompt, and the few-shot examples of base models' evaluation."""

    format: Format = None
    few_shot: Annotated[int, Field(ge=0, le=16)] = 0
    examples: Files = Field(default_factory=list)

    @property
    def table(self) -> str | dict[str, str] | None:
        """The format as `llmguard_core.formats.format_for` takes it: a name, a table of texts, or None for the model's own."""
        return self.format.model_dump() if isinstance(self.format, FormatTable) else self.format


class TrainSettings(Section):
    """`train`: how weights change. Lengths in tokens, batches in rows a device, `*_steps` in optimizer steps."""

    output_dir: Local = Path("out")
    method: Literal["full", "lora"] = "lora"
    learning_rate: Annotated[float, ruled("learning_rate", low=LOWEST_RATE)] = USUAL_RATES["lora"]
    epochs: Annotated[float, ruled("num_train_epochs")] = 1.0
    max_steps: MaxSteps = None
    batch_size: Annotated[int, ruled("per_device_train_batch_size")] = 8
    eval_batch_size: Annotated[int | None, ruled("per_device_eval_batch_size")] = None
    accumulation: Annotated[int, ruled("gradient_accumulation_steps")] = 1
    warmup_ratio: Annotated[float, ruled("warmup_ratio")] = 0.03
    warmup_steps: Annotated[int, Field(ge=0)] | None = None
    scheduler: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "cosine"
    optimizer: Literal[
        "adamw_torch", "adamw_torch_fused", "sgd", "adafactor", "adamw_8bit", "paged_adamw_8bit"
    ] = "adamw_torch"
    weight_decay: Annotated[float, ruled("weight_decay")] = 0.0
    grad_clip: Annotated[float, ruled("max_grad_norm")] = 1.0
    max_length: Annotated[int, Field(ge=SHORTEST, le=2**20)] = 1024
    packing: bool = False
    train_on: Literal["responses", "last", "all"] = "responses"
    overflow: Literal["left", "drop", "error"] = "left"
    dtype: Dtype = "auto"
    gradient_checkpointing: bool = False
    seed: Annotated[int, ruled("seed")] = 42
    logging_steps: Annotated[int, Field(ge=1)] = 10
    eval_steps: Count = None
    save_steps: Count = None
    save_total_limit: Count = 3
    early_stopping: Count = None
    sample_steps: Count = None
    samples: Annotated[int, Field(ge=1, le=64)] = 4
    workers: Annotated[int, ruled("dataloader_num_workers")] = 0
    hang_timeout: Annotated[float, Field(gt=0)] = 1800.0

    @model_validator(mode="before")
    @classmethod
    def _usual_rate(cls, given: Any) -> Any:
        if not isinstance(given, dict) or "learning_rate" in given:
            return given
        return {**given, "learning_rate": USUAL_RATES.get(str(given.get("method", "lora")), 2e-5)}


class LoraSettings(Section):
    """`lora`: the adapter of `method: lora`."""

    rank: Annotated[int, ruled("lora_r")] = 16
    alpha: Annotated[float, ruled("lora_alpha")] = 32.0
    dropout: Annotated[float, ruled("lora_dropout")] = 0.0
    targets: Texts = ["all-linear"]
    rslora: bool = False


class DpoSettings(Section):
    """`dpo`: preference training against the model as it was."""

    beta: Annotated[float, Field(gt=0, le=5)] = 0.1
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    loss: Literal["sigmoid", "ipo", "hinge", "robust"] = "sigmoid"


class EvaluationSettings(Section):
    """`evaluation`: which models answer which items, how answers are judged, and how results are compared."""

    models: dict[FileName, ModelSettings] = {}
    items: Files = []
    metrics: Annotated[list[Metric], _ONE_OR_MANY] = ["exact_match"]
    limit: Count = None
    output_dir: Local = Path("evaluation")
    results: dict[str, Local] = {}
    id: str = "id"
    score: str | None = None
    group: str | None = None
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.05
    smallest_effect: Annotated[float, Field(gt=0, lt=1)] = 0.05


class GenerationSettings(Section):
    """`generation`: how answers are decoded; greedy unless a temperature is given."""

    max_new_tokens: Annotated[int, Field(ge=1)] = 64
    temperature: Annotated[float, Field(ge=0, le=5)] = 0.0
    stop: Texts = []
    batch_size: Count = None
    seed: Annotated[int, ruled("seed")] = 0


class QueueSettings(Section):
    """`queue`: a folder of training files; durations in seconds."""

    directory: Local | None = None
    attempts: Annotated[int, Field(ge=1, le=20)] = 3
    backoff: Annotated[float, Field(ge=0)] = 60.0
    poll: Annotated[float, Field(gt=0)] = 5.0
    ageing: Annotated[float, Field(gt=0)] = 3600.0


class RunConfig(Section):
    """A whole run; every section may be left out where a command does not need it."""

    model: ModelSettings = ModelSettings()
    data: DataSettings = DataSettings()
    prompt: PromptSettings = PromptSettings()
    train: TrainSettings = TrainSettings()
    lora: LoraSettings = LoraSettings()
    dpo: DpoSettings = DpoSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    generation: GenerationSettings = GenerationSettings()
    queue: QueueSettings = QueueSettings()

    @model_validator(mode="before")
    @classmethod
    def _every_section(cls, given: Any) -> Any:
        """A section that is left out is read like an empty one: its paths start from the config's folder, too."""
        return {**{name: {} for name in cls.model_fields}, **given} if isinstance(given, dict) else given
