"""Drawing on workers of Ray: the same files, whatever their number, and when one of them is killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

pytest.importorskip("ray")

OPTIONS = ("--steps", 4, "--batch", 2, "--interval", 2, "--seeds", 4, "--backend", "onnxruntime")


def begun(out: Path, store: Path, *more: object) -> "subprocess.Popen[str]":
    words = ("experiment", "generate", *OPTIONS, "--store", store, "--out", out, *more)
    command = [sys.executable, "-m", "deepcache_trt.cli", *map(str, words)]
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def ended(process: "subprocess.Popen[str]") -> str:
    text, _ = process.communicate(timeout=300)
    assert process.returncode == 0, text
    return text


def files(out: Path) -> dict[str, bytes]:
    kept = [*out.glob("images/*/*.png"), out / "samples.jsonl", out / "config.json"]
    return {str(path.relative_to(out)): path.read_bytes() for path in kept}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, store_root: Path) -> Path:
    """Drawn without workers."""
    out = tmp_path_factory.mktemp("workers") / "whole"
    ended(begun(out, store_root))
    return out


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
def test_files_are_the_same_whatever_the_number_of_workers(
    count: int, whole: Path, tmp_path: Path, store_root: Path
) -> None:
    text = ended(begun(tmp_path / "out", store_root, "--ray", "auto", "--workers", count))
    assert "drawn by workers of Ray" in text
    assert files(tmp_path / "out") == files(whole)


@pytest.mark.slow
def test_files_are_the_same_when_a_worker_is_killed(whole: Path, tmp_path: Path, store_root: Path) -> None:
    process = begun(tmp_path / "out", store_root, "--ray", "auto", "--workers", 2)
    until = time.monotonic() + 200
    while len(list(tmp_path.glob("out/images/*/*.png"))) < 4:
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.02)
    workers = [each for each in psutil.process_iter(["cmdline"]) if "MapWorker" in " ".join(each.info["cmdline"] or ())]
    assert workers
    workers[0].send_signal(signal.SIGKILL)
    ended(process)
    assert files(tmp_path / "out") == files(whole)
