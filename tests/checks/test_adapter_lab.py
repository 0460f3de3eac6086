"""Real adapters on real, tiny models: what headers say, and what a forward pass says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from llmguard.auditing import Audit
from llmguard.checks.adapter import adapter_belongs_to_its_base, adapter_files_are_whole, adapter_is_trained
from llmguard.checks.adapter_effect import adapter_changes_the_model
from llmguard.evidence.adapter import read_adapter
from llmguard.evidence.adapter_effect import Effect
from llmguard.evidence.model import read_model
from llmguard.findings import Findings
from llmguard.project import load_project

pytestmark = [
    pytest.mark.needs_torch,
    pytest.mark.filterwarnings(
        "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
    ),  # peft calls it on any model
]


def names(found: Findings) -> list[str]:
    """Severities."""
    return [f.severity.value for f in found]


@pytest.fixture(scope="module")
def models() -> Any:
    """The lab, built by whoever needs it first."""
    from llmguard_core.lab import lab

    return lab()


def effect(model: Path, adapter: Path, named: Path | None = None) -> Effect:
    """What the child finds, in this process."""
    from llmguard.collect.effect import effect_of

    request = {"model": str(model), "adapter": str(adapter), "named": str(named) if named else None}
    found = json.loads(json.dumps(effect_of(request)))
    error = found.pop("error", None)
    return Effect("adapter", "base", found, error["message"] if error else "", str(named or ""))


def test_headers_tell_the_lab_s_adapters_apart(models: Any) -> None:
    """The trained one passes, the broken one is not trained, the foreign one does not belong; all files are whole."""
    base = read_model(str(models.base), "models/base")
    good, broken, foreign = (
        read_adapter(p) for p in (models.adapter, models.broken_adapter, models.foreign_adapter)
    )
    assert [len(adapter_files_are_whole(a)) for a in (good, broken, foreign)] == [0, 0, 0]
    assert names(adapter_is_trained(good)) == names(adapter_is_trained(foreign)) == []
    assert names(adapter_is_trained(broken)) == ["error"]
    assert names(adapter_belongs_to_its_base(good, base)) == []
    assert names(adapter_belongs_to_its_base(foreign, base)) == ["error"]
    assert names(adapter_belongs_to_its_base(foreign, read_model(str(models.foreign_base), "x"))) == []


def test_a_model_with_the_same_weights_under_another_name_is_a_note(models: Any) -> None:
    """`base-with-template` holds the weights of `base`; `chat` was trained further, and does not."""
    good = read_adapter(models.adapter)
    assert names(adapter_belongs_to_its_base(good, read_model(str(models.base_with_template), "m"))) == [
        "note"
    ]
    (found,) = adapter_belongs_to_its_base(good, read_model(str(models.chat), "m"))
    assert "are not those of this model" in found.message


def test_a_trained_adapter_changes_the_logits(models: Any) -> None:
    """On its base: nothing is said, six texts were looked at."""
    found = adapter_changes_the_model(effect(models.base, models.adapter))
    assert not found
    assert found.looked_at == 6


def test_an_adapter_of_zeros_changes_nothing(models: Any) -> None:
    """The logits are the same to the last bit."""
    (found,) = adapter_changes_the_model(effect(models.base, models.broken_adapter))
    assert (
        "with the adapter on and off the logits after 6 texts are the same to the last bit" in found.message
    )
    assert "stays in 6 of 6" in found.message
    assert found.severity.value == "error"


def test_an_adapter_of_another_base_cannot_be_put_on(models: Any) -> None:
    """What PEFT says is told in one line."""
    (found,) = adapter_changes_the_model(effect(models.base, models.foreign_adapter))
    assert "the adapter cannot be put on 'base'" in found.message
    assert "size mismatch" in found.message.lower() or "lora" in found.message.lower()


def test_another_base_of_the_same_shapes_is_an_error(models: Any) -> None:
    """The adapter runs on the chat model, whose logits are not those of the base that it names; on its own base nothing is said."""
    (found,) = adapter_changes_the_model(effect(models.chat, models.adapter, named=models.base))
    assert "and the project's model 'base' are not the same: their logits differ" in found.message
    assert not adapter_changes_the_model(effect(models.base_with_template, models.adapter, named=models.base))


def test_an_adapter_of_nan_is_an_error(models: Any, tmp_path: Path) -> None:
    """NaN in one B matrix reaches every logit."""
    from safetensors.numpy import load_file, save_file

    folder = shutil.copytree(models.adapter, tmp_path / "adapter", copy_function=shutil.copyfile)
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    name = next(n for n in tensors if "lora_B" in n)
    tensors[name] = tensors[name] * float("nan")
    save_file(tensors, file, {"format": "pt"})
    found = adapter_changes_the_model(effect(models.base, folder))
    assert "with the adapter on the logits are NaN or infinite" in found[0].message


def test_an_adapter_whose_keys_do_not_match_is_told(models: Any, tmp_path: Path) -> None:
    """Keys of a model wrapped twice: PEFT warns, the logits stay, and both are told."""
    from safetensors.numpy import load_file, save_file

    folder = shutil.copytree(models.adapter, tmp_path / "adapter", copy_function=shutil.copyfile)
    file = folder / "adapter_model.safetensors"
    save_file(
        {
            n.replace("base_model.model.", "base_model.model.base_model.model.", 1): t
            for n, t in load_file(file).items()
        },
        file,
        {"format": "pt"},
    )
    found = adapter_changes_the_model(effect(models.base, folder))
    assert names(found) == ["error", "warning"]
    assert "PEFT loads the adapter in part" in found[1].message


def test_from_the_project_file_in_a_child(models: Any, tmp_path: Path) -> None:
    """The check runs under `sentinel`, in a supervised child."""
    text = f'[model]\npath = "{models.base}"\nadapter = "{models.broken_adapter}"\n'
    (tmp_path / "llmguard.toml").write_text(text, "utf-8")
    audit = Audit(load_project(tmp_path / "llmguard.toml", environ={}))
    entry = audit.registry.get("adapter_changes_the_model")
    try:
        result = audit.run(entry)
    finally:
        audit.evidence.close()
    assert entry.tier == "sentinel"
    assert result.outcome.value == "failed", result.reason
    assert "the same to the last bit" in result.findings[0].message
    assert result.looked_at == 6


def test_a_folder_without_weights_is_an_error_for_a_forward_pass(models: Any, tmp_path: Path) -> None:
    """A config alone is fine for preflight; nothing can be put on it."""
    shutil.copyfile(models.base / "config.json", tmp_path / "config.json")
    (found,) = adapter_changes_the_model(effect(tmp_path, models.adapter))
    assert found.severity.value == "error"
    assert "model.safetensors" in found.message
