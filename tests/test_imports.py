"""Who may import whom: imports go down only, those inside functions and for type checkers too."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import deepcache_trt

PACKAGE = Path(deepcache_trt.__file__).parent

LEAVES = {"arguments", "documents", "errors", "foreign", "tensors", "progress", "samplers", "tracing"}
LAYERS = {"models", "export", "engines", "runtime", "builder", "pipelines"}
# What each study is made of, and the studies, which know nothing of one another.
COUNTING, TIMING, FIDELITY = (f"benchmarks.{name}" for name in ("counting", "timing", "fidelity"))
WRITING = {"benchmarks.report", "benchmarks.machine"}
ALIAS = "benchmarks.alias"
MEASURING = WRITING | {COUNTING, TIMING, FIDELITY}
STUDIES = {
    f"benchmarks.{name}"
    for name in (
        *("bench", "evaluate", "tune", "cpu_check", "gpu_check", "demo", "sampling", "experiments"),
        *("overhead", "shapes", "reuse", "forms", "masks", "quality", "threads", "self_test", "sensitivity"),
    )
}
BENCHMARKS = MEASURING | STUDIES
ALLOWED = {
    **{leaf: LEAVES - {leaf} for leaf in LEAVES},
    "models": LEAVES,
    "export": LEAVES | {"models"},
    "engines": LEAVES,
    "runtime": LEAVES | {"engines", "models"},
    "builder": LEAVES | LAYERS - {"pipelines"},
    "pipelines": LEAVES | LAYERS,
    "benchmarks.__init__": set(),
    ALIAS: set(),
    "benchmarks.report": LEAVES,
    "benchmarks.machine": LEAVES | {"engines"},
    COUNTING: LEAVES | LAYERS | WRITING,
    TIMING: LEAVES | LAYERS | WRITING,
    FIDELITY: LEAVES | LAYERS | WRITING | {TIMING},
    **dict.fromkeys(STUDIES, LEAVES | LAYERS | MEASURING | {ALIAS}),
    # It fills folders as sampling does.
    "benchmarks.experiments": LEAVES | LAYERS | MEASURING | {"benchmarks.sampling"},
    "benchmarks.memory": {ALIAS},
    # It runs no engine; the digits that it learns from are those that pictures are judged by.
    "training": LEAVES | LAYERS - {"pipelines"} | {FIDELITY, TIMING},
    "serving": LEAVES | LAYERS,
    "ui": LEAVES | LAYERS | {"serving"},
    "commands": LEAVES | LAYERS | BENCHMARKS | {"training", "serving", "ui"},
    "cli": LEAVES | LAYERS | BENCHMARKS | {"training", "serving", "ui", "commands"},
    "__init__": {"pipelines"},
}


def part(module: Path) -> str:
    """The folder or top-level module that a file belongs to; of the benchmarks, that inside."""
    head, *tail = module.relative_to(PACKAGE).with_suffix("").parts
    return f"{head}.{tail[0]}" if head == "benchmarks" else head


def imported_parts(source: str) -> Iterator[str]:
    """What `source` imports of the package; its public names belong to the pipelines."""
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names]
        for name in names:
            assert not name.startswith("."), f"relative import {name}"
            head, *tail = name.split(".")
            if head == "deepcache_trt" and tail != ["__version__"]:
                inside = ".".join(tail[: 2 if tail[:1] == ["benchmarks"] else 1])
                yield inside if inside in ALLOWED else "pipelines"


MODULES = sorted(PACKAGE.rglob("*.py"))


def test_every_part_of_the_package_has_its_place_in_the_order() -> None:
    assert {part(module) for module in MODULES} == set(ALLOWED)


@pytest.mark.parametrize("module", MODULES, ids=lambda module: str(module.relative_to(PACKAGE)))
def test_imports_go_down_only(module: Path) -> None:
    own = part(module)
    upward = set(imported_parts(module.read_text(encoding="utf-8"))) - ALLOWED[own] - {own}
    assert not upward, f"{own} imports {', '.join(sorted(upward))}; it may import {', '.join(sorted(ALLOWED[own]))}"


@pytest.mark.parametrize(
    ("source", "parts"),
    [
        ("import torch, deepcache_trtx", set()),
        ("from deepcache_trt import __version__", set()),
        ("from deepcache_trt import DeepCachePipeline", {"pipelines"}),
        ("import deepcache_trt", {"pipelines"}),
        ("import deepcache_trt.engines.store as store", {"engines"}),
        ("from deepcache_trt.export.cut import cut", {"export"}),
        ("from deepcache_trt import cli", {"cli"}),
        ("from deepcache_trt.benchmarks import report", {"benchmarks.report"}),
        ("from deepcache_trt.benchmarks.bench.grid import Cell", {"benchmarks.bench"}),
        ("def f():\n    from deepcache_trt.models import taps", {"models"}),
        ("if TYPE_CHECKING:\n    from deepcache_trt.runtime.plan import Plan", {"runtime"}),
    ],
)
def test_an_import_in_any_form_is_seen(source: str, parts: set[str]) -> None:
    assert set(imported_parts(source)) == parts


@pytest.mark.parametrize(
    "module",
    [
        "deepcache_trt",
        "deepcache_trt.cli",
        "deepcache_trt.engines.store",
        "deepcache_trt.engines.backends",
        "deepcache_trt.runtime.plan",
        "deepcache_trt.models.catalogue",
    ],
)
def test_these_need_neither_torch_nor_diffusers_to_be_imported(module: str) -> None:
    code = f"import sys, {module}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60).stdout
    assert not {"torch", "diffusers", "transformers", "onnx", "onnxruntime"} & set(loaded.split())


def test_importing_the_package_takes_less_than_three_tenths_of_a_second() -> None:
    code = "import time; t = time.perf_counter(); import deepcache_trt; print(time.perf_counter() - t)"
    seconds = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60
    ).stdout
    assert float(seconds) < 0.3


def test_an_unknown_name_of_the_package_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'DeepCachePipelin'"):
        deepcache_trt.DeepCachePipelin  # noqa: B018
