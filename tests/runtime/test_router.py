"""A router as a policy: pairs of calls, a mask for each second one, and masks from scores or from chance."""

from typing import Any

import numpy as np
import pytest

from deepcache_trt.errors import DeepCacheError, UnknownNameError
from deepcache_trt.models.taps import Variant
from deepcache_trt.runtime.plan import FULL
from deepcache_trt.runtime.policies import Router
from deepcache_trt.runtime.policies.plan_file import PlanFile, read_plan, write_plan
from deepcache_trt.runtime.policies.policy import policy_from_json
from deepcache_trt.runtime.policies.router import all_reused, masks_at, random_masks, removed_share

TAPS = ("tap_mhsa_0", "tap_mlp_0", "tap_mhsa_1")
ROUTER = Router(masks=("011", "000", "111", "011"))


def test_each_second_call_runs_its_mask_and_equal_masks_are_one_variant() -> None:
    assert ROUTER.plan(8).variants == (FULL, "mask_0", FULL, FULL, FULL, "mask_2", FULL, "mask_0")
    assert ROUTER.variants(TAPS) == (
        Variant(name=FULL, emits=TAPS),
        Variant(name="mask_0", consumes=("tap_mlp_0", "tap_mhsa_1")),
        Variant(name="mask_2", consumes=TAPS),
    )
    assert ROUTER.in_words == "router, 8 calls, 58.3% of the taps reused in cached ones, by 3 masks"


def test_a_full_call_gives_only_what_a_mask_reuses() -> None:
    assert Router(masks=("001",)).variants(TAPS)[0] == Variant(name=FULL, emits=("tap_mhsa_1",))
    assert Router(masks=("000",)).variants(TAPS) == (Variant(name=FULL),)


@pytest.mark.parametrize("router", [ROUTER, Router(masks=("01", "11"), forecast="taylor1")])
def test_a_plan_file_holds_it(router: Router, tmp_path: Any) -> None:
    write_plan(tmp_path / "plan.json", PlanFile(policy=router))
    assert read_plan(tmp_path / "plan.json").policy == router
    assert hash(policy_from_json(router.to_json())) == hash(router)


def test_it_forecasts_what_it_reuses_where_that_is_asked_for() -> None:
    router = Router(masks=("01", "11"), forecast="taylor1")
    assert router.plan(4).forecast == "taylor1"
    assert router.in_words.endswith("by 2 masks, taylor1")
    assert ROUTER.plan(8).forecast is None
    with pytest.raises(UnknownNameError, match=r"unknown forecast 'taylor2' \(did you mean 'taylor1'\?\)"):
        Router(masks=("01",), forecast="taylor2")


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ("01", "masks must be a list such as .*, not '01'"),
        ((1, 0), r"masks must be a list such as .*, not \(1, 0\)"),
        ((), r"masks=\(\) says nothing of any call; a mask is a text such as"),
        (("",), r"masks=\(''.* says nothing of any call"),
        (("01", "0x"), "mask '0x' has other letters than 0 and 1; a mask is a text such as"),
        (("01", "011"), "mask '011' is for 3 taps and the first one for 2; all masks are for the same taps"),
    ],
)
def test_what_is_no_mask_is_refused(masks: Any, message: str) -> None:
    with pytest.raises(DeepCacheError, match=message):
        Router(masks=masks)


@pytest.mark.parametrize("values", [{}, {"masks": "01"}, {"masks": None}])
def test_a_plan_file_without_a_list_of_masks_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(DeepCacheError, match="policy 'router' wants masks, a list such as"):
        policy_from_json({"policy": "router", **values})


def test_a_router_of_another_depth_is_refused() -> None:
    message = "for 3 taps, and there are 24: it is another model's; deepcache-trt train-router trains one for it"
    with pytest.raises(UnknownNameError, match=message):
        ROUTER.variants([f"tap_{k}" for k in range(24)])


@pytest.mark.parametrize(
    ("calls", "message"),
    [
        (10, "for 8 calls of the model, and there are 10; draw with .*, or train one with --steps 10"),
        (7, "for 8 calls .* are 7; calls come in pairs, so that their number is even; draw .* --steps 8"),
        (1, "and there are 1; calls come in pairs"),
    ],
)
def test_another_number_of_calls_is_refused(calls: int, message: str) -> None:
    with pytest.raises(DeepCacheError, match=message):
        ROUTER.plan(calls)


def test_a_threshold_reuses_what_has_at_most_that_score_and_a_higher_one_more() -> None:
    logits = np.array([[-5, 0, 5], [np.log(1 / 9), 1, 2]], np.float32)  # scores 0.007, 0.5, 0.993; 0.1, 0.73, 0.88
    assert masks_at(logits, 0.5) == ("110", "100")
    assert masks_at(logits, 0) == ("000", "000")
    assert masks_at(logits, 1) == ("111", "111")
    drawn = np.random.default_rng(0).normal(size=(10, 56)).astype(np.float32)
    shares = [removed_share(masks_at(drawn, threshold)) for threshold in (0.1, 0.3, 0.5, 0.7, 0.9)]
    assert shares == sorted(shares)
    assert 0 < shares[0] < shares[-1] < 1


@pytest.mark.parametrize("threshold", [-0.1, 1.01, float("nan")])
def test_a_threshold_that_no_score_can_have_is_refused(threshold: float) -> None:
    with pytest.raises(DeepCacheError, match=r"a threshold of \S+ is outside 0…1, where all scores are"):
        masks_at(np.zeros([2, 3], np.float32), threshold)


def test_random_masks_reuse_as_much_and_each_seed_other_taps() -> None:
    like = masks_at(np.random.default_rng(1).normal(size=(10, 24)).astype(np.float32), 0.3)
    drawn = [random_masks(like, seed) for seed in range(3)]
    assert {removed_share(masks) for masks in drawn} == {removed_share(like)}
    assert {tuple(map(len, masks)) for masks in drawn} == {(24,) * 10}
    assert len({*drawn, like}) == 4
    assert random_masks(like, 0) == drawn[0]


def test_everything_reused_is_every_other_step_skipped() -> None:
    masks = all_reused(ROUTER.masks)
    assert removed_share(masks) == 1
    assert Router(masks=masks).plan(4 * 2).variants == (FULL, "mask_0") * 4
