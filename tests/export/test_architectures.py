"""One export for each architecture; every cut of it computes the same, bit for bit."""

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

from deepcache_trt.engines.store import Store
from deepcache_trt.errors import UnknownNameError
from deepcache_trt.export import parity, weights
from deepcache_trt.export.cut import cut
from deepcache_trt.models.architectures import OUTPUT
from deepcache_trt.models.taps import Variant
from deepcache_trt.pipelines.build import GRAPH, graph_artefact, weights_artefact
from deepcache_trt.pipelines.denoiser import Denoiser, from_model
from deepcache_trt.progress import logged
from tests import tiny


@dataclass(frozen=True)
class Exported:
    denoiser: Denoiser
    graph: onnx.ModelProto
    about: dict[str, Any]
    folder: Path  # with the weights in it

    @property
    def taps(self) -> list[str]:
        return [tap.name for tap in self.denoiser.architecture.taps]

    def save(self, variant: Variant) -> Path:
        path = self.folder / f"{variant.name}.onnx"
        model = cut(self.graph, variant)
        weights.save_bound(model, weights.locate(sorted(self.folder.glob("*.safetensors"))), path)
        return path

    def inputs(self, **sizes: int) -> dict[str, torch.Tensor]:
        return parity.example_inputs(self.denoiser.architecture, sizes, seed=sum(sizes.values()))


def _export(name: str, store_root: Path, folder: Path) -> Exported:
    store = Store(store_root)
    denoiser = from_model(tiny.denoiser(name), name=name)
    artefact = graph_artefact(denoiser, store, logged)
    weights.link(sorted(weights_artefact(denoiser, store, logged).folder.glob("*.safetensors")), folder)
    graph = onnx.load(artefact.folder / GRAPH, load_external_data=False)
    return Exported(denoiser, graph, artefact.about, folder)


@pytest.fixture(scope="module", params=tiny.UNETS)
def unet(request: pytest.FixtureRequest, store_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return _export(request.param, store_root, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def dit(store_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return _export("dit", store_root, tmp_path_factory.mktemp("dit"))


def _sizes(exported: Exported, batch: int, rows: int, columns: int) -> dict[str, int]:
    multiple = max(exported.denoiser.architecture.size_multiple, 1)
    return {"batch": batch, "sequence": 5, "height": rows * multiple, "width": columns * multiple}


def test_every_weight_of_the_graph_is_a_tensor_of_the_state_dict(unet: Exported) -> None:
    external = {i.name for i in unet.graph.graph.initializer if i.data_location == onnx.TensorProto.EXTERNAL}
    assert external == set(tiny.denoiser(unet.denoiser.name).state_dict())


def test_the_graph_file_holds_no_weights(unet: Exported) -> None:
    inline = [i for i in unet.graph.graph.initializer if i.data_location != onnx.TensorProto.EXTERNAL]
    assert max(onnx.numpy_helper.to_array(i).size for i in inline) <= 1024


def test_batch_height_width_and_sequence_are_dynamic(unet: Exported) -> None:
    sample = unet.graph.graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_param for dim in sample if dim.dim_param] == ["batch", "height", "width"]


def test_the_number_of_taps_is_the_number_of_residuals(unet: Exported) -> None:
    layers = sum(len(block.resnets) for block in tiny.denoiser(unet.denoiser.name).up_blocks)
    assert len(unet.taps) == layers


def test_the_export_was_checked_against_the_model(unet: Exported) -> None:
    assert max(unet.about["parity"]["relative_error"].values()) < 1e-5
    assert unet.about["parity"]["cut_difference"] == 0.0


@pytest.mark.parametrize(("batch", "rows", "columns"), [(1, 1, 3), (3, 3, 2)])
def test_the_graph_equals_torch_at_unseen_shapes(unet: Exported, batch: int, rows: int, columns: int) -> None:
    inputs = unet.inputs(**_sizes(unet, batch, rows, columns))
    whole = Variant(name="whole", emits=tuple(unet.taps))
    model = tiny.denoiser(unet.denoiser.name)
    expected = parity.run_model(model, unet.denoiser.architecture, whole, inputs)
    errors = parity.check_model(expected, unet.save(whole), inputs, dtype="float32")
    assert max(errors.values()) < 1e-5


def test_the_cut_is_exact_at_every_branch(unet: Exported) -> None:
    inputs = unet.inputs(**_sizes(unet, 2, 2, 3))
    for tap in unet.taps:
        full, shallow = Variant(name="full", emits=(tap,)), Variant(name="shallow", consumes=(tap,))
        assert parity.check_cut(unet.save(full), unet.save(shallow), shallow, inputs) == 0.0


def test_the_torch_override_equals_the_whole_model_at_every_branch(unet: Exported) -> None:
    inputs = unet.inputs(**_sizes(unet, 2, 1, 2))
    model, architecture = tiny.denoiser(unet.denoiser.name), unet.denoiser.architecture
    emitted = parity.run_model(model, architecture, Variant(name="whole", emits=tuple(unet.taps)), inputs)
    for tap in unet.taps:
        cached = parity.run_model(
            model, architecture, Variant(name="shallow", consumes=(tap,)), {**inputs, tap: emitted[tap]}
        )
        assert torch.equal(cached[OUTPUT], emitted[OUTPUT])


def test_a_shallow_graph_is_smaller_at_each_smaller_branch(unet: Exported) -> None:
    nodes = [len(cut(unet.graph, Variant(name="shallow", consumes=(tap,))).graph.node) for tap in unet.taps]
    assert nodes == sorted(nodes)
    assert nodes[0] < nodes[-1] / 2


def test_a_shallow_graph_has_no_dead_inputs(unet: Exported) -> None:
    for tap in unet.taps:
        model = cut(unet.graph, Variant(name="shallow", consumes=(tap,)))
        read = {name for node in model.graph.node for name in node.input}
        assert {value.name for value in model.graph.input} <= read


def test_an_unknown_tap_is_refused_with_the_ones_there_are(unet: Exported) -> None:
    with pytest.raises(UnknownNameError, match=r"no tap 'tap_99' in this graph; it has tap_0"):
        cut(unet.graph, Variant(name="shallow", consumes=("tap_99",)))


@pytest.mark.parametrize("seed", range(8))
def test_any_mask_of_a_dits_sublayers_cuts_exactly(dit: Exported, seed: int) -> None:
    """Learning-to-Cache: each step reuses another set of attention and MLP outputs."""
    dice = random.Random(seed)
    consumed = tuple(tap for tap in dit.taps if dice.random() < dice.choice((0.2, 0.5, 0.9)))
    computed = tuple(tap for tap in dit.taps if tap not in consumed)
    inputs = dit.inputs(**_sizes(dit, 2, 1, 1))
    full = Variant(name="full", emits=tuple(dit.taps))
    masked = Variant(name="masked", consumes=consumed, emits=computed)
    assert parity.check_cut(dit.save(full), dit.save(masked), masked, inputs) == 0.0


def test_a_dit_graph_keeps_the_position_table_that_no_checkpoint_has(dit: Exported) -> None:
    model = tiny.denoiser("dit")
    assert "pos_embed.pos_embed" not in model.state_dict()
    stored = {i.name: i for i in dit.graph.graph.initializer}
    table = torch.from_numpy(onnx.numpy_helper.to_array(stored["pos_embed.pos_embed"]).copy())
    assert torch.equal(table, dict(model.named_buffers())["pos_embed.pos_embed"])


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_half_precision_exports_and_cuts_exactly(name: str, store_root: Path, tmp_path: Path) -> None:
    model_class, config = tiny.ARCHITECTURES[name]
    torch.manual_seed(0)
    model = model_class(**config).half().eval()
    store = Store(store_root)
    about = graph_artefact(from_model(model, name=f"{name}-fp16"), store, logged).about
    assert about["dtype"] == "float16"
    assert max(about["parity"]["relative_error"].values()) < 2e-2
    assert about["parity"]["cut_difference"] == 0.0
