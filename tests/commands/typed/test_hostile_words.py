"""Every option of every command is given what no option takes: refused in one line that names it, before any work.

The commands and their options are those that there are: one that is added is tried here without a word.
"""

import inspect
import math
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import typer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.models import ArgumentInfo, ParameterInfo

from deepcache_trt import cli
from deepcache_trt.commands.typed import refused
from deepcache_trt.errors import in_one_line
from tests.commands.command_line import Result, Run, assert_one_line, run_process

NUMBERS = ("x", " ", "", "1e999", "nan", "-inf", "1" + "0" * 30, "-1" + "0" * 30, "9" * 5000, "x" * 100_000, "\udcff")
TEXTS = ("\udcff", "a\udcffb")
PATHS = ("\udcff",)


def _info(parameter: inspect.Parameter) -> ParameterInfo | None:
    return next((each for each in get_args(parameter.annotation)[1:] if isinstance(each, ParameterInfo)), None)


def _is_required(parameter: inspect.Parameter) -> bool:
    return parameter.default is inspect.Parameter.empty


def _value(parameter: inspect.Parameter) -> list[str]:
    """What a parameter that must be given can be."""
    text = "digits" if "str" in str(get_args(parameter.annotation)[0]) else "1"
    return ["given.safetensors"] if "Path" in str(parameter.annotation) else [text]


def _trials() -> Iterator[tuple[str, str, str, tuple[str, ...]]]:
    """A command, one of its parameters, what messages call it, and what it is given in turn."""
    for command, function in cli.COMMANDS.items():
        for name, parameter in inspect.signature(function, eval_str=True).parameters.items():
            kind = str(get_args(parameter.annotation)[0])
            if "bool" in kind:
                continue
            is_number = "int" in kind or "float" in kind
            values = NUMBERS if is_number else PATHS if "Path" in kind else TEXTS
            yield command, name, refused.names(function)[name], values


def _words(command: str, name: str, value: str) -> list[str]:
    """A command line in which one parameter has this value, and those that must be given have some."""
    parameters = inspect.signature(cli.COMMANDS[command], eval_str=True).parameters
    options, arguments = list[str](), list[str]()
    for each, parameter in parameters.items():
        is_argument = isinstance(_info(parameter), ArgumentInfo)
        if each != name and not _is_required(parameter):
            continue
        for word in [value] if each == name else _value(parameter):
            if is_argument:
                arguments.append(word)
            else:
                options.append(f"{refused.names(cli.COMMANDS[command])[each]}={word}")
    return [*command.split(), *options, *(["--", *arguments] if arguments else [])]


TRIALS = sorted(_trials())


def test_there_is_something_to_try() -> None:
    assert len(TRIALS) > 400
    assert {command for command, *_ in TRIALS} | {"experiment list"} == set(cli.COMMANDS)


@pytest.fixture
def quick(run: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The same command, whose parser is made once and not for every call."""
    monkeypatch.setattr(cli, "app", typer.main.get_command(cli.app))
    return run


@pytest.mark.parametrize("command", sorted({command for command, *_ in TRIALS}))
def test_no_option_takes_what_is_no_number_and_no_text(
    command: str, quick: Run, record_property: Callable[[str, object], None]
) -> None:
    for _, name, option, values in (trial for trial in TRIALS if trial[0] == command):
        for value in values:
            result, seconds = _timed(quick, _words(command, name, value))
            if seconds > 1:  # the machine may have been busy once
                result, seconds = _timed(quick, _words(command, name, value))
            assert seconds < 1, (command, option, value[:50])
            assert_one_line(result)
            assert len(result.err) < 3200
            assert option.lstrip("-").lower() in result.err.lower(), (command, option, value[:50], result.err)
        record_property("hostile inputs refused", len(values))


def _timed(run: Run, words: list[str]) -> tuple[Result, float]:
    began = time.process_time()  # other tests may run meanwhile
    return run(*words), time.process_time() - began


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["bench", "--size", "100000000"], "--size 100000000 is beyond 65,536; give a smaller number"),
        (["bench", "--steps", "2147483648"], "--steps 2147483648 is beyond 100,000"),
        (["batch", "p.txt", "--out", "o", "--batch", "100000000"], "--batch 100000000 is beyond 1,000,000"),
        (["generate", "x", "--steps", "-2000000"], "--steps -2000000 is beyond 100,000"),
        (["build", "--model", "digits", "--workspace", "1e308"], "--workspace 1e+308 is beyond"),
        (["bench", "--model", ""], "--model is empty; give what it is for"),
        (["bench", "--dtype="], "--dtype is empty"),
        (["generate", "x", "--store", "/dev/null"], "--store /dev/null can be no folder: /dev/null is none"),
        (["store", "ls", "--store", "/dev/null/x"], "--store /dev/null/x can be no folder"),
        (["doctor", "--store", "x" * 300], "can be no folder: File name too long"),
        (["generate", "a\udcffb"], "prompt 'a\\udcffb' is not UTF-8"),
        (["generate", "x", "--negative", "\udcff"], "--negative '\\udcff' is not UTF-8"),
        (["profile", "--model", "digits", "--config", "sd15"], "digits is not one file, and has configs of its own"),
        (["profile", "--model", "sd15", "--size", " "], "--size ' ' is no number and no range"),
        (["profile", "--model", "sd15", "--size", "9" * 5000], "is no number and no range"),
    ],
)
def test_what_would_take_long_or_fill_the_memory_is_refused_before(run: Run, words: list[str], message: str) -> None:
    result = run(*words)
    assert_one_line(result)
    assert message in result.err


def test_a_link_to_nothing_is_no_store(run: Run, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    result = run("store", "ls", "--store", tmp_path / "link")
    assert_one_line(result)
    assert "can be no folder: No such file" in result.err


def test_an_empty_prompt_is_one(run: Run) -> None:
    assert "num_inference_steps must be at least 1" in run("generate", "", "--negative", "", "--steps", 0).err


def test_the_bytes_of_a_command_line_need_not_be_letters() -> None:
    result = run_process("generate", "x", "--model", "\udcff\x1b[31m")
    assert_one_line(result)
    assert "\x1b" not in result.err


# What a message repeats of what was typed.


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=5000))
def test_a_message_is_one_line_that_a_terminal_only_shows(text: str) -> None:
    line = in_one_line(f"error with {text}")
    assert line.isprintable()
    assert len(line) <= 3001
    assert "\n" not in line


def test_a_message_of_words_stays_as_it_is() -> None:
    assert in_one_line("--out a.png: it is…  “there” already;\n choose ×2") == (
        "--out a.png: it is… “there” already; choose ×2"
    )
    assert len(in_one_line("x" * 100_000)) < 300


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=st.integers() | st.floats() | st.text(st.characters()), option=st.sampled_from(["--steps", "--guidance"]))
def test_a_value_is_refused_by_name_or_is_one_that_can_be_drawn_with(value: Any, option: str) -> None:
    try:
        refused.check(option, value)
    except ValueError as error:
        assert str(error).startswith(f"{option} ")  # noqa: PT017  # either is right; if it is refused it is by name
        return
    if isinstance(value, str):
        assert value.encode().decode() == value
    else:
        assert math.isfinite(value)
        assert abs(value) <= 10**12


def test_the_largest_seed_is_a_seed() -> None:
    refused.check("--seed", 2**63 - 1)
    refused.check("--random", sys.maxsize)
