"""A text encoder's checkpoint is linked, whatever module its layers lie in: releases of transformers differ in it."""

from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file, save_file

from deepcache_trt.builder.component import from_folder, from_model
from deepcache_trt.builder.graphs import weights_artefact
from deepcache_trt.engines.store import Store
from deepcache_trt.errors import CheckpointError
from deepcache_trt.export import parity, weights
from deepcache_trt.export.trace import onnx_from_config
from deepcache_trt.progress import logged
from tests import tiny

PREFIX = "text_model."


def _with_prefix(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {PREFIX + name.removeprefix(PREFIX): tensor for name, tensor in state.items()}


def _without(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix(PREFIX): tensor for name, tensor in state.items()}


LAYOUTS = {"as published": _with_prefix, "without a prefix": _without}


@pytest.fixture(params=LAYOUTS)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A checkpoint of the text encoder whose file has the names of one of the two layouts."""
    saved = tmp_path / "text_encoder"
    tiny.part("clip").save_pretrained(saved)
    (file,) = saved.glob("*.safetensors")
    save_file(LAYOUTS[request.param](load_file(file)), file, metadata={"format": "pt"})
    return saved


def test_the_names_are_those_of_the_model_and_the_weights_those_of_the_file(folder: Path, tmp_path: Path) -> None:
    (file,) = folder.glob("*.safetensors")
    component = from_folder(folder, name="tiny", dtype="float32")
    live = tiny.part("clip").state_dict()
    assert dict(component.tensors()).keys() == live.keys()
    assert all(torch.equal(tensor, live[name]) for name, tensor in component.tensors())
    assert component.fingerprint == from_model(tiny.part("clip"), name="tiny", part="text_encoder").fingerprint
    kept = weights_artefact(component, Store(tmp_path / "store"), logged)
    (linked,) = kept.folder.glob("*.safetensors")
    assert linked.samefile(file)


def test_a_live_model_is_known_to_hold_the_values_of_its_file(folder: Path) -> None:
    model = tiny.new_part("clip")
    model.config._name_or_path = str(folder)
    component = from_model(model, name="tiny", part="text_encoder")
    assert component.files == tuple(folder.glob("*.safetensors"))


def test_a_graph_with_that_file_computes_what_the_model_does(folder: Path, tmp_path: Path) -> None:
    component = from_folder(folder, name="tiny", dtype="float32")
    graph = onnx.load_from_string(_exported(component))
    assert component.files is not None
    stored = weights.locate(weights.link(component.files, tmp_path))
    weights.save_bound(graph, stored, tmp_path / "graph.onnx")
    tensors = parity.example_inputs(component.architecture, {"batch": 2})
    session = onnxruntime.InferenceSession(tmp_path / "graph.onnx", providers=["CPUExecutionProvider"])
    (outputs,) = session.run(["last_hidden_state"], {name: tensor.numpy() for name, tensor in tensors.items()})
    with torch.no_grad():
        expected = component.architecture.call(tiny.part("clip"), tensors)["last_hidden_state"]
    torch.testing.assert_close(torch.from_numpy(outputs), expected, rtol=1e-4, atol=1e-5)


def _exported(component: Any) -> bytes:
    import onnx_ir

    graph = onnx_from_config(component.model_class, component.graph_config, dtype="float32")
    exported: bytes = onnx_ir.to_proto(graph).SerializeToString()
    return exported


def test_a_file_without_one_of_the_tensors_is_still_refused(folder: Path, tmp_path: Path) -> None:
    (file,) = folder.glob("*.safetensors")
    state = load_file(file)
    lacking = next(name for name in sorted(state) if name.endswith("layers.1.mlp.fc1.weight"))
    del state[lacking]
    save_file(state, file, metadata={"format": "pt"})
    component = from_folder(folder, name="tiny", dtype="float32")
    graph = onnx.load_from_string(_exported(component))
    with pytest.raises(CheckpointError, match="the checkpoint has no tensor"):
        weights.save_bound(graph, weights.locate([file]), tmp_path / "graph.onnx")
