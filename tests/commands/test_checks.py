"""`deepcache-trt check`: what it writes, and that its exit code says whether something failed."""

import json
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from deepcache_trt import cli
from deepcache_trt.benchmarks.cpu_check import check as cpu_check
from deepcache_trt.benchmarks.gpu_check import check as gpu_check
from deepcache_trt.benchmarks.gpu_check.rows import WORKS, Row
from deepcache_trt.benchmarks.timing.turns import Outcome, System


@pytest.fixture(autouse=True)
def sigterm() -> Iterator[None]:
    """Give this process its own answer to SIGTERM back."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> object:
    monkeypatch.setattr(sys, "argv", ["deepcache-trt", "check", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code


@pytest.mark.parametrize(("status", "code"), [("missing", 0), ("fail", 1)])
def test_a_failed_row_of_a_gpu_check_ends_with_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], status: str, code: int
) -> None:
    row = Row(backend="tensorrt", device="cuda", model="", check=WORKS, status=status, detail="a reason")
    monkeypatch.setattr(gpu_check, "look_around", lambda folder: ({"GPU": "made up"}, [row], False))
    assert run(monkeypatch, "gpu", "--out", tmp_path / "new" / "check.json", "--minutes", 0) == code
    record = json.loads((tmp_path / "new" / "check.json").read_text())
    assert record["environment"] == {
        "GPU": "made up",
        "command": "deepcache-trt check gpu --out …/check.json --minutes 0",
        "minutes allowed": "0",
    }
    assert (tmp_path / "new" / "check.md").read_text().startswith("# GPU check: made up\n")
    assert capsys.readouterr().err.splitlines()[0] == str(row)


def drawn(seconds: Callable[[str], float]) -> Callable[..., list[Outcome]]:
    """What `take_turns` gives where every system takes so many seconds."""

    def outcome(system: System) -> Outcome:
        loop, name = seconds(system.name), system.name
        sample = {"seconds": loop, "loop_seconds": loop, "engines_seconds": loop, "way": "whole loop"}
        sample |= {f"{variant}_{figure}": 1 for variant in ("full", "shallow") for figure in ("runs", "seconds")}
        return Outcome(name=name, load_seconds=1, first_call_seconds=1, samples=(sample,), peak_bytes=1)

    def take_turns(systems: Sequence[System], tell: Callable[[str], None]) -> list[Outcome]:
        return [outcome(system) for system in systems]

    return take_turns


@pytest.mark.parametrize(("ours", "code"), [(1.0, 0), (50.0, 1)])
def test_a_figure_of_a_cpu_check_that_is_not_as_required_ends_with_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], ours: float, code: int
) -> None:
    monkeypatch.setattr(cpu_check, "take_turns", drawn(lambda name: ours if name == cpu_check.OURS else 100.0))
    monkeypatch.setattr(cpu_check, "count_variants", lambda folder, store, pixels: {"full": 1, "shallow": 1})
    out = tmp_path / "new" / "check.json"
    assert run(monkeypatch, "cpu", "--model", "digits", "--out", out, "--store", tmp_path) == code
    captured = capsys.readouterr()
    assert captured.out.startswith("# CPU check: digits\n")
    assert [line.partition(":")[0] for line in captured.err.splitlines()] == [
        f"group {group}" for group in (cpu_check.BUILD, cpu_check.CACHED, cpu_check.WHOLE, cpu_check.TRUTH)
    ]
    record = json.loads(out.read_text())
    assert (record["environment"]["pixels"], record["environment"]["steps"]) == (64, 20)
    assert any(row["passed"] is False for row in record["rows"]) is bool(code)
