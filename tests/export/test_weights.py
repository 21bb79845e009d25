"""Weights by reference: the same tensors, wherever they lie."""

import os
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto, helper
from safetensors.torch import load_file, save_file

from deepcache_trt.errors import CheckpointError
from deepcache_trt.export import weights
from deepcache_trt.export.tidy import UNBOUND
from tests import tiny

STATE = {
    "a.weight": torch.arange(12, dtype=torch.float32).reshape(3, 4),
    "b.bias": torch.tensor([1.5, -2.0], dtype=torch.float32),
    "c.empty": torch.empty(0),
}


def _graph(name: str, dims: list[int]) -> onnx.ModelProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=dims, data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=UNBOUND)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, dims)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, dims)
    node = helper.make_node("Add", ["x", name], ["y"])
    return helper.make_model(helper.make_graph([node], "g", [x], [y], [tensor]))


def test_located_tensors_are_what_was_written(tmp_path: Path) -> None:
    stored = weights.locate(weights.write(STATE.items(), tmp_path))
    assert {name: tuple(t.shape) for name, t in stored.items()} == {n: tuple(t.shape) for n, t in STATE.items()}
    assert all(torch.equal(stored[name].tensor(), tensor) for name, tensor in STATE.items())


def test_large_weights_are_written_as_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "_SHARD_BYTES", 40)
    files = weights.write(STATE.items(), tmp_path)
    assert len(files) == 2
    assert {name for file in files for name in load_file(file)} == set(STATE)


def test_a_live_state_and_its_checkpoint_have_one_fingerprint(tmp_path: Path) -> None:
    stored = weights.locate(weights.write(STATE.items(), tmp_path))
    live = weights.fingerprint(STATE, STATE.__getitem__)
    assert live == weights.fingerprint(stored, lambda name: stored[name].tensor())


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s["b.bias"].add_(1e-3),
        lambda s: s.update({"b.bias": s["b.bias"].half()}),
        lambda s: s.update({"a.weight": s["a.weight"].reshape(4, 3)}),
        lambda s: s.update({"renamed": s.pop("b.bias")}),
    ],
    ids=["value", "dtype", "shape", "name"],
)
def test_the_fingerprint_changes_with(change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    state = {name: tensor.clone() for name, tensor in STATE.items()}
    before = weights.fingerprint(state, state.__getitem__)
    change(state)
    assert weights.fingerprint(state, state.__getitem__) != before


def test_an_early_vae_is_located_under_the_names_that_diffusers_gives_it(tmp_path: Path) -> None:
    """The VAEs of SD1.5 and SD2.1, and the U-Net of ddpm-cifar10, name their attention as diffusers once did."""
    model = tiny.new_part("vae")
    model.save_pretrained(tmp_path)
    (file,) = tmp_path.glob("*.safetensors")
    early = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = {}
    for name, tensor in model.state_dict().items():
        for new, old in early.items():
            name = name.replace(f".{new}.", f".{old}.")
        state[name] = tensor
    save_file(state, file, metadata={"format": "pt"})
    assert not set(model.state_dict()) <= set(state)
    loaded = type(model).from_pretrained(tmp_path).state_dict()
    stored = weights.locate([file])
    assert set(stored) == set(loaded)
    assert all(torch.equal(stored[name].tensor(), tensor) for name, tensor in loaded.items())


def test_the_position_ids_that_early_text_encoders_hold_are_left_out(tmp_path: Path) -> None:
    model = tiny.part("clip")
    state = {**model.state_dict(), "text_model.embeddings.position_ids": torch.arange(16)[None]}
    save_file(state, tmp_path / "model.safetensors")
    assert set(weights.locate([tmp_path / "model.safetensors"])) == set(model.state_dict())


def test_a_bound_graph_reads_the_checkpoints_own_bytes(tmp_path: Path) -> None:
    graph = _graph("a.weight", [3, 4])
    weights.save_bound(graph, weights.locate(weights.write(STATE.items(), tmp_path)), tmp_path / "g.onnx")
    loaded = onnx.load(tmp_path / "g.onnx")
    assert (onnx.numpy_helper.to_array(loaded.graph.initializer[0]) == STATE["a.weight"].numpy()).all()


@pytest.mark.parametrize(
    ("name", "dims", "message"),
    [
        ("missing", [3, 4], "the checkpoint has no tensor 'missing'"),
        ("a.weight", [4, 3], r"'a.weight' is float32\[3, 4\] in the checkpoint, the graph wants float32\[4, 3\]"),
    ],
)
def test_a_checkpoint_of_another_architecture_is_refused(
    tmp_path: Path, name: str, dims: list[int], message: str
) -> None:
    stored = weights.locate(weights.write(STATE.items(), tmp_path))
    with pytest.raises(CheckpointError, match=message):
        weights.bind(_graph(name, dims), stored)


@pytest.mark.parametrize("damage", [lambda data: data[:-4], lambda data: data[:5], lambda data: b"PK" + data])
def test_a_damaged_checkpoint_is_refused_by_name(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    file = tmp_path / "model.safetensors"
    save_file({"a": torch.ones(8)}, file)
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(CheckpointError, match=r"model\.safetensors is no usable safetensors file"):
        weights.locate([file])


def test_linking_takes_no_space(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    save_file({"a": torch.ones(8)}, file)
    folder = tmp_path / "store"
    folder.mkdir()
    (linked,) = weights.link([file], folder)
    assert os.path.samefile(linked, file)


def test_linking_copies_where_the_file_system_cannot_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("cross-device link")

    file = tmp_path / "model.safetensors"
    save_file({"a": torch.ones(8)}, file)
    folder = tmp_path / "store"
    folder.mkdir()
    monkeypatch.setattr(os, "link", refuse)
    (copied,) = weights.link([file], folder)
    assert not os.path.samefile(copied, file)
    assert copied.read_bytes() == file.read_bytes()


def test_seeded_weights_are_the_same_for_the_same_seed_and_keep_activations_in_scale() -> None:
    shapes = {"w.weight": torch.Size([256, 256]), "n.weight": torch.Size([8]), "n.bias": torch.Size([8])}
    first, again, other = (dict(weights.seeded(shapes, dtype="float32", seed=seed)) for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in shapes)
    assert not torch.equal(first["w.weight"], other["w.weight"])
    assert (first["w.weight"] @ torch.randn(256)).std() == pytest.approx(1, abs=0.3)
    assert torch.equal(first["n.weight"], torch.ones(8))
    assert torch.equal(first["n.bias"], torch.zeros(8))
