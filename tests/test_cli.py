"""The command: what it prints, what it writes, and how it ends."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageChops, ImageStat

from deepcache_trt import __version__, cli
from deepcache_trt.engines import backends
from tests import tiny


@dataclass(frozen=True, kw_only=True)
class Result:
    code: Any
    out: str
    err: str


Run = Callable[..., Result]

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="what is said on a machine without a GPU")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command in this process: a process of its own takes seconds to import torch."""

    def run(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["deepcache-trt", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        return Result(code=ended.value.code, out=captured.out, err=captured.err)

    return run


def run_process(*arguments: object) -> Result:
    command = [sys.executable, "-m", "deepcache_trt.cli", *map(str, arguments)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    return Result(code=ended.returncode, out=ended.stdout, err=ended.stderr)


def assert_one_line(result: Result) -> None:
    assert result.code == 2
    assert result.out == ""
    assert result.err.startswith("error: ")
    assert result.err.endswith("\n")
    assert result.err.count("\n") == 1


@pytest.fixture(scope="module")
def built(store_root: Path) -> Path:
    """A store with the engines of `digits`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["deepcache-trt", "build", "--model", "digits", "--store", str(store_root)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
    assert ended.value.code == 0
    return store_root


@pytest.fixture(scope="module")
def no_engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in which no engine can be built."""
    return tmp_path_factory.mktemp("no-engines")


@pytest.fixture(scope="module")
def pickled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline whose weights are only a pickle."""
    from diffusers import DDPMPipeline, DDPMScheduler

    folder = tmp_path_factory.mktemp("pickled")
    pipe: Any = DDPMPipeline(unet=tiny.denoiser("ddpm"), scheduler=DDPMScheduler())
    pipe.save_pretrained(folder, safe_serialization=False)
    return folder


# Without torch.


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        ("--version", 0),
        *((f"{command} --help", 0) for command in ("", *cli.COMMANDS)),
        ("eval --intervall 3", 2),
        ("check cpu --ouy file.json", 2),
    ],
)
def test_help_version_and_a_mistyped_option_do_not_wait_for_torch(arguments: str, status: int) -> None:
    code = (
        f"import sys; sys.argv = ['deepcache-trt', *{arguments.split()}]\n"
        "from deepcache_trt.cli import main\n"
        "try: main()\n"
        "finally: print(*sys.modules, file=sys.stderr)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ended.returncode == status
    assert not {"torch", "diffusers", "transformers", "onnx", "onnxruntime"} & set(ended.stderr.split())


def test_the_version_is_the_packages() -> None:
    assert run_process("--version") == Result(code=0, out=f"deepcache-trt {__version__}\n", err="")


def test_help_names_every_command(run: Run) -> None:
    result = run("--help")
    assert result.code == 0
    named = {line.split()[0] for line in result.out.partition("Commands:")[2].splitlines() if line.strip()}
    assert named == {command.split()[0] for command in cli.COMMANDS}


@pytest.mark.parametrize("arguments", [[], ["--verbose"]])
def test_without_a_command_the_help_goes_to_stderr(run: Run, arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.code == 2
    assert "Commands:" in result.err
    assert result.out == ""


# Errors.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("build --modle digits", r"No such option: --modle .*--model.*; see deepcache-trt build --help"),
        ("build", r"Missing option '--model'; see deepcache-trt build --help"),
        ("generate", r"Missing argument 'prompt'; see deepcache-trt generate --help"),
        ("generate one --interval three", r"'--interval': .* valid integer.*; see deepcache-trt generate --help"),
        ("bild --model digits", r"No such command 'bild'.*'build'.*; see deepcache-trt --help"),
        ("build --model sdlx", r"unknown model 'sdlx' \(did you mean 'sdxl'\?\); give a folder, a hub id .* digits, "),
        ("bench --preset cpuu", r"unknown preset 'cpuu' \(did you mean 'cpu'\?\); there are a5000, cpu, smoke"),
        ("bench --system our", r"unknown system 'our' \(did you mean 'ours'\?\); there are ours, "),
        ("bench --compare no.json", r"no\.json is no result of `deepcache-trt bench`: .*No such file"),
        ("bench --chart chart.pdf", r"--chart chart\.pdf is neither SVG nor PNG; let its name end in \.svg or \.png"),
        ("check", r"Missing command; see deepcache-trt check --help"),
        ("check cup", r"No such command 'cup'.*'cpu'.*; see deepcache-trt check --help"),
        ("check cpu", r"Missing option '--out'; see deepcache-trt check cpu --help"),
        (
            "check cpu --out no.json --model sd51",
            r"unknown model 'sd51' \(did you mean 'sd15'\?\); there are sd15, ",
        ),
        ("check cpu --out no.json --repeats 0", r"'--repeats': .*1; see deepcache-trt check cpu --help"),
        (
            "check gpu --out no --models digit",
            r"unknown model 'digit' \(did you mean 'digits'\?\); there are digits, ",
        ),
        ("memory --model sdv", r"unknown model 'sdv' \(did you mean 'svd'\?\); there are sd15, "),
        ("memory --model sd15 --frames 14", r"--frames 14: sd15 draws images; leave it out"),
        ("memory --dtype int8", r"'--dtype': .*float16.*; see deepcache-trt memory --help"),
        ("reuse --stpes 5", r"No such option: --stpes .*--steps.*; see deepcache-trt reuse --help"),
        ("generate one --model sdlx", r"unknown model 'sdlx' \(did you mean 'sdxl'\?\)"),
        ("build --model no/such/folder", r"unknown model 'no/such/folder'; give a folder"),
        ("build --model some/thing --offline", r"cannot get 'some/thing': .*give a local folder"),
        ("generate one --model some/thing --offline", r"cannot load 'some/thing': .*give a local folder"),
        (
            "build --model digits --backend onxruntime",
            r"'onxruntime' \(did you mean 'onnxruntime'\?\); there are auto,",
        ),
        ("generate one --backend jax", r"unknown backend 'jax'; there are auto, "),
        ("build --model digits --dtype float23", r"unknown dtype 'float23' \(did you mean 'float32'\?\); there are"),
        ("generate one --dtype int8", r"unknown dtype 'int8'; there are float32, float16, bfloat16"),
        ("build --model digits --branch 99", r"=99 is outside 0…11: digits has 12 skip connections"),
        ("build --model digits --branch -1", r"=-1 is outside 0…11: digits has 12 skip connections"),
        ("generate one --branch 99", r"=99 is outside 0…11: digits has 12 skip connections"),
        ("generate one --branch -1", r"must be a whole number of at least 0, not -1"),
        ("generate one --interval 0", r"cache_interval must be a whole number of at least 1, not 0"),
        ("generate one --skip-mode quat", r"unknown skip_mode 'quat' \(did you mean 'quad'\?\); known: uniform"),
        ("generate one --plan no/plan.json", r"cannot read the plan file no/plan\.json: No such file.*give a JSON"),
        (
            "generate one --plan my.json --interval 5 --branch 0",
            r"my\.json says how to cache already; leave out cache_interval, cache_branch_id, or write it there",
        ),
        ("generate one --steps 0", r"num_inference_steps must be at least 1, not 0"),
        ("generate one --height 72", r"--height or --width alone is ignored .*; give both"),
        ("generate one --height 65 --width 64", r"have to be divisible by 8 but are 65 and 64"),
        (
            "generate one --height 64 --width 72",
            r"width of 9 \(72 pixels.* no multiple .*'s 8; use 8 or 16 \(64 or 128",
        ),
        ("build --model digits --size big", r"--size 'big' is no number and no range; write for example --size 4"),
        ("build --model digits --size 1024-512", r"--size 1024-512: a range goes from 1 or more upwards"),
        ("build --model digits --batch 0", r"--batch 0: a range goes from 1 or more upwards"),
        ("build --model digits --optimization-level 9", r"'--optimization-level': .*5; see deepcache-trt build"),
        ("build --model digits --workspace 0", r"'--workspace': .*0\.001; see deepcache-trt build"),
        (
            "build --model digits --backend onnxruntime --target sm86",
            r"backend 'onnxruntime' builds for the device that it runs on, not for sm86; use --backend tensorrt-rtx",
        ),
        (
            "build --model digits --component unett",
            r"digits has no component 'unett' \(did you mean 'unet'\?\); it has",
        ),
        ("eval --plan no/plan.json", r"cannot read the plan file no/plan\.json: No such file"),
        ("eval --interval 0", r"cache_interval must be a whole number of at least 1, not 0"),
        ("eval --branch 99", r"cache_branch_id=99 is outside 0…11"),
        ("eval --forecast tailor1", r"unknown forecast 'tailor1' \(did you mean 'taylor1'\?\)"),
        ("eval --reference here", r"--reference compares folders of images; give --out"),
        ("eval --reference no/folder --out new", r"--reference no/folder is no folder; give one of PNG or JPEG"),
        ("tune --macs 0.4 --speedup 3", r"--macs and --speedup are budgets of different kinds; give one of them"),
        ("tune --macs 0", r"--macs must be above 0, not 0"),
        ("tune --plot gif", r"--plot 'gif' is no format that there is; choose png or svg"),
        ("build --model my-own --random-weights", r"--random-weights needs a catalogue name, not 'my-own'; there are"),
    ],
)
def test_what_the_user_can_mend_is_one_line_with_the_value_and_the_cure(run: Run, arguments: str, message: str) -> None:
    result = run(*arguments.split())
    assert_one_line(result)
    assert re.search(message, result.err)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--size 100", r"--size 100: the pixels of digits unet must be multiples of 8; use 96"),
        (
            "--size 72",
            r"latent height of 9 \(72 pixels.* no multiple of the U-Net's 8; use 8 or 16 \(64 or 128 pixels\)",
        ),
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


@pytest.mark.parametrize("command", ["build", "generate one"])
def test_a_folder_that_is_no_model_is_named_with_what_it_lacks(run: Run, tmp_path: Path, command: str) -> None:
    result = run(*command.split(), "--model", tmp_path)
    assert_one_line(result)
    assert f"{tmp_path} is no diffusers model: it has no model_index.json" in result.err


@pytest.mark.parametrize("command", ["build", "generate one"])
def test_a_pickle_is_refused_with_the_option_that_allows_it(run: Run, pickled: Path, command: str) -> None:
    result = run(*command.split(), "--model", pickled)
    assert_one_line(result)
    assert str(pickled) in result.err
    assert "--allow-pickle" in result.err


def test_an_allowed_pickle_is_read(run: Run, pickled: Path) -> None:
    result = run("build", "--model", pickled, "--allow-pickle", "--branch", 99)
    assert_one_line(result)
    assert "cache_branch_id=99 is outside 0…8" in result.err  # known only once it is loaded


def test_a_pipeline_that_takes_no_prompt_is_refused(run: Run, pickled: Path) -> None:
    result = run("generate", "one", "--model", pickled, "--allow-pickle")
    assert_one_line(result)
    assert "DDPMPipeline takes no prompt" in result.err


def test_no_build_names_the_command_that_builds(tmp_path: Path) -> None:
    store = tmp_path / "empty"
    result = run_process("generate", "one", "--no-build", "--store", store)
    assert_one_line(result)
    assert f"the store {store} has no " in result.err
    assert "run: deepcache-trt build --model digits --backend " in result.err
    assert f"--branch 0 --batch 1 --store {store}\n" in result.err
    assert not store.exists()


def test_a_store_that_cannot_be_written_is_named_with_the_option(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = run("build", "--model", "digits", "--store", tmp_path / "file" / "store")
    assert_one_line(result)
    assert f"cannot write to the store {tmp_path / 'file' / 'store'}" in result.err
    assert "--store" in result.err


def test_ctrl_c_ends_with_130(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(backends, "probe_all", interrupted)
    assert run("doctor") == Result(code=130, out="", err="interrupted\n")


# Reports.


def test_doctor_prints_every_backend(run: Run) -> None:
    result = run("doctor")
    assert result.code == 0
    assert all(name in result.out for name in backends.names())


def test_doctor_says_what_to_install(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setenv("COLUMNS", "200")
    assert "pip install 'deepcache-trt[cpu]'" in run("doctor").out


def test_doctor_as_json_says_what_works_and_why_not(run: Run) -> None:
    result = run("doctor", "--json")
    rows = json.loads(result.out)
    assert rows == [vars(row) for row in backends.probe_all()]
    assert all(set(row) == {"name", "device", "works", "detail"} for row in rows)
    assert any(row["works"] for row in rows)


def test_inspect_of_an_empty_store_names_the_command_that_fills_it(run: Run, tmp_path: Path) -> None:
    result = run("inspect", "--store", tmp_path)
    assert result.code == 0
    assert " ".join(result.out.split()).endswith("fill it with: deepcache-trt build --model digits")


def test_inspect_of_an_empty_store_as_json(run: Run, tmp_path: Path) -> None:
    result = run("inspect", "--store", tmp_path, "--json")
    assert json.loads(result.out) == {"store": str(tmp_path), "graphs": [], "weights": [], "engines": []}


def test_inspect_lists_engines_and_a_shallow_one_is_less_work(run: Run, built: Path) -> None:
    found = json.loads(run("inspect", "--json").out)
    assert found["store"] == str(built)
    lines = run("build", "--model", "digits", "--component", "unet").out.splitlines()
    keys = {Path(line.rpartition(" in ")[2]).name for line in lines}  # another test may have built them first
    rows = {r["variant"]["name"]: r for r in found["engines"] if r["key"] in keys}
    assert set(rows) == {"full", "shallow"}
    full, shallow = rows["full"], rows["shallow"]
    assert shallow["variant"]["consumes"] == full["variant"]["emits"] == ["tap_0"]
    for kind in ("weights", "attention"):
        assert 0 < shallow["macs"][kind] < full["macs"][kind]
    assert shallow["macs"]["sizes"] == full["macs"]["sizes"]
    assert {row["key"] for row in found["graphs"]} >= {full["graph"]}


def test_inspect_prints_the_same_as_tables(run: Run, built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    result = run("inspect")
    assert result.code == 0
    assert str(built) in "".join(result.out.split())
    assert "full k=0" in result.out
    assert "shallow k=0" in result.out


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
        ("--target sm86 --refit", r"a refittable plan can only be built on the GPU .* not ahead for 'sm86'"),
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


# Building and drawing.


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
    before = [file.stat() for folder in folders for file in [folder, *sorted(folder.iterdir())]]
    second = run("build", "--model", "digits")
    after = [file.stat() for folder in folders for file in [folder, *sorted(folder.iterdir())]]
    assert second == first
    assert [status.st_mtime_ns for status in after] == [status.st_mtime_ns for status in before]
    assert [status.st_ino for status in after] == [status.st_ino for status in before]


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
@pytest.mark.parametrize(
    ("name", "reason"), [("two.pgn", "unknown file extension: .pgn"), ("file/two.png", "File exists")]
)
def test_an_image_that_cannot_be_written_is_named_with_the_option(
    run: Run, tmp_path: Path, name: str, reason: str
) -> None:
    (tmp_path / "file").touch()
    result = run("generate", "two", "--steps", 1, "--no-build", "--out", tmp_path / name)
    assert result.code == 2
    last = result.err.splitlines()[-1]
    assert last.startswith(f"error: cannot write {tmp_path / name}: ")
    assert reason in last
    assert last.endswith("choose another --out")


# Evaluating and tuning.


@pytest.mark.usefixtures("built")
def test_eval_prints_a_table_and_keeps_figures_and_pictures(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.json").write_text('{"cache_interval": 2, "forecast": "taylor1"}')
    out, plan = tmp_path / "out", tmp_path / "mine.json"
    options = ["--steps", 4, "--seeds", 1, "--prompt", "two", "--interval", 2, "--plan", plan, "--out", out]
    result = run("eval", *options)
    assert result.code == 0
    assert "interval 2, branch 0" in result.out
    assert "plan mine" in result.out
    assert "fidelity against the first row" in result.out
    record = json.loads((out / "eval.json").read_text())
    assert [row["contender"]["name"] for row in record["rows"]][2:4] == ["interval 2, branch 0", "plan mine"]
    assert record["environment"]["CPU"]
    assert (out / "eval.md").read_text().startswith("# Fidelity beside speed: digits\n")
    assert (out / "pictures" / "plan mine" / "0-0.png").is_file()
    again = run("eval", *options)
    assert_one_line(again)
    assert "pictures holds the pictures of an earlier run; choose another --out" in again.err


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize("form", ["--json", "--markdown"])
def test_eval_prints_json_or_markdown(run: Run, form: str) -> None:
    result = run("eval", "--steps", 4, "--seeds", 1, "--prompt", "two", "--interval", 2, form)
    assert result.code == 0
    if form == "--json":
        assert json.loads(result.out)["scene"] == {"prompts": ["two"], "steps": 4, "guidance": None}
    else:
        assert result.out.startswith("# Fidelity beside speed: digits\n")


@pytest.mark.usefixtures("built")
def test_tune_writes_a_plan_that_generate_takes(run: Run, tmp_path: Path) -> None:
    out, branches = tmp_path / "tuned", ["--branch", 0]
    few = ["--steps", 4, "--seeds", 1, "--unseen", 1, "--prompt", "two"]
    result = run("tune", *few, *branches, "--macs", 0.6, "--plot", "svg", "--out", out)
    assert result.code == 0
    assert result.out.endswith(f"{out / 'plan.json'}\n")
    assert {path.name for path in out.iterdir()} == {"plan.json", "tune.json", "tune.md", "front.svg"}
    record = json.loads((out / "tune.json").read_text())
    assert record["best"]["cost"] <= record["budget"] == 0.6
    assert set(record["checked"]) >= {"uncached", "default", "chosen"}
    assert "![Cost and error of the plans](front.svg)" in (out / "tune.md").read_text()
    image = tmp_path / "two.png"
    assert run("generate", "two", "--steps", 4, "--plan", out / "plan.json", "--out", image).code == 0
    assert image.is_file()


@pytest.mark.usefixtures("built")
def test_a_budget_that_nothing_meets_is_one_line_with_the_least(run: Run, tmp_path: Path) -> None:
    options = ["--steps", 4, "--prompt", "two", "--branch", 0, "--speedup", 1000, "--out", tmp_path]
    result = run("tune", *options)
    assert result.code == 2
    assert re.search(r"error: a budget of 0\.1% of the uncached seconds is below", result.err.splitlines()[-1])
    assert not list(tmp_path.iterdir())
