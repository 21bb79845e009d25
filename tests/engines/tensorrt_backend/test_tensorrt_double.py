"""The double of TensorRT's execution API is like the real one."""

import pytest

from tests.engines.tensorrt_backend.tensorrt_double import REAL_NAMES


@pytest.mark.parametrize("double", REAL_NAMES, ids=REAL_NAMES.values())
def test_the_double_has_no_name_that_tensorrt_lacks(double: type[object]) -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="compares with tensorrt-rtx's classes")
    real = getattr(trt, REAL_NAMES[double])
    assert [name for name in vars(double) if not name.startswith("_") and not hasattr(real, name)] == []
