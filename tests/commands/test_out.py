"""What a command cannot write it refuses before it measures anything."""

import os
import stat
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


@pytest.mark.parametrize("command", ["bench", "check cpu", "reuse", "store export digits", "train-router"])
def test_a_pipe_is_not_replaced_by_a_file(
    command: str, tmp_path: Path, built: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A device of the system would be gone for all who use it, where one may write there."""
    out = tmp_path / "pipe"
    os.mkfifo(out)
    monkeypatch.setenv("DEEPCACHE_TRT_STORE", str(built))
    monkeypatch.setattr(sys, "argv", ["deepcache-trt", *command.split(), "--out", str(out)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert f"cannot write {out}: it is a pipe or a device; choose another --out" in capsys.readouterr().err
    assert stat.S_ISFIFO(out.lstat().st_mode)
