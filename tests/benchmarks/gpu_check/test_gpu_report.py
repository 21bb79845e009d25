"""The report of a GPU check: its rows, and the table that it ends with."""

import json
from pathlib import Path
from typing import Any

import pytest

from deepcache_trt.benchmarks.gpu_check.report import markdown, write_report
from deepcache_trt.benchmarks.gpu_check.rows import CHECKS, WHOLE, WORKS, Row
from deepcache_trt.benchmarks.gpu_check.schedule import Account
from deepcache_trt.benchmarks.gpu_check.summary import summary
from deepcache_trt.benchmarks.gpu_check.workloads import WORKLOADS, settings_of
from deepcache_trt.benchmarks.timing.published_table import HARDWARE
from deepcache_trt.errors import without_paths
from tests.benchmarks.gpu_check.gpu_rows import row


def image(setting: str, seconds: float, *, loop: float | None = None, **fields: Any) -> Row:
    figures = {
        "seconds": seconds,
        "loop_seconds": loop or seconds,
        "speedup": 6.0 / seconds,
        "images": 5,
        "launched": "one graph",
    }
    figures |= {"identical": False, "psnr_db": 31.42, **fields.pop("figures", {})}
    return row("images", setting=setting, figures=figures, **fields)


# Rows.


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("delete /home/ann/.cache/store/engines/1f2e to build", "delete …/1f2e to build"),
        ("cannot read '/tmp/x/plan', /root/y/: gone", "cannot read '…/plan', …/y: gone"),
        ("height/8 of 3/4 at https://pypi.org/simple/x", "height/8 of 3/4 at https://pypi.org/simple/x"),
    ],
)
def test_paths_of_the_machine_are_cut_down(text: str, shown: str) -> None:
    assert without_paths(text) == without_paths(shown) == shown
    assert row("build", "fail", detail=text).detail == shown


def test_the_report_shows_each_check_of_each_backend_and_every_reason() -> None:
    rows = [
        row(WORKS, model="", detail="2.13.0"),
        row(WORKS, "missing", backend="tensorrt", model="", detail="not installed; pip install it"),
        row("build"),
        row("parity", detail="full 1.0e-03 | limit 3e-2"),
        row("cut", "fail", detail="differs"),
        row("steps", figures={"full_ms": 2.0, "shallow_ms": 0.5, "eager_full_ms": 4.0, "ratio": 4.0}),
        row("operations", detail="full 1.0 GMACs", figures={"macs": {}, "ratio": 9.5, "no_roofline": "no GPU"}),
        image("plain diffusers, 20 steps", 1.5),
        row("images", "missing", setting="DeepCache package, I=3 B=0, 20 steps", detail="No module named 'DeepCache'"),
        row("capture", "skipped", backend="onnxruntime", detail="3 s left"),
        row("refit", "skipped", backend="onnxruntime", detail="3 s left"),
    ]
    text = markdown({"GPU": "NVIDIA RTX A5000", "driver": "580"}, rows)
    lines = text.splitlines()
    assert lines[0] == "# GPU check: NVIDIA RTX A5000"
    assert "Rows: 6 passed, 1 failed, 2 missing, 2 skipped." in lines
    assert "| tensorrt | cuda | – | not installed; pip install it |" in lines
    assert "| model | check | torch (cuda) | onnxruntime (cuda) |" in lines
    assert f"| digits | cut: {CHECKS['cut']} | ✗ |  |" in lines
    assert f"| digits | images: {CHECKS['images']} | ✓ |  |" in lines, "one missing setting does not hide the others"
    why = "No module named 'DeepCache'"
    assert f"- **torch (cuda)** digits: images (DeepCache package, I=3 B=0, 20 steps) missing: {why}" in lines
    assert f"| digits | capture: {CHECKS['capture']} |  | – |" in lines
    assert "| digits | torch (cuda) | 4 | 2 | 0.5 | 4 | 9.5 |  |  |" in lines
    assert "| digits | torch (cuda) | parity | full 1.0e-03 ¦ limit 3e-2 |" in lines
    assert "- **torch (cuda)** digits: cut failed: differs" in lines
    assert "- **onnxruntime (cuda)** digits: capture, refit skipped: 3 s left" in lines


def test_a_report_without_rows_says_what_is_known() -> None:
    assert "| GPU | no GPU |" in markdown({"GPU": "no GPU"}, [])


def test_the_json_is_strict_and_has_every_row(tmp_path: Path) -> None:
    rows = [row("parity", "fail", figures={"relative_error": {"full": float("nan"), "shallow": 1.0}}), row("cut")]
    write_report(tmp_path / "new" / "check.v1", {"GPU": "none"}, rows)
    found = json.loads((tmp_path / "new" / "check.v1.json").read_text(), parse_constant=pytest.fail)
    assert [Row(**data) for data in found["rows"]] == rows
    assert found["rows"][0]["figures"] == {"relative_error": {"full": None, "shallow": 1.0}}
    assert (tmp_path / "new" / "check.v1.md").is_file()


def test_each_phase_is_shown_with_its_seconds_its_rows_and_why_it_did_not_run() -> None:
    accounts = [
        Account(phase="digits", shows="all", least_seconds=20, usual_seconds=60, given_seconds=120, took_seconds=61.4),
        Account(phase="sdxl", shows="more", least_seconds=45, usual_seconds=180, reason="needs 45 s and 9 s are left"),
    ]
    rows = [row("build", phase="digits"), row("cut", "fail", phase="digits", detail="differs"), no_phase("sdxl", "9 s")]
    lines = markdown({"GPU": "none"}, rows, accounts).splitlines()
    assert "| digits | all | 20 | 60 | 120 | 61 | 1 passed, 1 failed, 0 missing, 0 skipped |  |" in lines
    counts = "0 passed, 0 failed, 0 missing, 1 skipped"
    assert f"| sdxl | more | 45 | 180 | – | – | {counts} | needs 45 s and 9 s are left |" in lines
    assert "- **sdxl**: phase skipped: 9 s" in lines


# The table at the end.


def no_phase(phase: str, reason: str, status: str = "skipped") -> Row:
    return Row(phase=phase, backend="", device="", model="", check=WHOLE, status=status, detail=reason)


def counted(model: str, **figures: Any) -> Row:
    """A full step is ten times a shallow one, and takes 20 ms at best."""
    macs = {"full": 1000, "shallow 0": 100, "shallow 1": 200}
    best = {"full": 0.02, "shallow 0": 0.002, "shallow 1": 0.004}
    return row("operations", model=model, figures={"macs": macs, "roofline_seconds": best, **figures})


def cells(text: str, system: str) -> dict[str, str]:
    """What stands in the line of a system, by the heading of the column."""
    [header] = [line for line in text.splitlines() if line.startswith("| backend |")]
    [line] = [line for line in text.splitlines() if f"| {system} |" in line]
    names, values = ([cell.strip() for cell in each.strip("|").split("|")] for each in (header, line))
    return {name: value for name, value in zip(names, values, strict=True) if value}


def sd21(*rows: Row) -> str:
    drawn = [
        image(
            "plain diffusers, 50 steps",
            6.0,
            loop=5.0,
            model="sd21",
            figures={"identical": True, "launched": "per step"},
        ),
        image("engines, uncached, 50 steps", 3.0, loop=2.8, model="sd21", figures={"identical": True}),
        image("engines, I=5 B=0, 50 steps", 1.0, loop=0.8, model="sd21"),
        image("DeepCache package, I=5 B=1, 50 steps", 2.0, loop=1.6, model="sd21"),
        *rows,
    ]
    return summary({"GPU": "NVIDIA H200"}, drawn)


def test_a_cached_row_has_its_speed_up_beside_what_operations_and_the_roofline_allow() -> None:
    text = sd21(counted("sd21"))
    assert "### SD2.1, 512×512, on NVIDIA H200" in text
    # 50 full steps over 10 full ones and 40 of a tenth: 3.57; at best 10 · 20 ms + 40 · 2 ms of 0.8 s.
    assert cells(text, "engines, I=5 B=0") == {
        "backend": "torch (cuda)",
        "system": "engines, I=5 B=0",
        "steps": "50",
        "launched": "one graph",
        "s/image": "1",
        "loop, s": "0.8",
        "speed-up": "6.00×",
        "of operations": "3.50× of 3.57× (98 %)",
        "of roofline": "35 %",
        "PSNR, dB": "31.4",
        "published, NVIDIA RTX A5000": "3.22×",
    }
    # The package against plain diffusers: 5 s over 1.6 s, of 50 over 10 + 40 / 5.
    assert cells(text, "DeepCache package, I=5 B=1")["of operations"] == "3.12× of 2.78× (112 %)"
    plain, uncached = cells(text, "plain diffusers"), cells(text, "engines, uncached")
    assert {name: plain.get(name) for name in ("speed-up", "of roofline", "of operations", "PSNR, dB")} == {
        "speed-up": "1",
        "of roofline": "20 %",
        "of operations": None,
        "PSNR, dB": None,
    }
    assert (uncached["speed-up"], uncached["of roofline"], uncached["PSNR, dB"]) == ("2.00×", "36 %", "identical")
    assert "drawn weights" in text


def test_the_published_ratios_stand_beside_every_published_setting() -> None:
    text = sd21()
    ratios = [cells(text, f"engines, {plan}")[f"published, {HARDWARE}"] for plan in ("I=3 B=0", "I=5 B=0", "I=5 B=1")]
    assert ratios == ["2.33×", "3.22×", "2.35×"]


def test_a_cell_that_was_not_measured_says_why_and_has_no_figure() -> None:
    why = row("images", "skipped", model="sd21", setting="engines, I=3 B=0, 50 steps", detail="4 s left")
    crashed = row("images", "fail", model="sd21", detail="killed by signal 11")
    text = sd21(why, crashed, row("operations", "skipped", model="sd21", detail="no graph in --store"))
    skipped = cells(text, "engines, I=3 B=0")
    assert skipped["s/image"] == "– (4 s left)"
    assert not {"launched", "loop, s", "speed-up", "of operations", "of roofline", "PSNR, dB"} & set(skipped)
    assert cells(text, "engines, I=5 B=1")["s/image"] == "– (killed by signal 11)"
    drawn = cells(text, "engines, I=5 B=0")
    assert drawn["of operations"] == drawn["of roofline"] == "– (no graph in --store)"


def test_a_gpu_without_a_known_peak_has_no_share_of_a_roofline() -> None:
    text = sd21(counted("sd21", roofline_seconds=None, no_roofline="no float16 peak of a B1 is known here"))
    assert cells(text, "engines, I=5 B=0")["of roofline"] == "– (no float16 peak of a B1 is known here)"


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        ([], ""),
        ([no_phase("sdxl", "a GPU only", "missing")], "### SDXL\n\nNot measured: a GPU only."),
        (
            [row("images", "skipped", model="sdxl", detail="the GPU was lost in steps")],
            "### SDXL\n\nNot measured: the GPU was lost in steps.",
        ),
    ],
)
def test_a_model_that_was_not_drawn_says_why_if_anybody_asked(rows: list[Row], text: str) -> None:
    assert summary({}, rows) == text


@pytest.mark.parametrize("model", WORKLOADS)
def test_every_setting_of_a_model_has_a_line_whatever_was_drawn(model: str) -> None:
    workload = WORKLOADS[model]
    settings = settings_of(workload, with_package=True)
    assert len({setting.name for setting in settings}) == len(settings)
    plain = image(settings[0].name, 1.0, model=model)
    package = next(setting for setting in settings if "package" in setting.name)
    text = summary({}, [plain, row("images", "missing", model=model, setting=package.name, detail="not installed")])
    assert len([line for line in text.splitlines() if line.startswith("| torch (cuda) |")]) == len(settings)
