"""Commands take a checkpoint in one file, and what is in the cache of the hub."""

import json
import shutil
from pathlib import Path

import huggingface_hub
import pytest

from deepcache_trt.models.catalogue import resolve
from tests import tiny
from tests.commands.command_line import Run
from tests.one_file import save_as_one_file


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled model as one file."""
    return save_as_one_file(tiny.digits(), tmp_path_factory.mktemp("one file") / "digits.safetensors")


def test_engines_of_one_file_are_those_of_its_pipeline(run: Run, file: Path, built: Path, tmp_path: Path) -> None:
    """The store has engines of the same weights from a folder: nothing is built again."""
    options = ["--model", file, "--config", "digits", "--store", built]
    result, of_folder = run("build", *options), run("build", "--model", "digits", "--store", built)
    assert (result.code, of_folder.code) == (0, 0)
    assert result.out.count(f"{file} ") == 4, "the denoiser's two, the VAE's and the text encoder's"
    assert "✓" not in result.err, "a build would show its stages"
    of_file = result.out.replace(str(file), "digits").splitlines()
    assert sorted(of_file) == sorted(of_folder.out.splitlines()), "the same engines"
    picture = tmp_path / "seven.png"
    assert run("generate", "seven", *options, "--no-build", "--steps", 2, "--out", picture).code == 0
    assert picture.is_file()


def test_a_component_of_one_file(run: Run, file: Path, built: Path) -> None:
    options = ["--model", file, "--config", "digits", "--store", built]
    assert run("build", *options, "--component", "vae").out.count(" engine ") == 1
    refused = run("build", *options, "--component", "vea")
    assert refused.code == 2
    assert "has no component 'vea' (did you mean 'vae'?); it has unet, " in refused.err


def test_profile_counts_what_is_in_one_file_or_in_the_cache_of_the_hub(
    run: Run, file: Path, store_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    model = tmp_path / "models--owner--name"
    shutil.copytree(resolve("digits"), model / "snapshots" / ("0" * 40))
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text("0" * 40)
    named: list[tuple[object, ...]] = [("digits",), (file, "--config", "digits"), ("owner/name",)]
    found = [
        run("profile", "--model", *words, "--dtype", "float32", "--json", "--store", store_root) for words in named
    ]
    assert [result.code for result in found] == [0, 0, 0]
    counted = [{**json.loads(result.out), "model": None} for result in found]
    assert counted[1:] == counted[:1] * 2
