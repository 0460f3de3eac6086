"""How a config fits its model: number format, context, the project's length limit, the scale of the adapter."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.configs import Folder, of, only

from llmguard.configs.libraries import library_of

HEAD = "output_dir: out\nlr_scheduler_type: linear\nreport_to: none\nlogging_steps: 10\n"


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """A folder with two models: one in bfloat16 with a context of 2,048, one that says nothing."""
    made = Folder(tmp_path)
    made.write("model/config.json", json.dumps({"torch_dtype": "bfloat16", "max_position_embeddings": 2048}))
    made.write("silent/config.json", "{}")
    return made


class TestPrecision:
    """`precision_settings_agree`."""

    CHECK = "precision_settings_agree"

    def test_both_formats(self, folder: Folder) -> None:
        """The Trainer refuses the pair."""
        finding = only(folder.config(f"{HEAD}bf16: true\nfp16: true\n"), self.CHECK, key="fp16")
        assert finding.severity.value == "error"

    @pytest.mark.parametrize(
        "lines", ["model_name_or_path: model\n", "torch_dtype: bfloat16\n", "dtype: torch.bfloat16\n"]
    )
    def test_fp16_for_bfloat16_weights(self, lines: str, folder: Folder) -> None:
        """By the model's config.json, or by the config itself."""
        finding = only(folder.config(f"{HEAD}fp16: true\n{lines}"), self.CHECK, key="fp16")
        assert finding.severity.value == "warning"
        assert "65,504" in finding.message

    def test_by_the_projects_model(self, folder: Folder) -> None:
        """Where the config names no model, the project's is meant."""
        assert self.CHECK in of(folder.config(f"{HEAD}fp16: true\n", model='path = "model"'))

    @pytest.mark.parametrize(
        "lines",
        ["bf16: true\nmodel_name_or_path: model\n", "fp16: true\nmodel_name_or_path: silent\n", "fp16: false\nbf16: true\n",
         "fp16: true\ntorch_dtype: float16\n", "fp16: true\nmodel_name_or_path: a/b\n", "fp16: true\ndtype: auto\n"],
    )  # fmt: skip
    def test_formats_that_agree(self, lines: str, folder: Folder) -> None:
        """bf16 for bfloat16, fp16 for what is not, unknown models."""
        assert self.CHECK not in of(folder.config(f"{HEAD}{lines}"))


class TestContext:
    """`max_length_fits_the_model_context`."""

    CHECK = "max_length_fits_the_model_context"

    def test_rows_longer_than_the_context(self, folder: Folder) -> None:
        """Length, context, and where the context is said."""
        finding = only(
            folder.config(f"{HEAD}model_name_or_path: model\nmax_seq_length: 4096\n"),
            self.CHECK,
            key="max_seq_length",
        )
        assert finding.severity.value == "error"
        assert "4096" in finding.message
        assert "2,048 tokens" in finding.message
        assert "max_position_embeddings" in finding.message

    @pytest.mark.parametrize(
        ("said", "context"),
        [({"n_positions": 1024}, 1024), ({"text_config": {"max_position_embeddings": 512}}, 512),
         ({"max_position_embeddings": 2048, "rope_scaling": {"factor": 4.0, "original_max_position_embeddings": 2048}}, 8192)],
    )  # fmt: skip
    def test_contexts_as_models_say_them(self, said: dict[str, object], context: int, folder: Folder) -> None:
        """Other names, nested configs, a rope scaling that is the model's own."""
        folder.write("model/config.json", json.dumps(said))
        text = "epochs: 3\nmodel_path: ./model\nmax_length: {}\n"
        assert self.CHECK not in of(folder.config(text.format(context)))
        assert self.CHECK in of(folder.config(text.format(context + 1)))

    def test_a_cached_hub_model(self, folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
        """A hub model's config.json is read from the cache."""
        folder.write(
            "hub/models--a--b/snapshots/123/config.json", json.dumps({"max_position_embeddings": 512})
        )
        monkeypatch.setenv("HF_HUB_CACHE", str(folder.path / "hub"))
        assert self.CHECK in of(folder.config("epochs: 3\nmodel_name: a/b\nmax_length: 1024\n"))

    @pytest.mark.parametrize(
        "lines",
        ["model_name_or_path: model\nmax_length: 2048\n", "model_name_or_path: silent\nmax_length: 9000\n",
         "model_name_or_path: model\nmax_length: 4096\nrope_scaling: yarn\n", "model_name_or_path: model\nmax_length: null\n",
         "model_name_or_path: gone/model\nmax_length: 9000\n"],
    )  # fmt: skip
    def test_lengths_that_fit_or_are_stretched_on_purpose(self, lines: str, folder: Folder) -> None:
        """At the context, unknown contexts, rope scaling by the config."""
        assert self.CHECK not in of(folder.config(f"{HEAD}{lines}"))

    def test_a_broken_model_config_breaks_nothing(self, folder: Folder) -> None:
        """That is another check's finding."""
        for text in ("{", "[1]", '{"max_position_embeddings": "many"}'):
            folder.write("model/config.json", text)
            assert self.CHECK not in of(folder.config("epochs: 3\nmodel_path: ./model\nmax_length: 4096\n"))


class TestProjectLength:
    """`max_length_agrees_with_the_project`."""

    CHECK = "max_length_agrees_with_the_project"
    LIMIT = "max_length = 512"

    def test_two_limits(self, folder: Folder) -> None:
        """1,024 in the config, 512 in the project file: an error, with both."""
        finding = only(
            folder.config("epochs: 3\ncutoff_len: 1024\n", pipeline=self.LIMIT), self.CHECK, key="cutoff_len"
        )
        assert finding.severity.value == "error"
        assert "1024" in finding.message
        assert "512" in finding.message

    def test_one_of_several_configs_is_a_warning(self, folder: Folder) -> None:
        """The project file knows one limit, several configs may have their own."""
        folder.write("a.yaml", "epochs: 3\nmax_length: 512\n")
        folder.write("b.yaml", "epochs: 3\nmax_length: 256\n")
        folder.project(config='files = ["a.yaml", "b.yaml"]', pipeline=self.LIMIT)
        found = of({r.id: r for r in folder.results().values()})
        assert [f.severity.value for f in found[self.CHECK]] == ["warning"]

    def test_one_limit(self, folder: Folder) -> None:
        """Equal, or said once."""
        same = folder.config("epochs: 3\nmax_length: 512\n", pipeline=self.LIMIT)[self.CHECK]
        assert (same.outcome.value, same.looked_at) == ("passed", 2)
        assert self.CHECK not in of(folder.config("epochs: 3\n", pipeline=self.LIMIT))
        skipped = folder.config("epochs: 3\nmax_length: 512\n")[self.CHECK]
        assert skipped.outcome.value == "skipped"
        assert "max_length" in skipped.reason

    def test_the_trainers_default_cuts_without_a_word(self, folder: Folder) -> None:
        """A TRL config without max_length is cut at the trainer's default, not where the project says."""
        known = library_of("trl")
        if known is None or not known.installed:
            pytest.skip("trl is not installed: nobody knows its default")
        text = f"{HEAD}per_device_train_batch_size: 4\nassistant_only_loss: true\n"
        default = known.fields["max_length"].default
        finding = only(folder.config(text, pipeline=self.LIMIT), self.CHECK, key="max_length")
        assert f"default of {default} tokens" in finding.message
        assert self.CHECK not in of(folder.config(text, pipeline=f"max_length = {default}"))


class TestScaling:
    """`adapter_scaling_is_moderate`."""

    CHECK = "adapter_scaling_is_moderate"

    @pytest.mark.parametrize(
        "lines",
        ["lora_r: 4\nlora_alpha: 512\n", "lora_r: 1024\nlora_alpha: 8\n", "lora: {r: 1, alpha: 100}\n"],
    )
    def test_enormous_and_vanishing_scales(self, lines: str, folder: Folder) -> None:
        """128 and 1/128."""
        assert only(folder.config(f"epochs: 3\n{lines}"), self.CHECK).severity.value == "warning"

    @pytest.mark.parametrize(
        "lines",
        ["lora_r: 8\nlora_alpha: 16\n", "lora_r: 64\nlora_alpha: 16\n", "lora_r: 256\nlora_alpha: 16\n", "lora_r: 1\nlora_alpha: 32\n",
         "lora_r: 1024\nlora_alpha: 8\nuse_rslora: true\n", "lora_r: 8\n"],
    )  # fmt: skip
    def test_scales_that_people_use(self, lines: str, folder: Folder) -> None:
        """Twice the rank, QLoRA's 16 for 64, rank-stabilised scaling."""
        assert self.CHECK not in of(folder.config(f"epochs: 3\n{lines}"))
