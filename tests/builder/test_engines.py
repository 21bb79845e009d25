"""Builds: what is there is used, what is missing is built once, and another dependency makes another engine."""

import json
import os
from dataclasses import replace
from typing import Any

import pytest

from deepcache_trt.builder.component import from_model
from deepcache_trt.builder.engines import build_pieces
from deepcache_trt.builder.pieces import variants_of
from deepcache_trt.builder.shapes import Shapes, shapes_from_text
from deepcache_trt.engines.backend import BuildOptions
from deepcache_trt.engines.profile import ShapeProfile
from deepcache_trt.engines.store import Store
from deepcache_trt.errors import BackendError, UnknownNameError
from deepcache_trt.runtime.policies.deepcache import DeepCache
from tests import tiny
from tests.builder.small_builds import ahead, compiled_torch, denoiser, needs_rtx, on_cpu, openvino, text_encoder
from tests.builder.stores import assert_nothing_half_built, kept, states
from tests.commands.command_line import Run

# Once, and no more than needed.


@pytest.mark.parametrize("backend", [on_cpu, openvino, compiled_torch, pytest.param(ahead, marks=needs_rtx)])
def test_a_second_build_writes_nothing(store: Store, backend: Any) -> None:
    first = build_pieces(text_encoder(), DeepCache(), backend(store))
    before = states(store.root)
    assert build_pieces(text_encoder(), DeepCache(), backend(store)) == first
    assert states(store.root) == before


def test_a_denoiser_has_two_variants_and_the_branch_is_in_their_keys(denoisers: Store) -> None:
    built = (
        build_pieces(denoiser(), DeepCache(), on_cpu(denoisers)),
        build_pieces(denoiser(), DeepCache(cache_branch_id=1), on_cpu(denoisers)),
    )
    assert [list(artefacts) for artefacts in built] == [["full", "shallow"]] * 2
    assert len({artefact.key for artefacts in built for artefact in artefacts.values()}) == 4
    assert [artefacts["shallow"].about["variant"]["consumes"] for artefacts in built] == [["tap_0"], ["tap_1"]]


def test_a_component_without_taps_has_one_variant_whatever_the_branch(store: Store) -> None:
    deepest = DeepCache(cache_branch_id=99)
    assert [variant.name for variant in variants_of(text_encoder().architecture, deepest, "tiny")] == ["full"]
    first = build_pieces(text_encoder(), DeepCache(), on_cpu(store))
    assert build_pieces(text_encoder(), deepest, on_cpu(store)) == first


def test_a_branch_that_is_not_there_is_refused_before_anything_is_built(denoisers: Store) -> None:
    with pytest.raises(UnknownNameError, match="tiny: cache_branch_id=9 is outside 0…8: there are 9 skip connections"):
        build_pieces(denoiser(), DeepCache(cache_branch_id=9), on_cpu(denoisers))
    assert_nothing_half_built(denoisers)


@pytest.mark.parametrize("backend", [on_cpu, pytest.param(ahead, marks=needs_rtx)])
def test_another_model_of_the_architecture_takes_its_graph_and_has_engines_of_its_own(
    store: Store, backend: Any
) -> None:
    first = build_pieces(text_encoder(), DeepCache(), backend(store))["full"]
    graphs = states(store.root / "graphs")
    second = build_pieces(text_encoder(seed=1), DeepCache(), backend(store))["full"]
    assert states(store.root / "graphs") == graphs
    assert len(kept(store, "graphs")) == 1
    assert second.about["graph"] == first.about["graph"]
    assert second.about["weights"] != first.about["weights"]
    assert len(kept(store, "weights")) == 2
    assert {first.key, second.key} == set(kept(store, "engines"))


@needs_rtx
def test_a_manifest_says_what_it_is_for(store: Store) -> None:
    shapes = shapes_from_text(["64"], ["1", "2-4"])
    about = build_pieces(text_encoder(), DeepCache(), ahead(store, shapes=shapes))["full"].about
    expected = {
        "model": "tiny",
        "component": "text_encoder",
        "dtype": "float32",
        "backend": "tensorrt-rtx",
        "device": "sm86",
        "variant": {"name": "full", "consumes": [], "emits": [], "outputs": None},
        "build_options": {"optimization_level": None, "workspace_bytes": None, "refittable": False},
        "inputs": [{"name": "input_ids", "dtype": "int64", "shape": ["batch", 16]}],
    }
    assert {name: about[name] for name in expected} == expected
    assert (about["built"]["built_for"], about["built"]["profiles"]) == ("sm86", 2)
    assert [ShapeProfile.from_json(data).batch.max for data in about["profiles"]] == [1, 4]
    assert "check" not in about  # nothing has run it yet


@needs_rtx
@pytest.mark.parametrize(
    "change",
    [{"capability": "sm89"}, {"options": BuildOptions(optimization_level=1)}, {"shapes": shapes_from_text([], ["2"])}],
    ids=["another GPU", "another option", "another shape"],
)
def test_what_an_engine_depends_on_makes_another_engine(store: Store, change: dict[str, Any]) -> None:
    first = build_pieces(text_encoder(), DeepCache(), ahead(store))["full"]
    second = build_pieces(text_encoder(), DeepCache(), replace(ahead(store), **change))["full"]
    assert first.key != second.key
    assert set(kept(store, "engines")) == {first.key, second.key}


# What a precision and a backend cannot do.


def test_bfloat16_is_refused_on_onnx_runtimes_cpu_before_anything_is_built(store: Store) -> None:
    model = from_model(tiny.new_part("clip").bfloat16(), name="tiny", part="text_encoder")
    with pytest.raises(BackendError, match="no bfloat16 on the CPU; use float32 there"):
        build_pieces(model, DeepCache(), on_cpu(store))
    assert_nothing_half_built(store)


def test_a_target_says_what_it_is_for(store: Store) -> None:
    assert (ahead(store).device_tag, ahead(store).backend.compiled) == ("sm86", True)
    assert on_cpu(store).device_tag.startswith("cpu-")
    assert not on_cpu(store).backend.compiled
    assert on_cpu(store, shapes=Shapes()).shapes == Shapes()


def test_engines_of_another_version_are_built_beside_listed_as_outdated_and_collected(store: Store, run: Run) -> None:
    target = on_cpu(store)
    other = replace(target, backend=replace(target.backend, version=lambda: "0.1"))
    now, then = (build_pieces(text_encoder(), DeepCache(), each)["full"] for each in (target, other))
    assert now.key != then.key
    os.utime(then.folder, (0, 0))  # what was asked for just now may be about to be opened
    listed = json.loads(run("store", "ls", "--json", "--store", store.root).out)["artefacts"]
    assert [each["key"] for each in listed if each["state"] == "outdated"] == [then.key]
    assert run("store", "gc", "--store", store.root).code == 0
    assert store.find("engines", then.key) is None
    assert build_pieces(text_encoder(), DeepCache(), target)["full"] == now
