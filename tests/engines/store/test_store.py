"""The store: built once, found by content, and never half of anything."""

import os
import time

import pytest

from deepcache_trt.engines.manifest import MANIFEST
from deepcache_trt.engines.store import Store, key_of
from deepcache_trt.errors import CheckpointError
from tests.engines.store.builds import ENGINE, Build, failing, leftovers


def test_a_key_is_the_content_of_its_ingredients() -> None:
    reordered = dict(reversed(ENGINE.items()))
    assert key_of(ENGINE) == key_of(reordered)
    assert key_of(ENGINE) != key_of({**ENGINE, "backend": "torch"})
    assert key_of(ENGINE) != key_of({**ENGINE, "profile": {"batch": [1, 2, 9]}})
    assert key_of(ENGINE).isalnum()


def test_an_artefact_is_built_once_and_then_found(store: Store) -> None:
    build = Build()
    first = store.get("engines", ENGINE, build)
    assert store.get("engines", ENGINE, build) == first == store.find("engines", key_of(ENGINE))
    assert build.count == 1
    assert first.folder == store.root / "engines" / key_of(ENGINE)
    assert first.about == {"model": "digits", "count": 1}
    assert (first.folder / "engine.onnx").read_bytes() == b"engine"
    assert first.size == sum(file.stat().st_size for file in first.folder.iterdir())


def test_kinds_and_ingredients_do_not_meet(store: Store) -> None:
    build = Build()
    kept = [
        store.get("engines", ENGINE, build),
        store.get("graphs", ENGINE, build),
        store.get("engines", {**ENGINE, "backend": "torch"}, build),
    ]
    assert build.count == len({artefact.folder for artefact in kept}) == 3


def test_what_is_not_there_is_not_found_and_looking_creates_nothing(store: Store) -> None:
    assert store.find("engines", key_of(ENGINE)) is None
    assert list(store.list()) == []
    assert not store.root.exists()


@pytest.mark.parametrize(
    "error",
    [ValueError("no such op"), CheckpointError("no weights"), KeyboardInterrupt(), SystemExit(3), OSError("odd")],
    ids=lambda error: type(error).__name__,
)
def test_a_failed_build_leaves_nothing_and_its_error_propagates(store: Store, error: BaseException) -> None:
    with pytest.raises(type(error)) as caught:
        store.get("engines", ENGINE, failing(error))
    assert caught.value is error
    assert leftovers(store) == ["tmp"]
    assert store.get("engines", ENGINE, Build()).about["count"] == 1


def test_list_gives_whole_artefacts_by_kind_and_age(store: Store) -> None:
    made = [store.get(kind, {"n": n}, Build()) for n, kind in enumerate(["engines", "weights", "engines", "graphs"])]
    for age, artefact in zip((30, 20, 10, 40), made, strict=True):
        os.utime(artefact.folder / MANIFEST, (time.time() - age, time.time() - age))
    (store.root / "engines" / "not-an-artefact").mkdir()
    old, weights, new, graph = made
    assert list(store.list()) == [graph, weights, old, new]
