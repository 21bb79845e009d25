"""What of a store can go: by age and by size, the least recently used first, and never what is still needed."""

import os
import time
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from deepcache_trt.engines.manifest import MANIFEST
from deepcache_trt.engines.store import Store
from deepcache_trt.engines.upkeep import PASSING, bytes_of, collect, held
from tests.engines.store.builds import DESCRIPTION

HOUR, MB = 3600, 1 << 20


def add(store: Store, kind: str, name: str, *, hours: float, megabytes: int = 1, **about: Any) -> str:
    """An artefact that was last used so many hours ago; its key."""

    def build(folder: Path) -> dict[str, Any]:
        (folder / "file").write_bytes(bytes(megabytes * MB))
        return about

    artefact = store.get(kind, {"name": name}, build)
    long_ago = time.time() - hours * HOUR
    os.utime(artefact.folder, (long_ago, long_ago))
    return artefact.key


def engine(store: Store, name: str, *, hours: float, megabytes: int = 1, **about: Any) -> str:
    return add(store, "engines", name, hours=hours, megabytes=megabytes, **{**DESCRIPTION, **about})


def left(store: Store) -> set[str]:
    return {each.key for each in held(store.root)}


def test_what_was_used_longest_ago_goes_until_the_rest_fits(store: Store) -> None:
    oldest, middle, newest = (engine(store, name, hours=hours) for name, hours in (("a", 30), ("b", 20), ("c", 10)))
    gone = [each.key for each in collect(store.root, max_bytes=int(2.5 * MB))]
    assert gone == [oldest]
    assert left(store) == {middle, newest}


def test_to_be_asked_for_is_to_be_used(store: Store) -> None:
    first, second = engine(store, "a", hours=30), engine(store, "b", hours=20)
    assert store.find("engines", first) is not None
    assert [each.key for each in collect(store.root, unused_seconds=HOUR)] == [second]


def test_what_adapters_have_left_goes_first(store: Store) -> None:
    plain = engine(store, "a", hours=30)
    merged = engine(store, "b", hours=10, **{PASSING: True})
    assert [each.key for each in collect(store.root, max_bytes=int(1.5 * MB))] == [merged]
    assert left(store) == {plain}


def test_what_an_engine_that_stays_is_made_of_stays(store: Store) -> None:
    graph = add(store, "graphs", "g", hours=300)
    weights = add(store, "weights", "w", hours=300)
    unneeded = add(store, "weights", "other", hours=300)
    kept = engine(store, "a", hours=1, graph=graph, weights=weights)
    assert [each.key for each in collect(store.root, unused_seconds=24 * HOUR)] == [unneeded]
    assert left(store) == {graph, weights, kept}
    # They go with it.
    assert {each.key for each in collect(store.root, max_bytes=0)} == {graph, weights, kept}


def test_what_was_asked_for_in_the_last_minute_stays(store: Store) -> None:
    recent = engine(store, "a", hours=0)
    assert list(collect(store.root, max_bytes=0)) == []
    assert left(store) == {recent}


def test_what_is_being_built_stays(store: Store) -> None:
    key = engine(store, "a", hours=30)
    with FileLock(store.root / "locks" / f"engines-{key}.lock"):
        assert list(collect(store.root, max_bytes=0)) == []
    assert [each.key for each in collect(store.root, max_bytes=0)] == [key]


def test_what_is_damaged_goes_and_so_does_what_is_outdated(store: Store) -> None:
    whole = engine(store, "a", hours=30, backend_version="2")
    outdated = engine(store, "b", hours=30, backend_version="1")
    damaged = engine(store, "c", hours=30)
    (store.root / "engines" / damaged / MANIFEST).write_text("{")
    gone = collect(store.root, is_outdated=lambda each: each.about.get("backend_version") == "1")
    assert {each.key for each in gone} == {outdated, damaged}
    assert left(store) == {whole}


def test_a_link_goes_and_what_it_leads_to_stays(store: Store, tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").touch()
    (store.root / "engines").mkdir(parents=True)
    (store.root / "engines" / ("0" * 20)).symlink_to(tmp_path / "precious")
    assert [each.damage for each in collect(store.root)] == ["it is a link"]
    assert (tmp_path / "precious" / "file").exists()
    assert left(store) == set()


def test_a_dry_run_removes_nothing(store: Store) -> None:
    keys = {engine(store, "a", hours=30), engine(store, "b", hours=20)}
    assert {each.key for each in collect(store.root, max_bytes=0, dry=True)} == keys
    assert left(store) == keys


def test_what_a_backend_has_compiled_of_an_engine_goes_with_it(store: Store) -> None:
    key = engine(store, "a", hours=30)
    compiled = store.root / "caches" / "openvino" / "compiled" / f"{key}-2"
    compiled.mkdir(parents=True)
    (compiled / "blob").write_bytes(bytes(MB))
    assert bytes_of(held(store.root)) > 2 * MB
    list(collect(store.root, max_bytes=0))
    assert not compiled.exists()


def test_a_file_that_several_link_counts_once_and_one_of_a_checkpoint_not_at_all(store: Store, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    checkpoint.write_bytes(bytes(3 * MB))
    own = tmp_path / "own"
    own.write_bytes(bytes(5 * MB))

    def linking(file: Path) -> Any:
        def build(folder: Path) -> dict[str, Any]:
            os.link(file, folder / "weights")
            return {}

        return build

    for kind in ("weights", "engines"):
        store.get(kind, {"of": "checkpoint"}, linking(checkpoint))
        store.get(kind, {"of": "own"}, linking(own))
    own.unlink()
    assert 5 * MB <= bytes_of(held(store.root)) < 5.1 * MB


def test_a_store_keeps_to_its_setting(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    old = engine(store, "a", hours=30)
    monkeypatch.setenv("DEEPCACHE_TRT_STORE_GB", "0.0015")
    new = engine(store, "b", hours=0)
    assert left(store) == {new}
    assert old != new
