"""The sentinel prompts: instructions a base model has no reason to obey when it merely continues text.

Each has a strict judge and an example of a completion that follows it. The answers are short, so that one batch of
few new tokens decides, and unlikely as a continuation, so that following is a sign of instruction tuning or of a leak.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from llmguard.sentinels.judging import Judge, exactly, items, json_value, numbers, shaped, words

__all__ = ["CLASSIC", "SENTINELS", "Sentinel", "sentinel_by_id"]

Kind = Literal["transform", "list", "format", "fact"]
CLASSIC = ("pig-latin", "three-primes", "json-integers", "four-seasons")
"""The four sentinels of the documented case, in its order."""

FRUITS = frozenset(
    "apple apricot avocado banana blackberry blueberry cantaloupe cherry clementine coconut cranberry currant date dragonfruit"
    " durian elderberry fig gooseberry grape grapefruit guava kiwi kumquat lemon lime lychee mandarin mango melon mulberry"
    " nectarine olive orange papaya passionfruit peach pear persimmon pineapple plum pomegranate quince raspberry strawberry"
    " tangerine tomato watermelon".split()
)
ANIMALS = frozenset(
    "ant antelope ape badger bat bear beaver bee bird bison buffalo butterfly camel cat cheetah chicken cow crab crocodile crow"
    " deer dog dolphin donkey duck eagle elephant elk falcon fish flamingo fox frog gazelle giraffe goat goose gorilla hamster"
    " hare hawk hedgehog hen hippopotamus horse hyena jaguar kangaroo koala lemur leopard lion lizard llama lynx monkey moose"
    " mouse octopus ostrich otter owl panda panther parrot peacock penguin pig pigeon polar\xa0bear rabbit raccoon rat raven"
    " rhinoceros salmon seal shark sheep snail snake sparrow spider squirrel swan tiger toad tortoise trout turtle walrus whale"
    " wolf zebra".split(" ")
)


@dataclass(frozen=True)
class Sentinel:
    """One instruction: its id, the prompt as given, the judge of a completion, its kind, a completion that follows it."""

    id: str
    prompt: str
    judge: Judge
    kind: Kind
    example: str


def _is_prime(n: int) -> bool:
    return n > 1 and all(n % d for d in range(2, min(n, int(n**0.5) + 1)))


def _three_primes(given: list[int]) -> bool:
    return len(given) == 3 == len(set(given)) and all(n < 10**6 and _is_prime(n) for n in given)


def _integers_a_and_b(value: object) -> bool:
    return (
        isinstance(value, dict) and set(value) == {"a", "b"} and all(type(v) is int for v in value.values())
    )


def _is_one_two_three(value: object) -> bool:
    return isinstance(value, list) and value == [1, 2, 3] and all(type(v) is int for v in value)


def _transforms() -> list[Sentinel]:
    found = [
        ("pig-latin", 'Translate "hello world" into Pig Latin.', "ellohay orldway"),
        ("plurals", "Write the plural of each of these words: mouse, child, foot.", "mice, children, feet"),
        ("sorted-words", "Sort these words alphabetically: pear, apple, fig.", "apple, fig, pear"),
        ("past-tense", 'Rewrite the sentence "I go to school." in the past tense.', "I went to school."),
        ("french", 'Translate "thank you" into French.', "merci"),
    ]
    answers: dict[str, tuple[list[str], ...]] = {
        "pig-latin": (["ellohay", "orldway"], ["ello-hay", "orld-way"], ["ellohay", "worldway"]),
        "plurals": (["mice", "children", "feet"],),
        "sorted-words": (["apple", "fig", "pear"],),
        "past-tense": (["went"],),
        "french": (["merci"], ["merci", "beaucoup"]),
    }
    by_words = [Sentinel(i, p, words(p, *answers[i]), "transform", example) for i, p, example in found]
    return by_words + _exact_transforms()


def _exact_transforms() -> list[Sentinel]:
    reverse = 'Reverse the letters of the word "planet". Answer with the result only.'
    vowels = 'Remove every vowel from the word "elephant". Answer with the result only.'
    replace = (
        'Replace every letter "a" in the word "banana" with the letter "o". Answer with the result only.'
    )
    repeat = 'Repeat the word "lemon" exactly three times. Answer with the result only.'
    capitals = 'Write the sentence "the cat sat on the mat" in capital letters.'
    spelled = 'Spell the word "garden" with a hyphen between the letters.'
    return [
        Sentinel("reversed", reverse, exactly("tenalp"), "transform", "tenalp"),
        Sentinel("no-vowels", vowels, exactly("lphnt"), "transform", "lphnt"),
        Sentinel("replaced", replace, exactly("bonono"), "transform", "bonono"),
        Sentinel(
            "repeated",
            repeat,
            exactly("lemon lemon lemon", "lemon, lemon, lemon"),
            "transform",
            "lemon lemon lemon",
        ),
        Sentinel("capitals", capitals, shaped(capitals, CAPITALS, CAPITALS), "transform", CAPITALS),
        Sentinel("spelled", spelled, words(spelled, ["g-a-r-d-e-n"]), "transform", "g-a-r-d-e-n"),
    ]


CAPITALS = "THE CAT SAT ON THE MAT"
DAYS = "Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday"


def _lists() -> list[Sentinel]:
    primes = "List three prime numbers."
    seasons = "Name the four seasons of the year."
    days = "List the days of the week, beginning with Monday."
    vowels = "List the five vowels of the alphabet."
    colours = "Name the three primary colours of paint."
    even = "List the first five even numbers greater than zero."
    countdown = "Count down from five to one."
    multiples = "List the first four multiples of 7."
    squares = "List the squares of 1, 2, 3 and 4."
    four = [["spring", "summer", autumn, "winter"] for autumn in ("autumn", "fall")]
    return [
        Sentinel("three-primes", primes, numbers(primes, _three_primes, "three primes"), "list", "2, 3, 5"),
        Sentinel(
            "four-seasons",
            seasons,
            words(seasons, *four, ordered=False),
            "list",
            "spring, summer, autumn, winter",
        ),
        Sentinel("weekdays", days, words(days, DAYS.lower().split(", ")), "list", DAYS),
        Sentinel("vowels", vowels, words(vowels, list("aeiou")), "list", "a, e, i, o, u"),
        Sentinel(
            "colours",
            colours,
            words(colours, ["red", "yellow", "blue"], ordered=False),
            "list",
            "red, yellow, blue",
        ),
        _sequence("even-numbers", even, [2, 4, 6, 8, 10]),
        _sequence("countdown", countdown, [5, 4, 3, 2, 1]),
        _sequence("multiples", multiples, [7, 14, 21, 28]),
        _sequence("squares", squares, [1, 4, 9, 16]),
    ]


def _sequence(name: str, prompt: str, expected: list[int]) -> Sentinel:
    shown = ", ".join(map(str, expected))
    return Sentinel(name, prompt, numbers(prompt, expected.__eq__, shown), "list", shown)


def _formats() -> list[Sentinel]:
    record = 'Write a JSON object with the keys "a" and "b" and integer values.'
    array = "Write a JSON array with the numbers 1, 2 and 3."
    element = 'Wrap the word "river" in an XML element named "item".'
    line = "Write the numbers 4, 5 and 6 as one line of CSV."
    brackets = 'Write the word "stone" inside square brackets.'
    date = 'Write the date "5 March 2021" in ISO 8601 format.'
    sum_of = "Write a Python expression that adds 2 and 3."
    fruits = "Write a Markdown bullet list of exactly three fruits."
    animals = "Write a numbered list of exactly three animals."
    return [
        Sentinel(
            "json-integers",
            record,
            json_value(record, _integers_a_and_b, '{"a": int, "b": int}'),
            "format",
            '{"a": 1, "b": 2}',
        ),
        Sentinel(
            "json-array", array, json_value(array, _is_one_two_three, "[1, 2, 3]"), "format", "[1, 2, 3]"
        ),
        Sentinel(
            "xml",
            element,
            shaped(element, r"<item>\s*river\s*</item>", "<item>river</item>"),
            "format",
            "<item>river</item>",
        ),
        Sentinel("csv", line, shaped(line, r"^4, ?5, ?6", "4,5,6"), "format", "4,5,6"),
        Sentinel("brackets", brackets, shaped(brackets, r"\[stone\]", "[stone]"), "format", "[stone]"),
        Sentinel(
            "iso-date", date, shaped(date, r"(?<![\d-])2021-03-05", "2021-03-05"), "format", "2021-03-05"
        ),
        Sentinel(
            "python-sum",
            sum_of,
            shaped(sum_of, r"(?<![\d+-])(?:2 ?\+ ?3|3 ?\+ ?2)", "2 + 3"),
            "format",
            "2 + 3",
        ),
        Sentinel(
            "bullets",
            fruits,
            items(fruits, r"[-*•]", 3, FRUITS, "fruits"),
            "format",
            "- apple\n- pear\n- plum",
        ),
        Sentinel(
            "numbered",
            animals,
            items(animals, r"[1-3][.)]", 3, ANIMALS, "animals"),
            "format",
            "1. cat\n2. dog\n3. horse",
        ),
    ]


def _facts() -> list[Sentinel]:
    compare = "Is the number 9 greater than the number 4? Answer with yes or no only."
    total = "What is 17 plus 25? Answer with the number only."
    opposite = 'What is the opposite of the word "hot"? Answer with one word only.'
    return [
        Sentinel("yes-or-no", compare, exactly("yes"), "fact", "yes"),
        Sentinel("number-only", total, exactly("42"), "fact", "42"),
        Sentinel("one-word", opposite, exactly("cold"), "fact", "cold"),
    ]


SENTINELS: tuple[Sentinel, ...] = (*_transforms(), *_lists(), *_formats(), *_facts())
"""All sentinel prompts, in a fixed order; ids are unique and stable."""

_BY_ID: Mapping[str, Sentinel] = MappingProxyType({s.id: s for s in SENTINELS})


def sentinel_by_id(name: str) -> Sentinel:
    """The sentinel with this id.

    Raises:
        UsageError: no sentinel has this id.
    """
    if name not in _BY_ID:
        from llmguard.errors import UsageError

        raise UsageError("name", name, f"one of {', '.join(sorted(_BY_ID))}")
    return _BY_ID[name]
