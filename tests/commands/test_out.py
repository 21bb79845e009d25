"""What a command cannot write it refuses before it measures anything."""

import sys
from pathlib import Path

import pytest

from deepcache_trt import cli


@pytest.mark.parametrize("command", ["bench", "check cpu", "check gpu", "eval", "reuse", "tune"])
@pytest.mark.parametrize("place", ["file/under", "folder"])
def test_a_file_that_cannot_be_written_is_one_line(
    command: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    for name in ("folder", "folder.json", "folder/eval.json", "folder/plan.json"):
        (tmp_path / name).mkdir()
    out = tmp_path / place
    monkeypatch.setattr(sys, "argv", ["deepcache-trt", *command.split(), "--out", str(out)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    captured = capsys.readouterr()
    assert ended.value.code == 2
    assert captured.out == ""
    assert captured.err.startswith(f"error: cannot write {out}")
    assert captured.err.endswith("; choose another --out\n")
    assert captured.err.count("\n") == 1
