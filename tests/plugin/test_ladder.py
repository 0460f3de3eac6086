"""One ladder for every option: the marker, the command line, the ini file, the constant; the first that speaks wins."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_llmguard.ladder import MARKABLE, flag_of, option, validate
from pytest_llmguard.options import OPTIONS

if TYPE_CHECKING:
    from collections.abc import Callable

SOME: dict[str, tuple[str, str, str, Any]] = {
    "project": ("cli.toml", "ini.toml", "mark.toml", None),
    "model": ("cli", "ini", "mark", None),
    "adapter": ("cli", "ini", "mark", None),
    "sample": ("11", "12", "13", 2000),
    "deadline": ("1.5", "2.5", "3.5", 60.0),
    "strict": ("", "true", "true", False),
    "engine": ("processes", "processes", "", "serial"),
    "json": ("cli.json", "ini.json", "", None),
    "html": ("cli.html", "ini.html", "", None),
    "sarif": ("cli.sarif", "ini.sarif", "", None),
    "bugs": ("cli", "ini", "", None),
    "gpu": ("", "true", "", False),
    "gpu_leaks": ("", "true", "", False),
    "budget": ("4GiB", "2GiB", "", None),
}
"""Option -> a value on the command line, in the ini file, in the marker; its constant."""


def config_of(pytester: pytest.Pytester, *arguments: str, ini: str = "") -> pytest.Config:
    if ini:
        pytester.makeini(f"[pytest]\n{ini}\n")
    return pytester.parseconfig("-p", "no:hypothesispytest", *arguments)


def meant(pytester: pytest.Pytester, name: str, text: str) -> Any:
    takes = OPTIONS[name][0]
    typed = {"COUNT": int, "SECONDS": float, "FLAG": lambda _: True}
    typed["SIZE"] = lambda t: int(t.removesuffix("GiB")) * 2**30
    typed |= dict.fromkeys(("FILE", "DIR"), lambda t: pytester.path / t)
    return typed.get(takes, str)(text)


def argument(name: str) -> str:
    return f"{flag_of(name)}={SOME[name][0]}" if SOME[name][0] else flag_of(name)


@pytest.mark.parametrize("name", OPTIONS)
def test_the_last_rung_is_the_constant(pytester: pytest.Pytester, name: str) -> None:
    """Where nobody says anything the constant holds, and argparse has None."""
    config = config_of(pytester)
    assert option(config, name) == SOME[name][3] == OPTIONS[name][1]
    assert config.getoption(flag_of(name)) is None


@pytest.mark.parametrize("name", OPTIONS)
def test_the_ini_file_wins_over_the_constant(pytester: pytest.Pytester, name: str) -> None:
    """Also for flags: `llmguard_strict = true` is heard."""
    config = config_of(pytester, ini=f"llmguard_{name} = {SOME[name][1]}")
    assert option(config, name) == meant(pytester, name, SOME[name][1])


@pytest.mark.parametrize("name", OPTIONS)
def test_the_command_line_wins_over_the_ini_file(pytester: pytest.Pytester, name: str) -> None:
    """Both given: the command line."""
    config = config_of(
        pytester, argument(name), ini=f"llmguard_{name} = {SOME[name][1].replace('true', 'false')}"
    )
    assert option(config, name) == meant(pytester, name, SOME[name][0])


@pytest.mark.parametrize("name", [n for n, (takes, *_) in OPTIONS.items() if takes == "FLAG"])
def test_the_command_line_can_say_no(pytester: pytest.Pytester, name: str) -> None:
    """A flag that the ini file sets is unset by its `--no-` form."""
    config = config_of(pytester, flag_of(name).replace("--", "--no-", 1), ini=f"llmguard_{name} = true")
    assert option(config, name) is False


def test_the_marker_wins_over_the_command_line(pytester: pytest.Pytester) -> None:
    """The marker of a test is the first rung; it says nothing about other options and other tests."""
    given = {name: SOME[name][2] == "true" or SOME[name][2] for name in MARKABLE}
    settings = ", ".join(f"{name}={value!r}" for name, value in given.items())
    pytester.makepyfile(
        f"import pytest\n@pytest.mark.llmguard({settings})\ndef test_a(): pass\ndef test_b(): pass\n"
    )
    (pytester.path / "cli.toml").touch()
    arguments = ["--no-llmguard-strict" if name == "strict" else argument(name) for name in MARKABLE]
    items, _ = pytester.inline_genitems("-p", "no:hypothesispytest", "--llmguard-json=r.json", *arguments)
    marked, unmarked = (item for item in items if isinstance(item, pytest.Function))
    assert [option(marked.config, n, marked) for n in MARKABLE] == [
        meant(pytester, n, SOME[n][2]) for n in MARKABLE
    ]
    before = [option(marked.config, n) for n in MARKABLE]
    assert [option(marked.config, n, unmarked) for n in MARKABLE] == before
    assert not any(a == b for a, b in zip(before, given.values(), strict=True))
    assert option(marked.config, "json", marked) == pytester.path / "r.json"


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("sample", "0", "a whole number, 1 or more"),
        ("sample", "ten", "a whole number, 1 or more"),
        ("sample", "1.5", "a whole number, 1 or more"),
        ("deadline", "0", "a number of seconds above 0"),
        ("deadline", "soon", "a number of seconds above 0"),
        ("deadline", "nan", "a number of seconds above 0"),
        ("deadline", "inf", "a number of seconds above 0"),
        ("engine", "ray", "one of serial, processes"),
        ("model", " ", "a name that is not empty"),
        ("json", "", "the path of a file"),
    ],
)
def test_a_rejected_value_names_itself_its_source_and_what_is_allowed(
    pytester: pytest.Pytester, inner: Callable[..., pytest.RunResult], name: str, value: str, expected: str
) -> None:
    """One clean line on stderr, the exit code of a usage error, for the command line and for the ini file."""
    pytester.makepyfile("def test_a(): pass")
    result = inner(f"{flag_of(name)}={value}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert result.errlines == [f"ERROR: {flag_of(name)}: {value!r} is not allowed: expected {expected}", ""]
    if value.strip():
        pytester.makeini(f"[pytest]\nllmguard_{name} = {value}\n")
        result = inner()
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        told = " ".join(result.errlines)
        assert f"llmguard_{name} in tox.ini" in told
        assert value in told
        assert f"expected {expected}" in told


@pytest.mark.parametrize("value", ["maybe", "2"])
def test_a_flag_in_the_ini_file_is_true_or_false(
    pytester: pytest.Pytester, inner: Callable[..., pytest.RunResult], value: str
) -> None:
    """Anything else is a usage error with the value and the setting."""
    pytester.makeini(f"[pytest]\nllmguard_strict = {value}\n")
    result = inner()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "llmguard_strict in tox.ini" in result.stderr.str()
    assert repr(value) in result.stderr.str()
    assert "expected true or false" in result.stderr.str()


@pytest.mark.parametrize(
    ("marker", "told"),
    [
        (
            "smaple=3",
            "@pytest.mark.llmguard does not know smaple: it takes project, model, adapter, sample, deadline, strict",
        ),
        ("3", "@pytest.mark.llmguard does not know 3: it takes "),
        ("sample=0", "@pytest.mark.llmguard(sample=…): 0 is not allowed: expected a whole number, 1 or more"),
        (
            "strict='perhaps'",
            "@pytest.mark.llmguard(strict=…): 'perhaps' is not allowed: expected true or false",
        ),
        ("json='x'", "@pytest.mark.llmguard does not know json"),
    ],
)
def test_a_wrong_marker_fails_its_test_in_one_line(
    pytester: pytest.Pytester, inner: Callable[..., pytest.RunResult], marker: str, told: str
) -> None:
    """It is told in set-up, without a traceback; other tests still run."""
    pytester.makepyfile(
        f"import pytest\n@pytest.mark.llmguard({marker})\ndef test_a(): pass\ndef test_b(): pass\n"
    )
    result = inner()
    result.assert_outcomes(errors=1, passed=1)
    assert told in result.stdout.str()
    assert "Traceback" not in result.stdout.str()


def test_native_toml_settings_are_typed(pytester: pytest.Pytester) -> None:
    """Numbers and flags are numbers and flags in `[tool.pytest]`, which pytest has known since version 9."""
    if pytest.version_tuple < (9,):
        pytest.skip("pytest 9 brought [tool.pytest]")
    pytester.makepyprojecttoml(
        "[tool.pytest]\nllmguard_sample = 5\nllmguard_strict = true\nllmguard_deadline = 2\n"
    )
    config = pytester.parseconfig("-p", "no:hypothesispytest")
    assert [option(config, n) for n in ("sample", "strict", "deadline")] == [5, True, 2]


def test_paths_are_resolved_where_they_are_written(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the command line from the folder pytest was started in, in the ini file from that file's folder."""
    pytester.makeini("[pytest]\nllmguard_html = page.html\n")
    folder = pytester.mkdir("sub")
    monkeypatch.chdir(folder)
    config = pytester.parseconfig(
        "-p", "no:hypothesispytest", "--llmguard-json", "report.json", "--rootdir", ".."
    )
    assert option(config, "json") == folder / "report.json"
    assert option(config, "html") == pytester.path / "page.html"


@pytest.mark.parametrize("name", ["json", "html", "sarif"])
def test_a_report_cannot_be_a_folder(pytester: pytest.Pytester, name: str) -> None:
    """That is told before anything runs."""
    config = pytester.parseconfig("-p", "no:hypothesispytest", flag_of(name), str(pytester.path))
    with pytest.raises(pytest.UsageError, match="is a folder: expected a file to write"):
        validate(config)


def test_help_lists_every_option(pytester: pytest.Pytester, inner: Callable[..., pytest.RunResult]) -> None:
    """`--help` shows each option and each ini twin with its sentence."""
    text = " ".join(inner("--help").stdout.str().split())
    for name, (_, _, sentence) in OPTIONS.items():
        assert f"{flag_of(name)}" in text
        assert f"llmguard_{name} (" in text
        assert text.count(sentence) >= 2


def test_each_option_has_a_file_of_its_own() -> None:
    """Each option is tested in `test_option_<name>.py`."""
    missing = [name for name in OPTIONS if not (Path(__file__).parent / f"test_option_{name}.py").is_file()]
    assert not missing, f"write tests/plugin/test_option_<name>.py for {missing}"


def test_a_projects_own_gpu_option_stays(
    pytester: pytest.Pytester, inner: Callable[..., pytest.RunResult]
) -> None:
    """A conftest that has a `--gpu` of its own keeps it: nothing collides, and giving it counts as ours."""
    pytester.makeconftest(
        "def pytest_addoption(parser):\n    parser.addoption('--gpu', default=None, help='which')\n"
    )
    pytester.makepyfile("def test_a(request): assert request.config.getoption('--gpu') is None")
    inner().assert_outcomes(passed=1)
    config = pytester.parseconfig("-p", "no:hypothesispytest", "--gpu", "1")
    assert config.getoption("--gpu") == "1"
    assert option(config, "gpu") is True
