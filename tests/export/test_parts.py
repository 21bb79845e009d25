"""The parts beside the denoiser: a VAE decoder at any size, and text encoders with all that pipelines read of them."""

import time
from pathlib import Path

import onnx
import onnx_ir
import onnxruntime
import pytest
import torch

from deepcache_trt.errors import UnknownNameError
from deepcache_trt.export import parity
from deepcache_trt.export.cut import cut
from deepcache_trt.export.trace import onnx_from_config
from deepcache_trt.models.catalogue import CATALOGUE
from deepcache_trt.models.fresh import fake_model
from deepcache_trt.models.registry import architecture_of, part_dtype
from deepcache_trt.models.taps import Variant
from tests import tiny
from tests.export.exported import WHOLE, Exported, export

CLIPS = ["clip", "clip_projection"]


@pytest.fixture(scope="module", params=list(tiny.PARTS))
def part(request: pytest.FixtureRequest, store_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    name = request.param
    return export(tiny.part(name), name, store_root, tmp_path_factory.mktemp(name))


@pytest.fixture(scope="module")
def vae(store_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return export(tiny.part("vae"), "vae", store_root, tmp_path_factory.mktemp("vae"))


@pytest.fixture(scope="module", params=CLIPS)
def clip(request: pytest.FixtureRequest, store_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    name = request.param
    return export(tiny.part(name), name, store_root, tmp_path_factory.mktemp(name))


def _session(exported: Exported) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(exported.save(), options, providers=["CPUExecutionProvider"])


def _run(exported: Exported, **tensors: torch.Tensor) -> dict[str, torch.Tensor]:
    session = _session(exported)
    outputs = session.run(None, {name: tensor.numpy() for name, tensor in tensors.items()})
    return {value.name: torch.from_numpy(array) for value, array in zip(session.get_outputs(), outputs, strict=True)}


def test_the_export_was_checked_against_the_model(part: Exported) -> None:
    names = {spec.name for spec in part.component.architecture.outputs}
    assert set(part.about["parity"]["relative_error"]) == names
    assert max(part.about["parity"]["relative_error"].values()) < 1e-5


def test_the_weights_are_those_of_the_parts_own_module_under_their_checkpoint_names(part: Exported) -> None:
    module = part.component.architecture.module
    prefix = f"{module}." if module else ""
    assert part.weights == {name for name in part.model.state_dict() if name.startswith(prefix)}


def test_the_graph_file_holds_no_weights(part: Exported) -> None:
    assert max(constant.numel() for constant in part.constants.values()) <= 1024


def test_inputs_and_outputs_have_the_shapes_that_were_written_down(part: Exported) -> None:
    architecture = part.component.architecture
    specs = {spec.name: spec.shape for spec in (*architecture.inputs, *architecture.outputs)}
    values = [*part.graph.graph.input, *part.graph.graph.output]
    shapes = {v.name: tuple(d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim) for v in values}
    assert shapes == specs


def test_a_part_without_taps_is_cut_to_itself(part: Exported) -> None:
    assert [v.name for v in cut(part.graph, WHOLE).graph.output] == [v.name for v in part.graph.graph.output]
    with pytest.raises(UnknownNameError, match=r"no tap 'tap_0' in this graph; it has none"):
        cut(part.graph, Variant(name="shallow", consumes=("tap_0",)))


@pytest.mark.parametrize("name", list(tiny.PARTS))
def test_half_precision_exports(name: str, store_root: Path, tmp_path: Path) -> None:
    exported = export(tiny.new_part(name).half(), name, store_root, tmp_path)
    assert exported.about["dtype"] == "float16"
    assert max(exported.about["parity"]["relative_error"].values()) < 2e-2


@pytest.mark.parametrize(("batch", "height", "width"), [(1, 1, 1), (3, 1, 4), (1, 7, 5), (2, 9, 2)])
def test_the_decoder_takes_any_size(vae: Exported, batch: int, height: int, width: int) -> None:
    inputs = vae.inputs(batch=batch, height=height, width=width)
    expected = parity.run_model(vae.model, vae.component.architecture, WHOLE, inputs)
    assert expected["image"].shape == (batch, 3, 8 * height, 8 * width)
    assert max(parity.check_model(expected, vae.save(), inputs, dtype="float32").values()) < 1e-5


@pytest.mark.parametrize("way", ["plain", "sliced", "tiled"])
def test_diffusers_decodes_through_the_graph_in_every_way(vae: Exported, way: str) -> None:
    """Tiles of 8×8 overlap by two: a latent of 20×13 has border tiles of two rows and of one column."""
    model = tiny.new_part("vae")
    if way == "sliced":
        model.enable_slicing()
    if way == "tiled":
        model.enable_tiling()
    latent = torch.randn(2, 4, 20, 13, generator=torch.Generator().manual_seed(0))
    sizes = []

    def decode(tile: torch.Tensor) -> torch.Tensor:
        sizes.append(tuple(tile.shape))
        return torch.from_numpy(session.run(["image"], {"latent": tile.numpy()})[0])

    with torch.no_grad():
        expected = model.decode(latent).sample
        session = _session(vae)
        model.decoder.forward = decode
        decoded = model.decode(latent).sample
    assert (
        sorted(set(sizes))
        == {
            "plain": [(2, 4, 20, 13)],
            "sliced": [(1, 4, 20, 13)],
            "tiled": [(2, 4, rows, columns) for rows in (2, 8) for columns in (1, 7, 8)],
        }[way]
    )
    torch.testing.assert_close(decoded, expected, rtol=1e-4, atol=1e-5)


def test_a_text_encoder_gives_the_embeddings_and_the_output_of_each_layer(clip: Exported) -> None:
    inputs = clip.inputs(batch=3)
    with torch.no_grad():
        expected = clip.model(**inputs, output_hidden_states=True)
    outputs = _run(clip, **inputs)
    for i, state in enumerate(expected.hidden_states):
        torch.testing.assert_close(outputs.pop(f"hidden_state_{i}"), state, rtol=1e-4, atol=1e-5)
    for name, tensor in outputs.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-4, atol=1e-5)


def _ids(clip: Exported, end_at: int) -> torch.Tensor:
    """A text that ends in the middle, filled up with the end token."""
    tokens = clip.component.architecture.tokens
    assert tokens is not None
    ids = torch.full((1, 16), tokens.end)
    ids[0, :end_at] = torch.arange(3, 3 + end_at)
    return ids


@pytest.mark.parametrize("end_at", [1, 6, 15])
def test_the_text_is_pooled_at_its_first_end_token(clip: Exported, end_at: int) -> None:
    """Old configs call the highest id of the vocabulary 2; new ones name the end token."""
    outputs = _run(clip, input_ids=_ids(clip, end_at))
    pooled = outputs["last_hidden_state"][:, end_at]
    if "text_embeds" in outputs:
        pooled = pooled @ clip.model.text_projection.weight.T
    torch.testing.assert_close(outputs.get("pooler_output", outputs.get("text_embeds")), pooled, rtol=1e-4, atol=1e-5)


def test_a_token_is_seen_by_those_that_follow_it_only(clip: Exported) -> None:
    ids = _ids(clip, 12)
    changed = ids.clone()
    changed[0, 7] = 50
    before, after = (_run(clip, input_ids=each)["last_hidden_state"] for each in (ids, changed))
    differs = (before - after).abs().amax(dim=(0, 2)) > 1e-6
    assert differs.tolist() == [False] * 7 + [True] * 9


@pytest.mark.parametrize("name", CLIPS)
def test_the_position_ids_that_no_checkpoint_has_are_kept_in_the_graph(name: str) -> None:
    graph = onnx_from_config(*tiny.PARTS[name], dtype="float16")
    initializers = graph.graph.initializers
    (kept,) = (value.const_value for name, value in initializers.items() if name.endswith("embeddings.position_ids"))
    assert kept is not None
    assert kept.numpy().tolist() == [list(range(16))]


@pytest.mark.parametrize("named", [{"torch_dtype": "float16"}, {"dtype": "bfloat16"}, {}])
@pytest.mark.parametrize("name", CLIPS)
def test_the_dtype_is_the_one_asked_for_and_not_the_configs(name: str, named: dict[str, str]) -> None:
    model_class, config = tiny.PARTS[name]
    model = fake_model(model_class, {**config, **named}, "float32")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


REAL = [
    (name, folder)
    for name, entry in CATALOGUE.items()
    for folder in entry.parts
    if folder != "unet" and not name.startswith("bk-sdm")  # whose parts are those of SD1.5
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "folder"), REAL)
def test_a_real_part_exports_in_half_a_minute(name: str, folder: str, tmp_path: Path) -> None:
    part = CATALOGUE[name].parts[folder]
    dtype = part_dtype(part.config, "float16")
    started = time.perf_counter()
    graph = onnx_from_config(part.model_class(), part.config, dtype=dtype)
    seconds = time.perf_counter() - started
    print(f"{name} {folder} {dtype}: {seconds:.0f} s, {len(graph.graph)} nodes")
    assert seconds < 30
    onnx_ir.save(graph, tmp_path / "graph.onnx")
    # No weight: the least of them take more. A table of positions, which is no weight, is in the graph.
    assert (tmp_path / "graph.onnx").stat().st_size < 4e6
    model = fake_model(part.model_class(), part.config, dtype)
    outputs = [value.name for value in onnx.load(tmp_path / "graph.onnx", load_external_data=False).graph.output]
    architecture = architecture_of(model, dtype=dtype)
    taps = [tap.name for tap in architecture.taps]
    assert outputs == [*(spec.name for spec in architecture.outputs), *taps]
