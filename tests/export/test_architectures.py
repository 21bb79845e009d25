"""One export for each denoiser; every cut of it computes the same, bit for bit."""

import random
from pathlib import Path

import onnx_ir
import pytest
import torch

from deepcache_trt.builder.component import from_model
from deepcache_trt.builder.graphs import graph_key, weights_key
from deepcache_trt.errors import UnknownNameError
from deepcache_trt.export import parity
from deepcache_trt.export.cut import cut
from deepcache_trt.export.trace import onnx_from_config
from deepcache_trt.models.architecture import OUTPUT
from deepcache_trt.models.taps import Variant
from tests import tiny
from tests.export.exported import Exported, export


@pytest.fixture(scope="module", params=[*tiny.UNETS, "sd15+controlnet"])
def unet(request: pytest.FixtureRequest, store_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    name, _, controlled = request.param.partition("+")
    folder = tmp_path_factory.mktemp(request.param)
    return export(tiny.denoiser(name), name, store_root, folder, controlled=bool(controlled))


@pytest.fixture(scope="module")
def controlled(store_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return export(tiny.denoiser("sd15"), "sd15", store_root, tmp_path_factory.mktemp("controlled"), controlled=True)


@pytest.fixture(scope="module")
def dit(store_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return export(tiny.denoiser("dit"), "dit", store_root, tmp_path_factory.mktemp("dit"))


def _sizes(exported: Exported, batch: int, rows: int, columns: int) -> dict[str, int]:
    """Those of latents whose innermost feature maps have so many rows and columns, rounded up where it can be."""
    architecture = exported.component.architecture
    rounded = int(architecture.size_multiple < architecture.downsampling)
    height, width = (side * architecture.downsampling - rounded for side in (rows, columns))
    return {"batch": batch, "sequence": 5, "height": height, "width": width}


def test_every_weight_of_the_graph_is_a_tensor_of_the_state_dict(unet: Exported) -> None:
    assert unet.weights == set(unet.model.state_dict())


def test_the_graph_file_holds_no_weights(unet: Exported) -> None:
    assert max(constant.numel() for constant in unet.constants.values()) <= 1024


def test_batch_height_width_and_sequence_are_dynamic(unet: Exported) -> None:
    sample = unet.graph.graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_param for dim in sample if dim.dim_param] == ["batch", "height", "width"]


def test_the_number_of_taps_is_the_number_of_residuals(unet: Exported) -> None:
    layers = sum(len(block.resnets) for block in unet.model.up_blocks)
    assert len(unet.taps) == layers


def test_the_export_was_checked_against_the_model(unet: Exported) -> None:
    assert max(unet.about["parity"]["relative_error"].values()) < 1e-5
    assert unet.about["parity"]["cut_difference"] == 0.0


@pytest.mark.parametrize(("batch", "rows", "columns"), [(1, 1, 3), (3, 3, 2)])
def test_the_graph_equals_torch_at_unseen_shapes(unet: Exported, batch: int, rows: int, columns: int) -> None:
    inputs = unet.inputs(**_sizes(unet, batch, rows, columns))
    whole = Variant(name="whole", emits=tuple(unet.taps))
    expected = parity.run_model(unet.model, unet.component.architecture, whole, inputs)
    errors = parity.check_model(expected, unet.save(whole), inputs, dtype="float32")
    assert max(errors.values()) < 1e-5


def test_the_cut_is_exact_at_every_branch(unet: Exported) -> None:
    inputs = unet.inputs(**_sizes(unet, 2, 2, 3))
    for tap in unet.taps:
        full, shallow = Variant(name="full", emits=(tap,)), Variant(name="shallow", consumes=(tap,))
        assert parity.check_cut(unet.save(full), unet.save(shallow), shallow, inputs) == 0.0


def test_the_torch_override_equals_the_whole_model_at_every_branch(unet: Exported) -> None:
    inputs = unet.inputs(**_sizes(unet, 2, 1, 2))
    model, architecture = unet.model, unet.component.architecture
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


def test_a_cached_step_reads_only_the_control_residuals_that_its_layers_add(controlled: Exported) -> None:
    last = len(controlled.taps) - 1
    for k, tap in enumerate(controlled.taps):
        model = cut(controlled.graph, Variant(name="shallow", consumes=(tap,)))
        read = [value.name for value in model.graph.input if "residual" in value.name]
        # The last tap is the output of the mid block, to which its residual has yet to be added.
        assert read == [f"down_residual_{i}" for i in range(k + 1)] + ["mid_residual"] * (k == last)


def test_a_graph_with_control_residuals_is_another_one_for_the_same_weights(controlled: Exported) -> None:
    plain = from_model(controlled.model, name="tiny", part="unet")
    assert graph_key(controlled.component) != graph_key(plain)
    assert weights_key(controlled.component) == weights_key(plain)


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
    assert "pos_embed.pos_embed" not in dit.model.state_dict()
    buffers = dict(dit.model.named_buffers())
    assert torch.equal(dit.constants["pos_embed.pos_embed"], buffers["pos_embed.pos_embed"])


def test_that_table_has_the_precision_of_the_weights() -> None:
    model_class, config = tiny.ARCHITECTURES["dit"]
    graph = onnx_from_config(model_class, config, dtype="bfloat16").graph
    table = graph.initializers["pos_embed.pos_embed"].const_value
    assert table is not None
    assert table.dtype == onnx_ir.DataType.BFLOAT16
    torch.manual_seed(0)
    expected = model_class(**config).pos_embed.pos_embed.bfloat16().float()
    assert torch.equal(torch.from_numpy(table.numpy().astype("float32")), expected)


@pytest.mark.parametrize(("name", "controlled"), [pytest.param("sd15", True, marks=pytest.mark.slow), ("sdxl", False)])
def test_half_precision_exports_and_cuts(name: str, controlled: bool, store_root: Path, tmp_path: Path) -> None:
    model_class, config = tiny.ARCHITECTURES[name]
    torch.manual_seed(0)
    model = model_class(**config).half().eval()
    about = export(model, name, store_root, tmp_path, controlled=controlled).about
    assert about["dtype"] == "float16"
    assert max(about["parity"]["relative_error"].values()) < 2e-2
    # What is added to the last tap at once is rounded on one side of the cut.
    assert about["parity"]["cut_difference"] <= (2e-2 if controlled else 0.0)
