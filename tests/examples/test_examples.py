"""The scripts in examples/ do what they say: those for `digits` draw the digits that they are asked for."""

import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deepcache_trt.benchmarks.fidelity.digit_reader import DigitReader, to_eight
from deepcache_trt.engines import backends
from deepcache_trt.runtime.policies.plan_file import read_plan
from tests import tiny
from tests.pipelines import micro, micro_parts
from tests.pipelines.control_images import control
from tests.pipelines.loras import save_two

EXAMPLES = Path(__file__).parents[2] / "examples"
SIDE = 64  # pixels of a picture by `digits` and by the test-size models
STEPS = 12

Main = Callable[..., None]


@pytest.fixture
def example(request: pytest.FixtureRequest) -> Main:
    """The `main` of the script that a test is called after."""
    name = request.function.__name__.removeprefix("test_")
    main: Main = runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"]
    return main


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "picture.png"


@pytest.fixture(scope="module")
def reader() -> DigitReader:
    return DigitReader()


def pictures(path: Path) -> np.ndarray:
    """The pictures of a sheet with one row, [N, 3, 64, 64] in 0…1; none of them is of one colour."""
    sheet = np.asarray(Image.open(path).convert("RGB"), dtype=np.float64) / 255
    assert sheet.shape[0] == SIDE
    found = np.stack(np.split(sheet, sheet.shape[1] // SIDE, axis=1)).transpose(0, 3, 1, 2)
    assert (found.std(axis=(1, 2, 3)) > 0.01).all()
    return found


def digits(path: Path, reader: DigitReader) -> list[int]:
    return [int(digit) for digit in reader.read(to_eight(pictures(path)))]


def test_drop_in(example: Main, out: Path, reader: DigitReader) -> None:
    example(out=out, steps=STEPS)
    assert digits(out, reader) == [7, 7]
    plain, cached = pictures(out)
    assert not np.array_equal(plain, cached)


def test_deepcache_sd_helper(example: Main, out: Path, reader: DigitReader) -> None:
    example(out=out, steps=STEPS)
    assert digits(out, reader) == [3, 3]
    plain, cached = pictures(out)
    assert not np.array_equal(plain, cached)


def test_image_to_image(example: Main, out: Path, reader: DigitReader, shared_sessions: None) -> None:
    example(out=out, steps=STEPS)
    assert digits(out, reader) == [1, 7]


def test_controlnet(example: Main, out: Path, tmp_path: Path) -> None:
    micro.STRAIGHT["sd"].new().save_pretrained(tmp_path / "model")
    micro_parts.controlnet("sd", 0).save_pretrained(tmp_path / "controlnet")
    found = []
    for seed in (0, 1, 0):
        edges = (control(seed)[0].permute(1, 2, 0).numpy() * 255).astype(np.uint8)
        Image.fromarray(edges).save(tmp_path / "edges.png")
        example(
            str(tmp_path / "edges.png"),
            model=str(tmp_path / "model"),
            controlnet=str(tmp_path / "controlnet"),
            steps=4,
            out=out,
        )
        found.append(pictures(out))
    assert np.array_equal(found[0], found[2])
    assert not np.array_equal(found[0], found[1])  # the edges count


# peft says so about every second adapter, and diffusers loads one after the other.
@pytest.mark.filterwarnings("ignore:Already found a `peft_config` attribute in the model:UserWarning")
def test_lora_switching(example: Main, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny.stable_diffusion().save_pretrained(tmp_path / "model")
    save_two(tmp_path)
    example(str(tmp_path / "a"), str(tmp_path / "b"), model=str(tmp_path / "model"), steps=4, out=out)
    first, other, again = pictures(out)
    assert not np.array_equal(first, other)
    assert np.array_equal(first, again)
    assert "bit for bit: True" in capsys.readouterr().out


def test_build_ahead(example: Main, out: Path, reader: DigitReader, store_root: Path) -> None:
    example(out=out, steps=STEPS, backend="onnxruntime", store=str(store_root))
    assert digits(out, reader) == [4]


def test_plan_file(example: Main, out: Path, tmp_path: Path, reader: DigitReader) -> None:
    example(out=out, steps=10, seeds=1, budget=0.4, backend="onnxruntime", folder=str(tmp_path / "tuned"))
    assert digits(out, reader) == [8, 8]
    uncached, with_plan = pictures(out)
    assert not np.array_equal(uncached, with_plan)
    assert read_plan(tmp_path / "tuned" / "plan.json").about["steps"] == 10


def test_custom_backend(
    example: Main, out: Path, reader: DigitReader, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(backends, "_registered", dict(backends._registered))  # others know nothing of it
    example(out=out, steps=STEPS)
    assert digits(out, reader) == [7]
    assert "{'full': 4, 'shallow': 8}" in capsys.readouterr().out


def test_a_script_runs_as_its_docstring_says(tmp_path: Path, reader: DigitReader) -> None:
    subprocess.run([sys.executable, EXAMPLES / "drop_in.py"], check=True, cwd=tmp_path, timeout=300)
    assert digits(tmp_path / "drop-in.png", reader) == [7, 7]


def test_every_example_has_a_test_and_says_how_it_is_run() -> None:
    for script in sorted(EXAMPLES.glob("*.py")):
        assert f"test_{script.stem}" in globals(), f"write a test for {script.name} here"
        assert f"    python examples/{script.name}" in script.read_text(encoding="utf-8")
