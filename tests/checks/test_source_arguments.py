"""Training arguments that are written in code: judged by the rules of the configs, where they can be told for certain."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.configs import Folder, keys, of

import llmguard
from llmguard.configs.libraries import library_of
from llmguard.sources.calls import calls_of, constants_of, imported_names
from llmguard.sources.read import read_sources
from llmguard.sources.trainers import constructor_arguments

HEAD = "from transformers import TrainingArguments\nfrom trl import SFTConfig, DPOConfig\nfrom peft import LoraConfig\nimport trl\n"


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """A folder without anything."""
    return Folder(tmp_path)


def found(folder: Folder, text: str, *severities: str, **tables: str) -> dict[str, str]:
    """Key -> message of what the check says about a source file."""
    folder.write("train.py", HEAD + text)
    folder.project(**{"config": "", "environment": 'sources = ["train.py"]', **tables})
    findings = of(folder.results(["source"], without=["attributes_exist"]), *severities).get(
        "training_arguments_are_valid", []
    )
    return {key: finding.message for key, finding in keys(findings).items()}


BAD = {
    "TrainingArguments('out', num_train_epochs=None)": ("TrainingArguments.num_train_epochs", "it is None"),
    "TrainingArguments('out', learning_rate='1e-4')": ("TrainingArguments.learning_rate", "`learning_rate=0.0001`"),
    "SFTConfig(learning_rate=0)": ("SFTConfig.learning_rate", "0 trains nothing"),
    "trl.SFTConfig(per_device_train_batch_size=4.0)": ("SFTConfig.per_device_train_batch_size", "`per_device_train_batch_size=4`"),
    "DPOConfig(max_length=64)": ("DPOConfig.max_length", "outside 128 to 32768"),
    "DPOConfig(beta=0.0)": ("DPOConfig.beta", "0.6931"),
    "LoraConfig(r=2048)": ("LoraConfig.r", "outside 1 to 1024"),
    "LoraConfig(lora_alpha=0)": ("LoraConfig.lora_alpha", "changes nothing"),
    "TrainingArguments('out', bf16='yes')": ("TrainingArguments.bf16", "`bf16=True`"),
    "TrainingArguments('out', save_strategy=False)": ("TrainingArguments.save_strategy", '`save_strategy="no"`'),
    "TrainingArguments('out', optim='adamw_trch')": ("TrainingArguments.optim", '`optim="adamw_torch"`'),
    "TrainingArguments('out', learning_rte=1e-4)": ("TrainingArguments.learning_rte", "did you mean `learning_rate`"),
    "TrainingArguments('out', lr=1e-4)": ("TrainingArguments.lr", "did you mean `learning_rate`"),
    "TrainingArguments('out', evaluation_strategy='no')": ("TrainingArguments.evaluation_strategy", "`eval_strategy`"),
    "EPOCHS = None\nTrainingArguments('out', num_train_epochs=EPOCHS)": ("TrainingArguments.num_train_epochs", "it is None"),
    "RATE = '2e-5'\ncfg = {'learning_rate': RATE, 'max_steps': n}\nSFTConfig(**cfg)": ("SFTConfig.learning_rate", 'the text "2e-5"'),
    "SFTConfig(**{'seed': -1})": ("SFTConfig.seed", "outside 0"),
    "def f():\n    return TrainingArguments('out', num_train_epochs=-1)": ("TrainingArguments.num_train_epochs", "it is -1"),
}  # fmt: skip


@pytest.mark.parametrize("text", BAD)
def test_what_a_call_says_wrong(text: str, folder: Folder) -> None:
    """Key, line and remedy in Python's own syntax."""
    key, says = BAD[text]
    messages = found(folder, text + "\n")
    assert list(messages) == [key]
    assert says in messages[key]
    assert f"train.py:{5 + text.count(chr(10))}:" in messages[key] or "**" in text


@pytest.mark.needs_torch
@pytest.mark.parametrize("value", [None, "three"])
def test_the_trainer_breaks_on_it(value: object, tmp_path: Path) -> None:
    """The witness: num_train_epochs=None is no complaint of TrainingArguments, and a TypeError of the Trainer."""
    torch = pytest.importorskip("torch")
    from transformers import Trainer, TrainingArguments

    arguments = TrainingArguments(str(tmp_path), num_train_epochs=value, report_to="none", use_cpu=True)
    trainer = Trainer(torch.nn.Linear(1, 1), arguments, train_dataset=[{"x": 1}])
    with pytest.raises((TypeError, ValueError)):
        trainer.set_initial_training_values(arguments, trainer.get_train_dataloader())[-1] + 1


GOOD = [
    "TrainingArguments(output_dir='out', learning_rate=2e-5, num_train_epochs=3, max_steps=-1, report_to=[], bf16=True)",
    "TrainingArguments('out', num_train_epochs=args.epochs, learning_rate=float('1e-4'), save_strategy='no')",
    "TrainingArguments('out', num_train_epochs=None if x else 3)",
    "SFTConfig(max_length=None, packing=True, dataset_text_field='text', model_init_kwargs={'dtype': 'bfloat16'})",
    "DPOConfig(beta=0.1, learning_rate=5e-7, num_train_epochs=1)",
    "LoraConfig(r=16, lora_alpha=32, lora_dropout=0.05, target_modules='all-linear', task_type='CAUSAL_LM', modules_to_save=None)",
    "EPOCHS = None\nEPOCHS = 3\nTrainingArguments('out', num_train_epochs=EPOCHS)",
    "def f(EPOCHS):\n    TrainingArguments('out', num_train_epochs=EPOCHS)\nEPOCHS = None",
    "cfg = {'num_train_epochs': None}\ncfg['num_train_epochs'] = 3\nTrainingArguments('out', **cfg)",
    "cfg = {'num_train_epochs': None}\ncfg.update(load())\nTrainingArguments('out', **cfg)",
    "TrainingArguments('out', **load())",
    "trl.GRPOConfig(beta=0.0, num_generations=8, learning_rate=1e-6)",
]  # fmt: skip


@pytest.mark.parametrize("text", GOOD)
def test_what_a_call_may_say(text: str, folder: Folder) -> None:
    """Values that are right, that are computed, that change before the call."""
    assert found(folder, text + "\n") == {}


def test_classes_of_the_same_name_are_not_theirs(folder: Folder) -> None:
    """Only what is imported from the library is judged by the library."""
    folder.write(
        "a.py", "from mylib import TrainingArguments\nTrainingArguments(num_train_epochs=None, anything=1)\n"
    )
    folder.write("b.py", "class SFTConfig:\n    pass\nSFTConfig(learning_rate='x')\n")
    for name in ("a.py", "b.py"):
        result = llmguard.training_arguments_are_valid(folder.path / name)
        assert (list(result), result.looked_at) == ([], 0)


def test_names_of_imports_are_followed(folder: Folder) -> None:
    """Aliases, modules, submodules."""
    text = """\
        import transformers as hf
        from transformers.training_args import TrainingArguments as TA
        import numpy
        TA(num_train_epochs=None)
        hf.Seq2SeqTrainingArguments(num_train_epochs=None)
        numpy.zeros(3)
        """
    file = read_sources(folder.path, [folder.write("a.py", text).name]).parsed[0]
    assert file.tree is not None
    assert imported_names(file.tree) == {
        "hf": ("transformers", ""),
        "TA": ("transformers", "TrainingArguments"),
    }
    assert [call.name for call in calls_of(file.tree)] == ["TrainingArguments", "Seq2SeqTrainingArguments"]
    assert len(llmguard.training_arguments_are_valid(folder.path / "a.py").errors) == 2


def test_constants_are_names_that_are_set_once() -> None:
    """Not those that are set again, passed in, changed in place or declared global."""
    import ast

    tree = ast.parse(
        "A = 1\nB = -2\nC = {'x': A, 'y': f()}\nD = 1\nD = 2\nE = []\nE.append(1)\nF = {}\nF['a'] = 1\nG = f()\n"
        "H = 1\ndef g(H):\n    global I\nI = 3\nfor J in range(3): pass\nJ = 4\n"
    )
    known = constants_of(tree)
    assert {name: value for name, value in known.items() if name != "C"} == {"A": 1, "B": -2}
    assert known["C"]["x"] == 1


def test_the_projects_own_ranges_hold_in_code_too(folder: Folder) -> None:
    """`[config.range]` allows what is meant."""
    text = "TrainingArguments('out', learning_rate=0.05)\n"
    assert list(found(folder, text)) == ["TrainingArguments.learning_rate"]
    assert found(folder, text, config="", **{"config.range": "learning_rate = [1e-6, 0.1]"}) == {}


def test_an_argument_that_the_installed_class_lacks(folder: Folder) -> None:
    """Passed to the class itself, an unknown name is a TypeError for certain: an error where the library is installed."""
    known = library_of("transformers")
    severity = "error" if known and known.installed else "warning"
    assert list(found(folder, "TrainingArguments('out', my_own_thing=3)\n", severity)) == [
        "TrainingArguments.my_own_thing"
    ]


TRAINERS = pytest.mark.skipif(
    constructor_arguments("transformers", "Trainer") is None, reason="transformers is not installed"
)


@TRAINERS
def test_arguments_that_a_trainer_no_longer_takes(folder: Folder) -> None:
    """`tokenizer=` became `processing_class=`; the installed signature decides."""
    known = constructor_arguments("transformers", "Trainer") or frozenset()
    folder.write(
        "train.py", "from transformers import Trainer\nTrainer(model, args=a, tokenizer=t, train_dataset=d)\n"
    )
    result = llmguard.trainer_arguments_are_known(folder.path / "train.py")
    if "tokenizer" in known:
        assert list(result) == []
    else:
        assert [f.where.key for f in result.errors] == ["Trainer.tokenizer"]
        assert "processing_class" in result.errors[0].remedy
    assert result.looked_at == 1


def test_trainers_of_trl(folder: Folder) -> None:
    """SFTTrainer takes its lengths and columns from the config."""
    known = constructor_arguments("trl", "SFTTrainer")
    if known is None:
        pytest.skip("trl is not installed")
    folder.write(
        "train.py",
        "from trl import SFTTrainer\nSFTTrainer(model, max_seq_length=512, train_dataset=d)\nSFTTrainer(**kwargs)\n",
    )
    result = llmguard.trainer_arguments_are_known(folder.path / "train.py")
    wrong = [] if "max_seq_length" in known else ["SFTTrainer.max_seq_length"]
    assert [f.where.key for f in result] == wrong


@pytest.mark.needs_torch
def test_trainers_in_the_folders_of_a_package(folder: Folder) -> None:
    """All of its folders are read; a link back to its top is not followed, so that nothing is told twice."""
    folder.write("code/deep/train.py", "from transformers import Trainer\nTrainer(model, datasets=d)\n")
    (folder.path / "code" / "deep" / "again").symlink_to(folder.path / "code")
    result = llmguard.trainer_arguments_are_known(folder.path / "code")
    assert [f.where.key for f in result.errors] == ["Trainer.datasets"]
    assert result.looked_at == 1


@pytest.mark.needs_torch
def test_the_signature_that_is_read_is_the_signature(folder: Folder) -> None:
    """The witness: what inspect says of the imported class."""
    import inspect

    from transformers import Trainer

    assert constructor_arguments("transformers", "Trainer") == frozenset(
        inspect.signature(Trainer).parameters
    )


def test_trainers_whose_signature_nobody_can_tell() -> None:
    """Not installed, unknown, or open for any keyword: not judged."""
    assert constructor_arguments("no_such_library", "Trainer") is None
    assert constructor_arguments("transformers", "NoSuchTrainer") is None
