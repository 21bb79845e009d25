"""A cached pipeline on disk is a pipeline of diffusers, and either reads it back."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline

import deepcache_trt.pipelines
from deepcache_trt import DeepCachePipeline
from deepcache_trt.errors import CheckpointError
from tests.pipelines.contract.families import (
    FAMILIES,
    FEW,
    INTERVAL,
    drawn,
    expected,
    on_engines,
    plain,
    plain_class,
    quiet,
)
from tests.pipelines.drawing import difference
from tests.pipelines.micro import draw, engines

SD, SDXL = FAMILIES["sd"], FAMILIES["sdxl"]


@pytest.fixture(scope="module", params=FAMILIES)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """The name of a family, and the folder that its cached pipeline was saved in."""
    folder = tmp_path_factory.mktemp("saved")
    on_engines(request.param).save_pretrained(folder)
    return request.param, folder


def missing(pipe: Any) -> set[str]:
    """Safety checkers, image encoders and feature extractors: each family is without some."""
    return {part for part, model in pipe.components.items() if model is None}


def test_the_index_is_that_of_the_plain_pipeline(saved: tuple[str, Path], tmp_path: Path) -> None:
    name, folder = saved
    plain(name).save_pretrained(tmp_path)
    ours, theirs = (json.loads((of / "model_index.json").read_text()) for of in (folder, tmp_path))
    assert ours == theirs
    assert ours["_class_name"] == FAMILIES[name].pipeline
    assert {path.relative_to(folder) for path in folder.rglob("*")} == {
        path.relative_to(tmp_path) for path in tmp_path.rglob("*")
    }


def test_plain_diffusers_loads_it(saved: tuple[str, Path]) -> None:
    name, folder = saved
    pipe = quiet(DiffusionPipeline.from_pretrained(folder))
    assert type(pipe) is plain_class(name)
    assert missing(pipe) == missing(plain(name)) != set()
    assert torch.equal(draw(pipe, FAMILIES[name], num_inference_steps=FEW), expected(name))


def test_it_is_loaded_as_a_cached_one_by_either_name(saved: tuple[str, Path]) -> None:
    name, folder = saved
    concrete = getattr(deepcache_trt.pipelines, f"DeepCache{FAMILIES[name].pipeline}")
    for by in (DeepCachePipeline, concrete):
        pipe = quiet(by.from_pretrained(folder, cache_interval=INTERVAL, **engines(FAMILIES[name])))
        assert type(pipe) is concrete
        assert missing(pipe) == missing(plain(name))
        assert torch.equal(draw(pipe, FAMILIES[name], num_inference_steps=FEW), drawn(name))
    assert difference(drawn(name), expected(name)) > 1e-2


def test_models_that_diffusers_can_do_without_are_none_again(tmp_path: Path) -> None:
    parts = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")
    DeepCachePipeline.from_pipe(SDXL.new(**dict.fromkeys(parts)), **engines(SDXL)).save_pretrained(tmp_path)
    for by in (DiffusionPipeline, DeepCachePipeline):
        pipe = by.from_pretrained(tmp_path)
        assert [getattr(pipe, part) for part in parts] == 4 * [None]


@pytest.mark.parametrize("part", ["text_encoder", "vae"])
def test_models_that_it_cannot_do_without_must_be_given_as_none(part: str, tmp_path: Path) -> None:
    """Plain diffusers says so, and so do we."""
    DeepCachePipeline.from_pipe(SD.new(**{part: None}), **engines(SD)).save_pretrained(tmp_path)
    loaders: list[tuple[Any, type[Exception]]] = [(DiffusionPipeline, ValueError), (DeepCachePipeline, CheckpointError)]
    for by, error in loaders:
        with pytest.raises(error, match=r"expected \["):
            by.from_pretrained(tmp_path)
        assert getattr(by.from_pretrained(tmp_path, **{part: None}), part) is None


def test_a_model_may_be_given_instead_of_the_saved_one(saved: tuple[str, Path]) -> None:
    name, folder = saved
    unet = plain(name).unet
    assert DeepCachePipeline.from_pretrained(folder, unet=unet, **engines(SD)).unet is unet
