"""Pipelines whose denoiser is quantized: calibrated once for each schedule, and bit for bit the same again."""

from pathlib import Path
from typing import Any

import pytest
import torch

from deepcache_trt import DeepCachePipeline
from deepcache_trt.builder.component import from_model
from deepcache_trt.engines.store import Artefact, Store
from deepcache_trt.errors import BackendError, DeepCacheError, UnknownNameError
from tests import tiny
from tests.builder.stores import kept, store_with_graph
from tests.pipelines.drawing import difference, draw, python_between_steps
from tests.pipelines.loras import fresh, save_two

INT8: dict[str, Any] = {
    "precision": "int8",
    "calibration_prompts": ("a handwritten seven",),
    "backend": "onnxruntime",
    "components": (),
}


FLOAT: dict[str, Any] = {"backend": "onnxruntime", "components": ()}


@pytest.fixture
def store(store_root: Path, tmp_path: Path) -> Store:
    """A store with the U-Net's graph, and nothing that is quantized."""
    unet = from_model(tiny.denoiser("sd15"), name="tiny", part="unet")
    return store_with_graph(unet, store_root, tmp_path / "store")


def cached(plain: Any, store: Store, **options: Any) -> Any:
    return DeepCachePipeline.from_pipe(plain, **{"cache_interval": 3, "store": store.root, **INT8, **options})


def calibrations(store: Store) -> list[Artefact]:
    return [each for each in store.list() if each.kind == "calibrations"]


def test_a_picture_is_near_that_of_the_float_engines_and_the_same_again(store: Store) -> None:
    plain = tiny.stable_diffusion()
    pipe = cached(plain, store)
    first = draw(pipe, guidance_scale=1.0)
    assert pipe.last_run.way == "whole loop"
    assert torch.equal(draw(cached(plain, store), guidance_scale=1.0), first)
    assert len(calibrations(store)) == 1
    without = draw(DeepCachePipeline.from_pipe(plain, **FLOAT, store=store.root, cache_interval=3), guidance_scale=1.0)
    assert 1e-4 < float((first - without).norm() / without.norm()) < 0.1


def test_both_ways_in_draw_the_same_picture(store: Store) -> None:
    pipe = cached(tiny.stable_diffusion(), store)
    whole = draw(pipe)
    per_step = draw(pipe, callback_on_step_end=python_between_steps)
    assert pipe.last_run.way == "per step"
    # The ways differ by rounding, and values that lie between two steps of a scale are rounded to either.
    assert float((whole - per_step).norm() / whole.norm()) < 1e-3


def test_each_schedule_is_calibrated_once_as_it_is_drawn(store: Store) -> None:
    pipe = cached(tiny.stable_diffusion(), store)
    images = {3: [draw(pipe)]}
    for interval in (2, 3, 2):
        pipe.set_cache_params(cache_interval=interval)
        images.setdefault(interval, []).append(draw(pipe))
    assert all(torch.equal(first, again) for first, again in images.values())
    found = calibrations(store)
    assert sorted(each.about["calibration"]["policy"]["cache_interval"] for each in found) == [2, 3]
    a, b = (each.about["scales"] for each in found)
    assert a.keys() == b.keys()
    assert a["mid_block.resnets.0.conv1.weight"] != b["mid_block.resnets.0.conv1.weight"]


def test_a_calibration_in_the_middle_of_a_picture_leaves_no_trace_on_it(store: Store) -> None:
    plain = tiny.stable_diffusion()
    pipe = cached(plain, store)
    scheduler, bar = pipe.scheduler, pipe.progress_bar
    first = draw(pipe)
    assert pipe.scheduler is scheduler
    assert pipe.progress_bar == bar
    assert "forward" not in vars(plain.unet)
    assert torch.equal(draw(pipe), first)


def test_torch_weights_are_dropped_after_a_calibration_too(store: Store) -> None:
    plain = tiny.stable_diffusion()
    plain.unet = tiny.new_denoiser("sd15")
    draw(cached(plain, store, keep_torch_weights=False))
    assert calibrations(store)
    assert {weight.device.type for weight in plain.unet.parameters()} == {"meta"}


@pytest.mark.filterwarnings("ignore:Already found a `peft_config` attribute in the model:UserWarning")
def test_loras_are_merged_before_anything_is_quantized_and_the_way_back_is_exact(store: Store, tmp_path: Path) -> None:
    loras = save_two(tmp_path / "loras")
    plain = fresh()
    for name in ("a", "b"):
        plain.load_lora_weights(loras / name, adapter_name=name)
    pipe = cached(plain, store, cache_interval=1)
    images = []
    for name in ("a", "b", "a"):
        plain.set_adapters([name], [0.8])
        images.append(draw(pipe))
    assert torch.equal(images[2], images[0])
    without = DeepCachePipeline.from_pipe(plain, **FLOAT, store=store.root, cache_interval=1)
    assert difference(images[2], draw(without)) < 0.2 * difference(images[0], images[1])


@pytest.mark.slow
def test_a_pipeline_of_other_inputs_uses_the_scales_of_the_checkpoint(store: Store) -> None:
    controlled = tiny.stable_diffusion_controlnet()
    pipe = cached(controlled, store)
    image = torch.linspace(0, 1, 2 * 3 * 64 * 64).reshape(2, 3, 64, 64)
    assert draw(pipe, image=image).isfinite().all()
    draw(cached(tiny.stable_diffusion(), store))
    assert len(calibrations(store)) == 1


def test_without_a_text_encoder_the_scales_are_those_of_noise_and_said_to_be(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    plain = tiny.stable_diffusion()
    embeds = torch.randn((2, 1, 77, plain.unet.config.cross_attention_dim), generator=torch.Generator().manual_seed(0))
    plain.text_encoder = plain.tokenizer = None
    pipe = cached(plain, store)
    pipe(prompt_embeds=embeds[0], negative_prompt_embeds=embeds[1], num_inference_steps=3, output_type="latent")
    assert "are those of seeded noise: its engines are for timing only" in caplog.text
    assert [each.about["calibration"] for each in calibrations(store)] == [{"inputs": "seeded", "calls": 2}]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"precision": "int4"},
            UnknownNameError,
            r"unknown precision 'int4' \(did you mean 'int8'\?\); there is",
        ),
        ({"precision": None, "quantize": ("all",)}, DeepCacheError, "has no meaning without a precision"),
        ({"calibration_prompts": "nowhere.txt"}, DeepCacheError, "cannot read the calibration prompts in nowhere.txt"),
        ({"calibration_prompts": (" ",)}, DeepCacheError, "there are no calibration prompts in"),
    ],
)
def test_what_cannot_be_quantized_is_refused_when_it_is_asked_for(
    store: Store, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    given = {**INT8, **options}
    if given["precision"] is None:
        given["calibration_prompts"] = None
    with pytest.raises(error, match=message):
        cached(tiny.stable_diffusion(), store, **given)


def test_a_backend_without_the_precision_says_which_have_it(store: Store) -> None:
    pipe = cached(tiny.stable_diffusion(), store, backend="torch")
    with pytest.raises(BackendError, match=r"'torch' has no int8 on the CPU; .* use backend 'openvino'"):
        draw(pipe)
    assert not kept(store, "calibrations")


@pytest.mark.slow
def test_layers_are_chosen_by_their_names(store: Store) -> None:
    draw(cached(tiny.stable_diffusion(), store, quantize=["mid_block.*"]))
    (graph,) = [each for each in store.list() if each.about.get("precision") and each.kind == "graphs"]
    assert graph.about["quantized"]
    assert all(name.startswith("mid_block.") for name in graph.about["quantized"])
