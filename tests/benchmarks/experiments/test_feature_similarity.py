"""Cosines of a tap's outputs from step to step, beside those of hooks that this file sets by itself."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deepcache_trt.benchmarks.experiments.declared import experiments, feature_similarity
from deepcache_trt.benchmarks.experiments.run import run
from deepcache_trt.progress import logged
from tests import tiny

STEPS = 5


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, store_root: Path) -> tuple[Path, Any]:
    out, experiment = tmp_path_factory.mktemp("similarity") / "out", experiments()["feature-similarity"]
    options = experiment.options(prompt=("a handwritten four", "a handwritten nine"), steps=STEPS, guidance=1.0)
    given: dict[str, Any] = {"store": store_root, "command": "", "progress": logged, "tell": lambda line: None}
    return out, run(experiment, options, out, **given)


def test_cosines_are_those_of_what_a_module_gives_at_two_steps(found: tuple[Path, Any]) -> None:
    """The input of the last up layer is the output of the one before it; it is tap 0."""
    pipe, given = tiny.digits(), list[torch.Tensor]()
    module = pipe.unet.up_blocks[-1].attentions[1]
    handle = module.register_forward_hook(lambda module, args, output: given.append(output[0].flatten()))
    pipe("a handwritten nine", num_inference_steps=STEPS, guidance_scale=1.0, generator=torch.manual_seed(1))
    handle.remove()
    expected = [[torch.cosine_similarity(a, b, dim=0).item() for b in given] for a in given]
    own = np.load(found[0] / "similarity" / "000001.npy")
    assert own.shape == (12, STEPS, STEPS)
    np.testing.assert_allclose(own[0], expected, atol=1e-5)


def test_every_picture_and_tap_has_a_line_and_the_table_has_their_means(found: tuple[Path, Any]) -> None:
    out, report = found
    lines = [json.loads(line) for line in (out / "samples.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(line["of"], line["tap"]) for line in lines] == [
        (of, f"tap_{tap}") for of in ("a handwritten four", "a handwritten nine") for tap in range(12)
    ]
    of_tap = [line["neighbours"] for line in lines if line["tap"] == "tap_3"]
    assert float(report.lines[3][1]) == pytest.approx(np.mean(of_tap), abs=1e-4)
    assert (out / "plot.svg").exists()


@pytest.mark.parametrize(("cosine", "interval"), [(0.96, 3), (0.94, 1), (1.0, 8)])
def test_an_interval_is_as_long_as_calls_are_alike_to_its_first(cosine: float, interval: int) -> None:
    """Calls that are so many apart are alike by the power of their distance."""
    calls = np.arange(8)
    cosines = (cosine if cosine < 0.95 else cosine**0.5) ** np.abs(calls[:, None] - calls)
    assert feature_similarity._interval(cosines, 0.95) == interval


def test_what_was_drawn_is_not_drawn_again(
    found: tuple[Path, Any], store_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, report = found
    monkeypatch.setattr(feature_similarity, "_similarities", None)
    experiment = experiments()["feature-similarity"]
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    options = experiment.options(prompt=tuple(config["prompt"]), steps=STEPS, guidance=1.0)
    given: dict[str, Any] = {"store": store_root, "command": "", "progress": logged, "tell": lambda line: None}
    assert run(experiment, options, out, **given).lines == report.lines
