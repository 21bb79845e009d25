"""The folder tree is the architecture: folders that can be taken in, short files, and tests that stand alone."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import deepcache_trt

TESTS = Path(__file__).parent
PACKAGE = Path(deepcache_trt.__file__).parent
FILES_OF_A_FOLDER = 14
LINES = 300


def files_under(root: Path) -> list[Path]:
    return sorted(root.rglob("*.py"))


def folders_under(root: Path) -> list[Path]:
    return sorted({file.parent for file in files_under(root)})


def shown(path: Path) -> str:
    return str(path.relative_to(TESTS if path.is_relative_to(TESTS) else PACKAGE.parent))


def imported_test_modules(source: str) -> Iterator[str]:
    """The test modules that `source` imports, inside functions too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module or ''}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name for name in names if any(part.startswith("test_") for part in name.split(".")))


@pytest.mark.parametrize("module", files_under(TESTS), ids=shown)
def test_what_tests_share_is_in_no_test_module(module: Path) -> None:
    """Such a module is loaded twice, and whoever changes one test changes another that it does not name."""
    imported = list(imported_test_modules(module.read_text(encoding="utf-8")))
    assert not imported, f"{shown(module)} imports {', '.join(imported)}; move what they share into a module beside"


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from tests.engines.store.test_store import Store", ["tests.engines.store.test_store.Store"]),
        ("from tests.engines.store import builds, test_store", ["tests.engines.store.test_store"]),
        ("import tests.engines.store.test_store as store", ["tests.engines.store.test_store"]),
        ("def f():\n    from tests import test_cli", ["tests.test_cli"]),
        ("from . import test_store", [".test_store"]),
        ("from tests.engines.graphs import Net\nimport pytest, tests.tiny", []),
    ],
)
def test_an_import_of_a_test_module_is_seen_in_any_form(source: str, found: list[str]) -> None:
    assert list(imported_test_modules(source)) == found


@pytest.mark.parametrize("folder", [*folders_under(PACKAGE), *folders_under(TESTS)], ids=shown)
def test_a_folder_can_be_taken_in_at_a_glance(folder: Path) -> None:
    files = len(list(folder.glob("*.py")))
    assert files <= FILES_OF_A_FOLDER, f"{shown(folder)} has {files} files, of {FILES_OF_A_FOLDER}; divide it by topic"


@pytest.mark.parametrize("file", [*files_under(PACKAGE), *files_under(TESTS)], ids=shown)
def test_a_file_can_be_read_at_a_sitting(file: Path) -> None:
    lines = len(file.read_text(encoding="utf-8").splitlines())
    assert lines <= LINES, f"{shown(file)} has {lines} lines, of {LINES}; divide it by what it does"
