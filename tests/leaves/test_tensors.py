"""Symbolic shapes: arithmetic over named axes, and nothing else."""

import pytest

from deepcache_trt.tensors import Dim, TensorSpec, axis_sizes, resolve_dim

SIZES = {"batch": 2, "height": 64, "width": 96}


@pytest.mark.parametrize(
    ("dim", "size"),
    [
        (7, 7),
        ("7", 7),
        ("height", 64),
        ("height/8", 8),
        ("height//3", 21),
        ("floor(height/3)", 21),
        ("2*batch", 4),
        ("batch * 3 + 1", 7),
        ("(height - 1)/2 + 1", 32),  # truncates, as sizes do
        ("height*width/64", 96),
        ("-(-height//5)", 13),
        ("batch**3", 8),
    ],
)
def test_a_dimension_is_arithmetic_over_axes(dim: Dim, size: int) -> None:
    resolved = resolve_dim(dim, SIZES)
    assert resolved == size
    assert type(resolved) is int


@pytest.mark.parametrize(
    "expression",
    [
        "__import__('os')",
        "__import__('os').system('true')",
        "f(x)",
        "height.real",
        "a.b",
        "[1][0]",
        "(lambda: 1)()",
        "'height'",
        "batch if batch else 1",
        "batch < 2",
        "batch << 9",
        "not batch",
        "height/",
        "height; width",
        "height/0",
        "9**9**9**9",
        "(-8)**0.5",
        "",
    ],
)
def test_anything_else_is_refused_and_named(expression: str) -> None:
    with pytest.raises(ValueError, match="not a dimension: "):
        resolve_dim(expression, SIZES)


def test_an_unknown_axis_is_named() -> None:
    with pytest.raises(KeyError, match="sequence"):
        resolve_dim("sequence/2", SIZES)


def test_a_spec_resolves_every_dimension() -> None:
    spec = TensorSpec(name="sample", dtype="float16", shape=("2*batch", 4, "height/8", "width/8"))
    assert spec.resolve(SIZES) == (4, 4, 8, 12)
    assert str(spec) == "sample: float16[2*batch, 4, height/8, width/8]"


def test_a_dtype_that_no_graph_has_is_a_bug() -> None:
    with pytest.raises(AssertionError, match="float8"):
        TensorSpec(name="sample", dtype="float8", shape=())


def test_axis_sizes_are_read_off_bare_names() -> None:
    specs = {
        "sample": TensorSpec(name="sample", dtype="float32", shape=("batch", 4, "height", "width")),
        "text": TensorSpec(name="text", dtype="float32", shape=("batch", "sequence", 64)),
        "tap": TensorSpec(name="tap", dtype="float32", shape=("batch", 32, "height/2", "width/2")),
    }
    shapes = {"sample": (2, 4, 8, 16), "text": (2, 77, 64), "tap": (2, 32, 4, 8)}
    assert axis_sizes(specs, shapes) == {"batch": 2, "height": 8, "width": 16, "sequence": 77}


def test_the_first_input_decides_where_two_disagree() -> None:
    specs = {name: TensorSpec(name=name, dtype="float32", shape=("batch",)) for name in ("a", "b")}
    assert axis_sizes(specs, {"a": (2,), "b": (3,)}) == {"batch": 2}
    assert axis_sizes(specs, {"b": (3,), "a": (2,)}) == {"batch": 3}
