"""Strict judges of completions: pure total functions from text to a verdict with its reason.

A completion follows an instruction when it *is* the answer, perhaps after a courteous preface and perhaps before
an explanation. It does not when the answer's words merely turn up in rambling. So every judge reads from the
beginning: what stands before or between the answer's words may only be courtesy or words of the instruction.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest

__all__ = ["Judge", "Judgement", "exactly", "items", "json_value", "numbers", "shaped", "words"]

LONGEST = (
    4_000  # characters judged: an answer stands at the beginning, and no input may cost more than a blink
)
MOST_FILLER = 40  # words of preface and connection; more than that is rambling
SHORTEST_STEM = 3
SHORT_LINE = 3  # a line of so few words goes on with a list; a longer one is an explanation
COURTESY = frozenset(
    "a an and answer answers are as be below certainly course follows following for glad happy help helps here hope i in is"
    " it of ok okay on one output please possible result results s so some such sure that the then there these they this"
    " those thank to was were will with would you your".split()
)
NUMBER_WORDS = {
    w: str(n)
    for n, w in enumerate("zero one two three four five six seven eight nine ten eleven twelve".split())
}
_TOKEN = re.compile(r"[0-9]+(?:-[0-9]+)+|(?<![\w.])-?[0-9]+(?:\.[0-9]+)?|[^\W\d_]+(?:['’-][^\W\d_]+)*")
_NUMBER = re.compile(r"-?[0-9]{1,9}")
_ENUMERATOR = re.compile(r"^[ \t]*(?:[-*•]|\(?[0-9]{1,2}[.)])[ \t]+")
_DESCRIPTION = re.compile(r":\s|:$|\s[-–—(]|\s=\s")
_FENCE = re.compile(r"```[a-zA-Z]*\s*\n?(.*?)```", re.DOTALL)
_SEGMENT_END = re.compile(r"\n+|(?<=[.!?])\s+(?!\d)")


@dataclass(frozen=True)
class Judgement:
    """Whether a completion follows its instruction, and in a few words why."""

    followed: bool
    why: str


Judge = Callable[[str], Judgement]


def _no(why: str) -> Judgement:
    return Judgement(False, why)


def _shown(text: str, limit: int = 40) -> str:
    return repr(text if len(text) <= limit else f"{text[: limit - 3]}...")


def _clean(text: str) -> str:
    text = _FENCE.sub(r"\1", text[:LONGEST]).replace("**", "").replace("__", "").replace("`", "")
    return text.strip()


def _tokens(text: str) -> list[str]:
    return [t.replace("’", "'") for t in _TOKEN.findall(text.lower())]


class _Filler:
    """Words that may surround an answer: courtesy and the instruction's own, inflected or not, unless they are the answer."""

    def __init__(self, prompt: str, answer: Collection[str] = ()) -> None:
        self.answer, self.stems = frozenset(answer), frozenset(map(_stem, [*COURTESY, *_tokens(prompt)]))

    def __contains__(self, token: str) -> bool:
        return token not in self.answer and _stem(token) in self.stems


def _stem(token: str) -> str:
    """A word without its English ending: sort, sorts, sorted, sorting are one."""
    for ending in ("ing", "ed", "es", "s", "e"):
        if token.endswith(ending) and len(token) - len(ending) >= SHORTEST_STEM:
            return token.removesuffix(ending)
    return token


def _segments(text: str) -> list[str]:
    """Sentences and lines in order, without their list markers and, in a list, without the items' descriptions."""
    found: list[str] = []
    for line in text.splitlines():
        bare, marked = _ENUMERATOR.subn("", line)
        found += [_DESCRIPTION.split(bare, maxsplit=1)[0]] if marked else _SEGMENT_END.split(bare)
    return [s for s in found if s.strip()]


def _prefixes(text: str, filler: _Filler) -> Iterator[tuple[list[str], str]]:
    """(content so far, the segment that comes next) after each segment; stops where the preface turns into rambling."""
    segments, content, skipped = _segments(text), list[str](), 0
    for segment, following in zip_longest(segments, segments[1:], fillvalue=""):
        tokens = _tokens(segment)
        kept = [t for t in tokens if t not in filler]
        content, skipped = content + kept, skipped + len(tokens) - len(kept)
        if skipped > MOST_FILLER:
            return
        yield content, following


def _judged(text: str, filler: _Filler, matches: Callable[[list[str]], bool], wanted: str) -> Judgement:
    first: list[str] | None = None
    for content, following in _prefixes(_clean(text), filler):
        first = content if first is None and content else first
        if content and matches(content):
            if 0 < len(_tokens(following)) <= SHORT_LINE and not set(_tokens(following)) <= COURTESY:
                return _no(f"goes on after the answer with {_shown(following.strip())}")
            return Judgement(True, f"answers {_shown(' '.join(content))}")
    if first is None:
        return _no("empty" if not text.strip() else "nothing but courtesy or the instruction's own words")
    return _no(f"expected {wanted}, found {_shown(' '.join(first))}")


def _either(matches: Callable[[list[str]], bool], restated: list[str]) -> Callable[[list[str]], bool]:
    """Also accept the answer after the instruction's own items ("the multiples of 7 are 7, 14, …")."""
    n = len(restated)
    return lambda content: matches(content) or (content[:n] == restated and matches(content[n:]))


def words(prompt: str, *answers: Sequence[str], ordered: bool = True) -> Judge:
    """Followed when nothing but the words of one of `answers` is left after courtesy and the prompt's own words."""
    known = {w for answer in answers for w in answer}
    filler, restated = _Filler(prompt, known), [t for t in _tokens(prompt) if t in known]

    def same(content: list[str]) -> bool:
        if ordered:
            return any(content == list(answer) for answer in answers)
        return any(Counter(content) == Counter(answer) for answer in answers)

    return lambda text: _judged(text, filler, _either(same, restated), " ".join(answers[0]))


def numbers(prompt: str, accepts: Callable[[list[int]], bool], wanted: str) -> Judge:
    """Followed when the numbers given, in digits or (up to twelve) in words, and nothing else, are accepted."""

    restated = [t for t in _tokens(prompt) if _NUMBER.fullmatch(t)]
    in_digits, in_words = _Filler(prompt, restated), _Filler(prompt, [*restated, *NUMBER_WORDS])

    def good(content: list[str]) -> bool:
        given = [NUMBER_WORDS.get(t, t) for t in content]
        return all(_NUMBER.fullmatch(t) for t in given) and accepts([int(t) for t in given])

    def judge(text: str) -> Judgement:
        has_digits = any(t[-1].isdigit() for t in _tokens(_clean(text)))
        return _judged(text, in_digits if has_digits else in_words, _either(good, restated), wanted)

    return judge


def exactly(*answers: str, any_case: bool = True) -> Judge:
    """Followed when the whole completion is one of `answers`, give or take quotes, a full stop and a label."""

    def bare(text: str) -> str:
        text = re.sub(
            r"^(?:the )?(?:answer|result|output)(?: is)?\s*:?\s+", "", _clean(text), flags=re.IGNORECASE
        )
        text = text.strip("\"'“”‘’* \n").rstrip(".!").strip("\"'“”‘’* \n")
        return text.casefold() if any_case else text

    allowed = {a.casefold() if any_case else a for a in answers}

    def judge(text: str) -> Judgement:
        if bare(text) in allowed:
            return Judgement(True, f"is {_shown(bare(text))}")
        return _no(f"expected {_shown(answers[0])} and nothing else, found {_shown(text.strip())}")

    return judge


def _foreign(before: str, filler: _Filler) -> str:
    """What stands before an answer and may not: foreign words, or courtesy without end; empty where there is none."""
    tokens = _tokens(before)
    found = [t for t in tokens if t not in filler]
    return _shown(" ".join(found or tokens)) if found or len(tokens) > MOST_FILLER else ""


def shaped(prompt: str, pattern: str, wanted: str) -> Judge:
    """Followed when a line ends with what `pattern` (case counts) describes, after nothing but courtesy."""
    compiled, filler = re.compile(rf"({pattern})[\s.\"'”]*$", re.MULTILINE), _Filler(prompt)

    def judge(text: str) -> Judgement:
        clean = _clean(text)
        found = compiled.search(clean)
        if found is None:
            return _no(f"no line ends with {wanted}: {_shown(clean)}")
        foreign = _foreign(clean[: found.start()], filler)
        if foreign:
            return _no(f"{wanted} stands in other text: {foreign}")
        return Judgement(True, f"answers {_shown(found[1])}")

    return judge


def json_value(prompt: str, accepts: Callable[[object], bool], wanted: str) -> Judge:
    """Followed when the first JSON object or array, after nothing but courtesy, is accepted."""
    filler = _Filler(prompt)

    def judge(text: str) -> Judgement:
        clean = _clean(text)
        start = re.search(r"[{\[]", clean)
        if start is None:
            return _no(f"no JSON in {_shown(clean)}")
        foreign = _foreign(clean[: start.start()], filler)
        if foreign:
            return _no(f"the JSON stands in other text: {foreign}")
        try:
            value, end = json.JSONDecoder(object_pairs_hook=_object).raw_decode(clean, start.start())
        except (ValueError, RecursionError) as problem:
            return _no(f"not valid JSON ({type(problem).__name__}): {_shown(clean[start.start() :])}")
        shown = _shown(clean[start.start() : end])
        return (
            Judgement(True, f"answers {shown}")
            if accepts(value)
            else _no(f"expected {wanted}, found {shown}")
        )

    return judge


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a key stands twice")
    return dict(pairs)


def items(prompt: str, marker: str, count: int, allowed: Collection[str], noun: str) -> Judge:
    """Followed when, after at most a preface, exactly `count` different lines are `marker` and one of `allowed`."""
    line = re.compile(rf"^[ \t]*(?:{marker})[ \t]+(\S.*)$")
    filler = _Filler(prompt)

    def judge(text: str) -> Judgement:
        lines = [x for x in text[:LONGEST].replace("**", "").strip().splitlines() if x.strip()]
        while lines and not line.match(lines[0]) and all(t in filler for t in _tokens(lines[0])):
            lines.pop(0)
        given = [m[1] for m in map(line.match, lines) if m]
        heads = [_DESCRIPTION.split(g, maxsplit=1)[0].strip(" .,").casefold() for g in given]
        if not lines or len(heads) != count or not all(line.match(x) for x in lines[:count]):
            return _no(
                f"expected {count} list lines and no other before them, found {len(heads)} in {_shown(text.strip())}"
            )
        strange = [h for h in heads if not _singulars(h) & set(allowed)]
        if strange or len(set(heads)) != count:
            return _no(f"not {count} different {noun}: {_shown(', '.join(strange or heads))}")
        return Judgement(True, f"lists {_shown(', '.join(heads))}")

    return judge


def _singulars(word: str) -> set[str]:
    """What a word may be the plural of, itself included."""
    y = {f"{word.removesuffix('ies')}y"} if word.endswith("ies") else set()
    return {word, word.removesuffix("s"), word.removesuffix("es")} | y
