"""What is better than plain reuse, and from which interval on, on the bundled digits: `deepcache-trt reuse`.

It draws the digits 0–9 with every interval, with and without a forecast and with calls left out, all on the same
engines and in turn, and compares each with plain reuse *at equal time*: the error that plain reuse would have if its
interval could be chosen to take just as long, between the intervals that there are.
"""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import numpy as np

from deepcache_trt.benchmarks.alias import run_command
from deepcache_trt.benchmarks.fidelity.distances import relative_error
from deepcache_trt.benchmarks.machine import processor
from deepcache_trt.runtime.policies.deepcache import FORECASTS, DeepCache

INTERVALS = (1, 2, 3, 4, 5, 6, 8, 10, 15)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One way to cache.

    Attributes:
        interval: one call in so many is full.
        skip_interval: of the cached calls each so-manieth is left out; None: none.
        forecast: one of `FORECASTS`, or None.
    """

    interval: int
    skip_interval: int | None = None
    forecast: str | None = None

    @property
    def way(self) -> str:
        """Everything but the interval, in words."""
        reused = {None: "cached calls", 1: "no cached calls", 2: "every other cached call"}[self.skip_interval]
        return f"{reused}, {'reused' if self.forecast is None else f'extrapolated by {self.forecast}'}"


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a setting costs and gives.

    Attributes:
        setting: which.
        seconds: of the denoising loop, the median over the rounds.
        errors: ‖x − x₀‖ / ‖x₀‖ of the final latents x against the uncached x₀, for each seed.
    """

    setting: Setting
    seconds: float
    errors: tuple[float, ...]


def settings() -> list[Setting]:
    """All that are compared: plain reuse at every interval first, uncached before all."""
    plain = [Setting(interval=interval) for interval in INTERVALS]
    cached = [interval for interval in INTERVALS if interval > 1]
    others = [
        Setting(interval=interval, skip_interval=skip, forecast=forecast)
        for skip, forecast in product((None, 1, 2), (None, *FORECASTS))
        if skip or forecast
        for interval in cached
        if skip != 2 or interval > 2  # where a single call is cached there is no other one
    ]
    return plain + others


def measure(pipe: Any, chosen: Sequence[Setting], *, steps: int, seeds: Sequence[int]) -> list[Result]:
    """Draw with every setting in turn, once for each seed; the first seed's round is drawn twice, to warm up."""
    from deepcache_trt.benchmarks.timing.drawing import DIGITS, Scene

    scene = Scene(prompts=DIGITS, steps=steps)
    seconds: dict[Setting, list[float]] = {setting: [] for setting in chosen}
    errors: dict[Setting, list[float]] = {setting: [] for setting in chosen}
    before = pipe.cache_params
    for number, seed in enumerate((seeds[0], *seeds)):
        reference = None
        for setting in chosen:
            drawn = _draw(pipe, setting, scene, seed)
            reference = reference or drawn
            if number:
                seconds[setting].append(drawn.loop_seconds)
                errors[setting].append(relative_error(reference.latents, drawn.latents))
    pipe.set_cache_params(policy=before)
    return [
        Result(setting=setting, seconds=statistics.median(seconds[setting]), errors=tuple(errors[setting]))
        for setting in chosen
    ]


def _draw(pipe: Any, setting: Setting, scene: Any, seed: int) -> Any:
    from deepcache_trt.benchmarks.timing.drawing import draw

    pipe.set_cache_params(
        **asdict(
            DeepCache(cache_interval=setting.interval, skip_interval=setting.skip_interval, forecast=setting.forecast)
        )
    )
    return draw(pipe, scene, seed, decode=False)


def error_of_reuse(plain: Sequence[Result], seconds: float, seed: int) -> float | None:
    """The error of plain reuse that takes `seconds`, on the line between its neighbours; None outside all of them."""
    times, errors = zip(*sorted((result.seconds, result.errors[seed]) for result in plain), strict=True)
    return float(np.interp(seconds, times, errors)) if times[0] <= seconds <= times[-1] else None


def advantage(result: Result, plain: Sequence[Result]) -> float | None:
    """The error of plain reuse at equal time over that of a setting: the median over the seeds; above 1 it wins."""
    ratios = []
    for seed, error in enumerate(result.errors):
        reuse = error_of_reuse(plain, result.seconds, seed)
        if reuse is None:
            return None
        ratios.append(reuse / error)
    return statistics.median(ratios)


def report(results: Sequence[Result], *, steps: int, command: str, where: str) -> str:
    """The page."""
    plain = [result for result in results if result.setting.way == Setting(interval=2).way]
    uncached = results[0].seconds
    lines = [
        "# Better than plain reuse",
        "",
        f"Written by `{command}` on {where}.",
        "",
        f"The ten digits as one batch, {steps} steps, {len(results[0].errors)} seeds, medians. *Error* is the distance "
        "of the final latents from the uncached ones over their norm. *Advantage* is the error that plain reuse has at "
        "equal time, interpolated between its intervals, over the error here: above 1, this is the better way to spend "
        "that time. A dash: plain reuse is never as fast, or as slow.",
    ]
    for way in dict.fromkeys(result.setting.way for result in results):
        lines += [
            "",
            f"## {way[0].upper()}{way[1:]}",
            "",
            "| interval | speed-up | error | advantage |",
            "|---|---|---|---|",
        ]
        for result in results:
            if result.setting.way != way:
                continue
            gain = None if result in plain else advantage(result, plain)
            shown = "" if result in plain else "–" if gain is None else f"{gain:.2f}"
            error = statistics.median(result.errors)
            lines.append(f"| {result.setting.interval} | {uncached / result.seconds:.2f}× | {error:.4f} | {shown} |")
    return "\n".join(lines) + "\n"


def study(*, steps: int, seeds: int, command: str) -> str:
    """Measure the digits with every setting; returns the page, which says that `command` wrote it."""
    from deepcache_trt import DeepCachePipeline

    pipe = DeepCachePipeline.from_pretrained("digits", components=("unet",))
    pipe.set_progress_bar_config(disable=True)
    results = measure(pipe, settings(), steps=steps, seeds=range(seeds))
    return report(results, steps=steps, command=command, where=processor())


if __name__ == "__main__":
    run_command("reuse")
