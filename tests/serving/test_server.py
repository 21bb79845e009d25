"""The server as it is started: on Ray, with the digits behind it, and replicas that are killed."""

import base64
import io
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

openai = pytest.importorskip("openai")
requests = pytest.importorskip("requests")
pytest.importorskip("ray.serve")

pytestmark = pytest.mark.slow

DOCS = Path(__file__).parents[2] / "docs" / "serving.md"
REPLICA = "ServeReplica:deepcache-trt:replica"


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def started(*words: object) -> Iterator[str]:
    """The address of a server, once it has told it."""
    command = [sys.executable, "-m", "deepcache_trt.cli", "serve", *map(str, words)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip()
            assert address.startswith("http://127.0.0.1:"), "it did not start"
            yield address
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0


@pytest.fixture(scope="module")
def url(store_root: Path) -> Iterator[str]:
    with started("--model", "digits", "--store", store_root, "--port", free_port()) as address:
        yield address


def ask(url: str, **body: Any) -> Any:
    return requests.post(f"{url}/v1/generate", json={"prompt": "a handwritten six", **body}, timeout=120)


def picture(answer: Any) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(answer.json()["images"][0]["b64_json"])))).astype(int)


def test_the_first_request_is_answered_within_a_minute(url: str, store_root: Path) -> None:
    """Of a second start: the engines are built."""
    begun = time.monotonic()
    with started("--model", "digits", "--store", store_root, "--port", free_port()) as address:
        assert ask(address).status_code == 200
        assert time.monotonic() - begun < 60


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("code", blocks("python"))
def test_examples_of_the_client_run(code: str, url: str) -> None:
    found: dict[str, Any] = {}
    exec(code.replace("http://127.0.0.1:8000", url), found)
    assert len(found["found"].data) == 2


@pytest.mark.parametrize("code", blocks("bash"))
def test_examples_of_curl_run(code: str, url: str) -> None:
    text = subprocess.run(
        ["bash", "-c", code.replace("http://127.0.0.1:8000", url)], check=True, capture_output=True, text=True
    ).stdout
    assert "b64_json" in text
    assert ('"kind": "shallow"' in text) == ('"stream": true' in code)


@pytest.mark.parametrize("code", blocks("yaml"))
def test_rays_own_file_starts_the_same(code: str, tmp_path: Path, store_root: Path) -> None:
    port = free_port()
    path = tmp_path / "serve.yaml"
    path.write_text(code.replace("8000", str(port)).replace("args:", f"args:\n      store: {store_root}"))
    with started("--config", path) as address:
        assert address.endswith(f":{port}")
        assert ask(address, steps=3).json()["images"][0]["steps"] == {"full": 1, "cached": 2, "skipped": 0}


def test_a_killed_replica_loses_no_request(url: str) -> None:
    alone = {seed: picture(ask(url, seed=seed, steps=150)) for seed in range(6)}

    def kill() -> None:
        time.sleep(0.7)
        (replica,) = [p for p in psutil.process_iter(["cmdline"]) if REPLICA in " ".join(p.info["cmdline"] or ())]
        os.kill(replica.pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with ThreadPoolExecutor(6) as threads:
        answers = list(threads.map(lambda seed: ask(url, seed=seed, steps=150), range(6)))
    killer.join()
    for seed, answer in enumerate(answers):
        assert answer.status_code == 200, answer.text
        assert np.abs(picture(answer) - alone[seed]).max() <= 1


def test_clients_of_all_kinds_get_their_own_pictures_and_memory_stays(url: str) -> None:
    """A minute of eight clients with different sizes, seeds and plans."""
    sizes, intervals = ("64x64", "48x64"), (1, 3)
    alone = {
        (seed, size, interval): picture(ask(url, seed=seed, size=size, interval=interval, steps=20))
        for seed in range(4)
        for size in sizes
        for interval in intervals
    }
    until, wrong, drawn = time.monotonic() + 60, list[Any](), list[int]()

    def memory() -> int:
        found = [p for p in psutil.process_iter(["cmdline"]) if REPLICA in " ".join(p.info["cmdline"] or ())]
        return sum(int(each.memory_info().rss) for each in found)

    def client(number: int) -> None:
        dice = np.random.default_rng(number)
        while time.monotonic() < until:
            seed, size, interval = int(dice.integers(4)), sizes[dice.integers(2)], intervals[dice.integers(2)]
            answer = ask(url, seed=seed, size=size, interval=interval, steps=20)
            drawn.append(1)
            near = answer.status_code == 200 and np.abs(picture(answer) - alone[seed, size, interval]).max() <= 1
            if not near:
                wrong.append((seed, size, interval, answer.status_code))

    with ThreadPoolExecutor(8) as threads:
        running = [threads.submit(client, number) for number in range(8)]
        time.sleep(25)
        before = memory()
        for each in running:
            each.result()
    assert not wrong
    assert len(drawn) > 50
    assert memory() < 1.15 * before
