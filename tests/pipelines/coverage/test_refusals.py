"""What an engine cannot honour is refused with the argument's name and the cure, never ignored."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler

from deepcache_trt import DeepCachePipeline, DeepCacheSDHelper
from deepcache_trt.builder.shapes import call_sizes, widest_profile
from deepcache_trt.errors import (
    ArgumentError,
    CheckpointError,
    DeepCacheError,
    NotBuiltError,
    ShapeError,
    UnknownNameError,
    UnsupportedError,
)
from deepcache_trt.models.calls import tensors_from_call
from deepcache_trt.models.registry import architecture_of
from deepcache_trt.pipelines.engine_options import EngineOptions, split_keywords
from deepcache_trt.runtime.policies.deepcache import DeepCache
from tests import tiny
from tests.pipelines.drawing import draw


@pytest.fixture(scope="module")
def pipe() -> Any:
    return DeepCachePipeline.from_pipe(tiny.stable_diffusion())


def _call(name: str = "sd15", **arguments: Any) -> dict[str, torch.Tensor]:
    model = tiny.denoiser(name)
    architecture = architecture_of(model, dtype="float32")
    call = {
        "sample": torch.zeros(2, 4, 8, 8),
        "timestep": torch.tensor(7),
        "encoder_hidden_states": torch.zeros(2, 5, 32 if name == "sd15" else 64),
    }
    return tensors_from_call(architecture, model, {**call, **arguments})


@pytest.mark.parametrize(
    ("argument", "value", "cure"),
    [
        ("attention_mask", torch.ones(2, 5), "leave it out"),
        ("encoder_attention_mask", torch.ones(2, 5), "leave it out"),
        ("cross_attention_kwargs", {"scale": 0.5}, "set_adapters"),
        ("cross_attention_kwargs", {"gligen": {}}, "leave it out"),
        ("down_block_additional_residuals", (torch.ones(1),), "without the cache"),
        ("mid_block_additional_residual", torch.ones(1), "without the cache"),
        ("down_intrablock_additional_residuals", (torch.ones(1),), "T2I-adapter"),
        ("added_cond_kwargs", {"image_embeds": torch.ones(1)}, "IP-Adapter"),
        ("class_labels", torch.ones(2), "disable_cache"),
        ("timestep_cond", torch.ones(2, 4), "disable_cache"),
    ],
)
def test_an_argument_that_the_graph_does_not_have(argument: str, value: Any, cure: str) -> None:
    name = "image_embeds" if argument == "added_cond_kwargs" else argument
    with pytest.raises(UnsupportedError, match=rf"(?s){name}=.* is not an input of the graph of UNet2D.*; .*{cure}"):
        _call(**{argument: value})


@pytest.mark.parametrize(
    "empty",
    [
        {"cross_attention_kwargs": {}},
        {"cross_attention_kwargs": {"scale": 1.0}},
        {"added_cond_kwargs": {}},
        {"attention_mask": None},
    ],
)
def test_an_empty_argument_is_none(empty: dict[str, Any]) -> None:
    assert set(_call(**empty)) == {"sample", "timestep", "encoder_hidden_states"}


def test_an_input_that_the_call_lacks() -> None:
    with pytest.raises(UnsupportedError, match="called without text_embeds, which its graph takes"):
        _call("sdxl", added_cond_kwargs={"time_ids": torch.zeros(2, 6)})


@pytest.mark.parametrize("timestep", [7, 7.0, torch.tensor(7), torch.tensor([7]), torch.tensor([7, 7])])
def test_a_timestep_in_any_form(timestep: Any) -> None:
    assert torch.equal(_call(timestep=timestep)["timestep"], torch.tensor([7.0]))


def test_one_timestep_for_each_image_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="different timesteps"):
        _call(timestep=torch.tensor([7, 8]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sample": torch.zeros(2, 4, 520, 8)}, "a latent height of 520 .* is outside the profile 1–512; choose 8 to"),
        ({"sample": torch.zeros(2, 4, 8, 513)}, "a latent width of 513"),
        ({"sample": torch.zeros(64, 4, 8, 8)}, "a batch of 64 is outside the profile 1–63; draw fewer"),
        ({"sample": torch.zeros(2, 5, 8, 8)}, r"latents has shape \[2, 5, 8, 8\]"),
        ({"encoder_hidden_states": torch.zeros(3, 5, 32)}, r"prompt_embeds has shape \[3, 5, 32\]"),
        ({"encoder_hidden_states": torch.zeros(2, 5, 64)}, r"prompt_embeds has shape \[2, 5, 64\]"),
    ],
)
def test_a_shape_that_the_graph_cannot_take(change: dict[str, Any], message: str) -> None:
    architecture = architecture_of(tiny.denoiser("sd15"), dtype="float32")
    with pytest.raises(ShapeError, match=message):
        call_sizes(architecture, _call(**change))


def test_a_video_batch_counts_its_frames() -> None:
    architecture = architecture_of(tiny.denoiser("svd"), dtype="float32")
    with pytest.raises(ShapeError, match="a batch of 22 is outside the profile 1–21"):
        widest_profile(architecture).check({"batch": 22, "height": 8, "width": 8})


def test_a_bad_size_is_refused_before_anything_is_built(tmp_path: Path) -> None:
    pipe = DeepCachePipeline.from_pipe(tiny.stable_diffusion(), store=tmp_path / "store")
    with pytest.raises(ShapeError, match="latent height of 520"):
        draw(pipe, height=4160, width=64)
    assert not (tmp_path / "store").exists()


def test_build_never_names_the_command(tmp_path: Path) -> None:
    pipe = DeepCachePipeline.from_pipe(tiny.stable_diffusion(), store=tmp_path / "store", build="never")
    with pytest.raises(NotBuiltError, match=r"has no onnxruntime engine 'full' .* run: deepcache-trt build --model"):
        draw(pipe)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"cache_interval": 0}, DeepCacheError, "cache_interval must be a whole number of at least 1, not 0"),
        ({"cache_branch_id": 12}, UnknownNameError, r"cache_branch_id=12 is outside 0…11"),
        ({"cache_branch_id": -1}, DeepCacheError, "cache_branch_id must be a whole number of at least 0, not -1"),
        ({"skip_mode": "unifrom"}, UnknownNameError, r"unknown skip_mode 'unifrom' \(did you mean 'uniform'\?\)"),
        ({"backend": "tensorflow"}, UnknownNameError, "unknown backend 'tensorflow'"),
        ({"build": "maybe"}, UnknownNameError, "unknown build='maybe'"),
        ({"cache_intervall": 3}, UnknownNameError, r"unknown option 'cache_intervall' \(did you mean 'cache_interval'"),
    ],
)
def test_a_bad_option(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        DeepCachePipeline.from_pipe(tiny.stable_diffusion(), **options)


def test_a_bad_cache_parameter_changes_nothing(pipe: Any) -> None:
    before = pipe.cache_params
    for changes in ({"interval": 3}, {"cache_interval": 0}, {"cache_branch_id": 12}):
        with pytest.raises(DeepCacheError):
            pipe.set_cache_params(**changes)
    assert pipe.cache_params == before


@pytest.mark.parametrize("steps", [0, -3])
def test_a_step_count_below_one(pipe: Any, steps: int) -> None:
    with pytest.raises(DeepCacheError, match=f"num_inference_steps must be at least 1, not {steps}"):
        draw(pipe, steps=steps)


@pytest.mark.parametrize("scheduler", [DDIMScheduler, DDPMScheduler])
def test_more_steps_than_the_scheduler_has_timesteps_from_where_it_begins(pipe: Any, scheduler: Any) -> None:
    sampled = DeepCachePipeline.from_pipe(pipe)
    sampled.scheduler = scheduler.from_config(pipe.scheduler.config, steps_offset=1, timestep_spacing="leading")
    with pytest.raises(ArgumentError, match=r"num_inference_steps=1000 is too much .* before timestep 1000; ask for"):
        draw(sampled, steps=1000)


def test_a_helper_without_a_pipeline() -> None:
    with pytest.raises(DeepCacheError, match="no pipeline to cache"):
        DeepCacheSDHelper().enable()


def test_foreign_attention_processors_are_refused(pipe: Any) -> None:
    from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0

    class CrossFrame(AttnProcessor):
        pass

    pipe.unet.set_attn_processor(CrossFrame())
    try:
        with pytest.raises(UnsupportedError, match=r"attention processors CrossFrame .*AttnProcessor2_0"):
            draw(pipe)
    finally:
        pipe.unet.set_attn_processor(AttnProcessor2_0())


def test_a_pipeline_without_a_covered_denoiser() -> None:
    plain = tiny.stable_diffusion()
    plain.unet = torch.nn.Linear(2, 2)
    with pytest.raises(
        UnsupportedError, match="Linear, the unet of StableDiffusionPipeline, is not covered; covered are UNet2"
    ):
        DeepCachePipeline.from_pipe(plain)


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        ("sdlx", UnknownNameError, r"unknown model 'sdlx' \(did you mean 'sdxl'\?\)"),
        ("/nowhere/at/all", UnknownNameError, "unknown model"),
        ("{folder}", CheckpointError, "is no diffusers model: it has no model_index.json"),
    ],
)
def test_a_model_that_is_none(tmp_path: Path, model: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        DeepCachePipeline.from_pretrained(model.format(folder=tmp_path))


def test_a_checkpoint_that_is_only_a_pickle_is_refused_unless_the_user_says_so(tmp_path: Path) -> None:
    from diffusers import DDPMPipeline, DDPMScheduler

    plain: Any = DDPMPipeline(tiny.denoiser("ddpm"), DDPMScheduler())
    plain.save_pretrained(tmp_path, safe_serialization=False)
    with pytest.raises(CheckpointError, match="cannot load"):
        DeepCachePipeline.from_pretrained(tmp_path)
    assert DeepCachePipeline.from_pretrained(tmp_path, use_safetensors=False)


def test_arguments_of_diffusers_that_look_like_ours_are_handed_on() -> None:
    theirs = {"controlnet": object(), "cache_dir": "folder", "torch_dtype": torch.float16, "token": "secret"}
    params, _, rest = split_keywords({**theirs, "cache_interval": 5}, DeepCache(), EngineOptions())
    assert rest == theirs
    assert params == DeepCache(cache_interval=5)
