"""`deepcache-trt generate`: the files it writes, the options that reach the pipeline, and what it cannot write."""

from pathlib import Path

import pytest
from PIL import Image, ImageChops, ImageStat

from tests.commands.command_line import Run, assert_one_line, run_process


def test_no_build_names_the_command_that_builds(tmp_path: Path) -> None:
    store = tmp_path / "empty"
    result = run_process("generate", "one", "--no-build", "--store", store)
    assert_one_line(result)
    assert f"the store {store} has no " in result.err
    assert "run: deepcache-trt build --model digits --backend " in result.err
    assert f"--batch 1 --store {store}\n" in result.err
    assert not store.exists()


@pytest.mark.usefixtures("built")
def test_generate_writes_a_png(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "new" / "two.png"
    result = run("generate", "a handwritten two", "--steps", 4, "--no-build", "--out", path)
    assert (result.code, result.out) == (0, f"{path}\n")
    with Image.open(path) as image:
        assert (image.format, image.size) == ("PNG", (64, 64))
        assert image.convert("L").getextrema() != (0, 0)


@pytest.mark.usefixtures("built")
def test_a_plan_file_is_the_same_as_its_options(run: Run, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text('{"cache_interval": 4, "skip_interval": 2, "forecast": "taylor1"}')
    same = {
        "file": ["--plan", tmp_path / "plan.json"],
        "options": ["--interval", 4, "--skip-interval", 2, "--forecast", "taylor1"],
        "default": [],
    }
    for name, options in same.items():
        out = tmp_path / f"{name}.png"
        assert run("generate", "two", "--steps", 8, *options, "--no-build", "--out", out).code == 0
    drawn = {name: (tmp_path / f"{name}.png").read_bytes() for name in same}
    assert drawn["file"] == drawn["options"] != drawn["default"]


@pytest.mark.usefixtures("built")
def test_another_scheduler_draws_another_picture(run: Run, tmp_path: Path) -> None:
    drawn = {}
    for name in ("", "ddim", "unipc,timestep_spacing=trailing"):
        out = tmp_path / "image.png"
        options = ["--scheduler", name] if name else []
        assert run("generate", "two", "--steps", 4, *options, "--no-build", "--out", out).code == 0
        drawn[name] = out.read_bytes()
    assert drawn[""] == drawn["ddim"] != drawn["unipc,timestep_spacing=trailing"]
    result = run("generate", "two", "--scheduler", "dim", "--no-build", "--out", tmp_path / "none.png")
    assert_one_line(result)
    assert "unknown scheduler 'dim' (did you mean 'ddim'?)" in result.err


@pytest.mark.usefixtures("built")
def test_several_prompts_give_several_files_and_count_the_seed_up(run: Run, tmp_path: Path) -> None:
    prompts, common = ["a handwritten two", "a handwritten five"], ["--steps", 4, "--no-build", "--out"]
    result = run("generate", *prompts, "--seed", 7, *common, tmp_path / "pair.png")
    assert result.out.splitlines() == [str(tmp_path / "pair-0.png"), str(tmp_path / "pair-1.png")]
    run("generate", prompts[1], "--seed", 8, *common, tmp_path / "five.png")
    with (
        Image.open(tmp_path / "pair-0.png") as two,
        Image.open(tmp_path / "pair-1.png") as five,
        Image.open(tmp_path / "five.png") as alone,
    ):
        assert max(ImageStat.Stat(ImageChops.difference(five, alone)).extrema)[1] <= 2  # rounding
        assert max(ImageStat.Stat(ImageChops.difference(five, two)).extrema)[1] > 50


@pytest.mark.usefixtures("built")
def test_sizes_and_schedule_reach_the_pipeline(run: Run, tmp_path: Path) -> None:
    path, options = tmp_path / "wide.png", "--height 64 --width 128 --interval 2 --skip-mode quad --negative nine"
    result = run("generate", "two", "--steps", 4, *options.split(), "--guidance", 3, "--no-build", "--out", path)
    assert result.code == 0
    with Image.open(path) as image:
        assert image.size == (128, 64)


@pytest.mark.usefixtures("built")
def test_an_image_that_cannot_be_written_is_named_with_the_option(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = run("generate", "two", "--steps", 1, "--no-build", "--out", tmp_path / "file" / "two.png")
    assert result.code == 2
    last = result.err.splitlines()[-1]
    assert last.startswith(f"error: cannot write {tmp_path / 'file' / 'two.png'}: ")
    assert "File exists" in last
    assert last.endswith("choose another --out")


@pytest.mark.parametrize(
    ("name", "reason"), [("two", "there is no suffix"), ("two.pgn", ".pgn is no format that Pillow writes")]
)
def test_a_name_that_says_no_format_is_refused_before_anything_is_drawn(
    run: Run, tmp_path: Path, name: str, reason: str
) -> None:
    result = run("generate", "two", "--model", "not/asked-for", "--out", tmp_path / name)
    assert_one_line(result)
    assert f"--out {tmp_path / name} does not say how to write pictures: {reason}; write --out" in result.err
