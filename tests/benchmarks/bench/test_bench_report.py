"""What is made of a benchmark's record: the table, the comparison, the chart and the page."""

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from deepcache_trt.benchmarks.bench import chart as bench_chart
from deepcache_trt.benchmarks.bench.compare import compare
from deepcache_trt.benchmarks.bench.figures import Figures
from deepcache_trt.benchmarks.bench.grid import PLAIN, Cell, Settings
from deepcache_trt.benchmarks.bench.page import page
from deepcache_trt.benchmarks.bench.report import markdown
from deepcache_trt.benchmarks.counting.macs import Macs
from deepcache_trt.benchmarks.timing.published_table import interval_params
from deepcache_trt.cli import app
from deepcache_trt.errors import BackendError, DeepCacheError
from deepcache_trt.runtime.policies import DeepCache
from tests.benchmarks.bench.bench_records import COMPILED, EAGER, ENVIRONMENT, OURS, PACKAGE, SECONDS, SETTINGS, record
from tests.benchmarks.nearer import Nearer

WHOLE = Cell(pixels=512, batch=8, policy=PLAIN)
CACHED = Cell(pixels=512, batch=8, policy=interval_params(5, 0))
ALLOWED = 100 * 50 / (10 * 100 + 40 * 10)


def result(*about: Any, **changes: Any) -> Figures:
    """What a made-up record says; see `bench_records.record`."""
    return Figures(record(*about, **changes))


# Figures.


def test_a_speed_up_is_over_the_plain_column_and_the_packages_over_that_of_diffusers() -> None:
    figures = result()
    assert figures.speedup(CACHED, OURS) == pytest.approx(8 / 2)
    assert figures.speedup(CACHED, PACKAGE) == pytest.approx(12 / 4)
    assert figures.median(WHOLE, PACKAGE) == 12
    assert figures.names == [OURS, COMPILED, PACKAGE]


def test_the_share_is_that_of_the_loop_in_what_operations_allow() -> None:
    figures = result()
    assert figures.allowed(CACHED) == pytest.approx(ALLOWED)
    assert figures.share(CACHED, OURS) == pytest.approx((7 / 1) / ALLOWED)
    assert figures.allowed(WHOLE) is None


def test_a_record_by_branch_and_params_is_read_alike() -> None:
    """As `bench` wrote it when a plan was an interval and a branch."""
    written, before = record(), record()
    operations = {name: written["macs"][0]["variants"][name] for name in ("full", "shallow")}
    before["macs"] = [{"pixels": 512, "branch": 0, **operations}]
    for entry in before["cells"]:
        fields = asdict(DeepCache(cache_interval=1)) | entry["cell"].pop("policy")
        entry["cell"]["params"] = {name: value for name, value in fields.items() if name != "policy"}
    assert Figures(before).outcomes == Figures(written).outcomes
    assert Figures(before).share(CACHED, OURS) == Figures(written).share(CACHED, OURS) is not None


def test_the_package_says_that_it_has_no_plan_of_another_kind() -> None:
    caching = (Nearer(), interval_params(5, 0))
    seconds = {"plain": SECONDS["plain"], "nearer": {OURS: 1.0}, "I=5 B=0": SECONDS["I=5 B=0"]}
    figures = result(seconds, settings=replace(SETTINGS, caching=caching))
    text = lines(markdown(figures))
    assert "| pixels | batch |  | plain | nearer | I=5 B=0 |" in text
    assert "| 512 | 8 | DeepCache package (plain: diffusers) | 12 s | no such plan | 4 s, 3.00× |" in text
    assert figures.allowed(Cell(pixels=512, batch=8, policy=Nearer())) is not None


def test_a_margin_is_of_the_same_cell_and_its_spread_that_of_the_rounds() -> None:
    found = {(margin.cell, margin.peer): margin.ratio for margin in result().margins}
    assert {peer for cell, peer in found if cell == WHOLE} == {EAGER, COMPILED}
    assert found[CACHED, PACKAGE].median == pytest.approx(2)
    assert len(found) == 2 + 1 + 1


# The report.


def lines(text: str) -> list[str]:
    return text.splitlines()


def test_the_table_has_the_published_layout_with_operations_and_published_figures_beside() -> None:
    text = lines(markdown(result()))
    assert "| pixels | batch |  | plain | I=3 B=0 | I=5 B=0 |" in text
    assert "| 512 | 8 | ours (openvino) | 8 s, 31.2 dB | 3.2 s, 2.50×, 31.2 dB | 2 s, 4.00×, 31.2 dB |" in text
    assert "| 512 | 8 | DeepCache package (plain: diffusers) | 12 s | 6 s, 2.00× | 4 s, 3.00× |" in text
    assert "| 512 | 8 | diffusers, torch.compile | 10 s | – | – |" in text
    assert f"| 512 | 8 | *operations allow* |  | {5000 / (1700 + 330):.2f}× | {ALLOWED:.2f}× |" in text
    assert "| 512 | 8 | *published, NVIDIA RTX A5000* |  | 2.32× | 3.17× |" in text


@pytest.mark.parametrize("changed", [{"model": "sd15"}, {"steps": 49}])
def test_only_the_same_model_and_steps_have_a_published_figure(changed: dict[str, Any]) -> None:
    text = markdown(result(settings=replace(SETTINGS, **changed)))
    assert "A5000" not in text


@pytest.mark.parametrize(("device", "hardware"), [("cpu", "A made-up CPU, 2 threads"), ("cuda", "A made-up GPU")])
def test_a_report_names_the_hardware_that_it_was_measured_on(device: str, hardware: str) -> None:
    environment = {**ENVIRONMENT, "GPU": "A made-up GPU"}
    text = lines(markdown(result(settings=replace(SETTINGS, device=device), environment=environment)))
    assert text[0] == f"## sd21 on {hardware}"
    assert "`deepcache-trt bench --preset made-up`, 2030-01-01 00:00 UTC to 2030-01-01 00:10 UTC" in text[2]


@pytest.mark.parametrize(
    ("ours", "verdict"),
    [
        (2.0, "Ours is ahead of every system in every cell. The smallest ratio is 1.25×: 512 px, batch 8, plain, "),
        (
            4.1,
            "Behind in 512 px, batch 8, I=5 B=0 (ours (openvino) against DeepCache package). The smallest",
        ),
    ],
)
def test_the_verdict_is_that_of_every_cell(ours: float, verdict: str) -> None:
    assert verdict in markdown(result({**SECONDS, "I=5 B=0": {OURS: ours, PACKAGE: 4.0}}))


def test_parts_of_a_call_and_its_memory_have_a_line_each() -> None:
    text = lines(markdown(result()))
    header = next(line for line in text if "first call, s" in line)
    assert "capture" not in header  # there is no GPU whose graphs could have been recorded
    assert (
        "| 512 px, batch 8, I=5 B=0 | ours (openvino) | 5 | 4 | 2 | 1.8 – 2.2 | 0.25 | 1 | 0.75 | 7.00× | 196 % | "
        "0.125 | 31.2 | 3.00 |" in text
    )
    assert "| 512 px, batch 8 | openvino | 60 | unet full (k = 0) |" in text


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        ("OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB", "out of memory"),
        ("killed by signal 9 (SIGKILL)", "out of memory"),
        ("RuntimeError: DefaultCPUAllocator: can't allocate memory", "out of memory"),
        ("not started: 1.0 GiB are free, and one before it took 2.0 GiB", "out of memory"),
        ("not installed: pip install DeepCache", "not installed"),
        ("ValueError: no such thing", "failed"),
    ],
)
def test_what_failed_says_so_in_its_cell_and_why_below(error: str, verdict: str) -> None:
    text = lines(markdown(result(errors={("I=5 B=0", PACKAGE): error})))
    assert f"| 512 | 8 | DeepCache package (plain: diffusers) | 12 s | 6 s, 2.00× | {verdict} |" in text
    assert f"- 512 px, batch 8, I=5 B=0, DeepCache package: {error}" in text


def test_an_unfinished_grid_says_how_much_is_missing() -> None:
    unfinished = result({"plain": SECONDS["plain"]})
    text = markdown(unfinished)
    assert "**2 of 3 cells are not measured yet.**" in text
    assert "| 512 | 8 | ours (openvino) | 8 s, 31.2 dB |  |  |" in lines(text)


# The comparison.


def test_a_slower_machine_changes_seconds_and_neither_speed_ups_nor_margins() -> None:
    text = compare(result(factor=1.25), result())
    assert "Differ: seconds by at most 25.0 %; speed-up over plain by at most 0.0 %; " in text
    assert "| 512 px, batch 8, I=5 B=0 | ours (openvino) | 1.250 | 1.000 |  |" in lines(text)
    assert "| 512 px, batch 8, I=5 B=0 | DeepCache package | 1.250 | 1.000 | 1.000 |" in lines(text)
    assert "hardware" not in text


def test_other_hardware_is_told() -> None:
    text = compare(result(environment={**ENVIRONMENT, "CPU": "Another CPU"}), result())
    assert "**Not the same hardware:** CPU A made-up CPU, 2 threads → Another CPU." in text


@pytest.mark.parametrize(
    ("settings", "seconds", "message"),
    [
        (replace(SETTINGS, model="sd15"), SECONDS, "not of the same thing: model sd21 against sd15; measure one"),
        (replace(SETTINGS, steps=20, dtype="float32"), SECONDS, "dtype bfloat16 against float32; steps 50 against 20"),
        (SETTINGS, {}, "no cell has been measured in both"),
    ],
)
def test_results_of_different_things_are_not_compared(settings: Settings, seconds: Any, message: str) -> None:
    with pytest.raises(DeepCacheError, match=message):
        compare(result(seconds, settings=settings), result())


def test_what_cannot_be_compared_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text(json.dumps(record()))
    command = ["bench", "--compare", str(tmp_path / "old.json"), "--out", str(tmp_path / "new.json")]
    result = CliRunner().invoke(app, command)
    assert isinstance(result.exception, DeepCacheError)
    assert "not of the same thing: model sd21 against digits" in str(result.exception)
    assert [file.name for file in tmp_path.iterdir()] == ["old.json"]


def test_more_repeats_and_fewer_systems_may_be_compared() -> None:
    changed = replace(SETTINGS, repeats=9, systems=("ours",))
    assert "by at most 0.0 %" in compare(result(settings=changed), result())


# The chart.


def test_the_chart_names_cells_systems_figures_and_hardware(tmp_path: Path) -> None:
    chart = tmp_path / "new" / "chart.svg"
    bench_chart.draw(result(), chart)
    text = chart.read_text(encoding="utf-8")
    for shown in ("512 px, batch 8", "plain", "I=3 B=0", "I=5 B=0", OURS, COMPILED, "A made-up CPU", ">3.2<", ">12<"):
        assert shown in text


def test_a_chart_of_many_rows_with_failures_is_a_picture(tmp_path: Path) -> None:
    from PIL import Image

    chart = tmp_path / "chart.png"
    settings = replace(SETTINGS, sizes=(256, 512), batches=(8, 4))
    bench_chart.draw(result(settings=settings, errors={("plain", COMPILED): "out of memory"}), chart)
    with Image.open(chart) as image:
        assert image.width > image.height > 600


def test_what_cannot_be_drawn_is_refused_with_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DeepCacheError, match=r"--chart chart\.pdf is neither SVG nor PNG; let its name end in \.svg"):
        bench_chart.check(Path("chart.pdf"))
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(BackendError, match=r"a chart needs matplotlib; pip install 'deepcache-trt\[eval\]'"):
        bench_chart.check(Path("chart.svg"))


# The page.


def test_the_page_has_what_was_measured_and_the_arithmetic() -> None:
    macs = {name: Macs(weights=count, attention=1) for name, count in (("full", 40), ("shallow", 10))}
    counts = {(pixels, branch): macs for pixels in (512, 768, 1024) for branch in (0, 1)}
    text = page([result()], counts, chart="chart.svg")
    assert "](chart.svg)" in text
    assert "÷ another" not in text
    assert "how many times as long as ours by at most 0.0 %" in page([result()], counts, earlier=result(factor=1.25))
    assert text.startswith("# Benchmarks\n")
    assert "\n## sd21 on A made-up CPU, 2 threads\n" in text
    assert "\n## What arithmetic allows in the published table\n" in text
    assert "Nothing has been measured for this page yet." in page([], counts)
