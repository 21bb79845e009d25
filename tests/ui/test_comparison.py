"""A comparison of the page: the pictures, what they are worth, and the same in Python, as a command and as a plan."""

import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepcache_trt.errors import DeepCacheError
from deepcache_trt.pipelines.engine_options import EngineOptions
from deepcache_trt.runtime.policies import Adaptive, DeepCache, Policy, Uncached
from deepcache_trt.serving.painter import Painter, Served
from deepcache_trt.ui.comparison import POLICIES, Asked, Shown, compare, strip
from tests.commands.command_line import Run

SEVEN = Asked(model="digits", prompt="a handwritten seven", steps=4, guidance=2.0, seed=3, interval=2)


@pytest.fixture(scope="module")
def painter(store_root: Path) -> Painter:
    options = EngineOptions(backend="onnxruntime", store=store_root)
    return Painter(Served(models={"digits": "digits"}, adapters={}, options=options))


@pytest.fixture(scope="module")
def shown(painter: Painter) -> list[Shown]:
    return list(compare(painter, SEVEN))


def test_steps_are_shown_as_they_are_done_and_then_both_pictures(shown: list[Shown]) -> None:
    counts = [each.strip.partition("<br>")[0].rpartition(" ")[2] for each in shown]
    assert counts == ["1/4", "2/4", "3/4", "4/4", "1/4", "2/4", "3/4", "4/4", "4/4"]
    assert [each.cached is None for each in shown] == [True] * 4 + [False] * 5
    assert "2 full, 2 cached" in shown[-1].cached_words
    assert "as fast" in shown[-1].cached_words
    assert "PSNR" in shown[-1].fidelity


def test_the_difference_is_that_of_the_pictures(shown: list[Shown]) -> None:
    plain, cached, difference = (
        np.asarray(each, dtype=int) for each in (shown[-1].plain, shown[-1].cached, shown[-1].difference)
    )
    assert plain.shape == (256, 256, 3), "four times as large as the digits are"
    assert np.array_equal(difference, (8 * np.abs(plain - cached)).clip(0, 255))


@pytest.mark.parametrize(
    ("change", "policy"),
    [
        ({}, DeepCache(cache_interval=2)),
        ({"branch": 3, "forecast": "taylor1"}, DeepCache(cache_interval=2, cache_branch_id=3, forecast="taylor1")),
        ({"policy_name": "Uncached"}, Uncached()),
        ({"policy_name": "Adaptive"}, Adaptive(threshold=0.1)),
        ({"policy_name": POLICIES[-1], "plan": '{"cache_interval": 4, "about": {}}'}, DeepCache(cache_interval=4)),
    ],
)
def test_the_same_as_a_plan_file(change: dict[str, Any], policy: Policy) -> None:
    asked = replace(SEVEN, **change)
    assert asked.policy() == policy
    assert replace(SEVEN, policy_name=POLICIES[-1], plan=asked.as_plan()).policy() == policy


def test_the_same_in_python_and_as_a_command(
    shown: list[Shown], run: Run, tmp_path: Path, store_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image

    monkeypatch.setenv("DEEPCACHE_TRT_STORE", str(store_root))
    found: dict[str, Any] = {}
    code = SEVEN.as_python().replace("policy=", "backend='onnxruntime', policy=")
    exec(code, found)
    words = shlex.split(SEVEN.as_command())[1:]
    picture = tmp_path / "seven.png"
    assert run(*words, "--backend", "onnxruntime", "--store", store_root, "--out", picture).code == 0
    expected = np.asarray(shown[-1].cached.resize((64, 64), Image.Resampling.NEAREST))  # type: ignore[union-attr]
    assert np.array_equal(np.asarray(found["image"]), expected)
    assert np.array_equal(np.asarray(Image.open(picture)), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": "13x64"}, "width 13 is no multiple of 8"),
        ({"size": "large"}, "size 'large' is none"),
        ({"policy_name": POLICIES[-1], "plan": "{"}, "the plan file is no JSON: "),
        ({"policy_name": POLICIES[-1], "plan": "[]"}, "the plan file is no JSON object"),
        ({"policy_name": POLICIES[-1], "plan": json.dumps({"cache_intervall": 3})}, "cache_intervall"),
        ({"branch": 12}, "outside 0…11"),
        ({"model": "sdxl"}, "unknown model|sdxl"),
    ],
)
def test_what_cannot_be_drawn_is_told(painter: Painter, change: dict[str, Any], message: str) -> None:
    with pytest.raises((DeepCacheError, KeyError), match=message):
        list(compare(painter, replace(SEVEN, **change)))


def test_a_strip_has_a_square_for_every_call() -> None:
    text = strip(["full", "cached", "skipped"], 2, "<b>")
    assert text.count('class="call') == 3
    assert text.count('class="call full"') == text.count('class="call cached"') == 1
    assert 'class="call skipped"' not in text
    assert "&lt;b&gt; 2/3" in text
