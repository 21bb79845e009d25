"""`deepcache-trt profile`: what it prints of a model, from a folder, from the catalogue and from the store."""

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
from diffusers import DDPMPipeline, DDPMScheduler, DiTPipeline
from typer.testing import CliRunner

from deepcache_trt.benchmarks.counting import model_counts as module
from deepcache_trt.benchmarks.counting.macs import count_macs
from deepcache_trt.benchmarks.counting.model_counts import count_model, per_step
from deepcache_trt.benchmarks.counting.model_report import markdown
from deepcache_trt.builder.component import from_model
from deepcache_trt.builder.graphs import GRAPH, graph_artefact
from deepcache_trt.cli import app
from deepcache_trt.engines.store import Store
from deepcache_trt.errors import CheckpointError, DeepCacheError, ShapeError, UnknownNameError
from deepcache_trt.export.cut import cut
from deepcache_trt.models.taps import Variant
from deepcache_trt.progress import logged
from deepcache_trt.runtime.plan import Plan
from deepcache_trt.runtime.policies.deepcache import variants_at
from tests import tiny

SIZES = {"batch": 2, "height": 16, "width": 8}
SHAPE = ("--size", "16x8", "--batch", "2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline's folder; its weights are taken away, because nothing reads them."""
    folder = tmp_path_factory.mktemp("ddpm")
    pipe: Any = DDPMPipeline(unet=tiny.denoiser("ddpm"), scheduler=DDPMScheduler())
    pipe.save_pretrained(folder)
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    return folder


@pytest.fixture(scope="module")
def graph(store_root: Path) -> onnx.ModelProto:
    """The graph of the folder's model, which the store has from here on."""
    component = from_model(tiny.denoiser("ddpm"), name="tiny", part="unet")
    return onnx.load(graph_artefact(component, Store(store_root), logged).folder / GRAPH, load_external_data=False)


def run(folder: Path, *options: str) -> str:
    arguments = ["profile", "--model", str(folder), "--dtype", "float32", *options]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def as_json(folder: Path, *options: str) -> dict[str, Any]:
    printed: dict[str, Any] = json.loads(run(folder, *SHAPE, "--json", *options))
    return printed


def test_each_variant_is_counted_from_its_graph(folder: Path, graph: onnx.ModelProto) -> None:
    found = as_json(folder, "--branch", "0", "--branch", "2")
    assert (found["class"], found["dtype"], found["not_cached"]) == ("UNet2DModel", "float32", "")
    assert found["inputs"] == {"sample": [2, 3, 16, 8], "timestep": [1]}
    cuts: dict[int | None, Variant] = {
        None: Variant(name="full"),
        **{branch: variants_at(branch)[1] for branch in (0, 2)},
    }
    assert [row["branch"] for row in found["variants"]] == list(cuts)
    for row, variant in zip(found["variants"], cuts.values(), strict=True):
        macs = count_macs(cut(graph, variant), SIZES)
        assert row["macs"] == {"weights": macs.weights, "attention": macs.attention}
        assert row["bytes"]["weights"] == 4 * row["parameters"]
    full, near, deep = (row["macs"]["weights"] for row in found["variants"])
    assert near < deep < full


def test_a_generation_costs_the_average_of_its_plan(folder: Path, graph: onnx.ModelProto) -> None:
    found = as_json(folder, "--steps", "10", "--interval", "4")
    full, shallow = (row["macs"] for row in found["variants"])
    assert found["generation"]["calls"] == {"full": 3, "shallow": 7, "skip": 0}
    (row,) = found["generation"]["branches"]
    for kind in ("weights", "attention"):
        assert row["macs_per_step"][kind] == pytest.approx((3 * full[kind] + 7 * shallow[kind]) / 10)
    assert row["speedup"]["weights"] == pytest.approx(full["weights"] / row["macs_per_step"]["weights"])


def test_a_plan_file_is_averaged_over_at_its_own_branch(folder: Path, graph: onnx.ModelProto, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text('{"full_steps": [0, 4], "skip_interval": 2, "cache_branch_id": 2}')
    found = as_json(folder, "--steps", "8", "--plan", str(plan))
    assert found["generation"]["calls"] == {"full": 2, "shallow": 4, "skip": 2}
    assert [row["branch"] for row in found["variants"]] == [None, 2]
    with pytest.raises(DeepCacheError, match="says how to cache already; leave out cache_interval"):
        as_json(folder, "--plan", str(plan), "--interval", "4")


def test_a_call_that_is_left_out_costs_nothing() -> None:
    plan = Plan(variants=("full", "shallow", "skip", "shallow"))
    assert per_step(plan, 10.0, 1.0) == (10 + 1 + 1) / 4


def test_the_share_of_the_prediction_is_what_a_measurement_reaches(folder: Path, graph: onnx.ModelProto) -> None:
    gpu = ("--peak-tflops", "1", "--bandwidth", "100")
    plain = as_json(folder, *gpu)["prediction"]
    assert plain["is"].startswith("Nothing was run: a prediction")
    assert all(row["share"] is None for row in plain["variants"])
    full, shallow = (row["predicted_seconds"] for row in plain["variants"])
    assert 0 < shallow < full
    assert all(row["least_seconds"] <= row["predicted_seconds"] for row in plain["variants"])
    measured = as_json(folder, *gpu, "--seconds", f"full={2 * full}", "--seconds", f"shallow={4 * shallow}")
    assert [row["share"] for row in measured["prediction"]["variants"]] == pytest.approx([0.5, 0.25])
    (step,) = measured["prediction"]["steps"]
    assert 0.25 < step["share"] < 0.5
    assert step["measured_speedup"] < step["speedup"]


def test_people_read_the_same_figures(folder: Path, graph: onnx.ModelProto) -> None:
    options = ("--peak-tflops", "1", "--bandwidth", "100", "--seconds", "full=1")
    found, text = as_json(folder, *options), run(folder, *SHAPE, *options)
    assert "at sample 2×3×16×8, timestep 1" in text.splitlines()[0]
    for row in found["variants"]:
        title = "full" if row["branch"] is None else f"shallow, k={row['branch']}"
        line = next(line for line in text.splitlines() if line.startswith(f"| {title} "))
        giga = [float(cell) for cell in line.strip("|").split("|")[2:4]]
        assert giga == pytest.approx([row["macs"][kind] / 1e9 for kind in ("weights", "attention")], rel=0.01)
    assert "**Prediction** for GPU as given (1 TFLOPS, 100 GB/s; --peak-tflops, --bandwidth)" in text
    assert "Nothing was run" in text
    assert "| measured, ms | share |" in text
    assert "Prediction" not in run(folder, *SHAPE)


def test_a_graph_that_was_built_is_not_exported_again(
    folder: Path, graph: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "onnx_from_config", None)
    assert as_json(folder)["variants"]


def test_a_model_without_skip_connections_has_no_branches(tmp_path: Path, store_root: Path) -> None:
    """Which taps of a DiT are reused is for a mask to say."""
    pipe: Any = DiTPipeline(transformer=tiny.denoiser("dit"), vae=tiny.part("vae"), scheduler=DDPMScheduler())
    pipe.save_pretrained(tmp_path)
    found = json.loads(run(tmp_path, "--batch", "2", "--json"))
    assert found["not_cached"] == "a DiTTransformer2DModel has no skip connections"
    assert [row["name"] for row in found["variants"]] == ["full"]
    assert found["generation"]["branches"] == []
    assert "Not cached: a DiTTransformer2DModel has no skip connections." in markdown(found)


@pytest.mark.parametrize(
    ("model", "changes", "error", "message"),
    [
        ("sdv", {}, UnknownNameError, r"unknown model 'sdv' \(did you mean 'svd'\?\)"),
        (
            "owner/name",
            {},
            CheckpointError,
            "owner/name is not on this machine; download it first, or give a local folder",
        ),
        ("sd15", {"size": "580"}, ShapeError, "must be multiples of 8; use 576"),
        ("sd15", {"size": "576"}, None, ""),
        ("sd15", {"size": "520"}, None, ""),
        ("ddpm-bedroom", {"size": "260"}, ShapeError, "no multiple of the U-Net's 32"),
        ("sd15", {"size": "512-1024"}, ShapeError, "--size 512-1024 is a range; .* one size, as --size 1024"),
        ("sd15", {"precision": "int9"}, UnknownNameError, "unknown precision 'int9'"),
        ("sd15", {"precision": "int8", "branches": [0, 1]}, DeepCacheError, "depends on the branch; give one --branch"),
        ("sd15", {"precision": "int8", "branches": [0, 1], "quantize": ["all"]}, None, ""),
        ("sd15", {"batch": 64}, ShapeError, "a batch of 64 is outside the profile 1–63"),
        (
            "sd15",
            {"branches": [0, 12]},
            UnknownNameError,
            "sd15: .*=12 is outside 0…11: there are 12 skip connections",
        ),
    ],
)
def test_what_has_no_answer_is_refused_before_anything_is_exported(
    model: str,
    changes: dict[str, Any],
    error: type[DeepCacheError] | None,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def exported(*_: Any, **__: Any) -> None:
        raise InterruptedError("exporting")

    monkeypatch.setattr(module, "onnx_from_config", exported)
    asked = {"dtype": "float16", "size": None, "batch": 1, "tokens": None, "branches": [0], **changes}
    with pytest.raises(error or InterruptedError, match=message or "exporting"):
        count_model(model, **asked, store=Store(tmp_path), progress=logged)


def test_a_folder_without_a_denoiser_says_what_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(CheckpointError, match="neither a unet nor a transformer"):
        count_model(
            str(tmp_path),
            dtype="float16",
            size=None,
            batch=1,
            tokens=None,
            branches=[0],
            store=Store(tmp_path),
            progress=logged,
        )
