"""What stands for a U-Net of ComfyUI, called as ComfyUI calls it."""

import gc
from pathlib import Path

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef

from deepcache_trt.errors import BackendError
from tests.integrations.comfyui.calls import call, close, expected, inputs, new
from tests.integrations.comfyui.models import ALL, SD15, Executor, Sampling, diffusers_unet


@pytest.mark.parametrize("name", ALL)
def test_a_call_is_that_of_the_model(name: str) -> None:
    unet, model, reference = new(name)
    sampling = Sampling(unet, model)
    for step in range(3):
        given = inputs(step, name=name)
        assert close(call(sampling, sampling.evaluation(step), given), expected(reference, given))


def test_engines_are_built_of_the_weights_of_the_model(store_root: Path) -> None:
    unet, model, reference = new(store=store_root)
    sampling = Sampling(unet, model)
    given = inputs()
    assert close(call(sampling, sampling.evaluation(0), given), expected(reference, given))


def test_one_call_in_so_many_is_full() -> None:
    unet, model, reference = new(interval=3)
    sampling = Sampling(unet, model, steps=7)
    exact = []
    for step in range(7):
        given = inputs(step)
        exact.append(close(call(sampling, sampling.evaluation(step), given), expected(reference, given)))
    assert exact == [True, False, False, True, False, False, True]


def test_every_sampling_begins_with_a_full_call() -> None:
    unet, model, reference = new(interval=3)
    for _ in range(2):
        sampling = Sampling(unet, model, steps=2)
        exact = []
        for step in range(2):
            given = inputs(step)
            exact.append(close(call(sampling, sampling.evaluation(step), given), expected(reference, given)))
        assert exact == [True, False]


def test_a_sampler_may_call_the_model_more_than_once_in_a_step() -> None:
    unet, model, reference = new(interval=3)
    sampling = Sampling(unet, model, steps=2)
    exact = []
    for i in range(7):
        given = inputs(i)
        exact.append(close(call(sampling, sampling.evaluation(i // 4), given), expected(reference, given)))
    assert exact == [True, False, False, True, False, False, True]


@pytest.mark.parametrize("other_tokens", [7, 14])
def test_prompts_that_are_called_apart_have_features_of_their_own(other_tokens: int) -> None:
    """As the negative prompt is where it is of another length, has no ControlNet, or memory is short."""
    together: dict[str, list[torch.Tensor]] = {"positive": [], "negative": []}
    tokens = {"positive": 7, "negative": other_tokens}
    for prompts in together:  # each by itself
        unet, model, _ = new(interval=3)
        sampling = Sampling(unet, model, steps=5)
        for step in range(5):
            given = inputs(step, batch=1, tokens=tokens[prompts], seed=len(prompts) + (prompts == "negative"))
            together[prompts].append(call(sampling, sampling.evaluation(step), given, prompts=prompts))
    unet, model, _ = new(interval=3)
    sampling = Sampling(unet, model, steps=5)
    for step in range(5):
        evaluation = sampling.evaluation(step)
        for prompts, alone in together.items():
            given = inputs(step, batch=1, tokens=tokens[prompts], seed=len(prompts) + (prompts == "negative"))
            assert torch.equal(call(sampling, evaluation, given, prompts=prompts), alone[step]), (step, prompts)


def test_tiles_of_an_image_are_not_taken_for_steps() -> None:
    """Other nodes call the U-Net for each part of an image, with the same prompts, in one evaluation."""
    unet, model, reference = new(interval=3)
    sampling = Sampling(unet, model, steps=3)
    for step in range(3):
        evaluation = sampling.evaluation(step)
        for tile in range(3):
            given = inputs(step, seed=1 + tile)
            result = call(sampling, evaluation, given)
            assert close(result, expected(reference, given)), (step, tile)


@pytest.mark.parametrize("missing", ["sample_sigmas", "sigmas", "uuids"])
def test_without_what_tells_steps_apart_nothing_is_cached(missing: str) -> None:
    unet, model, reference = new(interval=3)
    sampling = Sampling(unet, model, steps=3)
    for step in range(3):
        options = {**sampling.evaluation(step), "uuids": ["both"]}
        options.pop(missing)
        given = inputs(step)
        result = unet(Executor(model.diffusion_model), transformer_options=options, **given)
        assert close(result, expected(reference, given))


def test_a_lora_is_seen_at_the_next_sampling_and_its_removal_too() -> None:
    unet, model, reference = new()
    given, name = inputs(), "input_blocks.0.0.weight"
    before = call(Sampling(unet, model), Sampling(unet, model).evaluation(0), given)
    plain = model.diffusion_model.weights[name]
    model.diffusion_model.weights[name] = plain + 0.1 * torch.randn_like(plain)
    changed = diffusers_unet(SD15)
    changed.conv_in.weight = torch.nn.Parameter(model.diffusion_model.weights[name])
    sampling = Sampling(unet, model)
    assert close(call(sampling, sampling.evaluation(0), given), expected(changed, given))
    model.diffusion_model.weights[name] = plain
    sampling = Sampling(unet, model)
    assert torch.equal(call(sampling, sampling.evaluation(0), given), before)
    assert close(before, expected(reference, given))


def test_a_controlnet_adds_what_it_adds_to_the_model() -> None:
    unet, model, reference = new()
    sampling, given = Sampling(unet, model), inputs()
    shapes = [(32, 8, 16), (32, 8, 16), (32, 4, 8), (64, 4, 8), (64, 2, 4), (64, 2, 4)]
    torch.manual_seed(0)
    skips = [torch.randn(2, *shape) for shape in shapes]
    middle = torch.randn(2, 64, 2, 4)
    control = {"output": list(skips), "middle": [middle], "input": []}
    more = {"down_block_additional_residuals": tuple(skips), "mid_block_additional_residual": middle}
    assert close(call(sampling, sampling.evaluation(0), given, control=control), expected(reference, given, **more))
    # From the middle of a sampling on it may have no more to add.
    given = inputs(1)
    assert close(call(sampling, sampling.evaluation(1), given), expected(reference, given))


@pytest.mark.parametrize("fails", [False, True])
def test_after_a_sampling_no_weight_is_held_and_the_engines_stay_open(fails: bool, store_root: Path) -> None:
    unet, model, reference = new(store=store_root)
    sampling, given = Sampling(unet, model), inputs()

    def sample() -> None:
        call(sampling, sampling.evaluation(0), given)
        if fails:
            raise RuntimeError("the user has stopped it")

    for _ in range(2):
        if fails:
            with pytest.raises(RuntimeError, match="stopped"):
                unet.sampling(sample)
        else:
            unet.sampling(sample)
    assert unet.denoiser.engines.opened_count == 1
    del reference
    held = [StorageWeakRef(weight.untyped_storage()) for weight in model.diffusion_model.weights.values()]
    assert not any(each.expired() for each in held)
    model.diffusion_model.weights.clear()
    gc.collect()
    assert all(each.expired() for each in held)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_model_that_gives_what_is_no_number_is_named_as_its_sampling_ends(bad: float) -> None:
    unet, model, _ = new()
    state = model.diffusion_model.state_dict()
    state["out.2.bias"].fill_(bad)
    sampling = Sampling(unet, model)
    with pytest.raises(BackendError, match=r"the engines of .* gave \d+ NaN or infinite values"):
        unet.sampling(lambda: call(sampling, sampling.evaluation(0), inputs()))
    state["out.2.bias"].zero_()
    assert unet.sampling(lambda: call(sampling, sampling.evaluation(1), inputs())).isfinite().all()
