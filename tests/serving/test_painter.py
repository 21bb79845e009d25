"""Pictures of one batch are those that are drawn alone; what a request says is followed or refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deepcache_trt.errors import DeepCacheError, UnknownNameError
from deepcache_trt.pipelines.cached_pipeline import DeepCachePipeline
from deepcache_trt.pipelines.engine_options import EngineOptions
from deepcache_trt.runtime.policies import DeepCache, Uncached
from deepcache_trt.serving.painter import SIZES, Painter, Served, check_served
from deepcache_trt.serving.wanted import Limits, Wanted
from tests.pipelines.loras import fresh, save_two

pytest.importorskip("onnxruntime")

SEVEN = Wanted(model="digits", prompt="a handwritten seven", seed=3, steps=5, policy=DeepCache(cache_interval=2))


@pytest.fixture(scope="module")
def painter(store_root: Path) -> Painter:
    options = EngineOptions(backend="onnxruntime", store=store_root)
    return Painter(Served(models={"digits": "digits"}, adapters={}, options=options))


def pixels(painted: Any) -> np.ndarray:
    return np.asarray(painted.image, dtype=np.float64) / 255


@pytest.mark.parametrize("count", [2, 3])
def test_a_picture_of_a_batch_is_the_one_that_is_drawn_alone(painter: Painter, count: int) -> None:
    """Padded to a size or not, with other prompts and seeds beside it."""
    words = ("seven", "two", "nine")
    wanted = [replace(SEVEN, prompt=f"a handwritten {words[i]}", seed=3 + i) for i in range(count)]
    together = painter.paint(wanted)
    assert [each.batch for each in together] == [count] * count
    for one, painted in zip(wanted, together, strict=True):
        (alone,) = painter.paint([one])
        # 8 bits round what differs by 1e-4 to a neighbour at most.
        assert np.abs(pixels(alone) - pixels(painted)).max() <= 1.01 / 255
        assert np.abs(pixels(alone) - pixels(painted)).mean() < 1e-4


def test_a_picture_is_that_of_the_pipeline(painter: Painter, store_root: Path) -> None:
    pipe = DeepCachePipeline.from_pretrained("digits", policy=SEVEN.policy, backend="onnxruntime", store=store_root)
    pipe.set_progress_bar_config(disable=True)
    given: dict[str, Any] = {"num_inference_steps": 5, "guidance_scale": 2.0, "negative_prompt": "a handwritten one"}
    expected = pipe(SEVEN.prompt, generator=torch.Generator().manual_seed(3), **given).images[0]
    (found,) = painter.paint([replace(SEVEN, guidance=2.0, negative_prompt="a handwritten one")])
    assert np.array_equal(np.asarray(expected), np.asarray(found.image))
    assert dict(found.calls) == {"full": 3, "cached": 2, "skipped": 0}


def test_what_is_served_may_be_in_8_bits(store_root: Path) -> None:
    given: dict[str, Any] = {"backend": "onnxruntime", "store": store_root, "precision": "int8"}
    given |= {"quantize": ("vae:all",), "calibration_prompts": (SEVEN.prompt,)}
    pipe = DeepCachePipeline.from_pretrained("digits", policy=SEVEN.policy, **given)
    pipe.set_progress_bar_config(disable=True)
    expected = pipe(SEVEN.prompt, num_inference_steps=5, generator=torch.Generator().manual_seed(3)).images[0]
    painter = Painter(Served(models={"digits": "digits"}, adapters={}, options=EngineOptions(**given)))
    (found,) = painter.paint([SEVEN])
    assert np.array_equal(np.asarray(expected), np.asarray(found.image))
    (again,) = painter.paint([replace(SEVEN, image=found.image, strength=0.5)])
    assert again.calls["cached"] > 0


def test_settings_of_one_picture_do_not_stay(painter: Painter) -> None:
    (before,) = painter.paint([SEVEN])
    painter.paint([replace(SEVEN, scheduler="unipc", policy=Uncached(), height=48, width=72)])
    painter.paint([replace(SEVEN, image=before.image, strength=0.5)])
    (after,) = painter.paint([SEVEN])
    assert np.array_equal(np.asarray(before.image), np.asarray(after.image))


def test_steps_are_told_and_a_deserted_batch_is_stopped(painter: Painter) -> None:
    told: list[tuple[int, int]] = []
    painter.paint([SEVEN], lambda done, total: told.append((done, total)))
    assert told == [(i, 5) for i in range(1, 6)]
    told.clear()
    painter.paint([SEVEN], lambda done, total: told.append((done, total)), lambda: len(told) >= 2)
    assert len(told) < 5


def test_what_the_pipeline_refuses_is_told_and_the_next_picture_is_drawn(painter: Painter) -> None:
    with pytest.raises(DeepCacheError):
        painter.paint([replace(SEVEN, scheduler="nonsense")])
    assert len(painter.paint([SEVEN])) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": "x" * 5000}, r"a prompt of 5,000 characters is longer than 4,096; shorten it"),
        ({"steps": 0}, r"steps 0 is outside 1…200; choose a number between"),
        ({"steps": 10**6}, r"steps 1000000 is outside"),
        ({"seed": -1}, r"seed -1 is outside"),
        ({"height": 64}, r"height or width alone is half a size"),
        ({"height": 13, "width": 64}, r"height 13 is no multiple of 8 in 8…2048"),
        ({"height": 64, "width": 10**6}, r"width 1000000 is no multiple"),
        ({"strength": 0.0}, r"strength 0 is outside 0…1"),
        ({"policy": DeepCache(cache_interval=3, skip_mode="quad_center", center=40)}, "center"),
    ],
)
def test_what_no_server_draws_is_refused_with_the_limit(change: dict[str, Any], message: str) -> None:
    with pytest.raises(DeepCacheError, match=message):
        replace(SEVEN, **change).check(Limits())


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`:UserWarning")
def test_adapters_are_those_of_the_request(tmp_path: Path, store_root: Path) -> None:
    """One after the other, and none: each the same as when nothing else was asked for before."""
    fresh().save_pretrained(tmp_path / "tiny")
    save_two(tmp_path / "loras")
    options = EngineOptions(backend="onnxruntime", store=store_root)
    served: dict[str, Any] = {"models": {"tiny": str(tmp_path / "tiny")}, "options": options}
    adapters = {name: str(tmp_path / "loras" / name) for name in ("a", "b")}
    painter = Painter(Served(adapters=adapters, **served))
    one = Wanted(model="tiny", prompt="x", seed=0, steps=2, policy=Uncached())

    def drawn(*names: str) -> np.ndarray:
        return pixels(painter.paint([replace(one, adapters=tuple((name, 0.8) for name in names))])[0])

    found = {names: drawn(*names) for names in ((), ("a",), ("b",), ("a", "b"))}
    for names, picture in found.items():
        assert np.array_equal(drawn(*names), picture)
    assert np.array_equal(found[()], pixels(Painter(Served(adapters={}, **served)).paint([one])[0]))
    assert len({picture.tobytes() for picture in found.values()}) == 4


def test_what_is_not_served_is_named() -> None:
    check_served(SEVEN, ["digits"], [])
    with pytest.raises(UnknownNameError, match=r"unknown model 'digits'; there are sdxl"):
        check_served(SEVEN, ["sdxl"], [])
    with pytest.raises(UnknownNameError, match=r"unknown adapter 'ink' \(did you mean 'inks'\?\); there are inks"):
        check_served(replace(SEVEN, adapters=(("ink", 1.0),)), ["digits"], ["inks"])


def test_a_batch_is_padded_to_a_size() -> None:
    assert list(SIZES) == sorted(SIZES)
    assert SIZES[0] == 1
