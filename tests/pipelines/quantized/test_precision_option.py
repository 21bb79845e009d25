"""`--precision`: what is refused in one line, and that what is built ahead is what a pipeline opens."""

from pathlib import Path

import pytest

from tests.commands.command_line import Run, assert_one_line


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--precision fp4", "unknown precision 'fp4' (did you mean 'fp8'?); there is int8, fp8"),
        ("--precision fp8 --backend openvino", "backend 'openvino' has no fp8 on the CPU; no CPU has; use int8 there"),
        ("--precision int8 --backend torch", "backend 'torch' has no int8 on the CPU; it runs the model itself"),
        ("--precision int8 --calibration-prompts nowhere.txt", "cannot read the calibration prompts in nowhere.txt"),
        ("--quantize all", "has no meaning without a precision; give precision='int8' too"),
    ],
)
def test_what_cannot_be_quantized_is_refused_in_one_line(run: Run, tmp_path: Path, options: str, message: str) -> None:
    result = run("build", "--model", "digits", "--component", "unet", *options.split(), "--store", tmp_path / "store")
    assert_one_line(result)
    assert message in result.err


def test_bench_refuses_a_precision_that_its_backend_lacks(run: Run, tmp_path: Path) -> None:
    result = run("bench", "--backend", "torch", "--precision", "int8", "--out", tmp_path / "bench.json")
    assert_one_line(result)
    assert "backend 'torch' has no int8 on the CPU" in result.err


@pytest.mark.slow
def test_what_is_built_ahead_for_a_schedule_is_what_is_drawn_with(run: Run, store_root: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a handwritten seven\n\n a handwritten one \n", encoding="utf-8")
    given = ["--model", "digits", "--backend", "onnxruntime", "--precision", "int8", "--calibration-prompts", prompts]
    drawing = ["generate", "a handwritten two", *given, "--no-build", "--steps", 4, "--out", tmp_path / "two.png"]
    built = run("build", *given, "--interval", 2)
    assert built.code == 0
    assert "digits unet full: onnxruntime engine (float32, int8) in" in built.out
    assert run(*drawing, "--interval", 2).code == 0
    other = run(*drawing, "--interval", 3)
    assert_one_line(other)
    assert "--branch 0 --interval 3 --precision int8" in other.err
