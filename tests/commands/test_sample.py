"""`deepcache-trt sample`: the images and files it writes, how a killed run goes on, and what it refuses."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
from PIL import Image

from deepcache_trt.benchmarks.sampling.ddim import listed_ddim
from tests.commands.command_line import Run, assert_one_line
from tests.pipelines import dits
from tests.pipelines.micro_parts import unet

# Few enough to be drawn in a moment, and the same for every run in this module.
_FEW = ["--steps", 4, "--batch", 4]
_FAST = [*_FEW, "--backend", "onnxruntime"]
_UNCACHED = [*_FEW, "--backend", "torch", "--interval", 1]


@pytest.fixture(scope="module")
def ddpm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "ddpm"
    pipe: Any = diffusers.DDPMPipeline(unet("ddpm"), diffusers.DDPMScheduler())
    pipe.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def dit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "dit"
    dits.plain().save_pretrained(folder)
    return folder


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert (image.format, image.mode) == ("PNG", "RGB")
        return np.asarray(image)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.png"))


def test_images_are_those_of_diffusers_each_from_its_own_seed(run: Run, ddpm: Path, tmp_path: Path) -> None:
    import torch

    out = tmp_path / "out"
    options = ["--eta", 0.5, "--skip-type", "quad", "--interval", 1, "--seed", 7, "--images", 5]
    result = run("sample", "--model", ddpm, *_FAST, *options, "--out", out)
    assert (result.code, result.out) == (0, f"{out}\n")
    assert names(out) == [f"00000{i}.png" for i in range(5)]
    plain: Any = diffusers.DDIMPipeline(unet("ddpm"), diffusers.DDIMScheduler())
    plain.set_progress_bar_config(disable=True)
    plain.scheduler = listed_ddim(plain.scheduler, "quad")
    for i in range(5):
        generator = [torch.Generator().manual_seed(7 + i)]
        expected = plain(num_inference_steps=4, eta=0.5, generator=generator).images[0]
        assert np.abs(pixels(out / f"00000{i}.png").astype(int) - np.asarray(expected)).max() <= 1


def test_any_subset_is_drawn_again_the_same(run: Run, ddpm: Path, tmp_path: Path) -> None:
    common = ["sample", "--model", ddpm, *_FAST]
    run(*common, "--images", 8, "--out", tmp_path / "all")
    run(*common, "--first", 5, "--images", 2, "--batch", 1, "--out", tmp_path / "some")
    run(*common, "--first", 4, "--images", 4, "--out", tmp_path / "rest")
    assert names(tmp_path / "some") == ["000005.png", "000006.png"]
    for name in names(tmp_path / "some"):  # another batch may round otherwise
        assert np.abs(pixels(tmp_path / "some" / name).astype(int) - pixels(tmp_path / "all" / name)).max() <= 1
    for name in names(tmp_path / "rest"):
        assert (tmp_path / "rest" / name).read_bytes() == (tmp_path / "all" / name).read_bytes()


def test_what_is_there_is_not_drawn_again(run: Run, ddpm: Path, tmp_path: Path) -> None:
    common = ["sample", "--model", ddpm, *_FAST, "--out", tmp_path]
    run(*common, "--images", 6)
    before = {name: (tmp_path / name).read_bytes() for name in names(tmp_path)}
    times = {name: (tmp_path / name).stat().st_mtime_ns for name in before}
    (tmp_path / "000001.png").write_bytes(before["000001.png"][:-5])  # not whole
    (tmp_path / "000004.png").unlink()
    result = run(*common, "--images", 6)
    assert "4 of 6 images were there already\n" in result.err
    assert {name: (tmp_path / name).read_bytes() for name in names(tmp_path)} == before
    kept = set(before) - {"000001.png", "000004.png"}
    assert {name for name in before if (tmp_path / name).stat().st_mtime_ns == times[name]} == kept
    run(*common, "--images", 9)
    assert len(names(tmp_path)) == 9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seed", 1], "is of a run with seed 0, and this one has 1; give the same, or choose another --out"),
        (["--eta", 0.5], "is of a run with eta 0.0, and this one has 0.5"),
        (["--interval", 5], 'is of a run with caching {"policy": "deepcache", "cache_interval": 3'),
    ],
)
def test_other_settings_in_the_same_place_are_refused(
    run: Run, ddpm: Path, tmp_path: Path, options: list[object], message: str
) -> None:
    common = ["sample", "--model", ddpm, *_FAST, "--images", 1, "--out", tmp_path]
    assert run(*common).code == 0
    result = run(*common, *options)
    assert_one_line(result)
    assert message in result.err


def test_pngs_of_someone_else_are_left_alone(run: Run, ddpm: Path, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "000000.png")
    result = run("sample", "--model", ddpm, *_FAST, "--out", tmp_path)
    assert_one_line(result)
    assert f"{tmp_path} holds PNGs and no sample.json" in result.err


def test_a_mistake_leaves_no_record_that_bars_the_right_run(run: Run, dit: Path, tmp_path: Path) -> None:
    common = ["sample", "--model", dit, *_UNCACHED, "--images", 1, "--out", tmp_path]
    result = run(*common, "--classes", "3", "--eta", 0.5)
    assert result.code == 2
    assert "takes no eta; leave --eta out" in result.err
    assert run(*common, "--classes", "3").code == 0


def test_classes_take_turns_and_stand_in_the_npz(run: Run, dit: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "samples.npz"
    common = ["sample", "--model", dit, *_UNCACHED, "--guidance", 3, "--classes", "207,360,3"]
    result = run(*common, "--first", 1, "--images", 5, "--out", out)
    assert (result.code, result.out) == (0, f"{out}\n")
    with np.load(out) as arrays:
        images, labels = arrays["arr_0"], arrays["arr_1"]
    assert (images.dtype, images.shape, labels.tolist()) == (np.uint8, (5, 64, 64, 3), [360, 3, 207, 360, 3])
    assert sorted(path.name for path in out.parent.iterdir()) == ["samples.npz", "samples.npz.json"]
    assert "5 of 5 images were there already" in run(*common, "--first", 1, "--images", 5, "--out", out).err
    more = run(*common, "--first", 1, "--images", 6, "--out", out)
    assert_one_line(more)
    assert "samples.npz.json is of a run with images 5, and this one has 6" in more.err
    run(*common, "--first", 1, "--images", 5, "--out", tmp_path / "folder")
    for i, image in enumerate(images):
        assert np.array_equal(image, pixels(tmp_path / "folder" / f"00000{i + 1}.png"))


def test_as_many_channels_are_guided_as_are_asked_for(run: Run, dit: Path, tmp_path: Path) -> None:
    drawn = {}
    for channels in (None, 4, 3):
        out, more = tmp_path / str(channels), [] if channels is None else ["--guided-channels", channels]
        command = ["sample", "--model", dit, "--classes", "3,207", "--images", 2, "--guidance", 4, "--out", out]
        assert run(*command, *_UNCACHED, *more).code == 0
        drawn[channels] = np.stack([pixels(out / name) for name in names(out)]).astype(int)
    assert np.abs(drawn[None] - drawn[4]).max() <= 1
    assert np.abs(drawn[None] - drawn[3]).max() > 1


def test_the_papers_branch_counts_from_one(run: Run, ddpm: Path, tmp_path: Path) -> None:
    common = ["sample", "--model", ddpm, *_FAST, "--images", 1]
    run(*common, "--paper-branch", 2, "--out", tmp_path / "paper")
    run(*common, "--branch", 1, "--out", tmp_path / "ours")
    records = [json.loads((tmp_path / name / "sample.json").read_text()) for name in ("paper", "ours")]
    assert records[0] == records[1]
    assert records[0]["caching"]["cache_branch_id"] == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--model digits", "a StableDiffusionPipeline draws neither by classes nor from noise alone"),
        ("--model digits --random-weights", "digits draws from prompts; use `deepcache-trt generate`"),
        ("--model ddpm-cifar10 --eta 2", "--eta 2 is outside 0…1"),
        ("--model dit-xl-2-256 --classes 1,1000", "--classes: 1000 is outside 0…999"),
        ("--model dit-xl-2-256 --classes cat", "--classes 'cat' is no list of numbers; write it as 207,360, or all"),
        ("--model ddpm-cifar10 --branch 1 --paper-branch 2", "--branch and --paper-branch name the same in two ways"),
        ("--model ddpm-cifar10 --paper-branch 0", "--paper-branch 0 is below 1"),
        ("--model ddpm-cifar10 --interval 0", "cache_interval must be a whole number of at least 1, not 0"),
    ],
)
def test_what_cannot_be_sampled_is_refused(run: Run, tmp_path: Path, options: str, message: str) -> None:
    result = run("sample", *options.split(), "--backend", "onnxruntime", "--out", tmp_path / "out")
    assert result.code == 2
    assert message in result.err.splitlines()[-1]


def test_what_a_model_lacks_is_refused(run: Run, ddpm: Path, dit: Path, tmp_path: Path) -> None:
    for options, message in (
        (["--model", ddpm, "--classes", "3"], "takes no class_labels; leave --classes out"),
        (["--model", ddpm, "--guidance", 3], "takes no guidance_scale; leave --guidance out"),
        (["--model", ddpm, "--steps", 1001], "1001 steps are outside 1…1000"),
        (["--model", ddpm, "--skip-type", "quat"], "unknown skip type 'quat' (did you mean 'quad'?)"),
        (["--model", dit], "(--interval 1 of a command, or the --plan file of another policy)"),
        (["--model", ddpm, "--guided-channels", 3], "guides all channels; leave --guided-channels out"),
        (["--model", dit, "--interval", 1, "--classes", "3", "--guided-channels", 9], "9 is outside 1…4, the channels"),
        (["--model", dit, "--interval", 1], "draws classes; give --classes 207,360, or --classes all"),
    ):
        result = run("sample", *_FAST, *options, "--out", tmp_path / "out")
        assert result.code == 2
        assert message in result.err.splitlines()[-1]


def started(*arguments: object) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "deepcache_trt.cli", "sample", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.mark.parametrize("form", ["folder", pytest.param("file.npz", marks=pytest.mark.slow)])
def test_a_killed_run_goes_on_and_ends_as_if_it_had_not_been(run: Run, ddpm: Path, tmp_path: Path, form: str) -> None:
    count, out = 240, tmp_path / form
    common = ["--model", ddpm, "--steps", 20, "--batch", 8, "--backend", "onnxruntime", "--images", count]
    assert run("sample", *common, "--out", tmp_path / "whole").code == 0
    folder = out if form == "folder" else out.with_name(f"{form}.parts")
    process = started(*common, "--out", out)
    try:
        deadline = time.monotonic() + 60
        while len(names(folder)) < 20:
            assert time.monotonic() < deadline
            assert process.poll() is None, "it ended before it was killed"
            time.sleep(0.005)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    killed = {name: (folder / name).stat().st_mtime_ns for name in names(folder)}
    assert 20 <= len(killed) < count
    result = run("sample", *common, "--out", out)
    assert result.code == 0
    there = int(result.err.split(" of 240 images were there already")[0].rsplit("\n", 1)[-1])
    assert len(killed) <= there <= len(killed) + 8  # a whole batch may have been on its way to its names
    whole = names(tmp_path / "whole")
    assert len(whole) == count
    if form == "folder":
        assert names(out) == whole
        assert all((out / name).stat().st_mtime_ns == written for name, written in killed.items())
        assert all((out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes() for name in whole)
        assert sorted(path.name for path in out.iterdir() if path.suffix != ".png") == [".lock", "sample.json"]
    else:
        with np.load(out) as arrays:
            assert np.array_equal(arrays["arr_0"], [pixels(tmp_path / "whole" / name) for name in whole])
        assert not folder.exists()


def test_a_second_run_waits_for_no_one(run: Run, ddpm: Path, tmp_path: Path) -> None:
    from deepcache_trt.benchmarks.sampling.place import Place

    with Place(tmp_path, {}).opened():
        result = run("sample", "--model", ddpm, *_FAST, "--out", tmp_path)
    assert_one_line(result)
    assert f"another run draws into {tmp_path}; wait for it, or choose another --out" in result.err


@pytest.mark.slow
def test_random_weights_need_no_download(run: Run, tmp_path: Path) -> None:
    options = ["--images", 2, "--steps", 3, "--batch", 2, "--backend", "torch", "--interval", 2]
    result = run("sample", "--model", "ddpm-cifar10", "--random-weights", *options, "--out", tmp_path / "cifar")
    assert result.code == 0
    assert pixels(tmp_path / "cifar" / "000001.png").shape == (32, 32, 3)
