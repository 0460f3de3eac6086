"""Config files as they are found, decoded and parsed: every way in which one is no config is a finding with its place."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.configs import Folder, keys, of, only

import llmguard
from llmguard.configs.document import OPAQUE, Item
from llmguard.configs.reading import read_document
from llmguard.errors import UsageError


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """A folder without anything."""
    return Folder(tmp_path)


UNREADABLE = {
    "flow.yaml": ("lora: {r: 16\nlr: 3", 2, 3, "did not find expected"),
    "tab.yaml": ("model:\n\tname: x\n", 2, 1, "indent with spaces"),
    "quote.yaml": ('a: 1\nname: "x\nb: 2\n', None, None, "YAML parser"),
    "two.yaml": ("a: 1\n---\nb: 2\n", 2, 1, "remove the second"),
    "list.yaml": ("- a\n- b\n", 1, 1, "it holds a list"),
    "word.yaml": ("train\n", 1, 1, "it holds one value"),
    "empty.yaml": ("", None, None, "it is empty"),
    "comments.yaml": ("# only this\n", None, None, "it is empty"),
    "cycle.yaml": ("a: &a\n  b: *a\n", None, None, "refers to itself"),
    "bell.yaml": ("a: 1\nb: \x07\n", 2, 4, "a character that YAML does not allow"),
    "comma.json": ('{"a": 1,\n "b": 2,}', 2, None, "comma before the closing bracket"),
    "comment.json": ('{\n // lr\n "a": 1}', 2, 2, "remove the comment"),
    "lines.json": ('{"a": 1}\n{"a": 2}\n', 2, 1, "under `[data]`"),
    "list.json": ("[1, 2]", 1, 1, "it holds no object"),
    "deep.json": ('{"a":' + "[" * 100_000, None, None, ""),
    "broken.toml": ("a = \nb = 2\n", 1, 5, "TOML parser"),
    "twice.toml": ("a = 1\n[t]\nx = 1\nx = 2\n", 4, None, "keep one of the two"),
    "none.toml": ("# nothing\n", None, None, "it is empty"),
    "train.py": ("lr = 1\n", None, None, "[environment] sources"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_cannot_be_parsed_fails_with_its_place(name: str, folder: Folder) -> None:
    """Line and column where the parser stopped, and what to do; the other checks of the file are skipped, never green."""
    text, line, column, says = UNREADABLE[name]
    results = folder.config("", name)
    (folder.path / name).write_text(text, encoding="utf-8")
    results = {r.check: r for r in folder.results().values()}
    finding = only(results, "config_file_is_readable", file=name)
    assert says in finding.message
    assert finding.where.line == line or line is None
    assert finding.where.column == column or column is None
    others = [r for r in results.values() if r.check != "config_file_is_readable"]
    assert {r.outcome.value for r in others} == {"skipped"}
    told = [r for r in others if r.check != "max_length_agrees_with_the_project"]
    assert all("reported by config_file_is_readable" in r.reason for r in told)


def test_a_missing_file_says_what_was_tried_and_what_lies_there(folder: Folder) -> None:
    """The path tried, and the file that is spelt most like it."""
    folder.write("trian.yaml", "lr: 1.0e-4\n")
    folder.project()
    found = {r.check: r for r in folder.results().values()}
    finding = only(found, "config_file_is_readable", file="train.yaml")
    assert found["config_file_is_readable"].outcome.value == "failed"
    assert f"tried {folder.path / 'train.yaml'}" in finding.message
    assert "'trian.yaml'" in finding.remedy


def test_a_missing_folder_is_said_to_be_missing(folder: Folder) -> None:
    """Where the whole folder is gone, it is named instead of a like file."""
    folder.project(config='files = ["configs/deep/train.yaml"]')
    finding = only(folder.results(), "config_file_is_readable")
    assert "does not exist" in finding.message


def test_a_folder_in_place_of_a_file(folder: Folder) -> None:
    """A folder is no config."""
    (folder.path / "train.yaml").mkdir()
    folder.project()
    assert "it is a folder" in only(folder.results(), "config_file_is_readable").message


def test_bytes_that_are_no_text(folder: Folder) -> None:
    """Latin-1 in a UTF-8 file: the byte, its line and its column."""
    (folder.path / "train.yaml").write_bytes(b"a: 1\nname: caf\xe9\n")
    folder.project()
    finding = only(folder.results(), "config_file_is_readable", line=2, column=10)
    assert "byte 14" in finding.message


def test_a_data_file_is_no_config(folder: Folder) -> None:
    """Megabytes are data: they are not parsed."""
    (folder.path / "train.json").write_text('{"a": "' + "x" * 3_000_000 + '"}', encoding="utf-8")
    folder.project(config='files = ["train.json"]')
    assert "more than any config" in only(folder.results(), "config_file_is_readable").message


def test_no_config_named_says_the_line_to_add(folder: Folder) -> None:
    """Skipped with the line, never green."""
    folder.project(config="", data='train = ["t.jsonl"]')
    results = folder.results()
    assert {r.outcome.value for r in results.values()} == {"skipped"}
    assert (
        results["every_config_path_exists"].reason == 'add `[config] files = ["train.yaml"]` to llmguard.toml'
    )


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.yaml", "run:\n  lr: 1.0e-4\n  stages:\n    - rank: 8\n"),
        ("a.json", '{"run": {\n  "lr": 1e-4,\n  "stages": [\n    {"rank": 8}]}}'),
        ("a.toml", "[run]\n  lr = 1e-4\n[[run.stages]]\nrank = 8\n"),
        ("a.txt", "run:\n  lr: 1.0e-4\n  stages:\n    - rank: 8\n"),
        ("b.cfg", '{"run": {\n  "lr": 1e-4,\n  "stages": [\n    {"rank": 8}]}}'),
    ],
)
def test_every_key_has_its_place(name: str, text: str, folder: Folder) -> None:
    """Path, value, line and column of each key, in each syntax, also without a known ending."""
    items = {item.key: item for item in read_document(folder.write(name, text)).items}
    assert items["run.lr"].value == 1e-4
    assert (items["run.lr"].line, items["run.lr"].column) == (2, 3)
    assert items["run.stages[0].rank"].value == 8
    assert items["run.stages[0].rank"].line == 4
    assert items["run"].value == {"lr": 1e-4, "stages": [{"rank": 8}]}


def test_merged_keys_keep_the_place_where_they_are_written(folder: Folder) -> None:
    """`<<` merges what an anchor holds; own keys win; the place is the anchor's."""
    text = "base: &base\n  lr: 1.0e-4\n  epochs: 3\nrun:\n  <<: *base\n  epochs: 1\nall:\n  <<: [*base, {seed: 1}]\n"
    items = {item.key: item for item in read_document(folder.write("a.yaml", text)).items}
    assert (items["run.lr"].value, items["run.lr"].line) == (1e-4, 2)
    assert (items["run.epochs"].value, items["run.epochs"].line) == (1, 6)
    assert items["all.seed"].value == 1


def test_custom_tags_are_not_judged(folder: Folder) -> None:
    """`!include` is for the project's own loader: the file is readable, the value unknown."""
    results = folder.config("learning_rate: !include lr.yaml\nepochs: 3\nbatch_size: 4\n")
    assert of(results) == {}
    item = next(iter(read_document(folder.path / "train.yaml").items))
    assert item == Item(("learning_rate",), OPAQUE, 1, 1, "lr.yaml", False)
    assert repr(OPAQUE) == "<a value of a custom tag>"


def test_an_alias_bomb_is_refused(folder: Folder) -> None:
    """Aliases that expand to billions end quickly, as a finding."""
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    finding = only(folder.config("\n".join(levels)), "config_file_is_readable")
    assert "expands to more than" in finding.message


TWICE = {
    "a.yaml": ("lr: 1.0e-4\nrun:\n  epochs: 3\nlr: 2.0e-4\n", 4, 1),
    "a.json": ('{"lr": 1e-4,\n "run": {"epochs": 3},\n "lr": 2e-4}', 3, 2),
}


@pytest.mark.parametrize("name", TWICE)
def test_a_key_given_twice_is_found_with_both_lines(name: str, folder: Folder) -> None:
    """The parser keeps the second: both lines and both values are told."""
    text, line, column = TWICE[name]
    results = folder.config(text, name)
    finding = only(results, "no_config_key_is_given_twice", line=line, column=column, key="lr")
    assert results["no_config_key_is_given_twice"].outcome.value == "failed"
    assert "in line 1" in finding.message
    assert f"in line {line}" in finding.message


def test_a_key_given_twice_inside_a_section(folder: Folder) -> None:
    """Nested keys count too; the same name in two sections does not."""
    results = folder.config("a:\n  seed: 1\n  seed: 2\nb:\n  seed: 3\n")
    assert only(results, "no_config_key_is_given_twice").where.key == "a.seed"


def test_the_last_of_two_json_values_is_judged(folder: Folder) -> None:
    """As the parser does: the first value, a whole section, is gone."""
    results = folder.config('{"training": {"lr": 5}, "training": {"lr": 1e-4, "epochs": 1}}', "a.json")
    assert set(of(results)) == {"no_config_key_is_given_twice"}


def test_the_same_checks_in_a_users_own_test(tmp_path: Path) -> None:
    """A path or a mapping does as well as the evidence of an audit."""
    file = tmp_path / "train.yaml"
    file.write_text("learning_rate: 1e-4\nepochs: 3\n", encoding="utf-8")
    by_path = llmguard.every_config_value_has_its_type(str(file))
    by_mapping = llmguard.every_config_value_has_its_type({"learning_rate": "1e-4", "epochs": 3})
    assert [f.where.line for f in by_path] == [1]
    assert list(keys(by_mapping)) == ["learning_rate"]
    assert llmguard.every_config_value_has_its_type({"run": [{"lr": 1e-4}]}).looked_at == 1
    with pytest.raises(UsageError, match="a mapping of settings"):
        llmguard.every_config_value_has_its_type(7)  # type: ignore[arg-type]  # that is the point


USUAL = {"output_dir": "out", "per_device_train_batch_size": 4, "num_train_epochs": 3, "save_steps": 10}
GIVEN = {
    "every_config_key_is_known": ({"learning_rte": 1e-4}, "learning_rte"),
    "every_config_value_has_its_type": ({"learning_rate": "2e-5"}, "learning_rate"),
    "every_config_value_is_in_range": ({"learning_rate": 100.0}, "learning_rate"),
    "every_config_path_exists": ({"train_file": "gone/rows.jsonl"}, "train_file"),
    "run_saves_what_it_trains": ({"max_steps": 5}, "save_steps"),
}


@pytest.mark.parametrize("name", GIVEN)
@pytest.mark.parametrize("nested", [False, True], ids=["flat", "in a section"])
def test_settings_are_judged_without_a_file(name: str, nested: bool) -> None:
    """A mapping, as a user's own test has it: every setting is found, also inside of a section."""
    more, key = GIVEN[name]
    settings = {**USUAL, **more}
    found = getattr(llmguard, name)({"training": settings} if nested else settings)
    assert {str(f.where.key).rpartition(".")[2] for f in found} == {key}, [f.message for f in found]
    assert found.looked_at >= 1
