"""The grids of `deepcache-trt bench`: presets, cells, and what is refused."""

import json
from dataclasses import replace
from typing import Any

import pytest

from deepcache_trt.benchmarks.bench.compare import differences
from deepcache_trt.benchmarks.bench.grid import PLAIN, SYSTEMS, Cell, cell_from, ours_on, settings_from
from deepcache_trt.benchmarks.bench.measure import duration
from deepcache_trt.benchmarks.bench.presets import PRESETS, preset, settings_of
from deepcache_trt.benchmarks.bench.published import SECONDS
from deepcache_trt.benchmarks.timing.published_table import MODEL, STEPS, interval_params
from deepcache_trt.errors import BackendError, DeepCacheError, UnknownNameError
from deepcache_trt.runtime.policies.deepcache import DeepCache

TUNED = DeepCache(cache_interval=4, forecast="taylor1")


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_a_grid_on_this_machine(name: str) -> None:
    settings = settings_of(preset(name), backends=["openvino"])
    assert set(settings.systems) <= set(SYSTEMS)
    assert [cell.is_plain for cell in settings.cells[: 1 + len(settings.caching)]] == [
        True,
        *[False] * len(settings.caching),
    ]
    assert len(set(settings.cells)) == len(settings.cells)


def test_the_published_grid_has_the_published_cells_and_no_others() -> None:
    settings = settings_of(preset("a5000"), backends=["torch"])
    assert set(settings.cells) == set(SECONDS)
    assert (settings.model, settings.steps) == (MODEL, STEPS)


def test_the_cpu_grid_has_the_published_columns_and_downloads_nothing() -> None:
    settings = settings_of(preset("cpu"), backends=["openvino"])
    assert [cell.column for cell in settings.cells[:4]] == ["plain", "I=3 B=0", "I=5 B=0", "I=5 B=1"]
    assert settings.random_weights


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"sizes": [64, 128, 64]}, {"sizes": (64, 128)}),
        ({"intervals": [2, 5]}, {"caching": (interval_params(2, 0), interval_params(5, 0))}),
        (
            {"intervals": [2, 5], "branches": [0, 1]},
            {"caching": (interval_params(2, 0), interval_params(2, 1), interval_params(5, 0), interval_params(5, 1))},
        ),
        ({"branches": [1]}, {"caching": (interval_params(3, 1),)}),
        ({"plans": [TUNED]}, {"caching": (TUNED,)}),
        ({"plans": [TUNED, TUNED], "branches": [1]}, {"caching": (interval_params(3, 1), TUNED)}),
        ({"systems": ["ours"]}, {"systems": ("ours",)}),
        ({"backends": ["torch", "onnxruntime"]}, {"backends": ("torch", "onnxruntime")}),
        ({"model": "sd15", "random_weights": True}, {"model": "sd15", "random_weights": True}),
        ({"steps": 4, "repeats": 1}, {"steps": 4, "repeats": 1}),
    ],
)
def test_what_is_given_replaces_what_the_preset_has(given: dict[str, Any], expected: dict[str, Any]) -> None:
    base, settings = settings_of(preset("smoke")), settings_of(preset("smoke"), **given)
    assert {name: getattr(settings, name) for name in expected} == expected
    assert len(differences(settings, base)) == len([name for name in expected if getattr(base, name) != expected[name]])


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"systems": ["our"]}, UnknownNameError, r"unknown system 'our' \(did you mean 'ours'\?\); there are ours, "),
        ({"dtype": "float61"}, UnknownNameError, r"unknown dtype 'float61' .*; there are float32, "),
        ({"backends": ["openvin"]}, UnknownNameError, r"unknown backend 'openvin' \(did you mean 'openvino'\?\)"),
        ({"backends": ["onnxruntime"], "dtype": "bfloat16"}, BackendError, "no bfloat16 on the CPU; use float32"),
        (
            {"intervals": [1]},
            DeepCacheError,
            "uncached: nothing is cached in 10 steps, .* give an interval of 2 or more",
        ),
        ({"intervals": [1], "steps": 1}, DeepCacheError, "uncached: nothing is cached in 1 steps"),
        ({"plans": [DeepCache(full_steps=tuple(range(10)))]}, DeepCacheError, "full at 0, 1, .* cached in 10 steps"),
        (
            {"plans": [DeepCache(skip_mode="quad_center", center=12)]},
            DeepCacheError,
            r"a call of the run, 0…9, not 12",
        ),
        ({"sizes": [0]}, DeepCacheError, "--size must be at least 1, not 0"),
        ({"repeats": 0}, DeepCacheError, "--repeats must be at least 1, not 0"),
        ({"branches": [-1]}, DeepCacheError, "cache_branch_id must be a whole number of at least 0, not -1"),
    ],
)
def test_what_makes_no_grid_is_refused(given: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        settings_of(preset("smoke"), **given)


def test_an_unknown_preset_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown preset 'a500' \(did you mean 'a5000'\?\); there are a5000, "):
        preset("a500")


def test_settings_survive_json() -> None:
    settings = settings_of(preset("cpu"), backends=["openvino"], plans=[TUNED, DeepCache(full_steps=(0, 3))])
    assert settings_from(json.loads(json.dumps(settings.record()))) == settings
    assert [cell_from(json.loads(json.dumps(cell.record()))) for cell in settings.cells] == settings.cells


def test_a_cell_has_the_published_heading_and_costs_less_the_more_it_caches() -> None:
    settings = replace(settings_of(preset("smoke")), steps=50, repeats=3)
    cells = [
        Cell(pixels=512, batch=4, policy=policy)
        for policy in (PLAIN, interval_params(3, 0), TUNED, interval_params(5, 0))
    ]
    assert [cell.title for cell in cells] == [
        f"512 px, batch 4, {column}" for column in ("plain", "I=3 B=0", "interval 4, taylor1", "I=5 B=0")
    ]
    assert [cell.plain for cell in cells] == cells[:1] * 4
    costs = [settings.cost(cell) for cell in cells]
    assert costs == sorted(costs, reverse=True)
    assert costs[0] == 2 * settings.cost(replace(cells[0], batch=2))


@pytest.mark.parametrize(("seconds", "told"), [(0.2, "1 s"), (41, "41 s"), (100, "2 min"), (3000, "50 min")])
def test_a_duration_is_told_roughly(seconds: float, told: str) -> None:
    assert duration(seconds) == told


def test_with_a_precision_ours_is_measured_without_it_and_with_it() -> None:
    settings = settings_of(preset("smoke"), backends=["onnxruntime"], precision="int8")
    assert settings.ours == (("onnxruntime", None), ("onnxruntime", "int8"))
    assert [ours_on(*ours) for ours in settings.ours] == ["ours (onnxruntime)", "ours (onnxruntime, int8)"]
    chosen = settings_of(preset("smoke"), backends=["onnxruntime"], precision="int8", quantize=["all"])
    assert [settings_from(json.loads(json.dumps(each.record()))) for each in (settings, chosen)] == [settings, chosen]
    with pytest.raises(DeepCacheError, match="give precision='int8' too"):
        settings_of(preset("smoke"), backends=["onnxruntime"], quantize=["all"])
    without = {name: value for name, value in settings.record().items() if name != "precision"}
    assert settings_from(without).ours == (("onnxruntime", None),)
