"""Many pictures of a bundled model, each way of caching beside the others."""

from typing import Any

import pytest
import torch

from deepcache_trt import DeepCachePipeline
from deepcache_trt.benchmarks.quality import draw, measure, table, ways_of_ddpm, ways_of_dit, zeroed
from deepcache_trt.runtime.policies import DeepCache, Uncached
from deepcache_trt.runtime.policies.router import Router

BLOCKS = 12
ROUTER = Router(masks=("01" * BLOCKS, "10" * BLOCKS, "1" * 2 * BLOCKS))


def test_a_routers_rivals_reuse_as_much_or_take_fewer_steps() -> None:
    ways = {way.name: way for way in ways_of_dit(ROUTER, BLOCKS)}
    share = ROUTER.removed
    assert share == pytest.approx(2 / 3)
    masked: dict[str, Any] = {name: way.policy for name, way in ways.items() if isinstance(way.policy, Router)}
    for name in ("router", "as many at random", "as many at random, again", "blocks 2…9 reused"):
        assert masked[name].removed == pytest.approx(share), name
        assert ways[name].steps == 6
    assert masked["every sublayer reused"].removed == 1
    assert ways["uncached, 4 steps"].policy == Uncached()
    assert [name for name, way in ways.items() if way.is_zeroed] == ["router, what is reused is zero"]


def test_every_interval_and_branch_is_drawn_once() -> None:
    ways = ways_of_ddpm(9, 50)
    policies = [way.policy for way in ways if isinstance(way.policy, DeepCache) and not way.is_zeroed]
    assert {policy.cache_interval for policy in policies} == {1, 2, 3, 5, 10}
    assert {policy.cache_branch_id for policy in policies if policy.cache_interval == 5} == set(range(9))
    assert len(policies) == len(set(policies)) == 4 + 9


@pytest.fixture(scope="module")
def pipes(store_root: Any) -> tuple[Any, Any]:
    made = [
        DeepCachePipeline.from_pretrained("digits-dit", policy=Uncached(), backend="onnxruntime", store=store_root)
        for _ in range(2)
    ]
    for pipe in made:
        pipe.set_progress_bar_config(disable=True)
    made[1].disable_cache()
    return made[0], made[1]


def test_a_picture_depends_on_its_seed_alone(pipes: tuple[Any, Any]) -> None:
    cached, _ = pipes
    way = ways_of_dit(ROUTER, BLOCKS)[0]
    whole = draw(cached, way, 0, 4, 4.0)
    assert torch.allclose(whole[2:], draw(cached, way, 2, 2, 4.0), atol=1e-5)
    assert (whole[0] - whole[1]).abs().max() > 0.1


@pytest.mark.slow
def test_zeros_in_the_place_of_what_is_reused_are_seen_in_every_figure(pipes: tuple[Any, Any]) -> None:
    found = measure(*pipes, ways_of_dit(ROUTER, BLOCKS), images=40, batch=20, guidance=4.0)
    header, lines = table(found, has_classes=True)
    figures = {line[0]: dict(zip(header[1:], line[1:], strict=True)) for line in lines}
    assert figures["uncached"]["operations"] == "100.0%"
    assert 60 < float(figures["router"]["operations"].rstrip("%")) < 90
    assert float(figures["uncached"]["accuracy"].rstrip("%")) > 80
    distance = {name: float(each["Fréchet"]) for name, each in figures.items()}
    assert distance["router, what is reused is zero"] > 1.5 * max(distance["uncached"], distance["router"])


def test_zeroing_leaves_the_model_as_it_was(pipes: tuple[Any, Any]) -> None:
    _, plain = pipes
    way = ways_of_dit(ROUTER, BLOCKS)[0]
    before = draw(plain, way, 0, 1, 4.0)
    with zeroed(plain.transformer, ROUTER, way.steps):
        other = draw(plain, way, 0, 1, 4.0)
    assert torch.equal(draw(plain, way, 0, 1, 4.0), before)
    assert not torch.equal(other, before)
