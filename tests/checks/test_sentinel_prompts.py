"""The judges of the sentinel prompts: strict, total, and not to be fooled by an answer's words in rambling."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llmguard.errors import UsageError
from llmguard.sentinels import CLASSIC, SENTINELS, Sentinel, sentinel_by_id

FOLLOWED: dict[str, list[str]] = {
    "pig-latin": [
        '"Ellohay orldway"',
        'Sure! "hello world" in Pig Latin is "ellohay orldway".',
        "Ello-hay orld-way.",
    ],
    "plurals": [
        "mice, children, feet",
        "1. mice\n2. children\n3. feet",
        "The plurals are mice, children, and feet.",
    ],
    "sorted-words": [
        "apple, fig, pear",
        "Sorted alphabetically: apple, fig, pear.",
        "- apple\n- fig\n- pear",
    ],
    "past-tense": [
        "I went to school.",
        '"I went to school."',
        "Here is the sentence in the past tense:\n\nI went to school.",
    ],
    "french": ["merci", '"Thank you" in French is "merci".', "Merci beaucoup."],
    "reversed": ["tenalp", '"tenalp"', "Tenalp."],
    "no-vowels": ["lphnt", "**lphnt**", "Answer: lphnt"],
    "replaced": ["bonono", '"bonono"', "Bonono."],
    "repeated": ["lemon lemon lemon", "lemon, lemon, lemon", "Lemon lemon lemon."],
    "capitals": [
        "THE CAT SAT ON THE MAT",
        '"THE CAT SAT ON THE MAT."',
        "Sure, here it is:\nTHE CAT SAT ON THE MAT.",
    ],
    "spelled": ["g-a-r-d-e-n", "G-A-R-D-E-N", 'The word "garden" is spelled: g-a-r-d-e-n'],
    "three-primes": [
        "2, 3, 5",
        "Three prime numbers are 2, 3, and 5.",
        "1. 7\n2. 11\n3. 13",
        "2, 3, and 5. These numbers can only be divided by 1 and by themselves.",
        "two, three, five",
    ],
    "four-seasons": [
        "Spring, summer, autumn, and winter.",
        "The four seasons are:\n\n1. **Spring**: flowers bloom\n2. Summer - hot\n3. Fall\n4. Winter",
        "winter, spring, summer, fall",
    ],
    "weekdays": [
        "Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday",
        "1. Monday\n2. Tuesday\n3. Wednesday\n4. Thursday\n5. Friday\n6. Saturday\n7. Sunday",
        "The days of the week are Monday, Tuesday, Wednesday, Thursday, Friday, Saturday and Sunday.",
    ],
    "vowels": ["a, e, i, o, u", "A, E, I, O, and U.", "- a\n- e\n- i\n- o\n- u"],
    "colours": [
        "red, yellow, blue",
        "The three primary colours of paint are red, blue, and yellow.",
        "* Blue\n* Red\n* Yellow",
    ],
    "even-numbers": [
        "2, 4, 6, 8, 10",
        "The first five even numbers greater than zero are 2, 4, 6, 8, and 10.",
        "2\n4\n6\n8\n10",
    ],
    "countdown": ["5, 4, 3, 2, 1", "Five, four, three, two, one.", "5 4 3 2 1"],
    "multiples": [
        "7, 14, 21, 28",
        "The first four multiples of 7 are 7, 14, 21, and 28.",
        "- 7\n- 14\n- 21\n- 28",
    ],
    "squares": ["1, 4, 9, 16", "The squares of 1, 2, 3 and 4 are 1, 4, 9 and 16.", "1. 1\n2. 4\n3. 9\n4. 16"],
    "json-integers": [
        '{"a": 1, "b": 2}',
        '```json\n{\n  "b": -7,\n  "a": 0\n}\n```',
        'Sure! Here is the JSON object:\n{"a": 10, "b": 20}',
    ],
    "json-array": ["[1, 2, 3]", "```\n[1,2,3]\n```", "Here is a JSON array:\n\n[\n 1,\n 2,\n 3\n]"],
    "xml": ["<item>river</item>", "```xml\n<item>river</item>\n```", "<item> river </item>"],
    "csv": ["4,5,6", "4, 5, 6", "Here is the line of CSV:\n4,5,6"],
    "brackets": ["[stone]", '"[stone]"', "Here it is: [stone]."],
    "iso-date": ["2021-03-05", "The date in ISO 8601 format is 2021-03-05.", '"2021-03-05"'],
    "python-sum": ["2 + 3", "```python\n2+3\n```", "`3 + 2`"],
    "bullets": [
        "- apple\n- pear\n- plum",
        "Here are three fruits:\n\n* Apples\n* Bananas\n* Cherries",
        "- **Mango**: sweet\n- Kiwi\n- Fig",
    ],
    "numbered": [
        "1. cat\n2. dog\n3. horse",
        "Here is a numbered list:\n1) Lions\n2) Tigers\n3) Bears",
        "1. Cat\n2. Dog\n3. Cow",
    ],
    "yes-or-no": ["yes", "Yes.", "**Yes**"],
    "number-only": ["42", "42.", "The answer is 42"],
    "one-word": ["cold", "Cold.", '"cold"'],
}
NOT_FOLLOWED: dict[str, list[str]] = {
    "pig-latin": [
        "ellohay",
        "hello world",
        "In some villages people said ellohay orldway to each other.",
        "ellohay orldway ellohay",
        "Ollehay orldway",
    ],
    "plurals": [
        "mouses, childs, foots",
        "mice, children",
        "feet, children, mice",
        "The mice and children ran on their feet.",
    ],
    "sorted-words": ["pear, apple, fig", "apple, fig", "apple, fig, pear, plum", "fig, apple, pear"],
    "past-tense": [
        "I go to school.",
        "I will go to school.",
        "I went home.",
        "We went to school and then my brother said that I went too.",
    ],
    "french": [
        "thank you",
        "gracias",
        "merci and gracias",
        "The French say merci more often than the English do.",
    ],
    "reversed": ["planet", "The reversed word is a word that was reversed: tenalp", "tenalp tenalp", "tenap"],
    "no-vowels": ["elephant", "lphnt is the name of a town", "l p h n t", "lphant"],
    "replaced": ["banana", "bonona", "The banana was bonono.", "bonono bonono"],
    "repeated": [
        "lemon lemon",
        "lemon lemon lemon lemon",
        "lemon",
        "The lemon fell on the lemon under the lemon.",
    ],
    "capitals": [
        "the cat sat on the mat",
        "The Cat Sat On The Mat",
        "THE CAT SAT",
        "A sign in the window said THE CAT SAT ON THE MAT",
    ],
    "spelled": ["garden", "g a r d e n", "g-a-r-d-n", "My g-a-r-d-e-n grows."],
    "three-primes": [
        "2, 3, 4",
        "2, 3, 5, 7",
        "2, 3",
        "2, 2, 3",
        "2\n3\n5\n7\n11",
        "List three composite numbers. 7 is followed by 11 and by 13 in the next table.",
        "1. 2. 3.",
        "2.0, 3.0, 5.0",
    ],
    "four-seasons": [
        "spring, summer, winter",
        "spring, summer, autumn, winter, monsoon",
        "Spring came late that year, and after summer there was hardly an autumn before winter.",
        "spring\nsummer\nautumn\nwinter\nand rain",
    ],
    "weekdays": [
        "Sunday, Monday, Tuesday, Wednesday, Thursday, Friday, Saturday",
        "Monday, Tuesday, Wednesday",
        "On Monday we played, on Tuesday it rained.",
    ],
    "vowels": ["a, e, i, o", "a, e, i, o, u, y", "A man in a house", "u, o, i, e, a"],
    "colours": [
        "red, yellow, green",
        "red, yellow",
        "The house was red, its door blue, its roof yellow.",
        "red, yellow, blue, green",
    ],
    "even-numbers": ["1, 2, 3, 4, 5", "0, 2, 4, 6, 8", "2, 4, 6, 8, 10, 12", "2, 4, 6, 8"],
    "countdown": ["1, 2, 3, 4, 5", "5, 4, 3, 2", "5, 4, 3, 2, 1, 0", "Five men went to one house."],
    "multiples": ["7, 14, 21", "7, 14, 21, 27", "0, 7, 14, 21", "7 14 21 28 35", "Lesson 7 is on page 14."],
    "squares": ["1, 2, 3, 4", "1, 4, 9", "2, 4, 6, 8", "1, 4, 9, 16, 25"],
    "json-integers": [
        '{"a": 1}',
        '{"a": 1, "b": 2, "c": 3}',
        '{"a": 1.5, "b": 2}',
        '{"a": "1", "b": "2"}',
        '{"a": true, "b": 2}',
        '{"a": 1, "a": 2, "b": 3}',
        "{'a': 1, 'b': 2}",
        'My server once sent {"a": 1, "b": 2} and stopped.',
        '{"a": 1, "b": 2',
    ],
    "json-array": [
        "[1, 2]",
        '["1", "2", "3"]',
        "1, 2, 3",
        "[1.0, 2.0, 3.0]",
        "{}",
        "[[1, 2, 3]]",
        "[true, 2, 3]",
    ],
    "xml": [
        "<item>stone</item>",
        "<Item>river</Item>",
        "item: river",
        "<item>river",
        "The tag <item>river</item> was used in older files",
    ],
    "csv": ["4;5;6", "4,5", "4,5,6,7", "4 5 6", "3,4,5,6"],
    "brackets": ["(stone)", "stone", "[ stone ]x", "[rock]", "He wrote [stone]"],
    "iso-date": ["5 March 2021", "05-03-2021", "2021-05-03", "2021/03/05", "12021-03-05"],
    "python-sum": ["5", "2 - 3", "2 + 4", "12 + 3", "x = 2 + 3 + 4"],
    "bullets": [
        "apple, pear, plum",
        "- apple\n- pear",
        "- apple\n- pear\n- plum\n- fig",
        "- apple\n- apple\n- pear",
        "- iron\n- tin\n- lead",
        "1. apple\n2. pear\n3. plum",
    ],
    "numbered": [
        "cat, dog, horse",
        "- cat\n- dog\n- horse",
        "1. cat\n2. dog",
        "1. oak\n2. ash\n3. elm",
        "The zoo has\n1. cat\n2. dog\n3. horse",
    ],
    "yes-or-no": [
        "no",
        "Yes, because 9 is more than 4.",
        "yes or no",
        "Is the number 4 greater than the number 9?",
    ],
    "number-only": ["17 plus 25 is 42", "43", "42 43", "forty", "What is 42?"],
    "one-word": ["hot", "warm", "cold and wet", "The opposite was cold"],
}
RAMBLING = [
    "",
    " \n\t ",
    ".",
    "a",
    "\x00",
    "\ud800",
    "the the the the the the",
    "What is the capital of France?\nWhat is the capital of Spain?",
    "Write a letter to a friend about your last holiday.\nUnderline all the verbs in the text above.",
    "The town has 2,352 inhabitants. In spring, summer, autumn and winter its 3 fountains and 5 mills run, and on Monday"
    " the market sells lemon, apple, fig and pear; yes, even when it is cold. merci.",
]

unhurried = settings(deadline=None)  # a busy machine makes one example slow, and that says nothing
by_id = pytest.mark.parametrize("sentinel", SENTINELS, ids=lambda s: s.id)


def test_there_are_enough_of_them_and_they_are_told_apart() -> None:
    """At least 24 sentinels with unique ids and prompts, of four kinds, the four classic ones first among equals."""
    assert len(SENTINELS) >= 24
    assert len({s.id for s in SENTINELS}) == len({s.prompt for s in SENTINELS}) == len(SENTINELS)
    assert {s.kind for s in SENTINELS} == {"transform", "list", "format", "fact"}
    assert [sentinel_by_id(name).id for name in CLASSIC] == list(CLASSIC)


def test_the_classic_prompts_are_the_documented_ones() -> None:
    """Pig Latin of "hello world", three primes, JSON with integers a and b, the seasons."""
    asked = {name: sentinel_by_id(name).prompt for name in CLASSIC}
    assert re.search(r'"hello world" into Pig Latin', asked["pig-latin"])
    assert "three prime numbers" in asked["three-primes"]
    assert re.search(r'JSON object .*"a" and "b".*integer', asked["json-integers"])
    assert "four seasons" in asked["four-seasons"]


def test_an_unknown_id_is_a_usage_error_that_lists_the_known_ones() -> None:
    """The value, the parameter and what is allowed."""
    with pytest.raises(UsageError, match="pig-latin") as caught:
        sentinel_by_id("pig")
    assert caught.value.value == "pig"


@by_id
def test_each_judge_accepts_answers(sentinel: Sentinel) -> None:
    """Its own example, and at least three ways in which a model that obeys would put it."""
    for text in [sentinel.example, f"\n{sentinel.example}\n", *FOLLOWED[sentinel.id]]:
        judgement = sentinel.judge(text)
        assert judgement.followed, (text, judgement.why)
        assert judgement.why
    assert len(FOLLOWED[sentinel.id]) >= 3


@by_id
def test_each_judge_rejects_near_misses(sentinel: Sentinel) -> None:
    """Wrong, incomplete or surplus answers, and right ones that merely turn up in other text."""
    for text in NOT_FOLLOWED[sentinel.id]:
        judgement = sentinel.judge(text)
        assert not judgement.followed, (text, judgement.why)
        assert judgement.why
    assert len(NOT_FOLLOWED[sentinel.id]) >= 3


@by_id
def test_no_judge_is_fooled_by_rambling_echo_or_nothing(sentinel: Sentinel) -> None:
    """Empty and one-character output, the prompt again, other instructions, and a text with everybody's answers in it."""
    echoes = [sentinel.prompt, f"{sentinel.prompt} {sentinel.prompt}", "\n".join(s.prompt for s in SENTINELS)]
    for text in [*RAMBLING, *echoes]:
        assert not sentinel.judge(text).followed, text


@by_id
def test_no_judge_accepts_the_answer_to_another_prompt(sentinel: Sentinel) -> None:
    """Answers are told apart: a model that gives one text to all prompts follows at most one of them."""
    assert [s.id for s in SENTINELS if sentinel.judge(s.example).followed] == [sentinel.id]


@by_id
def test_an_answer_after_endless_courtesy_is_rambling(sentinel: Sentinel) -> None:
    """Words that may stand before an answer may not go on for ever."""
    assert not sentinel.judge("Sure, here it is, " * 20 + sentinel.example).followed


@unhurried
@given(st.text(st.characters(), max_size=300), st.sampled_from(SENTINELS))
@example("[" * 100_000, sentinel_by_id("json-array"))
@example('{"a":' * 5_000, sentinel_by_id("json-integers"))
@example("9" * 50_000, sentinel_by_id("three-primes"))
@example("[" + "9" * 3_990 + "]", sentinel_by_id("json-array"))
@example("2, 3, " * 10_000, sentinel_by_id("three-primes"))
@example("²³, ٣, 五", sentinel_by_id("three-primes"))
@example("999999999, 999999937, 2", sentinel_by_id("three-primes"))
def test_judges_are_total_and_pure(text: str, sentinel: Sentinel) -> None:
    """Any text has a judgement, the same each time; none of them takes long."""
    first = sentinel.judge(text)
    assert first == sentinel.judge(text)
    assert isinstance(first.followed, bool)
    assert 0 < len(first.why) < 400


@unhurried
@given(st.sampled_from(SENTINELS), st.text("abcdefgh \n", min_size=1, max_size=60).filter(str.strip))
def test_an_answer_after_foreign_words_is_not_followed(sentinel: Sentinel, before: str) -> None:
    """What stands before an answer may only be courtesy or the instruction's own words."""
    assert not sentinel.judge(f"zebrafish {before} {sentinel.example}").followed
