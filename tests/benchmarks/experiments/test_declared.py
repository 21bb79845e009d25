"""Every experiment declares ways to draw that can be told apart, each beside a reference that is drawn before it."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import pytest

from deepcache_trt.benchmarks.experiments.comparison import compare, prompted
from deepcache_trt.benchmarks.experiments.comparison.cells import Cell
from deepcache_trt.benchmarks.experiments.declared import experiments
from deepcache_trt.benchmarks.experiments.experiment import Job
from deepcache_trt.benchmarks.experiments.results_folder import ResultsFolder
from deepcache_trt.errors import DeepCacheError
from deepcache_trt.progress import logged
from deepcache_trt.runtime.policies import DeepCache

OF_PROMPTS = ("branches", "diversity", "generate", "interval-evolution", "non-uniform", "schedulers")


class ToldError(Exception):
    """The cells, in the place of their pictures."""


@pytest.fixture
def job(tmp_path: Path) -> Job:
    folder = ResultsFolder(tmp_path / "out", config={}, environment={})
    return Job(folder=folder, store=None, limit=None, workers=None, progress=logged, tell=lambda line: None)


@pytest.fixture
def cells(job: Job, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that gives the cells of an experiment, for a model of twelve branches that nobody loads."""

    def told(cells: Sequence[Cell], *args: Any, **options: Any) -> None:
        raise ToldError(list(cells))

    monkeypatch.setattr(compare, "compare", told)
    loaded = SimpleNamespace(branches=12, own_scheduler=diffusers.DDIMScheduler(clip_sample=False))
    monkeypatch.setattr(prompted.FromPrompts, "pipes", lambda self: loaded)

    def function(name: str, **given: Any) -> Sequence[Cell]:
        experiment = experiments()[name]
        with pytest.raises(ToldError) as found:
            experiment.find(experiment.options(**given), job)
        return found.value.args[0]  # type: ignore[no-any-return]

    return function


@pytest.mark.parametrize("name", OF_PROMPTS)
@pytest.mark.parametrize("given", [{}, {"interval": (2, 4)}])
def test_cells_can_be_told_apart_and_their_references_come_first(name: str, given: Any, cells: Any) -> None:
    found = cells(name, **given)
    for distinct in ("name", "folder"):
        assert len({getattr(cell, distinct) for cell in found}) == len(found)
    before: set[str] = set()
    for cell in found:
        assert cell.reference in before | {""}
        before.add(cell.name)
        cell.policy.plan(50)
    if given:
        assert {cell.policy.cache_interval for cell in found if isinstance(cell.policy, DeepCache)} == {2, 4}


def test_there_is_a_cell_for_every_branch(cells: Any) -> None:
    assert len(cells("branches")) == 1 + 12
    assert len(cells("branches", interval=(3, 5), branch=(0, 1))) == 1 + 4


def test_each_sampler_is_compared_with_itself(cells: Any) -> None:
    found = cells("schedulers", interval=(3,))
    assert len(found) == 2 * 6
    for cell in found:
        assert (cell.reference == "") == cell.name.endswith("uncached")
        assert cell.name.startswith(cell.reference.removesuffix("uncached"))


def test_power_and_center_are_swept_as_far_as_there_are_such_schedules(cells: Any) -> None:
    of_five = [cell.name for cell in cells("non-uniform", interval=(5,))]
    assert len(of_five) > 1 + 1 + 2
    assert "interval 5, quad 1.5 around 30%" in of_five
    of_two = [cell.name for cell in cells("non-uniform", interval=(2,))]
    assert of_two[:2] == ["uncached", "interval 2, uniform"]
    assert "interval 2, quad 1.2 around 50%" not in of_two, "no exponent above 1 gives 25 distinct calls around call 25"
    swept = [cell.name for cell in cells("non-uniform", interval=(5,), power=(1.3,), center=(0.4,))]
    assert swept[1:] == [f"interval 5, {way}" for way in ("uniform", "quad 1.3", "quad 1.3 around 40%")]


@pytest.mark.parametrize("name", experiments())
@pytest.mark.parametrize("option", ["steps", "batch", "seeds", "images", "seed"])
def test_a_number_below_its_least_is_refused_by_name(name: str, option: str) -> None:
    options = experiments()[name].options
    if option in options.LEAST:
        with pytest.raises(DeepCacheError, match=f"^{option} -1 is below {options.LEAST[option]}; give at least that"):
            options(**{option: -1})


@pytest.mark.parametrize("name", experiments())
def test_a_name_is_its_file_and_says_what_it_shows_in_a_sentence(name: str) -> None:
    experiment = experiments()[name]
    assert experiment.find.__module__.endswith(f".{name.replace('-', '_')}")
    assert experiment.says.endswith(".")
    assert experiment.says.count(". ") == 0
