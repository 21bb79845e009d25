"""Going on from an earlier GPU check: what is kept, what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from deepcache_trt.benchmarks.gpu_check.report import write_report
from deepcache_trt.benchmarks.gpu_check.resume import read_earlier
from deepcache_trt.benchmarks.gpu_check.rows import WHOLE, WORKS
from deepcache_trt.errors import DeepCacheError
from tests.benchmarks.gpu_check.gpu_rows import row

HERE = {"GPU": "NVIDIA H200", "driver": "580", "packages": "torch 2.11.0, onnx 1.23", "deepcache-trt": "0.1, commit a"}
ROWS = [
    row(WORKS, model=""),
    row("build"),
    row("capture", "missing", detail="no graphs"),
    row("cut", "fail", detail="differs"),
    row("images", setting="plain"),
    row("images", "skipped", setting="cached", detail="3 s left"),
    row(WHOLE, "skipped", phase="sdxl", backend="", device="", model="", detail="needs 45 s"),
]


def test_what_passed_or_is_not_there_is_kept_and_a_check_with_a_failed_setting_runs_again(tmp_path: Path) -> None:
    write_report(tmp_path / "check", HERE, ROWS)
    earlier = read_earlier(tmp_path / "check.json")
    assert {check for *_, check in earlier.passed} == {"build", "capture"}
    assert [(kept.check, kept.setting) for kept in earlier.kept] == [
        ("build", ""),
        ("capture", ""),
        ("images", "plain"),
    ]


@pytest.mark.parametrize(
    "change", [{}, {"date": "2031-01-01"}, {"command": "another"}, {"deepcache-trt": "0.1, commit b"}]
)
def test_another_day_or_another_commit_of_the_package_goes_on(tmp_path: Path, change: dict[str, str]) -> None:
    write_report(tmp_path / "check", HERE, ROWS)
    earlier = read_earlier(tmp_path / "check.json")
    earlier.check_same(HERE | change)
    assert earlier.title.startswith("0.1, commit a, ")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"GPU": "NVIDIA L4"}, "GPU was NVIDIA H200 and is NVIDIA L4"),
        ({"driver": None}, "driver was 580 and is none"),
        (
            {"packages": "torch 2.12.0, onnx 1.23"},
            "packages was torch 2.11.0 and is torch 2.12.0",
        ),
        ({"cuDNN": "9"}, "cuDNN was none and is 9"),
    ],
)
def test_other_hardware_or_versions_are_refused_in_one_line(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    write_report(tmp_path / "check", HERE, ROWS)
    now = {name: value for name, value in (HERE | change).items() if value is not None}
    with pytest.raises(DeepCacheError, match=r"is of other hardware or versions: .*; leave it out") as refused:
        read_earlier(tmp_path / "check.json").check_same(now)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        json.dumps({"environment": {}, "rows": [{"backend": "torch"}]}),
        json.dumps({"environment": {}, "rows": [{**ROWS[1].__dict__, "status": "perfect"}]}),
        None,
    ],
)
def test_a_damaged_file_is_refused_in_one_line(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "check.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(DeepCacheError, match=r"check\.json is no usable result of .*; leave it out") as refused:
        read_earlier(path)
    assert "\n" not in str(refused.value)
