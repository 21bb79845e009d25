"""`deepcache-trt eval`: the table it prints, and the figures and pictures it keeps."""

import json
from pathlib import Path

import pytest

from tests.commands.command_line import Run, assert_one_line


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
def test_eval_compares_samplers(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deepcache_trt.samplers._FINEST_STEPS", 6)
    few = ["--steps", 2, "--steps", 3, "--seeds", 1, "--prompt", "two", "--interval", 2]
    result = run("eval", *few, "--scheduler", "euler,timestep_spacing=trailing", "--json")
    assert_one_line(result)
    assert "several schedulers begin with 'euler'" in result.err
    record = json.loads(run("eval", *few, "--scheduler", "eulerdiscrete", "--scheduler", "ddim", "--json").out)
    assert record["truth"] == "DDIM, 6 steps"
    assert len(record["rows"]) == 1 + 2 * 2 * 2


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize("form", ["--json", "--markdown"])
def test_eval_prints_json_or_markdown(run: Run, form: str) -> None:
    result = run("eval", "--steps", 4, "--seeds", 1, "--prompt", "two", "--interval", 2, form)
    assert result.code == 0
    if form == "--json":
        assert json.loads(result.out)["scene"] == {"prompts": ["two"], "steps": 4, "guidance": None}
    else:
        assert result.out.startswith("# Fidelity beside speed: digits\n")
