"""The project file: what it may say, and how its mistakes are told."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmguard.errors import ProjectError
from llmguard.project import find_project, is_project_file, load_project
from llmguard.project.schema import parse_size


def write(folder: Path, text: str, name: str = "llmguard.toml") -> Path:
    file = folder / name
    file.write_text(text, "utf-8")
    return file


def test_a_minimal_file_is_two_lines(tmp_path: Path) -> None:
    """`[model] path` alone makes a project; nothing else is asked for."""
    project = load_project(write(tmp_path, '[model]\npath = "Qwen/Qwen2.5-0.5B"\n'), environ={})
    assert project.model_path == "Qwen/Qwen2.5-0.5B"
    assert project.tokenizer_path == "Qwen/Qwen2.5-0.5B"
    assert project.splits == []


def test_every_problem_is_told_at_once(tmp_path: Path) -> None:
    """Misspelt keys, wrong values and wrong types come as one error that names each of them."""
    text = (
        '[model]\npth = "x"\nkind = "bas"\n[promt]\n[prompt]\nformat = "zephir"\n'
        '[pipeline]\nencode = "nocolon"\nmax_length = "many"\n[accept]\nx = { until = 2027-01-31 }\n'
    )
    with pytest.raises(ProjectError) as caught:
        load_project(write(tmp_path, text))
    told = str(caught.value)
    assert len(caught.value.problems) == 7
    for part in (
        "did you mean `model.path`",
        "did you mean `prompt`",
        "did you mean 'zephyr'",
        "'base' or 'chat'",
        "module:function",
        "pipeline.max_length",
        "accept.x.reason",
    ):
        assert part in told, part


@pytest.mark.parametrize(("text", "part"), [("a = [", "is not TOML"), ("\xff", "is not TOML")])
def test_a_file_that_is_no_toml_is_told_with_its_place(tmp_path: Path, text: str, part: str) -> None:
    """A syntax error is a problem of the file with line and column, not a traceback."""
    with pytest.raises(ProjectError, match=part):
        load_project(write(tmp_path, text))


def test_bytes_that_are_no_utf8_are_told(tmp_path: Path) -> None:
    """The first byte that is no UTF-8 is named."""
    (tmp_path / "llmguard.toml").write_bytes(b'[model]\npath = "\xff"\n')
    with pytest.raises(ProjectError, match="is not UTF-8: byte 16"):
        load_project(tmp_path / "llmguard.toml")


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    """A project file that is not there is a ProjectError."""
    with pytest.raises(ProjectError, match="cannot be read"):
        load_project(tmp_path / "llmguard.toml")


def test_model_path_of_the_environment_wins(tmp_path: Path) -> None:
    """MODEL_PATH is where the model is, whatever the file says; the tokenizer follows it."""
    project = load_project(
        write(tmp_path, '[model]\npath = "here"\n'), environ={"MODEL_PATH": "/elsewhere/model"}
    )
    assert project.model_path == project.tokenizer_path == "/elsewhere/model"


def test_paths_are_resolved_from_the_files_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative paths and globs do not depend on where pytest is started; a pattern without matches is kept to be told."""
    (tmp_path / "data").mkdir()
    for name in ("b.jsonl", "a.jsonl"):
        (tmp_path / "data" / name).touch()
    file = write(
        tmp_path,
        '[data]\ntrain = "data/*.jsonl"\ntest = ["data/none*.jsonl", "gone.jsonl"]\n[model]\nadapter = "out/adapter"\n',
    )
    monkeypatch.chdir("/")
    project = load_project(file)
    assert [p.name for p in project.files("train")] == ["a.jsonl", "b.jsonl"]
    assert [p.name for p in project.files("test")] == ["none*.jsonl", "gone.jsonl"]
    assert project.adapter_path == tmp_path / "out" / "adapter"
    assert project.splits == ["train", "test"]


def test_pyproject_is_a_project_file_only_with_its_table(tmp_path: Path) -> None:
    """`[tool.llmguard]` makes a pyproject.toml ours; llmguard.toml is preferred."""
    plain = write(tmp_path, "[tool.ruff]\n", "pyproject.toml")
    assert not is_project_file(plain)
    assert find_project(tmp_path) is None
    ours = write(tmp_path, '[tool.llmguard.model]\nkind = "chat"\n', "pyproject.toml")
    assert find_project(tmp_path) == ours
    assert load_project(ours).schema.model.kind == "chat"
    assert find_project(tmp_path) != write(tmp_path, "")
    assert find_project(tmp_path) == tmp_path / "llmguard.toml"


@pytest.mark.parametrize(
    ("text", "size"), [("2 GB", 2_000_000_000), ("512 MiB", 536_870_912), ("1000", 1000), ("1.5kb", 1500)]
)
def test_sizes_are_read_in_either_unit(text: str, size: int) -> None:
    """Decimal and binary units, with and without a space."""
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "2 XB", "much", "GB 2"])
def test_other_sizes_are_refused(text: str) -> None:
    """What is no size says what one looks like."""
    with pytest.raises(ValueError, match="expected a size"):
        parse_size(text)


def test_a_table_format_needs_its_slot(tmp_path: Path) -> None:
    """A format table without {prompt} would drop every prompt."""
    with pytest.raises(ProjectError, match=r"\{prompt\}"):
        load_project(write(tmp_path, '[prompt]\nformat = { prompt = "Q:" }\n'))
    good = load_project(write(tmp_path, '[prompt]\nformat = { prompt = "Q: {prompt}", end = "E" }\n'))
    assert good.schema.prompt.format.end == "E"  # type: ignore[union-attr]  # a table was given


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("gpt2", False),
        ("Qwen/Qwen2.5-0.5B", False),
        ("out/run/final", True),
        ("./model", True),
        ("/models/x", True),
        ("models/", True),
    ],
)
def test_hub_ids_are_told_from_paths(tmp_path: Path, text: str, path: bool) -> None:
    """A name that is no folder here is a hub id where it may be one, also without an owner; else a path from the file's folder."""
    project = load_project(write(tmp_path, f'[model]\npath = "{text}"\n'), environ={})
    assert (project.model_path != text or text.startswith("/")) is path


def test_a_folder_stands_for_its_project_file(tmp_path: Path) -> None:
    """As `audit(folder)` promises; a folder without one says which file is missing."""
    with pytest.raises(ProjectError, match=r"llmguard\.toml.*\n.*No such file"):
        load_project(tmp_path)
    (tmp_path / "pyproject.toml").write_text('[tool.llmguard.model]\nkind = "base"\n', "utf-8")
    assert load_project(tmp_path).schema.model.kind == "base"
    (tmp_path / "llmguard.toml").write_text('[model]\nkind = "chat"\n', "utf-8")
    assert load_project(tmp_path).schema.model.kind == "chat"
