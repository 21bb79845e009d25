"""A checkpoint of latent diffusion holds three models, converted into a folder that computes what its code computes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from deepcache_trt import DeepCachePipeline
from deepcache_trt.builder.convert import convert
from deepcache_trt.builder.model_source import ModelSource, find_components
from deepcache_trt.errors import CheckpointError
from deepcache_trt.models.catalogue import CATALOGUE
from deepcache_trt.models.definitions.ldm import LDMClassToImagePipeline
from tests.models.originals.ldm_model import LatentDiffusion

NAME = "ldm-4-g"
# Smaller than what is published, and otherwise like it.
UNET = {"block_out_channels": (8, 16, 16, 24), "norm_num_groups": 4, "cross_attention_dim": 8, "sample_size": 8}
VQ_MODEL = {"block_out_channels": (8, 8, 16), "norm_num_groups": 4, "num_vq_embeddings": 16}
CLASSES = {"num_classes": 11, "embed_dim": 8}


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    entry, changes = CATALOGUE[NAME], {"unet": UNET, "vqvae": VQ_MODEL}
    parts = {name: replace(each, config={**each.config, **changes[name]}) for name, each in entry.parts.items()}
    beside = {"class_embedder": replace(entry.beside["class_embedder"], config=CLASSES)}
    monkeypatch.setitem(CATALOGUE, NAME, replace(entry, parts=parts, beside=beside))


def original() -> Any:
    torch.manual_seed(0)
    model = LatentDiffusion(UNET, VQ_MODEL, CLASSES["num_classes"])
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, std=1.0 if "embedding" in name else 0.1)
    return model.eval()


def saved(model: torch.nn.Module, how: str) -> dict[str, Any]:
    """As trainings save it."""
    weights = model.state_dict()
    if how == "with an average":
        own = {name: each for name, each in weights.items() if name.startswith("model.")}
        average = {f"model_ema.{name.removeprefix('model.').replace('.', '')}": each for name, each in own.items()}
        zeros = {name: torch.zeros_like(each) for name, each in own.items()}
        counts = {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(3)}
        weights = {**weights, **zeros, **average, **counts, "logvar": torch.zeros(1000)}
    if how == "with a loss":
        weights = {**weights, "first_stage_model.loss.discriminator.main.0.weight": torch.zeros(3)}
    return {"epoch": 3, "state_dict": weights, "optimizer_states": [{"state": {}}]}


def assert_same(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= 2e-5 * expected.abs().max()


@torch.no_grad()
@pytest.mark.parametrize("how", ["plain", "with an average", "with a loss", "safetensors"])
def test_all_three_models_compute_what_the_original_computes(how: str, tmp_path: Path) -> None:
    model, latents = original(), torch.randn(2, 3, 8, 8)
    file = tmp_path / ("model.safetensors" if how == "safetensors" else "model.ckpt")
    if how == "safetensors":
        save_file(model.state_dict(), file)
    else:
        torch.save(saved(model, how), file)
    convert(file, NAME, tmp_path / "out")
    pipe: Any = LDMClassToImagePipeline.from_pretrained(tmp_path / "out")
    timestep, label = torch.tensor([10, 900]), torch.tensor([3, 10])
    found = pipe.unet(latents, timestep, pipe.class_embedder(label)).sample
    assert_same(found, model(latents, timestep, label))
    assert_same(pipe.decode(latents), model.first_stage_model.decode(latents))
    image = torch.randn(1, 3, 32, 16)
    assert_same(pipe.vqvae.encode(image).latents, model.first_stage_model.encode(image))
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["out"], "nothing half-built stays"


def test_the_schedule_is_the_one_that_it_was_trained_with(tmp_path: Path) -> None:
    model = original()
    torch.save(saved(model, "plain"), tmp_path / "model.ckpt")
    convert(tmp_path / "model.ckpt", NAME, tmp_path / "out")
    pipe: Any = LDMClassToImagePipeline.from_pretrained(tmp_path / "out")
    torch.testing.assert_close(pipe.scheduler.betas, model.betas)
    pipe.scheduler.set_timesteps(250)
    assert pipe.scheduler.timesteps.tolist() == [*range(997, 0, -4)]  # as its code counts them: 1, 5, …


@pytest.mark.slow
def test_the_folder_is_drawn_with_on_engines(tmp_path: Path) -> None:
    torch.save(saved(original(), "plain"), tmp_path / "model.ckpt")
    convert(tmp_path / "model.ckpt", NAME, tmp_path / "out")
    pipe: Any = DeepCachePipeline.from_pretrained(tmp_path / "out", cache_interval=2, backend="onnxruntime")
    assert isinstance(pipe, LDMClassToImagePipeline)
    image = pipe([3], num_inference_steps=3, output_type="np").images
    assert image.shape == (1, 32, 32, 3)
    assert pipe.last_run.way == "whole loop"
    assert pipe.last_run.seconds["vqvae"] > 0
    found = find_components(ModelSource(model=str(tmp_path / "out")), dtype="float32")
    assert [component.part for component in found] == ["unet", "vqvae"]  # the classes stay in PyTorch


FIRST = "model.diffusion_model.input_blocks."


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        (f"{FIRST}0.0.weight", None, "the unet of ldm-4-g has conv_in.weight, which the checkpoint lacks; check"),
        (f"{FIRST}0.0.weight", torch.zeros(9, 3, 3, 3), r"conv_in.weight is \[9, 3, 3, 3\] in the checkpoint and"),
        ("model.diffusion_model.label_emb.0.0.weight", torch.zeros(3), "no label_emb.0.0.weight, which the checkpoint"),
        (f"{FIRST}1.1.norm.weight", torch.zeros(8), "no down_blocks.0.attentions.0.norm.weight, which the checkpoint"),
        ("first_stage_model.quantize.embedding.weight", None, "the vqvae of ldm-4-g has quantize.embedding.weight"),
        ("first_stage_model.encoder.other", torch.zeros(1), "the vqvae of ldm-4-g has no encoder.other, which"),
        ("cond_stage_model.embedding.weight", torch.zeros(7, 8), r"embedding.weight is \[7, 8\] in the checkpoint"),
        ("cond_stage_model.embedding.weight", None, "the class_embedder of ldm-4-g has embedding.weight, which"),
    ],
)
def test_a_checkpoint_of_another_architecture_is_refused_by_the_first_tensor(
    name: str, tensor: torch.Tensor | None, message: str, tmp_path: Path
) -> None:
    weights = dict(original().state_dict())
    weights.pop(name, None)
    torch.save({**weights, **({} if tensor is None else {name: tensor})}, tmp_path / "model.ckpt")
    with pytest.raises(CheckpointError, match=message):
        convert(tmp_path / "model.ckpt", NAME, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["model.ckpt"]


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    torch.save({"conv_in.weight": torch.zeros(8, 3, 3, 3)}, tmp_path / "model.ckpt")
    with pytest.raises(CheckpointError, match=r"the unet of ldm-4-g has \S+, which the checkpoint lacks"):
        convert(tmp_path / "model.ckpt", NAME, tmp_path / "out")
