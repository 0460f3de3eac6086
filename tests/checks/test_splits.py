"""Checks on splits: what of the test or validation split stands in train, and what only seems to."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from llmguard.auditing import Audit
from llmguard.checks.splits import (
    groups_stay_in_one_split,
    no_test_row_is_in_train,
    no_test_row_is_near_a_train_row,
    no_validation_row_is_in_train,
)
from llmguard.errors import CheckFailed, MissingEvidence
from llmguard.findings import Findings, Severity, require
from llmguard.overlap import Match, Overlap, Overlaps
from llmguard.overlap.hashing import words_of
from llmguard.project import load_project
from llmguard.report import CheckResult
from llmguard.rows import Rows, read_files

Row = Mapping[str, Any]
QUESTION = "Which river runs through the old town of Marel, and how long is it from its spring to the sea?"
ANSWER = "The Ostra runs through Marel. It is 212 kilometres long, from its spring in the Halden hills to the sea at Tunby."
PLAIN = [
    (
        "Name three kinds of bread that are baked with rye.",
        "Pumpernickel, Finnish ruisleipa and Danish rugbrod are baked with rye.",
    ),
    (
        "How does a canal lock lift a boat to a higher level?",
        "Gates close behind the boat, water flows in from above, and the boat rises.",
    ),
    (
        "Why do leaves change their colour in autumn?",
        "Trees stop making chlorophyll, so yellow and red pigments become visible.",
    ),
    (
        "What should I pack for a week of hiking in spring?",
        "Take layers, a rain jacket, good socks, a map and enough to drink.",
    ),
    (
        "Explain what a mortgage is to a ten year old child.",
        "It is borrowed money for a house, paid back in small parts for many years.",
    ),
    (
        "Give me a short history of the printing press.",
        "Gutenberg printed with movable type about 1450; books soon became cheap.",
    ),
    (
        "Who wrote the opera that opens with a duel at night?",
        "Mozart's Don Giovanni begins with a duel in which the Commendatore dies.",
    ),
    (
        "Which planets can be seen with the naked eye?",
        "Mercury, Venus, Mars, Jupiter and Saturn are visible without a telescope.",
    ),
]


def qa(*pairs: tuple[str, str]) -> list[Row]:
    """Rows of prompt and response."""
    return [{"prompt": p, "response": r} for p, r in pairs]


def kinds(found: Findings) -> list[str]:
    """Kind and side of every row that a finding carries."""
    return [f"{row['kind']} {row['side']}" for f in found for row in f.evidence["rows"]]


@pytest.mark.parametrize(
    ("in_train", "expected"),
    [
        ((QUESTION, ANSWER), "exact row"),
        ((QUESTION.upper(), f" {ANSWER} "), "normalised row"),
        ((QUESTION.replace(" ", "\n"), ANSWER.replace(".", " -")), "normalised row"),
        ((QUESTION, "It is the Ostra, and it has a length of 212 km."), "exact prompt"),
        ((f"“{QUESTION}”", "The Ostra."), "normalised prompt"),
        (("Tell me about rivers.", ANSWER), "exact response"),
        ((f"You know the country well. {QUESTION} Answer in one word.", "Ostra"), "contained prompt"),
        (
            ("What can you tell me about rivers?", f"There are many. {ANSWER} There is more to say, too."),
            "contained response",
        ),
    ],
)
def test_a_test_row_that_stands_in_train_is_an_error(in_train: tuple[str, str], expected: str) -> None:
    """Equal, equal but for its writing, or contained: an error that names both rows and shows what they share."""
    found = no_test_row_is_in_train(qa(PLAIN[0], (QUESTION, ANSWER)), qa(*PLAIN[1:], in_train))
    assert kinds(found) == [expected]
    assert found.looked_at == 2
    assert found[0].severity is Severity.ERROR
    row = found[0].evidence["rows"][0]
    assert (row["row"], row["train"]["row"]) == (1, 7)
    assert row["shared_words"] >= 8
    assert row["shared"][:20] in f"{QUESTION}\n{ANSWER}"
    with pytest.raises(CheckFailed, match="1 of 2 test rows"):
        require(found)


def test_short_prompts_are_found_at_their_own_length() -> None:
    """A test question of five words is found as it is; one of eight also inside of a longer training text."""
    short, longer = (
        ("Who painted the ceiling there?", "Nobody."),
        ("When was the bridge over the Ostra finished?", "1887"),
    )
    train = qa(
        *PLAIN,
        (short[0], "Michelangelo did."),
        (f"A quiz! {longer[0]} And who paid for it?", "In 1887; the town."),
    )
    assert kinds(no_test_row_is_in_train(qa(short, longer), train)) == ["exact prompt", "contained prompt"]


def test_whole_rows_are_found_however_short() -> None:
    """A row of two words is a test row in train when its answer is the same, too."""
    assert kinds(no_test_row_is_in_train(qa(("2 + 3", "5")), qa(*PLAIN, ("2 + 3", "5")))) == ["exact row"]


@pytest.mark.parametrize("shape", ["messages", "conversations", "chosen", "nested"])
def test_every_row_shape_is_compared(shape: str) -> None:
    """Messages, ShareGPT, preference pairs and message lists in prompt and completion are compared as well."""

    def row(prompt: str, response: str) -> Row:
        said = [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
        shapes = {
            "messages": {"messages": said},
            "conversations": {
                "conversations": [{"from": "human", "value": prompt}, {"from": "gpt", "value": response}]
            },
            "chosen": {"prompt": prompt, "chosen": response, "rejected": "No idea."},
            "nested": {"prompt": said[:1], "completion": said[1:]},
        }
        return shapes[shape]

    test = [row(QUESTION, ANSWER), row(*PLAIN[0])]
    train = [*(row(*pair) for pair in PLAIN[1:]), row(QUESTION.lower(), ANSWER)]
    assert kinds(no_test_row_is_in_train(test, train)) == ["normalised row"]


def test_a_validation_row_in_train_is_an_error_of_its_own() -> None:
    """The validation split has its own check with its own reason."""
    found = no_validation_row_is_in_train(qa((QUESTION, ANSWER)), qa(*PLAIN, (QUESTION, ANSWER)))
    assert "validation rows (100.0%) stand in the training split" in found[0].message
    assert "early stopping" in found[0].message
    found = no_validation_row_is_in_train(qa((QUESTION, ANSWER)), qa(*PLAIN))
    assert (list(found), found.looked_at) == ([], 1)


def instructions(inputs: Sequence[str]) -> list[Row]:
    """Rows of one fixed instruction with its text in another column."""
    return [
        {"instruction": "Translate the following text to French:", "input": t, "output": f"({t})"}
        for t in inputs
    ]


def chat(system: str, prompt: str, response: str) -> Row:
    """A conversation with a system prompt."""
    roles = zip(("system", "user", "assistant"), (system, prompt, response), strict=True)
    return {"messages": [{"role": role, "content": content} for role, content in roles]}


TOWNS = (
    "Marel",
    "Tunby",
    "Ostra",
    "Lenfold",
    "Carrow",
    "Pelham",
    "Sorrel",
    "Wend",
    "Aldmoor",
    "Brisk",
    "Halden",
    "Quill",
)
FRAME = "Below is an instruction. Write a response that completes the request.\n\n### Instruction:\n{}\n\n### Response:\n"
LABEL = "Is the tone of this review friendly? Answer yes or no."


@pytest.mark.parametrize(
    ("test", "train"),
    [
        pytest.param(
            instructions(TOWNS[:4]),
            instructions(TOWNS[4:]),
            id="a fixed instruction, its text in the input column",
        ),
        pytest.param(
            [
                {"prompt": LABEL, "review": f"We came to {t} in the rain and stayed.", "response": "yes"}
                for t in TOWNS[:3]
            ],
            [
                {"prompt": LABEL, "review": f"In {t} nobody said a word to us all day.", "response": "no"}
                for t in TOWNS[3:9]
            ],
            id="a fixed question, its text in a column that is not mapped",
        ),
        pytest.param(
            qa(*((FRAME.format(p), r) for p, r in PLAIN[:3])),
            qa(*((FRAME.format(p), r) for p, r in PLAIN[3:])),
            id="the same frame around every prompt",
        ),
        pytest.param(
            qa((f"What is {TOWNS[0]} known for?", "I am sorry, but I do not know that.")),
            qa(*((f"What is {t} known for?", "I am sorry, but I do not know that.") for t in TOWNS[1:])),
            id="the same short answer",
        ),
        pytest.param(
            qa(("What is 12 - 7 + 3 * 2?", "11")),
            qa(*PLAIN, ("What is 12 + 7 - 3 * 2?", "13")),
            id="other operators",
        ),
        pytest.param(
            qa(("Hi there!", "Hello, what can I do for you?")),
            qa(*PLAIN, ("Hi there!", "Good morning.")),
            id="a greeting",
        ),
        pytest.param(
            qa(*((LABEL, f"Yes: {t} is praised in it.") for t in TOWNS[:6])),
            qa(*((LABEL, f"No: {t} is not mentioned.") for t in TOWNS[6:])),
            id="one prompt for all rows, different answers",
        ),
        pytest.param(
            [chat(FRAME + QUESTION, *PLAIN[0])],
            [chat(FRAME + QUESTION, *pair) for pair in PLAIN[1:]],
            id="a shared system prompt",
        ),
    ],
)
def test_what_rows_share_by_nature_is_no_overlap(test: list[Row], train: list[Row]) -> None:
    """Fixed instructions, frames, labels, refusals, other operators: nothing is said."""
    assert not no_test_row_is_in_train(test, train)
    near = no_test_row_is_near_a_train_row(test, train)
    assert {f.severity for f in near} <= {Severity.NOTE}
    assert near.looked_at == len(test)


def edited(text: str, share: float, seed: int) -> str:
    """A share of the words replaced, dropped, or followed by another one."""
    draw = random.Random(seed)
    other = " ".join(r for _, r in PLAIN).split()
    kept = []
    for word in text.split():
        way = draw.choice("rrrdi") if draw.random() < share else ""
        kept += {"": [word], "r": [draw.choice(other)], "d": [], "i": [word, draw.choice(other)]}[way]
    return " ".join(kept)


def test_an_edited_test_row_is_a_warning() -> None:
    """A fifth of the words changed: near, with the shared run and its share."""
    long = f"{QUESTION} {ANSWER} " + " ".join(r for _, r in PLAIN[:4])
    found = no_test_row_is_near_a_train_row(
        qa(("Tell me a story.", long)), qa(*PLAIN[4:], ("Tell a tale.", edited(long, 0.2, 1)))
    )
    assert [f.severity for f in found] == [Severity.WARNING]
    row = found[0].evidence["rows"][0]
    assert (row["kind"], row["side"], row["train"]["row"]) == ("near", "response", 4)
    assert 0.6 <= row["share"] < 1
    assert row["shared"] in long


def test_a_passage_of_fifty_words_is_a_warning() -> None:
    """Fifty words of a test row inside of a training row are near, whatever stands around them."""
    words = " ".join(f"{p} {r}" for p, r in PLAIN).split()
    passage = " ".join(words[:50])
    test = qa(("Go on.", f"It was late when {QUESTION} {passage} {ANSWER}"))
    found = no_test_row_is_near_a_train_row(
        test, qa((QUESTION, "No."), ("Begin.", f"Once upon a time there was {passage} and so on."))
    )
    (row,) = found[0].evidence["rows"]
    assert row["shared_words"] == len(words_of(passage))
    assert row["shared"][:-1] in passage


def test_rows_from_templates_are_a_note() -> None:
    """Where training rows are as near to each other as test rows are to them, that is noted and nothing else is said."""
    draw = random.Random(3)

    def row() -> tuple[str, str]:
        a, b, town, other = draw.randint(2, 90), draw.randint(2, 90), draw.choice(TOWNS), draw.choice(TOWNS)
        return (
            f"A cart with {a} barrels leaves {town} in the morning and picks up {b} more on its way to {other}. How many arrive there?",
            f"The cart starts with {a} barrels and takes {b} more, so {a + b} barrels arrive in {other}.",
        )

    found = no_test_row_is_near_a_train_row(qa(*(row() for _ in range(40))), qa(*(row() for _ in range(200))))
    assert {f.severity for f in found} <= {Severity.NOTE}
    assert "as near to a training row as those are to each other" in found[0].message


def found_by(share: float, control: list[float]) -> Findings:
    """What is said of one test row of forty that is near to a training row, when training rows are near to each other like this."""
    rows, train = Rows(qa(*[PLAIN[0]] * 40)), Rows(qa(*[PLAIN[1]] * len(control)))
    match = Match(3, 5, "near", "prompt", share, "a shared run", 13)

    class Known(Overlaps):
        def between(self, rows: Rows, train: Rows) -> Overlap:
            return Overlap(len(rows), len(train), [match], control)

    return no_test_row_is_near_a_train_row(rows, train, Known())


@pytest.mark.parametrize(
    ("share", "control", "severity"),
    [
        (0.9, [0.0] * 500, Severity.WARNING),
        (0.9, [0.6] * 25 + [0.0] * 475, Severity.WARNING),
        (0.6, [0.6] * 25 + [0.0] * 475, Severity.NOTE),
        (0.9, [0.6] * 100 + [0.0] * 400, Severity.NOTE),
        (0.9, [0.95] * 10 + [0.0] * 490, Severity.NOTE),
    ],
)
def test_near_is_judged_against_the_control(share: float, control: list[float], severity: Severity) -> None:
    """A row is told that is nearer than training rows are to each other, unless so many of those are near that all come from templates."""
    assert [f.severity for f in found_by(share, control)] == [severity]


def test_words_of_a_frame_do_not_make_rows_near() -> None:
    """A long frame around every prompt, and a phrase that two questions share: the frame's words do not count."""
    frame = (
        "You are a careful assistant in a library. Read the question of the reader twice before you reply, and think about it. {} "
        + (
            "Keep to the facts, name your sources, and say so when you do not know something. Reply in two or three short sentences."
        )
    )
    train = [(frame.format(f"{p} {r} Number {n}."), f"Reply {n}.") for n in range(8) for p, r in PLAIN]
    mine = "Where can I find old maps of the harbour from before the war, and who drew them by hand?"
    other = "My aunt asks about old maps of the harbour from before her wedding in the summer of 1951."
    found = no_test_row_is_near_a_train_row(
        qa((frame.format(mine), "In the cellar.")), qa(*train, (frame.format(other), "Ask us."))
    )
    assert not found


def test_groups_stay_together() -> None:
    """A group in two splits is an error with both places; ids count as the same written as number or as text."""
    train = [{"text": "a", "doc": 1}, {"text": "b", "doc": 2}, {"text": "c", "doc": None}]
    test = [{"text": "d", "doc": "2"}, {"text": "e", "doc": 3}, {"text": "f", "doc": None}]
    found = groups_stay_in_one_split("doc", train, test=test)
    assert len(found) == 1
    assert (
        "1 of 3 groups are in more than one split: doc '2' in rows, row 1 and rows, row 0" in found[0].message
    )
    assert found.looked_at == 3
    assert not groups_stay_in_one_split("doc", train, test=test[1:])


def test_a_split_without_its_groups_is_an_error() -> None:
    """Nothing can be said about a split that lacks the column: that is told with the columns there are."""
    found = groups_stay_in_one_split("doc", [{"text": "a", "doc": 1}], validation=[{"text": "b"}])
    assert "none of the 1 rows of validation has the column 'doc' (columns: text)" in found[0].message
    with pytest.raises(MissingEvidence, match="test"):
        groups_stay_in_one_split("doc", [{"text": "a", "doc": 1}])


def run(folder: Path, name: str) -> CheckResult:
    """One check on a project file."""
    audit = Audit(load_project(folder / "llmguard.toml"))
    return audit.run(audit.registry.get(name))


def test_checks_on_splits_need_both_and_say_so(tmp_path: Path) -> None:
    """Without a test split the checks are skipped with the line to add; a split that cannot be read is told by its own check."""
    (tmp_path / "train.jsonl").write_text('{"prompt": "a", "response": "b"}\n', "utf-8")
    (tmp_path / "llmguard.toml").write_text('[data]\ntrain = "train.jsonl"\n', "utf-8")
    assert (
        run(tmp_path, "no_test_row_is_in_train").reason
        == 'add `[data] test = "data/test.jsonl"` to llmguard.toml'
    )
    assert "[data] group" in run(tmp_path, "groups_stay_in_one_split").reason
    (tmp_path / "llmguard.toml").write_text('[data]\ntrain = "train.jsonl"\ntest = "tset.jsonl"\n', "utf-8")
    skipped = run(tmp_path, "no_test_row_is_in_train")
    assert skipped.outcome.value == "skipped"
    assert "data_files_are_readable" in skipped.reason


def test_a_project_is_told_the_files_and_lines(tmp_path: Path) -> None:
    """From the project file on: both places as file and line, and all three splits found."""
    for split, rows in (("train", PLAIN), ("test", PLAIN[2:3]), ("validation", PLAIN[7:])):
        lines = [f'{{"prompt": "{p}", "response": "{r}"}}\n' for p, r in rows]
        (tmp_path / f"{split}.jsonl").write_text("".join(lines), "utf-8")
    (tmp_path / "llmguard.toml").write_text(
        '[data]\ntrain = "train.jsonl"\ntest = "test.jsonl"\nvalidation = "validation.jsonl"\n', "utf-8"
    )
    told = run(tmp_path, "no_test_row_is_in_train")
    assert told.outcome.value == "failed"
    assert "test.jsonl:1, row 0 is in train.jsonl:3, row 2 (exact, whole row)" in told.findings[0].message
    assert (
        "validation.jsonl:1, row 0 is in train.jsonl:8, row 7"
        in run(tmp_path, "no_validation_row_is_in_train").findings[0].message
    )


def real(folder: Path, name: str) -> Rows:
    """A split of GSM8K."""
    return read_files([folder / "data" / "gsm8k" / f"{name}.jsonl"], split=name, root=folder)


def test_the_real_splits_of_gsm8k(real_data: Path) -> None:
    """GSM8K's test split is not in its training split; three of its questions are variants of training questions, and that is said."""
    test, train = real(real_data, "test"), real(real_data, "train")
    assert not no_test_row_is_in_train(test, train)
    found = no_test_row_is_near_a_train_row(test, train)
    assert [f.severity for f in found] == [Severity.WARNING, Severity.NOTE]
    rows = found[0].evidence["rows"]
    assert 0 < len(rows) <= 5
    pairs = {(row["row"], row["train"]["row"]) for row in rows}
    stamps = [pair for pair in pairs if "snowflake design" in test.records[pair[0]]["question"]]
    assert "snowflake design" in train.records[stamps[0][1]]["question"]
    assert all(row["share"] > 0.75 for row in rows)


@pytest.mark.parametrize(
    ("ways", "least", "check"),
    [
        (("exact", "case"), 1.0, no_test_row_is_in_train),
        (("inside", "short"), 1.0, no_test_row_is_in_train),
        (("0.2",), 0.95, no_test_row_is_near_a_train_row),
        (("0.4",), 0.85, no_test_row_is_near_a_train_row),
    ],
)
def test_planted_rows_of_gsm8k_are_found(
    real_data: Path, ways: tuple[str, ...], least: float, check: Any
) -> None:
    """Real rows planted in train: all exact, otherwise written and contained ones, and edited ones by their share of edits.

    The rows are short, about 45 words a side; `benchmarks/overlap.py` has the figures for texts of 150 words.
    """
    test, train = real(real_data, "test"), real(real_data, "train")
    planted = range(0, 600, 2)
    records = list(train.records[:3000])
    for n, row in enumerate(planted):
        question, answer = test.records[row]["question"], test.records[row]["answer"]
        way = ways[n % len(ways)]
        made = {
            "exact": (question, answer),
            "case": (question.upper().replace(" ", "  "), answer.lower()),
            "inside": (f"Here is a riddle from a book. {question} Think before you answer.", "42"),
            "short": (" ".join(question.split()[:9]), "What?"),
        }.get(way) or (edited(question, float(way), row), edited(answer, float(way), row + 1))
        records[n * 9] = {"question": made[0], "answer": made[1]}
    if "short" in ways:
        cut = {
            row: " ".join(test.records[row]["question"].split()[:9])
            for n, row in enumerate(planted)
            if ways[n % 2] == "short"
        }
        test = Rows(
            [{**r, "question": cut.get(i, r["question"])} for i, r in enumerate(test.records)], test.columns
        )
    found = check(test, Rows(records, train.columns))
    told = {row["row"] for f in found if f.severity is not Severity.NOTE for row in f.evidence["rows"]}
    counted = int(found[0].message.split(" of ")[0].rsplit(" ", 1)[1].replace(",", ""))
    assert counted >= least * len(planted)
    assert len(told - set(planted)) <= 1  # of its three true variants
