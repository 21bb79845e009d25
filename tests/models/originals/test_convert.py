"""Original checkpoints become folders of diffusers that compute what their own code computes."""

import argparse
import pickle
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from safetensors.torch import save_file

from deepcache_trt import DeepCachePipeline
from deepcache_trt.builder.convert import convert
from deepcache_trt.errors import CheckpointError, UnknownNameError, UnsupportedError
from deepcache_trt.models.catalogue import CATALOGUE
from deepcache_trt.runtime.policies import Uncached
from tests import tiny
from tests.models.originals import ddim_model, dit_model

# Smaller than those of the catalogue, and otherwise like them.
SMALL: dict[str, dict[str, Any]] = {
    "ddpm-cifar10": {"block_out_channels": (8, 16, 16, 16), "norm_num_groups": 4, "sample_size": 16},
    "dit-xl-2-256": {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 3, "sample_size": 8},
}
PARTS = {"ddpm-cifar10": "unet", "dit-xl-2-256": "transformer"}


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, changes in SMALL.items():
        entry, part = CATALOGUE[name], PARTS[name]
        model = replace(entry.parts[part], config={**entry.parts[part].config, **changes})
        monkeypatch.setitem(CATALOGUE, name, replace(entry, parts={**entry.parts, part: model}))


@pytest.fixture(scope="module")
def vae(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("vae")
    tiny.part("vae").save_pretrained(folder)
    return str(folder)


def original(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    if name == "ddpm-cifar10":
        model: torch.nn.Module = ddim_model.Model((8, 16, 16, 16), {1}, groups=4)
    else:
        model = dit_model.DiT(dict(CATALOGUE[name].parts["transformer"].config))
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


def inputs(name: str) -> tuple[torch.Tensor, ...]:
    timestep = torch.tensor([10, 900])
    if name == "ddpm-cifar10":
        return torch.randn(2, 3, 16, 16), timestep
    return torch.randn(2, 4, 8, 8), timestep, torch.tensor([3, 1000])


def wrapped(weights: Mapping[str, torch.Tensor], how: str) -> Any:
    """As trainings save them."""
    zeros = {name: torch.zeros_like(tensor) for name, tensor in weights.items()}
    return {
        "alone": dict(weights),
        "of DataParallel": {f"module.{name}": tensor for name, tensor in weights.items()},
        "with an average": {
            "model": zeros,
            "ema": dict(weights),
            "opt": {"state": {}},
            "args": argparse.Namespace(a=1),
        },
        "in ddim's list": [zeros, {"state": {}}, 3, 40, dict(weights)],
        "in a list": [dict(weights), 7],
    }[how]


@torch.no_grad()
@pytest.mark.parametrize(
    "how", ["alone", "of DataParallel", "with an average", "in ddim's list", "in a list", "safetensors"]
)
@pytest.mark.parametrize("name", SMALL)
def test_a_converted_model_computes_what_the_original_computes(name: str, how: str, vae: str, tmp_path: Path) -> None:
    model = original(name)
    if how == "safetensors":
        save_file(model.state_dict(), tmp_path / "model.safetensors")
        convert(tmp_path / "model.safetensors", name, tmp_path / "out", vae=vae)
    else:
        torch.save(wrapped(model.state_dict(), how), tmp_path / "model.pt")
        convert(tmp_path / "model.pt", name, tmp_path / "out", vae=vae)
    pipe: Any = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "out")
    given = inputs(name)
    expected = model(*given)
    names = ("sample", "timestep") if name == "ddpm-cifar10" else ("hidden_states", "timestep", "class_labels")
    found = getattr(pipe, PARTS[name])(**dict(zip(names, given, strict=True))).sample
    assert (found - expected).abs().max() <= 2e-5 * expected.abs().max()
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["out"], "nothing half-built stays"


def test_the_folder_is_drawn_with_on_engines(vae: str, tmp_path: Path) -> None:
    torch.save(original("dit-xl-2-256").state_dict(), tmp_path / "model.pt")
    convert(tmp_path / "model.pt", "dit-xl-2-256", tmp_path / "out", vae=vae)
    pipe: Any = DeepCachePipeline.from_pretrained(tmp_path / "out", policy=Uncached(), backend="onnxruntime")
    assert diffusers.DiTPipeline in type(pipe).__mro__
    image = pipe([3], num_inference_steps=3, output_type="np").images
    assert image.shape == (1, 64, 64, 3)
    assert pipe.last_run.way == "whole loop"


class Code:
    """What a pickle may run when it is loaded."""

    def __reduce__(self) -> Any:
        return pytest.fail, ("code of a checkpoint was run",)


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    torch.save({"model": {}, "other": Code()}, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=r"model.pt holds more than tensors .* save its weights alone"):
        convert(tmp_path / "model.pt", "ddpm-cifar10", tmp_path / "out")
    (tmp_path / "plain.ckpt").write_bytes(pickle.dumps(Code()))
    with pytest.raises(CheckpointError, match=r"plain.ckpt"):
        convert(tmp_path / "plain.ckpt", "ddpm-cifar10", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def changed(name: str, change: str) -> Any:
    weights = dict(original(name).state_dict())
    match change:
        case "one is missing":
            del weights["conv_in.weight"]
        case "one too many":
            weights["other.weight"] = torch.zeros(1)
        case "another size":
            weights["conv_in.weight"] = torch.zeros(16, 3, 3, 3)
        case "no weights":
            return {"steps": 3}
        case "nothing":
            return []
    return weights


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("one is missing", "the unet of ddpm-cifar10 has conv_in.weight, which the checkpoint lacks; check"),
        ("one too many", "the unet of ddpm-cifar10 has no other.weight, which the checkpoint has; check"),
        ("another size", r"conv_in.weight is \[16, 3, 3, 3\] in the checkpoint and \[8, 3, 3, 3\] in the unet of ddpm"),
        ("no weights", "holds no weights by name"),
        ("nothing", "holds no weights by name"),
    ],
)
def test_a_checkpoint_of_another_architecture_is_refused_by_the_first_tensor(
    change: str, message: str, tmp_path: Path
) -> None:
    torch.save(changed("ddpm-cifar10", change), tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=message):
        convert(tmp_path / "model.pt", "ddpm-cifar10", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]


def test_what_cannot_be_read_or_named_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(b"nothing of torch")
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    for checkpoint in ("model.pt", "model.safetensors", "missing.pt"):
        with pytest.raises(CheckpointError, match=f"{checkpoint}"):
            convert(tmp_path / checkpoint, "ddpm-cifar10", tmp_path / "out")
    with pytest.raises(UnknownNameError, match=r"unknown model 'ddpm-cifar' \(did you mean 'ddpm-cifar10'\?\)"):
        convert(tmp_path / "model.pt", "ddpm-cifar", tmp_path / "out")
    with pytest.raises(
        UnsupportedError, match=r"no original layout of sd15 is known; there is one of ldm-4-g, ddpm-cifar10, .*dit"
    ):
        convert(tmp_path / "model.pt", "sd15", tmp_path / "out")
    torch.save(original("dit-xl-2-256").state_dict(), tmp_path / "dit.pt")
    with pytest.raises(CheckpointError, match=r"nowhere.*give --vae with a folder that has it"):
        convert(tmp_path / "dit.pt", "dit-xl-2-256", tmp_path / "out", vae=str(tmp_path / "nowhere"))
    (tmp_path / "out").mkdir()
    with pytest.raises(CheckpointError, match="is there already; choose another --out"):
        convert(tmp_path / "dit.pt", "dit-xl-2-256", tmp_path / "out")
