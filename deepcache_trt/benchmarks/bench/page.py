"""The page docs/benchmarks.md: what was measured, and the arithmetic of the published table.

    python -m deepcache_trt.benchmarks.bench.page --out docs/benchmarks.md results/*.json

writes it from results of `deepcache-trt bench`, none of them included; that command writes it of its own result with
`--docs`. With `--compare` it says beside each result how far from it another one is.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from deepcache_trt.benchmarks.bench.compare import compare
from deepcache_trt.benchmarks.bench.figures import Figures
from deepcache_trt.benchmarks.bench.measure import read_record
from deepcache_trt.benchmarks.bench.published import Counts, arithmetic, count_published
from deepcache_trt.benchmarks.bench.report import markdown

_HEAD = """# Benchmarks

Written by `deepcache-trt bench --docs docs/benchmarks.md`, or from its results by
`python -m deepcache_trt.benchmarks.bench.page`; nothing here is written by hand. Each section says what it was measured
on, when, and by which command. Repeat it with `deepcache-trt bench --preset cpu`, a grid for a few cores, or with
`--preset a5000`, the published grid, on a GPU; neither needs a download with `--random-weights`."""


_NOTHING = "Nothing has been measured for this page yet."


def page(results: Sequence[Figures], counts: Counts, *, chart: str = "", earlier: Figures | None = None) -> str:
    """The page.

    Args:
        results: one section each.
        counts: of `published.count_published`.
        chart: where that of the first result is, as the page has to say it; "": there is none.
        earlier: a result that each of them is compared with.

    Raises:
        DeepCacheError: they cannot be compared.
    """
    measured = []
    for figures in results:
        measured += [markdown(figures).rstrip(), *([] if earlier is None else [compare(figures, earlier)])]
    measured = measured or [_NOTHING]
    pictures = [f"![Seconds of a call, by size, batch and plan]({chart})"] if chart else []
    return "\n\n".join([_HEAD, *pictures, *measured, arithmetic(counts)]) + "\n"


def write(path: Path, results: Sequence[Figures], *, chart: Path | None = None, earlier: Figures | None = None) -> None:
    """Count the operations and write the page; that takes a minute."""
    picture = "" if chart is None else Path(os.path.relpath(chart, path.parent)).as_posix()
    text = page(results, count_published(), chart=picture, earlier=earlier)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description="Write the page of benchmarks.")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.md")
    parser.add_argument("--chart", type=Path, metavar="FILE.svg", help="of the first result, drawn before")
    parser.add_argument("--compare", type=Path, metavar="OTHER.json", help="a result of the same, run another time")
    parser.add_argument("results", type=Path, nargs="*", metavar="RESULT.json")
    options = parser.parse_args()
    results = [Figures(read_record(path)) for path in options.results]
    earlier = None if options.compare is None else Figures(read_record(options.compare))
    write(options.out, results, chart=options.chart, earlier=earlier)


if __name__ == "__main__":
    main()
