"""Every experiment declares ways to draw that can be told apart, each beside a reference that is drawn before it."""

from collections.abc import Sequence

import diffusers
import pytest

from deepcache_trt.benchmarks.experiments.declared import experiment_called, experiments
from deepcache_trt.benchmarks.experiments.experiment import Cell, Setting
from deepcache_trt.benchmarks.timing.samplers import parse_sampler
from deepcache_trt.errors import UnknownNameError
from deepcache_trt.runtime.policies import DeepCache

SCHEDULERS = experiment_called("schedulers").schedulers
OWN = diffusers.DDIMScheduler(clip_sample=False)


def cells(name: str, **given: Sequence[int]) -> Sequence[Cell]:
    samplers = tuple(parse_sampler(each, OWN) for each in SCHEDULERS)
    setting = Setting(samplers=samplers, taps=12, steps=50, **{key: tuple(value) for key, value in given.items()})
    return experiment_called(name).cells(setting)


@pytest.mark.parametrize("name", experiments())
@pytest.mark.parametrize("given", [{}, {"intervals": [2, 4], "branches": [0, 3]}])
def test_cells_can_be_told_apart_and_their_references_come_first(name: str, given: dict[str, list[int]]) -> None:
    found = cells(name, **given)
    for distinct in ("name", "folder"):
        assert len({getattr(cell, distinct) for cell in found}) == len(found)
    before: set[str] = set()
    for cell in found:
        assert cell.reference in before | {""}
        before.add(cell.name)
        cell.policy.plan(50)
    if given and name != "diversity":
        assert {cell.policy.cache_interval for cell in found if isinstance(cell.policy, DeepCache)} == {2, 4}


def test_there_is_a_cell_for_every_branch() -> None:
    assert len(cells("branches")) == 1 + 12
    assert len(cells("branches", intervals=[3, 5], branches=[0, 1])) == 1 + 4


def test_each_sampler_is_compared_with_itself() -> None:
    found = cells("schedulers", intervals=[3])
    assert len(found) == 2 * len(SCHEDULERS)
    for cell in found:
        assert (cell.reference == "") == cell.name.endswith("uncached")
        assert cell.name.startswith(cell.reference.removesuffix("uncached"))


def test_power_and_center_are_swept_as_far_as_there_are_such_schedules() -> None:
    of_five = [cell.name for cell in cells("non-uniform", intervals=[5])]
    assert len(of_five) > 1 + 1 + 2
    assert "interval 5, quad 1.5 around 30%" in of_five
    of_two = [cell.name for cell in cells("non-uniform", intervals=[2])]
    assert of_two[:2] == ["uncached", "interval 2, uniform"]
    assert "interval 2, quad 1.2 around 50%" not in of_two, "no exponent above 1 gives 25 distinct calls around call 25"


def test_a_name_is_found_in_both_spellings_and_a_wrong_one_is_named() -> None:
    assert experiment_called("interval_evolution") is experiment_called("interval-evolution")
    with pytest.raises(UnknownNameError, match=r"unknown experiment 'branch' \(did you mean 'branches'"):
        experiment_called("branch")
