"""`--llmguard-budget`: how much GPU memory a worker of xdist may take; a size, above zero."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pytest_llmguard import ladder, placement

Inner = Callable[..., pytest.RunResult]
TEST = "def test_it(pytestconfig):\n    from pytest_llmguard.ladder import option\n    print('BUDGET', option(pytestconfig, 'budget'))\n"


@pytest.mark.parametrize(
    ("given", "ini", "budget"),
    [
        ((), "", None),
        (("--llmguard-budget", "4 GiB"), "", 4 * 2**30),
        ((), "2 GB", 2 * 10**9),
        (("--llmguard-budget=1000",), "2 GB", 1000),
    ],
)
def test_a_size_from_the_command_line_or_the_ini_file(
    inner: Inner, pytester: pytest.Pytester, given: tuple[str, ...], ini: str, budget: int | None
) -> None:
    """The command line wins; without either there is none, and workers take turns."""
    pytester.makepyfile(TEST)
    pytester.makeini(f"[pytest]\nllmguard_budget = {ini}\n" if ini else "[pytest]\n")
    assert f"BUDGET {budget}" in inner("-s", *given).stdout.str()


@pytest.mark.parametrize("given", ["much", "0", "-3 GiB", "4 apples", ""])
def test_what_is_no_size_is_refused(inner: Inner, pytester: pytest.Pytester, given: str) -> None:
    """One line with the value and what is allowed; nothing runs."""
    pytester.makepyfile(TEST)
    result = inner(f"--llmguard-budget={given}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert (
        f"--llmguard-budget: {given!r} is not allowed: expected a size above 0 such as '4 GiB'"
        in result.stderr.str()
    )


def test_it_decides_how_many_compute_at_once(
    monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config
) -> None:
    """Three of 20 GiB fit into 79, with a context each; without a budget one at a time."""
    from llmguard.placement import VisibleGpu

    gib = 2**30
    session = placement.Session(pytestconfig, {"devices": 1, "kind": "cuda"})
    monkeypatch.setattr(
        placement, "gpus_here", lambda *_: (VisibleGpu("GPU-a", total=80 * gib, free=79 * gib),)
    )
    monkeypatch.setattr(placement, "option", lambda *_: 20 * gib)
    assert {place.at_once for place in session.places(8)} == {3}
    monkeypatch.setattr(placement, "option", lambda *_: None)
    assert {place.at_once for place in session.places(8)} == {1}
    assert ladder.flag_of("budget") == "--llmguard-budget"
