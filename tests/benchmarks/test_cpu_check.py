"""The check of a CPU: its arithmetic, its systems, and one real run on the bundled model."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deepcache_trt.benchmarks.counting.macs import ideal_speedup
from deepcache_trt.benchmarks.cpu_check import check as cpu_check
from deepcache_trt.benchmarks.cpu_check.check import Settings, make_rows, plan_groups
from deepcache_trt.benchmarks.cpu_check.rows import (
    Row,
    ideal_row,
    markdown,
    memory_row,
    outside_row,
    speed_row,
)
from deepcache_trt.benchmarks.timing import systems
from deepcache_trt.benchmarks.timing.systems import Picture
from deepcache_trt.benchmarks.timing.turns import Outcome, Spread
from deepcache_trt.models.catalogue import resolve
from tests.tiny import digits

ROW = Row(measure="a figure", required=2.0)
SETTINGS = Settings(model="digits", pixels=64, steps=20, repeats=3)


def outcome(*loops: float, name: str = "ours bf16", **figures: Any) -> Outcome:
    samples = tuple({"seconds": loop + 1, "loop_seconds": loop, "way": "whole loop", **figures} for loop in loops)
    return Outcome(name=name, load_seconds=1, first_call_seconds=2, samples=samples)


# The rows.


@pytest.mark.parametrize(
    ("required", "at_most", "median", "passed"),
    [
        (2.0, False, 2.0, True),
        (2.0, False, 1.99, False),
        (2.0, True, 2.0, True),
        (2.0, True, 2.01, False),
        (2.0, True, None, False),
        (None, False, 9.0, None),
        (None, False, None, None),
    ],
)
def test_the_median_decides(required: float | None, at_most: bool, median: float | None, passed: bool | None) -> None:
    measured = None if median is None else Spread(median=median, low=0, high=9)
    assert Row(measure="", required=required, at_most=at_most, measured=measured).passed is passed


def test_a_speed_up_is_the_ratio_of_medians_and_its_spread_that_of_the_rounds() -> None:
    row = speed_row(ROW, outcome(6.0, 9.0, 8.0, name="package"), outcome(2.0, 4.5, 3.0))
    assert row.measured == Spread(median=8 / 3, low=2.0, high=3.0)
    assert row.detail == "ours bf16 3 s, package 8 s"
    assert row.passed is True


def test_what_failed_gives_no_figure_but_its_reason() -> None:
    row = speed_row(ROW, replace(outcome(6.0, name="package"), error="killed by signal 9 (SIGKILL)"), outcome(2.0))
    assert (row.measured, row.passed) == (None, False)
    assert row.detail == "package: killed by signal 9 (SIGKILL)"


def test_outside_the_engines_is_what_they_leave_of_the_loop() -> None:
    row = outside_row(replace(ROW, at_most=True, required=0.01), outcome(10.0, 10.0, engines_seconds=9.95))
    assert row.measured is not None
    assert row.measured.median == pytest.approx(0.005)
    assert (row.passed, row.detail) == (True, "50 ms of 1e+04 ms")
    per_step = outside_row(ROW, outcome(10.0, engines_seconds=9.95, way="per step"))
    assert (per_step.measured, per_step.detail) == (None, "the loop was run per step")


@pytest.mark.parametrize(
    ("full", "shallow", "full_steps", "steps", "speedup"),
    [(10, 1, 4, 20, 200 / 56), (10, 10, 4, 20, 1), (10, 0, 4, 20, 5), (10, 1, 20, 20, 1)],
)
def test_the_ideal_counts_full_and_cached_steps(
    full: int, shallow: int, full_steps: int, steps: int, speedup: float
) -> None:
    assert ideal_speedup(
        {"full": full, "shallow": shallow}, {"full": full_steps, "shallow": steps - full_steps}
    ) == pytest.approx(speedup)


@pytest.mark.parametrize(
    ("shallow_seconds", "explained"),
    [(0.01, "10 and 10 GMAC/s"), (0.02, "10 and 5 GMAC/s: the shallow engine works at 0.50 of the full one's pace")],
)
def test_the_ideal_row_compares_intervals_and_explains_with_the_engines_own_times(
    shallow_seconds: float, explained: str
) -> None:
    runs: dict[str, Any] = {"full_runs": 4, "shallow_runs": 16, "full_seconds": 0.1, "shallow_seconds": shallow_seconds}
    uncached = outcome(2.0, 2.2, full_seconds=0.1)
    row = ideal_row(ROW, uncached, outcome(0.7, 0.7, **runs), {"full": 10**9, "shallow": 10**8})
    ideal, speedup = 20 / (4 + 1.6), 2.1 / 0.7
    assert row.measured is not None
    assert row.measured.median == pytest.approx(speedup / ideal)
    assert row.measured.low == pytest.approx(2.0 / 0.7 / ideal)
    allowed = 2 / (0.4 + 16 * shallow_seconds)
    assert row.detail.startswith(f"3.00× of 3.57×; the engines' own times allow {allowed:.2f}×: full 100 ms")
    assert explained in row.detail
    assert ideal_row(ROW, uncached, outcome(0.7, **runs), {}).measured is None


def test_memory_is_compared_by_its_peak() -> None:
    ours = replace(outcome(1.0), peak_bytes=3 << 30, peak_anonymous_bytes=1 << 30)
    plain = replace(outcome(1.0), peak_bytes=2 << 30, peak_anonymous_bytes=2 << 30)
    row = memory_row(ROW, ours, plain)
    assert row.measured == Spread(median=1.5, low=1.5, high=1.5)
    assert row.detail == "3.00 against 2.00 GiB; without pages of mapped files 1.00 against 2.00 GiB"
    assert memory_row(ROW, replace(ours, peak_bytes=None), plain).measured is None


def test_what_the_issue_requires_is_in_the_table_and_what_was_not_measured_says_so() -> None:
    rows = make_rows({}, {})
    required = [(row.required, row.at_most) for row in rows if row.required is not None]
    assert required == [(0.01, True), (3.0, False), (1.4, False), (3.8, False), (0.95, False), (1.15, True)]
    assert all(row.measured is None and "not measured" in row.detail for row in rows)


def test_every_system_of_the_rows_is_run_and_figures_stay_within_a_group(tmp_path: Path) -> None:
    groups = plan_groups(SETTINGS, dict.fromkeys(("bfloat16", "float32"), "folder"), tmp_path, tmp_path)
    seconds = {"engines_seconds": 1.0, "full_seconds": 0.1, "shallow_seconds": 0.1, "full_runs": 4, "shallow_runs": 16}
    outcomes = {
        group: [replace(outcome(1.0, name=system.name, **seconds), peak_bytes=1) for system in planned]
        for group, planned in groups.items()
    }
    rows = make_rows(outcomes, {"full": 1, "shallow": 1})
    assert [row.measure for row in rows if row.measured is None] == []
    assert [system.rounds for system in groups[cpu_check.BUILD]] == [0, 0]
    assert {system.rounds for group in (cpu_check.CACHED, cpu_check.WHOLE) for system in groups[group]} == {3}
    policies = [system.arguments.get("policy", {}) for system in groups[cpu_check.WHOLE]]
    assert [each.get("cache_interval") for each in policies] == [5, 1, None, None]
    without = {group: [found for found in there if "diffusers" not in found.name] for group, there in outcomes.items()}
    assert sum("not measured" in row.detail for row in make_rows(without, {"full": 1, "shallow": 1})) == 3


def test_the_report_shows_rows_systems_and_reasons() -> None:
    groups = {"cached": [outcome(1.5), Outcome(name="package", error="MemoryError: ")]}
    rows = [speed_row(ROW, outcome(3.0, name="package"), outcome(1.5)), replace(ROW, required=None, detail="why")]
    text = markdown({"model": "digits"}, rows, groups, {"ours bf16": {"max_abs": 0.25, "psnr_db": None}})
    assert "| a figure | ≥ 2× | 2× | 2× | ✓ | ours bf16 1.5 s, package 3 s |" in text.splitlines()
    assert "| a figure |  |  |  |  | why |" in text.splitlines()
    assert "| cached | ours bf16 | 1.0 | 2.0 | 1.5 | 1.5 – 1.5 | 2.5 | ? | ? | ? | 0.25 |  |  |" in text.splitlines()
    assert "| cached | package |  |  |  |  |  | ? | ? | ? |  |  | MemoryError:  |" in text.splitlines()


# The systems.


def picture(folder: Path, name: str) -> Picture:
    return Picture(
        folder=str(resolve("digits")), dtype="float32", pixels=64, steps=6, latents=str(folder / f"{name}.npy")
    )


def test_plain_diffusers_and_the_package_draw_the_same_picture_and_leave_its_latents(tmp_path: Path) -> None:
    expected = digits()(
        "a handwritten seven",
        num_inference_steps=6,
        generator=torch.Generator().manual_seed(0),
        output_type="latent",
    ).images.numpy()
    makers: dict[str, Callable[[Mapping[str, Any]], Callable[[], Mapping[str, Any]]]] = {
        "plain": lambda asked: systems.diffusers(asked),
        "uncached": lambda asked: systems.deepcache(asked, interval=1, branch=0),
        "cached": lambda asked: systems.deepcache(asked, interval=3, branch=0),
    }
    for name, make in makers.items():
        draw = make(asdict(picture(tmp_path, name)))
        assert [0 < draw()["loop_seconds"] < 60 for _ in range(2)] == [True, True]
    found = {name: np.load(tmp_path / f"{name}.npy") for name in makers}
    np.testing.assert_allclose(found["plain"], expected, atol=1e-5)
    np.testing.assert_allclose(found["uncached"], expected, atol=1e-5)
    assert np.abs(found["cached"] - expected).max() > 0.01


# All of it.


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_this_machine_is_measured_by_one_command(tmp_path: Path) -> None:
    out = tmp_path / "new" / "check.json"
    command = [sys.executable, "-m", "deepcache_trt.benchmarks.cpu_check", "--out", str(out), "--model", "digits"]
    done = subprocess.run(
        [*command, "--steps", "6", "--repeats", "2", "--threads", "1"],
        capture_output=True,
        text=True,
        env=dict(os.environ),
    )
    assert done.returncode in (0, 1), done.stderr  # a picture of 2 ms a step is no match for what is required
    record = json.loads(out.read_text(), parse_constant=pytest.fail)
    assert [row["measure"] for row in record["rows"] if row["measured"] is None] == [], done.stderr
    assert [found for group in record["groups"].values() for found in group if found["error"]] == []
    assert str(Path.home()) not in out.read_text() + done.stdout
    assert record["environment"]["CPU"].endswith("1 threads")
    samples = record["groups"]["uncached"][0]["samples"]
    assert [(sample["way"], sample["full_runs"], sample["shallow_runs"]) for sample in samples] == [
        ("whole loop", 2, 4)
    ] * 2
    assert record["macs"]["full"] > 5 * record["macs"]["shallow"] > 0
    fidelity_of = record["fidelity"]
    assert fidelity_of["ours fp32"]["psnr_db"] == pytest.approx(fidelity_of["DeepCache package fp32"]["psnr_db"], abs=1)
    assert fidelity_of["ours bf16, interval 1"]["psnr_db"] > 30
    assert done.stdout.startswith("# CPU check: digits\n")
