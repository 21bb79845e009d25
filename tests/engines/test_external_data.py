"""A graph reads weights that lie beside it, and nothing else: no engine follows it out of its folder."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from deepcache_trt.engines.onnxruntime.engine import OnnxRuntimeEngine
from deepcache_trt.engines.openvino.engine import OpenVinoEngine
from deepcache_trt.errors import BackendError
from tests.engines.graphs import Net, square

Lead = Callable[[Path, Path], str]


def upwards(folder: Path, elsewhere: Path) -> str:
    return f"../{elsewhere.parent.name}/{elsewhere.name}"


def absolute(folder: Path, elsewhere: Path) -> str:
    return str(elsewhere)


def by_a_link(folder: Path, elsewhere: Path) -> str:
    (folder / "linked.weights").symlink_to(elsewhere)
    return "linked.weights"


def _onnxruntime(net: Net, path: Path) -> Any:
    return OnnxRuntimeEngine(path)


def _openvino(net: Net, path: Path) -> Any:
    return OpenVinoEngine(path, inputs=net.inputs, outputs=net.outputs, profiles=[square(4, 8, 16)])


@pytest.mark.parametrize("lead", [upwards, absolute, by_a_link])
@pytest.mark.parametrize("opened", [_onnxruntime, _openvino])
def test_weights_that_lie_elsewhere_are_refused(opened: Callable[[Net, Path], Any], lead: Lead, tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "engine", tmp_path / "elsewhere" / "net.weights"
    folder.mkdir()
    elsewhere.parent.mkdir()
    net = Net(folder / "net.onnx")
    opened(net, net.path).close()
    os.rename(folder / "net.weights", elsewhere)
    where = lead(folder, elsewhere)
    graph = onnx.load(net.path, load_external_data=False)
    for initializer in graph.graph.initializer:
        for entry in initializer.external_data:
            entry.value = where if entry.key == "location" else entry.value
    onnx.save(graph, net.path)
    with pytest.raises(BackendError, match="net"):
        opened(net, net.path)
