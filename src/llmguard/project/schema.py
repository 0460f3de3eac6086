"""The project file as it is written: every key optional, unknown keys rejected."""

from __future__ import annotations

import datetime as dt
import difflib
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

__all__ = ["FORMATS", "FormatTable", "Prompt", "Schema", "fields_of", "parse_size"]

FORMATS = ("chat-template", "chatml", "zephyr", "alpaca", "llama3", "instruction-response-end", "completion")


def _one_or_many(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _reference(value: object) -> object:
    if isinstance(value, str) and value.partition(":")[0] and value.partition(":")[2].isidentifier():
        return value
    raise ValueError("expected 'package.module:function'")


Paths = Annotated[list[str], BeforeValidator(_one_or_many)]
Reference = Annotated[str, BeforeValidator(_reference)]
Share = Annotated[float, Field(gt=0, lt=1)]


class Table(BaseModel):
    """A table of the project file; `extra="forbid"` makes a misspelt key an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


class Model(Table):
    """`[model]`: which model, what kind, its tokenizer and its adapter."""

    path: str | None = None
    kind: Literal["base", "chat"] | None = None
    tokenizer: str | None = None
    adapter: str | None = None
    trust_remote_code: bool = False


class FormatTable(Table):
    """A format of the user's own: `{prompt}` and `{response}` are the mapped columns, `end` ends a response."""

    prompt: str
    response: str = "{response}"
    end: str = ""

    @field_validator("prompt")
    @classmethod
    def _has_its_slot(cls, value: str) -> str:
        if "{prompt}" not in value:
            raise ValueError("expected the text around a prompt, with {prompt} in it")
        return value


def _format(value: object) -> object:
    if isinstance(value, str) and value not in FORMATS:
        near = difflib.get_close_matches(value, FORMATS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(
            f"{hint}expected one of {', '.join(FORMATS)}, or a table {{prompt=, response=, end=}}"
        )
    return FormatTable.model_validate(value) if isinstance(value, dict) else value


class Prompt(Table):
    """`[prompt]`: the training side's format and the generation side's builder."""

    format: Annotated[str | FormatTable | None, BeforeValidator(_format)] = None
    build: Reference | None = None
    add_special_tokens: bool = True
    system: str | None = None


class Data(Table):
    """`[data]`: splits, columns, already tokenised data."""

    train: Paths = []
    validation: Paths = []
    test: Paths = []
    prompt: str | None = None
    response: str | None = None
    messages: str | None = None
    chosen: str | None = None
    rejected: str | None = None
    encoded: str | None = None
    group: str | None = None


class Pipeline(Table):
    """`[pipeline]`: the user's own encode, collator, trainer, generation."""

    encode: Reference | None = None
    collate: Reference | None = None
    trainer: Reference | None = None
    generate: Reference | None = None
    endpoint: str | None = None
    max_length: Annotated[int, Field(ge=1)] | None = None
    train_on: Literal["responses", "last", "all"] = "responses"
    dry_run: bool = True


class Generation(Table):
    """`[generation]`: how `generate` decodes, where it is not greedy."""

    max_new_tokens: Annotated[int, Field(ge=1)] | None = None
    stop: Paths = []
    temperature: Annotated[float, Field(ge=0)] = 0.0


class Config(Table):
    """`[config]`: training configs to validate, their dialect and the ranges allowed."""

    files: Paths = []
    dialect: Literal["auto", "transformers", "trl", "axolotl", "llamafactory", "plain"] = "auto"
    range: dict[str, tuple[float, float]] = {}


class Evaluation(Table):
    """`[evaluation]`: result files by model, and how they are compared."""

    results: dict[str, str] = {}
    alpha: Share = 0.05
    smallest_effect: Share = 0.05
    id: str = "id"
    score: str | None = None


class Environment(Table):
    """`[environment]`: where the run writes, what it needs, which sources it is made of."""

    output_dir: str | None = None
    cache_dirs: Paths = []
    checkpoint_size: int | str | None = None
    requirements: Paths = []
    sources: Paths = []
    remote: Paths = []
    import_timeout: Annotated[float, Field(gt=0)] = 30.0
    gpu: bool = False
    gpu_name: str | None = None
    gpu_count: Annotated[int, Field(gt=0)] | None = None
    gpu_memory: int | str | None = None

    @field_validator("checkpoint_size", "gpu_memory")
    @classmethod
    def _size(cls, value: int | str | None) -> int | None:
        return value if value is None or isinstance(value, int) else parse_size(value)


class Queue(Table):
    """`[queue]`: the folder of a queue of training files."""

    directory: str | None = None


class Accept(Table):
    """A finding someone decided to live with: needs a reason, ends by itself."""

    reason: Annotated[str, Field(min_length=3)]
    until: dt.date | None = None


class Schema(Table):
    """The whole file."""

    model: Model = Model()
    prompt: Prompt = Prompt()
    data: Data = Data()
    pipeline: Pipeline = Pipeline()
    generation: Generation = Generation()
    config: Config = Config()
    evaluation: Evaluation = Evaluation()
    environment: Environment = Environment()
    queue: Queue = Queue()
    accept: dict[str, Accept] = {}


def parse_size(text: str) -> int:
    """`"2 GB"`, `"512 MiB"` or `"1000000"` in bytes.

    Raises:
        ValueError: no number, or an unknown unit.
    """
    number = text.strip()
    digits = "".join(c for c in number if c.isdigit() or c == ".")
    unit = number[len(digits) :].strip().lower() if number.startswith(digits) else "?"
    factors = {
        "": 1,
        "b": 1,
        "kb": 10**3,
        "mb": 10**6,
        "gb": 10**9,
        "tb": 10**12,
        "kib": 2**10,
        "mib": 2**20,
        "gib": 2**30,
        "tib": 2**40,
    }
    try:
        return int(float(digits) * factors[unit])
    except (KeyError, ValueError):
        raise ValueError("expected a size such as '2 GB' or '512 MiB'") from None


def fields_of(path: tuple[Any, ...]) -> list[str]:
    """The keys that the table at `path` of the project file knows (for "did you mean")."""
    table: Any = Schema
    for part in path:
        info = getattr(table, "model_fields", {}).get(part)
        table = info.annotation if info else None
    return sorted(getattr(table, "model_fields", {}))
