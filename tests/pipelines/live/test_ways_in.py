"""Models are loaded from wherever diffusers loads them, with the same options."""

import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from diffusers import StableDiffusionPipeline

from deepcache_trt import DeepCachePipeline
from deepcache_trt.errors import CheckpointError, UnknownNameError, UnsupportedError
from deepcache_trt.models.catalogue import resolve
from deepcache_trt.pipelines import DeepCacheDDPMPipeline, DeepCacheStableDiffusionPipeline
from tests import tiny
from tests.one_file import save_as_one_file
from tests.pipelines.drawing import difference, draw

# What diffusers takes a file with these tensors for.
KIND = "stabilityai/stable-diffusion-x4-upscaler"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled model as one file."""
    return save_as_one_file(tiny.digits(), tmp_path_factory.mktemp("one file") / "digits.safetensors")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def downloaded(hub: Path, repository: str) -> None:
    """Put the bundled model into the cache, as if it were another."""
    of_model = hub / f"models--{repository.replace('/', '--')}"
    shutil.copytree(resolve("digits"), of_model / "snapshots" / ("0" * 40))
    (of_model / "refs").mkdir()
    (of_model / "refs" / "main").write_text("0" * 40)


def expected() -> torch.Tensor:
    return draw(tiny.digits(), steps=3)


@pytest.mark.parametrize(
    "load",
    [DeepCachePipeline.from_single_file, DeepCacheStableDiffusionPipeline.from_single_file],
    ids=["any class", "its class"],
)
def test_one_file_is_a_pipeline_with_our_options(file: Path, load: Any) -> None:
    pipe: Any = load(file, config="digits", cache_interval=2, components=(), backend="torch", dtype=torch.float32)
    assert issubclass(type(pipe), StableDiffusionPipeline)
    assert (pipe.cache_params.cache_interval, pipe.engine_options.backend) == (2, "torch")
    pipe.set_cache_params(cache_interval=1)
    assert difference(draw(pipe, steps=3), expected()) <= 1e-4
    assert pipe.last_run.way == "whole loop"


@pytest.mark.parametrize("config", [Path(resolve("digits")), None], ids=["a folder", "found"])
def test_from_pretrained_takes_one_file_too(file: Path, config: Path | None, hub: Path) -> None:
    downloaded(hub, KIND)
    options: dict[str, Any] = {} if config is None else {"config": config}
    pipe = DeepCachePipeline.from_pretrained(file, components=(), cache_interval=1, **options)
    assert difference(draw(pipe, steps=3), expected()) <= 1e-4


def test_a_pickle_is_loaded_if_it_is_trusted(tmp_path: Path) -> None:
    file = save_as_one_file(tiny.digits(), tmp_path / "digits.ckpt")
    with pytest.raises(CheckpointError, match=r"is no \.safetensors file; if .* you trust it, say so with --allow-pic"):
        DeepCachePipeline.from_single_file(file, config="digits")
    pipe = DeepCachePipeline.from_single_file(file, config="digits", components=(), use_safetensors=False)
    assert type(pipe.unet).__name__ == "UNet2DConditionModel"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"cache_intervall": 2}, UnknownNameError, r"unknown option 'cache_intervall' \(did you mean 'cache_interval'"),
        ({"variant": "fp16"}, CheckpointError, "a variant is one of several files of a folder, and .* is one file"),
        ({"config": "digit"}, UnknownNameError, r"unknown model 'digit' \(did you mean 'digits'\?\)"),
        ({}, CheckpointError, rf"the configs of {KIND} are not on this machine; name the folder .* with --config"),
    ],
)
def test_what_cannot_be_done_with_one_file_is_said(
    file: Path, options: dict[str, Any], error: type[Exception], message: str, hub: Path
) -> None:
    with pytest.raises(error, match=message):
        DeepCachePipeline.from_single_file(file, **options)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.safetensors", "there is no file .*none.safetensors; check its name"),
        ("text.safetensors", "diffusers cannot load .*text.safetensors"),
        ("other.safetensors", "diffusers cannot load .*other.safetensors.*check that it holds all of a pipeline"),
        ("folder", "folder names no file of weights; use from_pretrained"),
    ],
)
def test_what_is_no_checkpoint_is_said_in_one_line(tmp_path: Path, name: str, message: str) -> None:
    from safetensors.torch import save_file

    (tmp_path / "text.safetensors").write_text("no checkpoint at all")
    (tmp_path / "folder").mkdir()
    save_file({"other": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match=message) as raised:
        DeepCachePipeline.from_single_file(tmp_path / name, config="digits")
    assert "\n" not in str(raised.value)


def test_configs_are_for_one_file_and_classes_for_what_diffusers_loads(file: Path) -> None:
    with pytest.raises(CheckpointError, match=r"digits is not one file, .*; leave config='digits' out"):
        DeepCachePipeline.from_pretrained("digits", config="digits")
    with pytest.raises(UnsupportedError, match="diffusers loads no DDPMPipeline from one file; give a folder or a hub"):
        DeepCacheDDPMPipeline.from_single_file(file, config="digits")
