"""Builds: what is there is used, what is missing is built once, and what cannot be leaves nothing behind.

Plans are TensorRT-RTX's own, of the smallest model there is: a text encoder takes it half a second.
"""

import logging
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from deepcache_trt.builder.component import Component, from_architecture, from_model
from deepcache_trt.builder.engines import build_variants, variants_of
from deepcache_trt.builder.open_session import open_session
from deepcache_trt.builder.shapes import Shapes, shapes_from_text
from deepcache_trt.builder.target import Target
from deepcache_trt.engines.backend import BuildOptions
from deepcache_trt.engines.onnxruntime import CPU
from deepcache_trt.engines.openvino import OPENVINO
from deepcache_trt.engines.profile import Range, ShapeProfile
from deepcache_trt.engines.store import MANIFEST, Artefact, Store
from deepcache_trt.engines.tensorrt import TENSORRT_RTX
from deepcache_trt.engines.tensorrt.backend import ENGINE_PLAN
from deepcache_trt.engines.tensorrt.build import build_engine_plan
from deepcache_trt.engines.torch import COMPILED_CPU
from deepcache_trt.errors import BackendError, NotBuiltError, ShapeError, UnknownNameError
from deepcache_trt.models.architecture import OUTPUT
from tests import tiny
from tests.builder.stores import store_with_graph

needs_rtx = pytest.mark.skipif(
    not pytest.importorskip("importlib.util").find_spec("tensorrt_rtx"),
    reason="builds with tensorrt-rtx; pip install 'deepcache-trt[rtx]'",
)

ONE = {"batch": 1}
DENOISED = {"batch": 2, "height": 8, "width": 8}


def text_encoder(seed: int = 0, **config: Any) -> Component:
    model_class, own = tiny.PARTS["clip"]
    name = "tiny" if seed == 0 else f"fine-tune {seed}"
    return from_architecture(model_class, {**own, **config}, name=name, part="text_encoder", dtype="float32", seed=seed)


def denoiser(seed: int = 0) -> Component:
    model_class, config = tiny.ARCHITECTURES["ddpm"]
    return from_architecture(model_class, config, name="tiny", part="unet", dtype="float32", seed=seed)


@pytest.fixture
def store(store_root: Path, tmp_path: Path) -> Store:
    """A store with the graph of the text encoder."""
    return store_with_graph(text_encoder(), store_root, tmp_path / "store")


@pytest.fixture
def denoisers(store_root: Path, tmp_path: Path) -> Store:
    """A store with the graph of the denoiser."""
    return store_with_graph(denoiser(), store_root, tmp_path / "denoisers")


def ahead(store: Store, capability: str = "sm86", **changes: Any) -> Target:
    """TensorRT-RTX for a GPU elsewhere."""
    return Target(backend=TENSORRT_RTX, store=store, capability=capability, **changes)


def on_cpu(store: Store, **changes: Any) -> Target:
    return Target(backend=CPU, store=store, **changes)


def openvino(store: Store, **changes: Any) -> Target:
    return Target(backend=OPENVINO, store=store, **changes)


def compiled_torch(store: Store, **changes: Any) -> Target:
    return Target(backend=COMPILED_CPU, store=store, **changes)


@pytest.fixture
def sm90(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose GPU is of compute capability 9.0, as far as the store is told."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))


def states(folder: Path) -> dict[str, tuple[int, int]]:
    """Which file each is and when it was last written."""
    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and "locks" not in file.parts]
    return {str(file.relative_to(folder)): (file.stat().st_ino, file.stat().st_mtime_ns) for file in files}


def kept(store: Store, kind: str) -> list[str]:
    return sorted(folder.name for folder in (store.root / kind).glob("*"))


def assert_nothing_half_built(store: Store) -> None:
    assert not kept(store, "engines")
    assert not list((store.root / "tmp").glob("*"))


# Once, and no more than needed.


@pytest.mark.parametrize("backend", [on_cpu, openvino, compiled_torch, pytest.param(ahead, marks=needs_rtx)])
def test_a_second_build_writes_nothing(store: Store, backend: Any) -> None:
    first = build_variants(text_encoder(), 0, backend(store))
    before = states(store.root)
    assert build_variants(text_encoder(), 0, backend(store)) == first
    assert states(store.root) == before


def test_a_denoiser_has_two_variants_and_the_branch_is_in_their_keys(denoisers: Store) -> None:
    built = build_variants(denoiser(), 0, on_cpu(denoisers)), build_variants(denoiser(), 1, on_cpu(denoisers))
    assert [list(artefacts) for artefacts in built] == [["full", "shallow"]] * 2
    assert len({artefact.key for artefacts in built for artefact in artefacts.values()}) == 4
    assert [artefacts["shallow"].about["variant"]["consumes"] for artefacts in built] == [["tap_0"], ["tap_1"]]


def test_a_component_without_taps_has_one_variant_whatever_the_branch(store: Store) -> None:
    assert [variant.name for variant in variants_of(text_encoder(), 99)] == ["full"]
    assert build_variants(text_encoder(), 0, on_cpu(store)) == build_variants(text_encoder(), 99, on_cpu(store))


@pytest.mark.parametrize("branch", [-1, 9])
def test_a_branch_that_is_not_there_is_refused_before_anything_is_built(denoisers: Store, branch: int) -> None:
    with pytest.raises(UnknownNameError, match=rf"cache_branch_id={branch} is outside 0…8: tiny has 9 skip connection"):
        build_variants(denoiser(), branch, on_cpu(denoisers))
    assert_nothing_half_built(denoisers)


@pytest.mark.parametrize("backend", [on_cpu, pytest.param(ahead, marks=needs_rtx)])
def test_another_model_of_the_architecture_takes_its_graph_and_has_engines_of_its_own(
    store: Store, backend: Any
) -> None:
    first = build_variants(text_encoder(), 0, backend(store))["full"]
    graphs = states(store.root / "graphs")
    second = build_variants(text_encoder(seed=1), 0, backend(store))["full"]
    assert states(store.root / "graphs") == graphs
    assert len(kept(store, "graphs")) == 1
    assert second.about["graph"] == first.about["graph"]
    assert second.about["weights"] != first.about["weights"]
    assert len(kept(store, "weights")) == 2
    assert {first.key, second.key} == set(kept(store, "engines"))


@needs_rtx
def test_a_manifest_says_what_it_is_for(store: Store) -> None:
    shapes = shapes_from_text(["64"], ["1", "2-4"])
    about = build_variants(text_encoder(), 0, ahead(store, shapes=shapes))["full"].about
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
    first = build_variants(text_encoder(), 0, ahead(store))["full"]
    second = build_variants(text_encoder(), 0, replace(ahead(store), **change))["full"]
    assert first.key != second.key
    assert set(kept(store, "engines")) == {first.key, second.key}


# Which engine serves a call.


def engines_for(store: Store, sizes: dict[str, int], **changes: Any) -> Artefact:
    return build_variants(text_encoder(), 0, ahead(store, **changes), sizes=sizes)["full"]


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
    built = build_variants(denoiser(), 0, target)
    session = open_session(denoiser(), 0, target, sizes=DENOISED)
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
        build_variants(text_encoder(), 0, target, sizes={"batch": 3})
    assert str(error.value) == (
        "tiny text_encoder is called with a batch of 3, which is outside what its engines are for; build for it with: "
        "deepcache-trt build --model tiny --backend tensorrt-rtx --dtype float32 --branch 0 --batch 3 --target sm86 "
        f"--store {store.root}"
    )
    assert_nothing_half_built(store)


@needs_rtx
def test_the_command_of_a_denoiser_has_its_size_in_pixels(denoisers: Store) -> None:
    with pytest.raises(
        ShapeError, match=r"a batch of 2 at 12×16 pixels, .* --branch 3 --batch 2 --size 12x16 --target"
    ):
        build_variants(
            denoiser(),
            3,
            ahead(denoisers, shapes=shapes_from_text(["8"], [])),
            sizes={"batch": 2, "height": 12, "width": 16},
        )


@needs_rtx
def test_shapes_that_the_graph_cannot_take_are_refused_before_anything_is_built(store: Store) -> None:
    with pytest.raises(ShapeError, match=r"a batch of 64 is outside the profile 1–63"):
        build_variants(text_encoder(), 0, ahead(store, shapes=shapes_from_text([], ["64"])))
    assert_nothing_half_built(store)


# Building forbidden.


@pytest.mark.parametrize("backend", [on_cpu, openvino, pytest.param(ahead, marks=needs_rtx)])
def test_never_names_what_is_missing_and_the_command_that_builds_it(store: Store, backend: Any) -> None:
    target = backend(store, build="never")
    shape = " --batch 1" if target.backend.compiled else ""
    place = f" --target {target.capability}" if target.capability else ""
    with pytest.raises(NotBuiltError) as error:
        build_variants(text_encoder(), 2, target, sizes=ONE)
    assert str(error.value) == (
        f"the store {store.root} has no {target.backend} engine 'full' of tiny text_encoder (float32, branch 2) for "
        f"{target.device_tag}; allow build='auto' once, or run: deepcache-trt build --model tiny "
        f"--backend {target.backend} --dtype float32 --branch 2{shape}{place} --store {store.root}"
    )
    assert_nothing_half_built(store)


@needs_rtx
def test_never_takes_what_is_there(store: Store) -> None:
    built = engines_for(store, ONE)
    assert engines_for(store, ONE, build="never") == built
    with pytest.raises(NotBuiltError, match=r"run: .* --batch 2 "):
        engines_for(store, {"batch": 2}, build="never")


@needs_rtx
def test_an_engine_for_another_gpu_is_told_of_and_not_used(store: Store) -> None:
    built = engines_for(store, ONE, capability="sm89")
    elsewhere = r"for sm86; there is one for sm89, which does not run on sm86; allow build='auto' once, or run: "
    with pytest.raises(NotBuiltError, match=elsewhere):
        engines_for(store, ONE, build="never")
    assert kept(store, "engines") == [built.key]


@needs_rtx
def test_an_engine_of_other_weights_for_another_gpu_is_not_told_of(store: Store) -> None:
    engines_for(store, ONE, capability="sm89")
    with pytest.raises(
        NotBuiltError, match=r"'full' of fine-tune 1 text_encoder \(float32, branch 0\) for sm86; allow"
    ):
        build_variants(text_encoder(seed=1), 0, ahead(store, build="never"), sizes=ONE)


@needs_rtx
@pytest.mark.usefixtures("sm90")
def test_a_plan_for_another_gpu_than_this_machines_is_told_of_and_not_loaded(store: Store) -> None:
    for capability in ("sm86", "sm89"):
        engines_for(store, ONE, capability=capability)
    here = replace(ahead(store), capability=None, build="never")
    message = r"for sm90; there is one for sm86, sm89, which does not run on sm90; allow build='auto' once, or run: "
    with pytest.raises(NotBuiltError, match=message) as error:
        open_session(text_encoder(), 0, here, sizes=ONE)
    assert "--target" not in str(error.value)


@needs_rtx
@pytest.mark.usefixtures("sm90")
def test_a_gpu_that_is_not_there_is_found_out_before_a_plan_is_built_for_it(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    built = engines_for(store, ONE)
    with caplog.at_level(logging.INFO, "deepcache_trt"), pytest.raises(BackendError, match="torch sees none"):
        open_session(text_encoder(), 0, replace(ahead(store), capability=None), sizes=ONE)
    assert any("there is one for sm86, which does not run on sm90; building it" in r.message for r in caplog.records)
    assert kept(store, "engines") == [built.key]


# Trust.


@pytest.fixture
def refused(store: Store) -> Artefact:
    artefact = build_variants(text_encoder(), 0, on_cpu(store))["full"]
    check = {"usable": False, "reason": "pooler_output differs by 0.31 of the reference's norm, the limit is 0.001"}
    return store.amend(artefact, check=check)


def test_an_engine_that_was_found_wrong_is_refused_with_the_figures_and_the_cure(
    store: Store, refused: Artefact
) -> None:
    message = (
        rf"the onnxruntime engine 'full' of tiny text_encoder is unusable: pooler_output differs by 0\.31 of .*; "
        rf"choose another --backend or --dtype, or delete {refused.folder} to build it again"
    )
    for build in ("auto", "never"):
        with pytest.raises(BackendError, match=message):
            open_session(text_encoder(), 0, on_cpu(store, build=build), sizes=ONE)


def test_deleting_it_builds_it_again(store: Store, refused: Artefact) -> None:
    for file in refused.folder.iterdir():
        file.unlink()
    refused.folder.rmdir()
    assert "check" not in build_variants(text_encoder(), 0, on_cpu(store))["full"].about


def test_an_engine_that_was_found_right_is_used_without_another_check(store: Store) -> None:
    artefact = build_variants(text_encoder(), 0, on_cpu(store))["full"]
    store.amend(artefact, check={"usable": True, "reason": ""})
    open_session(text_encoder(), 0, on_cpu(store), sizes=ONE).close()


# What fails leaves nothing.


@needs_rtx
def test_a_plan_that_cannot_be_built_leaves_only_the_graph_and_the_weights(store: Store) -> None:
    little = ahead(store, options=BuildOptions(workspace_bytes=1024))
    with pytest.raises(BackendError, match=r"TensorRT cannot build graph\.onnx: .*allow more workspace"):
        build_variants(text_encoder(), 0, little)
    assert_nothing_half_built(store)
    left = set(states(store.root))
    (weights,) = kept(store, "weights")
    assert {Path(file).parts[0] for file in left} == {"weights"}  # the graph is a link here
    assert left == {f"weights/{weights}/{MANIFEST}", f"weights/{weights}/weights-00.safetensors"}
    assert build_variants(text_encoder(), 0, ahead(store))["full"].about["built"]["plan_bytes"] > 0


@needs_rtx
def test_a_shallow_engine_that_cannot_be_built_leaves_the_full_one_and_the_next_build_goes_on(
    denoisers: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deepcache_trt.engines.tensorrt import backend as tensorrt

    def fails_when_shallow(*args: Any, stage: str, **arguments: Any) -> dict[str, Any]:
        if "shallow" in stage:
            raise BackendError("killed for want of memory")
        facts: dict[str, Any] = real(*args, stage=stage, **arguments)
        return facts

    real = build_engine_plan
    monkeypatch.setattr(tensorrt, "build_engine_plan", fails_when_shallow)
    with pytest.raises(BackendError, match="want of memory"):
        build_variants(denoiser(), 0, ahead(denoisers))
    monkeypatch.setattr(tensorrt, "build_engine_plan", real)
    (full,) = kept(denoisers, "engines")
    built = build_variants(denoiser(), 0, ahead(denoisers))
    assert built["full"].key == full


# What was damaged since.


def _truncate(plan: Path) -> None:
    os.truncate(plan, plan.stat().st_size // 2)


def _flip_a_bit(plan: Path) -> None:
    content = bytearray(plan.read_bytes())
    content[len(content) // 2] ^= 1
    plan.write_bytes(content)


@needs_rtx
@pytest.mark.parametrize("damage", [_truncate, _flip_a_bit, Path.unlink], ids=["truncated", "changed", "missing"])
def test_a_damaged_plan_is_noticed_and_built_again(store: Store, caplog: pytest.LogCaptureFixture, damage: Any) -> None:
    first = engines_for(store, ONE)
    damage(first.folder / ENGINE_PLAN)
    with caplog.at_level(logging.WARNING):
        second = engines_for(store, ONE)
    assert {record.message for record in caplog.records} == {
        f"{first.folder}: {ENGINE_PLAN} is not what the manifest says; it will be rebuilt"
    }
    assert (second.key, second.folder) == (first.key, first.folder)
    assert (second.folder / ENGINE_PLAN).stat().st_size == second.about["built"]["plan_bytes"]


@needs_rtx
def test_a_damaged_plan_is_missing_where_building_is_forbidden(store: Store) -> None:
    artefact = engines_for(store, ONE)
    _truncate(artefact.folder / ENGINE_PLAN)
    with pytest.raises(NotBuiltError, match=re.escape("has no tensorrt-rtx engine 'full' of tiny text_encoder")):
        engines_for(store, ONE, build="never")


# What a precision and a backend cannot do.


def test_bfloat16_is_refused_on_onnx_runtimes_cpu_before_anything_is_built(store: Store) -> None:
    model = from_model(tiny.new_part("clip").bfloat16(), name="tiny", part="text_encoder")
    with pytest.raises(BackendError, match="no bfloat16 on the CPU; use float32 there"):
        build_variants(model, 0, on_cpu(store))
    assert_nothing_half_built(store)


def test_a_target_says_what_it_is_for(store: Store) -> None:
    assert (ahead(store).device_tag, ahead(store).backend.compiled) == ("sm86", True)
    assert on_cpu(store).device_tag.startswith("cpu-")
    assert not on_cpu(store).backend.compiled
    assert on_cpu(store, shapes=Shapes()).shapes == Shapes()
