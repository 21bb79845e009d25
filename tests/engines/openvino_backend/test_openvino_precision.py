"""OpenVINO computes in the types of the graph, as near to the model as torch does."""

import copy
from collections.abc import Mapping
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from deepcache_trt.engines.openvino.engine import OpenVinoEngine
from deepcache_trt.engines.openvino.library import has_bfloat16
from deepcache_trt.engines.profile import Range, ShapeProfile
from deepcache_trt.export import parity
from deepcache_trt.models.taps import Variant
from deepcache_trt.runtime.policies.deepcache import variants_at
from deepcache_trt.tensors import TensorSpec
from tests import tiny
from tests.engines.graphs import by_name, spec
from tests.engines.tensors import bind_all
from tests.export.exported import WHOLE, Exported, export


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


@pytest.fixture(scope="module")
def quantized_wave(wave: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a matrix product of whole numbers: y = sin(frequency · t) to a 127th."""
    model = onnx.load(wave)
    nodes, product = model.graph.node[:-1], model.graph.node[-1]
    whole = [
        helper.make_node("Cast", ["half"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("QuantizeLinear", ["float", "step", "zero"], ["steps"]),
        helper.make_node("DequantizeLinear", ["steps", "step", "zero"], ["stepped"]),
        helper.make_node("DequantizeLinear", ["one_steps", "step", "zero"], ["one"]),
        helper.make_node("MatMul", ["stepped", "one"], ["given"]),
        helper.make_node("Cast", ["given"], ["y"], to=TensorProto.BFLOAT16),
    ]
    assert product.op_type == "MatMul"
    kept = [init for init in model.graph.initializer if init.name != "one"]
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend([*nodes, *whole])
    step = helper.make_tensor("step", TensorProto.FLOAT, [], [1 / 127])
    zero = helper.make_tensor("zero", TensorProto.INT8, [], [0])
    one = numpy_helper.from_array(127 * np.eye(2, dtype=np.int8), "one_steps")
    model.graph.initializer.extend([*kept, step, zero, one])
    path = tmp_path_factory.mktemp("quantized") / "wave.onnx"
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("cached", [False, True])
def test_nor_is_it_in_a_quantized_graph(quantized_wave: Path, tmp_path: Path, cached: bool) -> None:
    for _ in range(2):  # the second one is loaded, where there is a cache
        engine = OpenVinoEngine(
            quantized_wave,
            inputs=by_name(spec("t", "float32", 1)),
            outputs=by_name(spec("y", "bfloat16", 1, 2)),
            profiles=[ShapeProfile()],
            cache=tmp_path if cached else None,
        )
        for time in (481.0, 483.0):  # bfloat16 knows neither
            t, y = torch.tensor([time]), torch.zeros(1, 2, dtype=torch.bfloat16)
            bind_all(engine, {"t": t, "y": y})
            engine.run()
            wanted = torch.sin(t * torch.tensor([1.0, 0.37]))[None]
            torch.testing.assert_close(y.float(), wanted, rtol=0, atol=1.5 / 127)
    assert sorted(path.name.split(".", 1)[1] for path in tmp_path.glob("*.blob")) == (
        ["before.blob", "rounded.blob"] if cached and has_bfloat16() else ["blob"] if cached else []
    )


def test_of_two_parts_that_were_kept_one_alone_is_not_taken(quantized_wave: Path, tmp_path: Path) -> None:
    if not has_bfloat16():
        pytest.skip("this CPU has no bfloat16, and nothing is in two parts")
    profiles, inputs = [ShapeProfile()], by_name(spec("t", "float32", 1))
    outputs = by_name(spec("y", "bfloat16", 1, 2))
    for lost in ("*.before.blob", "*.rounded.blob"):
        OpenVinoEngine(quantized_wave, inputs=inputs, outputs=outputs, profiles=profiles, cache=tmp_path).close()
        (path,) = tmp_path.glob(lost)
        path.unlink()
        engine = OpenVinoEngine(quantized_wave, inputs=inputs, outputs=outputs, profiles=profiles, cache=tmp_path)
        t, y = torch.tensor([481.0]), torch.zeros(1, 2, dtype=torch.bfloat16)
        bind_all(engine, {"t": t, "y": y})
        engine.run()
        torch.testing.assert_close(y.float()[0, 0], torch.sin(t)[0], rtol=0, atol=1.5 / 127)


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
    full, shallow = variants_at(0) if architecture.taps else (WHOLE, None)
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
