"""An engine is used only if it computes what its graph says; what it found is kept in figures.

Compilers have given zeros and NaN without an error, but not on demand: small engines stand for them here.
"""

from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch
from diffusers import ControlNetModel

from deepcache_trt import DeepCachePipeline
from deepcache_trt.builder.shapes import widest_profile
from deepcache_trt.builder.trust import TOLERANCE, Check, check_engine
from deepcache_trt.engines.engine import Engine
from deepcache_trt.engines.onnxruntime.engine import OnnxRuntimeEngine
from deepcache_trt.export import parity
from deepcache_trt.models.taps import Variant
from deepcache_trt.runtime.policies.deepcache import variants_at
from tests import tiny
from tests.export.exported import WHOLE, Exported, export
from tests.pipelines import micro, micro_parts

Damage = Callable[[torch.Tensor], object]

SIZES = {"batch": 2, "height": 8, "width": 8, "sequence": 7}
MODELS = {
    "sd15": variants_at(0)[0],
    "vae": WHOLE,
    "clip": WHOLE,
    "clip_projection": WHOLE,
}


class Damaged(Engine):
    """Does what another engine does, then spoils its outputs."""

    capturable = False

    def __init__(self, engine: Engine, damage: Damage, *, only: str | None = None, workspace: int = 0) -> None:
        self.inputs, self.outputs, self.workspace_bytes = engine.inputs, engine.outputs, workspace
        self._engine, self._damage, self._only = engine, damage, only
        self._bound: dict[str, torch.Tensor] = {}
        self.workspace: torch.Tensor | None = None

    def bind(self, name: str, tensor: torch.Tensor) -> None:
        self._bound[name] = tensor
        self._engine.bind(name, tensor)

    def use_workspace(self, memory: torch.Tensor) -> None:
        self.workspace = memory

    def run(self) -> None:
        self._engine.run()
        for name in self.outputs:
            if self._only in (None, name):
                self._damage(self._bound[name])

    def close(self) -> None:
        self._engine.close()


class Idle(Damaged):
    """Fills nothing."""

    def run(self) -> None:
        pass


def _add_noise(share: float) -> Damage:
    """Noise of this share of the tensor's norm."""

    def add(tensor: torch.Tensor) -> None:
        noise = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(0))
        tensor += (share * tensor.norm() / noise.norm() * noise).to(tensor.dtype)

    return add


def _spoil_one(value: float) -> Damage:
    def spoil(tensor: torch.Tensor) -> None:
        tensor.view(-1)[3] = value

    return spoil


def _roll(tensor: torch.Tensor) -> None:
    tensor.copy_(tensor.roll(1, dims=-1))


@pytest.fixture(scope="module")
def unet(store_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return export(tiny.denoiser("sd15"), "sd15", store_root, tmp_path_factory.mktemp("sd15"))


@pytest.fixture(scope="module")
def vae(store_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return export(tiny.part("vae"), "vae", store_root, tmp_path_factory.mktemp("vae"))


def _check(exported: Exported, engine: Engine, graph: Path, *, dtype: str = "float32") -> Check:
    return check_engine(engine, graph, exported.component.architecture, SIZES, dtype=dtype, device="cpu")


def _damaged(
    exported: Exported, damage: Damage, *, variant: Variant = WHOLE, only: str | None = None, dtype: str = "float32"
) -> Check:
    graph = exported.save(variant)
    return _check(exported, Damaged(OnnxRuntimeEngine(graph), damage, only=only), graph, dtype=dtype)


@pytest.mark.parametrize("name", list(MODELS))
def test_the_right_graph_is_usable_with_no_error(name: str, store_root: Path, tmp_path: Path) -> None:
    model = tiny.denoiser(name) if name in tiny.ARCHITECTURES else tiny.part(name)
    exported = export(model, name, store_root, tmp_path)
    graph = exported.save(MODELS[name])
    engine = OnnxRuntimeEngine(graph)
    found = _check(exported, engine, graph)
    assert (found.usable, found.reason, found.sizes, found.tolerance) == (True, "", SIZES, TOLERANCE["float32"])
    assert set(found.relative_error) == set(engine.outputs)
    assert max(found.relative_error.values()) < 1e-6


def test_a_shallow_engine_is_checked_with_a_tap_of_its_own(unet: Exported) -> None:
    shallow = variants_at(2)[1]
    graph = unet.save(shallow)
    found = _check(unet, OnnxRuntimeEngine(graph), graph)
    assert found.usable
    assert set(found.relative_error) == {"noise_pred"}
    assert not _damaged(unet, _add_noise(0.1), variant=shallow).usable


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_spoil_one(torch.nan), f"image has 1 of {2 * 3 * 64 * 64} elements that are not finite"),
        (_spoil_one(-torch.inf), f"image has 1 of {2 * 3 * 64 * 64} elements that are not finite"),
        (lambda tensor: tensor.fill_(torch.nan), "image has 24576 of 24576 elements that are not finite"),
    ],
    ids=["one NaN", "one infinity", "all NaN"],
)
def test_what_is_not_finite_is_unusable_without_a_comparison(vae: Exported, damage: Damage, reason: str) -> None:
    found = _damaged(vae, damage)
    assert (found.usable, found.reason, found.relative_error) == (False, reason, {})


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_zeros_are_unusable_with_a_reference_or_without(vae: Exported, dtype: str) -> None:
    found = _damaged(vae, torch.Tensor.zero_, dtype=dtype)
    assert (found.usable, found.reason) == (False, "image is all zeros")


def test_zeros_are_right_where_the_reference_has_them() -> None:
    """A ControlNet before its training steers nothing."""
    controlled = micro.OTHERS["sd controlnet"]
    plain = controlled.new(controlnet=ControlNetModel.from_unet(micro_parts.unet("sd")).eval())
    pipe = DeepCachePipeline.from_pipe(plain, backend="openvino", components=("controlnet",))
    micro.draw(pipe, controlled, num_inference_steps=2)
    (component,) = pipe._live_components
    assert not component.session.buffers["mid_residual"].any()


@pytest.mark.parametrize(
    ("damage", "least"), [(_add_noise(1.0), 0.99), (_roll, 0.1), (lambda tensor: tensor.mul_(1.01), 0.0099)]
)
def test_another_output_is_unusable_with_the_figure_and_the_limit(vae: Exported, damage: Damage, least: float) -> None:
    found = _damaged(vae, damage)
    error = found.relative_error["image"]
    assert error > least
    assert not found.usable
    assert found.reason == f"image differs by {error:.2g} of the reference's norm, the limit for float32 is 0.001"


@pytest.mark.parametrize("dtype", list(TOLERANCE))
def test_noise_is_measured_against_the_limit_of_the_precision(vae: Exported, dtype: str) -> None:
    """bfloat16 has no reference on the CPU, see below."""
    limit = TOLERANCE[dtype]
    below, above = (_damaged(vae, _add_noise(share * limit), dtype=dtype) for share in (0.9, 1.1))
    assert below.usable
    assert above.usable == (dtype == "bfloat16")


def test_one_wrong_output_of_several_is_named_alone(unet: Exported) -> None:
    variant = variants_at(0)[0]
    wrong = _damaged(unet, _add_noise(0.5), variant=variant, only="tap_0")
    assert not wrong.usable
    assert wrong.reason.startswith("tap_0 differs by 0.5 of the reference's norm")
    assert wrong.relative_error["noise_pred"] < 1e-6
    assert _damaged(unet, torch.Tensor.zero_, variant=variant, only="tap_0").reason == "tap_0 is all zeros"


def test_an_output_that_the_engine_never_fills_is_not_finite(vae: Exported) -> None:
    graph = vae.save()
    found = _check(vae, Idle(OnnxRuntimeEngine(graph), _roll), graph)
    assert (found.usable, found.reason) == (False, "image has 24576 of 24576 elements that are not finite")


def test_other_weights_are_unusable(vae: Exported, store_root: Path, tmp_path: Path) -> None:
    model = tiny.new_part("vae")
    with torch.no_grad():
        model.decoder.conv_in.weight.mul_(1.5)
    other = export(model, "vae", store_root, tmp_path)
    assert not _check(vae, OnnxRuntimeEngine(other.save()), vae.save()).usable


def test_the_engine_is_given_its_workspace(vae: Exported) -> None:
    graph = vae.save()
    engine = Damaged(OnnxRuntimeEngine(graph), lambda tensor: None, workspace=512)
    assert _check(vae, engine, graph).usable
    assert engine.workspace is not None
    assert engine.workspace.nbytes == 512


# Where there is no reference.


def test_without_the_memory_for_a_reference_only_faults_count_and_it_says_so(
    vae: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    little = psutil.virtual_memory()._replace(available=1000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: little)
    found = _damaged(vae, _add_noise(1.0))
    assert (found.usable, found.relative_error) == (True, {})
    assert found.reason == "finite, but not compared: the reference needs about 0 GB of memory, 0 GB are free"
    assert not _damaged(vae, torch.Tensor.zero_).usable


def test_bfloat16_has_no_reference_on_the_cpu_and_it_says_so(vae: Exported) -> None:
    found = _damaged(vae, _add_noise(1.0), dtype="bfloat16")
    assert (found.usable, found.relative_error) == (True, {})
    assert found.reason == "finite, but not compared: ONNX Runtime has no bfloat16 on the CPU"
    assert not _damaged(vae, _spoil_one(torch.nan), dtype="bfloat16").usable


def test_a_graph_that_onnx_runtime_cannot_load_is_no_verdict_on_the_engine(vae: Exported, tmp_path: Path) -> None:
    broken = tmp_path / "graph.onnx"
    broken.write_bytes(b"no graph")
    found = _check(vae, OnnxRuntimeEngine(vae.save()), broken)
    assert found.usable
    assert found.reason.startswith("finite, but not compared: ")
    assert "graph.onnx" in found.reason


# At which sizes.


@pytest.mark.parametrize("name", ["ddpm", "dit"])
def test_the_sizes_that_an_engine_of_any_shape_is_checked_at_are_some_that_its_graph_takes(
    name: str, store_root: Path, tmp_path: Path
) -> None:
    """Latents that the U-Net cannot halve often enough would be refused, or worse."""
    exported = export(tiny.denoiser(name), name, store_root, tmp_path)
    graph, architecture = exported.save(), exported.component.architecture
    sizes = parity.unseen_sizes(architecture)
    widest_profile(architecture).check(sizes, size_multiple=architecture.size_multiple)
    assert check_engine(OnnxRuntimeEngine(graph), graph, architecture, sizes, dtype="float32", device="cpu").usable
