"""The runs that a config describes: usually one, several where sections give the same setting twice (`sft:` and `dpo:`)."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePath

from llmguard.configs.config import Config, Setting, as_number
from llmguard.configs.document import Path, dotted
from llmguard.configs.names import ADAPTER_SECTIONS, section_words

__all__ = ["Run", "runs_of"]

_RL = frozenset(
    "num_generations reward_funcs num_iterations kl_coef num_ppo_epochs rloo_k use_vllm reward_weights vllm_mode".split()
)
_PREFERENCE = frozenset(
    "beta desirable_weight undesirable_weight max_prompt_length rpo_alpha precompute_ref_log_probs sync_ref_model "
    "ref_model_mixup_alpha simpo_gamma cpo_alpha orpo_alpha reference_free f_divergence_type dpo_label_smoothing pref_loss".split()
)
_DISTILLATION = frozenset("teacher_model_name_or_path lmbda seq_kd".split())
_WORDS = {
    "preference": frozenset("dpo ipo kto orpo cpo simpo preference rlhf apo".split()),
    "rl": frozenset("grpo gdpo ppo rloo reinforce rl gspo ebft".split()),
    "reward": frozenset("reward rm prm".split()),
    "pretrain": frozenset("pretrain pretraining pt cpt".split()),
    "sft": frozenset("sft finetune finetuning instruct".split()),
    "distillation": frozenset("distill distillation gkd kd".split()),
}
_NAMING = (
    "stage",
    "rl",
    "method",
    "objective",
    "algorithm",
    "trainer",
    "task",
    "training_type",
    "loss",
    "mode",
    "type",
)
_PROMPT = frozenset("prompt_tuning prefix_tuning p_tuning ia3 prompttuning prefixtuning ptuning".split())


@dataclass(frozen=True)
class Run:
    """The settings of one training run, by the names our rules use; the last one given wins."""

    name: str
    settings: dict[str, Setting]
    keys: dict[str, object]
    dialect: str
    stem: str = ""

    def get(self, name: str) -> Setting | None:
        """A setting of the run, or None where the file does not make it."""
        return self.settings.get(name)

    def number(self, name: str) -> float | None:
        """A setting as a finite number; None where it is not made, or is none."""
        setting = self.settings.get(name)
        number = setting.number if setting else None
        return number if number is not None and math.isfinite(number) else None

    def is_on(self, name: str) -> bool:
        """Whether a switch is literally true."""
        setting = self.settings.get(name)
        return setting is not None and setting.value is True

    def text(self, name: str) -> str | None:
        """A setting that is text, in lower case; `no` also where YAML made it False."""
        setting = self.settings.get(name)
        if setting is None or not isinstance(setting.value, (str, bool)):
            return None
        return "no" if setting.value is False else str(setting.value).lower()

    @property
    def method(self) -> str:
        """`lora`, `full`, `prompt` (prompt tuning and its like) or empty where the file does not say."""
        said = {
            str(self.keys.get(key, "")).lower()
            for key in ("adapter", "finetuning_type", "peft_method", "peft_type", "peft", "method")
        }
        if said & _PROMPT:
            return "prompt"
        if "full" in said or self.keys.get("use_peft") is False or self.keys.get("use_lora") is False:
            return "full"
        if said & {"lora", "qlora", "dora"} or "lora_r" in self.settings or self.keys.get("use_peft") is True:
            return "lora"
        if self.dialect == "axolotl":
            return "full" if not self.keys.get("adapter") else ""
        return "lora" if self.dialect == "llamafactory" and "freeze" not in said and "oft" not in said else ""

    @property
    def objective(self) -> str:
        """`sft`, `preference`, `rl`, `reward`, `pretrain`, `distillation`, or empty where nothing tells."""
        said = [str(self.keys.get(key) or "") for key in _NAMING] + [self.name, self.stem]
        for text in said:
            words = set(re.split(r"[^a-z0-9]+", text.lower()))
            for objective, names in _WORDS.items():
                if words & names:
                    return objective
        return _told_by_keys(set(self.keys), self.settings)


def _told_by_keys(names: set[str], settings: dict[str, Setting]) -> str:
    if names & _RL:
        return "rl"
    if names & _DISTILLATION:
        return "distillation"
    if names & _PREFERENCE or "beta" in settings:
        return "preference"
    if names & {"center_rewards_coefficient", "reward_model", "process_reward_model"}:
        return "reward"
    if names & {"pretraining_dataset"}:
        return "pretrain"
    return ""


def runs_of(config: Config) -> list[Run]:
    """The runs of a config; settings outside the sections that differ hold for all of them."""
    if config.owner:
        return []
    apart = _apart(config.settings)
    if not apart:
        return [_run(config, (), list(config.settings))]
    shared = [s for s in config.settings if not any(_under(s.item.path, path) for path in apart)]
    return [
        _run(config, path, [*shared, *(s for s in config.settings if _under(s.item.path, path))])
        for path in apart
    ]


def _apart(settings: tuple[Setting, ...]) -> list[Path]:
    """The sections that give a setting which another section gives, too."""
    places: dict[str, set[Path]] = defaultdict(set)
    for setting in settings:
        places[setting.name].add(setting.item.section)
    found: dict[Path, None] = {}
    for sections in places.values():
        for path in sorted(sections, key=str) if len(sections) > 1 else ():
            others = [other for other in sections if other != path]
            depth = max(_common(path, other) for other in others)
            if len(path) > depth:
                found[path[: depth + 1]] = None
    return list(found)


def _common(a: Path, b: Path) -> int:
    same = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        same += 1
    return same


def _under(path: Path, section: Path) -> bool:
    return path[: len(section)] == section


def _run(config: Config, path: Path, settings: list[Setting]) -> Run:
    others = [
        s.path for s in config.sections if path and not _under(s.path, path) and not _under(path, s.path)
    ]
    keys: dict[str, object] = {}
    for name, value in _keys(config, path, others):
        keys.setdefault(name, value)
    stem = PurePath(config.file).stem.replace("_", " ").replace("-", " ")
    dialect = next((s.dialect for s in settings if s.dialect != "plain"), "plain")
    return Run(dotted(path).replace("_", " "), {s.name: s for s in settings}, keys, dialect, stem)


def _keys(config: Config, path: Path, others: list[Path]) -> Iterator[tuple[str, object]]:
    for item in config.document.items:
        if any(item.path[: len(other)] == other for other in others if other):
            continue
        yield item.name, item.value if item.is_scalar else ""
        words = {word for part in section_words(item.section) for word in part}
        if words & ADAPTER_SECTIONS and as_number(item.value) is not None:
            yield "use_lora", True
