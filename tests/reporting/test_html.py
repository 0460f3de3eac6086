"""The report as a page: it says what the report says, lets nothing out of the data and loads nothing."""

from __future__ import annotations

import base64
import copy
import hashlib
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from llmguard.errors import UsageError
from llmguard.report import Report
from llmguard.reporting.html import LONGEST_EVIDENCE, render, render_rows
from llmguard.reporting.tokens import Token
from llmguard.reporting.view import parts_of, view_of

VOID = {"meta", "img", "br", "input", "rect"}


class Page(HTMLParser):
    """A page taken apart: its elements with attributes, its text, and whether every element is closed."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.unbalanced: list[str] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # HTMLParser's
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:  # HTMLParser's own method
        if tag in VOID:
            return
        if not self.open or self.open.pop() != tag:
            self.unbalanced.append(tag)

    def handle_data(self, data: str) -> None:  # HTMLParser's own method
        self.texts.append((self.open[-1] if self.open else "", data))

    def having(self, tag: str, **wanted: str) -> list[dict[str, str | None]]:
        """The elements of a tag whose attributes contain what is wanted."""
        return [
            a for t, a in self.elements if t == tag and all(v in (a.get(k) or "") for k, v in wanted.items())
        ]

    def inside(self, tag: str) -> str:
        """All text directly inside elements of a tag."""
        return "".join(text for where, text in self.texts if where == tag)

    @property
    def text(self) -> str:
        """All text that a reader sees."""
        return " ".join(text for where, text in self.texts if where not in ("style", "script"))


@pytest.fixture(scope="module")
def page(document: dict[str, Any]) -> Page:
    """The page of the report with every outcome."""
    return Page(render(document))


def test_the_page_is_one_balanced_document_that_loads_nothing(page: Page) -> None:
    """Every element is closed, and no attribute names anything outside of the page."""
    assert page.unbalanced == []
    assert page.open == []
    assert not [a for _, a in page.elements if "src" in a or "style" in a]
    assert all((a["href"] or "").startswith("#") for _, a in page.elements if "href" in a)
    assert not [name for _, a in page.elements for name in a if name.startswith("on")]


def test_the_policy_lets_in_exactly_the_style_and_script_of_the_page(page: Page) -> None:
    """The hashes in the content security policy are those of the only style and the only script."""
    [policy] = page.having("meta", **{"http-equiv": "Content-Security-Policy"})
    allowed = set(re.findall(r"'(sha256-[^']+)'", policy["content"] or ""))
    assert "default-src 'none'" in (policy["content"] or "")
    hashes = {
        base64.b64encode(hashlib.sha256(page.inside(tag).encode()).digest()).decode()
        for tag in ("style", "script")
    }
    assert allowed == {f"sha256-{digest}" for digest in hashes}
    assert len(page.having("style")) == len(page.having("script")) == 1


def test_every_check_is_in_the_table_and_every_outcome_has_its_tile(
    page: Page, document: dict[str, Any]
) -> None:
    """The table has a row for each check with what the filter needs; the tiles have the totals."""
    rows = page.having("tr", **{"data-outcome": ""})[1:]
    assert len(rows) == len(document["checks"])
    assert {r["data-family"] for r in rows} == {c["family"] for c in document["checks"]}
    for outcome, number in document["totals"].items():
        [tile] = page.having("a", **{"data-pick": outcome})
        assert ("none" in (tile["class"] or "")) == (number == 0)
    assert page.having("form", id="filter")[0].keys() >= {"hidden"}, (
        "without JavaScript the filter stays out of sight"
    )


def test_a_finding_shows_its_five_parts_apart(page: Page, document: dict[str, Any]) -> None:
    """Where, what, why, cause, remedy, expected, actual and the known bugs of a finding can be read."""
    told = (
        "data/train set.jsonl:14",
        "2 prompt tokens are trained",
        "the loss is of text",
        "mask_ends_early",
    )
    asked = ("the mask ends early", "mask the whole prompt", "label -100 '<|assistant|>'", "label 5")
    for part in told + asked:
        assert part in page.text
    for title in ("Why it matters", "Likely cause", "Remedy", "Expected", "Actual", "Known bugs"):
        assert title in page.inside("dt")


def test_tokens_are_coloured_by_what_is_done_with_them(page: Page) -> None:
    """A trained prompt token and an untrained terminator are wrong, and the page says why."""
    marks = [str(a["class"]).split()[1] for a in page.having("span", **{"class": "t "}) if "title" in a]
    assert marks == ["masked", "wrong", "trained", "wrong", "pad"]
    assert "belongs to the prompt and is trained" in page.text
    assert "ends the response and is not trained" in page.text


def test_skipped_checks_are_grouped_by_the_line_to_add(page: Page) -> None:
    """Two checks that wait for the same line share one entry with that line to copy."""
    assert '[model] adapter = "out/adapter"' in page.inside("pre")
    assert page.inside("pre").count("out/adapter") == 1
    assert "2 checks run" in page.text
    assert "rows could not be had" in page.text


def test_failures_come_first_and_are_open(document: dict[str, Any]) -> None:
    """Cards are ordered from the worst outcome; only what asks for action is unfolded."""
    page = Page(render(document))
    cards = page.having("details", **{"class": "card"})
    assert [(a["class"] or "").split()[1] for a in cards] == [
        "failed",
        "error",
        "warned",
        "accepted",
        "passed",
    ]
    assert ["open" in a for a in cards] == [True, True, True, False, False]
    targets = {a["id"] for a in cards}
    assert {(a["href"] or "")[1:] for a in page.having("a", href="#c") if a["href"] != "#checks"} == targets


def test_nothing_of_hostile_data_gets_out(hostile: dict[str, Any]) -> None:
    """Markup, template syntax, escapes, direction marks, NUL and lone surrogates are shown as text."""
    text = render(hostile)
    page = Page(text)
    text.encode("utf-8")
    assert page.unbalanced == []
    assert page.having("img") == []
    assert len(page.having("script")) == len(page.having("style")) == 1
    assert "alert" not in page.inside("script") + page.inside("style")
    assert not [name for _, a in page.elements for name in a if name.startswith("on")]
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u200b\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]", text)
    assert "{{ 7 * 7 }}" in page.text
    assert "⟨U+001B⟩[31mred" in page.text
    assert "⟨U+202E⟩" in page.text
    assert "⟨U+D83D⟩" in page.text


def test_rendering_leaves_the_report_alone_and_is_the_same_twice(document: dict[str, Any]) -> None:
    """The report is not changed by being shown, and the page does not depend on when it was written."""
    before = copy.deepcopy(document)
    assert render(document) == render(document)
    assert document == before


@pytest.mark.parametrize(
    ("report", "verdict"),
    [
        (Report("p", [], error="pytest broke: INTERNALERROR"), "The session broke before it could finish"),
        (Report("p"), "No checks ran"),
    ],
)
def test_reports_without_checks_say_so(report: Report, verdict: str) -> None:
    """An empty report and one of a broken session are pages too."""
    page = Page(render(report.to_json()))
    assert verdict in page.text
    assert page.unbalanced == []
    assert (report.error or "The report holds no checks.") in page.text


@pytest.mark.parametrize(
    ("outcomes", "verdict", "mood"),
    [
        (["passed", "failed"], "1 check failed", "bad"),
        (["failed", "failed", "error"], "2 checks failed", "bad"),
        (["error", "passed"], "1 check broke", "bad"),
        (["warned", "warned", "passed"], "No errors, 2 warnings", "odd"),
        (["passed", "skipped"], "Every check that could run passed", "good"),
        (["skipped"], "Nothing could be checked", "odd"),
    ],
)
def test_the_verdict_is_the_worst_outcome(outcomes: list[str], verdict: str, mood: str) -> None:
    """The headline never sounds better than the worst check."""
    view = view_of({"checks": [{"check": f"c{i}", "outcome": o} for i, o in enumerate(outcomes)]})
    assert (view.verdict, view.mood) == (verdict, mood)
    assert sum(s.width for s in view.bar) == 1000


def test_a_report_of_several_projects_names_them() -> None:
    """Rows and cards say whose check it was."""
    one = {"check": "c", "target": "train", "outcome": "failed", "findings": [{"message": "m"}]}
    page = Page(render({"checks": [{**one, "project": "a.toml"}, {**one, "project": "b.toml"}]}))
    assert "b.toml::c[train]" in page.text
    assert page.text.count("a.toml::") == 2


def test_a_message_without_parts_is_shown_whole() -> None:
    """Findings of others, whose messages have no titles, lose nothing."""
    parts = parts_of({"message": "something\nover two lines", "where": "", "remedy": "do it"})
    assert parts["what"] == "something\nover two lines"
    assert parts["remedy"] == "do it"


def test_long_evidence_is_cut_and_says_by_how_much() -> None:
    """A page stays small whatever a check of others puts into its evidence."""
    finding = {"severity": "note", "message": "m", "evidence": {"rows": "x" * 2 * LONGEST_EVIDENCE}}
    page = render({"checks": [{"check": "c", "outcome": "passed", "findings": [finding]}]})
    assert "more characters" in page
    assert page.count("x" * 100) <= LONGEST_EVIDENCE / 100


def test_evidence_that_is_no_window_of_tokens_is_shown_as_it_is() -> None:
    """A check of others may call anything `tokens`."""
    finding = {"severity": "note", "message": "m", "evidence": {"tokens": ["<a>", 3]}}
    page = Page(render({"checks": [{"check": "c", "outcome": "passed", "findings": [finding]}]}))
    assert "<a>" in page.inside("pre")


@pytest.mark.parametrize("wrong", [None, [], {"checks": 3}, {}])
def test_what_is_no_report_is_refused(wrong: Any) -> None:
    """Only the JSON report is rendered; the message names the parameter."""
    with pytest.raises(UsageError, match="document="):
        render(wrong)


def test_rows_are_a_page_of_their_own() -> None:
    """`llmguard show --html`: heading, tokens, counts, no script at all."""
    tokens = [Token("Hi <b>", 4, -100, "prompt", 0), Token("there\n", 5, 5, "response", 1)]
    page = Page(render_rows("train", [("train.jsonl:1 <i>", tokens)], notes=["tokenizer: \x1b[1mx"]))
    assert page.unbalanced == []
    assert page.having("script") == []
    assert page.having("b") == page.having("i") == []
    assert "1 trained" in page.text
    assert "1 masked" in page.text
    assert "⟨U+001B⟩" in page.text
    assert "script-src 'none'" in (page.having("meta", content="default-src")[0]["content"] or "")
