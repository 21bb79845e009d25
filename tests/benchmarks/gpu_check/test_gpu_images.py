"""The timed checks of a GPU check on real models: what is measured, what little time costs, and drawn weights."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from deepcache_trt.benchmarks.counting.roofline import GPUS, gpu_of_device
from deepcache_trt.benchmarks.gpu_check.checks.images import images
from deepcache_trt.benchmarks.gpu_check.checks.steps import operations, samples_ms, steps
from deepcache_trt.benchmarks.gpu_check.checks.subject import Subject, draw
from deepcache_trt.benchmarks.gpu_check.rows import Row
from deepcache_trt.benchmarks.gpu_check.summary import summary
from deepcache_trt.benchmarks.gpu_check.workloads import WORKLOADS, settings_of
from deepcache_trt.benchmarks.timing.seeded import drawn_pipeline
from deepcache_trt.builder.component import from_architecture, from_model
from deepcache_trt.builder.graphs import graph_key
from deepcache_trt.engines.store import Store
from deepcache_trt.models.catalogue import CATALOGUE
from deepcache_trt.models.entries.entry import Entry, ModelConfig
from deepcache_trt.models.registry import family_of, part_dtype
from tests import tiny

SHORT = replace(WORKLOADS["digits"], steps=(3,), least_psnr=None)


class Hurried(Subject):
    """A subject that runs out of time once so many images have been drawn."""

    images_left = 10**6

    @property
    def seconds_left(self) -> float:
        return 1000.0 if self.images_left > 0 else 0.5e-3


@pytest.fixture
def subject(store_root: Path, monkeypatch: pytest.MonkeyPatch) -> Hurried:
    monkeypatch.setitem(WORKLOADS, "digits", SHORT)
    return Hurried(backend="torch", device="cpu", model="digits", store=Store(store_root), until=time.time() + 600)


def last_of(rows: list[Row]) -> dict[str, Row]:
    """What counts of rows that are given again and again."""
    return {row.setting: row for row in rows}


def test_every_setting_is_timed_and_the_table_shows_it(subject: Hurried) -> None:
    rows = list(images(subject))
    found = last_of(rows)
    names = [setting.name for setting in settings_of(SHORT, with_package=True)]
    assert list(found) == names
    assert {row.status for row in rows} == {"pass"}
    assert {row.figures["images"] for row in found.values()} == {5}
    assert all(0 < row.figures["loop_seconds"] < row.figures["seconds"] for row in found.values())
    launched = {name: row.figures["launched"] for name, row in found.items() if row.setting.startswith("engines")}
    assert launched.pop("engines, I=3 B=0, per step, 3 steps") == "per step"
    assert set(launched.values()) == {"one by one"}, "there are no CUDA graphs on a CPU"
    counted = operations(subject)
    assert counted[0].figures["macs"]["full"] > 5 * counted[0].figures["macs"]["shallow 0"]
    text = summary({"GPU": "no GPU", "CPU": "a CPU"}, [*found.values(), *counted])
    assert "### digits, 64×64, on a CPU" in text
    assert "– (no GPU)" in text, "no roofline of a CPU"
    assert "drawn weights" not in text


def test_with_little_time_repeats_are_dropped_before_settings(
    subject: Hurried, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = len(settings_of(SHORT, with_package=True))
    _count_draws(subject, monkeypatch, images_left=2 * count)
    found = last_of(list(images(subject)))
    assert len(found) == count
    assert {(row.status, row.figures["images"]) for row in found.values()} == {("pass", 1)}


def test_with_less_time_settings_are_skipped_from_the_end(subject: Hurried, monkeypatch: pytest.MonkeyPatch) -> None:
    _count_draws(subject, monkeypatch, images_left=6)
    rows = list(images(subject))
    assert [row.status for row in rows] == ["pass"] * 3 + ["skipped"] * (len(rows) - 3)
    assert "s left, an image takes" in rows[-1].detail


def _count_draws(subject: Hurried, monkeypatch: pytest.MonkeyPatch, *, images_left: int) -> None:
    subject.images_left = images_left

    def counting(*args: Any, **call: Any) -> Any:
        subject.images_left -= 1
        return draw(*args, **call)

    monkeypatch.setattr("deepcache_trt.benchmarks.gpu_check.checks.images.draw", counting)


def test_steps_are_timed_beside_eager_ones(subject: Hurried) -> None:
    [row] = steps(subject)
    assert (row.status, row.detail) == ("pass", "medians of 30")
    assert {"eager_full_ms", "full_ms", "shallow_ms", "ratio"} == set(row.figures)


@pytest.mark.parametrize(("seconds", "rounds"), [(1e3, 30), (0, 1)])
def test_steps_are_repeated_as_often_as_there_is_time_for(seconds: float, rounds: int) -> None:
    assert len(samples_ms({"nothing": lambda: None}, on_gpu=False, seconds=seconds)["nothing"]) == rounds


def test_without_a_graph_or_time_to_export_one_nothing_is_counted(subject: Hurried, tmp_path: Path) -> None:
    subject.target = replace(subject.target, store=Store(tmp_path))
    subject.images_left = 0
    [row] = operations(subject)
    assert (row.status, row.detail) == ("skipped", "no graph in --store, its export takes 20 s and 0 s are left")


def test_two_blank_images_are_not_called_identical(subject: Hurried, monkeypatch: pytest.MonkeyPatch) -> None:
    def blank(*args: Any, **call: Any) -> Any:
        return Image.new("RGB", np.shape(draw(*args, **call))[:2])

    monkeypatch.setattr("deepcache_trt.benchmarks.gpu_check.checks.images.draw", blank)
    rows = last_of(list(images(subject))).values()
    assert {(row.figures["identical"], row.figures["psnr_db"]) for row in rows} == {(False, None)}
    assert "| no picture |" in summary({}, list(rows))


# Drawn weights.


def small(name: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A model of the catalogue at test size; returns its name."""

    def config(kind: Any, values: dict[str, Any]) -> ModelConfig:
        return ModelConfig(family=family_of(kind.__name__), config=values)

    parts = {"unet": config(*tiny.ARCHITECTURES[name]), "vae": config(*tiny.PARTS["vae"])}
    parts["text_encoder"] = config(*tiny.PARTS["clip"])
    if name == "sdxl":
        parts["text_encoder_2"] = config(*tiny.PARTS["clip_projection"])
        kind, values = tiny.PARTS["vae"]
        parts["vae"] = config(kind, {**values, "force_upcast": True})  # as SDXL's states
    monkeypatch.setitem(CATALOGUE, name, Entry(source=None, parts=parts))
    return name


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_weights_are_drawn_where_they_stay_and_belong_to_the_graph_of_the_catalogue(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = drawn_pipeline(small(name, monkeypatch), "float16", "cpu")
    again = drawn_pipeline(name, "float16", "cpu")
    for part in ("unet", "vae"):
        model, entry = getattr(pipe, part), CATALOGUE[name].parts[part]
        runs_in = getattr(torch, part_dtype(entry.config, "float16"))  # SDXL's pipeline casts its VAE before it decodes
        live = from_model(model.to(runs_in), name=name, part=part)
        made = from_architecture(entry.model_class(), entry.config, name=name, part=part, dtype="float16")
        assert graph_key(live) == graph_key(made), "a graph that was exported beforehand is found"
        for one, other in zip(model.parameters(), getattr(again, part).parameters(), strict=True):
            assert torch.equal(one, other)
    assert pipe.unet.dtype == torch.float16


@pytest.mark.filterwarnings("ignore:.upcast_vae. is deprecated:FutureWarning")
@pytest.mark.parametrize(("name", "dtype"), [("sd15", "float32"), ("sdxl", "float16")])
def test_a_drawn_model_draws_with_every_system(
    name: str, dtype: str, monkeypatch: pytest.MonkeyPatch, store_root: Path
) -> None:
    small(name, monkeypatch)
    until = time.time() + 600
    drawn = Subject(backend="torch", device="cpu", model=name, store=Store(store_root), until=until)
    drawn.dtype = dtype
    drawn.workload = replace(WORKLOADS[name], pixels=64, steps=(2, 3))
    found = last_of(list(images(drawn)))
    assert [row.detail for row in found.values() if row.status != "pass"] == []
    assert len(found) == len(settings_of(drawn.workload, with_package=True)) == 14


@pytest.mark.parametrize("gpu", GPUS, ids=lambda gpu: gpu.name)
def test_each_gpu_of_the_roofline_is_found_by_what_its_driver_calls_it(gpu: Any) -> None:
    named = str(gpu.device)
    assert gpu_of_device(named, dtype="float16") == gpu
    assert gpu_of_device(f"{named}S", dtype="float16") is None
    assert gpu_of_device(named, dtype="float64") is None
