"""The rows of a CPU check: what is required, what was measured, and what explains it; values in, values out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from deepcache_trt.benchmarks.counting.macs import ideal_speedup
from deepcache_trt.benchmarks.report import gib, markdown_table
from deepcache_trt.benchmarks.timing.turns import Outcome, Spread, ratio, spread
from deepcache_trt.runtime.plan import FULL

# What systems are compared by.
_LOOP = "loop_seconds"

# From here on the two engines do not work at the same pace.
_SAME_PACE = 0.05


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table.

    Attributes:
        measure: what is measured.
        required: the least that passes, or with `at_most` the most; None: it is only reported.
        unit: "×", "" for a share of an ideal, or "%": figures are shares of one all the same.
        measured: None: there is no figure, and `detail` says why.
        detail: what the figure is made of.
    """

    measure: str
    required: float | None = None
    at_most: bool = False
    unit: str = "×"
    measured: Spread | None = None
    detail: str = ""

    @property
    def passed(self) -> bool | None:
        """Whether the median is as required; None where nothing is required."""
        if self.required is None:
            return None
        if self.measured is None:
            return False
        median = self.measured.median
        return median <= self.required if self.at_most else median >= self.required

    def record(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "passed": self.passed}


def speed_row(row: Row, slow: Outcome, fast: Outcome) -> Row:
    """`row` with the ratio of the medians of two denoising loops; its spread is that of the ratio of each round."""

    def measure() -> Row:
        medians = {outcome.name: spread(outcome.figures(_LOOP)).median for outcome in (fast, slow)}
        return _filled(row, _ratio(slow, fast), ", ".join(f"{name} {median:.3g} s" for name, median in medians.items()))

    return _unless_failed(row, (slow, fast), measure)


def outside_row(row: Row, ours: Outcome) -> Row:
    """`row` with the share of the denoising loop, its first call included, in which no engine runs."""

    def measure() -> Row:
        loop, engines = ours.figures(_LOOP), ours.figures("engines_seconds")
        ways = {sample["way"] for sample in ours.samples}
        if ways != {"whole loop"}:
            return _filled(row, None, f"the loop was run {', '.join(sorted(ways))}")
        shares = [1 - inside / whole for inside, whole in zip(engines, loop, strict=True)]
        outside = spread([whole - inside for inside, whole in zip(engines, loop, strict=True)]).median
        return _filled(row, spread(shares), f"{1e3 * outside:.3g} ms of {1e3 * spread(loop).median:.4g} ms")

    return _unless_failed(row, (ours,), measure)


def ideal_row(row: Row, uncached: Outcome, cached: Outcome, macs: Mapping[str, int]) -> Row:
    """`row` with the speed-up by caching as a share of the one by operations.

    Args:
        row: without a figure.
        uncached: ours at interval 1.
        cached: ours at a larger one.
        macs: of one run of each variant; empty: they could not be counted.
    """

    def measure() -> Row:
        if not macs:
            return _filled(row, None, "there is no graph whose operations could be counted")
        counts = {variant: int(cached.samples[0][f"{variant}_runs"]) for variant in macs}
        ideal = ideal_speedup(macs, counts)
        speedup = _ratio(uncached, cached)
        share = Spread(median=speedup.median / ideal, low=speedup.low / ideal, high=speedup.high / ideal)
        seconds = {variant: spread(cached.figures(f"{variant}_seconds")).median for variant in macs}
        alone = spread(uncached.figures("full_seconds")).median
        allowed = ideal_speedup({**seconds, FULL: alone}, counts)
        return _filled(
            row,
            share,
            f"{speedup.median:.2f}× of {ideal:.2f}×; the engines' own times allow {allowed:.2f}×: "
            f"full {_milliseconds(alone)} (interval 1) and {_milliseconds(seconds['full'])}, "
            f"shallow {_milliseconds(seconds['shallow'])}; {_pace(macs, seconds)}",
        )

    return _unless_failed(row, (uncached, cached), measure)


def memory_row(row: Row, ours: Outcome, plain: Outcome) -> Row:
    """`row` with the peak memory of our process over that of plain diffusers."""

    def measure() -> Row:
        peaks = ours.peak_bytes, plain.peak_bytes
        if None in peaks:
            return _filled(row, None, "this system does not tell a process's peak memory")
        share = (ours.peak_bytes or 0) / (plain.peak_bytes or 1)
        anonymous = f"{gib(ours.peak_anonymous_bytes)} against {gib(plain.peak_anonymous_bytes)}"
        return _filled(
            row,
            spread([share]),
            f"{gib(peaks[0])} against {gib(peaks[1])} GiB; without pages of mapped files {anonymous} GiB",
        )

    return _unless_failed(row, (ours, plain), measure)


def markdown(
    facts: Mapping[str, Any],
    rows: Sequence[Row],
    groups: Mapping[str, Sequence[Outcome]],
    distances: Mapping[str, Mapping[str, float | None]],
) -> str:
    """The report.

    Args:
        facts: about the machine and what is drawn.
        rows: of the table.
        groups: of systems, by name.
        distances: see `fidelity.latent_distances`, by system.
    """
    systems = [
        [group, outcome.name, *_times(outcome), *_memory(outcome), *_distance(distances, outcome.name), outcome.error]
        for group, outcomes in groups.items()
        for outcome in outcomes
    ]
    header = ["group", "system", "load, s", "first image, s", "loop, s", "min – max", "image, s", "peak, GiB"]
    header += ["anonymous, GiB", "free before, GiB", "max abs", "PSNR, dB", "failed"]
    return "\n\n".join(
        [
            f"# CPU check: {facts['model']}",
            markdown_table(
                ["", "required", "measured (median)", "min – max", "passed", "made of"], [*map(_cells, rows)]
            ),
            "Each system ran in a process of its own, one image in turn. Max abs and PSNR: final latents against those "
            "of uncached float32 diffusers from the same seed.",
            markdown_table(header, systems),
            markdown_table(["", ""], [[name, value] for name, value in facts.items()]),
        ]
    )


def _filled(row: Row, measured: Spread | None, detail: str) -> Row:
    return replace(row, measured=measured, detail=detail)


def _unless_failed(row: Row, outcomes: Sequence[Outcome], measure: Callable[[], Row]) -> Row:
    failed = [f"{outcome.name}: {outcome.error}" for outcome in outcomes if outcome.error]
    return _filled(row, None, "; ".join(failed)) if failed else measure()


def _ratio(slow: Outcome, fast: Outcome) -> Spread:
    """Of the medians, between the smallest and the largest of a round."""
    medians = [spread(outcome.figures(_LOOP)).median for outcome in (slow, fast)]
    return replace(ratio(slow, fast, _LOOP), median=medians[0] / medians[1])


def _pace(macs: Mapping[str, int], seconds: Mapping[str, float]) -> str:
    """Operations a second of each engine, and what follows where they differ."""
    pace = {variant: macs[variant] / seconds[variant] for variant in macs}
    told = f"{pace['full'] / 1e9:.0f} and {pace['shallow'] / 1e9:.0f} GMAC/s"
    share = pace["shallow"] / pace["full"]
    if abs(share - 1) <= _SAME_PACE:
        return told
    return f"{told}: the shallow engine works at {share:.2f} of the full one's pace, which the ideal does not know"


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.4g} ms"


def _number(value: float, unit: str) -> str:
    return f"{100 * value:.2f} %" if unit == "%" else f"{value:.3g}{unit}"


def _cells(row: Row) -> list[str]:
    required = "" if row.required is None else f"{'≤' if row.at_most else '≥'} {_number(row.required, row.unit)}"
    median = extent = ""
    if row.measured is not None:
        median = _number(row.measured.median, row.unit)
        extent = " – ".join(dict.fromkeys(_number(end, row.unit) for end in (row.measured.low, row.measured.high)))
    return [row.measure, required, median, extent, {True: "✓", False: "✗", None: ""}[row.passed], row.detail]


def _times(outcome: Outcome) -> list[str]:
    begun = ["" if value is None else f"{value:.1f}" for value in (outcome.load_seconds, outcome.first_call_seconds)]
    if not outcome.figures("seconds"):
        return [*begun, "", "", ""]
    loop, whole = (spread(outcome.figures(name)) for name in (_LOOP, "seconds"))
    return [*begun, f"{loop.median:.3g}", f"{loop.low:.3g} – {loop.high:.3g}", f"{whole.median:.3g}"]


def _memory(outcome: Outcome) -> list[str]:
    return [gib(outcome.peak_bytes), gib(outcome.peak_anonymous_bytes), gib(outcome.available_bytes)]


def _distance(distances: Mapping[str, Mapping[str, float | None]], name: str) -> list[str]:
    figures = distances.get(name, {})
    return ["" if (value := figures.get(figure)) is None else f"{value:.3g}" for figure in ("max_abs", "psnr_db")]
