"""ControlNet: a U-Net that is called with residuals runs on engines of its own and draws what plain diffusers draws."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionControlNetImg2ImgPipeline, StableDiffusionControlNetInpaintPipeline

from deepcache_trt import DeepCachePipeline
from deepcache_trt.errors import NotBuiltError, UnsupportedError
from deepcache_trt.models.families.unet import unet_taps
from tests import tiny
from tests.pipelines import micro, micro_parts
from tests.pipelines.control_images import control
from tests.pipelines.drawing import difference, draw, record_runs
from tests.reference import cached_by_hooks, cached_by_package

PIPELINES = {"sd15": tiny.stable_diffusion_controlnet, "sdxl": tiny.stable_diffusion_xl_controlnet}


@pytest.fixture(scope="module", params=PIPELINES)
def plain(request: pytest.FixtureRequest) -> Any:
    return PIPELINES[request.param]()


@pytest.fixture(scope="module")
def cached(plain: Any) -> Any:
    return DeepCachePipeline.from_pipe(plain)


def package(plain: Any, interval: int, branch: int, **call: Any) -> torch.Tensor:
    """What the DeepCache package draws."""
    with cached_by_package(plain, interval=interval, branch=branch):
        return draw(plain, **call)


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
    call: dict[str, Any] = {"image": [control(), control(1)], "controlnet_conditioning_scale": [0.5, 0.8]}
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


# The ControlNet itself.


def record_control(cached: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The variants that the open engines of ControlNets run from now on, the first net first."""
    nets = [part.session.engines for part in cached._live_components if part.part.startswith("controlnet")]
    engines = {name if i == 0 else f"{name} of net {i}": net[name] for i, net in enumerate(nets) for name in net}
    return record_runs(engines, monkeypatch)


@pytest.mark.parametrize("branch", [0, 3, -1])
def test_at_a_cached_step_it_computes_only_what_the_unet_reads(
    plain: Any, cached: Any, branch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    down = [f"down_residual_{i}" for i in range(len(unet_taps(plain.unet)))]
    branch %= len(down)
    cached.set_cache_params(cache_interval=3, cache_branch_id=branch)
    draw(cached, image=control())
    (component,) = (part for part in cached._live_components if part.part == "controlnet")
    shallow = component.session.engines["shallow"]
    read = {name for name in cached._cached_denoiser.session.engines["shallow"].inputs if "residual" in name}
    expected = {*down[: branch + 1], *(["mid_residual"] if branch == len(down) - 1 else [])}
    assert set(shallow.outputs) == read == expected
    assert "controlnet_cond" not in shallow.inputs, "the control image is embedded once"
    ran = record_control(cached, monkeypatch)
    draw(cached, image=control())
    assert ran == ["full", "shallow", "shallow"] * 2
    assert cached.last_run.seconds["controlnet"] > 0


def test_each_of_several_has_engines_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = tiny.stable_diffusion_controlnet([tiny.controlnet(), tiny.controlnet(seed=1)])
    cached = DeepCachePipeline.from_pipe(plain, cache_interval=2)
    call: dict[str, Any] = {"image": [control(), control(1)], "steps": 2}
    draw(cached, **call)
    ran = record_control(cached, monkeypatch)
    draw(cached, **call)
    assert ran == ["full", "full of net 1", "shallow", "shallow of net 1"]


def test_it_rests_while_it_has_no_say(plain: Any, cached: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first step that it steers needs the whole of it, whatever the plan says; later ones what they read."""
    cached.set_cache_params(cache_interval=4, cache_branch_id=0)
    draw(cached, image=control())
    ran = record_control(cached, monkeypatch)
    call: dict[str, Any] = {"image": control(), "control_guidance_start": 0.3, "control_guidance_end": 0.9, "steps": 8}
    assert difference(package(plain, 4, 0, **call), draw(cached, **call)) <= 1e-4
    assert ran == ["full", "full", "shallow", "shallow"]  # calls 3 to 6 of 0 to 7


def test_a_control_image_that_is_replaced_between_steps_is_embedded_again(
    plain: Any, cached: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached.set_cache_params(cache_interval=6, cache_branch_id=0)

    def replace(pipe: Any, i: int, t: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        return {"image": tensors["image"].flip(-1)} if i == 2 else {}

    def change(pipe: Any, i: int, t: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if i == 2:
            tensors["image"].copy_(tensors["image"].flip(-1))
        return {}

    call: dict[str, Any] = {
        "image": control(),
        "controlnet_conditioning_scale": 20.0,
        "callback_on_step_end_tensor_inputs": ["image"],
    }
    expected = package(plain, 6, 0, **call, callback_on_step_end=replace)
    for callback in (replace, change):
        with monkeypatch.context() as patch:
            draw(cached, image=control())
            ran = record_control(cached, patch)
            assert difference(expected, draw(cached, **call, callback_on_step_end=callback)) <= 1e-4
            assert ran == ["full", "shallow", "shallow", "full", "shallow", "shallow"]
    assert difference(expected, draw(cached, **call)) > 1e-3


def test_one_that_pools_its_conditions() -> None:
    controlled = micro.OTHERS["sd controlnet"]
    plain = controlled.new(controlnet=tiny.new_controlnet(micro_parts.unet("sd"), pooled=True))
    cached = DeepCachePipeline.from_pipe(plain, **micro.engines(controlled), cache_interval=3)
    for guess_mode in (False, True):
        call = {"num_inference_steps": 5, "guess_mode": guess_mode}
        with cached_by_hooks(plain.unet, lambda call: call % 3 == 0):
            expected = micro.draw(plain, controlled, **call)
        assert difference(micro.draw(cached, controlled, **call), expected) <= 1e-4


def test_it_may_stay_with_torch() -> None:
    plain = tiny.stable_diffusion_controlnet()
    cached = DeepCachePipeline.from_pipe(plain, cache_interval=3, components=())
    assert not cached._live_components
    assert difference(package(plain, 3, 0, image=control()), draw(cached, image=control())) <= 1e-4


def test_a_unet_that_needs_more_than_it_has_computed_says_so(cached: Any) -> None:
    """In guess mode it does not see that guidance was switched off, and with it half of the U-Net's batch."""
    cached.set_cache_params(cache_interval=6, cache_branch_id=0)

    def stop_guiding(pipe: Any, i: int, t: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        pipe._guidance_scale = 0.0
        return {name: tensor.chunk(2)[-1] for name, tensor in tensors.items()}

    names = ["prompt_embeds", *(["add_text_embeds", "add_time_ids"] if hasattr(cached, "text_encoder_2") else [])]
    options: dict[str, Any] = {"callback_on_step_end": stop_guiding, "callback_on_step_end_tensor_inputs": names}
    with pytest.raises(UnsupportedError, match=r"with other sizes .* its ControlNet was called with the same; change"):
        draw(cached, image=control(), guess_mode=True, **options)
    again, fresh = draw(cached, image=control()), DeepCachePipeline.from_pipe(cached, cache_interval=6)
    assert torch.equal(again, draw(fresh, image=control()))


# The U-Net that it steers.


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
