"""What diffusers asks of its own pipelines holds for cached ones: their arguments, batches, outputs and switches."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from deepcache_trt.errors import UnsupportedError
from tests.pipelines.contract.families import (
    FAMILIES,
    FEW,
    WITHIN,
    assert_like_plain,
    drawn,
    embeddings,
    every_family,
    expected,
    on_engines,
    outcome,
    plain,
    takes,
)
from tests.pipelines.drawing import difference
from tests.pipelines.micro import cached, draw

PROMPTS = ["a handwritten seven", "three", "one"]
GUIDED = {"guidance_scale": 4.0}  # no pipeline's default


def several(name: str, images: int) -> dict[str, Any]:
    """The arguments of a call for some prompts, each with its image where there is one."""
    call = {key: value for key, value in FAMILIES[name].call.items() if isinstance(value, torch.Tensor)}
    return {"prompt": PROMPTS[:images], **{key: value.repeat(images, 1, 1, 1) for key, value in call.items()}}


# Seeds and batches.


@every_family
def test_a_seed_is_an_image(name: str) -> None:
    first, other, again = (drawn(name, seed=seed) for seed in (0, 1, 0))
    assert torch.equal(first, again)
    assert difference(first, other) > 1e-2


@every_family
def test_without_a_generator_torchs_own_is_drawn_from(name: str) -> None:
    picture = assert_like_plain(name, generator=None)
    assert difference(picture, expected(name, generator=torch.Generator().manual_seed(8))) > 1e-2


@every_family
def test_a_batch_is_its_images_one_by_one(name: str) -> None:
    batch = drawn(name, seed=[4, 5, 6], **several(name, 3))
    singles = [drawn(name, seed=4 + i, prompt=prompt) for i, prompt in enumerate(PROMPTS)]
    assert difference(batch, torch.cat(singles)) <= WITHIN
    assert difference(batch[:1], batch[1:2]) > 1e-2


@pytest.mark.filterwarnings("ignore:You have passed . text prompts .* but only:FutureWarning")  # it repeats the images
@every_family
@pytest.mark.parametrize(("prompts", "each"), [(1, 2), (2, 2)])
def test_images_of_each_prompt(name: str, prompts: int, each: int) -> None:
    picture = assert_like_plain(name, num_images_per_prompt=each, **several(name, prompts))
    assert len(picture) == prompts * each


# Arguments.


def _noise(seed: int) -> torch.Tensor:
    return torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(seed))


ARGUMENTS: dict[str, dict[str, Any]] = {
    "no guidance": {"guidance_scale": 1.0},
    "guidance of 0": {"guidance_scale": 0.0},
    "guidance of 7.5": {"guidance_scale": 7.5},
    "rescaled guidance": {**GUIDED, "guidance_rescale": 0.7},
    "a negative prompt": {**GUIDED, "negative_prompt": "a drawing of a man"},
    "latents": {**GUIDED, "latents": _noise(3)},
    "clip_skip": {**GUIDED, "clip_skip": 1},
    "eta": {**GUIDED, "eta": 0.5},
}


def _counts(name: str, what: str) -> bool:
    return all(takes(name, argument) for argument in ARGUMENTS[what]) and not (what == "eta" and "sdxl" in name)


@pytest.mark.parametrize(
    ("name", "what"), [(name, what) for name in FAMILIES for what in ARGUMENTS if _counts(name, what)]
)
def test_an_argument_counts_as_it_does_in_plain_diffusers(name: str, what: str) -> None:
    picture = assert_like_plain(name, **ARGUMENTS[what])
    assert difference(picture, _guided(name)) > 1e-3


@functools.cache
def _guided(name: str) -> torch.Tensor:
    return expected(name, **GUIDED)


@every_family
def test_a_prompt_may_be_given_as_its_embeddings(name: str) -> None:
    call: dict[str, Any] = {"prompt": None, **embeddings(name)}
    assert difference(drawn(name, **call), drawn(name, prompt="three")) <= WITHIN
    assert_like_plain(name, **call)


STEPS_OF_ONES_OWN = {"timesteps": [999, 899, 759, 499, 259], "sigmas": [14.6, 7.0, 3.0, 1.0, 0.3]}


@contextmanager
def _scheduler(name: str, kind: str) -> Iterator[None]:
    pipes = (plain(name), on_engines(name))
    own = [pipe.scheduler for pipe in pipes]
    for pipe in pipes:
        pipe.scheduler = getattr(diffusers, kind).from_config(pipe.scheduler.config)
    try:
        yield
    finally:
        for pipe, scheduler in zip(pipes, own, strict=True):
            pipe.scheduler = scheduler


@pytest.mark.parametrize(
    ("name", "argument"),
    [(name, argument) for name in FAMILIES for argument in STEPS_OF_ONES_OWN if takes(name, argument)],
)
def test_steps_of_ones_own(name: str, argument: str) -> None:
    call = {argument: STEPS_OF_ONES_OWN[argument]}
    with _scheduler(name, "EulerDiscreteScheduler"):
        assert difference(assert_like_plain(name, **call), expected(name)) > 1e-2
    with _scheduler(name, "DDIMScheduler"):
        theirs = outcome(expected, name, **call)
        assert theirs[0] == "ValueError", "diffusers says which schedulers take none"
        assert outcome(drawn, name, **call) == theirs


@every_family
def test_one_step_is_not_cached(name: str) -> None:
    call: dict[str, Any] = {"num_inference_steps": 1, **({"strength": 1.0} if takes(name, "strength") else {})}
    assert difference(drawn(name, **call), expected(name, **call)) <= WITHIN
    assert on_engines(name).last_run.plan.variants == ("full",)


@pytest.mark.parametrize("output_type", ["latent", "pil"])
@pytest.mark.parametrize("name", [name for name in FAMILIES if takes(name, "strength")])
def test_no_step_at_all_ends_as_in_plain_diffusers(name: str, output_type: str) -> None:
    """With no image at all, or with an error that differs from pipeline to pipeline."""
    drawn(name)
    call = {"num_inference_steps": 10, "strength": 0.02, "output_type": output_type}
    kind, value = outcome(expected, name, **call)
    ours = outcome(drawn, name, **call)
    if kind == "value":
        assert ours[0] == kind
        assert value.shape == ours[1].shape == (0, 4, 8, 8)
        assert len(on_engines(name).last_run.plan) == 0
    else:
        assert (kind, value) == ours


# What comes out.


@every_family
def test_the_kinds_of_output_are_one_picture(name: str) -> None:
    outputs: dict[str, Any] = {kind: drawn(name, output_type=kind) for kind in ("latent", "pt", "np", "pil")}
    latents, tensor, array, (image,) = outputs.values()
    vae = on_engines(name).vae
    with torch.no_grad():
        decoded = vae.decode(latents / vae.config.scaling_factor).sample
    assert difference(tensor, (decoded / 2 + 0.5).clamp(0, 1)) <= 1e-6
    assert difference(torch.as_tensor(array).permute(0, 3, 1, 2), tensor) == 0
    assert np.array_equal(np.asarray(image), (array[0] * 255).round().astype("uint8"))
    assert np.asarray(image).std() > 1, "an even picture would agree with any other"


@every_family
def test_a_bare_tuple_has_the_images_first(name: str) -> None:
    pipe, call = on_engines(name), {**FAMILIES[name].call, "num_inference_steps": FEW}
    images = drawn(name)
    first = pipe(**call, generator=torch.Generator().manual_seed(0), return_dict=False)[0]
    assert torch.equal(first, images)


# Switches.


@pytest.mark.parametrize("name", ["sd", "sdxl img2img", "sd controlnet"])
def test_attention_slicing_changes_nothing(name: str) -> None:
    pipe, before = on_engines(name), drawn(name)
    pipe.enable_attention_slicing()
    try:
        assert difference(drawn(name), before) <= WITHIN
    finally:
        pipe.disable_attention_slicing()


@pytest.mark.parametrize("switch", ["slicing", "tiling"])
@pytest.mark.parametrize("name", ["sd", "sdxl"])
def test_a_decoder_on_engines_decodes_slices_and_tiles(name: str, switch: str) -> None:
    micro, pipe = FAMILIES[name], cached(FAMILIES[name], components=("vae",), cache_interval=1)
    call: dict[str, Any] = {"prompt": PROMPTS[:2], "height": 128, "output_type": "pt", "num_inference_steps": 2}
    whole = draw(pipe, micro, **call)
    getattr(pipe.vae, f"enable_{switch}")()
    try:
        pieces = draw(pipe, micro, **call)
        assert difference(pieces, expected(name, **call)) <= WITHIN
    finally:
        getattr(pipe.vae, f"disable_{switch}")()
    assert (difference(pieces, whole) <= WITHIN) == (switch == "slicing"), "diffusers blends tiles"


@every_family
def test_freeu_is_refused(name: str) -> None:
    pipe = on_engines(name)
    pipe.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)
    try:
        with pytest.raises(UnsupportedError, match=r"FreeU is switched on.*disable_freeu"):
            drawn(name)
    finally:
        pipe.disable_freeu()
    assert_like_plain(name)


@every_family
def test_a_scale_of_adapters_for_one_call_is_refused_with_a_cure(name: str) -> None:
    with pytest.raises(UnsupportedError, match=r"cross_attention_kwargs=\{'scale': 0.5\} .*set_adapters"):
        drawn(name, cross_attention_kwargs={"scale": 0.5})
