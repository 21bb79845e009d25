"""The small net that OpenVINO is tested with."""

import pytest

from tests.engines.graphs import Net


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Net:
    return Net(tmp_path_factory.mktemp("net") / "net.onnx")
