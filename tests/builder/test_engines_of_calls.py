"""Which engine serves a call: the best that covers it, one of its own, or none outside the shapes asked for."""

from typing import Any

import pytest
import torch

from deepcache_trt.builder.engines import build_pieces
from deepcache_trt.builder.open_session import open_session
from deepcache_trt.builder.shapes import shapes_from_text
from deepcache_trt.engines.backend import BuildOptions
from deepcache_trt.engines.profile import Range, ShapeProfile
from deepcache_trt.engines.store import Store
from deepcache_trt.errors import ShapeError
from deepcache_trt.models.architecture import OUTPUT
from deepcache_trt.runtime.policies.deepcache import DeepCache
from tests.builder.small_builds import ONE, ahead, denoiser, engines_for, needs_rtx, on_cpu, text_encoder
from tests.builder.stores import assert_nothing_half_built, kept

DENOISED = {"batch": 2, "height": 8, "width": 8}


@needs_rtx
def test_an_engine_whose_profiles_cover_a_call_is_used_for_it(store: Store) -> None:
    wide = engines_for(store, ONE, shapes=shapes_from_text([], ["1-4"]))
    assert [engines_for(store, {"batch": batch}) for batch in (1, 3, 4)] == [wide] * 3
    assert kept(store, "engines") == [wide.key]


@needs_rtx
def test_a_call_that_no_engine_covers_gets_one_of_its_own(store: Store) -> None:
    wide = engines_for(store, ONE, shapes=shapes_from_text([], ["1-2"]))
    own = engines_for(store, {"batch": 3})
    assert own.key != wide.key
    assert [ShapeProfile.from_json(data).batch for data in own.about["profiles"]] == [Range(min=3, opt=3, max=3)]
    assert engines_for(store, {"batch": 3}) == own


@needs_rtx
def test_of_several_engines_the_one_that_is_best_at_a_call_is_used(store: Store) -> None:
    wide = engines_for(store, ONE, shapes=shapes_from_text([], ["1-4"]))
    four = engines_for(store, {"batch": 4}, shapes=shapes_from_text([], ["4"]))
    assert (engines_for(store, ONE), engines_for(store, {"batch": 4})) == (wide, four)


@needs_rtx
@pytest.mark.parametrize(
    ("built", "asked", "same"),
    [
        ({"optimization_level": 1}, {}, True),  # whoever asks for nothing takes what there is
        ({"optimization_level": 1}, {"optimization_level": 1}, True),
        ({"optimization_level": 1}, {"optimization_level": 2}, False),
        ({}, {"optimization_level": 1}, False),
        ({"workspace_bytes": 1 << 28}, {"optimization_level": 1}, False),
    ],
)
def test_an_engine_that_was_built_otherwise_than_asked_is_not_used(
    store: Store, built: dict[str, Any], asked: dict[str, Any], same: bool
) -> None:
    first = engines_for(store, ONE, options=BuildOptions(**built))
    assert (engines_for(store, ONE, options=BuildOptions(**asked)) == first) == same


def test_an_engine_of_any_shape_serves_every_call(denoisers: Store) -> None:
    target = on_cpu(denoisers)
    built = build_pieces(denoiser(), DeepCache(), target)
    session = open_session(denoiser(), DeepCache(), target, sizes=DENOISED)
    try:
        assert kept(denoisers, "engines") == sorted(artefact.key for artefact in built.values())
        assert session.serves(DENOISED)
        assert session.serves({"batch": 63, "height": 512, "width": 8})
        assert not session.serves({**DENOISED, "batch": 64})
        tensors = {"sample": torch.ones(2, 3, 8, 8), "timestep": torch.ones(1)}
        full = session.run("full", tensors, DENOISED)[OUTPUT]
        assert torch.equal(session.run("shallow", tensors, DENOISED)[OUTPUT], full)
        assert full.isfinite().all()
        assert full.any()
    finally:
        session.close()


# Explicit shapes, and nothing else.


@needs_rtx
def test_a_call_outside_the_shapes_that_were_asked_for_is_refused_with_the_command_that_builds_for_it(
    store: Store,
) -> None:
    target = ahead(store, shapes=shapes_from_text(["64"], ["1-2"]))
    with pytest.raises(ShapeError) as error:
        build_pieces(text_encoder(), DeepCache(), target, sizes={"batch": 3})
    assert str(error.value) == (
        "tiny text_encoder is called with a batch of 3, which is outside what its engines are for; build for it with: "
        "deepcache-trt build --model tiny --backend tensorrt-rtx --dtype float32 --batch 3 --target sm86 "
        f"--store {store.root}"
    )
    assert_nothing_half_built(store)


@needs_rtx
def test_the_command_of_a_denoiser_has_its_size_in_pixels(denoisers: Store) -> None:
    with pytest.raises(
        ShapeError, match=r"a batch of 2 at 12×16 pixels, .* --branch 3 --batch 2 --size 12x16 --target"
    ):
        build_pieces(
            denoiser(),
            DeepCache(cache_branch_id=3),
            ahead(denoisers, shapes=shapes_from_text(["8"], [])),
            sizes={"batch": 2, "height": 12, "width": 16},
        )


@needs_rtx
def test_shapes_that_the_graph_cannot_take_are_refused_before_anything_is_built(store: Store) -> None:
    with pytest.raises(ShapeError, match=r"a batch of 64 is outside the profile 1–63"):
        build_pieces(text_encoder(), DeepCache(), ahead(store, shapes=shapes_from_text([], ["64"])))
    assert_nothing_half_built(store)
