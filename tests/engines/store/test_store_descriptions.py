"""What artefacts say about themselves: kept, searched by and amended."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deepcache_trt.engines.manifest import MANIFEST
from deepcache_trt.engines.store import Store
from deepcache_trt.errors import StoreError
from tests.engines.store.builds import ENGINE, Build, leftovers


def test_what_is_built_is_described_as_it_will_be_found(store: Store) -> None:
    """JSON has no tuples and no numbers as keys."""
    built = store.get("engines", ENGINE, lambda folder: {"emits": ("tap_0",), "sizes": {1: 2}})
    assert built.about == {"emits": ["tap_0"], "sizes": {"1": 2}}
    assert built == store.find("engines", built.key)


# Searched by what they say about themselves.


def described(**about: Any) -> Callable[[Path], dict[str, Any]]:
    def build(folder: Path) -> dict[str, Any]:
        (folder / "plan").write_bytes(b"plan")
        return about

    return build


@pytest.fixture
def described_engines(store: Store) -> dict[str, Any]:
    """Three engines, by the number of their key."""
    abouts: dict[str, dict[str, Any]] = {
        "0": {"device": "sm86", "part": {"name": "full", "emits": ["tap_0"]}, "level": None},
        "1": {"device": "sm86", "part": {"name": "shallow", "emits": []}, "level": 3},
        "2": {"device": "sm89", "part": {"name": "full", "emits": ["tap_0"]}, "level": 3},
    }
    return {number: store.get("engines", {"n": number}, described(**about)) for number, about in abouts.items()}


@pytest.mark.parametrize(
    ("about", "found"),
    [
        ({}, "012"),
        ({"device": "sm86"}, "01"),
        ({"device": "sm86", "level": 3}, "1"),
        ({"level": None}, "0"),
        ({"part": {"name": "full", "emits": ["tap_0"]}}, "02"),
        ({"part": {"name": "full", "emits": ("tap_0",)}}, "02"),  # as the code has it, before it was JSON
        ({"part": {"name": "full"}}, ""),  # an entry is compared as a whole
        ({"part": {"name": "full", "emits": ["tap_1"]}}, ""),
        ({"backend": None}, ""),  # none of them says anything about it
        ({"backend": "torch"}, ""),
    ],
)
def test_a_search_gives_what_has_all_of_the_entries(
    store: Store, described_engines: dict[str, Any], about: dict[str, Any], found: str
) -> None:
    wanted = [described_engines[number] for number in found]
    assert sorted(store.search("engines", about), key=lambda a: a.key) == sorted(wanted, key=lambda a: a.key)


def test_a_search_is_for_one_kind_and_creates_nothing(store: Store) -> None:
    assert list(store.search("engines", {})) == []
    assert not store.root.exists()
    store.get("graphs", {}, described(device="sm86"))
    assert list(store.search("engines", {"device": "sm86"})) == []


# Amended.


def test_an_amended_artefact_is_found_with_what_was_added_and_is_still_whole(store: Store) -> None:
    built = store.get("engines", ENGINE, Build())
    files = {file.name: file.read_bytes() for file in built.folder.iterdir() if file.name != MANIFEST}
    amended = store.amend(built, check={"usable": False, "reason": "NaN"}, count=7)
    assert amended.about == {"model": "digits", "count": 7, "check": {"usable": False, "reason": "NaN"}}
    assert amended == store.find("engines", built.key) == store.get("engines", ENGINE, Build())
    assert list(store.search("engines", {"count": 7})) == [amended]
    assert {file.name: file.read_bytes() for file in built.folder.iterdir() if file.name != MANIFEST} == files
    assert set(os.listdir(built.folder)) == {*files, MANIFEST}


def test_an_amendment_keeps_what_another_process_has_added(store: Store) -> None:
    built = store.get("engines", ENGINE, Build())
    store.amend(built, seen="ours")
    assert store.amend(built, note="theirs").about == {"model": "digits", "count": 1, "seen": "ours", "note": "theirs"}


def test_an_amendment_that_cannot_be_written_changes_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    built = store.get("engines", ENGINE, Build())
    before = leftovers(store)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        with pytest.raises(StoreError, match="no space left in the store"):
            store.amend(built, seen="ours")
    assert store.find("engines", built.key) == built
    assert leftovers(store) == before
