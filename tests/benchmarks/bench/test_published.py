"""The published table, as it is printed, and what operations allow in its cells."""

from pathlib import Path

import pytest

from deepcache_trt.benchmarks.bench.grid import PLAIN, Cell
from deepcache_trt.benchmarks.bench.published import (
    SECONDS,
    allowed_speedup,
    arithmetic,
    count_published,
    published_speedup,
)
from deepcache_trt.benchmarks.counting.macs import Macs
from deepcache_trt.benchmarks.timing.published_table import COLUMNS, STEPS, interval_params
from deepcache_trt.runtime.policies.deepcache import DeepCache

# The speed-ups as they stand beside the seconds on the page: I=3 B=0, I=5 B=0, I=5 B=1.
PRINTED = {
    (512, 8): (2.32, 3.18, 2.20),
    (512, 4): (2.33, 3.21, 2.24),
    (512, 1): (2.33, 3.24, 2.35),
    (768, 8): (2.29, 3.12, 2.05),
    (768, 4): (2.30, 3.13, 2.07),
    (768, 1): (2.33, 3.21, 2.12),
    (1024, 8): (2.24, 3.02, 1.92),
    (1024, 4): (2.25, 3.04, 1.91),
    (1024, 1): (2.28, 3.12, 1.93),
}


@pytest.mark.parametrize(("row", "printed"), PRINTED.items())
def test_the_speed_ups_are_those_that_are_printed(row: tuple[int, int], printed: tuple[float, ...]) -> None:
    """To a rounding: they were made of seconds with more digits."""
    pixels, batch = row
    for policy, speedup in zip(COLUMNS, printed, strict=True):
        cell = Cell(pixels=pixels, batch=batch, policy=policy)
        assert published_speedup(cell) == pytest.approx(speedup, abs=0.02)


def test_a_cell_that_was_not_published_has_no_figure() -> None:
    assert len(SECONDS) == 36
    assert published_speedup(Cell(pixels=256, batch=1, policy=interval_params(5, 0))) is None
    assert published_speedup(Cell(pixels=512, batch=1, policy=interval_params(3, 1))) is None


def counts(full: int, shallow: int, attention: int = 0) -> dict[str, Macs]:
    return {"full": Macs(weights=full, attention=attention), "shallow": Macs(weights=shallow, attention=attention)}


@pytest.mark.parametrize(
    ("policy", "steps", "speedup"),
    [
        (interval_params(5, 0), 50, 500 / (10 * 10 + 40)),
        (interval_params(3, 0), 50, 500 / (17 * 10 + 33)),
        (interval_params(5, 0), 11, 110 / (3 * 10 + 8)),
        (PLAIN, 50, 1),
        (DeepCache(cache_interval=5, skip_interval=2), 50, 500 / (10 * 10 + 20)),
        (DeepCache(full_steps=(0, 7)), 10, 100 / (2 * 10 + 8)),
    ],
)
def test_operations_allow_what_full_and_cached_steps_cost(policy: DeepCache, steps: int, speedup: float) -> None:
    allowed = allowed_speedup(counts(10, 1), policy.plan(steps))
    assert [allowed.whole, allowed.weights] == pytest.approx([speedup, speedup])


def test_attention_products_that_stay_in_a_cached_step_lower_what_is_allowed() -> None:
    allowed = allowed_speedup(counts(10, 1, attention=1), interval_params(5, 0).plan(50))
    assert allowed.whole == pytest.approx(11 * 50 / (11 * 10 + 2 * 40))
    assert allowed.weights == pytest.approx(500 / 140)


def test_the_arithmetic_has_a_line_for_each_cell_and_says_what_is_counted() -> None:
    """With round numbers of operations: 5/3 at interval 3, 2.08 at interval 5."""
    made_up = {(pixels, branch): counts(40, 10, attention=2) for pixels in (512, 768, 1024) for branch in (0, 1)}
    text = arithmetic(made_up)
    assert sum(line.startswith(("| 512 | ", "| 768 | ", "| 1024 | ")) for line in text.splitlines()) == 27 + 6
    whole = 42 * 50 / (42 * 17 + 12 * 33)
    share = f"{100 * (15.96 / 6.88) / whole:.0f} %"
    assert f"| 512 | 8 | I=3 B=0 | 15.96 | 6.88 | 2.32× | {whole:.2f}× | {share} | " in text
    assert "NVIDIA RTX A5000" in text
    assert "not measured here" in text


@pytest.mark.slow
def test_the_published_speed_ups_stay_below_what_the_real_graph_allows() -> None:
    """Without attention products the U-Net of Stable Diffusion 2.1 costs what that of 1.5 does, 339 G at 512×512."""
    counted = count_published()
    assert counted[512, 0]["full"].weights / 1e9 == pytest.approx(338.83, rel=0.01)
    assert counted[512, 0]["full"] == counted[512, 1]["full"]
    assert counted[512, 0]["shallow"].weights < counted[512, 1]["shallow"].weights < counted[512, 1]["full"].weights / 5
    for cell in SECONDS:
        if not cell.is_plain:
            assert cell.published_form is not None
            macs = counted[cell.pixels, cell.published_form[1]]
            allowed = allowed_speedup(macs, cell.policy.plan(STEPS))
            share = (published_speedup(cell) or 0) / allowed.whole
            assert 0.8 < share < 1, cell.title
    assert arithmetic(counted) in (Path(__file__).parents[3] / "docs" / "benchmarks.md").read_text(encoding="utf-8")
