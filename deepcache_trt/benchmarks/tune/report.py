"""What `deepcache-trt tune` leaves behind: a plan file, the figures as JSON, and a page."""

import statistics
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from deepcache_trt.benchmarks.fidelity.distances import finite
from deepcache_trt.benchmarks.report import markdown_table
from deepcache_trt.benchmarks.tune.candidates import AnyCandidate
from deepcache_trt.benchmarks.tune.cheapest import Cheapest
from deepcache_trt.benchmarks.tune.costs import SECONDS
from deepcache_trt.benchmarks.tune.draws import Checked
from deepcache_trt.benchmarks.tune.run import CHOSEN, REFERENCE, Tuned
from deepcache_trt.benchmarks.tune.search import Search
from deepcache_trt.runtime.policies.plan_file import PlanFile

_UNCACHED = "the uncached run"

# Times whose ratio is within this are those of one pace of the machine.
_SAME_PACE = 1.2


def plan_file(tuned: Tuned, *, model: str) -> PlanFile:
    """The best plan, what it is for, and what it was like on the seeds that nothing was chosen by."""
    best, chosen = tuned.found.best, tuned.checked[CHOSEN]
    sampling = best.candidate.sampling
    seconds = statistics.median(chosen.loop_seconds) / tuned.images
    about = {
        "model": model,
        "scheduler": sampling.sampler.name,
        "steps": sampling.steps,
        "asked": tuned.asked,
        "cost": round(best.cost, 4),
        "cost_of": f"{tuned.costs.unit} over those of {_reference_in_words(tuned)}",
        tuned.measure.name: round(statistics.mean(chosen.errors), 5),
        "against": tuned.truth or _UNCACHED,
        "speedup": round(_speedup(chosen, tuned.checked[REFERENCE]), 2),
        **({"seconds_an_image": round(seconds, 5)} if tuned.costs.unit == SECONDS else {}),
        "found_by": "deepcache-trt tune",
    }
    return PlanFile(policy=best.candidate.policy, about=about)


def _reference_in_words(tuned: Tuned) -> str:
    return tuned.checked[REFERENCE].candidate.in_words if tuned.truth else "the uncached image"


def options(tuned: Tuned) -> list[str]:
    """Those of `deepcache-trt generate` that draw what was found, besides the plan file."""
    sampling = tuned.chosen.sampling
    return [*(["--scheduler", sampling.sampler.name] if tuned.truth else []), "--steps", str(sampling.steps)]


def record(tuned: Tuned) -> dict[str, Any]:
    """For JSON."""
    costs = tuned.costs
    calls = [{"branch": branch, "forecast": forecast, **calls} for (branch, forecast), calls in costs.calls.items()]
    plans = {name: {**asdict(plan), "errors": [*map(finite, plan.errors)]} for name, plan in tuned.checked.items()}
    return {
        "asked": tuned.asked,
        "against": tuned.truth or _UNCACHED,
        "costs": {
            "unit": costs.unit,
            "uncached_image": costs.whole,
            "reference_calls": costs.reference_calls,
            "calls_over_a_full_one": calls,
        },
        **asdict(tuned.found),
        "checked": plans,
    }


def table(tuned: Tuned) -> tuple[list[str], list[list[str]]]:
    """The header and the lines: candidates on the seeds that nothing was chosen by."""
    unit, measure, reference = tuned.costs.unit, tuned.measure, tuned.checked[REFERENCE]
    header = ["", *_plan_header(tuned), f"{unit}, of uncached", measure.heading]
    header += [*(["error of caching"] if tuned.truth else []), "loop, s", "speed-up"]
    lines = []
    for name, plan in tuned.checked.items():
        cells = [name, *_plan_cells(tuned, plan.candidate), f"{plan.cost:.1%}"]
        cells.append(measure.in_words(statistics.mean(plan.errors)))
        if tuned.truth:
            cells.append(f"{statistics.mean(plan.caching_errors):.4f}" if plan.caching_errors else "")
        lines.append([*cells, f"{statistics.median(plan.loop_seconds):.3g}", f"{_speedup(plan, reference):.2f}×"])
    return header, lines


def _plan_header(tuned: Tuned) -> list[str]:
    return ["sampler, steps", "plan"] if tuned.truth else ["plan"]


def _plan_cells(tuned: Tuned, candidate: AnyCandidate) -> list[str]:
    return [*([candidate.sampling.in_words] if tuned.truth else []), candidate.policy.in_words]


def _speedup(plan: Checked, reference: Checked) -> float:
    """The median of the rounds' ratios: a slow moment of the machine falls on both sides of one."""
    rounds = zip(reference.loop_seconds, plan.loop_seconds, strict=True)
    return statistics.median(theirs / ours for theirs, ours in rounds)


def pace(tuned: Tuned) -> str:
    """What has to be said where the machine had another pace when calls were timed; "": nothing."""
    if tuned.costs.unit != SECONDS:
        return ""
    timed, checked = tuned.costs.whole, statistics.median(tuned.checked[REFERENCE].loop_seconds) / tuned.images
    if 1 / _SAME_PACE < timed / checked < _SAME_PACE:
        return ""
    return (
        f"An uncached image took {timed:.3g} s when calls were timed, and {checked:.3g} s when plans were checked: "
        "shares and speed-ups hold, but times in seconds are of a machine that had other work"
    )


def page(tuned: Tuned, *, title: str, command: str, environment: Mapping[str, str], plot: str | None) -> str:
    """The page of one search.

    Args:
        tuned: what it found.
        title: of the page.
        command: that wrote it.
        environment: of the machine.
        plot: the file of the plot; None: there is none.
    """
    found = tuned.found
    above, below = _of_goal(tuned, found) if isinstance(found, Cheapest) else _of_search(tuned, found, plot)
    sections = [
        f"# {title}",
        f"Written by `{command}`.",
        above,
        "## On seeds that nothing was chosen by",
        markdown_table(*table(tuned)),
        *([f"{said}."] if (said := pace(tuned)) else []),
        *below,
        markdown_table(["", ""], [[name, value] for name, value in environment.items()]),
    ]
    return "\n\n".join(sections) + "\n"


def _of_search(tuned: Tuned, search: Search, plot: str | None) -> tuple[str, list[str]]:
    """What a page says of a search within a budget, above the plans that were checked and below."""
    unit, (considered, drawn) = tuned.costs.unit, search.considered
    front = [
        [*_plan_cells(tuned, result.candidate), f"{result.cost:.1%}", f"{result.error:.4f}"] for result in search.front
    ]
    above = (
        f"The budget is {search.budget:.1%} of the uncached {unit}{_of_reference(tuned)}. Of {considered} plans, "
        f"{drawn} were drawn from all seeds. *Error* is the distance of the final latents from "
        f"{_true_latents(tuned)} over their norm, the mean over seeds."
    )
    return above, [
        "## What other budgets buy",
        *([] if plot is None else [f"![Cost and error of the plans]({plot})"]),
        "Everything that is neither dearer nor worse than another plan, on the seeds of the search:",
        markdown_table([*_plan_header(tuned), f"{unit}, of uncached", "error"], front),
    ]


def _of_goal(tuned: Tuned, found: Cheapest) -> tuple[str, list[str]]:
    """The same of a search for the cheapest plan of a fidelity."""
    measure, (considered, drawn) = tuned.measure, found.considered
    passed = [
        [*_plan_cells(tuned, result.candidate), f"{result.cost:.1%}", measure.in_words(abs(result.error))]
        for result in reversed(found.passed)
    ]
    against = (
        f"the solution of the same seed by {tuned.truth}" if tuned.truth else "the uncached picture of the same seed"
    )
    above = (
        f"Asked for: {tuned.asked}, against {against}, the mean over seeds. Of {considered} plans, {drawn} were drawn, "
        "and of the cheapest that seemed near enough "
        + ("the first one" if found.attempts == 1 else f"number {found.attempts}")
        + f" was so on seeds of its own too. Costs are over those{_of_reference(tuned) or ' of the uncached run'}."
    )
    return above, [
        "## What passed on the way",
        "Near enough on the seeds of the search, the cheapest first:",
        markdown_table([*_plan_header(tuned), f"{tuned.costs.unit}, of uncached", measure.heading], passed),
    ]


def _of_reference(tuned: Tuned) -> str:
    return f" of {tuned.checked[REFERENCE].candidate.sampling.in_words}" if tuned.truth else ""


def _true_latents(tuned: Tuned) -> str:
    return f"those of the solution, by {tuned.truth} from the same noise," if tuned.truth else "the uncached ones"
