"""With `build="never"` what is there is used; what is missing is named, with the engines for other GPUs."""

import logging
from dataclasses import replace
from typing import Any

import pytest
import torch

from deepcache_trt.builder.engines import build_pieces
from deepcache_trt.builder.open_session import open_session
from deepcache_trt.engines.store import Store
from deepcache_trt.errors import BackendError, NotBuiltError
from deepcache_trt.runtime.policies.deepcache import DeepCache
from tests.builder.small_builds import ONE, ahead, engines_for, needs_rtx, on_cpu, openvino, text_encoder
from tests.builder.stores import assert_nothing_half_built, kept


@pytest.fixture
def sm90(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose GPU is of compute capability 9.0, as far as the store is told."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))


@pytest.mark.parametrize("backend", [on_cpu, openvino, pytest.param(ahead, marks=needs_rtx)])
def test_never_names_what_is_missing_and_the_command_that_builds_it(store: Store, backend: Any) -> None:
    target = backend(store, build="never")
    shape = " --batch 1" if target.backend.compiled else ""
    place = f" --target {target.capability}" if target.capability else ""
    with pytest.raises(NotBuiltError) as error:
        build_pieces(text_encoder(), DeepCache(cache_branch_id=2), target, sizes=ONE)
    assert str(error.value) == (
        f"the store {store.root} has no {target.backend} engine 'full' of tiny text_encoder (float32) for "
        f"{target.device_tag}; allow build='auto' once, or run: deepcache-trt build --model tiny "
        f"--backend {target.backend} --dtype float32{shape}{place} --store {store.root}"
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
    with pytest.raises(NotBuiltError, match=r"'full' of fine-tune 1 text_encoder \(float32\) for sm86; allow"):
        build_pieces(text_encoder(seed=1), DeepCache(), ahead(store, build="never"), sizes=ONE)


@needs_rtx
@pytest.mark.usefixtures("sm90")
def test_a_plan_for_another_gpu_than_this_machines_is_told_of_and_not_loaded(store: Store) -> None:
    for capability in ("sm86", "sm89"):
        engines_for(store, ONE, capability=capability)
    here = replace(ahead(store), capability=None, build="never")
    message = r"for sm90; there is one for sm86, sm89, which does not run on sm90; allow build='auto' once, or run: "
    with pytest.raises(NotBuiltError, match=message) as error:
        open_session(text_encoder(), DeepCache(), here, sizes=ONE)
    assert "--target" not in str(error.value)


@needs_rtx
@pytest.mark.usefixtures("sm90")
def test_a_gpu_that_is_not_there_is_found_out_before_a_plan_is_built_for_it(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    built = engines_for(store, ONE)
    with caplog.at_level(logging.INFO, "deepcache_trt"), pytest.raises(BackendError, match="torch sees none"):
        open_session(text_encoder(), DeepCache(), replace(ahead(store), capability=None), sizes=ONE)
    assert any("there is one for sm86, which does not run on sm90; building it" in r.message for r in caplog.records)
    assert kept(store, "engines") == [built.key]
