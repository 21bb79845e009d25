"""Every command is registered, says what it and each of its options is for, and answers to its other name."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from deepcache_trt import cli
from deepcache_trt.benchmarks.alias import repeated
from deepcache_trt.benchmarks.experiments.declared import experiments

FOLDER = Path(cli.__file__).parent / "commands"
NO_COMMANDS = {
    "__init__",
    "options",
    "output",
    "quantities",
    "refused",
    "comparison",
}  # what commands share, or a first word alone hands on
SEVERAL = {"declared", "server", "prompts", "page", "imports"}  # which say by themselves how they are typed


def test_every_file_is_a_command() -> None:
    paths = [path.relative_to(FOLDER).with_suffix("") for path in FOLDER.rglob("*.py")]
    named = {" ".join(path.parts).replace("_", "-") for path in paths if path.name not in NO_COMMANDS | SEVERAL}
    experiment = {f"experiment {name}" for name in experiments()}
    assert named | experiment | {"eval", "serve", "batch", "ui", "store import"} == set(cli.COMMANDS)


def test_a_command_is_one_file(tmp_path: Path) -> None:
    """Dropped into the folder of a copy of the package, and nothing else."""
    shutil.copytree(FOLDER.parent, tmp_path / "deepcache_trt", ignore=shutil.ignore_patterns("__pycache__", "digits"))
    (tmp_path / "deepcache_trt" / "commands" / "greet.py").write_text(
        '"""`deepcache-trt greet`."""\n\n\ndef greet() -> None:\n    """Say hello."""\n    print("hello")\n'
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-m", "deepcache_trt.cli", "greet"]
    assert subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True).stdout == "hello\n"


def click_command(words: str) -> Any:
    """What typer makes of a command or of a group; "" is the whole app."""
    command: Any = typer.main.get_command(cli.app)
    for word in words.split():
        command = command.commands[word]
    return command


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_says_what_a_command_and_each_of_its_options_is_for(command: str) -> None:
    made = click_command(command)
    assert made.help.partition("\n")[0].endswith(".")
    assert [parameter.name for parameter in made.params if not parameter.help] == []
    shown = CliRunner().invoke(cli.app, [*command.split(), "--help"], prog_name="deepcache-trt", catch_exceptions=False)
    assert shown.exit_code == 0
    assert shown.output.startswith(f"Usage: deepcache-trt {command} [OPTIONS]")


@pytest.mark.parametrize("group", ["", "check", "router", "store"])
def test_a_list_of_commands_cuts_no_summary_off(group: str) -> None:
    shown = CliRunner().invoke(cli.app, [*group.split(), "--help"]).output
    lines = dict(line.split(maxsplit=1) for line in shown.partition("Commands:\n")[2].splitlines())
    assert set(lines) == set(click_command(group).commands)
    assert [name for name, summary in lines.items() if summary.endswith("...")] == []


@pytest.mark.parametrize(
    ("given", "command"),
    [
        ("--frames 14 25 --model svd", "--frames 14 --frames 25 --model svd"),
        ("--out here --models digits sd15 sd21", "--out here --models digits --models sd15 --models sd21"),
        ("--out=here --minutes 3", "--out=here --minutes 3"),
        ("stray", "stray"),
        ("", ""),
    ],
)
def test_several_values_of_an_option_may_follow_one_another(given: str, command: str) -> None:
    assert repeated(given.split()) == command.split()


@pytest.mark.parametrize(
    ("module", "command"),
    [("cpu_check", "check cpu"), ("gpu_check", "check gpu"), ("memory", "memory"), ("reuse", "reuse")],
)
def test_a_command_has_its_other_name(module: str, command: str) -> None:
    other = [sys.executable, "-m", f"deepcache_trt.benchmarks.{module}", "--no-such-option"]
    ended = subprocess.run(other, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr.startswith("error: No such option: --no-such-option")
    assert ended.stderr.endswith(f"; see deepcache-trt {command} --help\n")
