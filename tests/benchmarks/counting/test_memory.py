"""What a generation is said to hold is what a session holds."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deepcache_trt.benchmarks.counting.memory import Held, generation, held_by, table
from deepcache_trt.builder.component import from_model
from deepcache_trt.errors import DeepCacheError, ShapeError, UnknownNameError
from deepcache_trt.models.architecture import CallForm
from deepcache_trt.runtime.policies.deepcache import variants_at
from tests import tiny
from tests.export.exported import export
from tests.pipelines.micro import STRAIGHT, cached, draw


@pytest.mark.parametrize(
    ("name", "part", "call"),
    [
        ("sd", "unet", {}),
        ("sd", "unet", {"guidance_scale": 1.0, "height": 128}),
        ("svd", "unet", {"num_frames": 2}),
        ("svd", "unet", {}),
        ("svd", "vae", {"output_type": "pt"}),
    ],
)
def test_buffers_are_those_of_a_session(name: str, part: str, call: dict[str, Any]) -> None:
    pipe = cached(STRAIGHT[name], components=("vae",))
    draw(pipe, STRAIGHT[name], num_inference_steps=2, **call)
    live = {"unet": pipe._cached_denoiser, "vae": pipe._live_components[0]}[part]
    session = live.session
    component = from_model(live.model, name="tiny", part=part, form=CallForm(frames=call.get("num_frames")))
    sizes, _ = session._buffers_for
    assert held_by(component, 0, sizes).buffers == {name: each.nbytes for name, each in session.buffers.items()}


@pytest.mark.parametrize("branch", [0, 1])
def test_a_shallow_engine_reads_the_weights_that_its_graph_has(branch: int, store_root: Path, tmp_path: Path) -> None:
    model = tiny.denoiser("svd")
    exported = export(model, "svd", store_root, tmp_path)
    sizes = {"batch": 2, "height": 8, "width": 8}
    found = held_by(exported.component, branch, sizes).weights
    state = model.state_dict()
    for variant in variants_at(branch):
        assert found[variant.name] == sum(state[name].nbytes for name in exported.weights_of(variant))
    assert found["shallow"] < found["full"] / 2


@pytest.mark.parametrize(
    ("model", "changes", "error", "message"),
    [
        ("sdv", {}, UnknownNameError, r"unknown model 'sdv' \(did you mean 'svd'\?\); there are sd15, "),
        ("digits", {}, UnknownNameError, "unknown model 'digits'"),  # whose architecture is in its folder
        ("sd15", {"frames": 14}, DeepCacheError, "--frames 14: sd15 draws images; leave it out"),
        ("svd", {"size": "580"}, ShapeError, "must be multiples of 8"),
    ],
)
def test_what_has_no_answer_is_refused(
    model: str, changes: dict[str, Any], error: type[DeepCacheError], message: str
) -> None:
    asked = {"size": None, "batch": 1, "frames": None, "dtype": "float16", "branch": 0, **changes}
    with pytest.raises(error, match=message):
        generation(model, **asked)


def test_a_column_for_each_generation() -> None:
    few = Held(weights={"full": 2_000_000}, buffers={"sample": 500_000})
    many = Held(weights={"full": 2_000_000}, buffers={"sample": 1_500_000_000})
    rows = table({"few": {"unet": few}, "many": {"unet": many}}).splitlines()
    assert rows == [
        "| MB | few | many |",
        "|---|---:|---:|",
        "| unet: weights, full | 2.0 | 2.0 |",
        "| unet: sample | 0.5 | 1,500.0 |",
        "| **all** | 2.5 | 1,502.0 |",
    ]


@pytest.mark.slow
def test_what_the_readme_says_of_stable_video_diffusion() -> None:
    options = ["--model", "svd", "--size", "576x1024", "--frames", "14", "25"]
    command = [sys.executable, "-m", "deepcache_trt.benchmarks.memory", *options]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    assert "| unet: tap_0 | 165.2 | 294.9 |" in printed
    assert "| **all** | 3,431.1 | 3,605.5 |" in printed
