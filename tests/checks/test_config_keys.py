"""Keys: slips and former names are found with the right name; people's own keys are theirs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.configs import Folder, keys, of, only

from llmguard.configs import libraries, library
from llmguard.configs.libraries import library_of
from llmguard.configs.nearest import distance, nearest, typo_of

CHECK = "every_config_key_is_known"
HUGGING_FACE = "output_dir: out\nper_device_train_batch_size: 4\nnum_train_epochs: 3\nlogging_steps: 10\n"
TRL = f"{HUGGING_FACE}dataset_text_field: text\npacking: true\n"
AXOLOTL = "base_model: a/b\ndatasets: [{path: a/b, type: alpaca}]\nsequence_len: 2048\nmicro_batch_size: 2\n"
LLAMAFACTORY = "model_name_or_path: a/b\nstage: sft\nfinetuning_type: lora\ndataset: x\ntemplate: qwen\n"


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """A folder without anything."""
    return Folder(tmp_path)


SLIPS = {
    f"{HUGGING_FACE}learning_rte: 1.0e-4\n": ("learning_rte", "learning_rate"),
    f"{HUGGING_FACE}gradient_accumulation_step: 4\n": (
        "gradient_accumulation_step",
        "gradient_accumulation_steps",
    ),
    f"{HUGGING_FACE}weigth_decay: 0.1\n": ("weigth_decay", "weight_decay"),
    f"{TRL}asistant_only_loss: true\n": ("asistant_only_loss", "assistant_only_loss"),
    f"{AXOLOTL}learning_rat: 0.0002\n": ("learning_rat", "learning_rate"),
    f"{AXOLOTL}sample_packng: true\n": ("sample_packng", "sample_packing"),
    f"{LLAMAFACTORY}cutof_len: 2048\nlora_rank: 8\n": ("cutof_len", "cutoff_len"),
}


@pytest.mark.parametrize("text", SLIPS)
def test_a_slip_is_an_error_with_the_name_that_is_meant(text: str, folder: Folder) -> None:
    """In every library's dialect, told by the file's own keys."""
    key, meant = SLIPS[text]
    finding = keys(of(folder.config(text), "error")[CHECK])[key]
    assert f"did you mean `{meant}`" in finding.message
    assert finding.where.line is not None


@pytest.mark.parametrize(
    "text",
    [
        f"{HUGGING_FACE}my_own_flag: 3\npreprocessing_num_workers: 4\ntorch_dtype: bfloat16\nmax_seq_length: 512\n",
        f"{HUGGING_FACE}data: {{path: a/b}}\nearly_stopping: {{patience: 3}}\n",
        f"{TRL}dataset_mixer: {{a/b: 1.0}}\nenv: {{WANDB_PROJECT: x}}\n",
        f"{AXOLOTL}my_plugin_option: 3\n",
    ],
)
def test_keys_of_the_projects_own_are_a_note(text: str, folder: Folder) -> None:
    """A flat file for HfArgumentParser holds other dataclasses' fields too: one note lists them, nothing more."""
    results = folder.config(text)
    assert CHECK not in of(results)
    assert all("project's own" in n.message or "is called" in n.message for n in of(results, "note")[CHECK])


def test_in_a_dialect_that_the_project_names_a_stranger_is_a_warning(folder: Folder) -> None:
    """There the user said that the library reads the file; names of other tools are errors with its own name."""
    text = f"{HUGGING_FACE}my_own_flag: 3\nlr: 1.0e-4\n"
    results = folder.config(text, config='files = ["train.yaml"]\ndialect = "transformers"')
    assert list(keys(of(results, "warning")[CHECK])) == ["my_own_flag"]
    assert "did you mean `learning_rate`" in keys(of(results, "error")[CHECK])["lr"].message


@pytest.mark.parametrize("dialect", ["auto", "transformers"])
def test_the_former_name_of_the_evaluation_strategy(dialect: str, folder: Folder) -> None:
    """`evaluation_strategy` was renamed: an error with today's name."""
    results = folder.config(
        f"{HUGGING_FACE}evaluation_strategy: epoch\n", config=f'files = ["train.yaml"]\ndialect = "{dialect}"'
    )
    finding = only(results, CHECK, key="evaluation_strategy", line=5)
    assert "`eval_strategy`" in finding.remedy


def test_former_names_of_trl(folder: Folder) -> None:
    """`max_seq_length` is `max_length` in SFTConfig today: an error where the project says trl, a warning where we guess it."""
    text = f"{TRL}max_seq_length: 2048\n"
    guessed = only(folder.config(text), CHECK, key="max_seq_length")
    assert guessed.severity.value == "warning"
    told = only(
        folder.config(text, config='files = ["train.yaml"]\ndialect = "trl"'), CHECK, key="max_seq_length"
    )
    assert told.severity.value == "error"
    assert "write `max_length` instead" in told.remedy


def test_removed_names_say_what_to_do(folder: Folder) -> None:
    """What has no other name today is to be removed, or written otherwise, with the file's own value."""
    known = library_of("transformers")
    text = f"{HUGGING_FACE}warmup_ratio: 0.03\noverwrite_output_dir: true\n"
    found = keys(of(folder.config(text)).get(CHECK, []))
    if known and "warmup_ratio" in known.removed:
        assert "`warmup_steps: 0.03`" in found["warmup_ratio"].remedy
        assert "remove the line" in found["overwrite_output_dir"].remedy
    else:
        assert found == {}


def test_the_oldest_name_of_the_batch_size_is_still_the_librarys(folder: Folder) -> None:
    """`per_gpu_train_batch_size` makes no file the user's own: it is named, with today's name, and its value is judged."""
    results = folder.config(
        "output_dir: out\nper_gpu_train_batch_size: 0\nnum_train_epochs: 3\nreport_to: none\n"
    )
    known = library_of("transformers")
    if known and "per_gpu_train_batch_size" in known.removed:
        assert "`per_device_train_batch_size`" in only(results, CHECK).remedy
    assert only(results, "every_config_value_is_in_range").where.line == 2


def test_a_nested_training_section_is_one_of_the_library(folder: Folder) -> None:
    """`training:` with the Trainer's own names is judged as the Trainer's, whatever stands beside it."""
    text = """\
        experiment: x
        data: {max_rows: 3}
        training:
          output_dir: out
          per_device_train_batch_size: 4
          num_train_epochs: 3
          gradient_accumulation_step: 8
        """
    finding = only(folder.config(text), CHECK, line=7)
    assert finding.where.key == "training.gradient_accumulation_step"


def test_a_slip_in_a_users_own_config_is_a_warning(folder: Folder) -> None:
    """Unknown keys are fine there, except one that is a letter away from a setting which is nowhere else."""
    finding = only(folder.config("epochs: 3\nlearning_rte: 1.0e-4\n"), CHECK, key="learning_rte")
    assert finding.severity.value == "warning"
    assert CHECK not in of(
        folder.config("epochs: 3\nlearning_rates: [1, 2]\nlearning_rate: 1.0e-4\nlearning_rat: x\n")
    )


@pytest.fixture
def fake_site(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> Folder:
    """Libraries that would fail when imported, in front of the installed ones."""
    for name in ("transformers", "trl", "axolotl", "llamafactory"):
        folder.write(f"site/{name}/__init__.py", f"raise RuntimeError('{name} was imported')\n")
        monkeypatch.delitem(
            sys.modules, name, raising=False
        )  # another test of this process may have imported it
    monkeypatch.syspath_prepend(str(folder.path / "site"))
    for cached in (library.folder_of, libraries.library_of):
        cached.cache_clear()
    return folder


@pytest.fixture(autouse=True)
def _fresh_caches() -> Iterator[None]:
    """What one test installs is not there for the next."""
    yield
    for cached in (library.folder_of, libraries.library_of, library._source):
        cached.cache_clear()


def test_the_installed_library_decides_without_being_imported(fake_site: Folder) -> None:
    """Its sources are read: a field that this version has is known, one that it lacks is not."""
    fields = "".join(f"    field_{n}: int = field(default={n})\n" for n in range(60))
    fake_site.write(
        "site/transformers/training_args.py",
        f'class TrainingArguments:\n    """Doc."""\n\n{fields}    output_dir: str | None = field(default=None)\n'
        "    per_device_train_batch_size: int = field(default=8)\n    num_train_epochs: float = field(default=3.0)\n"
        "    logging_steps: float = 500\n    brand_new: Literal['a'] = 'a'\n\n    def method(self):\n        inner: int = 3\n",
    )
    known = library_of("transformers")
    assert known is not None
    assert known.installed
    assert "brand_new" in known.fields
    assert "inner" not in known.fields
    assert known.fields["per_device_train_batch_size"].default == 8
    assert "learning_rate" in known.removed
    found = of(fake_site.config(f"{HUGGING_FACE}brand_new: a\nlearning_rate: 1.0e-4\n"))
    assert list(keys(found[CHECK])) == ["learning_rate"]


def test_without_a_library_its_table_says_its_version(fake_site: Folder) -> None:
    """Nothing installed: the table decides, and its version is in the message; version 4's names are known to it."""
    known = library_of("transformers")
    assert known is not None
    assert not known.installed
    finding = only(fake_site.config(f"{HUGGING_FACE}learning_rte: 1.0e-4\n"), CHECK)
    assert "transformers 5.23.0 (our table: it is not installed here)" in finding.message
    assert (
        only(fake_site.config(f"{HUGGING_FACE}evaluation_strategy: epoch\n"), CHECK).severity.value
        == "warning"
    )


def test_axolotl_and_llamafactory_as_installed(fake_site: Folder) -> None:
    """Their schemas and dataclasses are read, too."""
    fake_site.write(
        "site/axolotl/utils/schemas/config.py",
        "class Config(\n    Base,\n):\n    new_option: int | None = None\n",
    )
    fake_site.write(
        "site/llamafactory/hparams/data_args.py",
        "class DataArguments:\n    shiny: Optional[int] = field(default=None)\n",
    )
    axolotl, factory = library_of("axolotl"), library_of("llamafactory")
    assert axolotl is not None
    assert factory is not None
    assert (axolotl.installed, axolotl.fields["new_option"].optional) == (True, True)
    assert (factory.installed, factory.fields["shiny"].kinds) == (True, frozenset({"int"}))
    assert "learning_rate" in factory.fields
    assert library_of("plain") is None


@pytest.mark.needs_torch
def test_what_is_read_is_what_the_classes_have() -> None:
    """The witness: the fields read from the sources are the dataclass fields of the imported classes."""
    import dataclasses

    from transformers import TrainingArguments

    known = library_of("transformers")
    assert known is not None
    assert set(known.fields) == {f.name for f in dataclasses.fields(TrainingArguments) if f.init}
    written_out = [
        f for f in dataclasses.fields(TrainingArguments) if known.fields[f.name].default is not None
    ]
    assert len(written_out) > 40
    assert {f.name: f.default for f in written_out} == {
        f.name: known.fields[f.name].default for f in written_out
    }


@pytest.mark.needs_torch
def test_what_is_read_of_trl_is_what_its_classes_have() -> None:
    """Every field of SFTConfig and DPOConfig is known, with the default of SFTConfig."""
    import dataclasses

    trl = pytest.importorskip("trl")
    known = library_of("trl")
    assert known is not None
    for config in (trl.SFTConfig, trl.DPOConfig, trl.GRPOConfig, trl.ModelConfig):
        assert {f.name for f in dataclasses.fields(config) if f.init} <= set(known.fields)
    default = next(f.default for f in dataclasses.fields(trl.SFTConfig) if f.name == "max_length")
    assert known.fields["max_length"].default == default


def test_annotations_in_every_manner(folder: Folder) -> None:
    """Quoted, optional, unions, literals, containers: each becomes the kinds that it admits."""
    file = folder.write(
        "a.py",
        """\
        class A:
            a: "int | None" = None
            b: Optional[Union[float, str]] = None
            c: Literal["x", True, 3] = "x"
            d: Annotated[bool, Field()] = False
            e: list[int] = field(default_factory=list)
            f: Dict[str, int] = None
            g: dict | str | None = field(default=None, metadata={"help": "default=3"})
            h: torch.dtype = None
            i: "not a type at all(" = 1
            _hidden: int = 1
            j = 3
        """,
    )
    found = library.read_class_fields(file)
    assert found == library.scan_class_fields(file)
    assert {n: sorted(f.kinds) for n, f in found.items()} == {
        "a": ["int"], "b": ["float", "text"], "c": ["bool", "other", "text"], "d": ["bool"], "e": ["list"],
        "f": ["mapping"], "g": ["mapping", "text"], "h": ["other"], "i": ["other"],
    }  # fmt: skip
    assert (found["a"].optional, found["d"].optional, found["f"].optional) == (True, False, True)
    assert library.read_class_fields(folder.path / "gone.py") == {}
    assert library.read_class_fields(folder.write("b.py", "class (")) == {}
    assert library.folder_of("no_such_package_here") is None
    assert library.version_of("no-such-distribution") == "unknown"


def test_a_slip_is_near_and_long_enough() -> None:
    """One edit in six letters, two in ten; shorter names are never guessed."""
    assert typo_of("learning_rte", ["learning_rate"]) == "learning_rate"
    assert typo_of("laerning_rate", ["learning_rate"]) == "learning_rate"
    assert typo_of("lora_b", ["lora_r"]) == "lora_r"
    assert typo_of("top_k", ["top_p"]) is None
    assert typo_of("epoch", ["epochs"]) is None
    assert typo_of("max_steps", ["max_length"]) is None
    assert typo_of("dataset_names", ["dataset_num_proc"]) is None
    assert [distance("abc", other) for other in ("abc", "acb", "abd", "abcd", "xyz")] == [0, 1, 1, 1, 3]
    assert nearest("cosin", ["cosine", "linear"]) == "cosine"
    assert nearest("zzz", ["cosine"]) is None


def test_a_key_with_a_range_of_its_own_is_no_slip(folder: Folder) -> None:
    """Whoever wrote its range into the project file means it, however near a known name it is."""
    text = "epochs: 3\nbatch_size: 4\nlearning_rte: 0.5\n"
    assert CHECK in of(folder.config(text))
    assert CHECK not in of(folder.config(text, **{"config.range": "learning_rte = [0, 1]"}))
