"""Configs: what a run was asked for, written and read again, and what cannot be meant."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepcache_trt.benchmarks.experiments.config import Config, read_config
from deepcache_trt.errors import DeepCacheError

CONFIG = Config(experiment="branches", prompts=("one", "two"), intervals=(3, 5), steps=20, guidance=2.0)
CONFIGS = st.builds(
    Config,
    experiment=st.just("branches"),
    prompts=st.lists(st.text(min_size=1).filter(lambda text: bool(text.strip()))).map(tuple),
    seeds=st.none() | st.integers(1, 9),
    seed=st.integers(0, 2**31),
    guidance=st.none() | st.floats(0, 20),
    intervals=st.lists(st.integers(1, 50)).map(tuple),
    schedulers=st.lists(st.sampled_from(["ddim", "unipc"])).map(tuple),
    clip=st.booleans(),
)


@given(config=CONFIGS)
def test_what_is_written_is_read_again(config: Config, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("configs") / "config.json"
    path.write_text(json.dumps(config.record()), encoding="utf-8")
    assert read_config(path) == config


def test_toml_says_the_same(tmp_path: Path) -> None:
    text = 'experiment = "branches"\nprompts = ["one", "two"]\nintervals = [3, 5]\nsteps = 20\nguidance = 2.0\n'
    (tmp_path / "config.toml").write_text(text, encoding="utf-8")
    assert read_config(tmp_path / "config.toml") == CONFIG


def test_what_is_given_goes_before_what_is_there() -> None:
    assert CONFIG.with_given({"steps": 9, "intervals": [2], "seed": None}) == replace(CONFIG, steps=9, intervals=(2,))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot read --config .*: Expecting property name"),
        ("[]", "names no experiment; give the config.json of one"),
        (
            '{"experiment": "branches", "interval": [3]}',
            r"unknown 'interval' \(did you mean 'intervals'",
        ),
        ('{"experiment": "branches", "intervals": 3}', r"intervals is 3, which is no tuple\[int, ...\]; mend it"),
        ('{"experiment": "branches", "intervals": ["3"]}', r'intervals is \["3"\], which is no tuple'),
        ('{"experiment": "branches", "steps": true}', "steps is true, which is no <class 'int'>"),
        ('{"experiment": "branches", "steps": 0}', "steps 0 is below 1; give at least that many"),
        ('{"experiment": "branches", "prompts": [" "]}', "a prompt is empty; leave it out, or write one"),
    ],
)
def test_what_no_config_says_is_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "config.json").write_text(content, encoding="utf-8")
    with pytest.raises(DeepCacheError, match=message):
        read_config(tmp_path / "config.json")
