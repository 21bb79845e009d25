"""The OpenVINO engine: torch's memory, the types of the graph, one compiled model for each profile."""

import copy
import gc
import sys
import weakref
from collections.abc import Mapping
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from deepcache_trt.engines import openvino as backend
from deepcache_trt.engines.openvino import OpenVinoEngine
from deepcache_trt.engines.profile import Range, ShapeProfile
from deepcache_trt.errors import BackendError, ShapeError, StoreError
from deepcache_trt.export import parity
from deepcache_trt.models.taps import Variant, deepcache_variants
from deepcache_trt.tensors import TensorSpec
from tests import tiny
from tests.engines.graphs import Net, by_name, save, spec, square
from tests.engines.tensors import bind_all, by_onnxruntime, tensors_for
from tests.export.exported import WHOLE, Exported, export


def exactly(**sizes: int) -> ShapeProfile:
    return ShapeProfile(**{axis: Range(min=size, opt=size, max=size) for axis, size in sizes.items()})


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Net:
    return Net(tmp_path_factory.mktemp("net") / "net.onnx")


def opened(net: Net, *profiles: ShapeProfile, cache: Path | None = None) -> OpenVinoEngine:
    return OpenVinoEngine(
        net.path, inputs=net.inputs, outputs=net.outputs, profiles=profiles or [square(4, 8, 16)], cache=cache
    )


@pytest.fixture
def engine(net: Net) -> OpenVinoEngine:
    return opened(net)


def check(engine: OpenVinoEngine, net: Net, tensors: Mapping[str, torch.Tensor]) -> None:
    address = tensors["out"].data_ptr()
    bind_all(engine, tensors)
    engine.run()
    assert tensors["out"].data_ptr() == address
    torch.testing.assert_close(tensors["out"], by_onnxruntime(net.path, tensors, "out"), rtol=1e-4, atol=1e-5)


# Memory and shapes.


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
    assert len(opened(net)._requests) == 1


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


# Precision.


@pytest.fixture(scope="module")
def wave(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """y = (sin(frequency · t) as half) × 1, t: [1] float32, through a matrix product, as a time embedding."""
    path = tmp_path_factory.mktemp("wave") / "wave.onnx"
    nodes = [
        helper.make_node("Mul", ["t", "frequency"], ["phase"]),
        helper.make_node("Sin", ["phase"], ["wave"]),
        helper.make_node("Unsqueeze", ["wave", "axis"], ["row"]),
        helper.make_node("Cast", ["row"], ["half"], to=TensorProto.BFLOAT16),
        helper.make_node("MatMul", ["half", "one"], ["y"]),
    ]
    # As raw data, which is how graphs are saved: OpenVINO takes bfloat16 in int32_data for whole numbers.
    one = numpy_helper.from_array(np.eye(2, dtype=ml_dtypes.bfloat16), "one")
    frequency = helper.make_tensor("frequency", TensorProto.FLOAT, [2], [1.0, 0.37])
    axis = helper.make_tensor("axis", TensorProto.INT64, [1], [0])
    taken = [helper.make_tensor_value_info("t", TensorProto.FLOAT, [1])]
    made = [helper.make_tensor_value_info("y", TensorProto.BFLOAT16, [1, 2])]
    graph = helper.make_graph(nodes, "wave", taken, made, [one, frequency, axis])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def test_what_a_half_precision_graph_holds_in_float32_is_not_rounded(wave: Path) -> None:
    engine = OpenVinoEngine(
        wave,
        inputs=by_name(spec("t", "float32", 1)),
        outputs=by_name(spec("y", "bfloat16", 1, 2)),
        profiles=[ShapeProfile()],
    )
    t, y = torch.tensor([481.0]), torch.zeros(1, 2, dtype=torch.bfloat16)  # bfloat16 knows 480 and 482
    bind_all(engine, {"t": t, "y": y})
    engine.run()
    assert torch.equal(y, torch.sin(t * torch.tensor([1.0, 0.37]))[None].bfloat16())


SIZES = {"batch": 2, "height": 8, "width": 16, "sequence": 7}
PLACE = ShapeProfile(
    batch=Range(min=1, opt=2, max=2),
    height=Range(min=8, opt=8, max=16),
    width=Range(min=8, opt=16, max=16),
    sequence=Range(min=7, opt=7, max=7),
)


@pytest.fixture(scope="module", params=["sd15", "vae", "clip"])
def exported(request: pytest.FixtureRequest, store_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    model = tiny.denoiser(request.param) if request.param in tiny.ARCHITECTURES else tiny.part(request.param)
    return export(model, request.param, store_root, tmp_path_factory.mktemp("graphs"))


def run_variant(
    path: Path, variant: Variant, inputs: Mapping[str, torch.Tensor], reference: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """The outputs of OpenVINO at shapes of a dynamic profile; `reference` gives their dtypes and shapes."""
    graph = onnx.load(path, load_external_data=False).graph
    specs = [
        by_name(*(_spec(value, {**inputs, **reference}) for value in values)) for values in (graph.input, graph.output)
    ]
    engine = OpenVinoEngine(path, inputs=specs[0], outputs=specs[1], profiles=[PLACE])
    outputs = {name: torch.empty_like(reference[name].contiguous()) for name in specs[1]}
    bind_all(engine, {**inputs, **outputs})
    engine.run()
    engine.close()
    return outputs


def _spec(value: onnx.ValueInfoProto, tensors: Mapping[str, torch.Tensor]) -> TensorSpec:
    shape = [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
    return spec(value.name, str(tensors[value.name].dtype).removeprefix("torch."), *shape)


def relative_error(output: torch.Tensor, reference: torch.Tensor) -> float:
    return float((output.float() - reference.float()).norm() / reference.float().norm())


def test_graphs_compute_what_the_model_computes(exported: Exported) -> None:
    architecture = exported.component.architecture
    full, shallow = deepcache_variants(0) if architecture.taps else (WHOLE, None)
    inputs = exported.inputs(**SIZES)
    reference = parity.run_model(exported.model, architecture, full, inputs)
    outputs = run_variant(exported.save(full), full, inputs, reference)
    assert all(relative_error(outputs[name], reference[name]) < 1e-4 for name in reference)
    if shallow is not None:
        supplied = {**inputs, **{name: reference[name] for name in shallow.consumes}}
        cached = run_variant(exported.save(shallow), shallow, supplied, reference)
        assert all(relative_error(output, reference[name]) < 1e-4 for name, output in cached.items())


@pytest.mark.parametrize(("name", "dtype"), [("ddpm", "bfloat16"), ("clip", "float16")])
def test_half_precision_is_as_near_to_float32_as_torchs(
    name: str, dtype: str, store_root: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    original = tiny.denoiser(name) if name in tiny.ARCHITECTURES else tiny.part(name)
    model = copy.deepcopy(original).to(getattr(torch, dtype))
    half = export(model, name, store_root, tmp_path_factory.mktemp(dtype))
    architecture = half.component.architecture
    inputs = half.inputs(**SIZES)
    if "timestep" in inputs:
        inputs["timestep"].fill_(481)  # which is no number of bfloat16
    torchs = parity.run_model(model, architecture, WHOLE, inputs)
    outputs = run_variant(half.save(), WHOLE, inputs, torchs)
    wide = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in inputs.items()}
    exact = parity.run_model(model.float(), architecture, WHOLE, wide)
    for output, reference in exact.items():
        assert relative_error(outputs[output], reference) < 1.5 * relative_error(torchs[output], reference)


# The cache.


def test_a_compiled_model_is_loaded_from_its_cache(net: Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "deep" / "cache"
    opened(net, cache=cache).close()
    monkeypatch.setattr(OpenVinoEngine, "_compile", lambda self, profile: pytest.fail("compiled again"))
    check(opened(net, cache=cache), net, tensors_for(net, 2, 8, 8))
    assert [file.suffix for file in cache.iterdir()] == [".blob"]


def test_each_profile_is_an_entry_of_the_cache(net: Net, tmp_path: Path) -> None:
    engine = opened(net, square(2, 4, 8), square(2, 16, 32), cache=tmp_path)
    for side in (8, 32, 8):
        check(engine, net, tensors_for(net, 2, side, side))
    assert len(list(tmp_path.iterdir())) == 2


def test_a_cache_that_cannot_be_written_costs_no_engine(
    net: Net, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    check(opened(net, cache=tmp_path / "file" / "cache"), net, tensors_for(net, 2, 8, 8))
    assert "was not saved to" in caplog.text


def test_what_is_loaded_needs_neither_the_file_nor_its_pages(net: Net, tmp_path: Path) -> None:
    engine = opened(net, cache=tmp_path)
    (blob,) = tmp_path.iterdir()
    blob.unlink()
    gc.collect()
    check(engine, net, tensors_for(net, 2, 8, 8))


@pytest.mark.parametrize("kept", [0, 100, -10], ids=["empty", "header", "end"])
def test_a_truncated_cache_is_compiled_anew(net: Net, tmp_path: Path, kept: int) -> None:
    opened(net, cache=tmp_path).close()
    (blob,) = tmp_path.iterdir()
    data = blob.read_bytes()
    blob.write_bytes(data[:kept])
    check(opened(net, cache=tmp_path), net, tensors_for(net, 2, 8, 8))
    assert blob.read_bytes()[:100] == data[:100]


# Errors.


def test_a_missing_graph_is_named_with_the_cure(net: Net, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no graph at .*gone\.onnx; build it again"):
        OpenVinoEngine(tmp_path / "gone.onnx", inputs=net.inputs, outputs=net.outputs, profiles=[square(4, 8, 16)])


@pytest.mark.parametrize("content", [b"", b"no graph at all", b"\x08\x0a\x12\x00"])
def test_a_corrupt_graph_is_a_backend_error_of_one_line(net: Net, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)
    with pytest.raises(BackendError, match=r"OpenVINO cannot compile broken\.onnx: Unable to read") as caught:
        OpenVinoEngine(path, inputs=net.inputs, outputs=net.outputs, profiles=[square(4, 8, 16)])
    assert "\n" not in str(caught.value)


def test_an_operator_that_openvino_does_not_have_is_named(tmp_path: Path) -> None:
    nodes = [helper.make_node("Mystery", ["x"], ["y"], domain="nowhere")]
    x, y = spec("x", "float32", "batch"), spec("y", "float32", "batch")
    path = save(tmp_path / "mystery.onnx", nodes, [x], [y])
    with pytest.raises(BackendError, match=r"mystery\.onnx: .*Mystery"):
        OpenVinoEngine(path, inputs=by_name(x), outputs=by_name(y), profiles=[exactly(batch=1)])


def test_missing_weights_are_named(tmp_path: Path) -> None:
    net = Net(tmp_path / "net.onnx")
    (tmp_path / "net.weights").unlink()
    with pytest.raises(BackendError, match=r"cannot compile net\.onnx: .*net\.weights"):
        opened(net)


def test_without_openvino_the_error_says_what_to_install(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(BackendError, match=r"not installed; pip install 'deepcache-trt\[cpu\]'"):
        opened(net)


@pytest.mark.parametrize(("told", "cores", "threads"), [(1, 4, 1), (4, 4, None), (8, 4, None), (1, None, None)])
def test_threads_are_openvinos_choice_unless_torch_was_told_fewer(
    told: int, cores: int | None, threads: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.get_num_threads", lambda: told)
    monkeypatch.setattr("psutil.cpu_count", lambda logical: cores)
    assert backend._threads() == threads
