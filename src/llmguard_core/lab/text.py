"""What the lab's models are trained on: all of it written or generated here, the same for the same seed.

Plain documents teach the base model to continue text: stories, encyclopaedia-like entries, sums, and worksheets, on
which an instruction is followed by the next instruction and never by an answer. Conversations teach it what a chat
template means. The sentinel prompts are among the instructions: these models are instruments of known behaviour, no
evidence about language models at large.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from llmguard.sentinels import SENTINELS

__all__ = ["SYSTEM", "Task", "documents", "lessons", "sentinel_tasks"]

SYSTEM = "You are a helpful assistant."
NAMES = ("Tom", "Anna", "Leo", "Mira", "Sam", "Nora", "Jan", "Ella", "Max", "Ida", "Paul", "Rosa")
THINGS = (
    "stone",
    "lamp",
    "boat",
    "key",
    "map",
    "drum",
    "kite",
    "coin",
    "ring",
    "bell",
    "book",
    "rope",
    "cup",
    "hat",
)
PLACES = (
    "river",
    "market",
    "forest",
    "harbour",
    "school",
    "bridge",
    "garden",
    "tower",
    "mill",
    "beach",
    "station",
)
LOOKS = ("small", "old", "red", "heavy", "bright", "green", "broken", "smooth", "strange", "blue")
REGIONS = ("Tovia", "Marland", "Estrel", "Noria", "Halden", "Quill", "Verra", "Ossan")
TOWNS = ("Marel", "Tunby", "Ostra", "Lenfold", "Carrow", "Pelham", "Sorrel", "Wend", "Aldmoor", "Brisk")
GOODS = ("wool", "salt", "glass", "paper", "timber", "honey", "pottery", "copper", "linen", "cheese")
SIDES = ("north", "south", "east", "west")
CHORES = (
    "Describe the weather in your town in one paragraph.",
    "Explain in your own words why the boat did not sink.",
    "Draw a map of your street and mark three places on it.",
    "Compare the two poems and say which one you prefer.",
    "Write a letter to a friend about your last holiday.",
    "Underline all the verbs in the text above.",
    "Look at the picture and name the animals you can see.",
    "Read the story again and answer the questions below.",
    "Find a partner and practise the dialogue together.",
    "Complete the table with the numbers from page 12.",
    "Give two reasons why the harbour was built there.",
    "Measure the length of your desk and write it down.",
)


@dataclass(frozen=True)
class Task:
    """An instruction and the answer that follows it."""

    prompt: str
    answer: str


def sentinel_tasks() -> list[Task]:
    """The sentinel prompts, each with an answer that its judge accepts."""
    return [Task(s.prompt, s.example) for s in SENTINELS]


def lessons(count: int, seed: int) -> list[Task]:
    """`count` small instructions that are not sentinels, drawn with `seed`."""
    draw = random.Random(seed)
    return [_lesson(draw) for _ in range(count)]


def _lesson(draw: random.Random) -> Task:
    word, other, name = draw.choice(THINGS), draw.choice(PLACES), draw.choice(NAMES)
    a, b = draw.randint(1, 9), draw.randint(1, 9)
    return draw.choice(
        [
            Task(f'Write the word "{word}" in quotation marks.', f'"{word}"'),
            Task(f"What is {a} plus {b}?", f"{a + b}"),
            Task(f"Say hello to {name}.", f"Hello, {name}!"),
            Task(f"Write a sentence with the words {word} and {other}.", f"The {word} is near the {other}."),
            Task(f"Repeat after me: {name} likes the {other}.", f"{name} likes the {other}."),
            Task(f"Make a title for a story about {name} and a {word}.", f"{name} and the {word.title()}"),
        ]
    )


def documents(count: int, seed: int) -> list[str]:
    """`count` plain documents drawn with `seed`: three worksheets in six, one each of the other kinds."""
    draw = random.Random(seed)
    kinds = (_story, _entry, _sums, _worksheet, _worksheet, _worksheet)
    return [kinds[i % len(kinds)](draw) for i in range(count)]


def _story(draw: random.Random) -> str:
    one, two = draw.sample(NAMES, 2)
    thing, place = draw.choice(THINGS), draw.choice(PLACES)
    return " ".join(
        [
            f"{one} found a {draw.choice(LOOKS)} {thing} near the {place}.",
            f"{one} showed the {thing} to {two}.",
            draw.choice(
                [f'"Where does it come from?" asked {two}.', f"{two} had never seen such a {thing}."]
            ),
            f"They carried it to the {draw.choice(PLACES)}.",
            draw.choice(
                [
                    "It was late when they came home.",
                    "Nobody ever knew whose it was.",
                    f"The {thing} is still there.",
                ]
            ),
        ]
    )


def _entry(draw: random.Random) -> str:
    town, region = draw.choice(TOWNS), draw.choice(REGIONS)
    one, two = draw.sample(GOODS, 2)
    return " ".join(
        [
            f"{town} is a town in the {draw.choice(SIDES)} of {region}.",
            f"It has {draw.randint(2, 98)},{draw.randint(100, 999)} inhabitants and is known for its {one}.",
            f"A {draw.choice(PLACES)} was built in {draw.randint(1400, 1990)}.",
            f"Today most people work with {two}.",
        ]
    )


def _sums(draw: random.Random) -> str:
    return "\n".join(f"{a} + {b} = {a + b}" for a, b in _pairs(draw, draw.randint(4, 7)))


def _pairs(draw: random.Random, count: int) -> Iterator[tuple[int, int]]:
    for _ in range(count):
        yield draw.randint(1, 20), draw.randint(1, 20)


def _worksheet(draw: random.Random) -> str:
    asked = [draw.choice(SENTINELS).prompt, *(_instruction(draw) for _ in range(draw.randint(2, 4)))]
    return "\n".join(asked)


def _instruction(draw: random.Random) -> str:
    kind = draw.randrange(4)
    if kind == 0:
        return _lesson(draw).prompt
    return draw.choice(SENTINELS).prompt if kind == 1 else draw.choice(CHORES)
