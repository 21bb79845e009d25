"""What was found wrong is refused, what fails leaves nothing, and what was damaged is built again."""

import logging
import os
import re
from pathlib import Path
from typing import Any

import pytest

from deepcache_trt.builder.engines import build_pieces
from deepcache_trt.builder.open_session import open_session
from deepcache_trt.engines.backend import BuildOptions
from deepcache_trt.engines.manifest import MANIFEST
from deepcache_trt.engines.store import Artefact, Store
from deepcache_trt.engines.tensorrt.backend import ENGINE_PLAN
from deepcache_trt.engines.tensorrt.build import build_engine_plan
from deepcache_trt.errors import BackendError, NotBuiltError
from deepcache_trt.runtime.policies.deepcache import DeepCache
from tests.builder.small_builds import ONE, ahead, denoiser, engines_for, needs_rtx, on_cpu, text_encoder
from tests.builder.stores import assert_nothing_half_built, kept, states

# Trust.


@pytest.fixture
def refused(store: Store) -> Artefact:
    artefact = build_pieces(text_encoder(), DeepCache(), on_cpu(store))["full"]
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
            open_session(text_encoder(), DeepCache(), on_cpu(store, build=build), sizes=ONE)


def test_deleting_it_builds_it_again(store: Store, refused: Artefact) -> None:
    for file in refused.folder.iterdir():
        file.unlink()
    refused.folder.rmdir()
    assert "check" not in build_pieces(text_encoder(), DeepCache(), on_cpu(store))["full"].about


def test_an_engine_that_was_found_right_is_used_without_another_check(store: Store) -> None:
    artefact = build_pieces(text_encoder(), DeepCache(), on_cpu(store))["full"]
    store.amend(artefact, check={"usable": True, "reason": ""})
    open_session(text_encoder(), DeepCache(), on_cpu(store), sizes=ONE).close()


# What fails leaves nothing.


@needs_rtx
def test_a_plan_that_cannot_be_built_leaves_only_the_graph_and_the_weights(store: Store) -> None:
    little = ahead(store, options=BuildOptions(workspace_bytes=1024))
    with pytest.raises(BackendError, match=r"TensorRT cannot build graph\.onnx: .*allow more workspace"):
        build_pieces(text_encoder(), DeepCache(), little)
    assert_nothing_half_built(store)
    left = set(states(store.root))
    (weights,) = kept(store, "weights")
    assert {Path(file).parts[0] for file in left} == {"weights", "graphs"}
    ours = {file for file in left if file.startswith("weights/")}
    assert ours == {f"weights/{weights}/{MANIFEST}", f"weights/{weights}/weights-00.safetensors"}
    assert build_pieces(text_encoder(), DeepCache(), ahead(store))["full"].about["built"]["plan_bytes"] > 0


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
        build_pieces(denoiser(), DeepCache(), ahead(denoisers))
    monkeypatch.setattr(tensorrt, "build_engine_plan", real)
    (full,) = kept(denoisers, "engines")
    built = build_pieces(denoiser(), DeepCache(), ahead(denoisers))
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
