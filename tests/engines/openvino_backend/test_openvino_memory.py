"""The OpenVINO engine runs in torch's memory, at every shape of its profiles and at no other."""

import gc
import weakref
from pathlib import Path

import onnx
import pytest
import torch
from onnx import helper

from deepcache_trt.engines.openvino.engine import OpenVinoEngine
from deepcache_trt.engines.profile import ShapeProfile
from deepcache_trt.errors import ShapeError
from tests.engines.graphs import Net, by_name, spec, square
from tests.engines.openvino_backend.net_engines import check, exactly, opened
from tests.engines.tensors import bind_all, by_onnxruntime, tensors_for


@pytest.fixture
def engine(net: Net) -> OpenVinoEngine:
    return opened(net)


@pytest.mark.parametrize("profile", [exactly(batch=2, height=8, width=8), square(4, 8, 16)], ids=["static", "dynamic"])
def test_the_result_is_written_into_the_bound_output(net: Net, profile: ShapeProfile) -> None:
    check(opened(net, profile), net, tensors_for(net, 2, 8, 8))


def test_inputs_changed_in_place_are_read_by_the_next_run(net: Net, engine: OpenVinoEngine) -> None:
    tensors = tensors_for(net, 2, 8, 8)
    check(engine, net, tensors)
    tensors["sample"].mul_(0.5)
    tensors["timestep"].fill_(5)
    engine.run()
    torch.testing.assert_close(tensors["out"], by_onnxruntime(net.path, tensors, "out"), rtol=1e-4, atol=1e-5)


def test_the_shapes_of_one_profile_take_turns(net: Net, engine: OpenVinoEngine) -> None:
    for seed, shape in enumerate([(1, 4, 4), (4, 16, 8), (1, 4, 4), (2, 8, 16)]):
        check(engine, net, tensors_for(net, *shape, seed=seed))


def test_each_profile_is_compiled_when_it_is_run(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[ShapeProfile] = []
    compile_one = OpenVinoEngine._compile

    def counted(engine: OpenVinoEngine, profile: ShapeProfile) -> object:
        compiled.append(profile)
        return compile_one(engine, profile)

    monkeypatch.setattr(OpenVinoEngine, "_compile", counted)
    small, large = exactly(batch=1, height=4, width=4), exactly(batch=2, height=8, width=8)
    engine = opened(net, small, large)
    assert compiled == []
    for seed, size in enumerate([8, 4, 8, 4]):
        check(engine, net, tensors_for(net, size // 4, size, size, seed=seed))
    assert compiled == [large, small]


def test_one_profile_is_compiled_when_it_is_opened(net: Net) -> None:
    assert len(opened(net)._compiled) == 1


def test_one_engines_output_is_the_next_ones_input(net: Net) -> None:
    first, second = opened(net), opened(net)
    between, after = tensors_for(net, 2, 8, 8), tensors_for(net, 2, 8, 8, seed=1)
    bind_all(first, between)
    after["sample"] = between["out"]
    bind_all(second, after)
    first.run()
    second.run()
    torch.testing.assert_close(after["out"], by_onnxruntime(net.path, after, "out"), rtol=1e-4, atol=1e-5)


def test_another_shape_at_the_same_address_is_bound_anew(net: Net, engine: OpenVinoEngine) -> None:
    tensors = tensors_for(net, 4, 8, 8)
    check(engine, net, tensors)
    tensors["out"].zero_()
    halves = {**tensors, "sample": tensors["sample"][:2], "out": tensors["out"][:2]}
    check(engine, net, halves)
    assert torch.equal(tensors["out"][2:], torch.zeros(2, 8, 8, 8))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((5, 8, 8), r"batch 5, height 8, width 8 is outside .*: batch 1–4, height 4–16, width 4–16"),
        ((2, 8, 32), r"batch 2, height 8, width 32 is outside"),
    ],
)
def test_a_shape_outside_the_profile_is_refused_with_the_sizes(
    net: Net, engine: OpenVinoEngine, shape: tuple[int, int, int], message: str
) -> None:
    bind_all(engine, tensors_for(net, *shape))
    with pytest.raises(ShapeError, match=message):
        engine.run()
    check(engine, net, tensors_for(net, 2, 8, 8))


def test_shapes_that_do_not_go_together_are_refused(net: Net, engine: OpenVinoEngine) -> None:
    bind_all(engine, {**tensors_for(net, 2, 8, 8), "out": torch.zeros(1, 8, 8, 8)})
    with pytest.raises(
        ShapeError, match=r"out has shape \[1, 8, 8, 8\] where the other tensors ask for \[2, 8, 8, 8\]"
    ):
        engine.run()


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("sample", torch.zeros(2, 8, 4, 4, dtype=torch.bfloat16), r"sample is bfloat16, the engine takes float32"),
        ("timestep", torch.zeros(1), r"timestep is float32, the engine takes int64"),
        ("sample", torch.zeros(2, 7, 4, 4), r"sample has shape \[2, 7, 4, 4\], the engine takes sample: float32"),
        ("out", torch.zeros(2, 8, 4, 4).transpose(2, 3), r"out is not contiguous in memory"),
        ("sample", torch.zeros(2, 8, 4, 4, device="meta"), r"sample is on meta, the engine runs on cpu"),
    ],
)
def test_a_tensor_that_does_not_fit_is_refused_with_its_name(
    engine: OpenVinoEngine, name: str, tensor: torch.Tensor, message: str
) -> None:
    with pytest.raises(ShapeError, match=message):
        engine.bind(name, tensor)


def test_running_with_an_unbound_tensor_is_a_bug(engine: OpenVinoEngine) -> None:
    engine.bind("sample", torch.zeros(1, 8, 8, 8))
    with pytest.raises(AssertionError, match=r"unbound: \['timestep', 'out'\]"):
        engine.run()


def test_close_lets_go_of_bound_tensors_and_may_be_repeated(net: Net, engine: OpenVinoEngine) -> None:
    tensors = tensors_for(net, 2, 8, 8)
    bind_all(engine, tensors)
    engine.run()
    alive = [weakref.ref(tensor) for tensor in tensors.values()]
    engine.close()
    engine.close()
    del tensors
    gc.collect()
    assert [ref() for ref in alive] == [None] * 3
    with pytest.raises(AssertionError):
        engine.run()


def test_every_dtype_passes_through_shared_memory(tmp_path: Path) -> None:
    dtypes = {"float32": 1, "int64": 7, "bool": 9, "float16": 10, "bfloat16": 16}
    path = tmp_path / "copy.onnx"
    taken, made = (
        [helper.make_tensor_value_info(f"{kind}_{dtype}", number, ["batch", 3]) for dtype, number in dtypes.items()]
        for kind in ("in", "out")
    )
    nodes = [helper.make_node("Concat", [f"in_{d}"], [f"out_{d}"], axis=0) for d in dtypes]
    opset = [helper.make_opsetid("", 18)]
    onnx.save(
        helper.make_model(helper.make_graph(nodes, "copy", taken, made), opset_imports=opset, ir_version=10), path
    )
    inputs, outputs = (by_name(*(spec(f"{kind}_{d}", d, "batch", 3) for d in dtypes)) for kind in ("in", "out"))
    engine = OpenVinoEngine(path, inputs=inputs, outputs=outputs, profiles=[exactly(batch=2)])
    given = {f"in_{d}": torch.tensor([[0, 1, 2], [3, 0, 5]]).to(getattr(torch, d)) for d in dtypes}
    found = {f"out_{d}": torch.ones(2, 3, dtype=getattr(torch, d)) for d in dtypes}
    bind_all(engine, {**given, **found})
    engine.run()
    for dtype in dtypes:
        assert torch.equal(found[f"out_{dtype}"], given[f"in_{dtype}"]), dtype
