"""What a search leaves behind: the plan file, the plot, and the options that draw what it found."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deepcache_trt.benchmarks.tune import report as tune_report
from deepcache_trt.benchmarks.tune.candidates import Planned, uncached
from deepcache_trt.benchmarks.tune.costs import SECONDS
from deepcache_trt.benchmarks.tune.draws import Checked
from deepcache_trt.benchmarks.tune.measures import ERROR
from deepcache_trt.benchmarks.tune.plot import save_plot
from deepcache_trt.benchmarks.tune.run import Tuned
from deepcache_trt.benchmarks.tune.search import Search, search
from deepcache_trt.runtime.policies.plan_file import read_plan, write_plan
from tests.benchmarks.made_up import DDIM, UNIPC, costs, quiet, sampling

EIGHT = sampling(8)


@pytest.fixture(scope="module")
def made_up() -> Tuned:
    """Of one sampler, on made-up errors."""

    def error_of(candidate: Planned, seed: int) -> float:
        return (candidate.policy.cache_interval - 1) * (0.3 if candidate.policy.forecast else 1.0)

    found = search(
        0.42, samplings=[EIGHT], branches=(0, 1), costs=costs(8), error_of=error_of, seeds=range(2), tell=quiet
    )
    return checked(found)


@pytest.fixture(scope="module")
def of_samplers() -> Tuned:
    """Of two with two counts of steps each, of which the second one is better."""

    def error_of(candidate: Planned, seed: int) -> float:
        calls, sampler = candidate.sampling.calls, candidate.sampling.sampler
        return (1 if sampler == DDIM else 0.5) / calls + 0.01 * (candidate.policy.cache_interval - 1)

    samplings = [sampling(steps, sampler) for sampler in (DDIM, UNIPC) for steps in (8, 4)]
    found = search(
        0.55, samplings=samplings, branches=(0,), costs=costs(8), error_of=error_of, seeds=range(2), tell=quiet
    )
    return replace(checked(found), truth="DDIM, 1,000 steps")


def checked(found: Search) -> Tuned:
    whole = Checked(candidate=uncached(EIGHT), cost=1, errors=(0, 0), loop_seconds=(4, 8))
    chosen = replace(whole, candidate=found.best.candidate, errors=(0.01, 0.03), loop_seconds=(2, 4))
    return Tuned(
        found=found,
        asked="a budget",
        costs=costs(8),
        checked={"uncached": whole, "chosen": replace(chosen, caching_errors=(0.02, 0.04))},
        measure=ERROR,
        truth="",
        images=2,
    )


def test_the_plan_file_says_what_it_was_found_for_and_what_was_measured(made_up: Tuned, tmp_path: Path) -> None:
    write_plan(tmp_path / "plan.json", tune_report.plan_file(made_up, model="digits"))
    read = read_plan(tmp_path / "plan.json")
    assert read.policy == made_up.chosen.policy
    assert {"model": "digits", "steps": 8, "scheduler": "DDIM"}.items() <= read.about.items()
    assert {"against": "the uncached run", "found_by": "deepcache-trt tune"}.items() <= read.about.items()
    assert {"asked": "a budget", "error": 0.02, "speedup": 2}.items() <= read.about.items()
    by_clock = replace(made_up, costs=replace(made_up.costs, unit=SECONDS))
    assert tune_report.plan_file(by_clock, model="digits").about["seconds_an_image"] == 1.5
    assert tune_report.options(made_up) == ["--steps", "8"]


def test_another_pace_of_the_machine_is_told(made_up: Tuned) -> None:
    """Checked were 3 s an uncached image."""
    for timed, said in ((3.3, False), (2.7, False), (4.0, True), (2.0, True)):
        tuned = replace(made_up, costs=replace(made_up.costs, unit=SECONDS, whole=timed))
        assert (f"An uncached image took {timed:.3g} s when calls" in tune_report.pace(tuned)) == said
        page = tune_report.page(tuned, title="Plans", command="tune", environment={}, plot=None)
        assert ("had other work." in page) == said
    assert tune_report.pace(made_up) == "", "operations have no pace"


def test_of_several_samplers_each_row_says_which_and_what_caching_changed(of_samplers: Tuned) -> None:
    header, lines = tune_report.table(of_samplers)
    assert header == [
        "",
        "sampler, steps",
        "plan",
        "MACs, of uncached",
        "error",
        "error of caching",
        "loop, s",
        "speed-up",
    ]
    assert [line[:3] for line in lines] == [
        ["uncached", "DDIM 8", "uncached"],
        ["chosen", "UniPCMultistep 8", of_samplers.chosen.policy.in_words],
    ]
    assert [line[header.index("error of caching")] for line in lines] == ["", "0.0300"]
    assert tune_report.options(of_samplers) == ["--scheduler", "UniPCMultistep", "--steps", "8"]
    text = tune_report.page(of_samplers, title="Plans", command="tune", environment={}, plot=None)
    assert "| UniPCMultistep 8 | uncached | 100.0% | 0.0625 |" in text


@pytest.mark.parametrize("suffix", ["png", "svg"])
@pytest.mark.parametrize("name", ["made_up", "of_samplers"])
def test_the_front_is_plotted(suffix: str, name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    tuned, path = request.getfixturevalue(name), tmp_path / f"front.{suffix}"
    assert save_plot(tuned.found, path, title="Plans", unit="MACs", truth=tuned.truth) == ""
    if suffix == "png":
        with Image.open(path) as image:
            assert min(image.size) >= 600
            assert len(np.unique(np.asarray(image.convert("L")))) > 50
    else:
        text = path.read_text()
        assert text.count("<path") > 20
        for line in ("DDIM, uncached by its steps", "UniPCMultistep, uncached by its steps"):
            assert (f"<!-- {line} -->" in text) == bool(tuned.truth)


def test_without_matplotlib_there_is_a_reason_and_no_plot(
    made_up: Tuned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(made_up.found, Search)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    said = save_plot(made_up.found, tmp_path / "front.png", title="Plans", unit="MACs")
    assert "pip install 'deepcache-trt[eval]'" in said
    assert not list(tmp_path.iterdir())
