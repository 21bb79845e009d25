"""What the pages say is there: links, files, names, commands and their options."""

import importlib
import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from deepcache_trt import cli
from deepcache_trt.engines import backends

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
COMMAND = "deepcache-trt"

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))

_FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"(?<=\n\n)(?: {4}.*\n)+")
_SPAN = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_NAME = re.compile(r"\bdeepcache_trt(?:\.\w+)+")
_FILE = re.compile(r"(?:\.ci|deepcache_trt|docs|examples|scripts|tests)/[\w./-]*|[\w-]+\.(?:md|toml|yml|txt)|setup\.py")
# Files that commands write, by the names that the pages give them.
_WRITTEN = {"cpu-check.json", "reuse.md", "results.md"}


def blocks(text: str) -> list[str]:
    """The code of a page that stands on lines of its own."""
    return _FENCE.findall(text) + _INDENTED.findall(_FENCE.sub("", text))


def spans(text: str) -> list[str]:
    """The code of a page that stands within lines."""
    return _SPAN.findall(_INDENTED.sub("", _FENCE.sub("", text)))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and MkDocs make them."""
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands(text: str) -> Iterator[list[str]]:
    """The command lines of a page, as words, without what follows a `#` or an ellipsis."""
    lines = [line for block in blocks(text) for line in block.replace("\\\n", " ").splitlines()]
    for line in [*lines, *spans(text)]:
        words = shlex.split(line.split("…")[0], comments=True) if line.split()[:1] == [COMMAND] else []
        if words[1:] and words[1] != "COMMAND":
            yield words


def complaint(words: list[str]) -> str | None:
    """What the app does not have of a command line, or None."""
    group: Any = get_command(cli.app)
    names = list(words[1:])
    while hasattr(group, "commands"):
        name = names.pop(0) if names else ""
        if name in ("", "--help", "--version"):
            return None
        if group.name != COMMAND and group.invoke_without_command and name.startswith("-"):
            break  # a command by its first word alone
        if name not in group.commands:
            return f"there is no command {name!r}"
        group = group.commands[name]
    known = {"--help", *(option for parameter in group.params for option in parameter.opts)}
    unknown = [name for name in names if name.startswith("--") and name.partition("=")[0] not in known]
    return f"{group.name} has no {', '.join(unknown)}" if unknown else None


def exists(name: str) -> bool:
    """Whether a dotted name is a module of the package, or an attribute of one."""
    head, *tail = name.split(".")
    while tail and importlib.util.find_spec(f"{head}.{tail[0]}"):
        head = f"{head}.{tail.pop(0)}"
        spec = importlib.util.find_spec(head)
        if spec is None or spec.submodule_search_locations is None:
            break
    found: Any = importlib.import_module(head) if tail else None
    for attribute in tail:
        found = getattr(found, attribute, None)
        if found is None:
            return False
    return True


def test_the_readme_is_short() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 160


@every_page
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for link in _LINK.findall(_FENCE.sub("", page.read_text(encoding="utf-8"))):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), f"{link} leads nowhere"
        assert not anchor or anchor in anchors(target), f"{link}: no such heading"


@every_page
def test_files_in_backticks_are_there(page: Path) -> None:
    for span in spans(page.read_text(encoding="utf-8")):
        if _FILE.fullmatch(span) and span not in _WRITTEN:
            assert (ROOT / span).exists(), f"there is no {span}"


@every_page
def test_names_of_the_package_are_there(page: Path) -> None:
    for name in set(_NAME.findall(page.read_text(encoding="utf-8"))) - {backends.ENTRY_POINTS}:
        assert exists(name), f"there is no {name}"


@every_page
def test_commands_and_their_options_are_those_of_the_app(page: Path) -> None:
    for words in commands(page.read_text(encoding="utf-8")):
        assert complaint(words) is None, f"{shlex.join(words)}: {complaint(words)}"


@every_page
def test_targets_of_make_are_there(page: Path) -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    text = page.read_text(encoding="utf-8")
    named = [re.match(r"\s*make ([\w-]+)", line) for block in blocks(text) for line in block.splitlines()]
    named += [re.fullmatch(r"make ([\w-]+)", span) for span in spans(text)]
    assert {found[1] for found in named if found} <= set(targets)


def test_every_command_is_on_the_page_of_commands() -> None:
    shown = {tuple(words[1:]) for words in commands((ROOT / "docs" / "commands.md").read_text(encoding="utf-8"))}
    for path in _paths(get_command(cli.app)):
        assert any(words[: len(path)] == path for words in shown), f"docs/commands.md has no {' '.join(path)}"


def _paths(group: Any) -> Iterator[tuple[str, ...]]:
    for name, command in group.commands.items():
        inner = [*_paths(command)] if hasattr(command, "commands") else [()]
        yield from (
            (name, *rest) for rest in [*inner, *([()] if getattr(command, "invoke_without_command", False) else [])]
        )


def test_every_example_is_on_the_page_of_examples() -> None:
    page = (ROOT / "docs" / "examples.md").read_text(encoding="utf-8")
    for script in (ROOT / "examples").glob("*.py"):
        assert f"(../examples/{script.name})" in page, f"docs/examples.md has no {script.name}"


def test_the_tables_of_backends_are_one_and_name_them_all() -> None:
    first, second = (_backend_table(page) for page in (README, ROOT / "docs" / "engines.md"))
    assert first == second
    assert {line.split("`")[1] for line in first[2:]} == {row.name for row in backends.probe_all()}


def _backend_table(page: Path) -> list[str]:
    table = re.search(r"^\| backend \|.*?(?=\n\n)", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert table
    return table[0].splitlines()


# The checks find what is wrong.


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("deepcache-trt build --model digits", None),
        ("deepcache-trt doctor  # --nothing", None),
        ("deepcache-trt --version", None),
        ("deepcache-trt", None),
        ("deepcache-trt biuld --model digits", "there is no command 'biuld'"),
        ("deepcache-trt build --modle digits", "build has no --modle"),
        ("deepcache-trt build --model=digits --sise=64", "build has no --sise=64"),
    ],
)
def test_a_wrong_command_is_found(line: str, wrong: str | None) -> None:
    for text in (f"`{line}`", f"Do:\n\n    {line}\n", f"```sh\n{line}\n```"):
        assert next(map(complaint, commands(text)), None) == wrong


@pytest.mark.parametrize(
    ("name", "there"),
    [
        ("deepcache_trt.runtime.plan", True),
        ("deepcache_trt.runtime.policies.deepcache.DeepCache.names", True),
        ("deepcache_trt.DeepCachePipeline", True),
        ("deepcache_trt.runtime.plans", False),
        ("deepcache_trt.runtime.plan.Nothing", False),
        ("deepcache_trt.runtime.policies.deepcache.DeepCache.nothing", False),
    ],
)
def test_a_wrong_name_is_found(name: str, there: bool) -> None:
    assert exists(name) == there
