"""A checkpoint that is changed under the store, in the same file and through its hard link, is another one."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save

from deepcache_trt import DeepCachePipeline
from tests.pipelines.weights.own_models import draw, fresh


def loaded(folder: Path, **options: Any) -> Any:
    cached = DeepCachePipeline.from_pretrained(folder, backend="onnxruntime", cache_interval=1, **options)
    cached.set_progress_bar_config(disable=True)
    return cached


def plain(folder: Path) -> Any:
    pipe = StableDiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def overwrite(file: Path, content: bytes) -> None:
    """In place: every link to the file has the same bytes afterwards."""
    inode = file.stat().st_ino
    with file.open("r+b") as stream:
        stream.write(content)
        stream.truncate()
    assert file.stat().st_ino == inode


@pytest.mark.parametrize("copied", [False, True], ids=["a link", "another file system"])
def test_a_checkpoint_that_is_overwritten_draws_its_own_pictures(
    copied: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if copied:
        monkeypatch.setattr("os.link", lambda *_: (_ for _ in ()).throw(OSError(18, "Invalid cross-device link")))
    folder, store = tmp_path / "model", tmp_path / "store"
    fresh().save_pretrained(folder)
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    first, before = file.read_bytes(), load_file(file)
    second = save({name: -tensor if name == "conv_out.weight" else tensor for name, tensor in before.items()})
    pictures = []
    for content in (first, second, first):
        overwrite(file, content)
        drawn = draw(loaded(folder, store=store))
        torch.testing.assert_close(drawn, draw(plain(folder)), atol=1e-4, rtol=0)
        pictures.append(drawn)
    assert torch.equal(pictures[0], pictures[2])
    assert (pictures[0] - pictures[1]).abs().max() > 0.01


def test_a_store_goes_on_where_its_checkpoint_is_gone(tmp_path: Path) -> None:
    folder, moved, store = tmp_path / "model", tmp_path / "moved", tmp_path / "store"
    fresh().save_pretrained(folder)
    shutil.copytree(folder, moved)
    before = draw(loaded(folder, store=store))
    shutil.rmtree(folder)
    assert torch.equal(draw(loaded(moved, store=store, build="never")), before)
