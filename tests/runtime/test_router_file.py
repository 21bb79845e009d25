"""Router files: our own, those of Learning-to-Cache without running their code, and what is neither."""

import argparse
import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from deepcache_trt.errors import CheckpointError, DeepCacheError
from deepcache_trt.runtime.policies.router_file import RouterFile, read_router, write_router

CURE = r"; give a file that deepcache-trt train-router wrote, or a router of Learning-to-Cache \(\.pt\)$"


def published(steps: int = 6, taps: int = 4) -> OrderedDict[str, torch.Tensor]:
    """Entry i has i + 0.0, i + 0.1, …, of which even ones are of cached calls."""
    return OrderedDict((f"{i}.prob", i + torch.arange(taps) / 10) for i in range(steps))


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    logits = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    router = RouterFile(logits=logits, taps=("tap_0", "tap_1", "tap_2"), about={"model": "digits", "steps": 10})
    write_router(tmp_path / "new" / "router.safetensors", router)
    read = read_router(str(tmp_path / "new" / "router.safetensors"))
    assert np.array_equal(read.logits, logits)
    assert (read.taps, read.about) == (router.taps, router.about)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["router.safetensors"]


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda state: state,
        lambda state: {"routers": state, "opt": {"state": {}}, "args": argparse.Namespace(lr=0.001, ckpt=None)},
        lambda state: {f"module.routers.{name}": value.half() for name, value in state.items()},
    ],
    ids=["state dict", "checkpoint", "prefixed"],
)
def test_entries_of_the_original_count_up_from_the_last_call(wrapped: Any, tmp_path: Path) -> None:
    torch.save(wrapped(published()), tmp_path / "router.pt")
    logits = read_router(tmp_path / "router.pt").logits
    # Of six calls the cached ones are 1, 3 and 5, whose entries are 4, 2 and 0.
    assert logits == pytest.approx(
        np.array([[4.0, 4.1, 4.2, 4.3], [2.0, 2.1, 2.2, 2.3], [0.0, 0.1, 0.2, 0.3]]), abs=2e-3
    )
    assert logits.dtype == np.float32


class Trap:
    """What runs code where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return exec, (f"open({str(self.path)!r}, 'w').close()",)


def test_a_pickle_that_would_run_code_is_refused_and_its_code_is_not_run(tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    torch.save({**published(), "args": Trap(sprung)}, tmp_path / "router.pt")
    with pytest.raises(CheckpointError, match=rf"it holds exec, which would run code, and only tensors.*{CURE}"):
        read_router(tmp_path / "router.pt")
    assert not sprung.exists()
    torch.load(tmp_path / "router.pt", weights_only=False)
    assert sprung.exists(), "it does run where that is allowed"


def changed(**entries: Any) -> Any:
    return {**published(), **{f"{name[1:]}.prob": value for name, value in entries.items()}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (published(steps=5), "it has 5 entries, an odd number, and calls come in pairs"),
        (published(steps=0), "it has 0 entries such as 0.prob"),
        ({"0.prob": torch.zeros(4), "2.prob": torch.zeros(4)}, "it has 2 entries .* do not count up from 0"),
        (changed(_2=torch.zeros(5)), r"of shapes \['\(4,\)', '\(5,\)'\], and they are vectors of one length"),
        (changed(_0=torch.zeros(1, 4), _2=torch.zeros(1, 4), _4=torch.zeros(1, 4)), r"of shapes \['\(1, 4\)'\]"),
        (changed(_0=3), r"of shapes .*None"),
        (changed(_0=torch.tensor([0, torch.nan, torch.inf, 0])), "2 of 12 logits are not finite"),
        ([torch.zeros(4)], "it holds a list, no entries such as 0.prob"),
    ],
)
def test_a_router_of_another_form_is_one_line(content: Any, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "router.pt")
    with pytest.raises(CheckpointError, match=rf"^router .*router\.pt: .*{message}.*{CURE}"):
        read_router(tmp_path / "router.pt")


@pytest.mark.parametrize(
    ("tensors", "metadata", "message"),
    [
        ({"logits": np.zeros([2, 3])}, None, r"it is of no such format \(None, with logits\)"),
        ({"weight": np.zeros([2, 3])}, {"format": "deepcache-trt router 1"}, "no such format .* with weight"),
        ({"logits": np.zeros([2, 3])}, {"format": "deepcache-trt router 1"}, "its metadata are damaged"),
        ({"logits": np.zeros([2, 3])}, {"taps": '["a"]'}, "logits for 3 taps have 1 names of taps"),
        ({"logits": np.zeros([3])}, {}, r"logits of shape \[3\] are none; they are \[cached calls, taps\]"),
        ({"logits": np.zeros([0, 3])}, {}, r"logits of shape \[0, 3\] are none"),
        ({"logits": np.full([2, 3], np.nan)}, {}, "6 of 6 logits are not finite; the training has diverged"),
    ],
)
def test_a_file_of_another_form_is_one_line(tensors: Any, metadata: Any, message: str, tmp_path: Path) -> None:
    whole = {"format": "deepcache-trt router 1", "taps": "[]", "about": "{}"}
    is_ours = metadata is not None and "format" not in metadata
    path = tmp_path / "router.safetensors"
    save_file(
        {name: array.astype(np.float32) for name, array in tensors.items()},
        path,
        whole | metadata if is_ours else metadata,
    )
    with pytest.raises(CheckpointError, match=rf"^router .*router\.safetensors: .*{message}.*{CURE}"):
        read_router(path)


@pytest.mark.parametrize("name", ["router.safetensors", "router.pt"])
def test_a_file_of_something_else_or_none_is_one_line(name: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=rf"there is no router .*{name}.*{CURE}"):
        read_router(tmp_path / name)
    (tmp_path / name).write_text(json.dumps({"policy": "router"}))
    with pytest.raises(CheckpointError, match=rf"^router .*{name}: .*{CURE}"):
        read_router(tmp_path / name)


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DeepCacheError, match=r"cannot write .*router\.safetensors: .*; choose another file"):
        write_router(tmp_path / "file" / "router.safetensors", RouterFile(logits=np.zeros([1, 1], np.float32)))
