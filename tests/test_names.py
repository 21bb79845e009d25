"""Backends and classes of models are known by name in their own files only; everything else asks their values."""

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

import deepcache_trt
from deepcache_trt.engines import backends
from deepcache_trt.models.registry import FAMILIES

PACKAGE = Path(deepcache_trt.__file__).parent
BACKENDS = {backend.name for backend in backends.OWN}
CLASSES = {family.class_name for family in FAMILIES} | {name for family in FAMILIES for name in family.straight}
CLASSES |= {name for family in FAMILIES for name in family.containers}

# Their own files. Of some the name is also that of a library, which is imported, found or told of by it.
AT_HOME = {"engines/tensorrt", "engines/onnxruntime", "engines/openvino", "engines/torch", "models/families"}
LIBRARIES = {"torch", "onnxruntime", "openvino", "tensorrt"}

# Which system a study is about is its subject, as its command's help says.
SUBJECTS = {"benchmarks/cpu_check/check.py": {"openvino"}}

MODULES = [
    path
    for path in sorted(PACKAGE.rglob("*.py"))
    if not any(str(path.relative_to(PACKAGE)).startswith(home) for home in AT_HOME)
]


def texts(nodes: Iterable[ast.AST | None]) -> Iterator[str]:
    """Those of the nodes that are texts."""
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def compared(tree: ast.AST) -> Iterator[str]:
    """Texts that something is compared with, matched against, looked up by or listed with."""
    for node in ast.walk(tree):
        parts: list[ast.AST | None] = []
        match node:
            case ast.Compare(left=left, comparators=others):
                parts = [left, *others]
            case ast.MatchValue(value=value):
                parts = [value]
            case ast.Tuple(elts=elements) | ast.List(elts=elements) | ast.Set(elts=elements):
                parts = list(elements)
            case ast.Dict(keys=keys):
                parts = list(keys)
            case ast.Call(func=ast.Attribute(attr="startswith" | "endswith"), args=arguments):
                parts = list(arguments)
        yield from texts(parts)


def tables_of_backends(tree: ast.AST) -> Iterator[set[str]]:
    """The names of backends in each collection; that of a library alone says nothing about a backend."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Tuple | ast.List | ast.Set | ast.Dict):
            elements = node.keys if isinstance(node, ast.Dict) else node.elts
            yield set(texts(elements)) & BACKENDS


@pytest.mark.parametrize("module", MODULES, ids=lambda module: str(module.relative_to(PACKAGE)))
def test_no_name_of_a_backend_or_of_a_class_of_models_outside_its_own_file(module: Path) -> None:
    tree = ast.parse(module.read_text(encoding="utf-8"))
    allowed = LIBRARIES | SUBJECTS.get(str(module.relative_to(PACKAGE)), set())
    assert not set(compared(tree)) & (BACKENDS - allowed)
    assert not set(compared(tree)) & CLASSES
    assert all(len(names) < 2 for names in tables_of_backends(tree)), "a table of backends; ask their values"


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("name == 'tensorrt-rtx'", {"tensorrt-rtx"}),
        ("match name:\n    case 'torch-compile': pass", {"torch-compile"}),
        ("name in ('UNet2DModel', x)", {"UNet2DModel"}),
        ("{'AutoencoderKL': 1}", {"AutoencoderKL"}),
        ("name.startswith('onnxruntime-tensorrt')", {"onnxruntime-tensorrt"}),
        ("f(name='openvino')", set()),
    ],
)
def test_a_name_in_any_form_of_a_question_is_seen(source: str, found: set[str]) -> None:
    assert set(compared(ast.parse(source))) == found
