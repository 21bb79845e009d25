"""Configs of experiments: what a run was asked for, written and read again, and what cannot be meant."""

import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepcache_trt import cli
from deepcache_trt.benchmarks.experiments.declared import experiments
from deepcache_trt.benchmarks.experiments.options import Options
from deepcache_trt.commands.experiment import declared
from tests.commands.command_line import Run, assert_one_line

Read = Callable[..., Any]


@pytest.fixture(scope="module")
def read() -> Any:
    """A function that gives the options which the command makes of what is typed."""
    found: list[Options] = []

    def keep(experiment: Any, options: Options, *rest: Any) -> None:
        found.append(options)

    def function(*words: object) -> Options:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(declared, "_run", keep)
            cli.app([str(word) for word in ("experiment", *words)], standalone_mode=False)
        return found.pop()

    return function


VALUES = {
    "prompt": st.lists(st.text(min_size=1).filter(lambda text: bool(text.strip()))),
    "seeds": st.integers(1, 9),
    "seed": st.integers(0, 2**31),
    "guidance": st.none() | st.floats(0, 20),
    "interval": st.lists(st.integers(1, 50), min_size=1),
    "scheduler": st.lists(st.sampled_from(["ddim", "unipc"]), min_size=1),
    "clip": st.booleans(),
    "dtype": st.sampled_from([None, "float16"]),
}


@settings(max_examples=50)
@given(config=st.fixed_dictionaries({}, optional=VALUES))
def test_what_is_written_is_read_again(
    config: dict[str, Any], read: Read, tmp_path_factory: pytest.TempPathFactory
) -> None:
    options = experiments()["schedulers"].options(
        **{name: tuple(value) if isinstance(value, list) else value for name, value in config.items()}
    )
    path = tmp_path_factory.mktemp("configs") / "config.json"
    path.write_text(json.dumps({"experiment": "schedulers", **options.record()}), encoding="utf-8")
    assert read("schedulers", "--config", path) == options


@pytest.mark.parametrize("name", experiments())
def test_what_is_not_given_is_as_declared(name: str, read: Read) -> None:
    assert read(name) == experiments()[name].options()


def test_toml_says_the_same_and_options_go_before_it(read: Read, tmp_path: Path) -> None:
    text = 'experiment = "branches"\nprompt = ["one", "two"]\ninterval = [3, 5]\nsteps = 20\nguidance = 2.0\n'
    (tmp_path / "config.toml").write_text(text, encoding="utf-8")
    options = experiments()["branches"].options
    asked: dict[str, Any] = {"prompt": ("one", "two"), "guidance": 2.0}
    file = tmp_path / "config.toml"
    assert read("branches", "--config", file) == options(**asked, interval=(3, 5), steps=20)
    assert read("branches", "--interval", 2, "--config", file, "--steps", 9) == options(**asked, interval=(2,), steps=9)


@pytest.mark.parametrize("name", experiments())
def test_every_option_says_what_it_is(name: str, run: Run) -> None:
    text = run("experiment", name, "--help").out
    assert all(f"--{field.name.replace('_', '-')}" in text for field in fields(experiments()[name].options))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot read --config"),
        ("[]", "names no experiment; give the config.json of one"),
        ('{"experiment": "generate"}', "is of generate; give it to `deepcache-trt experiment generate`"),
        ('{"experiment": "branches", "intervall": [3]}', "unknown 'intervall' (did you mean 'interval'"),
        ('{"experiment": "branches", "interval": 3}', "interval is 3, which it cannot be; mend it"),
        ('{"experiment": "branches", "interval": ["a"]}', "Invalid value for '--interval'"),
        ('{"experiment": "branches", "steps": true}', "steps is true, which it cannot be"),
        ('{"experiment": "branches", "steps": 0}', "steps 0 is below 1; give at least that many"),
        ('{"experiment": "branches", "prompt": [" "]}', "a prompt is empty; leave it out, or write one"),
    ],
)
def test_what_no_config_says_is_named(run: Run, tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "config.json").write_text(content, encoding="utf-8")
    result = run("experiment", "branches", "--config", tmp_path / "config.json", "--out", tmp_path / "out")
    assert_one_line(result)
    assert message in result.err
    assert not (tmp_path / "out").exists()
