"""The page in a real browser: type, draw, move a slider, compare, and see what is wrong."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("gradio")
playwright = pytest.importorskip("playwright.sync_api")

pytestmark = pytest.mark.slow

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")


@pytest.fixture(scope="module")
def url(store_root: Path) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "deepcache_trt.cli", "ui", "--store", str(store_root), "--port", str(port)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip()
            assert address == f"http://127.0.0.1:{port}"
            yield address
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("there is no Chromium")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Any, url: str) -> Iterator[Any]:
    opened = browser.new_page(viewport={"width": 1200, "height": 1100})
    opened.goto(url)
    opened.wait_for_selector("#draw")
    yield opened
    opened.close()


def drawn(page: Any, past: int) -> None:
    """Draw, and wait until it is in the history."""
    page.click("#draw")
    page.wait_for_function(f"document.querySelectorAll('#history img').length >= {past}", timeout=60_000)


def test_type_draw_move_a_slider_and_compare(page: Any) -> None:
    page.fill("#prompt textarea, #prompt input", "a handwritten five")
    page.fill("#steps input[type=number]", "12")
    drawn(page, 1)
    assert page.locator("#strip .call.full").count() == 4
    assert page.locator("#strip .call.cached").count() == 8
    assert "as fast" in page.inner_text("#cached-words")
    assert "plain diffusers" in page.inner_text("#plain-words")
    first = float(page.inner_text("#fidelity").split("PSNR ")[1].split()[0])
    assert "'a handwritten five'" in page.inner_text("#python")
    page.fill("#interval input[type=number]", "6")
    drawn(page, 2)
    assert page.locator("#strip .call.full").count() == 2
    assert float(page.inner_text("#fidelity").split("PSNR ")[1].split()[0]) < first
    picture = os.environ.get("DEEPCACHE_TRT_SCREENSHOT")
    if picture:
        page.screenshot(path=picture, full_page=True)


def test_a_bad_size_is_told_and_what_was_drawn_stays(page: Any) -> None:
    page.fill("#steps input[type=number]", "4")
    drawn(page, 1)
    page.fill("#size input, #size textarea", "13x64")
    page.click("#draw")
    page.wait_for_selector("#wrong [role=alert]", timeout=20_000)
    assert "width 13 is no multiple of 8" in page.inner_text("#wrong")
    assert page.locator("#cached img").count() == 1


def test_a_plan_file_can_be_pasted(page: Any) -> None:
    page.click("#policy input")
    page.click("text=a plan file")
    page.fill("#plan textarea", '{"policy": "deepcache", "cache_interval": 4, "skip_interval": 2}')
    page.fill("#steps input[type=number]", "8")
    drawn(page, 1)
    assert page.locator("#strip .call.skipped").count() > 0


def test_it_fits_on_a_phone(page: Any) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
