"""The command as a whole: its help, the one line that an error is, and how it ends."""

import re
import subprocess
import sys

import pytest

from deepcache_trt import __version__, cli
from deepcache_trt.engines import backends
from tests.commands.command_line import Result, Run, assert_one_line, run_process

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
            "check gpu --out no --phases probe,digit",
            r"unknown phase 'digit' \(did you mean 'digits'\?\); there are probe, digits, ",
        ),
        ("memory --model sdv", r"unknown model 'sdv' \(did you mean 'svd'\?\); there are sd15, "),
        ("memory --model sd15 --frames 14", r"--frames 14: sd15 draws images; leave it out"),
        ("memory --dtype int8", r"'--dtype': .*float16.*; see deepcache-trt memory --help"),
        ("reuse --stpes 5", r"No such option: --stpes .*--steps.*; see deepcache-trt reuse --help"),
        ("generate one --model sdlx", r"unknown model 'sdlx' \(did you mean 'sdxl'\?\)"),
        ("build --model no/such/folder", r"unknown model 'no/such/folder'; give a folder"),
        ("build --model some/thing --offline", r"some/thing is not on this machine; .*give a local folder"),
        ("generate one --model some/thing --offline", r"cannot load 'some/thing': .*give a local folder"),
        (
            "build --model digits --backend onxruntime",
            r"'onxruntime' \(did you mean 'onnxruntime'\?\); there are auto,",
        ),
        ("generate one --backend jax", r"unknown backend 'jax'; there are auto, "),
        ("build --model digits --dtype float23", r"unknown dtype 'float23' \(did you mean 'float32'\?\); there are"),
        ("generate one --dtype int8", r"unknown dtype 'int8'; there are float32, float16, bfloat16"),
        ("build --model digits --branch 99", r"=99 is outside 0…11: there are 12 skip connections"),
        ("build --model digits --branch -1", r"must be a whole number of at least 0, not -1"),
        ("generate one --branch 99", r"=99 is outside 0…11: there are 12 skip connections"),
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
            "generate one --height 64 --width 4104",
            r"width of 513 \(4104 pixels.* is outside the profile 1–512; choose 8 to 4096 pixels",
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
        ("tune --macs 0.4 --psnr 40", r"--macs and --psnr ask for different things; give one of them"),
        ("tune --macs 0.4 --speedup 3", r"--macs and --speedup ask for different things; give one of them"),
        ("tune --macs 0", r"--macs must be above 0, not 0"),
        ("tune --plot gif", r"--plot 'gif' is no format that there is; choose png or svg"),
        ("build --model my/own --random-weights", r"--random-weights needs a catalogue name, not 'my/own'; there are"),
    ],
)
def test_what_the_user_can_mend_is_one_line_with_the_value_and_the_cure(run: Run, arguments: str, message: str) -> None:
    result = run(*arguments.split())
    assert_one_line(result)
    assert re.search(message, result.err)


def test_ctrl_c_ends_with_130(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(backends, "probe_all", interrupted)
    assert run("doctor") == Result(code=130, out="", err="interrupted\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate", "x", "--guidance", "nan"], "--guidance nan is no finite number"),
        (["generate", "x", "--guidance=-inf"], "--guidance -inf is no finite number"),
        (["generate", "x", "--seed", "1" * 30], f"--seed {'1' * 30} is beyond 64 bits"),
        (["profile", "--model", "sd15", "--bandwidth", "nan"], "--bandwidth nan is no finite number"),
        (["generate", "x", "--store", ""], "--store is empty"),
        (["store", "ls", "--store="], "--store is empty"),
        (["store", "gc", "--max-size", "50 XB"], "'50 XB' is no size"),
        (["store", "gc", "--unused-for", "-3d"], "'-3d' is no time"),
        (["store", "rm", ""], "'' names no artefact"),
        (["store", "import", "/nowhere/engines.tar"], "there is no file /nowhere/engines.tar"),
        (["store", "export", "digits", "--store", "/proc/nothing"], "has no engines of 'digits'"),
        (["generate", "x", "--out", "/proc/nothing/x.png", "--steps", "1"], "/proc/nothing"),
    ],
)
def test_what_no_command_can_take_is_one_line(arguments: list[str], message: str) -> None:
    result = run_process(*arguments)
    assert_one_line(result)
    assert message in result.err
