"""`deepcache-trt build`: what it refuses before it exports, builds for a GPU elsewhere, and building again."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.commands.command_line import Run, assert_one_line

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="what is said on a machine without a GPU")


@pytest.fixture(scope="module")
def no_engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in which no engine can be built."""
    return tmp_path_factory.mktemp("no-engines")


# What is refused.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--size 100", r"--size 100: the pixels of digits unet must be multiples of 8; use 96"),
        ("--size 64x8000", r"latent width of 1000 .* is outside the profile 1–512; choose 8 to 4096 pixels"),
        ("--batch 64", r"a batch of 64 is outside the profile 1–63"),
    ],
)
def test_shapes_that_a_model_cannot_take_are_refused_before_anything_is_built(
    run: Run, tmp_path: Path, options: str, message: str
) -> None:
    pytest.importorskip("tensorrt_rtx")
    store = tmp_path / "store"
    result = run("build", "--model", "digits", "--target", "sm86", *options.split(), "--store", store)
    assert_one_line(result)
    assert re.search(message, result.err)
    assert not store.exists()


@no_gpu
@pytest.mark.parametrize("backend", ["tensorrt", "tensorrt-rtx"])
def test_tensorrt_without_a_gpu_offers_to_build_for_one_elsewhere(run: Run, tmp_path: Path, backend: str) -> None:
    result = run("build", "--model", "digits", "--backend", backend, "--store", tmp_path / "store")
    assert_one_line(result)
    assert f"backend '{backend}' needs an NVIDIA GPU, and torch " in result.err
    assert "--backend tensorrt-rtx --target sm86" in result.err
    assert not (tmp_path / "store").exists()


@no_gpu
@pytest.mark.parametrize(
    "options",
    [["--size", 64], ["--batch", 2], ["--refit"], ["--workspace", 1], ["--size", 64, "--optimization-level", 3]],
)
def test_what_only_compiled_backends_read_is_refused_for_others(run: Run, options: list[Any]) -> None:
    result = run("build", "--model", "digits", "--backend", "onnxruntime", *options)
    assert_one_line(result)
    named = ", ".join(option for option in options if str(option).startswith("--"))
    assert f"backend 'onnxruntime' takes every shape as it is; leave {named} out" in result.err


def test_an_unknown_target_is_refused_before_anything_is_exported(run: Run, tmp_path: Path) -> None:
    store = tmp_path / "store"
    result = run("build", "--model", "digits", "--target", "sm68", "--store", store)
    assert_one_line(result)
    assert "cannot build for 'sm68' (did you mean 'sm" in result.err
    assert not store.exists()


def test_a_store_that_cannot_be_written_is_named_with_the_option(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = run("build", "--model", "digits", "--store", tmp_path / "file" / "store")
    assert_one_line(result)
    assert f"--store {tmp_path / 'file' / 'store'} can be no folder" in result.err


# Building for a GPU elsewhere.


def test_a_plan_for_a_gpu_elsewhere_is_built_once_and_listed_with_what_it_is_for(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorrt_rtx")
    options = ["--component", "text_encoder", "--target", "sm86", "--size", 64, "--batch", 1, "--batch", "2-4"]
    command = ["build", "--model", "digits", *options, "--store", tmp_path]
    first = run(*command)
    assert first.code == 0
    title, _, folder = first.out.strip().rpartition(" in ")
    assert title == "digits text_encoder full: tensorrt-rtx engine (float16)"
    before = [(file.stat().st_ino, file.stat().st_mtime_ns) for file in sorted(Path(folder).iterdir())]
    assert run(*command).out == first.out
    assert [(file.stat().st_ino, file.stat().st_mtime_ns) for file in sorted(Path(folder).iterdir())] == before

    (engine,) = json.loads(run("inspect", "--store", tmp_path, "--json").out)["engines"]
    assert (engine["backend"], engine["device"], engine["dtype"]) == ("tensorrt-rtx", "sm86", "float16")
    assert engine["built"]["built_for"] == "sm86"
    assert [profile["batch"] for profile in engine["profiles"]] == [
        {"min": 1, "opt": 1, "max": 1},
        {"min": 1, "opt": 2, "max": 4},
    ]
    monkeypatch.setenv("COLUMNS", "200")
    assert re.search(r"digits text_encoder .*tensorrt-rtx float16 .*sm86", run("inspect", "--store", tmp_path).out)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--target sm68", r"cannot build for 'sm68' \(did you mean 'sm8.'\?\); it can for .*sm86, sm89"),
        ("--target sm86 --refit", r"a refittable engine plan can only be built on the GPU .* not ahead for 'sm86'"),
        ("--target sm86 --workspace 0.001", r"TensorRT cannot build graph\.onnx: .*; allow more workspace, or"),
    ],
)
def test_what_cannot_be_built_ahead_leaves_no_engine(run: Run, no_engines: Path, options: str, message: str) -> None:
    pytest.importorskip("tensorrt_rtx")
    command = ["build", "--model", "digits", "--component", "text_encoder", *options.split(), "--store", no_engines]
    result = run(*command)
    assert result.code == 2
    assert re.search(message, result.err.splitlines()[-1])
    assert not list(no_engines.glob("engines/*"))
    assert not list(no_engines.glob("tmp/*"))


# Building again.


def test_building_again_changes_nothing(run: Run, built: Path) -> None:
    first = run("build", "--model", "digits")
    folders = [Path(line.rpartition(" in ")[2]) for line in first.out.splitlines()]
    assert [line.partition(":")[0] for line in first.out.splitlines()] == [
        "digits unet full",
        "digits unet shallow",
        "digits text_encoder full",
        "digits vae full",
    ]
    assert all(folder.parent == built / "engines" for folder in folders)
    before = [file.stat() for folder in folders for file in sorted(folder.iterdir())]
    places = [folder.stat().st_ino for folder in folders]
    second = run("build", "--model", "digits")
    after = [file.stat() for folder in folders for file in sorted(folder.iterdir())]
    assert second == first
    assert [status.st_mtime_ns for status in after] == [status.st_mtime_ns for status in before]
    assert [status.st_ino for status in after] == [status.st_ino for status in before]
    assert [folder.stat().st_ino for folder in folders] == places
