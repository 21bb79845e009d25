"""ControlNet: a U-Net that is called with residuals runs on engines of its own and draws what plain diffusers draws."""

from pathlib import Path
from typing import Any

import DeepCache
import pytest
import torch
from diffusers import StableDiffusionControlNetImg2ImgPipeline, StableDiffusionControlNetInpaintPipeline

from deepcache_trt import DeepCachePipeline
from deepcache_trt.errors import NotBuiltError
from tests import tiny
from tests.pipelines.test_parity import difference, draw

PIPELINES = {"sd15": tiny.stable_diffusion_controlnet, "sdxl": tiny.stable_diffusion_xl_controlnet}


def control(seed: int = 0, *, height: int = 64, width: int = 64) -> torch.Tensor:
    """A control image of black and coloured squares, [1, 3, H, W] float32."""
    squares = torch.rand(1, 3, height // 16, width // 16, generator=torch.Generator().manual_seed(seed)).round()
    return squares.repeat_interleave(16, 2).repeat_interleave(16, 3)


@pytest.fixture(scope="module", params=PIPELINES)
def plain(request: pytest.FixtureRequest) -> Any:
    return PIPELINES[request.param]()


@pytest.fixture(scope="module")
def cached(plain: Any) -> Any:
    return DeepCachePipeline.from_pipe(plain)


def package(plain: Any, interval: int, branch: int, **call: Any) -> torch.Tensor:
    """What the DeepCache package draws."""
    helper = DeepCache.DeepCacheSDHelper(pipe=plain)
    helper.set_params(cache_interval=interval, cache_branch_id=branch)
    helper.enable()
    try:
        return draw(plain, **call)
    finally:
        helper.disable()
        plain.unet.__dict__.pop("forward")  # the package leaves one behind


@pytest.mark.parametrize(
    "call",
    [
        {"image": control()},
        {"image": control(height=128), "height": 128, "guidance_scale": 1.0},
        {"image": control(), "guess_mode": True},
        {"image": control(), "control_guidance_start": 0.2, "control_guidance_end": 0.6},
    ],
    ids=["plain", "tall, no guidance", "guess mode", "part of the time"],
)
def test_interval_1_is_plain_diffusers(plain: Any, cached: Any, call: dict[str, Any]) -> None:
    cached.set_cache_params(cache_interval=1, cache_branch_id=0)
    expected = draw(plain, **call)
    assert difference(expected, draw(cached, **call)) <= 1e-4
    assert difference(expected, draw(plain, **call, controlnet_conditioning_scale=0.0)) > 1e-2


@pytest.mark.parametrize(("interval", "branch"), [(3, 0), (2, 4), (4, 7)])
def test_cached_images_are_those_of_the_deepcache_package(plain: Any, cached: Any, interval: int, branch: int) -> None:
    cached.set_cache_params(cache_interval=interval, cache_branch_id=branch)
    found = draw(cached, image=control())
    assert difference(package(plain, interval, branch, image=control()), found) <= 1e-4
    assert difference(draw(plain, image=control()), found) > 1e-3  # the cache does change the picture


def test_cached_images_follow_the_control_image(cached: Any) -> None:
    cached.set_cache_params(cache_interval=3, cache_branch_id=0)
    first, other, again = (draw(cached, image=control(seed)) for seed in (0, 1, 0))
    assert torch.equal(first, again)
    assert difference(first, other) > 1e-2


def test_several_controlnets_are_summed_by_the_pipeline() -> None:
    plain = tiny.stable_diffusion_controlnet([tiny.controlnet(), tiny.controlnet(seed=1)])
    call = {"image": [control(), control(1)], "controlnet_conditioning_scale": [0.5, 0.8]}
    cached = DeepCachePipeline.from_pipe(plain, cache_interval=3)
    found = draw(cached, **call)
    assert difference(package(plain, 3, 0, **call), found) <= 1e-4
    assert difference(found, draw(cached, **{**call, "image": [control(), control(2)]})) > 1e-3


@pytest.mark.parametrize(
    ("pipeline_class", "call"),
    [
        (StableDiffusionControlNetImg2ImgPipeline, {}),
        (StableDiffusionControlNetInpaintPipeline, {"mask_image": torch.ones(1, 1, 64, 64)}),
    ],
)
def test_images_are_edited_under_control(pipeline_class: Any, call: dict[str, Any]) -> None:
    plain = pipeline_class(**tiny.stable_diffusion_controlnet().components, requires_safety_checker=False)
    plain.set_progress_bar_config(disable=True)
    cached = DeepCachePipeline.from_pipe(plain, cache_interval=1)
    image = control(5).expand(2, -1, -1, -1)  # one for each prompt
    call = {**call, "image": image, "control_image": control(), "strength": 0.7, "steps": 10}
    assert difference(draw(plain, **call), draw(cached, **call)) <= 1e-4
    cached.set_cache_params(cache_interval=3)
    assert difference(package(plain, 3, 0, **call), draw(cached, **call)) <= 1e-4
    assert difference(draw(cached, **call), draw(cached, **{**call, "control_image": control(1)})) > 1e-3


def test_calls_with_and_without_control_may_take_turns() -> None:
    """Even within one generation: what was cached of one graph never reaches the other."""
    plain = tiny.stable_diffusion_controlnet()
    cached = DeepCachePipeline.from_pipe(plain, cache_interval=10)
    cached.scheduler.set_timesteps(10)
    generator = torch.Generator().manual_seed(0)
    call = {"timestep": 7, "encoder_hidden_states": torch.randn(2, 5, 32, generator=generator)}
    noisy = {**call, "sample": torch.randn(2, 4, 8, 8, generator=generator)}
    with torch.no_grad():
        down, mid = plain.controlnet(**noisy, controlnet_cond=control(), return_dict=False)
        controlled = {**noisy, "down_block_additional_residuals": down, "mid_block_additional_residual": mid}
        expected = [plain.unet(**arguments).sample for arguments in (controlled, noisy)]
        with cached._cached_denoiser.installed():
            for _ in range(2):
                for arguments, wanted in zip((controlled, noisy), expected, strict=True):
                    assert difference(wanted, plain.unet(**arguments).sample) <= 1e-4
    assert difference(*expected) > 1e-2


def test_the_torch_backend_takes_residuals_that_a_cached_step_does_not_read(plain: Any, cached: Any) -> None:
    reference = DeepCachePipeline.from_pipe(plain, backend="torch", cache_interval=3)
    cached.set_cache_params(cache_interval=3, cache_branch_id=0)
    assert difference(draw(reference, image=control()), draw(cached, image=control())) <= 1e-4


def test_build_never_says_that_no_command_builds_these_engines(tmp_path: Path) -> None:
    options: dict[str, Any] = {"store": tmp_path / "store", "build": "never", "components": ()}
    pipe = DeepCachePipeline.from_pipe(tiny.stable_diffusion_controlnet(), **options)
    message = (
        r"'full' of StableDiffusionControlNetPipeline unet with ControlNet .*; allow build='auto' once, since engines"
    )
    with pytest.raises(NotBuiltError, match=message) as raised:
        draw(pipe, image=control())
    assert "deepcache-trt build" not in str(raised.value)
