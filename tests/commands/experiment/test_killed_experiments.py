"""An experiment that is killed and given again: the same files, bit for bit, as one that nobody disturbed."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PROMPTS, BATCH = 1000, 25
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def command(prompts: Path, out: Path, store: Path) -> list[str]:
    options = ("--steps", 4, "--batch", BATCH, "--interval", 2, "--backend", "onnxruntime", "--prompt-file", prompts)
    given = map(str, ("experiment", "generate", *options, "--store", store, "--out", out))
    return [sys.executable, "-m", "deepcache_trt.cli", *given]


def files(out: Path) -> dict[str, bytes]:
    kept = [*out.glob("images/*/*.png"), out / "samples.jsonl", out / "config.json"]
    return {str(path.relative_to(out)): path.read_bytes() for path in kept}


@pytest.mark.slow
def test_a_thousand_prompts_killed_at_two_fifths_are_those_of_an_undisturbed_run(
    tmp_path: Path, store_root: Path
) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(f"a handwritten {WORDS[i % 10]}" for i in range(PROMPTS)), encoding="utf-8")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run(command(prompts, whole, store_root), check=True, capture_output=True, timeout=500)
    running = subprocess.Popen(
        command(prompts, killed, store_root), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    folder, until = killed / "images" / "interval-2-branch-0", time.monotonic() + 300
    while len(list(folder.glob("*.png"))) < 2 * PROMPTS // 5:
        assert running.poll() is None
        assert time.monotonic() < until
        time.sleep(0.01)
    running.send_signal(signal.SIGKILL)
    running.wait()
    there = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.png")}
    assert len(there) < PROMPTS
    again = subprocess.run(
        command(prompts, killed, store_root), check=True, capture_output=True, text=True, timeout=500
    )
    assert f"{len(there):,} of 1,000 pictures were there already" in again.stderr
    assert {name: (folder / name).stat().st_mtime_ns for name in there} == there, "nothing is drawn twice"
    found = files(killed)
    assert len(found) == PROMPTS + 2
    assert found == files(whole)
