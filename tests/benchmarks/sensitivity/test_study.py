"""The study of which layers bear 8 bits, on the bundled model, and how many groups of them a budget takes."""

from pathlib import Path

import pytest

from deepcache_trt.benchmarks.sensitivity import study as module
from deepcache_trt.benchmarks.sensitivity.groups import Group, groups_of
from deepcache_trt.benchmarks.sensitivity.study import FOUND, Ranked, Study, study
from deepcache_trt.benchmarks.timing.drawing import Scene
from deepcache_trt.errors import DeepCacheError
from deepcache_trt.export.layers import Layer
from deepcache_trt.pipelines.engine_options import EngineOptions
from deepcache_trt.runtime.policies import DeepCache, Policy, Uncached
from tests.tiny import digits

BUDGET = 1.0


def studied(store: Path, policy: Policy) -> Study:
    return study(
        digits(),
        "digits",
        policy,
        Scene(prompts=("a handwritten two",), steps=6),
        EngineOptions(precision="int8", store=store),
        budget=BUDGET,
        seeds=1,
        unseen=1,
        tell=lambda line: None,
    )


@pytest.fixture(scope="module")
def found(store_root: Path) -> Study:
    by_block = groups_of

    def few(layers: tuple[Layer, ...]) -> list[Group]:
        """Three of them: the deepest, which moves nothing, and two at the full size."""
        wanted = ("mid_block.resnets.*.conv1", "up_blocks.3.resnets.*.conv2", "up_blocks.3.resnets.*.conv_shortcut")
        return [group for group in by_block(layers) if group.name in wanted]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "groups_of", few)
        return studied(store_root, DeepCache(cache_interval=3))


@pytest.mark.slow
def test_groups_are_ranked_by_what_they_cost_for_their_operations(found: Study) -> None:
    costs = [each.error**2 / each.share for each in found.ranked]
    assert costs == sorted(costs)
    assert found.ranked[0].group.name == "mid_block.resnets.*.conv1"
    assert found.ranked[0].error < found.ranked[1].error / 10


@pytest.mark.slow
def test_what_is_found_is_within_the_budget_and_is_told_as_patterns(found: Study) -> None:
    assert 1 <= found.taken <= 3
    assert found.loss <= BUDGET
    assert found.patterns == tuple(each.group.name for each in found.ranked[: found.taken])
    assert found.caching > 0


@pytest.mark.slow
def test_it_is_checked_beside_the_default_and_all_layers(found: Study) -> None:
    assert [*found.checked] == [FOUND, "the default", "all"]
    assert found.checked[FOUND].share == pytest.approx(sum(each.share for each in found.ranked[: found.taken]))
    assert found.checked["the default"].share < found.checked["all"].share < 1
    assert found.checked["the default"].loss < found.checked["all"].loss


@pytest.mark.slow
def test_where_nothing_is_cached_there_is_no_loss_to_compare_with(store_root: Path) -> None:
    with pytest.raises(DeepCacheError, match="loses nothing that --loss could be beside; choose another schedule"):
        studied(store_root, Uncached())


LAYER = Layer(
    weight="layer.weight",
    shape=(1, 1),
    channels=0,
    is_transposed=False,
    activation="x",
    node="y",
    reads_sample=True,
    reads_sum=False,
    reads_product=False,
    level=1,
)


@pytest.mark.parametrize("count", [1, 2, 7, 8])
@pytest.mark.parametrize("allowed", [1, 2, 5, 8])
def test_as_many_groups_are_taken_as_the_budget_allows(count: int, allowed: int) -> None:
    groups = [Ranked(group=Group(patterns=("layer",), layers=(LAYER,)), share=0.1, error=0.1)] * count
    taken, loss = module._most(groups, lambda layers: float(len(layers)), allowed, lambda line: None)
    assert taken == loss == min(count, allowed)


def test_a_budget_that_the_first_group_exceeds_is_refused_with_its_name() -> None:
    groups = [Ranked(group=Group(patterns=("layer",), layers=(LAYER,)), share=0.1, error=0.1)]
    with pytest.raises(DeepCacheError, match=r"8 bits in layer alone lose more than --loss 0\.5; allow more"):
        module._most(groups, lambda layers: float(len(layers)), 0.5, lambda line: None)
