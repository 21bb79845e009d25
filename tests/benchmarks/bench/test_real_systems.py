"""`deepcache-trt bench`: real runs on the bundled model, and a seeded one of real size."""

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from deepcache_trt.benchmarks.timing import our_system, systems
from deepcache_trt.benchmarks.timing.seeded import random_pipeline
from deepcache_trt.benchmarks.timing.systems import Picture
from deepcache_trt.engines.store import Store
from deepcache_trt.models.catalogue import resolve
from deepcache_trt.runtime.policies import DeepCache
from tests.benchmarks.nearer import Nearer


def picture(folder: Path, name: str, **changes: Any) -> dict[str, Any]:
    latents = str(folder / f"{name}.npy")
    drawn = Picture(folder=str(resolve("digits")), dtype="float32", pixels=64, steps=4, latents=latents)
    return asdict(replace(drawn, **changes))


def test_each_image_of_a_batch_is_that_of_its_own_seed_and_parts_are_timed_apart(tmp_path: Path) -> None:
    figures = systems.diffusers(picture(tmp_path, "both", batch=2))()
    parts = [figures[f"{part}_seconds"] for part in ("text", "loop", "decoder")]
    assert all(0 < seconds < 30 for seconds in parts)
    systems.diffusers(picture(tmp_path, "second", seed=1))()
    both, second = (np.load(tmp_path / f"{name}.npy") for name in ("both", "second"))
    assert both.shape == (2, *second.shape[1:])
    np.testing.assert_allclose(both[1:], second, atol=1e-5)
    assert np.abs(both[:1] - second).max() > 0.1


@pytest.mark.slow
def test_what_is_built_before_is_all_that_is_opened(tmp_path: Path, store_root: Path, built: list[str]) -> None:
    """The seconds of a first call are without those of building."""
    asked = picture(tmp_path, "ours")
    where: dict[str, Any] = {"backend": "onnxruntime", "store": str(store_root)}
    policies = [policy.to_json() for policy in (DeepCache(cache_interval=2), Nearer())]
    our_system.build(asked, policies=policies, **where)
    built.clear()
    draw = our_system.ours(asked, **where, policy=policies[0], keep_torch_weights=False, exact=True)
    draw()
    figures = draw()
    assert [figures[name] for name in ("way", "full_runs", "shallow_runs")] == ["whole loop", 2, 2]
    nearer = our_system.ours(asked, **where, policy=policies[1], keep_torch_weights=False, exact=True)
    nearer()
    figures = nearer()
    assert [figures[f"{name}_runs"] for name in ("full", "at tap_0", "at tap_1", "shallow")] == [1, 1, 1, 0]
    assert not built
    assert our_system.build(asked, policies=policies, **where)() == {"built": []}


@pytest.mark.slow
def test_a_seeded_pipeline_of_real_size_takes_prompts_of_the_published_length(tmp_path: Path) -> None:
    folder = random_pipeline("sd15", "bfloat16", Store(tmp_path), prompts=True)
    pipe = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.bfloat16)
    embeds, _ = pipe.encode_prompt("a handwritten seven", "cpu", 1, True)
    assert embeds.shape == (1, 77, 768)
    assert embeds.isfinite().all()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_smoke_preset_measures_this_machine_and_ours_keeps_the_picture(tmp_path: Path) -> None:
    out, chart, page = (tmp_path / name for name in ("bench.json", "chart.svg", "benchmarks.md"))
    command = [
        sys.executable,
        "-m",
        "deepcache_trt.cli",
        "bench",
        "--preset",
        "smoke",
        "--repeats",
        "2",
        "--out",
        str(out),
    ]
    command += ["--backend", "openvino", "--backend", "onnxruntime", "--store", str(tmp_path / "store")]
    first = subprocess.run([*command, "--chart", str(chart)], capture_output=True, text=True)
    assert first.returncode == 0, first.stderr
    record = json.loads(out.read_text(), parse_constant=pytest.fail)
    assert [outcome["error"] for entry in record["cells"] for outcome in entry["outcomes"]] == [""] * 6
    plain, cached = (entry["fidelity"] for entry in record["cells"])
    for ours in ("ours (openvino)", "ours (onnxruntime)"):
        assert plain[ours]["psnr_db"] > 80
        assert cached[ours]["psnr_db"] == pytest.approx(cached["DeepCache package"]["psnr_db"], abs=0.1)
        assert cached[ours]["psnr_db"] < 60
    assert "64 px, batch 1" in chart.read_text()
    assert str(tmp_path) not in out.read_text() + first.stdout
    again = subprocess.run([*command, "--compare", str(out), "--docs", str(page)], capture_output=True, text=True)
    assert "Differ: seconds by at most 0.0 %; " in again.stdout
    assert again.stdout.startswith(first.stdout.rstrip("\n").partition("\n\n")[0])
    assert "| 1024 | 8 | I=5 B=0 | 101.95 | 33.72 | 3.02× |" in page.read_text()
