"""`llmguard init`: what lies in a folder ends up in a project file that the loader accepts."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmguard.cli.compose import compose
from llmguard.cli.survey import survey
from llmguard.cli.survey.tree import MOST
from llmguard.project import Project, load_project
from llmguard.rows import read_files

Run = Callable[..., Any]
PAIRS = [{"instruction": "Say hi.", "output": "Hi."}, {"instruction": "Say bye.", "output": "Bye."}]
CHAT = [{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}]
SHAREGPT = [
    {"id": "1", "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}
]
PAIRWISE = [{"prompt": "Hi", "chosen": "Hello", "rejected": "No"}]
MODEL = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
CONFIG = "model_name_or_path: Qwen/Qwen2.5-0.5B\nlearning_rate: 1.0e-4\nnum_train_epochs: 3\noutput_dir: runs/sft\n"


def write(folder: Path, files: dict[str, Any]) -> Path:
    """Write files: text as it is, rows as JSON Lines (an array in .json), anything else as JSON."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = isinstance(content, list) and not name.endswith(".json")
        text = "".join(json.dumps(row) + "\n" for row in content) if lines else json.dumps(content)
        path.write_text(content if isinstance(content, str) else text, "utf-8")
    return folder


def written(folder: Path, run: Run) -> Project:
    """The project that `llmguard init` writes for a folder."""
    ended = run("init", folder)
    assert ended.code == 0, ended.err
    return load_project(folder / "llmguard.toml", environ={})


def test_a_whole_project_is_named(tmp_path: Path, run: Run) -> None:
    """Model, adapter, data with their columns, config, output folder, requirements and sources are keys of the file."""
    write(
        tmp_path,
        {
            "models/tiny-base/config.json": MODEL,
            "models/tiny-base/tokenizer.json": {},
            "out/adapter/adapter_config.json": {"base_model_name_or_path": "models/tiny-base"},
            "data/train.jsonl": PAIRS,
            "data/validation.jsonl": PAIRS,
            "data/test.jsonl": PAIRS,
            "train.yaml": CONFIG,
            "requirements.txt": "torch\n",
            "myproj/__init__.py": "",
            "myproj/data.py": "def encode(row):\n    return row\n",
            "train.py": "import myproj\n",
        },
    )
    schema = written(tmp_path, run).schema
    assert (schema.model.path, schema.model.kind, schema.model.adapter) == (
        "models/tiny-base",
        "base",
        "out/adapter",
    )
    assert (schema.data.train, schema.data.validation, schema.data.test) == (
        ["data/train.jsonl"],
        ["data/validation.jsonl"],
        ["data/test.jsonl"],
    )
    assert (schema.data.prompt, schema.data.response) == ("instruction", "output")
    assert schema.config.files == ["train.yaml"]
    assert schema.environment.output_dir == "runs/sft"
    assert schema.environment.requirements == ["requirements.txt"]
    assert schema.environment.sources == ["myproj", "train.py"]
    assert schema.pipeline.encode is None, "functions are suggestions, never keys"
    assert '# encode = "myproj.data:encode"' in (tmp_path / "llmguard.toml").read_text("utf-8")


@pytest.mark.parametrize(
    ("rows", "columns"),
    [
        (PAIRS, {"prompt": "instruction", "response": "output"}),
        ([{"prompt": "a", "completion": "b"}], {"prompt": "prompt", "response": "completion"}),
        ([{"question": "a", "answer": "b"}], {"prompt": "question", "response": "answer"}),
        ([{"input": "a", "target": "b"}], {"prompt": "input", "response": "target"}),
        (CHAT, {"messages": "messages"}),
        (SHAREGPT, {"messages": "conversations"}),
        (PAIRWISE, {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"}),
    ],
)
@pytest.mark.parametrize("name", ["train.jsonl", "train.json"])
def test_columns_are_read_from_the_first_rows(
    tmp_path: Path, run: Run, rows: Any, columns: dict[str, str], name: str
) -> None:
    """Every usual shape is mapped, in JSON Lines and in arrays; the mapping gives turns for the rows."""
    project = written(write(tmp_path, {name: rows}), run)
    found = project.schema.data.model_dump(exclude_none=True)
    assert {
        k: v for k, v in found.items() if k in ("prompt", "response", "messages", "chosen", "rejected")
    } == columns
    from llmguard.evidence.files import read_split

    assert all(t is not None for t in read_split(project, "train").turns)


@pytest.mark.skipif(importlib.util.find_spec("pyarrow") is None, reason="pyarrow is not installed")
def test_parquet_and_saved_datasets_are_read(tmp_path: Path, run: Run) -> None:
    """A Parquet file, and the folders of a saved `DatasetDict`, are data; their own JSON files are not."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pylist(PAIRS)
    write(tmp_path, {f"saved/{s}/{n}.json": {} for s in ("train", "test") for n in ("state", "dataset_info")})
    for split in ("train", "test"):
        with (
            pa.OSFile(str(tmp_path / "saved" / split / "data-00000-of-00001.arrow"), "wb") as file,
            pa.ipc.new_stream(file, table.schema) as out,
        ):
            out.write_table(table)
    pq.write_table(table, tmp_path / "validation.parquet")
    data = written(tmp_path, run).schema.data
    assert (data.train, data.validation, data.test) == (
        ["saved/train"],
        ["validation.parquet"],
        ["saved/test"],
    )
    assert (data.prompt, data.response) == ("instruction", "output")


def test_tokenised_data_and_results_have_their_own_keys(tmp_path: Path, run: Run) -> None:
    """Rows of ids are `encoded`; rows of ids and scores are results, by file name."""
    schema = written(
        write(
            tmp_path,
            {
                "prepared.jsonl": [{"input_ids": [1, 2], "labels": [-100, 2]}],
                "eval/base.jsonl": [{"id": "1", "correct": True}],
                "eval/sft v2.jsonl": [{"id": "1", "score": 0.5}],
            },
        ),
        run,
    ).schema
    assert schema.data.encoded == "prepared.jsonl"
    assert schema.evaluation.results == {"base": "eval/base.jsonl", "sft v2": "eval/sft v2.jsonl"}


def test_shards_become_a_pattern_only_if_it_means_exactly_them(tmp_path: Path, run: Run) -> None:
    """Many files of one pattern are written as that pattern; with a stranger in it they are listed."""
    shards = {f"data/train-{i:05d}-of-00005.jsonl": PAIRS for i in range(5)}
    project = written(write(tmp_path / "a", shards), run)
    assert project.schema.data.train == ["data/train-*-of-*.jsonl"]
    assert len(project.files("train")) == 5
    stranger = {"data/train-x-of-00005.jsonl": CHAT}
    listed = written(write(tmp_path / "b", {**shards, **stranger}), run).schema.data.train
    assert listed == sorted(shards)


@pytest.mark.parametrize(
    ("folder", "tokenizer", "kind"),
    [
        ("qwen2.5-0.5b-instruct", {}, "chat"),
        ("gemma-2b-it", {}, "chat"),
        ("llama-3-8b-base", {"chat_template": "{{ messages }}"}, "base"),
        ("mystery", {"chat_template": "{{ messages }}"}, "chat"),
        ("mystery", {}, "base"),
        ("spirit", {}, "base"),
    ],
)
def test_base_or_chat_is_a_guess_that_says_why(
    tmp_path: Path, run: Run, folder: str, tokenizer: dict[str, str], kind: str
) -> None:
    """The name decides, then the chat template; the comment says which."""
    files = {
        f"{folder}/config.json": MODEL,
        f"{folder}/tokenizer.json": {},
        f"{folder}/tokenizer_config.json": tokenizer,
    }
    assert written(write(tmp_path, files), run).schema.model.kind == kind
    assert re.search(r'kind = "\w+" +# guessed: ', (tmp_path / "llmguard.toml").read_text("utf-8"))


def test_a_model_elsewhere_is_taken_from_the_config_or_the_adapter(tmp_path: Path, run: Run) -> None:
    """Without a model folder, what the training config names is the path; the adapter's base comes second, as a comment."""
    files = {"train.yaml": CONFIG, "adapter/adapter_config.json": {"base_model_name_or_path": "other/base"}}
    model = written(write(tmp_path, files), run).schema.model
    assert (model.path, model.kind, model.adapter) == ("Qwen/Qwen2.5-0.5B", None, "adapter")
    assert '# path = "other/base"' in (tmp_path / "llmguard.toml").read_text("utf-8")


def test_checkpoints_are_no_models_of_choice(tmp_path: Path, run: Run) -> None:
    """A run's checkpoints come after the model; their folder is the output folder."""
    files = {
        f"{f}/{n}": MODEL
        for f in ("runs/a/checkpoint-10", "zz-model")
        for n in ("config.json", "tokenizer.json")
    }
    schema = written(write(tmp_path, files), run).schema
    assert schema.model.path == "zz-model"
    assert schema.environment.output_dir == "runs/a"


def test_what_is_left_out_is_said(tmp_path: Path, run: Run) -> None:
    """Files of other shapes, backups and files without a split are comments with the reason."""
    files = {
        "train.jsonl": [{**row, "input": ""} for row in PAIRS],
        "train.old.jsonl": PAIRS,
        "chat.jsonl": CHAT,
        "odd.jsonl": [{"a": 1}],
        "extra.jsonl": PAIRS,
    }
    project = written(write(tmp_path, files), run)
    text = (tmp_path / "llmguard.toml").read_text("utf-8")
    assert project.schema.data.train == ["train.jsonl"]
    for said in (
        "train.old.jsonl: left out, its name",
        "chat.jsonl: of another shape",
        "odd.jsonl: left out, its rows have other columns (a)",
        "extra.jsonl: of the same shape; its name says no split",
        "`input` column too",
    ):
        assert said in text


def test_an_empty_folder_gets_a_minimal_file_and_every_comment_in_it_is_true(
    tmp_path: Path, run: Run
) -> None:
    """Nothing is named; each commented key, taken out of its comment, is accepted."""
    ended = run("init", tmp_path)
    assert ended.code == 0
    assert "names nothing yet" in ended.out
    text = (tmp_path / "llmguard.toml").read_text("utf-8")
    assert load_project(tmp_path / "llmguard.toml", environ={}).schema.model_dump(exclude_defaults=True) == {
        name: {} for name in ()
    }
    live = re.sub(r"(?m)^# (\w+ = )", r"\1", text)
    assert len(re.findall(r"(?m)^\w+ = ", live)) >= 10
    (tmp_path / "llmguard.toml").write_text(live, "utf-8")
    load_project(tmp_path / "llmguard.toml", environ={})


def test_suggested_functions_are_those_that_look_like_a_pipelines(tmp_path: Path) -> None:
    """Names and arguments have to fit; private ones, nested ones and tests are not suggested."""
    code = """
from transformers import Trainer
def encode_row(row): ...
def encode(a, b): ...
def _encode(row): ...
class PadCollator: ...
def make_collator(): ...
def build_trainer(): return Trainer()
def build(): return 3
def build_prompt(row): ...
def generate_batch(prompts, temperature=0): ...
class Model:
    def generate(self, x): ...
"""
    files = {
        "pkg/__init__.py": "",
        "pkg/code.py": code,
        "src/other/__init__.py": "",
        "src/other/x.py": "def encode(r): ...",
        "test_x.py": "def encode(r): ...",
    }
    found = survey(
        write(tmp_path, {**files, "broken.py": "def encode(", "not-a-module/x.py": "def encode(r): ..."})
    ).functions
    assert {(f.key, f.reference) for f in found} == {
        ("encode", "pkg.code:encode_row"),
        ("encode", "other.x:encode"),
        ("collate", "pkg.code:PadCollator"),
        ("collate", "pkg.code:make_collator"),
        ("trainer", "pkg.code:build_trainer"),
        ("build", "pkg.code:build_prompt"),
        ("generate", "pkg.code:generate_batch"),
    }
    assert next(f.line for f in found if f.reference == "pkg.code:encode_row") == 3


def test_nothing_is_imported_or_run(tmp_path: Path, run: Run) -> None:
    """Looking at a project leaves its modules alone."""
    write(
        tmp_path,
        {
            "bomb.py": "raise SystemExit('run')\ndef encode(row): ...\n",
            "setup.py": "raise SystemExit('run')\n",
        },
    )
    assert run("init", tmp_path, "--dry-run").code == 0
    assert "bomb" not in sys.modules


def test_files_that_are_not_what_they_seem_are_left_out(tmp_path: Path, run: Run) -> None:
    """Broken JSON, binary, empty, huge-line, scalar rows, broken YAML and odd names stop nothing."""
    (tmp_path / "binary.jsonl").write_bytes(bytes(range(256)) * 10)
    (tmp_path / "train.json").write_text('[{"instruction": "a", "output": "b"}, {"instr', "utf-8")
    (tmp_path / "deep.json").write_text("[" * 100_000, "utf-8")
    write(
        tmp_path,
        {
            "empty.jsonl": "",
            "scalars.jsonl": "1\n2\n",
            "bad.yaml": "a: [",
            "tag.yaml": "a: !!python/object:x {}",
            "list.yaml": "- 1",
        },
    )
    write(tmp_path, {"wrapped.json": {"data": PAIRS}, 'we"ird # [1] name.jsonl': CHAT})
    (tmp_path / "loop").symlink_to(tmp_path)
    project = written(tmp_path, run)
    assert project.schema.data.train == ["train.json"], "a cut array is read as far as it goes"
    assert 'we"ird' in (tmp_path / "llmguard.toml").read_text("utf-8")


def test_names_with_quotes_and_patterns_survive(tmp_path: Path, run: Run) -> None:
    """A file name is written so that the project finds exactly this file."""
    name = 'train "a" [1] #ü.jsonl'
    project = written(write(tmp_path, {name: PAIRS}), run)
    assert [p.name for p in project.files("train")] == [name]
    assert len(read_files(project.files("train"))) == 2


def test_a_file_that_is_there_is_not_overwritten_without_force(tmp_path: Path, run: Run) -> None:
    """The second run refuses with what to do; --dry-run never writes; --force does."""
    file = write(tmp_path, {"llmguard.toml": "# mine\n"}) / "llmguard.toml"
    refused = run("init", tmp_path)
    assert refused.code == 2
    assert "--force" in refused.err
    printed = run("init", tmp_path, "--dry-run")
    assert printed.code == 0
    assert "[model]" in printed.out
    assert file.read_text("utf-8") == "# mine\n"
    assert run("init", tmp_path, "--force").code == 0
    assert "[model]" in file.read_text("utf-8")


def test_a_pyproject_with_our_table_counts_as_a_file_that_is_there(tmp_path: Path, run: Run) -> None:
    """Two project files in one folder would contradict each other."""
    refused = run("init", write(tmp_path, {"pyproject.toml": "[tool.llmguard]\n"}))
    assert refused.code == 2
    assert "[tool.llmguard] table already" in refused.err


@pytest.mark.parametrize(("folder", "said"), [("missing", "is not there"), ("file.txt", "is not a folder")])
def test_a_folder_that_is_none_is_said(tmp_path: Path, run: Run, folder: str, said: str) -> None:
    """A missing folder, or a file, is one message and exit code 2."""
    write(tmp_path, {"file.txt": "x"})
    ended = run("init", tmp_path / folder)
    assert ended.code == 2
    assert said in ended.err


def test_a_folder_without_permission_to_write_is_said(tmp_path: Path, run: Run) -> None:
    """Where the file cannot be written, the message names it and the reason."""
    (tmp_path / "llmguard.toml").mkdir()
    ended = run("init", tmp_path, "--force")
    assert ended.code == 2
    assert "llmguard.toml" in ended.err
    assert "directory" in ended.err


def test_a_folder_too_large_is_seen_in_part_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Past the limit the walk ends, and the file carries a comment."""
    assert MOST >= 10_000
    monkeypatch.setattr("llmguard.cli.survey.tree.MOST", 3)
    write(tmp_path, {f"{i}/x.txt": "x" for i in range(9)})
    found = survey(tmp_path)
    assert not found.complete
    assert "more files than were looked at" in compose(found)


def test_virtual_environments_and_hidden_folders_are_not_looked_into(tmp_path: Path) -> None:
    """Data of installed packages, caches and tests are nobody's training data."""
    hidden = (
        ".cache",
        "venv",
        "node_modules",
        "lib/site-packages",
        "__pycache__",
        "mine.egg-info",
        "own-env",
    )
    write(tmp_path, {**{f"{folder}/train.jsonl": PAIRS for folder in hidden}, "own-env/pyvenv.cfg": ""})
    assert survey(tmp_path).empty
