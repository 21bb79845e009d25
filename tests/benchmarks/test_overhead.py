"""What an image costs beside its engines."""

import sys
from dataclasses import replace

import pytest

from deepcache_trt.benchmarks import overhead
from deepcache_trt.engines import backends
from deepcache_trt.models.catalogue import CATALOGUE


@pytest.fixture(autouse=True)
def _for_this_test_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "_registered", dict(backends._registered))


def test_an_image_is_timed_on_both(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["overhead", "--steps", "2", "--rounds", "1", "--models"])
    overhead.main()
    printed = capsys.readouterr().out
    assert "One image of `digits`, 2 steps, medians of 1 in turn" in printed
    assert printed.count("| engines that do nothing |") == 1
    assert printed.count("| plain diffusers without models |") == 1


def test_a_look_reads_every_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"block_out_channels": (32, 32, 32, 32), "cross_attention_dim": 8, "attention_head_dim": 4}
    part = CATALOGUE["sd15"].parts["unet"]
    part = replace(part, config={**part.config, **small})
    monkeypatch.setitem(CATALOGUE, "sd15", replace(CATALOGUE["sd15"], parts={"unet": part}))
    found = overhead.look("sd15", rounds=1)
    assert found.weight_bytes > 1e5
    assert found.unet > 0
    assert found.all > 0
    assert found.weights > 0
    assert "| sd15 | " in overhead.report({}, [found], steps=1, rounds=1)
