"""The Python stack of a process that hung or crashed, from what faulthandler wrote."""

from __future__ import annotations

import re

__all__ = ["Frame", "main_thread", "place"]

_FRAME = re.compile(r'^  File "(?P<file>.+)", line (?P<line>\d+|\?\?\?) in (?P<function>.+)$')
_OURS = ("/llmguard/probe/bootstrap.py", "<frozen ", "<probe>")

Frame = tuple[str, int, str]
"""File, line, function."""


def main_thread(text: str) -> list[Frame]:
    """The frames of the main thread in the newest dump, innermost first: threads are dumped from newest to
    oldest."""
    blocks: list[list[Frame]] = []
    inside = False
    for line in text.splitlines():
        if "(most recent call first)" in line:
            blocks.append([])
            inside = True
        elif inside and (found := _FRAME.match(line)):
            number = found["line"]
            blocks[-1].append((found["file"], int(number) if number.isdigit() else 0, found["function"]))
    return next((block for block in reversed(blocks) if block), [])


def place(text: str) -> str:
    """`FILE:LINE in FUNCTION` of the innermost frame that is not of the import system or the probe; ""
    without one."""
    frames = main_thread(text)
    theirs = [frame for frame in frames if not any(ours in frame[0] for ours in _OURS)]
    for file, line, function in theirs[:1] or frames[:1]:
        return f"{file}:{line} in {function}"
    return ""
