"""Shape profiles: what is outside is refused with the value, the limit and the cure."""

import pytest

from deepcache_trt.engines.profile import Range, ShapeProfile, nearest
from deepcache_trt.errors import ShapeError
from tests.engines.graphs import square

PROFILE = ShapeProfile(
    batch=Range(min=1, opt=2, max=8), height=Range(min=8, opt=64, max=128), width=Range(min=16, opt=64, max=96)
)


@pytest.mark.parametrize(("least", "best", "most"), [(0, 1, 2), (2, 1, 3), (1, 4, 3), (-1, -1, -1)])
def test_a_range_out_of_order_is_refused_with_its_three_values(least: int, best: int, most: int) -> None:
    with pytest.raises(ShapeError, match=f"1 <= min <= opt <= max, not {least}, {best}, {most}"):
        Range(min=least, opt=best, max=most)


def test_a_range_reads_as_its_ends() -> None:
    assert str(Range(min=1, opt=2, max=8)) == "1–8"
    assert str(Range(min=64, opt=64, max=64)) == "64"


@pytest.mark.parametrize(
    "sizes",
    [
        {"batch": 1, "height": 8, "width": 16},
        {"batch": 8, "height": 128, "width": 96},
        {"batch": 2},
        {"batch": 2, "height": 64, "width": 64, "sequence": 4096},
    ],
)
def test_what_lies_within_passes(sizes: dict[str, int]) -> None:
    PROFILE.check(sizes, size_multiple=8)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"batch": 9}, r"a batch of 9 is outside the profile 1–8; draw fewer images"),
        ({"batch": 0}, r"a batch of 0 is outside the profile 1–8"),
        ({"height": 129}, r"height of 129 \(1032 pixels.*\) is outside the profile 8–128; choose 64 to 1024 pixels"),
        ({"width": 8}, r"width of 8 \(64 pixels.*\) is outside the profile 16–96; choose 128 to 768 pixels"),
    ],
)
def test_what_lies_outside_is_refused(sizes: dict[str, int], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        PROFILE.check(sizes)


@pytest.mark.parametrize(
    ("sizes", "cure"),
    [
        (
            {"height": 12},
            r"height of 12 \(96 pixels.*\) is no multiple of the U-Net's 8; use 8 or 16 \(64 or 128 pixels",
        ),
        ({"width": 95}, r"width of 95 .* use 88 or 96 \(704 or 768 pixels\)"),
        ({"width": 17}, r"use 16 or 24 "),
    ],
)
def test_a_size_that_the_unet_cannot_halve_is_refused_with_its_neighbours(sizes: dict[str, int], cure: str) -> None:
    with pytest.raises(ShapeError, match=cure):
        PROFILE.check(sizes, size_multiple=8)
    PROFILE.check(sizes)


@pytest.mark.parametrize(("size", "cure"), [(4, r"use 8 \(64 pixels\)"), (509, r"use 504 or 512 ")])
def test_the_cure_never_leaves_the_profile(size: int, cure: str) -> None:
    with pytest.raises(ShapeError, match=cure):
        ShapeProfile().check({"height": size}, size_multiple=8)


def test_a_batch_needs_to_be_no_multiple_of_anything() -> None:
    PROFILE.check({"batch": 3}, size_multiple=8)


WIDE, SMALL, LARGE = square(8, 64, 128), square(64, 64, 64), square(96, 96, 128)


@pytest.mark.parametrize(
    ("size", "profile"),
    [
        (64, 1),  # as good at it as the wide one, and narrower
        (72, 0),  # only the wide one takes it
        (96, 2),
        (128, 2),  # both take it, this one is best at something nearer
        (136, None),
        (4, None),
    ],
)
def test_the_nearest_profile_that_takes_a_shape_is_chosen(size: int, profile: int | None) -> None:
    assert nearest([WIDE, SMALL, LARGE], {"batch": 2, "height": size, "width": size}) == profile


def test_an_axis_that_an_engine_does_not_have_is_not_asked_for() -> None:
    assert nearest([SMALL], {"batch": 4}) == 0
    assert nearest([SMALL], {"batch": 5}) is None


def test_a_profile_survives_the_manifest() -> None:
    from dataclasses import asdict

    assert ShapeProfile.from_json(asdict(LARGE)) == LARGE
    assert LARGE.at("max") == {"batch": 4, "height": 128, "width": 128, "sequence": 4096}
