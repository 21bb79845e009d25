"""What is true of every model that comes with the package."""

import json
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from deepcache_trt.models.catalogue import CATALOGUE, resolve
from deepcache_trt.models.entries.digits import DIGITS
from deepcache_trt.models.registry import FAMILIES
from deepcache_trt.runtime.policies.router_file import IN_FOLDER

PACKAGE = Path(__file__).parents[2] / "deepcache_trt"


def files_of(name: str) -> list[Path]:
    return [file for file in Path(resolve(name)).rglob("*") if file.is_file()]


def test_each_folder_of_a_pipeline_in_the_package_has_a_name() -> None:
    folders = {str(index.parent) for index in (PACKAGE / "models").rglob("model_index.json")}
    assert folders == {CATALOGUE[name].source for name in DIGITS}


@pytest.mark.parametrize("name", DIGITS)
def test_it_is_a_few_megabytes_of_half_precision_safetensors(name: str) -> None:
    files = files_of(name)
    assert sum(file.stat().st_size for file in files) < 10e6
    assert not [file for file in files if file.suffix in (".bin", ".pt", ".ckpt")]
    for file in files:
        if file.suffix == ".safetensors" and file.name != IN_FOLDER:  # a router has a number for each tap
            assert {weight.dtype for weight in load_file(file).values()} <= {torch.float16, torch.int64}


@pytest.mark.parametrize("name", DIGITS)
def test_it_does_not_say_where_it_was_made(name: str) -> None:
    assert not [
        file for file in files_of(name) if file.suffix == ".json" and "_name_or_path" in file.read_text("utf-8")
    ]


@pytest.mark.parametrize("name", DIGITS)
def test_its_denoiser_is_of_a_known_family(name: str) -> None:
    index = json.loads((Path(resolve(name)) / "model_index.json").read_text())
    [denoiser] = [index[part][1] for part in ("unet", "transformer") if part in index]
    assert denoiser in {family.class_name for family in FAMILIES}


@pytest.mark.parametrize("name", DIGITS)
def test_all_of_it_is_in_the_wheel(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    setup: dict[str, Any] = {}
    monkeypatch.setattr("setuptools.setup", setup.update)
    runpy.run_path(str(PACKAGE.parent / "setup.py"))
    packed = {file for pattern in setup["package_data"]["deepcache_trt"] for file in PACKAGE.glob(pattern)}
    assert set(files_of(name)) <= packed
