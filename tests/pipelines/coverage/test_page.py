"""docs/pipelines.md is up to date, and the tests that it names are there."""

from pathlib import Path

from tests.pipelines.coverage.page import BESIDE, DOCUMENT, document


def test_the_page_of_the_docs_is_up_to_date() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == document(), "run: python -m tests.pipelines.coverage.page"


def test_what_it_names_is_there() -> None:
    assert all((Path(__file__).parents[1] / f"{test}.py").is_file() for _, test in BESIDE.values())
