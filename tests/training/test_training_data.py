"""What a router is trained on: the digits, folders, latents in a file, and what pipelines call their denoisers with."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from deepcache_trt.benchmarks.fidelity.digit_reader import real_digits, to_eight
from deepcache_trt.errors import DeepCacheError, UnsupportedError
from deepcache_trt.models.registry import architecture_of
from deepcache_trt.training.data import digits, read_data
from deepcache_trt.training.examples import Source, conditions_of, encode, examples_of
from tests import tiny
from tests.pipelines.micro import STRAIGHT
from tests.training.taught import dit_pipeline


def conditions(pipe: Any, known: list[Any]) -> Any:
    model = getattr(pipe, "unet", None) or pipe.transformer
    return conditions_of(pipe, model, architecture_of(model, dtype="float32"), known)


def picture(path: Path, colour: tuple[int, int, int], size: tuple[int, int] = (32, 16)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def test_the_digits_are_the_training_split_in_dark_ink() -> None:
    source = digits(64, prompts=None)
    pictures, (split, test) = torch.cat(list(source.tensors)), real_digits()
    assert pictures.shape == (len(split.images), 3, 64, 64)
    assert list(source.labels) == list(split.labels)
    assert np.abs(to_eight((pictures.numpy() + 1) / 2) - split.images).mean() < 1
    named = digits(64, prompts=[f"digit {i}" for i in range(10)])
    assert list(named.labels) == [f"digit {label}" for label in split.labels]
    assert len(split.images) > 2 * len(test.images)


@pytest.mark.parametrize(("classes", "labels"), [(True, [0, 1, 1]), (False, ["a cat", "dogs", "dogs"])])
def test_folders_are_classes_or_prompts(classes: bool, labels: list[Any], tmp_path: Path) -> None:
    picture(tmp_path / "dogs" / "1.png", (255, 255, 255))
    picture(tmp_path / "dogs" / "2.PNG", (0, 0, 0), size=(8, 64))
    picture(tmp_path / "a cat" / "3.png", (255, 0, 0))
    (tmp_path / "dogs" / "notes.txt").touch()
    source = read_data(tmp_path, (16, 24), classes=classes)
    images = torch.cat(list(source.tensors))
    assert images.shape == (3, 3, 16, 24)
    assert list(source.labels) == labels
    assert images.mean(dim=(2, 3)).tolist() == [[1, -1, -1], [1, 1, 1], [-1, -1, -1]]


@pytest.mark.parametrize(("classes", "key", "labels"), [(True, "labels", [2, 0]), (False, "prompts", ["two", "none"])])
def test_latents_of_a_file_are_taken_as_they_are(classes: bool, key: str, labels: list[Any], tmp_path: Path) -> None:
    latents = np.random.default_rng(0).normal(size=(2, 4, 8, 8)).astype(np.float32)
    arrays: dict[str, Any] = {"latents": latents, key: np.array(labels)}
    np.savez(tmp_path / "data.npz", **arrays)
    source = read_data(tmp_path / "data.npz", (64, 64), classes=classes)
    assert source.encoded
    assert np.array_equal(torch.cat(list(source.tensors)).numpy(), latents)
    assert list(source.labels) == labels


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"latents": np.zeros([2, 4, 8, 8])}, "has no array 'labels' but latents; give a folder with"),
        ({"labels": np.zeros(2, int)}, "has no array 'latents' but labels"),
        (
            {"latents": np.zeros([2, 8, 8]), "labels": np.zeros(2, int)},
            r"has latents of shape \[2, 8, 8\] and 2 labels",
        ),
        ({"latents": np.zeros([2, 4, 8, 8]), "labels": np.zeros(3, int)}, r"of shape \[2, 4, 8, 8\] and 3 labels"),
        ({"latents": np.zeros([2, 4, 8, 8], object), "labels": np.zeros(2, int)}, "cannot be read .*; give a folder"),
    ],
)
def test_a_file_of_something_else_is_refused(arrays: dict[str, Any], message: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", **arrays)
    with pytest.raises(DeepCacheError, match=message):
        read_data(tmp_path / "data.npz", (64, 64), classes=True)


def test_what_is_not_there_or_holds_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DeepCacheError, match=r"none\.npz cannot be read \(.*No such file"):
        read_data(tmp_path / "none.npz", (64, 64), classes=True)
    with pytest.raises(DeepCacheError, match="has no images in folders of it; give a folder with"):
        read_data(tmp_path, (64, 64), classes=True)
    (tmp_path / "cats").mkdir()
    (tmp_path / "cats" / "broken.png").write_text("no image")
    with pytest.raises(DeepCacheError, match=r"broken\.png is no image that can be read"):
        list(read_data(tmp_path, (64, 64), classes=True).tensors)


def test_prompts_are_encoded_as_the_pipeline_does() -> None:
    pipe = tiny.stable_diffusion()
    table = conditions(pipe, ["one", "two"])["encoder_hidden_states"]
    assert table.shape[0] == 3
    encoded, empty = pipe.encode_prompt("two", "cpu", 1, True)
    assert torch.allclose(table[1:], torch.cat([encoded, empty]), atol=1e-6)


def test_all_that_sdxl_is_called_with_has_a_row_for_each_prompt() -> None:
    tables = conditions(STRAIGHT["sdxl"].new(), ["one", "two", "three"])
    assert {name: len(table) for name, table in tables.items()} == {
        "encoder_hidden_states": 4,
        "text_embeds": 4,
        "time_ids": 4,
    }


def test_classes_of_a_dit_end_with_that_for_none() -> None:
    assert conditions(dit_pipeline(), [7, 3])["class_labels"].tolist() == [7, 3, 1000]


def test_a_model_without_conditions_has_none() -> None:
    assert conditions(STRAIGHT["ddpm"].new(), [0]) == {}


@pytest.mark.parametrize(
    ("pipe", "known", "error", "message"),
    [
        (dit_pipeline, ["cat"], DeepCacheError, "a DiTPipeline is trained for with classes, as .* has 'cat'"),
        (
            STRAIGHT["sd"].new,
            [3],
            DeepCacheError,
            "a StableDiffusionPipeline .* with prompts, and .* has 3",
        ),
        (STRAIGHT["svd"].new, ["one"], UnsupportedError, "takes more than prompts or classes; take another model"),
    ],
)
def test_what_a_pipeline_does_not_take_is_refused(pipe: Any, known: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        conditions(pipe(), known)


def test_examples_have_the_latents_of_the_pipeline_and_the_row_of_their_label() -> None:
    pipe = tiny.digits()
    architecture = architecture_of(pipe.unet, dtype="float32")
    split = torch.cat(list(digits(64, prompts=None).tensors))[:4]
    labels = ["a handwritten one", "a handwritten two", "a handwritten one", ""]
    made = examples_of(pipe, pipe.unet, architecture, Source(tensors=[split], labels=labels), seed=0)
    assert made.rows.tolist() == [0, 1, 0, 2]
    with torch.no_grad():
        decoded = pipe.vae.decode(made.latents / pipe.vae.config.scaling_factor).sample
    assert (decoded - split).square().mean() < 0.02
    assert torch.equal(made.latents, encode(pipe, split, torch.Generator().manual_seed(0)))
    latents = Source(tensors=[torch.zeros(1, 3, 8, 8)], labels=["one"], encoded=True)
    with pytest.raises(DeepCacheError, match="the latents of the data have 3 channels, and the model takes 4; encode"):
        examples_of(pipe, pipe.unet, architecture, latents, seed=0)
