"""Edge cases 1 to 10: data that are not there, not whole, not what they seem, or too many."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import pytest
from support.configs import says
from support.tiny import CHATML, byte_level, chat

from llmguard_core.config import make_config
from llmguard_core.errors import DataRefused

Row = Mapping[str, Any]
GOOD = '{"prompt": "What is 2 + 2?", "response": "Four."}\n'
PAIR = '{"prompt": "What is 2 + 2?", "chosen": "Four.", "rejected": "Five."}\n'
DATA = 'train = "train.jsonl"'
Project = Any  # see conftest.py


def lines(rows: Sequence[Row]) -> str:
    """Rows as JSON Lines; a lone surrogate stays an escape, as json.dumps writes it."""
    return "".join(json.dumps(row) + "\n" for row in rows)


def talk(*turns: str) -> Row:
    """A conversation from `role: content`."""
    return {"messages": [dict(zip(("role", "content"), t.split(": ", 1), strict=True)) for t in turns]}


def project_of(project: Project, rows: Sequence[Row] | str, **tables: str) -> Project:
    """A project with a training file."""
    project.write("train.jsonl", rows if isinstance(rows, str) else lines(rows))
    project.project(**{"config": "", "data": DATA, **tables})
    return project


@pytest.mark.parametrize("text", ["", "\n \n"], ids=["empty", "blank"])
def test_edge_01_a_file_without_rows_is_an_error_that_names_it(project: Project, text: str) -> None:
    """A loader has nothing to draw from; the check names the file, and those that need rows name that check."""
    import torch

    with pytest.raises(ValueError, match="num_samples"):
        torch.utils.data.RandomSampler([line for line in text.splitlines() if line.strip()])
    project_of(project, text)
    says(project.told("data_files_are_readable").message, "train.jsonl holds no rows")
    skipped = project.results_of("every_content_is_text")["every_content_is_text[train]"]
    assert skipped.outcome.value == "skipped"
    assert "data_files_are_readable" in skipped.reason


@pytest.mark.parametrize("command", ["sft", "dpo"])
@pytest.mark.parametrize(
    ("train", "validation", "says"),
    [
        ("", None, r"train\.jsonl.*hold no row"),
        ("\n \n", None, r"train\.jsonl.*hold no row"),
        ('{"prompt": \n[1]\n', None, r"(?s)train\.jsonl:1:.*train\.jsonl:2"),
        (
            '{"question": "a", "text": "b"}\n' * 8,
            None,
            "none of 8 rows can be read; their keys are question, text",
        ),
        ("good", "", r"validation\.jsonl.*hold no row"),
        ("good", '{"a": 1}\n', r"validation\.jsonl\): none of 1 rows can be read; their keys are a"),
        ("few", None, "3 rows make 0 whole optimizer steps: 4 rows a batch x 1 accumulated = 4 rows a step"),
    ],
    ids=["empty", "blank", "malformed", "columns", "validation", "validation columns", "fewer than a step"],
)
def test_edge_01_data_are_refused_before_a_model_is_loaded(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    train: str,
    validation: str | None,
    says: str,
) -> None:
    """Nothing of the model is touched; with good data the same run does load it."""
    from llmguard_core import training

    class Loaded(Exception):
        """The model was to be loaded."""

    def load(*args: Any, **more: Any) -> Any:
        raise Loaded

    monkeypatch.setattr("llmguard_core.training.run.load_named", load)
    row = GOOD if command == "sft" else PAIR
    texts = {"train": {"good": row * 8, "few": row * 3}.get(train, train), "validation": validation}
    files = {tmp_path / f"{name}.jsonl": text for name, text in texts.items() if text is not None}

    def write(**other: str) -> None:
        for file, text in files.items():
            file.write_text(other.get("all", text), "utf-8")

    write(all=row * 8)  # the settings' own rules count rows, too: these files change behind them
    data = {file.stem: str(file) for file in files}
    run = make_config({"data": data, "train": {"batch_size": 4, "output_dir": str(tmp_path / "out")}})
    with pytest.raises(Loaded):
        getattr(training, command)(run)
    write()
    with pytest.raises(DataRefused, match=says):
        getattr(training, command)(run)


def test_edge_01_preference_training_refuses_rows_without_pairs(tmp_path: Path) -> None:
    """Prompts with one response each: told with the columns that are missing, before anything is loaded."""
    from llmguard_core.training import dpo

    (tmp_path / "train.jsonl").write_text(GOOD * 8, "utf-8")
    run = make_config({"data": {"train": str(tmp_path / "train.jsonl")}, "model": {"path": "nowhere"}})
    with pytest.raises(DataRefused, match=r"(?s)their keys are prompt, response.*chosen and rejected"):
        dpo(run)


@pytest.mark.parametrize(("world", "effective"), [(1, 32), (4, 128)])
def test_edge_02_fewer_rows_than_a_step_are_told_with_the_arithmetic(
    project: Project, monkeypatch: pytest.MonkeyPatch, world: int, effective: int
) -> None:
    """A loader of these rows does not fill one step: rows, batch, accumulation, processes, and what is left of the run."""
    import torch

    rows, batch, accumulation = 20, 4, 8
    sampler = torch.utils.data.BatchSampler(range(rows), batch_size=batch * world, drop_last=False)
    assert len(sampler) < accumulation
    monkeypatch.setenv("WORLD_SIZE", str(world))
    project.rows("train.jsonl", rows)
    settings = f"output_dir: out\nper_device_train_batch_size: {batch}\ngradient_accumulation_steps: {accumulation}\n"
    project.write("train.yaml", f"{settings}num_train_epochs: 3\nlearning_rate: 1.0e-4\n")
    project.project(data=DATA)
    told = project.told("rows_fill_an_optimizer_step")
    says(
        told.message,
        "20 rows (train.jsonl)",
        "4 per device x 8 accumulated = 32",
        "the whole run has 3 steps",
    )
    assert (f"x {world} processes" in told.message) == (world > 1)
    assert told.evidence == {"rows": rows, "effective_batch": effective, "steps": 3, "world": world}
    assert told.where.key == "gradient_accumulation_steps"


def test_edge_03_rows_that_max_length_cuts_are_counted_with_what_they_lose(project: Project) -> None:
    """Cut at the right, one row keeps no word of its response and three no terminator; the longest is named first."""
    tok = chat()
    asks = ["how many apples"] * 7 + ["how many apples " * 20]
    rows = [talk(f"user: {q}", "assistant: " + "one two three " * (i // 2)) for i, q in enumerate(asks, 2)]
    texts = [tok.apply_chat_template(row["messages"], tokenize=False) for row in rows]
    limit = len(tok(texts[5])["input_ids"]) - 1
    cut = [tok.decode(tok(text)["input_ids"][:limit]).rstrip() for text in texts]
    assert [text.endswith("<|im_end|>") for text in cut] == [True] * 5 + [True, False, False]
    assert "assistant" not in cut[7]
    project_of(project, rows, model='kind = "chat"\ntokenizer = "tok"', pipeline=f"max_length = {limit}",
               prompt='format = "chat-template"')  # fmt: skip
    told = project.told("rows_fit_max_length", known={"tokenizer": tok})
    says(told.message, f"4 of 8 rows are longer than max_length = {limit}", "1 of them lose their whole response",
         "2 their terminator", "the longest")  # fmt: skip
    assert [row["line"] for row in told.evidence["rows"]] == [8, 7, 5, 6]


def test_edge_04_every_bad_line_is_told_in_one_finding(project: Project) -> None:
    """File, line, column and the parser's own reason; the good lines are judged all the same."""
    bad = ['{"prompt": "a" "response": "b"}', "{'prompt': 'a'}", '{"prompt": "a"', "[1, 2]"]
    places = []
    for text in bad[:3]:
        with pytest.raises(json.JSONDecodeError) as broken:
            json.loads(text)
        places.append((broken.value.colno, broken.value.msg))
    text = GOOD + "".join(f"{line}\n{GOOD}" for line in bad) + '{"prompt": "x", "response": ""}\n'
    project_of(project, text)
    told = project.told("data_files_are_readable")
    says(told.message, "4 of 10 lines cannot be read", "train.jsonl:8 is a JSON list")
    says(
        told.message,
        *(f"train.jsonl:{n}:{c} is not JSON: {m}" for n, (c, m) in zip((2, 4, 6), places, strict=True)),
    )
    empty = project.told("every_response_has_text")
    assert (empty.where.line, empty.evidence["rows"][0]["row"]) == (10, 5)


def test_edge_05_a_missing_column_is_told_with_the_keys_that_are_there(project: Project) -> None:
    """Everywhere: the nearest name; in some rows: which."""
    rows = [{"instructon": f"q{n}", "output": "a"} for n in range(3)]
    with pytest.raises(KeyError):
        rows[0]["instruction"]
    mapped = f'{DATA}\nprompt = "instruction"\nresponse = "output"'
    told = project_of(project, rows, data=mapped).told("every_row_has_its_columns")
    says(told.message, "no row has the column 'instruction'", "instructon, output", "nearest is 'instructon'")
    some = [talk("user: a", "assistant: b"), talk("user: c", "assistant: d"), {"mesages": [], "id": 7}]
    told = project_of(project, some).told("every_row_has_its_columns")
    says(
        told.message,
        "train.jsonl:3",
        "1 of 3 rows lack the column 'messages'",
        "mesages, id",
        "nearest is 'mesages'",
    )


def test_edge_06_conversations_without_messages_are_told_with_their_rows(project: Project) -> None:
    """A template renders them to nothing."""
    rows = [
        talk("user: a", "assistant: b"),
        {"messages": []},
        talk("user: a", "assistant: b"),
        {"messages": []},
    ]
    assert jinja2.Template(CHATML).render(**rows[1]) == ""
    told = project_of(project, rows).told("every_conversation_has_turns")
    says(told.message, "train.jsonl:2", "2 of 4 rows", "have an empty list of messages")
    assert [row["line"] for row in told.evidence["rows"]] == [2, 4]


DROPPING = (
    "{% for m in messages %}{% if m.role in ('user', 'assistant') %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n\
{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_edge_07_roles_that_nobody_knows_are_told_and_those_that_the_template_drops(project: Project) -> None:
    """Each with its count; what the template leaves out without a word is an error of its own."""
    tok = copy.deepcopy(byte_level())
    tok.chat_template = DROPPING
    rows = [talk("user: a", "assistant: b")] * 3 + [
        talk("critic: too short", "usr: how many apples", "assistant: b")
    ]
    text = tok.apply_chat_template(rows[3]["messages"], tokenize=False)
    assert ("too short" in text, "assistant" in text) == (False, True)
    project_of(project, rows, model='kind = "chat"\ntokenizer = "tok"', prompt='format = "chat-template"')
    unknown = project.findings("every_role_is_known")
    assert [f.actual for f in unknown] == ["critic", "usr"]
    says(
        unknown[0].message, "train.jsonl:4", "in 1 of 4 rows", "'assistant' (4)", "'user' (3)", "'critic' (1)"
    )
    says(unknown[1].message, "nearest is 'user'")
    lost = project.findings("template_keeps_every_message", known={"tokenizer": tok})
    assert {f.evidence["role"] for f in lost} == {"critic", "usr"}
    says(lost[0].message, "leaves out the critic message of 1 of 4 rows without a word")


@pytest.mark.parametrize(
    ("value", "kind"),
    [(7, "number"), (2.5, "number"), (True, "boolean"), (["a", "b"], "list"), ({"text": "a"}, "object"), (None, "null")],
)  # fmt: skip
def test_edge_08_contents_that_are_no_text_are_told_with_type_and_row(
    project: Project, value: Any, kind: str
) -> None:
    """A prompt builder writes them as Python shows them, or a tokenizer refuses them."""
    if not isinstance(value, list):
        with pytest.raises((ValueError, TypeError)):
            byte_level()(text=value)
    told = project_of(project, [{"prompt": "a", "response": "b"}, {"prompt": "a", "response": value}]).told(
        "every_content_is_text"
    )
    says(told.message, "train.jsonl:2", "1 of 2 rows", kind, f"response = {value!r}")
    assert told.actual == kind


@pytest.mark.parametrize("word", ["None", "nan", "null"])
def test_edge_08_the_words_for_nothing_are_told(project: Project, word: str) -> None:
    """What a missing value becomes on its way through a table."""
    assert word in {str(None), str(float("nan")), json.dumps(None)}
    rows = [{"prompt": f"q{n}", "response": f"a whole sentence with the number {n}"} for n in range(20)]
    told = project_of(project, [*rows, {"prompt": "q", "response": word}]).told(
        "no_content_is_a_word_for_nothing"
    )
    says(told.message, "train.jsonl:21", repr(word))


SOUND = [
    "Grüße aus Köln, 日本語, हिन्दी, العربية, עברית",
    "e\u0301 a\u030a \u0e01\u0e33",
    "👩\u200d👩\u200d👧 🏳️\u200d🌈 🇪🇺",
    "“quotes” – dashes… ½ €",
]


def test_edge_09_sound_unicode_passes_and_survives_the_tokenizer(project: Project) -> None:
    """Emoji, combining marks, every script."""
    tok = byte_level()
    assert all(tok.decode(tok(text)["input_ids"]) == text for text in SOUND)
    rows = [{"prompt": text, "response": text[::-1]} for text in SOUND]
    project_of(project, rows, model='kind = "base"\ntokenizer = "tok"')
    assert (
        project.findings(
            "text_is_well_formed",
            "tokenizer_is_lossless",
            "data_files_are_readable",
            known={"tokenizer": tok},
        )
        == []
    )


@pytest.mark.parametrize(
    ("text", "byte", "what"), [("é\ud83d!", 2, "a lone surrogate"), ("né\0", 3, "a NUL character")], ids=["surrogate", "NUL"]
)  # fmt: skip
def test_edge_09_broken_characters_are_told_with_their_byte(
    project: Project, text: str, byte: int, what: str
) -> None:
    """Offsets count bytes of the field's UTF-8; each of them breaks what comes behind."""
    if what == "a NUL character":
        import ctypes

        assert ctypes.c_char_p(text.encode()).value != text.encode()
    else:
        with pytest.raises(UnicodeEncodeError):
            text.encode()
    told = project_of(
        project, [{"prompt": "fine", "response": "fine"}, {"prompt": "a", "response": text}]
    ).told("text_is_well_formed")
    says(told.message, "train.jsonl:2", what, f"response, byte {byte}")
    assert told.evidence["rows"][0]["byte"] == byte


def test_edge_09_bytes_that_are_no_utf8_are_told_with_their_offset(project: Project) -> None:
    """A Latin-1 letter in a file of UTF-8: which byte of which line; the other lines are read."""
    bad = '{"prompt": "naïve", "response": "b"}'.encode("latin-1")
    with pytest.raises(UnicodeDecodeError) as broken:
        bad.decode()
    project_of(project, "")
    (project.path / "train.jsonl").write_bytes(GOOD.encode() + bad + b"\n" + GOOD.encode())
    told = project.told("data_files_are_readable")
    says(
        told.message,
        "1 of 3 lines",
        f"train.jsonl:2:{broken.value.start + 1} is not UTF-8: byte {broken.value.start} of the line is 0xef",
    )


def test_edge_09_mojibake_is_a_warning_with_the_likely_original(project: Project) -> None:
    """UTF-8 read as Windows-1252."""
    meant = "Das Café – sehr schön"
    broken = meant.encode().decode("cp1252")
    assert broken != meant
    told = project_of(project, [{"prompt": "Wo?", "response": broken}]).told("text_is_well_formed", "warning")
    says(told.message, "train.jsonl:1", "byte 7", "likely 'Das Café ")


PEAK = """
import sys
from llmguard.auditing import Audit
from llmguard.project import load_project
from llmguard.rows import stored
if len(sys.argv) > 2: stored.STORED_FROM = int(sys.argv[2])
audit = Audit(load_project(sys.argv[1]))
families = {"data"} if len(sys.argv) > 2 else {"data", "splits", "masking"}
results = [audit.run(entry, target) for entry, target in audit.plan() if entry.family in families]
audit.evidence.close()
ran = [r for r in results if r.outcome.value != "skipped"]
assert all(r.outcome.value == "passed" for r in ran), [(r.check, r.reason, r.findings) for r in ran]
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(len(ran), max(r.looked_at for r in ran), int(peak.split()[1]) * 1024)
"""


def written(folder: Path, size: int, *, encoded: bool = False) -> int:
    """A project whose training file has at least so many bytes, and maybe an encode function; gives its rows."""
    import random

    draw, rows = random.Random(3), 0
    words = [f"{draw.randrange(10**6):x}" for _ in range(20_000)]
    texts = [" ".join(draw.choices(words, k=800)) for _ in range(200)]
    folder.mkdir()
    with (folder / "train.jsonl").open("w") as file:
        while file.tell() < size:
            row = {"prompt": f"{rows} {draw.choice(texts)}", "response": draw.choice(texts)}
            file.write(json.dumps(row) + "\n")
            rows += 1
    (folder / "test.jsonl").write_text('{"prompt": "what is the capital of Peru", "response": "Lima"}\n')
    pipeline = '[pipeline]\nencode = "user:encode"\n' if encoded else ""
    (folder / "llmguard.toml").write_text(f'[data]\ntrain = "train.jsonl"\ntest = "test.jsonl"\n{pipeline}')
    (folder / "user.py").write_text(
        "def encode(row):\n    p, r = ([*row[k].encode()] for k in ('prompt', 'response'))\n"
        "    return {'input_ids': p + r, 'labels': [-100] * len(p) + r}\n"
    )
    return rows


def peak_of(folder: Path, *stored_from: str) -> tuple[int, int]:
    """Rows that were looked at, and the peak memory of an audit in a process of its own, in bytes."""
    command = [sys.executable, "-c", PEAK, str(folder), *stored_from]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1200)
    assert done.returncode == 0, done.stderr[-2000:]
    checks, rows, peak = map(int, done.stdout.split())
    assert checks >= 8
    return rows, peak


def test_edge_10_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """Rows stay on disk: four times the file takes no twentieth of the difference more, where in memory it takes half of it and more."""
    small, large = 5 * 2**20, 20 * 2**20
    few, many = written(tmp_path / "small", small), written(tmp_path / "large", large)
    in_memory, on_disk = str(2**40), str(2**20)
    low = peak_of(tmp_path / "small", on_disk)
    high, kept = (peak_of(tmp_path / "large", where) for where in (on_disk, in_memory))
    assert kept[1] - low[1] > (large - small) / 2
    assert (low[0], high[0], kept[0]) == (few, many, many)
    assert high[1] - low[1] < (large - small) / 20


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_edge_10_a_gigabyte_is_audited_in_the_memory_of_a_small_file(tmp_path: Path) -> None:
    """With nothing set: the file is above what is kept in memory."""
    written(tmp_path / "small", 2**26, encoded=True)
    rows = written(tmp_path / "large", 2**30, encoded=True)
    looked_at, peak = peak_of(tmp_path / "large")
    assert looked_at == rows
    assert peak - peak_of(tmp_path / "small")[1] < 64 * 2**20


def test_edge_10_rows_on_disk_are_those_of_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Same rows, lines and problems, whatever is bad between them; a file that changes meanwhile is told, and nothing made up."""
    from llmguard.errors import EvidenceError
    from llmguard.rows import read_files, stored

    good = [json.dumps({"prompt": f"q{n}", "response": "a" * (n % 50)}) for n in range(300)]
    text = [
        line for n, one in enumerate(good) for line in (one, *(["", "{", "7"][: n % 4] if n < 150 else ()))
    ]
    (tmp_path / "a.jsonl").write_text("\ufeff" + "\n".join(text))
    (tmp_path / "b.jsonl").write_text("\n".join(good[:5]))
    files = [tmp_path / "a.jsonl", tmp_path / "gone.jsonl", tmp_path / "b.jsonl"]
    memory = read_files(files, split="train", root=tmp_path)
    monkeypatch.setattr(stored, "STORED_FROM", 1)
    monkeypatch.setattr(stored, "BLOCK", 1000)
    disk = read_files(files, split="train", root=tmp_path)
    assert isinstance(disk.records, stored.Stored)
    assert len(disk.records.blocks) > 10
    assert ([*disk], [*disk.origin], [*disk.turns]) == ([*memory], [*memory.origin], [*memory.turns])
    assert (disk.problems, disk.columns, disk.filled) == (memory.problems, memory.columns, memory.filled)
    assert (disk.records[-7:], disk.turns[3], disk.where(301)) == (
        [*memory][-7:],
        memory.turns[3],
        memory.where(301),
    )
    assert copy.copy(disk.records)[299] == memory.records[299]
    (tmp_path / "a.jsonl").write_text("\n".join(text[:200]))
    with pytest.raises(EvidenceError, match=r"a\.jsonl was written to while it was being checked"):
        list(disk)
    files[0].unlink()
    with pytest.raises(EvidenceError, match="cannot be read any more: No such file"):
        disk.where(200)
