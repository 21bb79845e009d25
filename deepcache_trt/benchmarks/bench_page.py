"""The page docs/benchmarks.md: what was measured, and the arithmetic of the published table.

    python -m deepcache_trt.benchmarks.bench_page --out docs/benchmarks.md results/*.json

writes it from results of `deepcache-trt bench`, none of them included; that command writes it of its own result with
`--docs`.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deepcache_trt.benchmarks.bench import read_record
from deepcache_trt.benchmarks.bench_report import markdown
from deepcache_trt.benchmarks.published import Counts, arithmetic, count_published

_HEAD = """# Benchmarks

Written by `deepcache-trt bench --docs docs/benchmarks.md`, or from its results by
`python -m deepcache_trt.benchmarks.bench_page`; nothing here is written by hand. Each section says what it was measured
on, when, and by which command. Repeat it with `deepcache-trt bench --preset cpu` on two cores in 20 minutes, or with
`--preset a5000`, the published grid, on a GPU; neither needs a download with `--random-weights`."""


def page(records: Sequence[Mapping[str, Any]], counts: Counts) -> str:
    """The page.

    Args:
        records: of `bench.measure`.
        counts: of `published.count_published`.
    """
    measured = [markdown(record).rstrip() for record in records]
    return "\n\n".join([_HEAD, *measured, arithmetic(counts)]) + "\n"


def write(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Count the operations and write the page; that takes a minute."""
    text = page(records, count_published())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description="Write the page of benchmarks.")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.md")
    parser.add_argument("results", type=Path, nargs="*", metavar="RESULT.json")
    options = parser.parse_args()
    write(options.out, [read_record(path) for path in options.results])


if __name__ == "__main__":
    main()
