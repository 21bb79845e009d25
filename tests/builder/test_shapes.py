"""The shapes that compiled engines are built for: what a person writes, and the options that errors offer as a cure."""

import functools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deepcache_trt.builder.component import Component, from_architecture
from deepcache_trt.builder.shapes import (
    Shapes,
    as_options,
    call_sizes,
    in_words,
    profiles_around,
    profiles_for,
    shapes_from_text,
    widest_profile,
)
from deepcache_trt.engines.profile import Range, ShapeProfile, nearest
from deepcache_trt.errors import ShapeError
from deepcache_trt.models.registry import architecture_of
from tests import tiny

ALL = [*tiny.ARCHITECTURES, *tiny.PARTS]
TEXT_CONDITIONED = ["sd15", "sd21", "sdxl", "svd"]


@functools.cache
def component(name: str) -> Component:
    model_class, config = {**tiny.ARCHITECTURES, **tiny.PARTS}[name]
    return from_architecture(model_class, config, name="tiny", part=name, dtype="float32")


def exactly(size: int) -> Range:
    return Range(min=size, opt=size, max=size)


def profiles(name: str, sizes: list[str], batches: list[str]) -> tuple[ShapeProfile, ...]:
    return profiles_for(component(name), shapes_from_text(sizes, batches))


# What a person writes.


@pytest.mark.parametrize(
    ("text", "height", "width"),
    [
        ("1024", exactly(1024), exactly(1024)),
        ("768x1024", exactly(768), exactly(1024)),
        ("768X1024", exactly(768), exactly(1024)),
        ("768×1024", exactly(768), exactly(1024)),
        (" 768 x 1024 ", exactly(768), exactly(1024)),
        ("512-1024", Range(min=512, opt=1024, max=1024), Range(min=512, opt=1024, max=1024)),
        ("512–1024", Range(min=512, opt=1024, max=1024), Range(min=512, opt=1024, max=1024)),
        ("512-768x1024", Range(min=512, opt=768, max=768), exactly(1024)),
    ],
)
def test_a_size_is_height_by_width_and_best_at_its_largest(text: str, height: Range, width: Range) -> None:
    assert shapes_from_text([text], []).sizes == ((height, width),)


@pytest.mark.parametrize(("text", "images"), [("4", exactly(4)), ("1-4", Range(min=1, opt=1, max=4))])
def test_a_batch_is_best_at_its_smallest(text: str, images: Range) -> None:
    assert shapes_from_text([], [text]).batches == (images,)


def test_nothing_written_is_one_image_of_the_models_own_size() -> None:
    assert shapes_from_text([], []) == Shapes(sizes=(), batches=(exactly(1),))


@pytest.mark.parametrize(
    ("sizes", "batches", "message"),
    [
        (["big"], [], r"--size 'big' is no number and no range; write for example --size "),
        ([""], [], r"--size '' is no number"),
        (["-512"], [], r"--size '-512' is no number"),
        (["512-"], [], r"--size '512-' is no number"),
        (["512.0"], [], r"--size '512\.0' is no number"),
        (["512x"], [], r"--size '' is no number"),
        (["512x512x512"], [], r"--size 512x512x512 has 3 sides; write 1024, 768x1024 \(height x width\) or 512-1024"),
        (["1024-512"], [], r"--size 1024-512: a range goes from 1 or more upwards"),
        (["0"], [], r"--size 0: a range goes from 1 or more upwards"),
        ([], ["4-1"], r"--batch 4-1: a range goes from 1 or more upwards"),
        ([], ["0"], r"--batch 0: a range goes from 1 or more upwards"),
        ([], ["two"], r"--batch 'two' is no number and no range; write for example --batch 4 or --batch 1-4"),
        ([], ["2x2"], r"--batch '2x2' is no number"),
    ],
)
def test_what_is_no_size_and_no_batch_is_refused_with_an_example(
    sizes: list[str], batches: list[str], message: str
) -> None:
    with pytest.raises(ShapeError, match=message):
        shapes_from_text(sizes, batches)


@pytest.mark.parametrize(
    ("size", "cure"),
    [("1", "8"), ("100", "96"), ("1023", "1024"), ("1020-1031", "1024-1032"), ("1022-1026", "1024"), ("64x100", "96")],
)
def test_pixels_that_are_no_whole_latents_are_refused_with_the_nearest_that_are(size: str, cure: str) -> None:
    with pytest.raises(ShapeError, match=rf"the pixels of tiny vae must be multiples of 8; use {cure}$"):
        profiles("vae", [size], [])
    assert profiles("vae", [cure], [])


# What it means for each component.


@pytest.mark.parametrize("name", TEXT_CONDITIONED)
def test_guidance_doubles_the_images_of_a_text_conditioned_denoiser_and_may_be_off(name: str) -> None:
    one, few = profiles(name, ["64"], ["1", "2-4"])
    assert one.batch == Range(min=1, opt=2, max=2)
    assert few.batch == Range(min=2, opt=4, max=8)


def test_a_denoiser_of_classes_is_guided_too() -> None:
    assert [profile.batch for profile in profiles("dit", [], ["3"])] == [Range(min=3, opt=6, max=6)]


def test_a_denoiser_without_conditions_sees_each_image_once_and_its_size_in_pixels() -> None:
    (profile,) = profiles("ddpm", ["64x32"], ["4"])
    assert (profile.batch, profile.height, profile.width) == (Range(min=1, opt=4, max=4), exactly(64), exactly(32))


@pytest.mark.parametrize("name", [*TEXT_CONDITIONED, "vae"])
def test_a_latent_is_eight_pixels(name: str) -> None:
    profile = profiles(name, ["128x64-192"], [])[0]
    assert (profile.height, profile.width) == (exactly(16), Range(min=8, opt=24, max=24))


@pytest.mark.parametrize(
    ("name", "height", "width"), [("sd15", 8, 8), ("sdxl", 8, 8), ("svd", 8, 8), ("ddpm", 8, 8), ("vae", 8, 8)]
)
def test_without_a_size_it_is_the_models_own(name: str, height: int, width: int) -> None:
    """A denoiser's config counts what it denoises, a VAE's pixels: 64 in the test-size one."""
    profile = profiles(name, [], [])[0]
    assert (profile.height, profile.width) == (exactly(height), exactly(width))


@pytest.mark.parametrize("name", ["sd15", "sd21", "sdxl"])
def test_a_prompt_may_be_shorter_than_its_encoder_pads_it(name: str) -> None:
    assert [profile.sequence for profile in profiles(name, ["64"], ["1"])] == [Range(min=1, opt=77, max=77)]


@pytest.mark.parametrize("name", ["clip", "clip_projection"])
def test_sizes_make_no_difference_to_a_text_encoder(name: str) -> None:
    """So that building for another size finds the encoder that is there."""
    assert profiles(name, ["64", "128"], ["1", "4"]) == profiles(name, ["512-1024"], ["1", "4"])
    assert [profile.batch for profile in profiles(name, ["64"], ["1", "4"])] == [exactly(1), Range(min=1, opt=4, max=4)]


@pytest.mark.parametrize("name", ["sd15", "sdxl", "ddpm"])
def test_every_size_with_every_batch_is_a_profile_and_none_comes_twice(name: str) -> None:
    assert len(profiles(name, ["64", "128"], ["1", "2", "4"])) == 6
    assert len(profiles(name, ["64", "64"], ["1", "1"])) == 1


@pytest.mark.parametrize(
    ("name", "size", "batch", "message"),
    [
        ("ddpm", "10", "1", r"latent height of 10 .*no multiple of the U-Net's 4; use 8 or 12 \(8 or 12 pixels\)"),
        ("sd15", "64-100", "1", r"--size 64–100: the pixels of tiny sd15 must be multiples of 8; use 64-96"),
        ("sd15", "8192", "1", r"latent height of 1024 .* is outside the profile 1–512; choose 8 to 4096 pixels"),
        ("sd15", "64", "64", r"a batch of 64 is outside the profile 1–63"),
        ("svd", "64", "22", r"a batch of 22 is outside the profile 1–21"),
        ("vae", "64", "64", r"a batch of 64 is outside the profile 1–63"),
        ("clip", "64", "64", r"a batch of 64 is outside the profile 1–63"),
        ("dit", "512", "1", r"tiny dit is made for 64×64 pixels and no others; leave --size out"),
        ("dit", "32-64", "1", r"tiny dit is made for 64×64 pixels and no others; leave --size out"),
    ],
)
def test_what_the_graph_cannot_take_is_refused_before_it_is_built(
    name: str, size: str, batch: str, message: str
) -> None:
    with pytest.raises(ShapeError, match=message):
        profiles(name, [size], [batch])


def test_a_dit_takes_its_own_size_by_name() -> None:
    assert profiles("dit", ["64"], ["1"]) == profiles("dit", [], ["1"])


@pytest.mark.parametrize("name", ALL)
def test_profiles_lie_within_what_the_graph_can_take(name: str) -> None:
    architecture = component(name).architecture
    for profile in profiles(name, [], ["1", "2"]):
        for end in ("min", "opt", "max"):
            sizes = {axis: size for axis, size in profile.at(end).items() if axis in architecture.axes}
            widest_profile(architecture).check(sizes)


# A decoder is called with tiles, too.


@settings(deadline=None)
@given(height=st.integers(1, 40), width=st.integers(1, 40), images=st.integers(1, 3))
def test_every_tile_that_diffusers_decodes_is_covered(height: int, width: int, images: int) -> None:
    vae = tiny.new_part("vae")
    vae.enable_tiling()
    architecture = architecture_of(vae, dtype="float32")
    asked: list[dict[str, int]] = []

    def decode(tile: torch.Tensor) -> torch.Tensor:
        asked.append(call_sizes(architecture, {"latent": tile}))
        return torch.zeros(len(tile), 3, 8 * tile.shape[2], 8 * tile.shape[3])

    vae.decoder.forward = decode
    vae.decode(torch.zeros(images, 4, height, width))
    built = profiles("vae", [f"{8 * height}x{8 * width}"], [str(images)])
    assert all(nearest(built, sizes) is not None for sizes in asked)


def test_a_tile_is_best_at_its_full_size() -> None:
    whole, tile = profiles("vae", ["512"], ["2"])
    assert (whole.height, whole.width) == (exactly(64), exactly(64))
    assert tile.height == tile.width == Range(min=1, opt=8, max=8)
    assert tile.batch == Range(min=1, opt=1, max=2)


# What an error offers.


@st.composite
def calls(draw: Any, name: str) -> dict[str, int]:
    """Sizes of a call that the graph can take, in prompts of one encoder's length or less."""
    architecture = component(name).architecture
    multiple, widest = max(architecture.size_multiple, 1), widest_profile(architecture)
    drawn = {
        "batch": draw(st.integers(1, widest.batch.max)),
        "height": multiple * draw(st.integers(1, widest.height.max // multiple)),
        "width": multiple * draw(st.integers(1, widest.width.max // multiple)),
        "sequence": draw(st.integers(1, 77)),
    }
    return {axis: size for axis, size in drawn.items() if axis in architecture.axes}


def parsed(options: str) -> Shapes:
    words = options.split()
    given = dict(zip(words[::2], words[1::2], strict=True))
    assert set(given) <= {"--size", "--batch"}
    return shapes_from_text([given["--size"]] if "--size" in given else [], [given["--batch"]])


@pytest.mark.parametrize("name", ALL)
def test_the_options_that_an_error_offers_build_for_the_sizes_that_it_refused(name: str) -> None:
    @settings(deadline=None)
    @given(sizes=calls(name))
    def offered(sizes: dict[str, int]) -> None:
        widest_profile(component(name).architecture).check(sizes)
        assert nearest(profiles_for(component(name), parsed(as_options(component(name), sizes))), sizes) is not None

    offered()


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("name", ALL)
def test_engines_that_are_built_for_a_call_take_it(name: str, static: bool) -> None:
    @settings(deadline=None)
    @given(sizes=calls(name))
    def around(sizes: dict[str, int]) -> None:
        assert nearest(profiles_around(component(name), sizes, static=static), sizes) is not None

    around()


@pytest.mark.parametrize("name", TEXT_CONDITIONED)
def test_engines_that_are_built_for_a_guided_call_take_it_without_guidance(name: str) -> None:
    sizes = {"batch": 6, "height": 8, "width": 16}
    found = profiles_around(component(name), sizes, static=False)
    assert nearest(found, {**sizes, "batch": 3}) == nearest(found, sizes) == 0
    assert nearest(found, {**sizes, "batch": 2}) is None
    assert found[0].batch.opt == 6


@pytest.mark.parametrize("name", TEXT_CONDITIONED)
def test_a_static_profile_is_of_one_shape(name: str) -> None:
    (found,) = profiles_around(component(name), {"batch": 6, "height": 8, "width": 16}, static=True)
    assert all(limits.min == limits.max for limits in (found.batch, found.height, found.width))


def test_a_tile_needs_no_engine_beside_that_for_tiles() -> None:
    tile, larger = {"batch": 1, "height": 3, "width": 8}, {"batch": 1, "height": 9, "width": 8}
    assert len(profiles_around(component("vae"), tile, static=False)) == 1
    assert len(profiles_around(component("vae"), larger, static=False)) == 2


@pytest.mark.parametrize(
    ("name", "sizes", "words"),
    [
        ("sd15", {"batch": 2, "height": 96, "width": 64}, "a batch of 2 at 768×512 pixels"),
        ("ddpm", {"batch": 3, "height": 32, "width": 64}, "a batch of 3 at 32×64 pixels"),
        ("clip", {"batch": 1}, "a batch of 1"),
    ],
)
def test_sizes_in_words(name: str, sizes: dict[str, int], words: str) -> None:
    assert in_words(component(name), sizes) == words
