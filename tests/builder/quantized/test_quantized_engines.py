"""Engines of a quantized component: keys, files, how near they come, and that a cut of them is exact."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from safetensors.torch import load_file

from deepcache_trt.builder.component import Component
from deepcache_trt.builder.engines import build_pieces, check_precision
from deepcache_trt.builder.graphs import (
    GRAPH,
    activation_scales,
    bound_graph,
    graph_artefact,
    graph_key,
    weights_artefact,
    weights_key,
)
from deepcache_trt.builder.open_session import open_session
from deepcache_trt.builder.quantized.choice import chosen
from deepcache_trt.builder.quantized.emulating import emulated
from deepcache_trt.builder.quantized.quantized_component import quantized
from deepcache_trt.builder.quantized.seeded import seeded_calibration
from deepcache_trt.builder.target import Target
from deepcache_trt.engines.store import Store
from deepcache_trt.engines.torch import EAGER_CPU
from deepcache_trt.errors import BackendError, NotBuiltError
from deepcache_trt.export import parity
from deepcache_trt.export.precision import FP8, INT8
from deepcache_trt.models.taps import Variant
from deepcache_trt.progress import logged
from deepcache_trt.runtime.policies import DeepCache
from tests.builder.quantized.quantized_builds import POLICY, Counted, int8, smallest
from tests.builder.small_builds import ahead, denoiser, needs_rtx, on_cpu, openvino
from tests.builder.stores import kept

FULL, SHALLOW = Variant(name="full", emits=("tap_0",)), Variant(name="shallow", consumes=("tap_0",))
SIZES = {"batch": 2, "height": 16, "width": 24}


def outputs(component: Component, target: Target, sizes: dict[str, int] = SIZES) -> dict[str, torch.Tensor]:
    """What the full engine makes of seeded inputs."""
    session = open_session(component, POLICY, target, sizes=sizes)
    try:
        inputs = parity.example_inputs(component.architecture, sizes)
        session.begin()
        return {name: value.clone() for name, value in session.run("full", inputs, sizes).items()}
    finally:
        session.close()


def error(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    return max(float((a[name] - b[name]).norm() / b[name].norm()) for name in b)


def test_a_quantized_graph_is_near_its_float_one_and_not_it(denoisers: Store) -> None:
    whole = outputs(denoiser(), on_cpu(denoisers))
    for patterns in ((), ("all",)):
        off = error(outputs(int8(denoiser(), *patterns), on_cpu(denoisers)), whole)
        assert 1e-4 < off < 0.1


@pytest.mark.parametrize("patterns", [("all",), ("mid_block.*",), ("down_blocks.1.*", "*.conv1")], ids=" ".join)
def test_a_model_in_torch_computes_as_its_quantized_graph_does_where_that_is_emulated(
    denoisers: Store, patterns: tuple[str, ...]
) -> None:
    component = int8(denoiser(), *patterns)
    engine = outputs(component, on_cpu(denoisers))
    graph = onnx.load(graph_artefact(component.unquantized, denoisers, logged).folder / GRAPH, load_external_data=False)
    layers = chosen(graph, patterns, (), title=component.title)
    module = component.module()
    scales = activation_scales(component, denoisers, logged)
    inputs = parity.example_inputs(component.architecture, SIZES)
    with emulated(module.state_dict(), layers, scales, INT8):
        ours = parity.run_model(module, component.architecture, FULL, inputs)
    float_model = parity.run_model(module, component.architecture, FULL, inputs)
    # What lies in the middle of two steps is rounded to one of them here and to the other one there.
    assert error(ours, engine) < 0.4 * error(float_model, engine)


def test_a_cached_step_is_the_full_graph_with_a_tap_supplied_bit_for_bit(denoisers: Store, tmp_path: Path) -> None:
    component = int8(denoiser(), "all")
    tensors = parity.example_inputs(component.architecture, SIZES)
    with (
        bound_graph(component, FULL, denoisers, logged) as full,
        bound_graph(component, SHALLOW, denoisers, logged) as shallow,
    ):
        assert parity.check_cut(full, shallow, SHALLOW, tensors) == 0.0


def test_segments_of_a_quantized_model_compute_what_its_variants_do(denoisers: Store) -> None:
    component = int8(denoiser(), "all")
    whole = outputs(component, on_cpu(denoisers))
    assert error(outputs(component, on_cpu(denoisers, segments=True)), whole) < 1e-2


def test_quantized_weights_lie_in_one_file_that_both_variants_link(denoisers: Store) -> None:
    component = int8(denoiser(), "all")
    artefacts = build_pieces(component, POLICY, on_cpu(denoisers))
    (file,) = weights_artefact(component, denoisers, logged).folder.glob("*.safetensors")
    tensors = load_file(file)
    whole = {tensor.dtype for name, tensor in tensors.items() if name.endswith(".weight.int8")}
    assert whole == {torch.int8}
    assert "conv_in.weight" in tensors
    assert "mid_block.resnets.0.conv1.weight" not in tensors
    assert tensors["mid_block.resnets.0.conv1.weight.int8_scale"].shape == (32,)
    for artefact in artefacts.values():
        assert [each.stat().st_ino for each in artefact.folder.glob("*.safetensors")] == [file.stat().st_ino]
        assert artefact.about["precision"] == "int8"


def test_layers_scales_and_precisions_have_keys_of_their_own() -> None:
    counted = Counted(denoiser())
    made = [
        denoiser(),
        int8(denoiser()),
        int8(denoiser(), "all"),
        int8(denoiser(), policy=DeepCache(cache_branch_id=1)),
        quantized(denoiser(), POLICY, INT8, (), counted.calibration(prompts="others")),
        int8(denoiser(seed=1)),
    ]
    assert len({graph_key(each) for each in made}) == len(made)
    # The scales of activations are in the graph: other prompts make no other weights.
    assert len({weights_key(each) for each in made}) == len(made) - 1


def test_a_model_is_observed_once_and_its_scales_are_kept(denoisers: Store, built: list[str]) -> None:
    counted = Counted(denoiser())
    component = quantized(denoiser(), POLICY, INT8, ("all",), counted.calibration())
    build_pieces(component, POLICY, on_cpu(denoisers))
    assert (counted.count, built.count("calibrations")) == (1, 1)
    build_pieces(replace(component, name="the same"), POLICY, on_cpu(denoisers))
    build_pieces(quantized(denoiser(), POLICY, INT8, (), counted.calibration()), POLICY, on_cpu(denoisers))
    assert counted.count == 1
    (key,) = kept(denoisers, "calibrations")
    found = denoisers.find("calibrations", key)
    assert found is not None
    assert found.about["scales"]["mid_block.resnets.0.conv1.weight"] > 0


def test_what_is_quantized_without_a_picture_is_said_to_be_for_timing_only(
    denoisers: Store, caplog: pytest.LogCaptureFixture
) -> None:
    build_pieces(int8(denoiser()), POLICY, on_cpu(denoisers))
    assert "scales of tiny unet are those of seeded noise: its engines are for timing only" in caplog.text


def test_a_backend_that_runs_the_model_itself_refuses_before_anything_is_observed(denoisers: Store) -> None:
    counted = Counted(denoiser())
    component = quantized(denoiser(), POLICY, INT8, (), counted.calibration())
    with pytest.raises(BackendError, match=r"'torch' has no int8 on the CPU; it runs the model itself"):
        build_pieces(component, POLICY, Target(backend=EAGER_CPU, store=denoisers))
    assert not counted.count
    assert not kept(denoisers, "calibrations")


def test_a_missing_engine_is_told_with_the_command_that_builds_it(denoisers: Store) -> None:
    target = on_cpu(denoisers, build="never")
    with pytest.raises(
        NotBuiltError, match=r"--branch 0 --interval 3 --precision int8 --quantize 'mid_block.\*' --store"
    ):
        build_pieces(int8(denoiser(), "mid_block.*"), POLICY, target)


@pytest.mark.parametrize("dtype", [pytest.param("float32", marks=pytest.mark.slow), "bfloat16"])
def test_openvino_multiplies_whole_numbers(tmp_path: Path, dtype: str) -> None:
    component, store = int8(smallest(dtype), "all"), Store(tmp_path)
    sizes = {"batch": 1, "height": 8, "width": 8}
    session = open_session(component, POLICY, openvino(store), sizes=sizes)
    try:
        engine: Any = session.engines["full"]
        (compiled,) = engine._compiled.values()
        ran = [node.get_rt_info() for node in compiled.requests[-1].get_compiled_model().get_runtime_model().get_ops()]
        whole = [info["layerType"].astype(str) for info in ran if info["primitiveType"].astype(str).endswith("8")]
        (graph,) = [each for each in store.list() if each.kind == "graphs" and "precision" in each.about]
        layers = [kind for kind in whole if kind.startswith(("Convolution", "FullyConnected"))]
        assert len(layers) == len(graph.about["quantized"]) > 10
    finally:
        session.close()


def fp8(component: Component, *patterns: str) -> Component:
    return quantized(component, POLICY, FP8, patterns, seeded_calibration(component))


def test_a_gpu_that_does_not_multiply_fp8_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(BackendError, match=r"sm86 does not multiply fp8, which GPUs do from sm89 on; use int8"):
        build_pieces(fp8(denoiser(), "all"), POLICY, ahead(store, "sm86"))
    assert not list(store.list())


@pytest.mark.parametrize(
    ("told", "is_refused"),
    [
        ({"architecture": "x86_64", "cpu_name": "an old one", "avx512_f": True}, True),
        ({"architecture": "x86_64", "avx512_vnni": False, "avx_vnni": True}, False),
        ({"architecture": "aarch64"}, False),
        ({}, False),
    ],
)
def test_a_cpu_whose_sums_overflow_is_refused(
    denoisers: Store, told: dict[str, Any], is_refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: told, raising=False)
    message = r"this CPU \(an old one\) has no VNNI, .* leave the precision out, or draw on a CPU or GPU that has it"
    with pytest.raises(BackendError, match=message) if is_refused else nullcontext():
        check_precision(int8(denoiser()), on_cpu(denoisers))


def test_weights_in_fp8_are_bytes_in_a_file_of_their_own(denoisers: Store) -> None:
    component = fp8(denoiser(), "mid_block.*")
    (file,) = weights_artefact(component, denoisers, logged).folder.glob("*.safetensors")
    tensors = load_file(file)
    stored = {name: tensor for name, tensor in tensors.items() if name.endswith(".fp8")}
    assert stored
    assert {tensor.dtype for tensor in stored.values()} == {torch.float8_e4m3fn}
    assert weights_key(component) != weights_key(int8(denoiser(), "mid_block.*"))


@needs_rtx
@pytest.mark.slow
@pytest.mark.parametrize(("capability", "quantize"), [("sm86", int8), ("sm89", int8), ("sm89", fp8), ("sm120", fp8)])
def test_tensorrt_rtx_builds_plans_of_quantized_variants(
    denoisers: Store, capability: str, quantize: Callable[..., Component]
) -> None:
    whole = build_pieces(denoiser(), POLICY, ahead(denoisers, capability))
    made = build_pieces(quantize(denoiser(), "all"), POLICY, ahead(denoisers, capability))
    assert made.keys() == whole.keys()
    for name, artefact in made.items():
        assert artefact.about["device"] == capability
        assert artefact.key != whole[name].key
        assert artefact.about["built"]["quantized_layers"] > 0
        assert artefact.about["built"]["not_in_8_bits"] == []
        assert "quantized_layers" not in whole[name].about["built"]
